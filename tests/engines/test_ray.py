"""A Ray cluster of two nodes runs on this machine, real in all but the network between them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from filelock import FileLock

from tests.support.datasets.builds import (
    Outcome,
    RunBuild,
    build_arguments,
    command_line,
    edit_report,
    published_hashes,
    run_cli_process,
)
from tests.support.kinetics.miniature import MiniKinetics
from tests.support.processes.checkout import SOURCE_PATHS
from tests.support.processes.ray_nodes import ENVIRONMENT, RayNode, find_address, run_node

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs_ffmpeg,
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed"),
]

# Frames enough that a build lasts until the second node has loaded the model.
MANY_FRAMES = 50.0


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Directory of Ray's files: pytest's own is too long for the path of a socket."""
    directory = Path(tempfile.mkdtemp(prefix="ray-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def head(directory: Path) -> Iterator[RayNode]:
    """A head node of one CPU, to which builds connect."""
    with run_node(directory, "head") as node:
        yield node


@pytest.fixture
def second(directory: Path, head: RayNode) -> Iterator[RayNode]:
    """Another node of one CPU, which a test may kill."""
    with run_node(directory, "second", head=head) as node:
        yield node


@pytest.fixture
def words(
    mini_kinetics: MiniKinetics,
    random_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:
    """The command line of a build by Ray, a part a clip; its paths are relative to `tmp_path`."""
    videos = Path(os.path.relpath(mini_kinetics.videos, tmp_path))
    model = Path(os.path.relpath(random_model, tmp_path))
    kinetics = MiniKinetics(mini_kinetics.annotations, videos)
    monkeypatch.chdir(tmp_path)
    arguments = build_arguments(kinetics, model, Path("out"))
    return [*arguments, "--rows-per-part", "1", "--engine", "ray"]


def start(words: list[str], head: RayNode) -> subprocess.Popen[str]:
    """Start a build on the cluster, whose nodes have another working directory."""
    return subprocess.Popen(
        command_line(*words, "--ray-address", head.address),
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(words: list[str], head: RayNode) -> Outcome:
    """Run a build on the cluster."""
    return run_cli_process(*words, "--ray-address", head.address, **ENVIRONMENT)


def list_done(parts: Path) -> set[str]:
    """Return the names of the finished parts."""
    return {path.stem for path in parts.glob("*.json")}


def wait_for_part(build: subprocess.Popen[str], parts: Path) -> None:
    """Wait until the first part is finished."""
    while not list_done(parts):
        assert build.poll() is None, build.communicate()[1]
        time.sleep(0.005)


def stop_at_work(build: subprocess.Popen[str], node: RayNode, parts: Path) -> str:
    """Freeze a node in the middle of a part; return the part's name."""
    while True:
        assert build.poll() is None, build.communicate()[1]
        if node.list_held(parts):
            processes = node.list_processes()
            for process in processes:
                process.suspend()
            held = set(node.list_held(parts)) - list_done(parts)
            if held:
                return held.pop()
            for process in processes:
                process.resume()
        time.sleep(0.005)


def test_two_nodes_give_the_bytes_of_one_machine(
    dataset: Path, words: list[str], head: RayNode, second: RayNode, tmp_path: Path
) -> None:
    """A build on two nodes publishes the files of a local one, byte for byte."""
    outcome = run(words, head)
    assert outcome.returncode == 0, outcome.stderr
    assert "Ray: 2 nodes, 2 tasks at a time" in outcome.stderr
    assert re.search(r"encode: 28 of 28 clips", outcome.stderr)
    assert published_hashes(tmp_path / "out") == published_hashes(dataset)


def test_a_node_that_is_killed_costs_no_clip(
    run_build: RunBuild, words: list[str], head: RayNode, second: RayNode, tmp_path: Path
) -> None:
    """A node killed while it works at a part: the other one does that part; the bytes are equal."""
    expected = tmp_path / "local"
    assert run_build(expected, frames_per_second=MANY_FRAMES) is not None
    parts = tmp_path / "out/.build/parts"
    with start([*words, "--frames-per-second", str(MANY_FRAMES)], head) as build:
        wait_for_part(build, parts)
        # The first node stands still until the second one is at work.
        paused = head.list_tasks()
        for task in paused:
            task.suspend()
        held = stop_at_work(build, second, parts)
        done = list_done(parts)
        second.kill()
        for task in paused:
            task.resume()
        _, stderr = build.communicate(timeout=240)
    assert build.returncode == 0, stderr
    assert held not in done
    assert len(done) < 28
    assert published_hashes(tmp_path / "out") == published_hashes(expected)


def test_a_part_in_other_hands_is_done_in_the_end(
    words: list[str], head: RayNode, tmp_path: Path
) -> None:
    """A part that a process still holds is waited for and handed out again, not left out."""
    parts = tmp_path / "out/.build/parts"
    parts.mkdir(parents=True)
    lock = FileLock(parts / "test-00002.lock")
    with lock, start([*words, "--splits", "test"], head) as build:
        assert build.stderr is not None
        assert any(line.startswith("part test-00002 is held") for line in build.stderr)
        assert len(list_done(parts)) == 3
        lock.release()
        _, stderr = build.communicate(timeout=60)
    assert build.returncode == 0, stderr
    assert list_done(parts) == {f"test-0000{number}" for number in range(4)}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_build_and_its_tasks(
    words: list[str], head: RayNode, tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C and SIGTERM end in one line and the shell's exit code; no task works on."""
    parts = tmp_path / "out/.build/parts"
    words += ["--frames-per-second", str(MANY_FRAMES), "--quiet"]
    with start(words, head) as build:
        wait_for_part(build, parts)
        build.send_signal(number)
        stdout, stderr = build.communicate(timeout=60)
    assert build.returncode == 128 + number, stderr
    assert stdout == ""
    assert stderr.endswith("run it again to go on\n")
    assert len(stderr.strip().splitlines()) == 1, stderr
    end = time.monotonic() + 30
    while head.list_tasks():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_an_error_of_a_task_is_one_line(
    run_build: RunBuild, words: list[str], head: RayNode, tmp_path: Path
) -> None:
    """A model that cannot be used is exit code 2, an encoder that has changed is exit code 1."""
    words += ["--splits", "test", "--quiet"]
    model = tmp_path / "empty_model"
    model.mkdir()
    outcome = run([*words, "--model", str(model)], head)
    assert_one_line(outcome, 2, "model empty_model: the directory holds no config.json")
    assert not (tmp_path / "out").exists()
    run_build(tmp_path / "out", splits=("test",), rows_per_part=1)
    report = tmp_path / "out/.build/parts/test-00000.json"
    canary = json.loads(report.read_text(encoding="utf-8"))["canary"]
    edit_report(tmp_path / "out", "test-00000", canary=canary[::-1])
    assert_one_line(run(words, head), 1, "the encoder gives another embedding of the package's")


def test_an_outage_on_a_node_is_one_line(
    words: list[str], head: RayNode, mini_kinetics: MiniKinetics, dataset: Path, tmp_path: Path
) -> None:
    """Nothing is recorded, and the same command goes on."""
    videos, elsewhere, output = (tmp_path / name for name in ("videos", "elsewhere", "out"))
    shutil.copytree(mini_kinetics.videos, videos)
    words += ["--videos", str(videos), "--outage-wait", "0", "--quiet"]
    build = start(words, head)
    wait_for_part(build, output / ".build/parts")
    videos.rename(elsewhere)
    errors = build.communicate()[1]
    assert_one_line(Outcome(build.returncode, "", errors), 1, "run the same command again")
    elsewhere.rename(videos)
    assert run(words, head).returncode == 0
    assert published_hashes(output) == published_hashes(dataset)


def test_a_cluster_that_is_not_there_is_one_line(words: list[str], tmp_path: Path) -> None:
    """An address at which nothing answers is named within seconds, and nothing is written."""
    address = find_address()
    outcome = run_cli_process(*words, "--ray-address", address, **ENVIRONMENT)
    assert_one_line(outcome, 2, f"--ray-address {address}: nothing answers there")
    outcome = run_cli_process(*words, **ENVIRONMENT, RAY_ADDRESS=address)
    assert_one_line(outcome, 2, f"RAY_ADDRESS {address}: nothing answers there")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("gpus", "expected"), [("0", (0, "stayed\n", "")), ("1", (1, "", ""))])
def test_a_process_with_another_gpu_makes_room(gpus: str, expected: tuple[int, str, str]) -> None:
    """A process that has its model on one GPU does no task for which Ray gives it another."""
    program = (
        "from clip_kinetics700_builder.engines import ray as r\n"
        "r._sessions['job'] = r.Session(None, None, '0', None)\n"
        "r.open_session(r.Assignment('job', None, None))\n"
        "print('stayed')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": SOURCE_PATHS, "CUDA_VISIBLE_DEVICES": gpus},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == expected


def assert_one_line(outcome: Outcome, code: int, message: str) -> None:
    """The command ends with an exit code and one line that holds a message."""
    assert outcome.returncode == code, outcome.stderr
    assert message in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1, outcome.stderr
