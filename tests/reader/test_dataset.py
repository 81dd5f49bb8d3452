"""`clip_kinetics700.open` gives the same samples anywhere, as views, in any process and thread."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clip_kinetics700
from clip_kinetics700 import load_dataset
from clip_kinetics700.arrays import MAX_BLOCK_BYTES
from tests.support.datasets.dialects import DIALECTS, write_parquet_only
from tests.support.datasets.layouts import (
    SAMPLES,
    make_sample,
    make_samples,
    npy_bytes,
    write_dataset,
    write_index,
    write_members,
)
from tests.support.datasets.places import assert_same, in_memory, over_http
from tests.support.processes.checkout import SOURCE_PATHS
from tests.support.processes.reading import put_samples


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


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("dialect", ["tars of ours", "parquet"])
def test_names_that_look_like_patterns_are_names(
    tmp_path: Path, dialect: str, *, streaming: bool
) -> None:
    """A directory whose name `datasets` would take for a pattern is loaded, and so are its tars."""
    directory = DIALECTS[dialect](tmp_path / "what [1]*")
    options: dict[str, Any] = {"streaming": streaming, "cache_dir": str(tmp_path / "cache")}
    tars = sorted(path for path in directory.iterdir() if path.suffix == ".tar")[:3]
    sources: list[Any] = [directory, *([tars] if tars else [])]
    for source in sources:
        rows = load_dataset(source, "train", **options)
        assert [row["meta"]["key"] for row in rows] == [f"vid_{n:09d}" for n in range(12)]


@pytest.mark.parametrize("words", [{}, {"max_samples": 5}])
@pytest.mark.parametrize("streaming", [False, True])
def test_any_file_system_is_loaded(
    tmp_path: Path, words: dict[str, Any], *, streaming: bool
) -> None:
    """`load_dataset` reads tars at any fsspec URL, all of them or a selection."""
    with in_memory(DIALECTS["gzip"](tmp_path / "d")) as source:
        rows = load_dataset(
            source, "train", streaming=streaming, cache_dir=str(tmp_path / "cache"), **words
        )
        ids = [row["meta"]["youtube_id"] for row in rows]
    assert ids == [f"-b_{n:08d}" for n in range(words.get("max_samples", 7))]


def test_arrays_stay_what_they_were(tmp_path: Path) -> None:
    """Arrays are read-only, and a tar that is cut short or overwritten does not change them."""
    directory = write_dataset(tmp_path / "d", {"train": [make_sample(0), make_sample(1)]})
    for _ in ("without an index", "with one"):
        arrays = [s.embeddings for s in clip_kinetics700.open(directory)]
        before = [array.copy() for array in arrays]
        tar = (directory / "ds_000000.tar").read_bytes()
        (directory / "ds_000000.tar").write_bytes(bytes(len(tar)))
        os.truncate(directory / "ds_000000.tar", 0)
        assert not any(array.flags.writeable for array in arrays)
        assert all(map(np.array_equal, arrays, before))
        (directory / "ds_000000.tar").write_bytes(tar)
        write_index(directory)


def test_arrays_outlive_their_dataset(tmp_path: Path) -> None:
    """An array can be read after dataset and tar are gone."""
    directory = write_index(write_dataset(tmp_path / "d", {"train": [make_sample(3)]}))
    array = clip_kinetics700.open(directory)[0].embeddings
    (directory / "ds_000000.tar").unlink()
    assert array.tobytes() == make_sample(3).embeddings.tobytes()


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


@pytest.mark.parametrize("place", [nullcontext, over_http])
@pytest.mark.parametrize("dialect", ["tars of ours", "gzip", "parquet"])
def test_threads_read_one_dataset(
    tmp_path: Path, dialect: str, place: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that read at random at once, files and groups hardly kept, get the right samples."""
    monkeypatch.setattr("clip_kinetics700.arrays.MAX_GROUP_BYTES", 1)
    monkeypatch.setattr("clip_kinetics700.local.MAX_OPEN_FILES", 1)
    monkeypatch.setattr("clip_kinetics700.local.MAX_COPIED_BYTES", 1)
    with place(DIALECTS[dialect](tmp_path / "source")) as source:
        dataset = clip_kinetics700.open(source)
        expected = list(dataset)
        rows = np.random.default_rng(0).permutation(np.arange(8 * len(dataset)) % len(dataset))
        with ThreadPoolExecutor(8) as pool:
            read = list(pool.map(dataset.__getitem__, rows.tolist()))
    assert_same(read, [expected[row] for row in rows])


def test_places_are_checked(tmp_path: Path) -> None:
    """Places count from either end; one beyond the ends raises, as do keys in a list."""
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


def test_keys_and_samples_are_in_it(tmp_path: Path) -> None:
    """`in` tells what brackets find: keys and words for splits; a sample is there by its key."""
    dataset = clip_kinetics700.open(write_dataset(tmp_path / "d", make_samples(SAMPLES)))
    assert dataset.keys() == [sample.key for sample in dataset]
    validation = dataset.select("val", max_samples=3, shuffle=True)
    assert validation.keys() == [sample.key for sample in validation]
    inside, outside = validation.keys()[0], dataset["test"].keys()[0]
    for name in (inside, outside, "train", "dev"):
        assert name in dataset
    assert [name in validation for name in (inside, outside, "train", "dev")] == [1, 0, 0, 1]
    assert dataset[inside] in validation
    assert dataset[outside] not in validation
    assert all(other not in dataset for other in ("vid_7", 0, None, dataset[0].embeddings))


def test_brackets_take_a_split(tmp_path: Path) -> None:
    """Any word for a split gives its samples, from all of a dataset and from a selection."""
    dataset = clip_kinetics700.open(write_dataset(tmp_path / "d", make_samples(SAMPLES)))
    for word in ("validation", "val", " Dev"):
        assert dataset[word].keys() == dataset.splits[word].keys() == dataset.select(word).keys()
    chosen = dataset.select(max_samples=2, shuffle=True)
    assert chosen["train"].keys() == chosen.keys()[:2]
    assert chosen["train"]["train"].keys() == chosen.keys()[:2]


def test_a_split_wins_over_a_key(tmp_path: Path) -> None:
    """A sample whose key is a word for a split is found by that key where the split is not."""
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        array = npy_bytes(np.ones((2, 4), np.float32))
        write_members(tmp_path / split / "0.tar", [("val.npy", array), ("a.npy", array)])
    dataset = clip_kinetics700.open(tmp_path)
    assert dataset["val"].keys() == ["val", "a"]
    assert dataset["train"]["val"].key == "val"


def test_wrong_words_name_the_nearest(tmp_path: Path) -> None:
    """What is neither split nor key raises, names the splits and the nearest word."""
    dataset = clip_kinetics700.open(write_dataset(tmp_path / "d", make_samples(SAMPLES)))
    message = r"no split and no sample 'trian' in .*train, validation, test.*did you mean 'train'\?"
    with pytest.raises(KeyError, match=message):
        dataset["trian"]
    with pytest.raises(KeyError, match=r"no split 'trian' in .*; did you mean 'train'\?"):
        dataset.splits["trian"]
    with pytest.raises(KeyError, match="no split 'val' in the dataset; there are train"):
        dataset["train"].splits["val"]


def test_a_notebook_shows_the_splits(tmp_path: Path) -> None:
    """It shows samples and frames of each split where an index tells them, and reads no sample."""
    directory = write_dataset(tmp_path / "<d>", make_samples(SAMPLES), parquet=False)
    for tar in directory.glob("*.tar"):
        tar.rename(tar.with_suffix(".kept"))
        tar.touch()
    without = clip_kinetics700.open(directory)._repr_html_()
    for tar in directory.glob("*.kept"):
        tar.replace(tar.with_suffix(".tar"))
    shown = clip_kinetics700.open(write_index(directory))._repr_html_()
    for html in (without, shown):
        assert "&lt;d&gt;" in html
        assert "<tr><td>validation</td>" in html
    assert "<tr><td>train</td><td>12</td><td>30</td></tr>" in shown


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
@pytest.mark.parametrize("has_index", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_reading_all_holds_a_bounded_part(tmp_path: Path, *, has_index: bool) -> None:
    """Iterating over large arrays holds a few blocks of bytes, however many rows there are."""
    rng = np.random.default_rng(0)
    tars, nbytes = 12, 2 * MAX_BLOCK_BYTES
    (tmp_path / "train").mkdir()
    for tar in range(tars):
        rows = rng.standard_normal((nbytes // 4096, 512)).astype(np.float32)
        members = [(f"{tar}_{n}.npy", npy_bytes(rows[n::32])) for n in range(32)]
        write_members(tmp_path / f"train/{tar:05}.tar", members)
    if has_index:
        write_index(tmp_path)
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": SOURCE_PATHS}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 5 * MAX_BLOCK_BYTES < tars * nbytes
