"""A state resumes at the exact next sample, on any number of ranks, and only where it belongs."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_kinetics700 import Batches, batches
from clip_kinetics700.training.ordering import Even
from tests.support.datasets.batched import keys_of
from tests.support.datasets.layouts import make_samples, write_dataset, write_index

N_SAMPLES = 43
KEYS = [f"vid_{number:09d}" for number in range(N_SAMPLES)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """43 samples of train in five tars, as many of validation, with an index."""
    directory = tmp_path_factory.mktemp("states") / "dataset"
    samples = make_samples({"train": N_SAMPLES, "validation": N_SAMPLES})
    return write_index(write_dataset(directory, samples, samples_per_shard=10))


def make_ranks(dataset: Path, world_size: int, *, even: Even) -> list[Batches]:
    """Return the batches of every rank."""
    options: dict[str, Any] = {"batch_size": 3, "shuffle": True, "buffer_size": 15, "even": even}
    return [
        batches(dataset, rank=rank, world_size=world_size, **options) for rank in range(world_size)
    ]


def read_on(
    dataset: Path, steps: list[tuple[int, int]], *, even: Even, gives_all: bool
) -> tuple[list[str], list[Batches]]:
    """Read an epoch by worlds of several sizes, one after the other, a few batches each."""
    read: list[str] = []
    states: list[Any] = []
    ranks: list[Batches] = []
    for world_size, n_batches in steps:
        ranks = make_ranks(dataset, world_size, even=even)
        for rank in ranks:
            if states:
                rank.load_state_dict(states if gives_all else states[0])
                rank.set_epoch(0)
            read += keys_of(rank, n_batches)
        states = json.loads(json.dumps([rank.state_dict() for rank in ranks]))
    return read, ranks


STEPS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=3)


@pytest.mark.filterwarnings("ignore:of .* ranks some have")
@settings(max_examples=25, deadline=None)
@given(steps=STEPS, last=st.integers(1, 4), gives_all=st.booleans())
def test_other_ranks_share_what_is_left(
    dataset: Path, steps: list[tuple[int, int]], last: int, *, gives_all: bool
) -> None:
    """However often the number of ranks changes, an epoch has each sample once, the next too."""
    read, ranks = read_on(dataset, [*steps, (last, 99)], even=None, gives_all=gives_all)
    assert sorted(read) == KEYS
    assert sorted(key for rank in ranks for key in keys_of(rank)) == KEYS


@pytest.mark.parametrize(("even", "fewest", "most"), [("pad", 43, 46), ("drop", 39, 43)])
def test_ranks_that_step_together_share_what_is_left(
    dataset: Path, even: Even, fewest: int, most: int
) -> None:
    """`pad` and `drop` repeat and leave out no more than each number of ranks asks for."""
    read, ranks = read_on(dataset, [(2, 3), (3, 2), (4, 99)], even=even, gives_all=False)
    assert fewest <= len(read) <= most
    assert (len(set(read)) == N_SAMPLES) == (even == "pad")
    assert max(Counter(read).values()) <= (2 if even == "pad" else 1)
    assert len({len(rank) for rank in ranks}) == 1


def test_a_state_behind_the_last_batch_goes_on_with_the_next_epoch(dataset: Path) -> None:
    """A loop bounded by `len` that resumes there reads the next epoch, whole."""
    (run,) = make_ranks(dataset, 1, even=None)
    keys_of(run, len(run))
    (resumed,) = make_ranks(dataset, 1, even=None)
    resumed.load_state_dict(run.state_dict())
    assert keys_of(resumed, len(resumed)) == keys_of(run)


def test_later_epochs_are_whole(dataset: Path) -> None:
    """Only the epoch of the state is shortened, also where it is gone back to."""
    (run,) = make_ranks(dataset, 1, even=None)
    first = keys_of(run)
    run.set_epoch(0)
    keys_of(run, 2)
    (resumed,) = make_ranks(dataset, 1, even=None)
    resumed.load_state_dict(run.state_dict())
    assert keys_of(resumed) == first[6:]
    assert sorted(keys_of(resumed)) == KEYS
    resumed.set_epoch(0)
    assert keys_of(resumed) == first


def test_a_state_that_was_loaded_is_the_state(dataset: Path) -> None:
    """Saving again before anything is read loses nothing."""
    (run,) = make_ranks(dataset, 1, even=None)
    keys_of(run, 2)
    (resumed,) = make_ranks(dataset, 1, even=None)
    resumed.load_state_dict(run.state_dict())
    assert resumed.state_dict() == run.state_dict()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"split": "validation"}, "the state has split 'train', these batches 'validation'"),
        ({"max_frames": 2}, "the state has max_frames None, these batches 2"),
        ({"classes": ["massaging person's head"]}, "the state has n_samples 43, these batches 15"),
        ({"seed": 1}, "the state has seed 0, these batches 1"),
    ],
)
def test_a_state_of_another_selection_is_refused(
    dataset: Path, options: dict[str, Any], reason: str
) -> None:
    """A state says of which samples and frames it is."""
    state = batches(dataset).state_dict()
    with pytest.raises(ValueError, match=reason):
        batches(dataset, **options).load_state_dict(state)


def test_states_of_ranks_belong_together(dataset: Path) -> None:
    """States of several ranks are of each rank of one run at one time."""
    states = [rank.state_dict() for rank in make_ranks(dataset, 3, even=None)]
    (alone,) = make_ranks(dataset, 1, even=None)
    with pytest.raises(ValueError, match="states of ranks 0, 1 of a world of 3: give one of each"):
        alone.load_state_dict(states[:2])
    states[1]["epoch"] = 4
    with pytest.raises(ValueError, match="not of one epoch of one run"):
        alone.load_state_dict(states)
