"""`info` counts what is in a dataset in one reading, and what is odd about it."""

import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clip_kinetics700
from clip_kinetics700_builder.read.info import measure_frames
from tests.support.damage.datasets import make_dataset
from tests.support.datasets.builds import run_cli
from tests.support.datasets.conversions import assert_one_line
from tests.support.datasets.dialects import (
    DIALECTS,
    foreign_members,
    write_flat_upstream,
    write_foreign,
    write_split_directories,
    write_tars_only,
)
from tests.support.datasets.layouts import npy_bytes, write_index, write_members


def read_info(source: Path, *options: str) -> dict[str, Any]:
    """Return the document of `info --json`, which must be all that is printed."""
    outcome = run_cli("info", source, "--json", "--quiet", *options)
    assert outcome.returncode == 0, outcome.stderr
    document: dict[str, Any] = json.loads(outcome.stdout)
    return document


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_is_counted(dialect: str, tmp_path: Path) -> None:
    """Samples, frames, widths and norms of any dialect are those of its samples."""
    source = DIALECTS[dialect](tmp_path / "source")
    info = read_info(source)
    samples = list(clip_kinetics700.open(source))
    lengths = [len(sample.embeddings) for sample in samples]
    norms = np.concatenate(
        [np.linalg.norm(s.embeddings.astype(np.float32), axis=1) for s in samples]
    )
    assert (info["samples"], info["frames"]) == (len(samples), sum(lengths))
    frames = info["frames_per_sample"]
    assert frames["counts"] == {str(n): count for n, count in sorted(Counter(lengths).items())}
    assert (frames["min"], frames["max"]) == (min(lengths), max(lengths))
    assert frames["median"] == statistics.median(lengths)
    assert frames["mean"] == pytest.approx(statistics.fmean(lengths))
    assert info["width"] == 8
    assert info["dtypes"] == {str(samples[0].embeddings.dtype): len(samples)}
    assert info["norms"]["min"] == pytest.approx(float(norms.min()), rel=1e-6)
    assert info["norms"]["max"] == pytest.approx(float(norms.max()), rel=1e-6)
    assert info["norms"]["mean"] == pytest.approx(float(norms.mean()), rel=1e-6)
    assert info["norms"]["median"] == pytest.approx(float(np.median(norms)), rel=1e-6)
    captions = Counter(sample.caption for sample in samples)
    assert info["without_class"] == captions.pop("", 0)
    assert info["classes"]["counts"] == dict(captions)
    assert info["without_label_id"] == sum(sample.label_id is None for sample in samples)


def test_an_index_changes_no_number(tmp_path: Path) -> None:
    """By its index or without one, a source is counted the same."""
    source = write_foreign(tmp_path / "source")
    before = read_info(source)
    after = read_info(write_index(source))
    assert (before["has_index"], after["has_index"]) == (False, True)
    different = {"has_index", "bytes_of_all_files"}
    assert {k: v for k, v in after.items() if k not in different} == {
        k: v for k, v in before.items() if k not in different
    }


def test_splits_and_bytes(tmp_path: Path) -> None:
    """Each split is counted, and the bytes are those of the files."""
    source = write_foreign(tmp_path / "source")
    info = read_info(source)
    assert {split: counts["samples"] for split, counts in info["splits"].items()} == {
        "train": 7, "validation": 2, "test": 2
    }  # fmt: skip
    sizes = {path.suffix: 0 for path in source.rglob("*.*")}
    for path in source.rglob("*.*"):
        sizes[path.suffix] += path.stat().st_size
    assert info["n_files"] == 4
    assert info["bytes"] == sizes[".tar"]
    assert info["bytes_of_all_files"] == sizes[".tar"] + sizes[".csv"]


DIALECT_TEXTS = {
    "flat upstream": "tars, by splits.csv",
    "split directories": "tars, by directories of splits",
    "gzip": "gzipped tars, by splits.csv",
    "processed": "processed dataset of SPLIT/NAME.npy",
    "parquet": "Parquet",
}


@pytest.mark.parametrize("dialect", DIALECT_TEXTS)
def test_the_dialect_is_named(dialect: str, tmp_path: Path) -> None:
    """What holds the samples is said in words."""
    assert read_info(DIALECTS[dialect](tmp_path / "source"))["dialect"] == DIALECT_TEXTS[dialect]


def test_a_dataset_of_ours_tells_what_it_was_made_with(tmp_path: Path) -> None:
    """Provenance is the manifest's configuration; without a manifest there is none."""
    source = make_dataset(tmp_path / "source")
    info = read_info(source)
    manifest = json.loads((source / "manifest.json").read_text(encoding="utf-8"))
    assert info["provenance"] == manifest["configuration"]
    assert (info["has_manifest"], info["has_index"]) == (True, True)
    assert info["dialect"] == "tars of this project's layout"
    assert read_info(write_foreign(tmp_path / "foreign"))["provenance"] is None


def test_one_tar_can_be_looked_at(tmp_path: Path) -> None:
    """A tar by itself is a dataset of one split."""
    write_foreign(tmp_path / "source")
    info = read_info(tmp_path / "source/data/ds_000002.tar")
    assert info["dialect"] == "tars, named one by one"
    assert info["splits"] == {"train": {"samples": 2, "frames": info["frames"]}}
    assert info["bytes"] == (tmp_path / "source/data/ds_000002.tar").stat().st_size


def write_odd(directory: Path) -> Path:
    """Write tars in which something is odd about every sample but the first."""
    (directory / "train").mkdir(parents=True)
    (directory / "val").mkdir()
    arrays = {
        "sound": np.ones((3, 8)), "empty": np.empty((0, 8)), "wide": np.ones((2, 9)),
        "zeros": np.array([[0.0] * 8, [1.0] * 8, [0.0] * 8]), "nan": np.full((2, 8), np.nan),
    }  # fmt: skip
    members = []
    for number, (key, array) in enumerate(arrays.items()):
        members += foreign_members(number, array.astype(np.float16), key=key)
    members += foreign_members(0, np.ones((1, 8), np.float32), key="again")
    write_members(directory / "train/0.tar", members)
    infinite = np.array([[np.inf] * 8, [1.0] * 8], np.float64)
    members = [*foreign_members(1, infinite, key="leak"), *foreign_members(9, key="sound")]
    write_members(directory / "val/0.tar", members)
    return directory


def test_oddities_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    """Each kind of oddity has its number of samples and the key, or clip, it was met at first."""
    info = read_info(write_odd(tmp_path / "source"))
    assert {name: tuple(oddity.values()) for name, oddity in info["oddities"].items()} == {
        "damaged": (0, None),
        "empty": (1, "empty"),
        "not_finite": (2, "nan"),
        "zero_frames": (2, "zeros"),
        "label_outside": (0, None),
        "other_width": (1, "wide"),
        "duplicate_keys": (1, "sound"),
        "duplicate_clips": (1, "-b_00000000 0-10"),
        "clips_in_several_splits": (1, "-b_00000001 1-11"),
    }
    assert info["widths"] == {"8": 7, "9": 1}
    assert info["dtypes"] == {"float16": 6, "float32": 1, "float64": 1}
    assert info["norms"]["min"] == 0


def test_repeated_keys_of_old_revisions_are_counted(tmp_path: Path) -> None:
    """Numbering that starts again in every split repeats its keys."""
    info = read_info(write_split_directories(tmp_path / "source"))
    assert info["oddities"]["duplicate_keys"] == {"count": 12, "first": "vid_00000"}
    assert info["oddities"]["clips_in_several_splits"]["count"] == 0


def test_damage_ends_the_command_or_is_counted(tmp_path: Path) -> None:
    """A damaged sample is exit code 1; skipped, it is an oddity and all others are counted."""
    source = write_foreign(tmp_path / "source")
    members = [*foreign_members(0), *foreign_members(1), *foreign_members(2)]
    members[5] = ("vid_00001.npy", npy_bytes(np.ones((2, 8)))[:-3])
    write_members(source / "data/ds_000000.tar", members)
    outcome = run_cli("info", source, "--json", "--quiet")
    assert_one_line(outcome, 1, "ds_000000.tar: sample vid_00001: npy of shape (2, 8)")
    assert outcome.stdout == ""
    info = read_info(source, "--on-error", "skip")
    assert info["oddities"]["damaged"] == {"count": 1, "first": "vid_00001"}
    assert info["samples"] == 9


def test_tables_fit_into_80_columns(tmp_path: Path) -> None:
    """The printed form says the same in at most 80 columns, whatever captions there are."""
    source = write_flat_upstream(tmp_path / "source")
    members = foreign_members(50)
    caption = ("dogs and cats, " * 40).encode()
    write_members(source / "data/ds_000003.tar", [(members[0][0], caption), *members[1:]])
    outcome = run_cli("info", source, "--quiet")
    assert outcome.returncode == 0, outcome.stderr
    lines = outcome.stdout.splitlines()
    assert lines[0] == str(source)
    assert max(map(len, lines[1:])) <= 80
    for text in (
        "tars, by splits.csv",
        "float16",
        "yoga",
        "dogs and cats",
        "keys that came before",
    ):
        assert text in outcome.stdout


def test_label_ids_outside_of_the_classes(tmp_path: Path) -> None:
    """A label id without a class name is odd, and is not counted as a class."""
    source = write_tars_only(tmp_path / "source")
    manifest = {"class_names": ["massaging person's head"], "configuration": {}}
    (source / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    info = read_info(source)
    assert info["oddities"]["label_outside"] == {"count": 6, "first": "vid_000000001"}


def test_what_is_no_dataset_is_one_line(tmp_path: Path) -> None:
    """A directory that is not there, or holds nothing of ours, is misuse."""
    assert_one_line(run_cli("info", tmp_path / "nowhere"), 2, "no directory")
    assert_one_line(run_cli("info", tmp_path), 2, "holds neither tars nor files")


def test_an_index_of_other_files_is_one_line(tmp_path: Path) -> None:
    """An index that names a tar that is not there is misuse."""
    source = write_index(write_foreign(tmp_path / "source"))
    (source / "index.parquet").rename(tmp_path / "index.parquet")
    (source / "data/ds_000001.tar").unlink()
    (source / "splits.csv").write_text("ds_000000,train\nds_000002,val\nds_000003,test\n")
    outcome = run_cli("info", source, "--index", tmp_path / "index.parquet")
    assert_one_line(outcome, 2, "names data/ds_000001.tar, which is not there")


def test_norms_of_extreme_numbers() -> None:
    """Squares that float32 cannot hold do not make a frame zero or infinite; NaN does."""
    frames = np.array([[1e30, 0], [1e-30, 0], [0, 0], [np.nan, 1], [np.inf, 1], [3, 4]])
    norms = measure_frames(frames)
    assert norms[[0, 1, 2, 5]] == pytest.approx([1e30, 1e-30, 0, 5])
    assert np.isnan(norms[[3, 4]]).all()
