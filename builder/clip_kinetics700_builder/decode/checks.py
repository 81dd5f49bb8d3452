"""Refuses files that FFmpeg must not open, and videos whose headers or times claim too much."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from clip_kinetics700_builder.decode.preprocess import Preprocessing
from clip_kinetics700_builder.system.outage import explain_outage
from clip_kinetics700_builder.types import ClipError

# Twice 8K. A damaged header can claim frames of gigabytes.
MAX_FRAME_PIXELS = 2**26
# Bytes of RGB that are held at a time: 64 frames of 4K would be 1.6 GB.
MAX_SLICE_BYTES = 64 * 2**20
# A damaged clock can claim years, each second of which would repeat one frame. The clock of MPEG-TS
# wraps after 26.5 hours.
MAX_DURATION_SECONDS = 25 * 3600
# The embeddings of one clip are held in memory: at the usual width these are 1 GB.
MAX_FRAMES_PER_CLIP = 1_000_000

HEAD_BYTES = 16
TEXT_BYTES = frozenset((*b"\t\n\v\f\r", *range(0x20, 0x7F), *range(0x80, 0x100)))
HLS_MAGIC = b"#EXTM3U"
# Containers that may begin with nothing but text bytes. GIF, and a transport stream cut out of
# another, begin with G, as no playlist does.
BINARY_MAGICS = (
    b"RIFF", b"RIFX", b"RF64", b"FORM", b"G", b"FWS", b"CWS", b"nut/", b"YUV4MPEG2 ",
)  # fmt: skip
ID3_MAGIC, ID3_HEADER_BYTES, ID3_HAS_FOOTER = b"ID3", 10, 0x10
# FFmpeg looks no further than this for what follows the tags.
MAX_ID3_BYTES = 2**20
PICTURE_SERIES = re.compile(r"[%*?\[{]")
PICTURES = re.compile(
    r"\.(png|jpe?g|jp2|j2k|jxl|webp|gif|bmp|tiff?|tga|dpx|exr|pnm|ppm|pgm|pbm|pam|pcx|sgi|ras|xbm|xpm|svg)$",
    re.IGNORECASE,
)


def check_file(path: str) -> None:
    """Refuse a file that is empty, or that makes FFmpeg open other files.

    FFmpeg recognises a playlist (HLS,
    DASH, ffconcat, a VobSub index) by its content, whatever its name. All of them are text.

    Raises:
        ClipError: the file is one of these, or cannot be read.
    """
    with open_video_file(path) as file:
        head = read_behind_tags(file)
        n_bytes = file.seek(0, os.SEEK_END)
    if n_bytes == 0:
        raise ClipError("source", "empty_file", "the file has no bytes")
    is_text = not head.startswith(BINARY_MAGICS) and all(byte in TEXT_BYTES for byte in head)
    if is_text or head.startswith(HLS_MAGIC):
        raise ClipError("decode", "unreadable", "the file is text, as playlists are, and no video")
    name = Path(path).name
    if PICTURE_SERIES.search(name) and PICTURES.search(name):
        # FFmpeg takes such a name for a pattern, and opens all files that fit it.
        message = "the name of a picture with %, *, ?, [ or { stands for a series of pictures"
        raise ClipError("decode", "unreadable", message)


@contextmanager
def open_video_file(path: str) -> Iterator[BinaryIO]:
    """Yield an open file.

    Raises:
        ClipError: the file is gone, or may not be read.
        OutageError: nothing can be read there now.
    """
    try:
        with Path(path).open("rb") as file:
            yield file
    except OSError as error:
        outage = explain_outage(error, Path(path))
        if outage is not None:
            raise outage from error
        if isinstance(error, FileNotFoundError):
            raise ClipError("source", "missing", "the file is no longer there") from None
        raise ClipError("source", "unreadable", "the file cannot be read") from None


def read_behind_tags(file: BinaryIO) -> bytes:
    """Return the first bytes of a file behind its ID3 tags, over which FFmpeg passes."""
    head = file.read(HEAD_BYTES)
    while head.startswith(ID3_MAGIC) and len(head) > ID3_HEADER_BYTES:
        size = ID3_HEADER_BYTES + sum(
            (byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True)
        )
        size += ID3_HEADER_BYTES if head[5] & ID3_HAS_FOOTER else 0
        if file.seek(size - len(head), 1) > MAX_ID3_BYTES:
            break
        head = file.read(HEAD_BYTES)
    return head


def check_size(width: int, height: int) -> None:
    """Refuse frames of no size, or of an absurd one.

    Raises:
        ClipError: the frames are refused.
    """
    if height <= 0 or width <= 0:
        raise ClipError("decode", "no_frames", "the frames of the video stream have no size")
    if height * width > MAX_FRAME_PIXELS:
        message = f"frames of {width} x {height}, more than {MAX_FRAME_PIXELS} pixels"
        raise ClipError("decode", "out_of_memory", message)


def check_resized(width: int, height: int, preprocessing: Preprocessing) -> None:
    """Refuse frames so narrow that they outgrow the memory when their shorter edge is enlarged.

    Raises:
        ClipError: the frames are refused.
    """
    resized_height, resized_width = preprocessing.resized_size(height, width)
    if 3 * resized_height * resized_width > MAX_SLICE_BYTES:
        message = f"frames of {width} x {height} become {resized_width} x {resized_height}"
        raise ClipError("decode", "out_of_memory", message)


def check_length(duration: float, n_frames: int) -> None:
    """Refuse a clip whose frames' times span more than any video.

    Raises:
        ClipError: the clip is refused.
    """
    if duration > MAX_DURATION_SECONDS or n_frames > MAX_FRAMES_PER_CLIP:
        raise ClipError("decode", "decode_error", f"the frames' times span {duration:.0f} s")
