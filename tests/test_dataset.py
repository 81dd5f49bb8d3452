"""`clip_kinetics700.open`: every dialect, at any place, gives the samples that were written."""

import json
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import clip_kinetics700
from clip_kinetics700 import EmbeddingDataset, Sample
from clip_kinetics700.maps import MAX_MAPPED_BYTES
from tests.dialects import (
    DIALECTS,
    LABELS,
    foreign_members,
    random_array,
    write_flat_upstream,
    write_foreign,
    write_own_keys,
    write_parquet_only,
    write_split_directories,
    write_triples,
)
from tests.layouts import (
    SAMPLES,
    make_sample,
    make_samples,
    npy_bytes,
    write_dataset,
    write_index,
    write_members,
)
from tests.servers import serve

ROOT = Path(__file__).parent.parent
SPLIT_COUNTS = {"train": 7, "validation": 2, "test": 2}


def assert_same(read: Iterable[Sample], expected: Iterable[Sample]) -> None:
    """Compare samples in order: embeddings bit for bit, caption, and every field of meta."""
    read, expected = list(read), list(expected)
    assert [sample.meta for sample in read] == [sample.meta for sample in expected]
    assert [sample.caption for sample in read] == [sample.caption for sample in expected]
    arrays, others = ([sample.embeddings for sample in group] for group in (read, expected))
    assert [a.dtype for a in arrays] == [a.dtype for a in others]
    assert [a.tobytes() for a in arrays] == [a.tobytes() for a in others]


@contextmanager
def in_memory(directory: Path) -> Iterator[str]:
    """Copy a directory into fsspec's memory and give its URL."""
    files = fsspec.filesystem("memory")
    name = f"/{directory.parent.name}/{directory.name}"
    for path in directory.rglob("*"):
        if path.is_file():
            files.pipe_file(f"{name}/{path.relative_to(directory)}", path.read_bytes())
    yield f"memory:/{name}"
    files.rm(name, recursive=True)


@contextmanager
def over_http(directory: Path) -> Iterator[str]:
    """Serve a directory and give its URL."""
    with serve(directory) as served:
        yield served.url


def numbers_read(dataset: Iterable[Sample]) -> list[int]:
    """Return the numbers that foreign samples were made of, after looking at all else of them."""
    numbers = []
    for sample in dataset:
        number = int((sample.youtube_id or "")[3:])
        assert (sample.time_start, sample.time_end) == (number, number + 10)
        assert (sample.caption, sample.youtube_id) == (LABELS[number % 3], f"-b_{number:08d}")
        expected = random_array(number, sample.embeddings.dtype)
        assert sample.embeddings.tobytes() == expected.tobytes()
        numbers.append(number)
    return numbers


@pytest.mark.parametrize("place", [nullcontext, in_memory, over_http])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_reads_the_same_anywhere(
    tmp_path: Path, dialect: str, place: Callable[[Path], Any]
) -> None:
    """From first to last, at random, with and without an index, local or not: the same samples."""
    directory = DIALECTS[dialect](tmp_path / "source")
    expected = list(iter(clip_kinetics700.open(directory)))
    assert expected
    with place(directory) as source:
        assert_same(iter(clip_kinetics700.open(source)), expected)
        dataset = clip_kinetics700.open(source)
        assert_same((dataset[row] for row in range(len(dataset))), expected)
    if dataset.layout.kind != "parquet":
        write_index(directory)
        with place(directory) as source:
            assert_same(clip_kinetics700.open(source), expected)


def test_our_layout_gives_what_was_written(tmp_path: Path) -> None:
    """Each split of our own tars, and of Parquet alone, holds the samples it was made of."""
    samples = make_samples(SAMPLES)
    tars = clip_kinetics700.open(write_dataset(tmp_path / "tars", samples))
    parquet = clip_kinetics700.open(write_parquet_only(tmp_path / "parquet"))
    for dataset in (tars, parquet):
        assert list(dataset.splits) == list(samples)
        for split, group in samples.items():
            assert_same(dataset.splits[split], group)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f8"])
@pytest.mark.parametrize("text", ["txt", "cap"])
@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_flat_tars_follow_splits_csv(tmp_path: Path, dtype: str, text: str, suffix: str) -> None:
    """Captions in .txt or .cap, times as text or numbers, any float type, gzipped or not."""
    directory = write_foreign(tmp_path / "d", suffix=suffix, text=text, dtype=dtype)
    splits = clip_kinetics700.open(directory).splits
    assert {split: numbers_read(part) for split, part in splits.items()} == {
        "train": [0, 1, 2, 3, 4, 5, 6],
        "validation": [7, 8],
        "test": [9, 10],
    }
    assert {sample.embeddings.dtype.str for sample in splits["test"]} == {dtype}


@pytest.mark.parametrize(
    "tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
@pytest.mark.parametrize("key", ["vid_00001", "a.b/c/vid_1", "d" * 60 + "/" + "k" * 60, "ü/é" * 20])
def test_any_key_in_any_tar_is_found(tmp_path: Path, key: str, tar_format: int) -> None:
    """Directories, letters beyond ASCII and more than 100 of them: found with and without index."""
    (tmp_path / "train").mkdir()
    members = [*foreign_members(4, key="before"), *foreign_members(5, key=key)]
    write_members(tmp_path / "train/00000.tar", members, tar_format)
    for _ in ("without", "with"):
        dataset = clip_kinetics700.open(tmp_path)
        assert numbers_read(iter(dataset)) == numbers_read([dataset["before"], dataset[key]])
        write_index(tmp_path)


def test_names_that_are_no_utf8_are_keys(tmp_path: Path) -> None:
    """A name in Latin-1, as old machines wrote it, is a key that an index can hold."""
    name = "caf\xe9".encode("latin-1").decode("utf-8", "surrogateescape")
    (tmp_path / "train").mkdir()
    for tar_format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT):
        write_members(tmp_path / "train/0.tar", foreign_members(3, key=name), tar_format)
        dataset = clip_kinetics700.open(tmp_path)
        assert numbers_read([dataset["caf\xe9"]]) == [3]


def test_upstreams_hosted_layout_is_read(tmp_path: Path) -> None:
    """Literal names in splits.csv, its header twice, stray CSVs and an empty last tar are read."""
    dataset = clip_kinetics700.open(write_flat_upstream(tmp_path / "d"))
    assert {split: len(part) for split, part in dataset.splits.items()} == SPLIT_COUNTS
    assert numbers_read(dataset) == list(range(11))


def test_tars_without_splits_csv_are_named(tmp_path: Path) -> None:
    """Without splits.csv the error says so, and tars or directories by split are taken instead."""
    directory = write_foreign(tmp_path / "d")
    (directory / "splits.csv").unlink()
    with pytest.raises(ValueError, match=r"no splits\.csv says which tar belongs to which split"):
        clip_kinetics700.open(directory)
    tars = sorted(directory.rglob("*.tar"))
    assert numbers_read(clip_kinetics700.open(tars[:2])) == [0, 1, 2, 3, 4, 5, 6]
    named = clip_kinetics700.open({"val": tars[2], "holdout_test": [tars[3]]})
    assert {split: numbers_read(part) for split, part in named.splits.items()} == {
        "validation": [7, 8],
        "test": [9, 10],
    }


@pytest.mark.parametrize("digits", [5, 6, 9])
def test_tars_are_numbered_with_any_digits(tmp_path: Path, digits: int) -> None:
    """Tars of 5, 6 or 9 digits come in the order of their numbers."""
    (tmp_path / "train").mkdir()
    for number in (2, 0, 1):
        write_members(tmp_path / f"train/{number:0{digits}}.tar", foreign_members(number))
    assert numbers_read(clip_kinetics700.open(tmp_path)) == [0, 1, 2]


def test_keys_that_repeat_are_told_apart_by_split(tmp_path: Path) -> None:
    """A key of several tars raises and names them; in one split it is found."""
    dataset = clip_kinetics700.open(write_split_directories(tmp_path / "d"))
    assert numbers_read(dataset.splits["validation"]) == [6, 7, 8, 9, 10, 11]
    names = "data/train/ds_000001.tar, data/val/ds_000001.tar, data/test/ds_000001.tar"
    with pytest.raises(KeyError, match=f"3 samples 'vid_00004', in {names}"):
        dataset["vid_00004"]
    assert numbers_read([dataset.splits["validation"]["vid_00004"]]) == [10]


def test_split_directories_may_be_given_by_themselves(tmp_path: Path) -> None:
    """A directory named for a split is that split, be it of tars or of loose arrays."""
    write_split_directories(tmp_path / "tars")
    write_triples(tmp_path / "loose")
    for directory, numbers in (("tars/data/val", range(6, 12)), ("loose/val", range(4, 8))):
        dataset = clip_kinetics700.open(tmp_path / directory)
        assert list(dataset.splits) == ["validation"]
        assert numbers_read(dataset) == list(numbers)


def test_processed_directory_is_read(tmp_path: Path) -> None:
    """Loose triples come by split and name; without text or json there is no caption or id."""
    splits = clip_kinetics700.open(write_triples(tmp_path / "d")).splits
    assert numbers_read(splits["validation"]) == [4, 5, 6, 7]
    keys, ids, captions = zip(
        *((s.key, s.youtube_id, s.caption) for s in splits["train"]), strict=True
    )
    assert keys == ("clip.0", "clip.1", "clip.2", "clip.3")
    assert ids == ("-b_00000000", None, "-b_00000002", "-b_00000003")
    assert captions == ("yoga", "archery", "", "yoga")


def test_samples_without_frames_or_json_are_samples(tmp_path: Path) -> None:
    """An array of 0 rows and a sample without json are read, at random too."""
    empty = npy_bytes(np.zeros((0, 7), np.float32))
    write_members(tmp_path / "t.tar", [("a.npy", empty), ("b.txt", b"yoga"), ("b.npy", empty)])
    dataset = clip_kinetics700.open(tmp_path / "t.tar")
    assert [(s.key, s.caption, s.embeddings.shape) for s in dataset] == [
        ("a", "", (0, 7)),
        ("b", "yoga", (0, 7)),
    ]
    assert dataset["b"].meta["n_frames"] == 0
    assert dataset["b"].youtube_id is None


def test_fields_of_others_are_kept(tmp_path: Path) -> None:
    """Fields of a json that have no column of their own are in `extra`, beside what it held."""
    dataset = clip_kinetics700.open(write_own_keys(tmp_path / "d"))
    assert json.loads(dataset[2].extra or "") == {"x": 1, "clip": {"n": 2}}


def test_arrays_are_views_of_the_map(tmp_path: Path) -> None:
    """Arrays of a local tar are read-only, and all of one tar lie in one piece of memory."""
    directory = write_dataset(tmp_path / "d", {"train": [make_sample(0), make_sample(1)]})
    tar = (directory / "ds_000000.tar").read_bytes()
    for _ in ("without an index", "with one"):
        arrays = [s.embeddings for s in clip_kinetics700.open(directory)]
        assert not any(array.flags.writeable or array.flags.owndata for array in arrays)
        distance = arrays[1].ctypes.data - arrays[0].ctypes.data
        assert distance == tar.index(arrays[1].tobytes()) - tar.index(arrays[0].tobytes())
        write_index(directory)


def test_arrays_outlive_their_dataset(tmp_path: Path) -> None:
    """An array can be read after dataset and tar are gone."""
    directory = write_index(write_dataset(tmp_path / "d", {"train": [make_sample(3)]}))
    array = clip_kinetics700.open(directory)[0].embeddings
    (directory / "ds_000000.tar").unlink()
    assert array.tobytes() == make_sample(3).embeddings.tobytes()


def put_samples(queue: Any, dataset: EmbeddingDataset, rows: list[int]) -> None:
    """Read samples in another process."""
    queue.put([dataset[row] for row in rows])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12, of threads
@pytest.mark.parametrize("place", [nullcontext, over_http])
@pytest.mark.parametrize("dialect", ["tars of ours", "gzip", "parquet"])
def test_dataset_goes_to_another_process(
    tmp_path: Path, dialect: str, place: Callable[[Path], Any]
) -> None:
    """Read from before, it is read on in a spawned process and in a forked one."""
    directory = DIALECTS[dialect](tmp_path / "source")
    rows = [5, 0, 3]
    with place(directory) as source:
        dataset = clip_kinetics700.open(source).select("train")
        expected = [dataset[row] for row in rows]
        for method in ("spawn", "fork"):
            context = get_context(method)
            queue: Any = context.Queue()
            process: Any = context.Process(target=put_samples, args=(queue, dataset, rows))  # type: ignore[attr-defined]
            process.start()
            assert_same(queue.get(timeout=60), expected)
            process.join()


def test_places_are_checked(tmp_path: Path) -> None:
    """Places count from either end; those there are none of raise, as do keys in a list."""
    dataset = clip_kinetics700.open(write_dataset(tmp_path / "d", make_samples(SAMPLES)))
    keys = [sample.key for sample in dataset]
    assert [dataset[-1].key, *(s.key for s in dataset[[4, -2]])] == [keys[18], keys[4], keys[17]]
    assert [s.key for s in dataset[17:2:-7]] == keys[17:2:-7]
    assert [s.key for s in dataset[np.arange(19) % 9 == 1]] == keys[1::9]
    assert len(dataset[[]]) == 0
    for wrong in (19, -20, [19]):
        with pytest.raises(IndexError, match="19"):
            dataset[wrong]
    with pytest.raises(KeyError, match="no sample 'vid_7'"):
        dataset["vid_7"]
    places: Any = ["vid_000000001"]
    with pytest.raises(TypeError, match="by places or by one key"):
        dataset[places]


MEASURE = """
import re, sys
import clip_kinetics700

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10

dataset = clip_kinetics700.open(sys.argv[1])
total = float(next(iter(dataset)).embeddings.sum())
before = peak()
for sample in dataset:
    total += float(sample.embeddings.sum())
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("has_index", [False, True])
def test_reading_all_holds_a_bounded_part(tmp_path: Path, *, has_index: bool) -> None:
    """Iterating over more than is kept mapped does not hold more than that."""
    rng = np.random.default_rng(0)
    tars, nbytes = 12, MAX_MAPPED_BYTES // 8
    (tmp_path / "train").mkdir()
    for tar in range(tars):
        rows = rng.standard_normal((nbytes // 4096, 512)).astype(np.float32)
        members = [(f"{tar}_{n}.npy", npy_bytes(rows[n::32])) for n in range(32)]
        write_members(tmp_path / f"train/{tar:05}.tar", members)
    if has_index:
        write_index(tmp_path)
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < MAX_MAPPED_BYTES + nbytes // 2 * 3 < tars * nbytes
