"""An epoch holds every row once; files and rows are mixed and shared among ranks."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_kinetics700.training.ordering import Even, order_epoch, share_places, shuffle_within

ROWS = np.arange(1000, dtype=np.int64)
FILES = (ROWS // 100).astype(np.int32)


@given(st.integers(0, 200), st.integers(1, 9))
def test_ranks_share_every_place_once(n_rows: int, world_size: int) -> None:
    """Without `even`, the shares of all ranks are all places, each once, in order."""
    shares = [
        share_places(n_rows, rank=rank, world_size=world_size, even=None)
        for rank in range(world_size)
    ]
    assert [place for share in shares for place in share] == list(range(n_rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.integers(0, 200), st.integers(1, 9), st.sampled_from(["pad", "drop"]))
def test_even_shares_are_of_one_size(n_rows: int, world_size: int, even: Even) -> None:
    """`pad` repeats fewer rows than there are ranks, `drop` leaves out fewer; all have as many."""
    shares = [
        share_places(n_rows, rank=rank, world_size=world_size, even=even)
        for rank in range(world_size)
    ]
    assert len({len(share) for share in shares}) == 1
    n_read = sum(map(len, shares))
    assert abs(n_read - n_rows) < world_size
    assert n_read >= n_rows if even == "pad" else n_read <= n_rows


def test_an_epoch_keeps_files_together() -> None:
    """Rows of one file follow each other in their order; files come in another order."""
    ordered = order_epoch(ROWS, FILES, seed=(0, 0))
    assert sorted(ordered) == list(ROWS)
    pieces = ordered.reshape(10, 100)
    assert all((np.diff(piece) == 1).all() for piece in pieces)
    assert list(pieces[:, 0]) != sorted(pieces[:, 0])


def test_each_epoch_has_its_own_order_of_files() -> None:
    """Epochs differ, and the same epoch is the same again."""
    orders = [tuple(order_epoch(ROWS, FILES, seed=(0, epoch))) for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]


@given(st.integers(0, 500), st.integers(1, 700), st.integers(0, 99))
def test_shuffling_keeps_every_row_near_its_place(n_rows: int, size: int, seed: int) -> None:
    """Every row comes once, none later than `buffer_size` places behind where it was read."""
    order = shuffle_within(ROWS[:n_rows], buffer_size=size, seed=(seed,))
    assert Counter(order.rows.tolist()) == Counter(range(n_rows))
    assert (order.rows == order.places).all()
    assert (np.arange(n_rows) - order.places <= size).all()


def test_a_buffer_as_large_as_all_mixes_all() -> None:
    """With a buffer far larger than the rows there is no order left of theirs."""
    order = shuffle_within(ROWS, buffer_size=100_000, seed=(0,))
    assert abs(np.corrcoef(np.arange(1000), order.rows)[0, 1]) < 0.1


@pytest.mark.parametrize("size", [100, 1000])
def test_what_is_held_is_less_than_the_buffer(size: int) -> None:
    """Reading from start to end, fewer rows wait to be yielded than `buffer_size`."""
    order = shuffle_within(np.arange(20_000), buffer_size=size, seed=(1,))
    n_read = np.maximum.accumulate(order.places) + 1
    assert (n_read - np.arange(len(n_read))).max() <= size
