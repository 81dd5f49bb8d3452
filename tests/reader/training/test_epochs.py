"""Every iteration is the next epoch, whole, for whichever process and rank reads it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from clip_kinetics700 import Batches, batches
from clip_kinetics700.training.epochs import Begun, Epochs
from tests.support.datasets.batched import keys_of
from tests.support.datasets.layouts import make_samples, write_dataset, write_index

N_SAMPLES = 43
OPTIONS: dict[str, Any] = {"batch_size": 4, "shuffle": True, "buffer_size": 15}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """43 samples of train in five tars, with an index."""
    directory = tmp_path_factory.mktemp("epochs") / "dataset"
    samples = make_samples({"train": N_SAMPLES})
    return write_index(write_dataset(directory, samples, samples_per_shard=10))


@pytest.fixture
def train(dataset: Path) -> Batches:
    """Batches that nobody has read."""
    return batches(dataset, **OPTIONS)


def right_epoch(dataset: Path, epoch: int) -> list[str]:
    """Return the keys of an epoch that was asked for by its number."""
    train = batches(dataset, **OPTIONS)
    train.set_epoch(epoch)
    return keys_of(train)


def test_a_loop_bounded_by_the_length_moves_on(dataset: Path, train: Batches) -> None:
    """Loops that never ask for more than `len` batches read epoch after epoch."""
    epochs = [keys_of(train, len(train)) for _ in range(3)]
    assert epochs == [right_epoch(dataset, number) for number in range(3)]


def test_an_epoch_ends_with_its_last_batch(train: Batches) -> None:
    """Behind the last batch, the epoch that is read next is the next one."""
    iterator = iter(train)
    keys_of(iterator, len(train) - 1)
    assert train.epoch == 0
    next(iterator)
    assert train.epoch == 1


def test_an_iterator_that_nobody_reads_is_no_epoch(dataset: Path, train: Batches) -> None:
    """Only a batch that is asked for begins an epoch."""
    iter(train)
    assert keys_of(train) == right_epoch(dataset, 0)


def read_with_workers(train: Batches, *, sets_epoch: bool, **options: Any) -> list[list[str]]:
    """Read four epochs, the first after one batch and the third after five left early."""
    loader: DataLoader[Any] = DataLoader(train, batch_size=None, num_workers=2, **options)
    read = []
    for epoch, n_batches in enumerate((1, None, 5, None)):
        # Programs that want the same numbers each epoch do this.
        torch.manual_seed(0)
        if sets_epoch:
            train.set_epoch(epoch)
        read.append(keys_of(loader, n_batches))
    return read


@pytest.mark.parametrize("sets_epoch", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("persistent", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_workers_that_are_left_early_read_the_next_epoch(
    dataset: Path, train: Batches, *, sets_epoch: bool, persistent: bool
) -> None:
    """Workers agree on the epoch, whether or not the one before was left and they live on."""
    options = {"persistent_workers": persistent, "multiprocessing_context": "forkserver"}
    read = read_with_workers(train, sets_epoch=sets_epoch, **options)
    for number, keys in enumerate(read):
        assert keys == right_epoch(dataset, number)[: len(keys)]
    assert [len(keys) for keys in read] == [4, N_SAMPLES, 20, N_SAMPLES]
    if not sets_epoch:
        # Workers read ahead, so this process cannot say how far the loop is.
        with pytest.raises(RuntimeError, match="take the state of a StatefulDataLoader, or give"):
            train.state_dict()
        assert train.state_dict(n_batches=3)["next_batch"] == 3


def test_the_rank_is_asked_for_when_reading_begins(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches that were made before torchrun's variables are known read this rank's share."""
    ranks = [batches(dataset, batch_size=4, even="drop") for _ in range(2)]
    monkeypatch.setenv("WORLD_SIZE", "2")
    read = []
    for rank, train in enumerate(ranks):
        monkeypatch.setenv("RANK", str(rank))
        read.append(keys_of(train))
    assert [len(keys) for keys in read] == [21, 21]
    assert not set(read[0]) & set(read[1])


def test_a_world_that_changes_is_an_error(train: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading as one of one and then as one of two would give samples twice."""
    iterator = iter(train)
    next(iterator)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(RuntimeError, match="first read as rank 0 of 1, and this is now rank 1 of"):
        next(iterator)
    with pytest.raises(RuntimeError, match="first read as rank 0 of 1"):
        next(iter(train))


@pytest.mark.parametrize(("rank", "size"), [("x", "2"), ("2", "2")])
def test_a_rank_that_cannot_be_is_refused(
    train: Batches, monkeypatch: pytest.MonkeyPatch, rank: str, size: str
) -> None:
    """Variables that name no rank of a world are named."""
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(ValueError, match=f"RANK={rank} and WORLD_SIZE={size} in the environment"):
        next(iter(train))


def test_ranks_of_other_numbers_of_batches_are_warned_of(dataset: Path) -> None:
    """Whoever reads every sample exactly once hears which ranks would wait for others."""
    train = batches(dataset, batch_size=2, even=None, rank=0, world_size=4)
    with pytest.warns(UserWarning, match="of 4 ranks some have 6 batches and some 5: .* for ever"):
        keys_of(train)


def test_a_copy_has_epochs_of_its_own(dataset: Path, train: Batches) -> None:
    """Reading a copy does not move the original on."""
    keys_of(copy.deepcopy(train))
    assert keys_of(train) == right_epoch(dataset, 0)


def test_what_a_reader_began_is_one_word() -> None:
    """A word says all that a reader has begun, at the ends of every range."""
    for begun in (Begun(0, 0, 0, 0), Begun(2047, 2**20 - 1, 4095, 2**20 - 1)):
        assert Begun.unpack(begun.pack()) == begun
        assert begun.pack() < 2**63


def test_epochs_are_set_more_often_than_there_are_numbers() -> None:
    """The number of a set comes round without bringing back what was begun long ago."""
    epochs = Epochs()
    epochs.set(5)
    assert epochs.begin() == 5
    for number in range(2048):
        epochs.set(number)
    assert epochs.begin() == 2047


@pytest.mark.parametrize("epoch", [-1, 2**20])
def test_an_epoch_that_cannot_be_is_refused(train: Batches, epoch: int) -> None:
    """An epoch is a number from 0 on."""
    with pytest.raises(ValueError, match=f"epoch must be 0 to 1048575, got {epoch}"):
        train.set_epoch(epoch)
