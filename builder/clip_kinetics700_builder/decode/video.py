"""Decodes a video file to its kept frames, or says why it has none; runs in worker processes."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from clip_kinetics700_builder.config import FRAMES_PER_TASK
from clip_kinetics700_builder.decode.checks import check_length, check_resized, open_video_file
from clip_kinetics700_builder.decode.demux import Int64Array, MissedError, Packets, Video
from clip_kinetics700_builder.decode.frames import pick_frames, walk_frames
from clip_kinetics700_builder.decode.preprocess import (
    SAME_TIME_SECONDS,
    Preprocessing,
    count_frames,
    crop_displayed,
    list_timestamps,
    resize_and_crop,
)
from clip_kinetics700_builder.decode.torchcodec_frames import import_torchcodec, pick_batches
from clip_kinetics700_builder.decode.whole import check_whole
from clip_kinetics700_builder.types import (
    ClipError,
    Failure,
    Frames,
    UInt8Array,
    VideoInfo,
)


@dataclass(frozen=True, slots=True)
class Decoding:
    """What is the same for all clips of a build."""

    frames_per_second: float
    """How many frames of each second are kept."""
    preprocessing: Preprocessing
    """What is done to a decoded frame before it leaves the worker."""
    keeps_damaged: bool = False
    """Whether a clip may have damaged frames, which are named then."""
    squares_pixels: bool = False
    """Whether pixels that are not square are made so."""
    decoder: str = "pyav"
    """`pyav`, or `torchcodec`, which says nothing of damage."""
    device: str = "cpu"
    """`cpu`, or for torchcodec a CUDA device, whose NVDEC decodes then."""


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


def check_decoder(decoder: str) -> None:
    """Make sure that a decoder loads on this machine.

    Raises:
        InputError: torchcodec is not installed or cannot load FFmpeg's shared libraries.
    """
    if decoder == "torchcodec":
        import_torchcodec()


def list_versions(decoder: str) -> dict[str, str]:
    """Return the versions of what decodes: the library, and FFmpeg."""
    if decoder == "torchcodec":
        ffmpeg = str(import_torchcodec().ffmpeg_major_version)
        return {"torchcodec": version("torchcodec"), "ffmpeg": ffmpeg}
    return {"av": version("av"), "ffmpeg": av.ffmpeg_version_info}


def decode_frames(task: DecodeTask) -> Frames | Failure:
    """Return up to 64 kept frames of a clip from index `first` on, or why there are none."""
    try:
        return _decode(task)
    except ClipError as error:
        return Failure(task.row, *error.args)


# What the packets of the last long video say, which is decoded in many tasks, by its `identify`.
_scans: dict[tuple[str, int, int], Packets] = {}


def identify(path: str) -> tuple[str, int, int]:
    """Return what tells a file from others and from later ones: path, size, time of change."""
    with open_video_file(path) as file:
        status = os.fstat(file.fileno())
    return path, status.st_size, status.st_mtime_ns


def _decode(task: DecodeTask) -> Frames:
    rate = task.decoding.frames_per_second
    known = _scans.get(identify(task.path)) if task.first else None
    with Video(task.path, squares_pixels=task.decoding.squares_pixels, packets=known) as video:
        packets = video.packets
        if known is None:
            check_whole(video)
        duration = packets.seconds(packets.end - packets.begin)
        # Some containers do not say how long the last frame lasts: an only frame seems to last 0 s.
        n_frames = max(1, count_frames(duration, rate))
        check_length(duration, n_frames)
        if known is None and n_frames > FRAMES_PER_TASK:
            _scans.clear()
            _scans[identify(task.path)] = packets
        stop = min(task.first + FRAMES_PER_TASK, n_frames)
        timestamps = list_timestamps(task.first, stop, frames_per_second=rate)
        # The times asked for and those of the frames are rounded apart, so each of ours is moved
        # up, by less than the tick of any clock. At the end itself no frame is displayed.
        begin = packets.seconds(packets.begin)
        last = math.nextafter(begin + duration, begin)
        times = [min(begin + time + SAME_TIME_SECONDS, last) for time in timestamps]
        crop = Cropper(task.decoding.preprocessing)
        crops, damaged = _pick_crops(task, video, times, crop)
        if crops is None:
            walk = walk_frames(video, conceals=bool(damaged))
            crops = crop_displayed(walk, times, crop)
    if crops is None:
        raise ClipError("decode", "decode_error", "the last frames of the clip do not decode")
    height, width = crop.shape
    info = VideoInfo(
        n_frames=n_frames,
        duration_seconds=duration,
        frames_per_second=int(packets.is_shown.sum()) / duration if duration else 0.0,
        width=width,
        height=height,
    )
    return Frames(
        row=task.row,
        first=task.first,
        pixels=crops.numpy(),
        timestamps=np.asarray(timestamps, np.float32),
        info=info,
        damaged=tuple(task.first + index for index in damaged),
    )


def _pick_crops(
    task: DecodeTask, video: Video, times: Sequence[float], crop: "Cropper"
) -> tuple[Tensor | None, Sequence[int]]:
    """Decode the frames displayed at (n,) ascending seconds.

    Returns:
        (n, height, width, 3) uint8 crops, or None where a frame is not where the packets say or is
        damaged; indices among the n of those that are damaged.

    Raises:
        ClipError: a frame is damaged, and no clip may be.
    """
    packets, decoding = video.packets, task.decoding
    if not packets.is_ordered:
        return None, ()
    indices = find_displayed(packets, times)
    wanted = indices[np.insert(np.diff(indices) != 0, 0, True)]
    try:
        if decoding.decoder == "torchcodec":
            crops = pick_batches(video, wanted, crop.crop_all, device=decoding.device)
            damaged = wanted[:0]
        else:
            crops, damaged = pick_frames(video, wanted, crop)
    except MissedError:
        return None, ()
    if not len(damaged):
        return torch.cat([crops[index] for index in indices.tolist()]), ()
    if decoding.keeps_damaged:
        return None, np.flatnonzero(np.isin(indices, damaged)).tolist()
    seconds = packets.seconds(int(packets.pts[damaged].min()) - packets.begin)
    raise ClipError("decode", "decode_error", f"the frame at {seconds:.2f} s is damaged")


def find_displayed(packets: Packets, times: Sequence[float]) -> Int64Array:
    """Return (n,) indices of the packets whose frames are displayed at (n,) seconds.

    Where the stream begins without a key, the first that can be decoded stands for those before.
    """
    is_sound = packets.is_shown & (packets.pts >= packets.pts[packets.first_key])
    sound = np.flatnonzero(is_sound if packets.is_key.any() else packets.is_shown)
    sound = sound[packets.pts[sound].argsort()]
    begins = packets.pts[sound] * float(packets.time_base)
    return sound[np.maximum(np.searchsorted(begins, times, "right") - 1, 0)]


class Cropper:
    """Resizes and crops frames, and notes how large the first was."""

    shape: tuple[int, int] = (0, 0)
    """(height, width) of the first frame as it is displayed, pixels."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        """Keep how a frame becomes a crop."""
        self._preprocessing = preprocessing

    def __call__(self, pixels: UInt8Array) -> Tensor:
        """Return the (1, crop_height, crop_width, 3) uint8 crop of a (height, width, 3) frame.

        Raises:
            ClipError: the frame is so narrow that it would outgrow the memory.
        """
        return self.crop_all(torch.from_numpy(pixels)[None])

    def crop_all(self, frames: Tensor) -> Tensor:
        """Return the (n, crop_height, crop_width, 3) uint8 crops of (n, height, width, 3) frames.

        Raises:
            ClipError: the frames are so narrow that they would outgrow the memory.
        """
        _, height, width, _ = frames.shape
        check_resized(width, height, self._preprocessing)
        if not any(self.shape):
            self.shape = height, width
        return resize_and_crop(frames, self._preprocessing)
