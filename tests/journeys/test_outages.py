"""An outage of what clips come from is waited for, and never put on record as the clips' fault."""

import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from clip_kinetics700_builder.types import InputError, OutageError
from tests.support.damage.datasets import flip_byte
from tests.support.datasets.builds import (
    RunBuild,
    build_arguments,
    command_line,
    published_hashes,
    run_cli_process,
)
from tests.support.hub.servers import serve
from tests.support.kinetics.cvdf import CvdfTree
from tests.support.kinetics.downloads import (
    download_tree,
    list_clips,
    read_ledger,
    whole_clips,
)
from tests.support.kinetics.miniature import MiniKinetics
from tests.support.processes.checkout import SOURCE_PATHS
from tests.support.processes.failing_disk import FailingDisk

pytestmark = pytest.mark.needs_ffmpeg


@pytest.fixture
def videos(mini_kinetics: MiniKinetics, tmp_path: Path) -> Path:
    """A copy of the videos, which a test may take away."""
    return Path(shutil.copytree(mini_kinetics.videos, tmp_path / "videos"))


def at_start(act: Callable[[], object]) -> Callable[..., AbstractContextManager[Any]]:
    """Return what shows progress, and acts as soon as encoding begins."""

    @contextmanager
    def progress(description: str, _total: int, _unit: str) -> Iterator[Any]:
        if description == "encode":
            act()
        yield lambda _: None

    return progress


def move_away(videos: Path) -> None:
    """Rename a directory."""
    videos.rename(videos.with_name("elsewhere"))


def unmount(videos: Path) -> None:
    """Leave what an unmounted disk leaves: an empty directory."""
    move_away(videos)
    videos.mkdir()


def bring_back(videos: Path) -> None:
    """Undo either."""
    if videos.exists():
        videos.rmdir()
    videos.with_name("elsewhere").rename(videos)


@pytest.mark.parametrize("take_away", [move_away, unmount])
def test_a_directory_that_comes_back_costs_nothing(
    take_away: Callable[[Path], None], videos: Path, run_build: RunBuild, dataset: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    """The build waits for it, and ends in the bytes of an undisturbed one."""

    def act() -> None:
        take_away(videos)
        Timer(0.3, bring_back, (videos,)).start()

    run_build(tmp_path / "out", videos=videos, progress=at_start(act), outage_wait=60)
    assert published_hashes(tmp_path / "out") == published_hashes(dataset)


@pytest.mark.parametrize("take_away", [move_away, unmount])
def test_a_directory_that_stays_away_ends_the_build(
    take_away: Callable[[Path], None], videos: Path, run_build: RunBuild, dataset: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Nothing is recorded as failed, nor while it is away; the same build goes on afterwards."""
    output = tmp_path / "out"
    act = at_start(lambda: take_away(videos))
    with pytest.raises(OutageError, match="run the same command again"):
        run_build(output, videos=videos, progress=act, outage_wait=0)
    assert not list((output / ".build/parts").glob("*.json"))
    with pytest.raises(InputError, match=r"does not exist|is a disk not mounted\?"):
        run_build(output, videos=videos)
    assert not list((output / ".build/parts").glob("*.json"))
    bring_back(videos)
    run_build(output, videos=videos)
    assert published_hashes(output) == published_hashes(dataset)


def test_a_directory_of_one_class_that_is_unmounted_is_an_outage(
    videos: Path, run_build: RunBuild, tmp_path: Path
) -> None:
    """A disk may hold a part of the directory only."""
    directory = next(path for path in sorted(videos.rglob("*.mp4"))).parent
    with pytest.raises(OutageError, match=f"{directory.name}: is empty now"):
        run_build(
            tmp_path / "out", videos=videos, progress=at_start(lambda: unmount(directory)),
            outage_wait=0,
        )  # fmt: skip


def test_a_directory_that_holds_other_things_now_is_an_outage(
    mini_kinetics: MiniKinetics, run_build: RunBuild, tmp_path: Path
) -> None:
    """Where a disk was mounted there may lie a file that says so."""
    flat = tmp_path / "videos"
    flat.mkdir()
    for path in mini_kinetics.videos.rglob("*.mp4"):
        shutil.copy(path, flat)

    def act() -> None:
        unmount(flat)
        (flat / "NOT_MOUNTED").touch()

    with pytest.raises(OutageError, match="holds no clips any more"):
        run_build(tmp_path / "out", videos=flat, progress=at_start(act), outage_wait=0)


def test_a_build_goes_on_only_with_what_it_began_with(
    videos: Path, run_build: RunBuild, dataset: Path, tmp_path: Path
) -> None:
    """The same command finds that a part of the directory is away still; nothing is missing."""
    directory, output = next(iter(sorted(videos.rglob("*.mp4")))).parent, tmp_path / "out"
    for progress in (at_start(lambda: unmount(directory)), at_start(lambda: None)):
        with pytest.raises(OutageError, match=f"{directory.name}: .*disk not mounted"):
            run_build(output, videos=videos, progress=progress, outage_wait=0)
    bring_back(directory)
    run_build(output, videos=videos)
    assert published_hashes(output) == published_hashes(dataset)


def test_a_build_that_is_complete_needs_no_videos(
    videos: Path, run_build: RunBuild, dataset: Path, tmp_path: Path
) -> None:
    """Their disk may be given back; a part that is damaged later needs it again."""
    output = tmp_path / "out"
    run_build(output, videos=videos)
    unmount(videos)
    run_build(output, videos=videos)
    assert published_hashes(output) == published_hashes(dataset)
    flip_byte(next((output / ".build/parts").glob("*.arrow")), 9000)
    with pytest.raises(InputError, match="is a disk not mounted"):
        run_build(output, videos=videos)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        ("stat", errno.ESTALE),
        ("stat", errno.EIO),
        ("open", errno.ETIMEDOUT),
        ("open", errno.EMFILE),
        ("read", errno.EIO),
        ("read", errno.ESTALE),
    ],
)
def test_an_error_of_the_disk_is_no_fault_of_a_clip(
    fault: tuple[str, int], failing_disk: FailingDisk, mini_kinetics: MiniKinetics,
    random_model: Path, dataset: Path, tmp_path: Path,
) -> None:  # fmt: skip
    """Whatever the disk says when the videos are read, nothing is recorded."""
    call, number = fault
    switch, output = tmp_path / "on", tmp_path / "out"
    arguments = build_arguments(mini_kinetics, random_model, output)
    environment = failing_disk.environment(call, number, mini_kinetics.videos, switch)
    switch.touch()
    first = run_cli_process(*arguments, "--quiet", "--outage-wait", "0", **environment)
    assert first.returncode == 1, first.stderr
    assert os.strerror(number) in first.stderr
    assert not list((output / ".build/parts").glob("*.json"))
    switch.unlink()
    again = run_cli_process(*arguments, "--quiet", **environment)
    assert again.returncode == 0, again.stderr
    assert published_hashes(output) == published_hashes(dataset)


@pytest.mark.slow
def test_a_build_that_is_suspended_loses_no_clip(
    mini_kinetics: MiniKinetics, random_model: Path, dataset: Path, tmp_path: Path
) -> None:
    """All its processes are stopped for longer than a clip may take, at work and at hand-over."""
    output = tmp_path / "out"
    arguments = build_arguments(mini_kinetics, random_model, output)
    process = subprocess.Popen(
        command_line(*arguments, "--quiet", "--task-timeout", "1"),
        env={**os.environ, "PYTHONPATH": SOURCE_PATHS},
        start_new_session=True,
    )
    try:
        while process.poll() is None:
            os.killpg(process.pid, signal.SIGSTOP)
            time.sleep(1.5)
            os.killpg(process.pid, signal.SIGCONT)
            time.sleep(0.7)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0
    assert published_hashes(output) == published_hashes(dataset)


def test_a_server_that_comes_back_costs_nothing(
    trees: dict[str, CvdfTree], run_build: RunBuild, dataset: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A build from archives waits for their server."""
    monkeypatch.setattr("clip_kinetics700.remote.PAUSE_SECONDS", 0.01)
    with serve(trees["600"].root) as served:
        served.fail("yoga.tar", "reset", times=8)
        sources = {"videos": None, "source": "cvdf", "version": "600", "base_url": served.url}
        run_build(tmp_path / "out", **sources, outage_wait=60)
    assert published_hashes(tmp_path / "out") == published_hashes(dataset)


@pytest.mark.parametrize("action", ["reset", 503, pytest.param("stall", marks=pytest.mark.slow)])
def test_a_server_that_stays_away_ends_the_build(
    action: Any, trees: dict[str, CvdfTree], run_build: RunBuild, dataset: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The archive is not recorded as damaged, and the same build finishes once it is back."""
    monkeypatch.setattr("clip_kinetics700.remote.SILENCE_SECONDS", 0.2)
    monkeypatch.setattr("clip_kinetics700.remote.PAUSE_SECONDS", 0.01)
    output = tmp_path / "out"
    sources = {"videos": None, "source": "cvdf", "version": "600"}
    with serve(trees["600"].root) as served:
        served.fail("yoga.tar", action)
        with pytest.raises(OutageError, match="yoga"):
            run_build(output, **sources, base_url=served.url, outage_wait=0)
    assert not (output / ".build/parts/train-yoga.json").exists()
    with serve(trees["600"].root) as served:
        run_build(output, **sources, base_url=served.url)
    assert published_hashes(output) == published_hashes(dataset)


def test_a_server_that_refuses_all_ends_the_build(
    trees: dict[str, CvdfTree], run_build: RunBuild, dataset: Path, tmp_path: Path
) -> None:
    """A link that has expired is no fault of any archive, so none of them is recorded."""
    output = tmp_path / "out"
    sources = {"videos": None, "source": "cvdf", "version": "600"}
    with serve(trees["600"].root) as served:
        served.fail(".tar", 403)
        with pytest.raises(OutageError, match="3 archives in a row cannot be read"):
            run_build(output, **sources, base_url=served.url)
    assert not list((output / ".build/parts").glob("*.json"))
    with serve(trees["600"].root) as served:
        run_build(output, **sources, base_url=served.url)
    assert published_hashes(output) == published_hashes(dataset)


def test_the_last_archives_are_not_lost_for_a_refusal(
    trees: dict[str, CvdfTree], run_build: RunBuild, tmp_path: Path
) -> None:
    """A link may have expired before the last ones; where they are to fail, that has to be said."""
    sources = {"videos": None, "source": "cvdf", "version": "400", "splits": ("train",)}
    with serve(trees["400"].root) as served:
        served.fail("train/part_1", 403)
        with pytest.raises(OutageError, match=r"part_1.*403"):
            run_build(tmp_path / "out", **sources, base_url=served.url)
        assert run_build(tmp_path / "out", **sources, base_url=served.url, max_failures=1)


def test_a_disk_of_archives_that_is_unmounted_ends_the_build(
    trees: dict[str, CvdfTree], run_build: RunBuild, dataset: Path, tmp_path: Path
) -> None:
    """Archives on a disk are no more at fault than those of a server."""
    root = Path(shutil.copytree(trees["600"].root, tmp_path / "tree"))
    sources = {"videos": None, "source": "cvdf", "version": "600", "base_url": str(root)}
    output = tmp_path / "out"
    with pytest.raises(OutageError, match="was it moved, or is a disk missing"):
        run_build(output, **sources, progress=at_start(lambda: move_away(root)), outage_wait=0)
    bring_back(root)
    run_build(output, **sources)
    assert published_hashes(output) == published_hashes(dataset)


def test_a_host_without_a_name_is_an_outage(
    trees: dict[str, CvdfTree], run_build: RunBuild, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Where no name is resolved, no list of archives is read, and nothing is written."""
    monkeypatch.setattr("clip_kinetics700.remote.PAUSE_SECONDS", 0.01)
    with pytest.raises(OutageError, match=r"no-such-host\.invalid"):
        run_build(
            tmp_path / "out", videos=None, source="cvdf", version="600",
            annotations=trees["600"].annotations, base_url="http://no-such-host.invalid/",
            outage_wait=0,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("action", ["reset", pytest.param("stall", marks=pytest.mark.slow)])
def test_an_outage_is_on_no_line_of_the_ledger(
    action: Any, trees: dict[str, CvdfTree], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download that its server leaves goes on with the same command."""
    monkeypatch.setattr("clip_kinetics700.remote.SILENCE_SECONDS", 0.2)
    monkeypatch.setattr("clip_kinetics700.remote.PAUSE_SECONDS", 0.001)
    tree = trees["600"]
    with serve(tree.root) as served:
        served.fail("train/yoga.tar", action)
        with pytest.raises(OutageError, match="yoga"):
            download_tree(tree, tmp_path, base_url=served.url, outage_wait=0)
    assert {attempt.reason for attempt in read_ledger(tmp_path)} <= {
        None,
        "not_in_archive",
        "empty_file",
    }
    with serve(tree.root) as served:
        download_tree(tree, tmp_path, base_url=served.url)
    assert list_clips(tmp_path) == whole_clips(tree)


def test_a_server_that_refuses_all_ends_a_download(
    trees: dict[str, CvdfTree], tmp_path: Path
) -> None:
    """A link that has expired is on no line of the ledger."""
    tree = trees["600"]
    with serve(tree.root) as served:
        served.fail(".tar", 403)
        with pytest.raises(OutageError, match="has a link expired"):
            download_tree(tree, tmp_path, base_url=served.url)
        assert not read_ledger(tmp_path)
        served.heal()
        download_tree(tree, tmp_path, base_url=served.url)
    assert list_clips(tmp_path) == whole_clips(tree)


def test_a_download_waits_for_its_directory(
    mini_kinetics: MiniKinetics, videos: Path, trees: dict[str, CvdfTree], tmp_path: Path
) -> None:
    """A directory that is copied from is treated as one that is built from."""
    unmount(videos)
    with pytest.raises(InputError, match="is a disk not mounted"):
        download_tree(trees["600"], tmp_path / "got", source=(str(videos),))
    bring_back(videos)
    download_tree(trees["600"], tmp_path / "got", source=(str(videos),))
    assert list_clips(tmp_path / "got")


@pytest.mark.slow
def test_a_full_shared_memory_costs_nothing(
    mini_kinetics: MiniKinetics, random_model: Path, dataset: Path, tmp_path: Path
) -> None:
    """Decoders share memory with the build, which is then taken elsewhere."""
    inside = ["unshare", "-rm", "sh", "-c"]
    fill = "mount -t tmpfs -o size=64k none /dev/shm; head -c 1M /dev/zero > /dev/shm/fill"
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"], check=False).returncode:
        pytest.skip("this system gives nobody a /dev/shm of their own")
    words = command_line(*build_arguments(mini_kinetics, random_model, tmp_path / "out"))
    command = [*inside, f'{fill}; exec "$@"', "sh", *words, "--quiet"]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": SOURCE_PATHS}, check=True)
    assert published_hashes(tmp_path / "out") == published_hashes(dataset)
