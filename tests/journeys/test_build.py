"""A folder of clips becomes the published layout, and nothing is lost."""

import csv
import json
import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from clip_kinetics700.schema import REASONS, decode_npy
from clip_kinetics700_builder.types import InputError
from tests.support.datasets.builds import RunBuild, build_arguments, command_line, published_hashes
from tests.support.kinetics.miniature import ROWS, SPLIT_WORDS, MiniKinetics
from tests.support.processes.checkout import SOURCE_PATHS

pytestmark = pytest.mark.needs_ffmpeg


def read_index(dataset: Path) -> list[dict[str, Any]]:
    """Return the rows of index.parquet."""
    rows: list[dict[str, Any]] = pq.read_table(dataset / "index.parquet").to_pylist()
    return rows


def read_manifest(dataset: Path) -> dict[str, Any]:
    """Return manifest.json."""
    manifest: dict[str, Any] = json.loads((dataset / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def list_members(path: Path) -> list[tarfile.TarInfo]:
    """Return the headers of a tar."""
    with tarfile.open(path) as tar:
        return tar.getmembers()


def test_every_row_is_a_sample_or_a_failure(dataset: Path) -> None:
    """28 rows give 23 samples and 5 failures, and no row is both or neither."""
    key = ("split", "youtube_id", "time_start", "time_end")
    samples = [tuple(row[name] for name in key) for row in read_index(dataset)]
    failures = [
        tuple(row[name] for name in key)
        for row in pq.read_table(dataset / "failures.parquet").to_pylist()
    ]
    planned = [(r.split, r.youtube_id, r.time_start, r.time_end) for r in ROWS]
    assert (len(samples), len(failures)) == (23, 5)
    assert sorted(samples + failures) == sorted(planned)


def test_splits_are_whole(dataset: Path) -> None:
    """The splits hold 14, 5 and 4 samples, in the order train, validation, test."""
    splits = [row["split"] for row in read_index(dataset)]
    assert splits == ["train"] * 14 + ["validation"] * 5 + ["test"] * 4


def test_failures_tell_their_reason(dataset: Path) -> None:
    """Each failed row has the reason of its file, from the closed list, and one clean line."""
    table = pq.read_table(dataset / "failures.parquet").to_pylist()
    reasons = {row["youtube_id"]: row["reason"] for row in table}
    assert reasons == {row.youtube_id: row.failure for row in ROWS if row.failure}
    for row in table:
        assert row["reason"] in REASONS
        assert row["message"]
        assert "\n" not in row["message"]
        assert "/" not in row["message"]


def test_captions_times_and_frame_counts_are_the_annotations(dataset: Path) -> None:
    """Caption, segment and number of frames of each sample are those of its row."""
    rows = {(r.youtube_id, r.time_start, r.time_end): r for r in ROWS}
    for sample in read_index(dataset):
        row = rows[sample["youtube_id"], sample["time_start"], sample["time_end"]]
        assert sample["caption"] == row.label
        assert sample["n_frames"] == row.n_frames
        assert sample["timestamps"] == [float(k) for k in range(row.n_frames)]
        assert (sample["label_id"] is None) == (row.label == "")


def test_tars_parquet_and_index_hold_the_same_rows(dataset: Path) -> None:
    """Row by row the npy of the tars equals the Parquet's embeddings bit for bit."""
    parquet = [
        row
        for name in ("train", "validation", "test")
        for path in sorted((dataset / "data").glob(f"{name}-*"))
        for row in pq.read_table(path).to_pylist()
    ]
    for row, entry in zip(parquet, read_index(dataset), strict=True):
        with (dataset / entry["tar_file"]).open("rb") as tar:
            tar.seek(entry["npy_offset"])
            array = decode_npy(tar.read(entry["npy_nbytes"]))
        stored = np.asarray(row["embeddings"], np.float16)
        assert array.tobytes() == stored.tobytes()
        assert row["meta"]["key"] == entry["key"]


def test_shards_follow_the_rule(dataset: Path) -> None:
    """Each tar holds five samples, the last of a split fewer; splits.csv names them in order."""
    with (dataset / "splits.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    counts = [len(list_members(dataset / f"{name}.tar")) // 3 for name, _ in rows[1:]]
    assert rows == [
        ["tar_file", "split"],
        ["ds_000000", "train"], ["ds_000001", "train"], ["ds_000002", "train"],
        ["ds_000003", "val"], ["ds_000004", "test"],
    ]  # fmt: skip
    assert counts == [5, 5, 4, 5, 4]


def test_tars_say_nothing_of_the_machine(dataset: Path) -> None:
    """Members are USTAR files in the order json, npy, txt with time 0 and a fixed owner."""
    raw = (dataset / "ds_000000.tar").read_bytes()
    assert raw[257:265] == b"ustar\x0000"
    members = list_members(dataset / "ds_000000.tar")
    assert [m.name for m in members[:4]] == [
        "vid_000000000.json", "vid_000000000.npy", "vid_000000000.txt", "vid_000000001.json",
    ]  # fmt: skip
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {
        (0, 0, 0, "", "", 0o644)
    }
    assert not any(m.pax_headers for m in members)


def test_the_manifest_knows_no_path(dataset: Path, mini_kinetics: MiniKinetics) -> None:
    """The manifest holds what can change a byte and nothing of where it was made."""
    text = (dataset / "manifest.json").read_text(encoding="utf-8")
    assert str(dataset.parent) not in text
    assert str(mini_kinetics.videos.parent) not in text
    configuration = read_manifest(dataset)["configuration"]
    assert configuration["dtype"] == "float32"
    assert configuration["model"] == "random_clip"
    assert set(configuration["weights_sha256"]) == {"model.safetensors"}


OTHER_WAYS = {
    "two decode workers": {"decode_workers": 2},
    "other parts": {"rows_per_part": 3},
    "from scratch": {},
}


@pytest.mark.parametrize("options", OTHER_WAYS.values(), ids=OTHER_WAYS.keys())
def test_same_plan_same_bytes(
    dataset: Path, run_build: RunBuild, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Every published file has the same sha256 however the work was done."""
    run_build(tmp_path / "other", **options)
    assert published_hashes(tmp_path / "other") == published_hashes(dataset)


def test_two_ranks_give_the_bytes_of_one(
    dataset: Path, run_build: RunBuild, tmp_path: Path
) -> None:
    """The first rank leaves parts, the second finishes and assembles the same files."""
    options = {"rows_per_part": 3, "world_size": 2}
    assert run_build(tmp_path / "out", rank=1, **options) is None
    assert run_build(tmp_path / "out", rank=0, **options) is not None
    assert published_hashes(tmp_path / "out") == published_hashes(dataset)


@pytest.mark.slow
def test_a_killed_build_goes_on(
    dataset: Path, mini_kinetics: MiniKinetics, random_model: Path, tmp_path: Path,
    run_build: RunBuild,
) -> None:  # fmt: skip
    """After kill -9 of the whole process group a second run ends in the same files."""
    output = tmp_path / "killed"
    arguments = [*build_arguments(mini_kinetics, random_model, output), "--rows-per-part", "2"]
    with subprocess.Popen(
        command_line(*arguments),
        env={**os.environ, "PYTHONPATH": SOURCE_PATHS},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        wait_for_part(process, output)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (output / "manifest.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in (output / ".build/parts").glob("*.json")}
    assert run_build(output, rows_per_part=2) is not None
    assert published_hashes(output) == published_hashes(dataset)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def wait_for_part(process: "subprocess.Popen[bytes]", output: Path) -> None:
    """Return as soon as one part is done."""
    while process.poll() is None and not list((output / ".build/parts").glob("*.json")):
        time.sleep(0.005)
    assert process.poll() is None, "the build ended before it could be killed"


def test_a_finished_build_is_not_done_again(run_build: RunBuild, tmp_path: Path) -> None:
    """A second run of a finished build writes nothing."""
    output = tmp_path / "out"
    run_build(output)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    run_build(output)
    after = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    written = [path for path in after if after[path] != before.get(path)]
    assert [path.name for path in written if path.suffix != ".lock"] == []


@pytest.mark.parametrize(
    ("option", "value", "difference"),
    [
        ("seed", 1, "seed was 0, now 1"),
        ("frames_per_second", 2.0, "frames_per_second was 1.0, now 2.0"),
        ("batch_size", 16, "batch_size was 8, now 16"),
        ("splits", ("train",), "rows.test was 4, now nothing"),
        ("rows_per_part", 7, "rows_per_part was 500, now 7"),
    ],
)
def test_a_changed_configuration_is_refused(
    dataset: Path, run_build: RunBuild, option: str, value: Any, difference: str
) -> None:
    """Another option in the same output directory is an error that names the difference."""
    with pytest.raises(InputError, match="another configuration") as caught:
        run_build(dataset, **{option: value})
    assert difference in str(caught.value)


def test_auto_choices_are_made_once(run_build: RunBuild, tmp_path: Path) -> None:
    """A later run with `auto` takes what the first one chose, whatever that was."""
    run_build(tmp_path / "out", batch_size=5, splits=("test",))
    manifest = run_build(tmp_path / "out", batch_size=None, dtype="auto", splits=("test",))
    assert manifest is not None
    assert manifest["configuration"]["batch_size"] == 5
    assert manifest["configuration"]["dtype"] == "float32"


def test_only_the_splits_asked_for(run_build: RunBuild, tmp_path: Path) -> None:
    """`splits` leaves the other splits out of plan, failures and files."""
    run_build(tmp_path / "out", splits=("test",))
    manifest = read_manifest(tmp_path / "out")
    assert list(manifest["totals"]["splits"]) == ["test"]
    assert [p.name for p in (tmp_path / "out/data").iterdir()] == ["test-00000-of-00001.parquet"]


def test_the_split_words_are_deepminds() -> None:
    """The miniature is annotated in the words of the real files."""
    assert SPLIT_WORDS["validation"] == "validate"
