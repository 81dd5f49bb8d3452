"""The nouns of a build that every room shares; nothing here does work.

A `Clip` is decoded to `Frames` and encoded to an `EncodedClip`, or ends as a `Failure`; a `Part`
says which clips are encoded together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

FORMATS = ("parquet", "webdataset")
"""What a dataset's samples are published as."""
# A dataset does not tell from which source its clips came, so neither do these.
NO_FILE = "no source holds a file of this clip"
NO_BYTES = "the file of this clip holds 0 bytes"

UInt8Array = npt.NDArray[np.uint8]
Float16Array = npt.NDArray[np.float16]
Float32Array = npt.NDArray[np.float32]


class InputError(ValueError):
    """What the user gave cannot be used: one clear line, exit code 2."""


class BuildError(RuntimeError):
    """The run itself failed: one clear line, exit code 1."""


class OutageError(BuildError):
    """A disk, a network or the machine fails, not the clip: the same command goes on later."""


class EncoderError(BuildError):
    """The encoder failed on a batch."""

    def __init__(self, row: int, message: str) -> None:
        """Keep the plan row of the first clip in the batch."""
        super().__init__(message)
        self.row = row


class ClipError(Exception):
    """This clip gives no frames; the arguments are stage, reason and message of its `Failure`."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One annotated clip: a segment of a YouTube video, or one of the user's own videos."""

    split: str
    """`train`, `validation` or `test`."""
    video_id: str
    """The YouTube id, or the file stem of one's own video."""
    time_start: int | None
    """Start of the segment in the original video, in seconds; None for one's own videos."""
    time_end: int | None
    """End of the segment in the original video, in seconds; None for one's own videos."""
    label: str | None
    """The class name, or None where the annotations give none."""
    caption: str
    """The text published beside the embeddings: the label, or one's own caption, or empty."""
    path: str | None = None
    """File of one's own video, relative to the videos directory; None for Kinetics."""
    extra: str | None = None
    """JSON object of a plain table's other columns; None for Kinetics."""

    @property
    def identity(self) -> str:
        """What tells this clip from all others in any plan; a YouTube id alone does not."""
        if self.path is not None:
            return self.path
        return f"{self.video_id},{self.time_start},{self.time_end}"

    @property
    def file_stem(self) -> str:
        """The name of a Kinetics clip's file, without its extension."""
        return f"{self.video_id}_{self.time_start:06d}_{self.time_end:06d}"


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What the scan of a video's content found, the same for all its frames."""

    n_frames: int
    """How many frames of the clip are kept."""
    duration_seconds: float
    """End minus start of the video stream's content."""
    frames_per_second: float
    """Average rate of the video stream's content."""
    width: int
    """Pixels, rotation applied."""
    height: int
    """Pixels, rotation applied."""


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Consecutive kept frames of one clip, resized and cropped; at most 64 of them."""

    row: int
    """Index of the clip in the plan."""
    first: int
    """Index of the first of these among the clip's kept frames."""
    pixels: UInt8Array
    """(n, height, width, 3) uint8, RGB."""
    timestamps: Float32Array
    """(n,) float32, seconds since the start of the stream."""
    info: VideoInfo
    damaged: tuple[int, ...] = ()
    """Indices, among the clip's kept frames, of those that are damaged and kept all the same."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A clip that gave no sample, and why."""

    row: int
    """Index of the clip in the plan."""
    stage: str
    """`source` or `decode`."""
    reason: str
    """One of `clip_kinetics700.schema.REASONS`."""
    message: str
    """One line of ours: no path, no address, no text of a library."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedClip:
    """All frames of one clip as embeddings."""

    row: int
    """Index of the clip in the plan."""
    embeddings: Float16Array
    """(n_frames, width) float16."""
    timestamps: Float32Array | None
    """(n_frames,) float32, seconds since the start of the stream; None if not recorded."""
    info: VideoInfo | None
    """None where the embeddings were made elsewhere and nothing was recorded."""
    damaged: tuple[int, ...] = ()
    """Indices of frames that are damaged and kept all the same."""


@dataclass(frozen=True, slots=True)
class Archive:
    """One tar of clips."""

    name: str
    """Letters, digits, `-` and `_`; no other archive of the release has this name."""
    path: str
    """URL or local path."""
    split: str | None
    """The split of its clips; None for an overlay, which has clips of all."""
    label: str | None = None
    """The class that it is named after; None where the name does not tell."""

    @property
    def is_overlay(self) -> bool:
        """Tell whether its clips replace those of other archives."""
        return self.split is None


@dataclass(frozen=True, slots=True)
class Part:
    """A unit of work: clips that are encoded together."""

    name: str
    """`SPLIT-NNNNN`, or the archive's, the stem of the part's files; `.retryN` for another try."""
    rows: Sequence[int] | None
    """Indices into the plan, in order; None for all that an archive turns out to hold."""
    archive: Archive | None = None
    """The archive that holds the clips; None for the videos directory."""


class Encoder(Protocol):
    """What turns pixels into embeddings; tests put another one in its place."""

    @property
    def width(self) -> int:
        """Columns of the embeddings."""

    @property
    def batch_size(self) -> int:
        """The one batch shape that `encode` accepts."""

    def encode(self, pixels: UInt8Array) -> Float32Array:
        """Return (batch_size, width) float32 of (batch_size, height, width, 3) uint8 RGB."""
