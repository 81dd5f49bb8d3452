"""A task that hangs or dies costs its clip; the others come out, in order."""

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from builder.decode import DecodeTask, decode_frames
from builder.pool import DecodePool
from builder.types import Failure, Frames
from tests.videos import UNCHANGED, CodedVideo, encode_coded, read_codes

pytestmark = pytest.mark.needs_ffmpeg


def make_task(row: int, video: CodedVideo) -> DecodeTask:
    """Return the task that decodes a video from its begin."""
    return DecodeTask(row, str(video.path), 0, 1.0, UNCHANGED)


def test_clips_come_in_order_with_failures_among_them(
    plain_video: CodedVideo, tmp_path: Path
) -> None:
    """What comes out is in the order of the tasks, whichever worker was first."""
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
        pieces = list(pool.decode([replace(make_task(0, video), frames_per_second=10.0)]))
    frames = [piece for piece in pieces if isinstance(piece, Frames)]
    assert [piece.first for piece in frames] == [0, 64, 128]
    codes = [code for piece in frames for code in read_codes(piece.pixels)]
    assert codes == video.codes_at([k / 10 for k in range(160)])


def misbehave(task: DecodeTask) -> Frames | Failure:
    """Decode, or do what the path says; runs in a worker."""
    if task.path == "hang":
        threading.Event().wait()
    if task.path == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task.path == "balloon":
        raise MemoryError
    return decode_frames(task)


@pytest.mark.parametrize(
    ("path", "reason"), [("hang", "timed_out"), ("die", "crashed"), ("balloon", "out_of_memory")]
)
def test_a_worker_that_is_lost_costs_its_clip(
    plain_video: CodedVideo, path: str, reason: str
) -> None:
    """The clip fails with its reason, those before and behind it decode, in order."""
    task = make_task(0, plain_video)
    tasks = [task, replace(task, row=1, path=path), replace(task, row=2), replace(task, row=3)]
    with DecodePool(1, 3, decode=misbehave) as pool:
        results = list(pool.decode(tasks))
    outcomes = [result.reason if isinstance(result, Failure) else "" for result in results]
    assert [result.row for result in results] == [0, 1, 2, 3]
    assert outcomes == ["", reason, "", ""]
