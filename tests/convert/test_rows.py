"""`convert` names rows that are no samples of ours, and loses none."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from clip_kinetics700_builder.verify.dataset import verify_dataset
from tests.support.damage.datasets import make_dataset
from tests.support.datasets.cards import load_manifest
from tests.support.datasets.conversions import (
    assert_one_line,
    convert_to,
    read_failures,
    run_convert,
)
from tests.support.datasets.dialects import (
    foreign_members,
    random_array,
    write_foreign,
    write_one_tar,
    write_parquet_only,
    write_tars_only,
    write_triples,
)
from tests.support.datasets.layouts import make_sample, npy_bytes, write_index, write_members


def write_faults(directory: Path) -> Path:
    """Write a tar with every kind of row that is no sample of ours; the rest are sound."""
    good = [foreign_members(number) for number in range(4)]
    beyond = np.full((2, 8), 1e6, np.float32)
    arrays: dict[int, npt.NDArray[Any]] = {
        10: np.empty((0, 8), np.float16), 11: beyond, 12: np.full((1, 8), np.nan, np.float16),
        13: np.ones((2, 9), np.float16),
    }  # fmt: skip
    faulty = [foreign_members(number, array) for number, array in arrays.items()]
    (directory / "train").mkdir(parents=True)
    members = [member for sample in [*good[:2], *faulty, *good[2:]] for member in sample]
    write_members(directory / "train/00000.tar", members)
    return directory


def test_what_is_no_sample_becomes_a_failure(tmp_path: Path) -> None:
    """No frames, overflow, NaN and another width are failures that name their sample."""
    output = convert_to(tmp_path / "out", write_faults(tmp_path / "source"))
    assert [sample.youtube_id for sample in output] == [f"-b_{n:08d}" for n in range(4)]
    rows = read_failures(tmp_path / "out")
    assert [row["youtube_id"] for row in rows] == [f"-b_{n:08d}" for n in range(10, 14)]
    assert [row["time_start"] for row in rows] == [10, 11, 12, 13]
    assert [row["reason"] for row in rows] == ["no_frames", *["unreadable"] * 3]
    texts = ("0 rows", "not finite in float16", "not finite in float16", "9 wide")
    for number, (row, text) in enumerate(zip(rows, texts, strict=True), 10):
        assert f"sample vid_{number:05d}: " in row["message"]
        assert text in row["message"]
    totals = load_manifest(tmp_path / "out")["totals"]
    assert (totals["rows"], totals["samples"], totals["failures"]) == (8, 4, 4)


def damage_sample(directory: Path) -> Path:
    """Write upstream's tars, the second of whose samples has a cut array."""
    write_foreign(directory)
    members = [*foreign_members(0), *foreign_members(1), *foreign_members(2)]
    members[5] = (members[5][0], members[5][1][:-3])
    write_members(directory / "data/ds_000000.tar", members)
    return directory


@pytest.mark.parametrize("indexed", [False, True])
def test_damage_ends_the_run_or_costs_a_sample(tmp_path: Path, *, indexed: bool) -> None:
    """By default damage is exit 1 with tar, key, byte and reason; skipped it is a failure."""
    source = write_foreign(tmp_path / "source")
    options: tuple[str | Path, ...] = ()
    if indexed:
        write_index(source)
        data = bytearray((source / "data/ds_000000.tar").read_bytes())
        place = data.find(b"\x93NUMPY", data.find(b"vid_00001.npy"))
        data[place : place + 6] = b"NUMPY?"
        (source / "data/ds_000000.tar").write_bytes(data)
    else:
        shutil.rmtree(source)
        damage_sample(source)
    outcome = run_convert(source, tmp_path / "a")
    assert_one_line(outcome, 1, "ds_000000.tar: sample vid_00001: ", "(at byte ")
    assert not (tmp_path / "a/manifest.json").exists()
    output = convert_to(tmp_path / "b", source, "--on-error", "skip", *options)
    assert [sample.youtube_id for sample in output][:2] == ["-b_00000000", "-b_00000002"]
    (row,) = read_failures(tmp_path / "b")
    assert (row["youtube_id"], row["label"]) == ("-b_00000001", "archery")
    assert (row["time_start"], row["reason"], row["stage"]) == (1, "unreadable", "source")


def test_a_cut_tar_is_a_failure_of_its_own(tmp_path: Path) -> None:
    """Skipping a tar that was cut short keeps what is before the cut, and says that it was cut."""
    source = write_foreign(tmp_path / "source")
    tar = source / "data/ds_000000.tar"
    tar.write_bytes(tar.read_bytes()[:-12_000])
    assert_one_line(run_convert(source, tmp_path / "a"), 1, "ds_000000.tar: truncated: ends at")
    output = convert_to(tmp_path / "b", source, "--on-error", "skip")
    assert output[0].youtube_id == "-b_00000000"
    (row,) = read_failures(tmp_path / "b")
    assert row["youtube_id"] == "ds_000000"
    assert row["message"].startswith("truncated: ends at byte")


def test_a_damaged_triple_is_a_failure(tmp_path: Path) -> None:
    """A file of a processed dataset that is no array costs its sample alone."""
    source = write_triples(tmp_path / "source")
    (source / "train/clip.3.npy").write_bytes(b"")
    assert_one_line(run_convert(source, tmp_path / "a"), 1, "train/clip.3.npy: sample clip.3: ")
    output = convert_to(tmp_path / "b", source, "--on-error", "skip")
    assert len(output) == 8
    assert [row["youtube_id"] for row in read_failures(tmp_path / "b")] == ["clip.3"]


def damage_file(path: Path) -> None:
    """Overwrite what no Parquet file can do without: its footer."""
    data = path.read_bytes()
    path.write_bytes(data[:-300] + b"x" * 300)


def test_a_damaged_parquet_file_is_a_failure_of_its_own(tmp_path: Path) -> None:
    """Skipping a Parquet file that cannot be read keeps the others, and says which it was."""
    source = write_parquet_only(tmp_path / "source")
    damage_file(source / "data/train-00000-of-00001.parquet")
    outcome = run_convert(source, tmp_path / "a")
    assert_one_line(outcome, 1, "data/train-00000-of-00001.parquet: ")
    output = convert_to(tmp_path / "b", source, "--on-error", "skip")
    assert list(output.splits) == ["validation", "test"]
    (row,) = read_failures(tmp_path / "b")
    assert (row["split"], row["youtube_id"]) == ("train", "train-00000-of-00001")
    for path in (source / "data").iterdir():
        damage_file(path)
    assert_one_line(run_convert(source, tmp_path / "c"), 1, ".parquet: ")


def test_a_damaged_index_costs_no_row(tmp_path: Path) -> None:
    """Skipping an index that is damaged, or belongs to other files, reads the files themselves."""
    source = write_index(write_foreign(tmp_path / "source"))
    good = (source / "index.parquet").read_bytes()
    damage_file(source / "index.parquet")
    assert_one_line(run_convert(source, tmp_path / "a"), 1, "index.parquet: is no index: ")
    output = convert_to(tmp_path / "b", source, "--on-error", "skip")
    assert len(output) == 11
    (source / "index.parquet").write_bytes(good)
    write_members(source / "data/ds_000004.tar", foreign_members(99))
    with (source / "splits.csv").open("a", encoding="utf-8") as rows:
        rows.write("ds_000004,test\n")
    outcome = run_convert(source, tmp_path / "c")
    assert_one_line(outcome, 2, "knows nothing of data/ds_000004.tar")
    assert len(convert_to(tmp_path / "d", source, "--on-error", "skip")) == 12


def test_a_lost_parquet_file_is_noticed(tmp_path: Path) -> None:
    """A dataset of ours with fewer rows than its manifest says is not converted in silence."""
    source = make_dataset(tmp_path / "source", "parquet")
    lost = source / "data/train-00001-of-00003.parquet"
    pq.write_table(pq.read_table(lost).slice(0, 0), lost)
    assert_one_line(run_convert(source, tmp_path / "out"), 1, "'train': 11", "'train': 16")
    lost.unlink()
    assert_one_line(run_convert(source, tmp_path / "out"), 2, "has 2 of 3 files like data/train-")


ODD_FIELDS = [
    ({"videoID": "\ud800"}, "youtube_id is"),
    ({"start_time": 10**30}, "time_start is"),
    ({"label_id": True}, "label_id is"),
    ({"duration": float("nan")}, "duration is"),
    ({"extra": {"a": 1}}, "extra is"),
]


@pytest.mark.parametrize(("fields", "message"), ODD_FIELDS)
def test_what_no_column_holds_is_damage(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    """Values of a foreign json that cannot be written are named, or become a failure."""
    (tmp_path / "source/train").mkdir(parents=True)
    odd = [("odd.json", json.dumps(fields).encode()), ("odd.npy", npy_bytes(random_array(1)))]
    members = [*foreign_members(0), *odd]
    write_members(tmp_path / "source/train/00000.tar", members)
    outcome = run_convert(tmp_path / "source", tmp_path / "a")
    assert_one_line(outcome, 1, "00000.tar: sample odd: ", message)
    output = convert_to(tmp_path / "b", tmp_path / "source", "--on-error", "skip")
    assert len(output) == len(read_failures(tmp_path / "b")) == 1


def test_contradicting_labels_are_damage(tmp_path: Path) -> None:
    """A label id that is not the class of its caption is not published as if it were."""
    source = write_tars_only(tmp_path / "source")
    samples = [make_sample(number) for number in range(3)]
    write_members(source / "ds_000000.tar", [])
    write_one_tar(tmp_path / "other", samples)
    (tmp_path / "other/train/00000.tar").rename(source / "ds_000000.tar")
    manifest = json.loads((source / "manifest.json").read_text(encoding="utf-8"))
    manifest["class_names"] = manifest["class_names"][::-1]
    (source / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    outcome = run_convert(source, tmp_path / "out")
    assert_one_line(outcome, 1, "label_id 0 is not the class that the caption names")


def test_too_many_failures_end_with_code_1(tmp_path: Path) -> None:
    """More failures than `--max-failures` are written, and are exit code 1."""
    source = write_faults(tmp_path / "source")
    outcome = run_convert(source, tmp_path / "out", "--max-failures", "0.4")
    assert_one_line(outcome, 1, "4 of 8 clips failed (50%), more than --max-failures 0.4")
    assert verify_dataset(tmp_path / "out") == []
