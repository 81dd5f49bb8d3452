"""`verify.dataset` names files that are missing, strange, or contradict the manifest."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from clip_kinetics700_builder.dataset.problems import Problem
from clip_kinetics700_builder.types import InputError
from clip_kinetics700_builder.verify import dataset as dataset_module
from clip_kinetics700_builder.verify.dataset import verify_dataset
from tests.support.damage.datasets import (
    FIRST_PARQUET,
    FIRST_TAR,
    copy_dataset,
    edit_manifest,
    flip_byte,
    make_dataset,
    problems_of,
    reseal,
)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Directory of a dataset with nothing wrong in it."""
    return copy_dataset(tmp_path / "dataset")


@pytest.mark.parametrize("formats", [(), ("parquet",), ("webdataset",)])
def test_sound_dataset_has_no_problems(tmp_path: Path, formats: tuple[str, ...]) -> None:
    """What assemble writes passes, in both formats and in each alone, and is counted."""
    done: list[int] = []
    assert (
        verify_dataset(
            make_dataset(tmp_path, *formats), progress=lambda *_: nullcontext(done.append)
        )
        == []
    )
    assert sum(done) == 19


@pytest.mark.parametrize("formats", [(), ("parquet",), ("webdataset",)])
def test_shards_are_read_in_batches(
    tmp_path: Path, formats: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard of more rows than are held at once is checked to its end, and no row twice."""
    monkeypatch.setattr(dataset_module, "ROWS_PER_BATCH", 2)
    done: list[int] = []
    assert (
        verify_dataset(
            make_dataset(tmp_path, *formats), progress=lambda *_: nullcontext(done.append)
        )
        == []
    )
    assert sum(done) == 19
    assert max(done) == 2


def test_hidden_files_are_ignored(dataset: Path) -> None:
    """Hidden files and directories beside a dataset are no problem."""
    (dataset / ".gitattributes").touch()
    (dataset / ".work").mkdir()
    (dataset / ".work" / "ds_000099.tar").touch()
    assert verify_dataset(dataset) == []


@pytest.mark.parametrize(
    ("name", "offset"),
    [
        (FIRST_TAR, 0),
        (FIRST_TAR, 600),
        (FIRST_TAR, 1800),
        (FIRST_TAR, -1),
        (FIRST_PARQUET, 400),
        ("index.parquet", 400),
        ("failures.parquet", 100),
        ("splits.csv", 20),
    ],
)
def test_flipped_byte_is_one_problem(dataset: Path, name: str, offset: int) -> None:
    """One wrong byte in a file is one problem that names this file and no other."""
    flip_byte(dataset / name, offset)
    found = verify_dataset(dataset)
    assert [problem.file for problem in found] == [name]
    assert "has the sha256" in found[0].message


@pytest.mark.parametrize("offset", [0, 40, -10])
def test_flipped_byte_of_manifest(dataset: Path, offset: int) -> None:
    """One wrong byte in the manifest is reported with its name, whatever the byte says."""
    flip_byte(dataset / "manifest.json", offset)
    assert [problem.file for problem in verify_dataset(dataset)] == ["manifest.json"]


def test_edited_manifest_contradicts_its_hash(dataset: Path) -> None:
    """A manifest whose content was changed is found by its own hash."""
    path = dataset / "manifest.json"
    path.write_text(path.read_text().replace('"date": null', '"date": "2001-01-01"'))
    assert "self_sha256 is" in problems_of(dataset)["manifest.json"]


@pytest.mark.parametrize(
    "name",
    [FIRST_TAR, FIRST_PARQUET, "index.parquet", "failures.parquet", "splits.csv", "README.md"],
)
def test_missing_file(dataset: Path, name: str) -> None:
    """A file that is not there is the one problem."""
    (dataset / name).unlink()
    found = verify_dataset(dataset)
    assert [problem.file for problem in found] == [name]
    assert "is missing" in found[0].message


@pytest.mark.parametrize(
    "name", ["ds_000005.tar", "data/train-00000-of-00001.parquet", "data/x.parquet", "notes.txt"]
)
def test_file_that_is_not_listed(dataset: Path, name: str) -> None:
    """A file that the manifest does not list is a problem, whether it looks like a shard or not."""
    (dataset / name).write_bytes(b"")
    assert [problem.file for problem in verify_dataset(dataset)] == [name]


def test_directory_that_is_no_dataset(tmp_path: Path) -> None:
    """A directory that is not there, or without a manifest, is the user's mistake."""
    with pytest.raises(InputError, match="no such directory"):
        verify_dataset(tmp_path / "missing")
    with pytest.raises(InputError, match=r"holds no manifest\.json"):
        verify_dataset(tmp_path)


@pytest.mark.parametrize(
    "names",
    [("ds_000000.tar", "ds_000001.tar"), (FIRST_PARQUET, "data/train-00001-of-00003.parquet")],
)
def test_swapped_shards(dataset: Path, names: tuple[str, str]) -> None:
    """Two shards that changed names are both found by the keys in them."""
    contents = [(dataset / name).read_bytes() for name in names]
    for name, content in zip(names, reversed(contents), strict=True):
        (dataset / name).write_bytes(content)
    reseal(dataset)
    found = problems_of(dataset)
    assert all("belongs" in found[name] or "key is not" in found[name] for name in names)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ds_000003,val", "ds_000003,validation", "line 5 is b'ds_000003,validation'"),
        ("ds_000001,train\n", "", "line 3 is b'ds_000002,train'"),
        ("ds_000004,test\n", "ds_000004,test\nds_000005,test\n", "line 7 is"),
        ("tar_file,split\n", "", "line 1 is"),
        ("\n", "\r\n", "line 1 is"),
        ("ds_000000", "\udcff", "line 2 is b'\\xff,train'"),
    ],
)
def test_edited_splits_csv(dataset: Path, old: str, new: str, message: str) -> None:
    """Every row of splits.csv is held against the tars that the totals ask for."""
    path = dataset / "splits.csv"
    text = path.read_bytes().decode()
    path.write_bytes(text.replace(old, new).encode("utf-8", "surrogateescape"))
    reseal(dataset)
    found = problems_of(dataset)
    assert found.keys() == {"splits.csv"}
    assert message in found["splits.csv"]


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", [FIRST_TAR, FIRST_PARQUET, "index.parquet", "failures.parquet"])
def test_truncated_file(dataset: Path, name: str, fraction: float) -> None:
    """A file that was cut is named even where the manifest was made of the cut one."""
    path = dataset / name
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])
    reseal(dataset)
    assert problems_of(dataset).keys() == {name}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("totals.splits.train.rows", 17, "totals of train: 17 rows are not 12 samples and 4"),
        ("totals.splits.train.frames", 99, "totals of train: 99 frames, the samples hold"),
        ("totals.splits.train.samples", 11, "says ds_000002.tar has 2 rows, where 1 belong"),
        ("totals.splits.train.samples", 10**15, "where its totals ask for"),
        ("totals.splits.train.samples", -1, "negative"),
        ("totals.splits.holdout", {}, "allowed are train, validation, test"),
        ("totals.samples", 18, "totals are not the sum of the splits"),
        ("totals.samples", None, "samples must be of type int, got None"),
        ("totals.failures_by_reason.missing", 9, "not the sum of failures_by_reason"),
        ("totals.samples_by_label", [1, 2, 3], "totals are not the sum of the splits"),
        ("totals.splits.train.samples_by_label", [12, 0, 0], "is not what the samples hold"),
        (
            "totals.splits.train.samples_by_label",
            [True],
            "samples_by_label must be of type int",
        ),
        ("totals.splits.test.samples_by_n_frames", {"9": 3}, "is not what the samples hold"),
        ("totals.splits.test.samples_by_n_frames", {"09": 3}, "must be named by numbers of frames"),
        ("totals.splits.test.samples_by_n_frames", {"9": 0.5}, "9 must be of type int, got 0.5"),
        ("configuration.samples_per_shard", 4, "has 5 rows, where 4 belong"),
        ("configuration.samples_per_shard", 0, "must be over 0"),
        ("configuration.embedding_width", True, "embedding_width must be of type int"),
        ("configuration.formats", ["hdf5"], "formats are ['hdf5']"),
        ("class_names", [1], "each of class_names must be of type str"),
        ("files", [], "files must be of type dict, got []"),
        ("format", "other/2", "is not a manifest of format clip-kinetics700/1"),
    ],
)
def test_edited_manifest(dataset: Path, path: str, value: Any, message: str) -> None:
    """Counts that do not add up are found though the manifest's own hash is right."""

    def edit(document: dict[str, Any]) -> None:
        *parents, name = path.split(".")
        for parent in parents:
            document = document[parent]
        document[name] = value

    edit_manifest(dataset, edit)
    assert message in problems_of(dataset)["manifest.json"]


def test_a_manifest_of_an_earlier_version(dataset: Path) -> None:
    """A manifest without counts by class and by frames is sound, since it says nothing wrong."""

    def edit(document: dict[str, Any]) -> None:
        for totals in (document["totals"], *document["totals"]["splits"].values()):
            del totals["samples_by_label"], totals["samples_by_n_frames"]

    edit_manifest(dataset, edit)
    assert problems_of(dataset) == {}


def test_a_picture_has_no_rows(dataset: Path) -> None:
    """A picture may be listed or not; one that is has 0 rows, and must be there."""
    entry = {"sha256": "", "bytes": 0, "rows": 3}
    name = "figures/class_balance.png"
    edit_manifest(dataset, lambda document: document["files"].update({name: entry}))
    found = problems_of(dataset)
    assert f"says {name} has 3 rows, where 0 belong" in found["manifest.json"]
    assert found[name] == "is missing"


def test_shard_that_the_manifest_does_not_list(dataset: Path) -> None:
    """A manifest that leaves out a shard is wrong, and the shard is then a stranger."""
    edit_manifest(dataset, lambda document: document["files"].pop(FIRST_TAR))
    found = problems_of(dataset)
    assert f"does not list {FIRST_TAR}" in found["manifest.json"]
    assert "is a shard that manifest.json does not list" in found[FIRST_TAR]


def test_manifest_cannot_name_files_outside(dataset: Path) -> None:
    """A name that the layout has no place for is reported and never opened."""
    entry = {"sha256": "", "bytes": 0, "rows": 0}
    edit_manifest(dataset, lambda document: document["files"].update({"../secret": entry}))
    found = problems_of(dataset)
    assert found.keys() == {"manifest.json"}
    assert "lists ../secret, which" in found["manifest.json"]


def test_names_stay_on_one_line(dataset: Path) -> None:
    """A file whose name holds a line break is reported on one line."""
    (dataset / "two\nlines").touch()
    assert [problem.file for problem in verify_dataset(dataset)] == ["two\\nlines"]


def test_problem_is_a_value() -> None:
    """Problems compare by content, so that a caller can look for one."""
    assert Problem("a", "b") == Problem("a", "b")
