"""A task that hangs or dies costs its own clip; the others come out in order."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Timer

import psutil
import pytest

from clip_kinetics700_builder.decode.pool import (
    MAX_WINDOW_BYTES,
    TASKS_PER_WORKER,
    DecodePool,
)
from clip_kinetics700_builder.decode.video import DecodeTask, Decoding, decode_frames
from clip_kinetics700_builder.system.signals import SIGNALS
from clip_kinetics700_builder.types import BuildError, Failure, Frames, OutageError
from tests.support.media.videos import UNCHANGED, CodedVideo, encode_coded, read_codes
from tests.support.processes.checkout import SOURCE_PATHS
from tests.support.processes.misdeeds import MISDEEDS, misbehave, worker_pids

pytestmark = pytest.mark.needs_ffmpeg


def make_task(row: int, video: CodedVideo) -> DecodeTask:
    """Return the task that decodes a video from its start."""
    return DecodeTask(row, str(video.path), 0, Decoding(1.0, UNCHANGED))


def test_clips_come_in_order_with_failures_among_them(
    plain_video: CodedVideo, tmp_path: Path
) -> None:
    """Results come in the order of the tasks, whichever worker was first."""
    (tmp_path / "noise.mp4").write_bytes(b"noise" * 100)
    task = make_task(0, plain_video)
    tasks: list[DecodeTask | Failure] = [
        task,
        Failure(1, "source", "missing", "no file"),
        replace(task, row=2, path=str(tmp_path / "noise.mp4")),
        *(replace(task, row=row) for row in range(3, 9)),
    ]
    with DecodePool(2, 60) as pool:
        results = list(pool.decode(tasks))
    reasons = [result.reason if isinstance(result, Failure) else "" for result in results]
    assert [result.row for result in results] == list(range(9))
    assert reasons == ["", "missing", "unreadable", *[""] * 6]


def test_a_long_clip_comes_in_pieces(video_directory: Path) -> None:
    """More than 64 kept frames are several tasks, whose frames join without a seam."""
    options = ("-c:v", "libx264", "-g", "30")
    video = encode_coded(video_directory / "pool_long.mp4", options=options, n_frames=400)
    with DecodePool(2, 60) as pool:
        pieces = list(
            pool.decode([replace(make_task(0, video), decoding=Decoding(10.0, UNCHANGED))])
        )
    frames = [piece for piece in pieces if isinstance(piece, Frames)]
    assert [piece.first for piece in frames] == [0, 64, 128]
    codes = [code for piece in frames for code in read_codes(piece.pixels)]
    assert codes == video.codes_at([k / 10 for k in range(160)])


def test_a_clip_is_not_joined_of_two_files(video_directory: Path, tmp_path: Path) -> None:
    """Where a long clip is replaced while it is decoded, the run stops."""
    options = ("-c:v", "libx264", "-g", "30")
    video = encode_coded(video_directory / "pool_long.mp4", options=options, n_frames=400)
    file, other = tmp_path / "long.mp4", tmp_path / "other.mp4"
    for path in (file, other):
        shutil.copy(video.path, path)
    task = DecodeTask(0, str(file), 0, Decoding(10.0, UNCHANGED))
    with DecodePool(1, 60) as pool:
        pieces = pool.decode([task])
        next(pieces)
        other.replace(file)
        with pytest.raises(OutageError, match="was changed while it was decoded"):
            list(pieces)


LEFT_BEHIND: list[bytearray] = []


def leave_memory(task: DecodeTask) -> Frames | Failure:
    """Decode, and never give back 150 MiB; runs in a worker."""
    LEFT_BEHIND.append(bytearray(b"x") * (150 << 20))
    # The pause is long enough for the parent to look.
    time.sleep(0.3)
    return decode_frames(task)


def pause(task: DecodeTask) -> Frames | Failure:
    """Decode after the parent has looked a few times; runs in a worker."""
    time.sleep(0.2)
    return decode_frames(task)


class Unstartable:
    """A decode function that no worker survives to receive."""

    def __call__(self, task: DecodeTask) -> Frames | Failure:
        """Never called."""
        raise AssertionError("no worker lives to call it")

    def __reduce__(self) -> tuple[Callable[[int], object], tuple[int]]:
        """Be unpickled as the end of the process."""
        return os._exit, (1,)


def decode_all(pool: DecodePool, tasks: Iterable[DecodeTask]) -> list[str]:
    """Return the reasons of what comes out, empty for frames, one for each task in order."""
    tasks = list(tasks)
    results = list(pool.decode(tasks))
    assert [result.row for result in results] == [task.row for task in tasks]
    return [result.reason if isinstance(result, Failure) else "" for result in results]


def kill_workers(pool: DecodePool) -> None:
    """Kill every worker, as the kernel does where memory is short."""
    for pid in worker_pids(pool):
        os.kill(pid, signal.SIGKILL)


HARM = {
    "hang": "timed_out",
    "die": "crashed",
    "leave": "crashed",
    "balloon": "out_of_memory",
    "grow": "out_of_memory",
    "allocate": "out_of_memory",
    "forever": "decode_error",
    "shrink": "decode_error",
}


def test_a_clip_that_does_harm_costs_itself_alone(plain_video: CodedVideo) -> None:
    """Each harmful clip fails with its reason; those before, between and behind decode."""
    good = str(plain_video.path)
    paths = [good, *(path for harm in HARM for path in (harm, good))]
    task = make_task(0, plain_video)
    tasks = [replace(task, row=row, path=path) for row, path in enumerate(paths)]
    with DecodePool(2, 4, memory_mib=1000, decode=misbehave) as pool:
        reasons = decode_all(pool, tasks)
    assert reasons == [HARM.get(path, "") for path in paths]


@pytest.mark.slow
def test_a_clip_is_not_blamed_for_what_others_left_behind(plain_video: CodedVideo) -> None:
    """Where memory runs out because earlier clips kept some, a fresh process decodes the clip."""
    tasks = [replace(make_task(0, plain_video), row=row) for row in range(6)]
    with DecodePool(1, 60, memory_mib=800, decode=leave_memory) as pool:
        before = worker_pids(pool)
        assert decode_all(pool, tasks) == [""] * 6
        assert worker_pids(pool) != before


@pytest.mark.parametrize(
    ("path", "words"), [("quit", "SystemExit: enough said"), ("err", "KeyError: 'name'")]
)
def test_an_error_no_file_can_cause_ends_the_build(
    plain_video: CodedVideo, path: str, words: str
) -> None:
    """An error of our own is one line with the row, not a quiet loss of clips."""
    tasks = [replace(make_task(41, plain_video), path=path), make_task(42, plain_video)]
    line = f"^decoding the clip in row 41 of the plan raised {words}$"
    with DecodePool(1, 60, decode=misbehave) as pool, pytest.raises(BuildError, match=line):
        list(pool.decode(tasks))


def test_workers_killed_between_clips_cost_nothing(plain_video: CodedVideo) -> None:
    """Workers that are killed as they start, or idle, are replaced and every clip decodes."""
    tasks = [replace(make_task(0, plain_video), row=row) for row in range(6)]
    with DecodePool(2, 60) as pool:
        kill_workers(pool)
        assert decode_all(pool, tasks) == [""] * 6
        kill_workers(pool)
        assert decode_all(pool, tasks) == [""] * 6


def test_workers_killed_at_work_cost_at_most_their_clips(plain_video: CodedVideo) -> None:
    """Where all workers are killed at work, every clip has one outcome, in order."""
    tasks = [replace(make_task(0, plain_video), row=row) for row in range(30)]
    outcomes = []
    with DecodePool(2, 60) as pool:
        for result in pool.decode(tasks):
            outcomes.append((result.row, getattr(result, "reason", "")))
            if result.row == 10:
                kill_workers(pool)
    assert [row for row, _ in outcomes] == list(range(30))
    lost = [reason for _, reason in outcomes if reason]
    assert len(lost) <= 2
    assert set(lost) <= {"crashed"}


@pytest.mark.slow
def test_a_build_without_descriptors_blames_no_clip(plain_video: CodedVideo) -> None:
    """Who cannot look at a worker that is at work waits for it all the same."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with DecodePool(1, 60, decode=pause) as pool:
        kept = decode_all(pool, [make_task(0, plain_video)])
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        try:
            kept += decode_all(pool, [make_task(1, plain_video)])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert kept == ["", ""]


def test_workers_that_cannot_start_end_the_build(plain_video: CodedVideo) -> None:
    """Where no worker lives long enough to take a clip, the build gives up in one line."""
    with (
        DecodePool(1, 60, decode=Unstartable()) as pool,
        pytest.raises(BuildError, match=r"^the decode worker for plan row 5 was lost 3 times"),
    ):
        list(pool.decode([make_task(5, plain_video)]))


def test_signals_leave_the_workers_to_the_parent(plain_video: CodedVideo) -> None:
    """Ctrl-C and the end of a job reach every process, and end no worker by themselves."""
    tasks = [make_task(0, plain_video)]
    with DecodePool(1, 60) as pool:
        decode_all(pool, tasks)
        before = worker_pids(pool)
        for number in SIGNALS:
            os.kill(before[0], number)
        assert decode_all(pool, tasks) == [""]
        assert worker_pids(pool) == before


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_have_no_token(plain_video: CodedVideo) -> None:
    """What decodes files of others is not given what opens the user's accounts."""
    program = (
        "from clip_kinetics700_builder.decode.pool import DecodePool\n"
        "from pathlib import Path\n"
        "with DecodePool(1, 60) as pool:\n"
        "    [worker] = pool._workers\n"
        "    print(Path(f'/proc/{worker._process.pid}/environ').read_bytes())\n"
    )
    secrets = {"HF_TOKEN": "hf_a", "AWS_SECRET_ACCESS_KEY": "hf_b", "WANDB_API_KEY": "hf_c"}
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": SOURCE_PATHS, "KEPT": "kept", **secrets},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "kept" in result.stdout
    assert "hf_" not in result.stdout


@pytest.mark.slow
def test_a_worker_that_is_stopped_loses_no_clip(plain_video: CodedVideo) -> None:
    """A machine that sleeps, or a job that is suspended, does not use up the clip's time."""
    with DecodePool(1, 1.5) as pool:
        decode_all(pool, [make_task(0, plain_video)])
        [pid] = worker_pids(pool)
        os.kill(pid, signal.SIGSTOP)
        wake = Timer(3.0, os.kill, (pid, signal.SIGCONT))
        wake.start()
        assert decode_all(pool, [make_task(0, plain_video)]) == [""]
        assert worker_pids(pool) == [pid]


@pytest.mark.slow
def test_a_worker_that_stays_stopped_is_replaced(
    plain_video: CodedVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a clip that it had taken nor one that it was to take waits for it for ever."""
    monkeypatch.setattr("clip_kinetics700_builder.decode.worker.STOPPED_SECONDS", 0.5)
    with DecodePool(1, 60) as pool:
        decode_all(pool, [make_task(0, plain_video)])
        [pid] = worker_pids(pool)
        os.kill(pid, signal.SIGSTOP)
        assert decode_all(pool, [make_task(0, plain_video)]) == [""]
        assert worker_pids(pool) != [pid]


@dataclass(frozen=True)
class MisbehaveOnce:
    """Misbehave, but not when this was done before; runs in a worker."""

    mark: Path
    deed: str

    def __call__(self, task: DecodeTask) -> Frames | Failure:
        """Decode, or do what the deed says."""
        if not self.mark.exists():
            self.mark.touch()
            MISDEEDS[self.deed]()
        return decode_frames(task)


@pytest.mark.parametrize("deed", ["hang", "die", "balloon"])
def test_a_clip_gets_a_second_try_alone(deed: str, plain_video: CodedVideo, tmp_path: Path) -> None:
    """What may have been the fault of others does not cost the clip."""
    with DecodePool(2, 1, decode=MisbehaveOnce(tmp_path / "done", deed)) as pool:
        tasks = [replace(make_task(0, plain_video), row=row) for row in range(4)]
        assert decode_all(pool, tasks) == [""] * 4


@pytest.mark.slow
def test_one_slow_clip_holds_no_other_back(plain_video: CodedVideo) -> None:
    """While the first clip takes its time, all behind it that fit in memory are taken up."""
    taken: list[int] = []

    def list_tasks() -> Iterator[DecodeTask]:
        for row in range(40):
            taken.append(row)
            yield replace(make_task(row, plain_video), path="hang" if row == 0 else "balloon")

    with DecodePool(2, 1, decode=misbehave) as pool:
        first = next(iter(pool.decode(list_tasks())))
    assert isinstance(first, Failure)
    assert (first.row, len(taken)) == (0, 2 * TASKS_PER_WORKER)
    with DecodePool(2, 1, decode=misbehave, result_bytes=MAX_WINDOW_BYTES // 8) as pool:
        taken.clear()
        next(iter(pool.decode(list_tasks())))
    assert len(taken) == 8


ABANDONED = """
from clip_kinetics700_builder.decode.video import Decoding, DecodeTask
from clip_kinetics700_builder.decode.pool import (
    MAX_WINDOW_BYTES,
    TASKS_PER_WORKER,
    DecodePool,
)
from tests.support.processes.misdeeds import misbehave, worker_pids
from tests.support.media.videos import UNCHANGED

pool = DecodePool(1, 3600, decode=misbehave)
print(*worker_pids(pool), flush=True)
list(pool.decode([DecodeTask(0, "hang", 0, Decoding(1.0, UNCHANGED))]))
"""


@contextmanager
def open_hanging() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start a program whose only worker hangs; yield it and the id of the worker."""
    environment = {**os.environ, "PYTHONPATH": SOURCE_PATHS}
    command = [sys.executable, "-c", ABANDONED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert parent.stdout.readline() == "hanging\n"
        try:
            yield parent, pid
        finally:
            parent.kill()
            # The parent's output ends when the last process that holds it ends.
            with suppress(subprocess.TimeoutExpired):
                parent.communicate(timeout=60)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent")
@pytest.mark.slow
def test_a_worker_lives_as_long_as_its_parent() -> None:
    """A worker in a hang outlives signals, which its server gets as well, but no killed parent."""
    with open_hanging() as (parent, pid):
        worker = psutil.Process(pid)
        for number in SIGNALS:
            os.kill(worker.ppid(), number)
        with pytest.raises(psutil.TimeoutExpired):
            worker.wait(0.5)
        parent.kill()
        # Its output ends when the last process that holds it ends.
        parent.communicate(timeout=60)
