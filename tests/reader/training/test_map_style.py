"""What `open` gives is a map-style dataset to torch: loaders, samplers and workers take it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, Subset

import clip_kinetics700
from clip_kinetics700 import collate
from tests.support.datasets.batched import keys_of
from tests.support.datasets.layouts import make_samples, write_dataset, write_index

SAMPLES = {"train": 22, "validation": 5}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with an index, read by all tests."""
    root = tmp_path_factory.mktemp("map")
    return write_index(write_dataset(root / "d", make_samples(SAMPLES), parquet=False))


def load(dataset: Any, **options: Any) -> Any:
    """Return a DataLoader of padded batches."""
    return DataLoader(dataset, collate_fn=collate, **options)


def test_ranks_share_an_epoch(directory: Path) -> None:
    """With a DistributedSampler three ranks read each sample once, in another order each epoch."""
    train = clip_kinetics700.open(directory)["train"]
    orders = []
    options: dict[str, Any] = {"num_replicas": 3, "drop_last": True}
    for epoch in range(2):
        read = []
        for rank in range(3):
            sampler: Any = DistributedSampler(train, rank=rank, **options)
            sampler.set_epoch(epoch)
            read += keys_of(load(train, batch_size=4, sampler=sampler))
        assert len(set(read)) == len(read) == 21
        assert set(read) <= set(train.keys())
        orders.append(read)
    assert orders[0] != orders[1]


def test_shuffled_batches_are_the_samples(directory: Path) -> None:
    """A shuffled epoch has each sample once, embeddings under its mask and zeros behind."""
    train = clip_kinetics700.open(directory)["train"]
    keys = []
    for batch in load(train, batch_size=5, shuffle=True):
        for row, key in enumerate(batch["keys"]):
            array = train[key].embeddings
            n_frames = int(batch["mask"][row].sum())
            assert n_frames == len(array)
            np.testing.assert_array_equal(batch["embeddings"][row, :n_frames], array)
            assert not batch["embeddings"][row, n_frames:].any()
        keys += batch["keys"]
    assert keys != train.keys()
    assert sorted(keys) == sorted(train.keys())


def test_a_batch_is_read_at_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader asks for the places of a batch in one call, which costs one reading of blocks."""
    train = clip_kinetics700.open(directory)["train"]
    asked: list[int] = []
    read = type(train).read_rows

    def count(self: Any, rows: Any) -> Any:
        asked.append(len(rows))
        return read(self, rows)

    monkeypatch.setattr(type(train), "read_rows", count)
    sampler = BatchSampler(RandomSampler(train), batch_size=11, drop_last=False)
    for loader in (
        load(train, batch_sampler=sampler),
        load(Subset(train, range(22)), batch_size=11),
    ):
        assert len(keys_of(loader)) == 22
    assert asked == [11] * 4


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_read_the_same_batches(directory: Path, method: str) -> None:
    """Persistent workers give, in two epochs, the batches of one process."""
    train = clip_kinetics700.open(directory)["train"]
    sampler: Any = DistributedSampler(train, num_replicas=1, rank=0)
    workers = {"num_workers": 2, "persistent_workers": True, "multiprocessing_context": method}
    loaders = [load(train, batch_size=4, sampler=sampler, **more) for more in ({}, workers)]
    for epoch in range(2):
        sampler.set_epoch(epoch)
        alone, shared = map(keys_of, loaders)
        assert alone == shared
        assert sorted(alone) == sorted(train.keys())
