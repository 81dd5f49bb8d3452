"""Collating pads and cuts frames, and makes masks and batches of rows of `datasets`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clip_kinetics700 import collate, load_dataset
from clip_kinetics700.training.collate import BatchRow, FramePolicy, cut_frames, make_batch
from tests.support.datasets.layouts import make_sample, make_samples, write_dataset

RNG = np.random.default_rng(0)


def frames(n_frames: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
    """Return embeddings whose first column is the number of the frame."""
    array = np.zeros((n_frames, 4), np.float16)
    array[:, 0] = np.arange(n_frames)
    return array


def as_row(embeddings: np.ndarray[tuple[int, ...], np.dtype[np.float16]]) -> BatchRow:
    """Return embeddings with the rest that a batch needs."""
    return BatchRow(embeddings, caption="", label_id=0, key="a")


def test_padding_is_zeros_behind_the_frames() -> None:
    """The mask is True for frames and False for the zeros behind them."""
    batch = make_batch([as_row(frames(3) + 1), as_row(frames(1) + 1)], dtype="float32")
    assert batch["embeddings"].shape == (2, 3, 4)
    assert batch["mask"].tolist() == [[True, True, True], [True, False, False]]
    assert not batch["embeddings"][~batch["mask"]].any()
    assert batch["embeddings"][batch["mask"]].all()


@pytest.mark.parametrize("lengths", [[2, 2], [3, 1], [0, 2]])
def test_float16_is_bit_exact(lengths: list[int]) -> None:
    """float16 batches hold the stored bits, float32 ones the same numbers."""
    arrays = [RNG.standard_normal((n, 4)).astype(np.float16) for n in lengths]
    halves = make_batch([as_row(array) for array in arrays], dtype="float16")
    floats = make_batch([as_row(array) for array in arrays], dtype="float32")
    assert halves["embeddings"].dtype == torch.float16
    for row, array in enumerate(arrays):
        assert halves["embeddings"][row, : len(array)].numpy().tobytes() == array.tobytes()
    assert torch.equal(halves["embeddings"].float(), floats["embeddings"])


def test_sample_without_frames_is_all_padding() -> None:
    """A batch of samples without frames has one masked frame, so that no dimension is 0."""
    batch = make_batch([as_row(frames(0))], dtype="float32")
    assert batch["embeddings"].shape == (1, 1, 4)
    assert not batch["mask"].any()


@pytest.mark.parametrize(
    ("policy", "kept"), [("truncate", [0, 1, 2]), ("uniform", [1, 5, 8]), ("random", None)]
)
def test_frame_policies(policy: FramePolicy, kept: list[int] | None) -> None:
    """The first frames, the middles of three pieces, or a window of neighbours."""
    numbers = cut_frames(frames(10), 3, policy, np.random.default_rng(0))[:, 0].tolist()
    assert numbers == (kept or [numbers[0], numbers[0] + 1, numbers[0] + 2])


def test_random_windows_reach_both_ends() -> None:
    """Every window there is comes at some time, the first and the last one included."""
    begins = {cut_frames(frames(6), 4, "random", RNG)[0, 0] for _ in range(200)}
    assert begins == {0, 1, 2}


@given(st.integers(0, 40), st.integers(1, 20), st.sampled_from(["truncate", "uniform", "random"]))
def test_cut_samples_keep_their_order(n: int, max_frames: int, policy: FramePolicy) -> None:
    """At most `max_frames` are kept, in order and none twice; shorter samples are left alone."""
    numbers = cut_frames(frames(n), max_frames, policy, RNG)[:, 0].tolist()
    assert len(numbers) == min(n, max_frames)
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", [None, "numpy", "torch"])
def test_collate_takes_rows_of_datasets(
    tmp_path: Path, kind: str | None, *, streaming: bool
) -> None:
    """Rows in every format, streamed or not, give the batch that the samples give."""
    samples = make_samples({"train": 6})
    directory = write_dataset(tmp_path / "dataset", samples)
    cache = str(tmp_path / "cache")
    rows = load_dataset(directory, "train", streaming=streaming, cache_dir=cache).with_format(kind)
    assert_equal(collate(list(rows)), collate(samples["train"]))


def assert_equal(batch: Any, expected: Any) -> None:
    """Compare two batches, name by name."""
    assert list(batch) == list(expected)
    for name, value in expected.items():
        same = torch.equal(batch[name], value) if torch.is_tensor(value) else batch[name] == value
        assert same, name


def test_missing_labels_are_minus_one() -> None:
    """A sample without a label has the label id -1."""
    assert collate([make_sample(1), make_sample(2)])["label_ids"].tolist() == [1, -1]


def test_rows_without_any_frame_are_refused() -> None:
    """Rows of `datasets` that hold no frame do not tell how wide embeddings are."""
    row = {"embeddings": [], "caption": "", "meta": {"key": "a", "label_id": None}}
    with pytest.raises(ValueError, match="none of the 1 rows has a frame"):
        collate([row])


def test_batches_are_joined() -> None:
    """Several batches become the one that their samples would be."""
    samples = make_samples({"train": 9})["train"]
    joined = collate([collate(samples[:4]), collate(samples[4:5]), collate(samples[5:])])
    right = collate(samples)
    for name in ("embeddings", "mask", "label_ids"):
        assert torch.equal(joined[name], right[name])
    assert (joined["captions"], joined["keys"]) == (right["captions"], right["keys"])


def test_columns_are_left_out() -> None:
    """A loop that takes tensors alone gets no texts."""
    batch = collate(make_samples({"train": 2})["train"], columns=["embeddings", "label_ids"])
    assert set(batch) == {"embeddings", "label_ids"}
