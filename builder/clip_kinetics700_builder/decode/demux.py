"""Opens a video file with PyAV and reads what its packets say before any is decoded."""

import errno
import io
from array import array
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError
from av.stream import Discard

from clip_kinetics700_builder.decode.checks import check_file, check_size, open_video_file
from clip_kinetics700_builder.types import ClipError

# The packets of a smaller file are kept in memory, so that it is read once.
MAX_KEPT_BYTES = 64 * 2**20
# Seeks of MPEG-TS end a group of frames late, so they aim this far before.
SEEK_MARGIN_SECONDS = 5.0
# MPEG-PS gives a time to some frames only; after a seek FFmpeg guesses the others wrongly.
MPEG_PS = "mpeg"
# It has times of decoding alone; what FFmpeg makes of them is wrong where frames are packed.
AVI = "avi"
# Where pieces of a recording are joined, and where it ends, FFmpeg takes sound packets for damaged.
MPEG_TS = "mpegts"
NO_TIME = -(2**63)
# No sound packet has such a run of zero bytes; it is what broken downloads and disks leave.
HOLE = bytes(512)
# Where the headers of packets lie between them, a hole takes packets away.
HEADERS_BETWEEN = ("matroska,webm", "flv", "asf", "nut", "ogg", MPEG_TS, MPEG_PS)

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class MissedError(Exception):
    """A frame is not where the packets say; who decodes all of them in order finds it."""


@dataclass(frozen=True, slots=True)
class Packets:
    """What the packets of a video stream say, in the order of decoding; times are in ticks."""

    pts: Int64Array
    """(n,) int64: when a frame is displayed; when it is decoded where that is all that is known."""
    durations: Int64Array
    """(n,) int64: how long a frame is displayed; 0 where the container does not say."""
    is_key: BoolArray
    """(n,): whether decoding can begin here."""
    is_shown: BoolArray
    """(n,): whether a frame is displayed; edit lists hide those that others only refer to."""
    is_timed: bool
    """Whether times are those of display."""
    is_ordered: bool
    """Whether moreover each packet has a time, and no two the same."""
    is_corrupt: BoolArray
    """(n,): whether bytes are missing."""
    time_base: Fraction
    """Seconds of a tick."""

    @property
    def begin(self) -> int:
        """When the first frame is displayed."""
        return int(self.pts[self.is_shown].min())

    @property
    def end(self) -> int:
        """When the last frame ends."""
        return int((self.pts + self.durations)[self.is_shown].max())

    @property
    def first_key(self) -> int:
        """Index of the first packet that decoding can begin with; 0 where none is marked."""
        return int(self.is_key.argmax())

    def seconds(self, ticks: int) -> float:
        """Return ticks in seconds."""
        return float(ticks * self.time_base)


def describe_packets(fields: Int64Array, *, container: str, time_base: Fraction) -> Packets:
    """Return what the packets of a video stream say.

    Args:
        fields: (n, 8) int64, for each packet pts, dts, duration, whether it is a key, is hidden and
            is corrupt, its place in the file, and its size.
        container: FFmpeg's name of it.
        time_base: seconds of a tick.

    Raises:
        ClipError: there is no frame, or all have the same time.
    """
    pts, dts, durations = (fields[:, column] for column in range(3))
    is_key, is_hidden, is_corrupt = (fields[:, column].astype(bool) for column in range(3, 6))
    if is_hidden.all():
        raise ClipError("decode", "no_frames", "the video stream holds no frame")
    states_pts = pts != NO_TIME
    times = np.where(states_pts, pts, dts)
    if (times == NO_TIME).all():
        # A raw stream: its frames follow one another at the rate of its header.
        times = durations.cumsum() - durations
    elif len(dts) > 1 and dts.min() == dts.max() != NO_TIME:
        raise ClipError("decode", "decode_error", "all frames of the video have the same time")
    is_guessed = container == AVI and bool((pts != dts).any())
    is_timed = bool(states_pts.any()) and not is_guessed
    return Packets(
        pts=times,
        durations=durations,
        is_key=is_key,
        is_shown=~is_hidden & (times != NO_TIME),
        is_timed=is_timed,
        is_ordered=is_timed and bool(states_pts.all()) and len(np.unique(pts)) == len(pts),
        is_corrupt=is_corrupt if container != MPEG_TS else np.zeros_like(is_corrupt),
        time_base=time_base,
    )


def find_holes(path: str, pts: Int64Array, *, place: Int64Array, nbytes: Int64Array) -> list[int]:
    """Return the indices of packets beside which others are lost to a hole of zeros.

    Args:
        path: of the file.
        pts: (n,) int64, when the frames of the packets are displayed.
        place: (n,) int64, where the packets lie in the file; -1 where that is not known.
        nbytes: (n,) int64, how long they are.
    """
    steps = np.diff(np.sort(pts))
    # Sound may hold zeros, so frames must be missing, too.
    if not len(steps) or steps.max() <= 1.5 * np.median(steps):
        return []
    gaps = place[1:] - (place + nbytes)[:-1]
    found: list[int] = []
    with open_video_file(path) as file:
        for index in np.flatnonzero((gaps >= len(HOLE)) & (place[:-1] >= 0)).tolist():
            file.seek(int(place[index] + nbytes[index]))
            if HOLE in file.read(int(gaps[index])):
                found += [index, index + 1]
    return found


class Video(AbstractContextManager["Video"]):
    """An open video file; use it in a `with` block."""

    container: Any
    stream: Any
    """The video stream, whose decoder is fresh after `read`."""
    aspect: Fraction = Fraction(1)
    """How many times as wide as high a pixel is to be shown."""
    _is_fresh: bool
    """Whether nothing was read since the container was opened."""

    def __init__(
        self, path: str, *, squares_pixels: bool = False, packets: Packets | None = None
    ) -> None:
        """Open a file and read all packets of its video stream.

        Args:
            path: of the file.
            squares_pixels: whether the aspect of pixels counts.
            packets: what they say, if that is known: they are not read then.

        Raises:
            ClipError: it is no video that can be opened, or it cannot be read to its end.
            OSError: the disk fails.
        """
        self.path = path
        self._kept: list[Any] = []
        self._open()
        if squares_pixels:
            self.aspect = self.stream.sample_aspect_ratio or Fraction(1)
        try:
            self.packets = packets or self._scan()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def read(self, start: int = 0) -> Iterator[tuple[int, Any]]:
        """Return (index, packet) of the video stream from an index on; some before may come too.

        Raises:
            MissedError: a seek went astray.
        """
        if self._kept:
            kept, self._kept = self._kept, []
            return islice(enumerate(kept), start, None)
        if not self._is_fresh:
            self.close()
            self._open()
        self._is_fresh = False
        source = self._demux()
        if not start or self.container.format.name == MPEG_PS:
            return enumerate(source)
        margin = round(SEEK_MARGIN_SECONDS / self.packets.time_base)
        try:
            self.container.seek(int(self.packets.pts[start]) - margin, stream=self.stream)
        except FFmpegError:
            raise MissedError from None
        head = next(source, None)
        found = [] if head is None else np.flatnonzero(self.packets.pts == head.pts).tolist()
        if not found or found[0] > start:
            raise MissedError
        return enumerate(chain([head], source), found[0])

    def _open(self) -> None:
        check_file(self.path)
        self._is_fresh = True
        with ExitStack() as opened:
            try:
                self.container = opened.enter_context(open_container(self.path))
            except (FFmpegError, ValueError):
                message = "FFmpeg cannot open this file as a video"
                raise ClipError("decode", "unreadable", message) from None
            self.stream = find_stream(self.container)
            self.close = opened.pop_all().close

    def _scan(self) -> Packets:
        fields = array("q")
        keeps = self.container.size <= MAX_KEPT_BYTES
        for packet in self._demux():
            if packet.has_sidedata("encryption_info"):
                raise ClipError("decode", "encrypted", "the video stream is encrypted")
            fields.append(NO_TIME if packet.pts is None else packet.pts)
            fields.append(NO_TIME if packet.dts is None else packet.dts)
            fields.append(packet.duration or 0)
            fields.extend((packet.is_keyframe, packet.is_discard, packet.is_corrupt))
            fields.extend((-1 if packet.pos is None else packet.pos, packet.size))
            if keeps:
                self._kept.append(packet)
        table = np.frombuffer(fields, np.int64).reshape(-1, 8)
        container = self.container.format.name
        packets = describe_packets(table, container=container, time_base=self.stream.time_base)
        if container in HEADERS_BETWEEN:
            beside = find_holes(self.path, packets.pts, place=table[:, 6], nbytes=table[:, 7])
            packets.is_corrupt[beside] = True
        return packets

    def _demux(self) -> Iterator[Any]:
        self._is_fresh = False
        try:
            for packet in self.container.demux(self.stream):
                # Without bytes and time it is the mark of the end.
                if packet.size or packet.dts is not None:
                    yield packet
        except FFmpegError:
            message = "the video stream cannot be read to its end"
            raise ClipError("decode", "decode_error", message) from None


@contextmanager
def open_container(path: str) -> Iterator[Any]:
    """Yield the container of a video file, which is closed: else it keeps its memory (PyAV 838).

    FFmpeg reads through a file of Python, so that an error of the disk is an OSError and never one
    of FFmpeg's, which cannot be told from those of a damaged file.
    """
    with VideoFile(path) as file, av.open(file, metadata_errors="ignore") as container:
        yield container


class VideoFile(io.FileIO):
    """A file that FFmpeg reads through."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Return the new place, -1 for one that no file has: damaged files point to such."""
        try:
            return super().seek(offset, whence)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return -1


def find_stream(container: Any) -> Any:
    """Return the video stream of a container, which decodes in one thread and is read alone.

    Raises:
        ClipError: there is none, or none that can be decoded.
    """
    stream = container.streams.best("video")
    if stream is None:
        raise ClipError("decode", "no_video_stream", "the file has no video stream")
    if stream.disposition & stream.disposition.attached_pic:
        raise ClipError("decode", "no_video_stream", "the file has a cover picture but no video")
    context = stream.codec_context
    if context is None:
        raise ClipError("decode", "decode_error", "FFmpeg has no decoder for the video's codec")
    # The size is checked before anything is decoded; 0 means that only the content tells it.
    check_size(context.width or 1, context.height or 1)
    context.thread_count = 1
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    return stream
