"""Decodes the wanted frames of a video stream, and as few others as it can, with PyAV."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from av.error import FFmpegError
from av.filter import Graph

from clip_kinetics700_builder.decode.checks import check_size
from clip_kinetics700_builder.decode.demux import (
    HOLE,
    NO_TIME,
    Int64Array,
    MissedError,
    Packets,
    Video,
)
from clip_kinetics700_builder.types import ClipError, UInt8Array

Crop = TypeVar("Crop")

# Streams of these codecs say which frames no other refers to.
SKIPPING_CODECS = ("h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4")
# Packets of these codecs hold no zeros in a row, but for up to 27 in VP8; those of others may.
HOLE_CODECS = (
    "h264", "hevc", "vp8", "vp9", "av1", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v2",
    "msmpeg4v3", "wmv1", "wmv2", "wmv3", "vc1", "h263", "flv1", "theora",
)  # fmt: skip
# FFmpeg conceals what is damaged unless it is told to refuse it.
DETECTION = {"err_detect": "crccheck+bitstream+buffer+explode"}
# dav1d compares the end of each tile with what the standard says only where it is strict.
STRICT_CODECS = ("av1",)


class FrameDecoder:
    """Decodes packets one after the other and notes which of them are damaged."""

    def __init__(self, video: Video, *, conceals: bool = False) -> None:
        """Prepare the decoder of a video whose packets are to be read.

        Args:
            video: what is decoded.
            conceals: give frames that are damaged, too, as well as they can be shown.
        """
        self._context = video.stream.codec_context
        self._is_corrupt = video.packets.is_corrupt
        codec = self._context.codec.canonical_name
        strict = {"strict": "strict"} if codec in STRICT_CODECS else {}
        self._context.options = {} if conceals else {**DETECTION, **strict}
        self._finds_holes = codec in HOLE_CODECS
        self.to_rgb = Converter(video.aspect)
        self.damaged: list[int] = []
        """Indices of packets that do not decode to what was encoded."""

    def decode(self, index: int, packet: Any, *, skips: bool = False) -> Sequence[Any]:
        """Return the frames that come out when a packet goes in.

        Args:
            index: of the packet.
            packet: what to decode.
            skips: whether its frame is left out if no other refers to it.
        """
        self._context.skip_frame = "NONREF" if skips else "DEFAULT"
        if self._is_corrupt[index] or (self._finds_holes and HOLE in bytes(packet)):
            self.damaged.append(index)
        try:
            return list(self._context.decode(packet))
        except FFmpegError:
            self.damaged.append(index)
            return ()

    def drain(self) -> Sequence[Any]:
        """Return the frames that are still to come out; the next packet begins anew."""
        try:
            return list(self._context.decode(None))
        except FFmpegError:
            return ()
        finally:
            self._context.flush_buffers()


class Converter:
    """Makes RGB of frames as the ffmpeg program shows them."""

    def __init__(self, aspect: Fraction) -> None:
        """Keep how many times as wide as high a pixel is to be shown."""
        self._aspect = aspect
        # A stream may change the size and format of its frames.
        self._graph: Any = None
        self._shape: tuple[Any, ...] = ()

    def __call__(self, frame: Any) -> UInt8Array:
        """Return (height, width, 3) uint8 RGB of a frame, turned and mirrored as it is displayed.

        Raises:
            ClipError: its format cannot be converted.
        """
        shape = (frame.width, frame.height, frame.format.name)
        try:
            if shape != self._shape:
                self._graph, self._shape = make_graph(frame, self._aspect), shape
            self._graph.push(frame)
            pixels = self._graph.pull().to_ndarray()
        except FFmpegError:
            message = f"frames of the format {frame.format.name} cannot be shown"
            raise ClipError("decode", "decode_error", message) from None
        return turn(pixels, frame)


def make_graph(frame: Any, aspect: Fraction) -> Any:
    """Return the filters that make RGB of frames of one size and format, pixels stretched.

    The flag of `scale` is the ffmpeg program's own; a reformatter would take the fields of
    interlaced frames apart, and set the colours of frames of 10 bits elsewhere.
    """
    width = max(1, round(frame.width * aspect))
    check_size(width, frame.height)
    graph = Graph()
    # Nothing here looks at times, but without a clock PyAV warns.
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1)
    )
    graph.link_nodes(
        source,
        graph.add("scale", f"w={width}:h=ih:flags=bicubic"),
        graph.add("format", "pix_fmts=rgb24"),
        graph.add("buffersink"),
    ).configure()
    return graph


def read_matrix(frame: Any) -> tuple[int, int, int, int] | None:
    """Return the display matrix (a, b, c, d) of a frame: (x, y) is shown at (a x + c y, b x + d y).

    None where the file has none.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32).tolist()
    return a, b, c, d


def turn(pixels: UInt8Array, frame: Any) -> UInt8Array:
    """Return (height, width, 3) pixels turned and mirrored as the frame's display matrix says."""
    matrix = read_matrix(frame)
    if matrix is None:
        return pixels
    a, b, c, d = matrix
    if abs(a) + abs(d) < abs(b) + abs(c):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def is_mirrored(video: Video) -> bool:
    """Tell whether the frames of a video are displayed mirrored."""
    source = video.read()
    first = next(decode_all(FrameDecoder(video), source), None)
    matrix = None if first is None else read_matrix(first)
    return matrix is not None and matrix[0] * matrix[3] - matrix[1] * matrix[2] < 0


@dataclass(frozen=True, slots=True)
class Run:
    """Packets to decode one after the other, so that wanted frames come out."""

    start: int
    """Index of a key."""
    stop: int
    """Index of the last wanted one."""


def find_starts(packets: Packets, wanted: Int64Array) -> Int64Array:
    """Return (n,) where decoding must begin for each of the frames of (n,) packets."""
    keys = np.flatnonzero(packets.is_key)
    place = np.searchsorted(keys, wanted, "right") - 1
    if not len(keys) or (place < 0).any():
        return np.full_like(wanted, packets.first_key)
    # A frame that is displayed before the key it is decoded after refers to the frames before, too.
    place -= (place > 0) & (packets.pts[wanted] < packets.pts[keys[place]])
    return keys[place]


def plan_runs(packets: Packets, wanted: Int64Array) -> list[Run]:
    """Return what must be decoded for the frames of some packets."""
    runs: list[Run] = []
    wanted = np.unique(wanted)
    for start, index in zip(find_starts(packets, wanted), wanted, strict=True):
        if runs and start <= runs[-1].stop:
            runs[-1] = Run(runs[-1].start, int(index))
        else:
            runs.append(Run(int(start), int(index)))
    return runs


def pick_frames(
    video: Video, wanted: Int64Array, crop: Callable[[UInt8Array], Crop]
) -> tuple[dict[int, Crop], Int64Array]:
    """Decode the frames of some packets.

    Args:
        video: whose packets are ordered.
        wanted: (n,) indices of packets, in any order.
        crop: is given the (height, width, 3) uint8 RGB of each wanted frame.

    Returns:
        What `crop` made of each frame, by its packet's index; those of the wanted that are damaged,
        or that refer to what is.

    Raises:
        MissedError: a frame was not found, and no damage explains it.
    """
    shortest = plan_runs(video.packets, wanted)
    longest = [Run(video.packets.first_key, int(wanted.max()))]
    if shortest != longest:
        with suppress(MissedError):
            crops, damaged = decode_runs(video, shortest, wanted, crop)
            # A frame behind a key of H.264 may name others before it, without using them; a decoder
            # that begins at the key takes that for damage.
            if not len(damaged):
                return crops, damaged
    return decode_runs(video, longest, wanted, crop)


def decode_runs(
    video: Video, runs: Sequence[Run], wanted: Int64Array, crop: Callable[[UInt8Array], Crop]
) -> tuple[dict[int, Crop], Int64Array]:
    """Decode runs of packets for the frames of some; see `pick_frames`."""
    packets, source = video.packets, video.read(runs[0].start)
    decoder = FrameDecoder(video)
    skips = video.stream.codec_context.codec.canonical_name in SKIPPING_CODECS
    missing = dict(zip(packets.pts[wanted].tolist(), wanted.tolist(), strict=True))
    crops: dict[int, Crop] = {}
    for run in runs:
        first = int(packets.pts[run.start]) if packets.is_key[run.start] else NO_TIME
        for frame in decode_run(run, source, decoder, first, missing if skips else None):
            if frame.is_corrupt:
                decoder.damaged += np.flatnonzero(packets.pts == frame.pts).tolist()
            if frame.pts == packets.pts[run.start] and run.start and not frame.key_frame:
                raise MissedError  # the container is wrong about its keys
            if (index := missing.pop(frame.pts, None)) is not None:
                crops[index] = crop(decoder.to_rgb(frame))
    damaged = np.unique(np.asarray(decoder.damaged, np.int64))
    starts = find_starts(packets, wanted)
    is_bad = np.searchsorted(damaged, starts) < np.searchsorted(damaged, wanted, "right")
    if not set(missing.values()) <= set(wanted[is_bad].tolist()):
        raise MissedError
    return crops, wanted[is_bad]


def decode_run(
    run: Run,
    source: Iterator[tuple[int, Any]],
    decoder: FrameDecoder,
    first: int,
    wanted: Mapping[int, int] | None,
) -> Iterator[Any]:
    """Yield the frames of a run; those that no other refers to only if they are wanted.

    Args:
        run: what is decoded.
        source: (index, packet) from before the run on.
        decoder: begins anew.
        first: when the frame of the run's key is displayed, ticks; what is displayed before it
            refers to frames before the run.
        wanted: their times in ticks; None for all frames.
    """
    for index, packet in source:
        if index >= run.start and packet.pts >= first:
            skips = wanted is not None and packet.pts not in wanted
            yield from decoder.decode(index, packet, skips=skips)
        if index == run.stop:
            break
    yield from decoder.drain()


def walk_frames(
    video: Video, *, conceals: bool = False
) -> Iterator[tuple[float, float, Callable[[], UInt8Array]]]:
    """Yield (begin, end, pixels) of every frame in the order of display: slow, and always right.

    Args:
        video: what is decoded.
        conceals: give frames that are damaged, too, as well as they can be shown.

    Raises:
        ClipError: a frame is damaged.
    """
    packets, start = video.packets, video.packets.first_key
    source = islice(video.read(), start, None)
    decoder = FrameDecoder(video, conceals=conceals)
    # Where only times of decoding are known, the n-th frame to be displayed has the n-th of them.
    pts, is_shown = packets.pts[start:], packets.is_shown[start:]
    times = iter(() if packets.is_timed else np.sort(pts[is_shown]).tolist())
    end = -math.inf
    for frame in decode_all(decoder, source):
        if not conceals and (frame.is_corrupt or decoder.damaged):
            raise ClipError("decode", "decode_error", "a frame of the clip does not decode")
        ticks = next(times, frame.pts)
        # The last frames out of a decoder may come without a time: each follows the one before.
        begin = end if ticks is None else max(packets.seconds(ticks), end)
        end = begin + packets.seconds(frame.duration)
        yield begin, end, partial(decoder.to_rgb, frame)


def decode_all(decoder: FrameDecoder, source: Iterable[tuple[int, Any]]) -> Iterator[Any]:
    """Yield all frames of packets."""
    for index, packet in source:
        yield from decoder.decode(index, packet)
    yield from decoder.drain()
