"""Decodes a video file to its kept frames, or says why it has none; runs in worker processes.

Only this module may touch torchcodec; it can be imported where FFmpeg is missing.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip_kinetics700_builder.config import FRAMES_PER_TASK
from clip_kinetics700_builder.decode.checks import (
    MAX_DURATION_SECONDS,
    MAX_SLICE_BYTES,
    check_file,
    check_length,
    check_resized,
    check_size,
    open_video_file,
)
from clip_kinetics700_builder.decode.preprocess import (
    SAME_TIME_SECONDS,
    Preprocessing,
    count_frames,
    crop_displayed,
    list_timestamps,
    resize_and_crop,
)
from clip_kinetics700_builder.types import ClipError, Failure, Frames, InputError, VideoInfo

try:
    from torchcodec._core import ops
    from torchcodec._core._metadata import get_container_metadata
    from torchcodec._core.ops import _get_key_frame_indices as get_key_frame_indices
    from torchcodec.decoders._video_decoder import VideoDecoder
except (ImportError, OSError, RuntimeError) as error:
    _load_error: Exception | None = error
else:
    _load_error = None

# torchcodec raises these, without a class of its own, for anything wrong with a file.
DECODER_ERRORS = (RuntimeError, ValueError, IndexError)
TRUNCATED_SECONDS = 1.0
# Where seeks miss the frame, a seek this far before it still saves most of the way. The codecs must
# be those whose decoders wait for a key frame: MPEG-4's starts anywhere, with grey frames.
SEEK_MARGIN_SECONDS = 30.0
KEY_FRAME_CODECS = ("h264", "hevc")
# MPEG-PS gives a time to some frames only; after a seek FFmpeg guesses the others wrongly.
MPEG_PS_MAGIC = b"\x00\x00\x01\xba"


@dataclass(frozen=True, slots=True)
class Decoding:
    """What is the same for all clips of a build."""

    frames_per_second: float
    """How many frames of each second are kept."""
    preprocessing: Preprocessing
    """What is done to a decoded frame before it leaves the worker."""
    device: str = "cpu"
    """`cpu`, or a CUDA device, whose NVDEC decodes then."""


@dataclass(frozen=True, slots=True)
class DecodeTask:
    """At most 64 kept frames of one clip, to be decoded in one go."""

    row: int
    """Index of the clip in the plan."""
    path: str
    """The video file."""
    first: int
    """Index of the first wanted frame among the clip's kept frames."""
    decoding: Decoding


def make_task(decoding: Decoding, row: int, path: Path) -> DecodeTask:
    """Return the task that decodes the first frames of the clip in a row of the plan."""
    # FFmpeg takes what stands before a colon in a relative path for a protocol.
    return DecodeTask(row=row, path=str(path.absolute()), first=0, decoding=decoding)


def check_ffmpeg() -> None:
    """Make sure that videos can be decoded on this machine.

    Raises:
        InputError: torchcodec is not installed or cannot load FFmpeg's shared libraries.
    """
    if _load_error is None:
        return
    try:
        versions = f"torchcodec {version('torchcodec')} and torch {version('torch')}"
    except PackageNotFoundError:
        message = "torchcodec is not installed: pip install 'clip-kinetics700[build]'"
        raise InputError(message) from _load_error
    raise InputError(
        f"videos cannot be decoded: {versions} do not load; install FFmpeg's shared libraries, "
        "version 4 to 8 (`apt-get install ffmpeg` or `brew install ffmpeg`), Python's libpython, "
        "and the torch release this torchcodec was made for"
    ) from _load_error


def ffmpeg_version() -> str:
    """Return the version of the FFmpeg whose libraries decode here."""
    versions: Any = ops.get_ffmpeg_library_versions  # its annotation is missing
    return str(versions()["ffmpeg_version"])


def decode_frames(task: DecodeTask) -> Frames | Failure:
    """Return up to 64 kept frames of a clip from index `first` on, or why there are none."""
    try:
        return _decode(task)
    except ClipError as error:
        return Failure(task.row, *error.args)


def _decode(task: DecodeTask) -> Frames:
    decoder = _open_video(task)
    begin, end = _measure_span(decoder)
    _check_complete(task.path, decoder, end)
    info = _describe(decoder, end - begin, task)
    stop = min(task.first + FRAMES_PER_TASK, info.n_frames)
    rate = task.decoding.frames_per_second
    timestamps = list_timestamps(task.first, stop, frames_per_second=rate)
    # The times asked for and those of the frames are rounded apart, so each of ours is moved up, by
    # less than the tick of any clock. At the end itself no frame is displayed.
    last = math.nextafter(end, begin)
    times = [min(begin + time + SAME_TIME_SECONDS, last) for time in timestamps]
    crops = None
    # If a seek misses the first frame it may miss the others too, without a sign of it.
    probe = [begin + SAME_TIME_SECONDS]
    if task.first == 0 or _seek_frames(decoder, probe, task, info) is not None:
        crops = _seek_frames(decoder, times, task, info)
    if crops is None:
        delay = _measure_delay(task.path, begin)
        crops = _walk_to_frames(decoder, [time + delay for time in times], task)
    return Frames(
        row=task.row,
        first=task.first,
        pixels=crops.numpy(),
        timestamps=np.asarray(timestamps, np.float32),
        info=info,
    )


def _open_video(task: DecodeTask) -> "VideoDecoder":
    """Return the decoder of a file after it has scanned the video stream."""
    path, device = task.path, task.decoding.device
    check_file(path)
    try:
        container = get_container_metadata(ops.create_from_file(path, "approximate"))
    except DECODER_ERRORS:
        raise ClipError("decode", "unreadable", "FFmpeg cannot open this file as a video") from None
    if container.best_video_stream_index is None:
        raise ClipError("decode", "no_video_stream", "the file has no video stream")
    claimed = container.streams[container.best_video_stream_index]
    # The size is checked before anything is decoded; 0 means that only the content tells it.
    check_size(getattr(claimed, "width", None) or 1, getattr(claimed, "height", None) or 1)
    try:
        return VideoDecoder(path, num_ffmpeg_threads=1, dimension_order="NHWC", device=device)
    except DECODER_ERRORS:
        if next(_walk(path, start=None), None) is None:
            raise ClipError("decode", "no_frames", "the video stream holds no frame") from None
        raise ClipError("decode", "decode_error", "the video stream cannot be scanned") from None


def _open_stream(path: str, seek_mode: str) -> Any:
    """Return torchcodec's core decoder, which can do what `VideoDecoder` cannot."""
    try:
        decoder = ops.create_from_file(path, seek_mode)
        ops.add_video_stream(decoder, num_threads=1, dimension_order="NHWC")
    except DECODER_ERRORS:
        raise ClipError("decode", "decode_error", "the video stream cannot be opened") from None
    return decoder


def _measure_span(decoder: "VideoDecoder") -> tuple[float, float]:
    """Return the start of the first and the end of the last frame, in seconds."""
    metadata = decoder.metadata
    begin = metadata.begin_stream_seconds_from_content
    end = metadata.end_stream_seconds_from_content
    if not metadata.num_frames_from_content or begin is None or end is None:
        raise ClipError("decode", "no_frames", "the video stream holds no frame")
    # The cover of an album counts as a video stream: one frame that has no time.
    if metadata.num_frames_from_content == 1 and begin < -MAX_DURATION_SECONDS:
        raise ClipError("decode", "no_video_stream", "the file has a cover picture but no video")
    return begin, end


def _check_complete(path: str, decoder: "VideoDecoder", end: float) -> None:
    """Raise ClipError if the content ends well before the end that the header states."""
    metadata = decoder.metadata
    content_end = end
    if metadata.duration_seconds_from_header is not None:
        begin = metadata.begin_stream_seconds_from_header or 0.0
        stated_end = begin + metadata.duration_seconds_from_header
    else:
        # The container ends with its longest stream, which may well be the sound.
        container = get_container_metadata(_open_stream(path, "exact"))
        stated_end = container.duration_seconds_from_header or 0.0
        for stream in container.streams:
            stream_end = (stream.begin_stream_seconds or 0.0) + (stream.duration_seconds or 0.0)
            content_end = max(content_end, stream_end)
    if content_end < stated_end - TRUNCATED_SECONDS:
        message = f"the content ends at {content_end:.2f} s, the header states {stated_end:.2f} s"
        raise ClipError("decode", "truncated", message)


def _describe(decoder: "VideoDecoder", duration: float, task: DecodeTask) -> VideoInfo:
    metadata = decoder.metadata
    # Some containers do not say how long the last frame lasts: an only frame seems to last 0 s.
    n_frames = max(1, count_frames(duration, task.decoding.frames_per_second))
    height, width = metadata.height or 0, metadata.width or 0
    check_size(width, height)
    check_resized(width, height, task.decoding.preprocessing)
    check_length(duration, n_frames)
    return VideoInfo(
        n_frames=n_frames,
        duration_seconds=duration,
        frames_per_second=metadata.average_fps or 0.0,
        width=width,
        height=height,
    )


def _seek_frames(
    decoder: "VideoDecoder", times: Sequence[float], task: DecodeTask, info: VideoInfo
) -> Tensor | None:
    """Return (n, height, width, 3) uint8 crops at `times`, or None if seeking does not find them.

    A seek misses on MPEG-TS, behind some edit lists and in AVI with B-frames: it ends on a frame
    that is recognised as a later one, or on none.
    """
    with open_video_file(task.path) as file:
        if file.read(len(MPEG_PS_MAGIC)) == MPEG_PS_MAGIC:
            return None
    height, width = task.decoding.preprocessing.resized_size(info.height, info.width)
    slice_frames = max(1, MAX_SLICE_BYTES // (3 * max(height * width, info.height * info.width)))
    crops = []
    for start in range(0, len(times), slice_frames):
        asked = list(times[start : start + slice_frames])
        try:
            batch = decoder.get_frames_played_at(asked)
        except DECODER_ERRORS:
            return None
        if any(pts > time for pts, time in zip(batch.pts_seconds.tolist(), asked, strict=True)):
            return None
        crops.append(resize_and_crop(batch.data, task.decoding.preprocessing).cpu())
    return torch.cat(crops)


def _measure_delay(path: str, begin: float) -> float:
    """Return by how many seconds the times that a walk gives are late.

    AVI holds no times of display: where there are B-frames, each frame gets the time at which it
    leaves the decoder, and the first one leaves it after the start of the stream.
    """
    # A stream cut out of another may start with frames that cannot be decoded: that is no delay.
    if get_key_frame_indices(_open_stream(path, "exact")).tolist()[:1] != [0]:
        return 0.0
    first = next((time for time, _, _ in _walk(path, start=None)), begin)
    return max(0.0, first - begin)


def _walk_to_frames(decoder: "VideoDecoder", times: Sequence[float], task: DecodeTask) -> Tensor:
    """Return (n, height, width, 3) uint8 crops at `times` by decoding all before: slow, exact."""
    crops = None
    if task.first > 0 and decoder.metadata.codec in KEY_FRAME_CODECS:
        walk = _walk(task.path, start=times[0] - SEEK_MARGIN_SECONDS)
        with suppress(ClipError):
            crops = crop_displayed(walk, times, task.decoding.preprocessing)
    if crops is None:
        walk = _walk(task.path, start=None)
        crops = crop_displayed(walk, times, task.decoding.preprocessing, may_begin_late=True)
    if crops is None:
        raise ClipError("decode", "decode_error", "the last frames of the clip do not decode")
    return crops


def _walk(path: str, *, start: float | None) -> Iterator[tuple[float, float, Tensor]]:
    """Yield (begin, end, (height, width, 3) uint8 RGB) in display order, all or from `start` on."""
    begin = end = -math.inf
    decoder = _open_stream(path, "approximate")
    try:
        if start is not None:
            ops.seek_to_pts(decoder, start)
        while True:
            frame, pts, duration = ops.get_next_frame(decoder)
            # The last frames out of a decoder may come without a time: each follows the one before.
            begin = pts.item() if pts.item() >= begin else end
            end = begin + duration.item()
            yield begin, end, frame
    except IndexError:
        return
    except (RuntimeError, ValueError):
        raise ClipError("decode", "decode_error", "a frame of the clip does not decode") from None
