"""Whatever stops a run from outside is one line: no room, no permission, a signal."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download

from tests.support.datasets.builds import (
    build_arguments,
    command_line,
    published_hashes,
    run_cli,
    run_cli_process,
)
from tests.support.hub.servers import serve
from tests.support.kinetics.cvdf import CvdfTree
from tests.support.kinetics.miniature import MiniKinetics
from tests.support.processes.checkout import SOURCE_PATHS
from tests.support.processes.failing_disk import FailingDisk
from tests.support.processes.permissions import run_without_override, start_without_override

pytestmark = pytest.mark.needs_ffmpeg

linux = pytest.mark.skipif(sys.platform != "linux", reason="/dev/full and capabilities are Linux's")

UPLOAD = """
import sys
from huggingface_hub import HfApi
HfApi().create_repo("alice/clip", exist_ok=True)
HfApi().upload_folder(repo_id="alice/clip", folder_path=sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        ".build/plan.parquet",
        ".build/parts/train-00000.arrow",
        "ds_000001.tar",
        "data/train-00000-of-00003.parquet",
        "failures.parquet",
    ],
)
def test_a_full_disk_is_one_line_and_the_next_run_goes_on(
    mini_kinetics: MiniKinetics, random_model: Path, dataset: Path, tmp_path: Path, name: str,
    failing_disk: FailingDisk,
) -> None:  # fmt: skip
    """Wherever there is no room, the file is named, none is half, and the build ends later."""
    output = tmp_path / "out"
    arguments = build_arguments(mini_kinetics, random_model, output)
    full = failing_disk.environment("write", errno.ENOSPC, f"{name}.partial", tmp_path)
    outcome = run_cli_process(*arguments, **full)
    assert outcome.returncode == 1
    line = f"{output / name}: No space left on device; make room, then run it again to go on"
    assert outcome.stderr.strip().splitlines()[-1] == f"clip-kinetics700: {line}"
    assert not list(output.rglob(f"{Path(name).name}*"))
    outcome = run_cli(*arguments)
    assert outcome.returncode == 0, outcome.stderr
    assert published_hashes(output) == published_hashes(dataset)


@pytest.mark.slow
@linux
def test_a_permission_that_is_lost_is_one_line(
    mini_kinetics: MiniKinetics, random_model: Path, dataset: Path, tmp_path: Path
) -> None:
    """A directory that may not be written to any more ends the build, which can go on later."""
    output = tmp_path / "out"
    arguments = [*build_arguments(mini_kinetics, random_model, output), "--rows-per-part", "2"]
    parts = output / ".build/parts"
    with start_without_override(*arguments, "--quiet") as process:
        while process.poll() is None and not list(parts.glob("*.json")):
            time.sleep(0.005)
        parts.chmod(0o555)
        _, stderr = process.communicate(timeout=120)
    parts.chmod(0o755)
    assert process.returncode == 1, stderr
    assert "Permission denied" in stderr
    assert stderr.count("\n") == 1
    assert run_cli(*arguments).returncode == 0
    assert published_hashes(output) == published_hashes(dataset)


@linux
@pytest.mark.slow
def test_a_read_only_model_cache_serves_what_it_holds(
    mini_kinetics: MiniKinetics, random_model: Path, tmp_path: Path, hub: dict[str, str]
) -> None:
    """A model that is in a cache for reading only is used; one that is not is one clear line."""
    command = [sys.executable, "-c", UPLOAD, str(random_model)]
    subprocess.run(command, env={**os.environ, **hub}, check=True, capture_output=True)
    cache = Path(hub["HF_HOME"]) / "hub"
    cache.mkdir(parents=True)
    arguments = build_arguments(mini_kinetics, random_model, tmp_path / "out")
    arguments[arguments.index("--model") + 1] = "alice/clip"
    set_mode(cache, 0o555)
    outcome = run_without_override(*arguments, "--quiet", **hub)
    assert outcome.returncode == 2, outcome.stderr
    line = outcome.stderr.splitlines()[-1]
    assert "--model alice/clip: the Hub's cache cannot be written: " in line
    assert line.endswith(": Permission denied; set HF_HOME to another directory")
    set_mode(cache, 0o755)
    snapshot_download(
        "alice/clip", endpoint=hub["HF_ENDPOINT"], token=hub["HF_TOKEN"], cache_dir=cache
    )
    shutil.rmtree(cache / ".locks", ignore_errors=True)
    set_mode(cache, 0o555)
    outcome = run_without_override(*arguments, "--quiet", **hub)
    set_mode(cache, 0o755)
    assert outcome.returncode == 0, outcome.stderr


def set_mode(directory: Path, mode: int) -> None:
    """Change the permission bits of a directory and of all below it."""
    for place, _, _ in os.walk(directory):
        Path(place).chmod(mode)


def start_stalled_download(tree: CvdfTree, url: str, output: Path) -> "subprocess.Popen[str]":
    """Start a download whose server will say nothing."""
    words = ["--version", "600", "--base-url", url, "--output", str(output), "--quiet"]
    return subprocess.Popen(
        command_line("download", "--annotations", *tree.annotations, *words),
        env={**os.environ, "PYTHONPATH": SOURCE_PATHS},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_an_interrupt_does_not_wait_for_a_silent_server(
    trees: dict[str, CvdfTree], tmp_path: Path
) -> None:
    """Ctrl-C ends a download within seconds, though its server would be waited for for minutes."""
    with serve(trees["600"].root) as served:
        served.fail("tar.gz", "stall")
        with start_stalled_download(trees["600"], served.url, tmp_path) as process:
            while process.poll() is None and not served.n_stalled:
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGINT
    assert stderr.strip() == "clip-kinetics700: interrupted; run it again to go on"


CLEANING = """
import sys, time
from clip_kinetics700_builder.system.signals import catch_signals
with catch_signals():
    try:
        print("at work", flush=True)
        time.sleep(600)
    finally:
        print("cleaning up", flush=True)
        time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(number: signal.Signals) -> None:
    """A second signal does not wait for what still hangs on the way out after the first."""
    with subprocess.Popen(
        [sys.executable, "-c", CLEANING],
        env={**os.environ, "PYTHONPATH": SOURCE_PATHS},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        process.send_signal(number)
        assert process.stdout.readline() == "cleaning up\n"
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert stderr == "clip-kinetics700: ended at once; run it again to go on\n"


def test_what_nohup_ignores_stays_ignored() -> None:
    """A closed terminal does not end a run that was started to outlive it."""
    code = (
        "import os, signal\n"
        "from clip_kinetics700_builder.system.signals import catch_signals\n"
        "with catch_signals():\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    print('alive')\n"
    )
    result = subprocess.run(
        ["nohup", sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": SOURCE_PATHS},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "alive\n")
