"""The reader knows every dialect of the formats: names, tars, splits, keys and members."""

import json
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clip_kinetics700
from tests.support.datasets.dialects import (
    foreign_members,
    write_flat_upstream,
    write_foreign,
    write_own_keys,
    write_split_directories,
    write_triples,
)
from tests.support.datasets.layouts import npy_bytes, write_index, write_members
from tests.support.datasets.places import numbers_read

DTYPES = ["<f2", "<f4", "<f8", ">f8"]
SPLIT_COUNTS = {"train": 7, "validation": 2, "test": 2}


@pytest.mark.parametrize("dtype", DTYPES)
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


KEY_LETTERS = st.sampled_from("ab_-/é日 (]~")
KEYS = st.text(KEY_LETTERS, min_size=1, max_size=120).filter(lambda key: key.strip("/") == key)
SHAPES = st.tuples(st.integers(0, 3), st.integers(1, 5))


@settings(max_examples=40)
@given(st.dictionaries(KEYS, SHAPES, min_size=1, max_size=6), st.sampled_from(DTYPES))
def test_whatever_was_written_is_read(shapes: dict[str, tuple[int, int]], dtype: str) -> None:
    """Samples of any keys and shapes are found whole, from first to last, by key and by index."""
    rng = np.random.default_rng(0)
    arrays = {key: rng.standard_normal(shape).astype(dtype) for key, shape in shapes.items()}
    with TemporaryDirectory() as name:
        members = [(f"{key}.npy", npy_bytes(array)) for key, array in arrays.items()]
        (Path(name) / "train").mkdir()
        write_members(Path(name) / "train/0.tar", members, tarfile.PAX_FORMAT)
        for _ in ("without an index", "with one"):
            dataset = clip_kinetics700.open(name)
            assert [sample.key for sample in iter(dataset)] == list(arrays)
            for key, array in arrays.items():
                np.testing.assert_array_equal(dataset[key].embeddings, array)
            write_index(Path(name))


def test_hidden_files_between_members_are_passed_over(tmp_path: Path) -> None:
    """The files that macOS puts before each member of a tar tear no sample apart."""
    (tmp_path / "train").mkdir()
    members = [
        part
        for name, data in foreign_members(2, key="d/vid_2")
        for part in ((name.replace("d/", "d/._"), b"\0\5\26\7"), (name, data))
    ]
    write_members(tmp_path / "train/0.tar", [("._train", b""), *members])
    assert numbers_read(clip_kinetics700.open(tmp_path)) == [2]


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


def test_links_are_followed_and_hidden_files_are_not_read(tmp_path: Path) -> None:
    """Linked files and directories are read; hidden directories do not belong to the dataset."""
    write_split_directories(tmp_path / "real")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/data").symlink_to(tmp_path / "real/data")
    (tmp_path / "linked/.git/train").mkdir(parents=True)
    write_members(tmp_path / "linked/.git/train/0.tar", foreign_members(99))
    assert numbers_read(clip_kinetics700.open(tmp_path / "linked")) == list(range(18))


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
