"""Batches for training give every sample once, whatever reads them, and resume anywhere."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

import clip_kinetics700
from clip_kinetics700 import DamageError, batches, collate, load_dataset
from tests.support.datasets.batched import keys_of
from tests.support.datasets.layouts import make_samples, write_dataset, write_index

N_SAMPLES = 103
KEYS = [f"vid_{number:09d}" for number in range(N_SAMPLES)]
# Workers must not be forked: torch has run, and a forked child of its threads hangs.
WORKERS: dict[str, Any] = {"batch_size": None, "multiprocessing_context": "forkserver"}
# torchdata 0.11 calls what torch 2.13 has deprecated.
TORCHDATA_IS_OLDER = "ignore:'set_vital' is deprecated:UserWarning"
MORE_WORKERS_THAN_CORES = "ignore:This DataLoader will create:UserWarning"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """103 samples of train in four tars, and 5 of validation, with an index."""
    samples = make_samples({"train": N_SAMPLES, "validation": 5})
    directory = write_dataset(
        tmp_path_factory.mktemp("batches") / "dataset", samples, samples_per_shard=30
    )
    return write_index(directory)


def test_batches_hold_the_samples_in_order(dataset: Path) -> None:
    """Without shuffling, batches hold every sample's embeddings, caption and label in order."""
    read = list(batches(dataset, batch_size=10, dtype="float16"))
    assert [len(batch["keys"]) for batch in read] == [10] * 10 + [3]
    samples = list(clip_kinetics700.open(dataset).splits["train"])
    expected = [collate(samples[at : at + 10], dtype="float16") for at in range(0, 103, 10)]
    for batch, right in zip(read, expected, strict=True):
        assert torch.equal(batch["embeddings"], right["embeddings"])
        assert torch.equal(batch["label_ids"], right["label_ids"])
        assert (batch["captions"], batch["keys"]) == (right["captions"], right["keys"])


@pytest.mark.parametrize("drop_last", [False, True])
def test_length_is_the_number_of_batches(dataset: Path, *, drop_last: bool) -> None:
    """`len` counts what iteration yields, with or without the last short batch."""
    read = batches(dataset, batch_size=10, drop_last=drop_last)
    assert len(read) == len(list(read)) == (10 if drop_last else 11)


def test_shuffled_epochs_hold_every_sample_once(dataset: Path) -> None:
    """Each epoch is another order of all samples; the same seed and epoch is the same order."""
    read = batches(dataset, batch_size=8, shuffle=True, buffer_size=20)
    epochs = [keys_of(read) for _ in range(3)]
    assert all(sorted(epoch) == KEYS for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    read.set_epoch(1)
    assert keys_of(read) == epochs[1]
    other_seed = batches(dataset, batch_size=8, shuffle=True, buffer_size=20, seed=1)
    assert keys_of(other_seed) != epochs[0]


def test_peeking_loses_nothing(dataset: Path) -> None:
    """Taking one batch and starting over is the next epoch, whole."""
    read = batches(dataset, shuffle=True)
    next(iter(read))
    assert sorted(keys_of(read)) == KEYS


@pytest.mark.filterwarnings(MORE_WORKERS_THAN_CORES)
@pytest.mark.parametrize("n_workers", [0, 1, 3, pytest.param(5, marks=pytest.mark.slow)])
def test_workers_change_nothing(dataset: Path, n_workers: int) -> None:
    """Any number of workers, more than tars or none, gives the very same batches in order."""
    read = batches(dataset, batch_size=16, shuffle=True, max_frames=2, frame_policy="random")
    expected = list(read)
    read.set_epoch(0)
    options = WORKERS if n_workers else {"batch_size": None}
    loaded = list(DataLoader(read, num_workers=n_workers, **options))
    assert keys_of(loaded) == keys_of(expected)
    for batch, right in zip(loaded, expected, strict=True):
        assert torch.equal(batch["embeddings"], right["embeddings"])


@pytest.mark.filterwarnings("ignore:of .* ranks some have")
@pytest.mark.parametrize("world_size", [1, 2, 5, 120])
def test_ranks_share_every_sample_once(dataset: Path, world_size: int) -> None:
    """Over any number of ranks, more than samples too, each sample comes exactly once."""
    ranks = [
        batches(dataset, shuffle=True, rank=rank, world_size=world_size, batch_size=7, even=None)
        for rank in range(world_size)
    ]
    assert sorted(key for rank in ranks for key in keys_of(rank)) == KEYS


@pytest.fixture(scope="module")
def stepped(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two gloo ranks read and summed with each way to be even; both end."""
    meeting = tmp_path_factory.mktemp("ranks") / "meeting"
    command = [sys.executable, "-m", "tests.support.processes.ranks", str(dataset), str(meeting)]
    ranks = [
        subprocess.Popen([*command, str(rank), "2"], stdout=subprocess.PIPE) for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


@pytest.mark.parametrize("even", ["pad", "drop"])
def test_ranks_that_step_together_end_together(stepped: list[dict[str, Any]], even: str) -> None:
    """Two gloo ranks that all-reduce each step finish, with as many samples in each step."""
    first, second = (rank[even] for rank in stepped)
    assert first["sums"] == second["sums"]
    assert len(first["keys"]) == len(second["keys"]) == (52 if even == "pad" else 51)
    counts = Counter(first["keys"] + second["keys"])
    assert len(counts) == (103 if even == "pad" else 102)
    assert counts.total() == (104 if even == "pad" else 102)


@pytest.mark.parametrize("n_read", [0, 1, 4, 7])
def test_state_resumes_at_the_next_sample(dataset: Path, n_read: int) -> None:
    """A state that was saved and loaded elsewhere goes on where the run was, epochs after too."""
    options: dict[str, Any] = {"batch_size": 16, "shuffle": True, "buffer_size": 30}
    run = batches(dataset, **options)
    keys_of(run)
    iterator = iter(run)
    for _ in range(n_read):
        next(iterator)
    state = json.loads(json.dumps(run.state_dict()))
    rest = keys_of(iterator) + keys_of(run)
    resumed = batches(dataset, **options)
    resumed.load_state_dict(state)
    resumed.set_epoch(1)
    assert keys_of(resumed) + keys_of(resumed) == rest


def test_state_of_other_batches_is_refused(dataset: Path) -> None:
    """A state cannot be loaded where it would mean other samples; it says what differs."""
    state = batches(dataset, batch_size=16).state_dict()
    with pytest.raises(ValueError, match="the state has batch_size 16, these batches 8"):
        batches(dataset, batch_size=8).load_state_dict(state)


@pytest.mark.filterwarnings(TORCHDATA_IS_OLDER)
@pytest.mark.parametrize("n_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_stateful_dataloader_resumes(dataset: Path, n_workers: int) -> None:
    """The StatefulDataLoader of torchdata over our batches resumes at the exact next batch."""

    def make_loader() -> Any:
        options = WORKERS if n_workers else {"batch_size": None}
        read = batches(dataset, batch_size=16, shuffle=True)
        return StatefulDataLoader(read, num_workers=n_workers, **options)

    loader = make_loader()
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    state = loader.state_dict()
    rest = keys_of(iterator)
    resumed = make_loader()
    resumed.load_state_dict(state)
    assert keys_of(resumed) == rest
    assert len(rest) == N_SAMPLES - 48


@pytest.mark.parametrize("n_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_plain_streaming_goes_through_a_dataloader(
    dataset: Path, tmp_path: Path, n_workers: int
) -> None:
    """Streaming `load_dataset` with our `collate` in a DataLoader yields every sample once."""
    rows = load_dataset(dataset, "train", streaming=True, cache_dir=str(tmp_path))
    options = {**WORKERS, "batch_size": 16} if n_workers else {"batch_size": 16}
    loader = DataLoader(rows, num_workers=n_workers, collate_fn=collate, **options)
    assert sorted(keys_of(loader)) == KEYS


@pytest.mark.parametrize("classes", [None, ["massaging person's head"]])
def test_nodes_share_a_stream(dataset: Path, tmp_path: Path, classes: list[str] | None) -> None:
    """`split_dataset_by_node` gives every sample of a selection to exactly one node."""
    rows = load_dataset(dataset, "train", streaming=True, cache_dir=str(tmp_path), classes=classes)
    nodes = [split_dataset_by_node(rows, rank=rank, world_size=3) for rank in range(3)]
    read = [row["meta"]["key"] for node in nodes for row in node]
    assert sorted(read) == (KEYS if classes is None else KEYS[::3])


@pytest.mark.filterwarnings(TORCHDATA_IS_OLDER)
def test_plain_streaming_resumes_in_a_stateful_dataloader(dataset: Path, tmp_path: Path) -> None:
    """A stream of `datasets` in a StatefulDataLoader resumes at its next sample."""

    def make_loader() -> Any:
        rows = load_dataset(dataset, "train", streaming=True, cache_dir=str(tmp_path))
        return StatefulDataLoader(rows, batch_size=16, collate_fn=collate)

    loader = make_loader()
    iterator = iter(loader)
    read = keys_of([next(iterator) for _ in range(3)])
    resumed = make_loader()
    resumed.load_state_dict(loader.state_dict())
    assert read + keys_of(resumed) == KEYS


def test_map_style_goes_through_a_dataloader(dataset: Path) -> None:
    """A shuffling DataLoader takes what `open` returns as it is, a map-style dataset."""
    loader: DataLoader[Any] = DataLoader(
        clip_kinetics700.open(dataset).splits["train"],  # type: ignore[arg-type]  # by its methods
        batch_size=16,
        shuffle=True,
        collate_fn=collate,
    )
    assert sorted(keys_of(loader)) == KEYS


def test_selected_classes_are_batched(dataset: Path) -> None:
    """Classes and `max_samples` mean what they mean to `load_dataset`."""
    selected = batches(dataset, classes=["massaging person's head"], max_samples=10)
    assert keys_of(selected) == KEYS[:30:3]


def test_random_windows_change_with_the_epoch(dataset: Path) -> None:
    """A sample's random window is another one in another epoch, and the same in the same."""
    read = batches(dataset, batch_size=103, max_frames=1, frame_policy="random")
    first, second = next(iter(read)), None
    read.set_epoch(1)
    second = next(iter(read))
    read.set_epoch(0)
    assert torch.equal(next(iter(read))["embeddings"], first["embeddings"])
    assert not torch.equal(second["embeddings"], first["embeddings"])


@pytest.mark.parametrize("shuffle", [False, True])
def test_damage_is_raised_or_skipped(tmp_path: Path, *, shuffle: bool) -> None:
    """A damaged sample ends the epoch by name, or all others come without it."""
    directory = write_index(write_dataset(tmp_path / "d", make_samples({"train": 20})))
    offset = clip_kinetics700.open(directory).index.begins[7]
    path = directory / "ds_000001.tar"
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamageError, match=r"ds_000001\.tar: sample vid_000000007: .*magic"):
        list(batches(directory, shuffle=shuffle))
    read = batches(directory, shuffle=shuffle, on_error="skip", batch_size=4)
    assert sorted(keys_of(read)) == [key for key in KEYS[:20] if key != "vid_000000007"]


def test_a_batch_of_nothing_but_damage_keeps_no_rank_waiting(tmp_path: Path) -> None:
    """Ranks that step together have as many batches, though all samples of one are damaged."""
    directory = write_index(write_dataset(tmp_path / "d", make_samples({"train": 20})))
    for path in (directory / "ds_000001.tar", directory / "ds_000002.tar"):
        path.write_bytes(bytes(path.stat().st_size))
    options: dict[str, Any] = {"on_error": "skip", "batch_size": 2, "world_size": 2}
    ranks = [list(batches(directory, rank=rank, **options)) for rank in range(2)]
    assert [len(rank) for rank in ranks] == [5, 5]
    path = directory / "ds_000003.tar"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(RuntimeError, match="rank 1 of 2 has nothing but damaged samples"):
        list(batches(directory, rank=1, **options))


def test_only_the_columns_that_are_wanted_come(dataset: Path) -> None:
    """Loops that take tensors alone leave out the texts."""
    batch = next(iter(batches(dataset, columns=["embeddings", "mask"])))
    assert set(batch) == {"embeddings", "mask"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"max_frames": 0}, "max_frames must be at least 1, got 0"),
        ({"dtype": "bfloat16"}, "dtype is 'bfloat16'; allowed are float32, float16"),
        ({"frame_policy": "centre"}, "allowed are truncate, uniform, random"),
        (
            {"columns": ["captions", "clips"]},
            "columns are .*'clips'.*; allowed",
        ),
        ({"columns": "mask"}, "columns are 'mask'; allowed are embeddings, mask, captions"),
        ({"even": "both"}, "even is 'both'; allowed are pad, drop, None"),
        ({"rank": 2, "world_size": 2}, "rank 2 is none of a world of 2"),
        ({"on_error": "ignore"}, "on_error is 'ignore'; allowed are 'raise' and 'skip'"),
        ({"split": "tests"}, "no split 'tests' in .*did you mean 'test'"),
    ],
)
def test_wrong_options_are_refused(dataset: Path, options: dict[str, Any], reason: str) -> None:
    """An option that cannot be is refused at once, with what is allowed."""
    with pytest.raises(ValueError, match=reason):
        batches(dataset, **options)


def test_arrays_of_another_byte_order_are_batched() -> None:
    """Big-endian arrays, which torch does not know, come as numbers of this machine."""
    sample = make_samples({"train": 2})["train"][1]
    swapped = collate([sample])["embeddings"].numpy().astype(">f4")
    row = {"embeddings": swapped[0], "caption": "", "meta": sample.meta}
    assert torch.equal(collate([row])["embeddings"], torch.from_numpy(swapped.astype(np.float32)))
