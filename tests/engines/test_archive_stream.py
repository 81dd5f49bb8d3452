"""A dataset built straight from archives equals one built from a directory of their clips."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow.parquet as pq
import pytest

from clip_kinetics700_builder.status import read_status
from clip_kinetics700_builder.types import InputError
from tests.support.datasets.builds import (
    SAMPLES_PER_SHARD,
    RunBuild,
    command_line,
    published_hashes,
)
from tests.support.hub.faults import Action
from tests.support.hub.servers import serve
from tests.support.kinetics.cvdf import CvdfTree
from tests.support.kinetics.hostile_archives import EVIL_DIRECTORY, HOSTILE, SOUND
from tests.support.kinetics.miniature import MiniKinetics
from tests.support.processes.checkout import SOURCE_PATHS

Stream = Callable[..., dict[str, Any] | None]


@pytest.fixture(scope="module")
def stream(run_build: RunBuild) -> Stream:
    """Return the function that builds from archives alone."""

    def run(output: Path, version: str, base_url: object, **options: Any) -> dict[str, Any] | None:
        sources = {"videos": None, "source": "cvdf", "version": version}
        return run_build(output, base_url=str(base_url), **{**sources, **options})

    return run


def read_reports(output: Path) -> dict[str, dict[str, Any]]:
    """Return the reports of a build's parts by name."""
    paths = (output / ".build/parts").glob("*.json")
    return {path.stem: json.loads(path.read_text()) for path in paths}


@pytest.mark.parametrize("version", ["600", "700-2020"])
def test_archives_give_the_bytes_of_a_directory(
    version: str, trees: dict[str, CvdfTree], stream: Stream, dataset: Path, tmp_path: Path
) -> None:
    """Streamed from a web server, every published file is the one built from the clips on disk."""
    with serve(trees[version].root) as served:
        assert stream(tmp_path / "out", version, served.url) is not None
    assert published_hashes(tmp_path / "out") == published_hashes(dataset)


def test_a_directory_of_archives_streams_too(
    trees: dict[str, CvdfTree], stream: Stream, dataset: Path, tmp_path: Path
) -> None:
    """A base that is a directory is read in place, and the release of 2019 looks there as well."""
    assert stream(tmp_path / "out", "700", trees["700-2020"].root) is not None
    assert published_hashes(tmp_path / "out") == published_hashes(dataset)


def test_the_overlay_replaces_damaged_clips(
    trees: dict[str, CvdfTree], stream: Stream, tmp_path: Path
) -> None:
    """A clip that is damaged in its part and whole in the overlay becomes a sample."""
    stream(tmp_path / "out", "400", trees["400"].root, class_list="700")
    failures = pq.read_table(tmp_path / "out/failures.parquet").to_pylist()
    assert "truncated_1" not in {row["youtube_id"] for row in failures}
    assert {row["reason"] for row in failures} == {"missing", "empty_file", "no_video_stream"}


def test_no_clip_stays_on_disk(trees: dict[str, CvdfTree], stream: Stream, tmp_path: Path) -> None:
    """After a build from archives its directory holds no video."""
    stream(tmp_path / "out", "600", trees["600"].root)
    suffixes = {path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".arrow", ".parquet", ".tar", ".csv", ".md", ".lock"}


def test_finished_archives_are_not_read_again(
    trees: dict[str, CvdfTree], stream: Stream, tmp_path: Path
) -> None:
    """A run that lacks one part fetches that part's archive alone."""
    with serve(trees["600"].root) as served:
        stream(tmp_path / "out", "600", served.url)
        (tmp_path / "out/.build/parts/train-yoga.json").unlink()
        (tmp_path / "out/manifest.json").unlink()
        served.forget()
        stream(tmp_path / "out", "600", served.url)
        fetched = {request.path for request in served.requests if ".tar" in request.path}
    assert fetched == {"/600/train/yoga.tar.gz"}


def test_videos_come_first(
    trees: dict[str, CvdfTree], stream: Stream, mini_kinetics: MiniKinetics, dataset: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    """No archive gives another copy of a clip that the videos directory holds."""
    videos = tmp_path / "videos"
    held = [path for path in mini_kinetics.videos.rglob("*.mp4") if "yoga" in path.name]
    for path in held:
        videos.mkdir(exist_ok=True)
        (videos / path.name).write_bytes(path.read_bytes())
    stream(tmp_path / "out", "600", trees["600"].root, videos=videos)
    assert published_hashes(tmp_path / "out") == published_hashes(dataset)
    assert read_reports(tmp_path / "out")["train-yoga"]["rows"] == []


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [3])
def test_ranks_share_archives(
    world_size: int, trees: dict[str, CvdfTree], stream: Stream, dataset: Path, tmp_path: Path
) -> None:
    """Ranks that take every third archive end in the bytes of one."""
    for rank in range(world_size):
        stream(tmp_path / "out", "600", trees["600"].root, rank=rank, world_size=world_size)
    assert published_hashes(tmp_path / "out") == published_hashes(dataset)


@pytest.mark.slow
def test_a_killed_stream_goes_on(
    trees: dict[str, CvdfTree], stream: Stream, dataset: Path, mini_kinetics: MiniKinetics,
    random_model: Path, tmp_path: Path,
) -> None:  # fmt: skip
    """After kill -9 in the middle of an archive a second run reads only what is not finished."""
    output, tree = tmp_path / "out", trees["600"]
    with serve(tree.root, latency_seconds=0.05) as served:
        command = command_line(
            "build", "--annotations", mini_kinetics.annotations, "--source", "cvdf",
            "--version", "600", "--base-url", served.url, "--output", output,
            "--model", random_model, "--dtype", "float32", "--batch-size", "8",
            "--decode-workers", "1", "--samples-per-shard", str(SAMPLES_PER_SHARD),
            "--no-figures",
        )  # fmt: skip
        with subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": SOURCE_PATHS},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        ) as process:  # fmt: skip
            while process.poll() is None and len(read_reports(output)) < 4:
                time.sleep(0.005)
            assert process.poll() is None
            os.killpg(process.pid, signal.SIGKILL)
        done = set(read_reports(output))
        assert read_status(output).reasons["train"]["not_done"] > 0
        served.forget()
        stream(output, "600", served.url)
        asked = {unquote(request.path) for request in served.requests if ".tar" in request.path}
    assert published_hashes(output) == published_hashes(dataset)
    assert 4 <= len(done) < len(tree.archives)
    assert len(asked) == len(tree.archives) - len(done)


def test_status_of_a_build_counts_as_its_manifest(
    trees: dict[str, CvdfTree], stream: Stream, tmp_path: Path
) -> None:
    """Clips that are there and reasons for the others are those of the manifest."""
    manifest = stream(tmp_path / "out", "600", trees["600"].root)
    status = read_status(tmp_path / "out")
    assert manifest is not None
    for split, totals in manifest["totals"]["splits"].items():
        assert status.held[split] == totals["samples"]
        assert status.reasons.get(split, {}) == totals["failures_by_reason"]


def copy_tree(tree: CvdfTree, target: Path) -> Path:
    """Return a copy of a tree that may be damaged."""
    for path in tree.root.rglob("*"):
        if path.is_file():
            copy = target / path.relative_to(tree.root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    return target


def test_a_failed_archive_is_tried_again_only_when_asked(
    trees: dict[str, CvdfTree], stream: Stream, dataset: Path, tmp_path: Path
) -> None:
    """An archive that is damaged gives no rows and a typed error; mended, it is read when asked."""
    root, output = copy_tree(trees["600"], tmp_path / "tree"), tmp_path / "out"
    archive = root / "600/train/yoga.tar.gz"
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    stream(output, "600", root)
    assert read_reports(output)["train-yoga"]["error"][0] == "truncated"
    assert published_hashes(output) != published_hashes(dataset)
    archive.write_bytes(whole)
    stream(output, "600", root)
    assert published_hashes(output) != published_hashes(dataset)
    stream(output, "600", root, retry_errors=("checksum",))
    assert "train-yoga.retry1" not in read_reports(output)
    stream(output, "600", root, retry_errors=("truncated",))
    assert published_hashes(output) == published_hashes(dataset)


def test_faults_in_passing_leave_no_trace(
    trees: dict[str, CvdfTree], stream: Stream, dataset: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Resets, cut bodies, flipped bits and errors of the server change no byte."""
    monkeypatch.setattr("clip_kinetics700.remote.PAUSE_SECONDS", 0.01)
    with serve(trees["700-2020"].root) as served:
        actions: tuple[Action | int, ...] = ("reset", "cut", "short", "flip", 503, 429)
        for number, action in enumerate(actions):
            served.fail(f"train_{number:03d}.tar", action, times=2 if action != "flip" else 1)
        stream(tmp_path / "out", "700-2020", served.url)
    assert published_hashes(tmp_path / "out") == published_hashes(dataset)


def test_an_archive_that_is_not_there_is_named(
    trees: dict[str, CvdfTree], stream: Stream, tmp_path: Path
) -> None:
    """An archive of the list that the server lacks is http_404, its clips are missing."""
    with serve(trees["600"].root) as served:
        served.fail("yoga.tar", 404)
        manifest = stream(tmp_path / "out", "600", served.url)
    assert manifest is not None
    assert read_reports(tmp_path / "out")["train-yoga"]["error"][0] == "http_404"
    rows = pq.read_table(tmp_path / "out/failures.parquet").to_pylist()
    assert {"yoga"} <= {row["label"] for row in rows if row["reason"] == "missing"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": None}, "--source cvdf needs --version"),
        ({"base_url": "/nowhere"}, "there is no list of the archives of"),
        ({"source": None}, "no clips are named"),
    ],
)
def test_misuse_is_one_line(
    options: dict[str, Any], message: str, run_build: RunBuild, tmp_path: Path
) -> None:
    """Sources that name nothing are refused before a byte is written."""
    words = {"videos": None, "source": "cvdf", "version": "600", "base_url": "/nowhere"}
    with pytest.raises(InputError, match=message):
        run_build(tmp_path / "out", **{**words, **options})
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_hostile_archives_cost_at_most_themselves(
    kind: str, trees: dict[str, CvdfTree], stream: Stream, dataset: Path, tmp_path: Path
) -> None:
    """Nothing is written outside, the other archives are read, and of a sound one the good clip."""
    tree = trees["600"]
    name, data = next((n, d) for n, d in tree.clips.items() if "yoga-yoga" in n)
    root = copy_tree(tree, tmp_path / "tree")
    (root / "600/train/yoga.tar.gz").write_bytes(HOSTILE[kind](name, data))
    before = set(tmp_path.rglob("*"))
    manifest = stream(tmp_path / "out", "600", root)
    assert manifest is not None
    assert {path for path in tmp_path.rglob("*") if "out" not in path.parts} == before
    assert not Path(EVIL_DIRECTORY).exists()
    if kind in SOUND:
        assert published_hashes(tmp_path / "out") == published_hashes(dataset)
    else:
        assert read_reports(tmp_path / "out")["train-yoga"]["error"] is not None
