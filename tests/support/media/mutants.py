"""`make_mutant` damages a video file: a pure function of bytes and a seeded generator.

The specifications of the containers say what the damaged fields mean; here they are places.
"""

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tests.support.media.picture_sizes import SIZES, overwrite_size

CONTAINER_BOXES = {
    b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"moof", b"traf", b"mvex",
}  # fmt: skip
HEADER_BYTES = 512
EXTREMES = (0, 1, 2, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1)
# The first bytes of a file of each kind; those of an mp4 stand behind four others.
MAGICS = {
    "mkv": b"\x1aE\xdf\xa3", "avi": b"RIFF", "ts": b"G@", "mpg": b"\0\0\1\xba", "gif": b"GIF8",
}  # fmt: skip
# Fields of each kind of file: the bytes that mark them, and how far behind these they stand.
FIELDS: dict[str, tuple[tuple[bytes, tuple[int, ...], str], ...]] = {
    "mp4": (
        (b"mvhd", (12, 16), ">I"), (b"mdhd", (0, 12, 16), ">I"), (b"tkhd", (20, 76, 80), ">I"),
        (b"stts", (4, 8, 12), ">I"), (b"ctts", (4, 8, 12), ">I"), (b"stsz", (4, 8, 12, 16), ">I"),
        (b"stco", (4, 8, 12), ">I"), (b"stsc", (4, 8, 12, 16), ">I"), (b"stss", (4, 8), ">I"),
        (b"elst", (4, 8, 12, 16), ">I"), (b"stsd", (4, 8), ">I"), (b"avc1", (24, 26), ">H"),
        (b"hev1", (24, 26), ">H"), (b"mp4v", (24, 26), ">H"), (b"avcC", (4, 5, 6), ">B"),
        (b"tfdt", (4, 8), ">I"), (b"trun", (4, 8, 12, 16), ">I"), (b"tfhd", (4, 8, 16), ">I"),
        (b"trex", (4, 12, 16), ">I"), (b"hdlr", (8,), ">I"),
    ),
    "mkv": (
        (b"\x18S\x80g", (0, 1, 4), ">I"), (b"\x1fC\xb6u", (0, 1), ">I"),
        (b"D\x89", (0, 1, 5), ">I"), (b"*\xd7\xb1", (0, 1), ">I"), (b"T\xb0", (0, 1), ">H"),
        (b"T\xba", (0, 1), ">H"),
        (b"\xb0\x81", (0,), ">B"), (b"\xb0\x82", (0,), ">H"), (b"\xba\x82", (0,), ">H"),
        (b"\xe7\x81", (0,), ">B"), (b"\xa3", (0, 1, 3), ">H"), (b"\x16T\xaek", (0, 1), ">I"),
        (b"\x1cS\xbbk", (0, 1), ">I"), (b"\x9d\x01*", (0, 2), "<H"), (b"#\xe3\x83", (0, 1), ">I"),
    ),
    "avi": (
        (b"avih", (4, 20, 28, 36, 40), "<I"), (b"strh", (20, 24, 28, 32, 36, 40), "<I"),
        (b"strf", (0, 4, 8, 12), "<I"), (b"idx1", (0, 8, 12, 16), "<I"), (b"LIST", (0,), "<I"),
        (b"RIFF", (0,), "<I"), (b"00dc", (0,), "<I"),
    ),
    "ts": (
        (b"\0\0\1\xe0", (0, 2, 4, 5, 6, 10), ">I"), (b"G\x41\0", (0, 1, 2, 3, 5), ">I"),
        (b"G@\x11", (0, 4), ">I"), (b"G@\0", (0, 4, 10), ">I"), (b"G\x50\0", (4, 12), ">I"),
    ),
    "mpg": (
        (b"\0\0\1\xba", (0, 1, 4), ">I"), (b"\0\0\1\xe0", (0, 2, 4, 5, 6), ">I"),
        (b"\0\0\1\xb3", (0, 2, 3), ">I"), (b"\0\0\1\xb5", (0, 2), ">I"), (b"\0\0\1\0", (0,), ">I"),
    ),
    "gif": ((b"GIF89a", (0, 2), "<H"), (b"!\xf9\x04", (1,), "<H"), (b",\0\0\0\0", (0, 2), "<H")),
}  # fmt: skip

Random = np.random.Generator


@dataclass(frozen=True, slots=True)
class Mutant:
    """A damaged file."""

    what: str
    """Name of the sound file, and what was done to it."""
    suffix: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Box:
    """A box of an MP4 file, its header of eight bytes included."""

    kind: bytes
    begin: int
    end: int
    parents: tuple[int, ...]
    """Offsets at which the boxes around it start."""


def list_boxes(data: bytes) -> list[Box]:
    """Return the boxes in the order of the file, those in boxes too; nonsense ends the list."""
    boxes: list[Box] = []
    pending: list[tuple[int, int, tuple[int, ...]]] = [(0, len(data), ())]
    while pending:
        at, stop, parents = pending.pop()
        while at + 8 <= stop:
            size, kind = struct.unpack_from(">I4s", data, at)
            if size < 8 or at + size > stop:
                break
            boxes.append(Box(kind, at, at + size, parents))
            if kind in CONTAINER_BOXES:
                pending.append((at + 8, at + size, (*parents, at)))
            at += size
    return sorted(boxes, key=lambda box: box.begin)


def replace_box(data: bytes, box: Box, content: bytes) -> bytes:
    """Put other bytes in a box's place; the boxes around it state their new size."""
    edited = bytearray(data[: box.begin] + content + data[box.end :])
    for at in box.parents:
        (size,) = struct.unpack_from(">I", data, at)
        struct.pack_into(">I", edited, at, size + len(content) - (box.end - box.begin))
    return bytes(edited)


def pick_box(data: bytes, rng: Random, kinds: Sequence[bytes] = ()) -> Box | None:
    """Return a random box, of these kinds where some are named; None where there is none."""
    boxes = [box for box in list_boxes(data) if not kinds or box.kind in kinds]
    return boxes[rng.integers(len(boxes))] if boxes else None


def pick_span(data: bytes, rng: Random) -> tuple[int, int]:
    """Return start and end of a random piece, a short one as likely as a long one."""
    length = min(len(data), int(2 ** rng.uniform(0, np.log2(len(data) + 1))))
    begin = int(rng.integers(len(data) - length + 1))
    return begin, begin + length


def flip_bits(data: bytes, rng: Random, begin: int, end: int, n_bits: int) -> bytes:
    """Flip bits between two places."""
    edited = bytearray(data)
    for at in rng.integers(begin, max(end, begin + 1), n_bits):
        edited[min(int(at), len(edited) - 1)] ^= 1 << int(rng.integers(8))
    return bytes(edited)


def flip_one(data: bytes, rng: Random) -> bytes:
    """Flip one bit anywhere."""
    return flip_bits(data, rng, 0, len(data), 1)


def flip_many(data: bytes, rng: Random) -> bytes:
    """Flip up to one bit in a hundred bytes."""
    return flip_bits(data, rng, 0, len(data), 1 + int(len(data) * 10 ** rng.uniform(-5, -2)))


def flip_header(data: bytes, rng: Random) -> bytes:
    """Flip a few bits of the header: of the `moov` box where there is one."""
    box = pick_box(data, rng, [b"moov", b"stbl", b"moof", b"stsd"])
    begin, end = (box.begin, box.end) if box else (0, HEADER_BYTES)
    return flip_bits(data, rng, begin, min(end, len(data)), int(rng.integers(1, 20)))


def cut_tail(data: bytes, rng: Random) -> bytes:
    """Keep the first part."""
    return data[: pick_span(data, rng)[0] + 1]


def cut_front(data: bytes, rng: Random) -> bytes:
    """Keep the last part."""
    return data[min(pick_span(data, rng)[1], len(data) - 1) :]


def cut_middle(data: bytes, rng: Random) -> bytes:
    """Take a piece out."""
    begin, end = pick_span(data, rng)
    return data[:begin] + data[end:]


def fill_block(data: bytes, rng: Random) -> bytes:
    """Overwrite a piece with zeros, ones or noise."""
    begin, end = pick_span(data, rng)
    fillings = (b"\0" * (end - begin), b"\xff" * (end - begin), rng.bytes(end - begin))
    return data[:begin] + fillings[rng.integers(3)] + data[end:]


def repeat_block(data: bytes, rng: Random) -> bytes:
    """Insert a piece again, once or a few times."""
    begin, end = pick_span(data, rng)
    return data[:end] + data[begin:end] * int(rng.integers(1, 4)) + data[end:]


def set_fields(data: bytes, rng: Random) -> bytes:
    """Put an absurd number in one to three of the container's known fields."""
    edited = bytearray(data)
    fields = [field for field in FIELDS[find_kind(data)] if field[0] in data]
    for _ in range(rng.integers(1, 4) if fields else 0):
        marker, offsets, layout = fields[rng.integers(len(fields))]
        places = [match.end() for match in re.finditer(re.escape(marker), data)]
        at = places[rng.integers(len(places))] + int(rng.choice(offsets))
        number = EXTREMES[rng.integers(len(EXTREMES))] % 2 ** (8 * struct.calcsize(layout))
        if at + struct.calcsize(layout) <= len(data):
            struct.pack_into(layout, edited, at, number)
    return bytes(edited)


def set_box_size(data: bytes, rng: Random) -> bytes:
    """State another size of a box: 0, 1 (which means 64 bits follow), or larger than the file."""
    box = pick_box(data, rng)
    if box is None:
        return flip_header(data, rng)
    sizes = (0, 1, 7, 8, box.end - box.begin + 1, len(data) * 2, 2**31, 2**32 - 1)
    size = struct.pack(">I", sizes[rng.integers(len(sizes))])
    long_size = struct.pack(">Q", (2**63 - 1, 2**64 - 1, 0, 16)[rng.integers(4)])
    edited = data[: box.begin] + size + data[box.begin + 4 :]
    if size == b"\0\0\0\1":
        edited = edited[: box.begin + 8] + long_size + edited[box.begin + 16 :]
    return edited


def swap_boxes(data: bytes, rng: Random) -> bytes:
    """Let two boxes change places."""
    first, second = pick_box(data, rng), pick_box(data, rng)
    if first is None or second is None:
        return cut_middle(data, rng)
    if second.begin < first.begin:
        first, second = second, first
    if second.begin < first.end:
        return replace_box(data, second, b"")
    contents = data[first.begin : first.end], data[second.begin : second.end]
    return replace_box(replace_box(data, second, contents[0]), first, contents[1])


def rearrange_box(data: bytes, rng: Random) -> bytes:
    """Delete a box, double it, or nest it in others, a hundred or ten thousand deep."""
    box = pick_box(data, rng)
    if box is None:
        return repeat_block(data, rng)
    content = data[box.begin : box.end]
    times = int(rng.choice((0, 2, 4, -100, -10_000)))
    if times >= 0:
        return replace_box(data, box, content * times)
    kind = (b"moov", b"trak", b"udta", b"stbl", box.kind)[rng.integers(5)]
    sizes = (len(content) + 8 * depth for depth in range(-times, 0, -1))
    return replace_box(
        data, box, b"".join(struct.pack(">I4s", size, kind) for size in sizes) + content
    )


def set_picture_size(data: bytes, rng: Random) -> bytes:
    """State another picture size where the decoder believes it, if we know where that is."""
    edited = overwrite_size(data, *SIZES[rng.integers(len(SIZES))])
    return set_fields(data, rng) if edited == data else edited


def find_kind(data: bytes) -> str:
    """Tell the container of a sound file."""
    return next((kind for kind, magic in MAGICS.items() if data.startswith(magic)), "mp4")


OPERATORS: tuple[Callable[[bytes, Random], bytes], ...] = (
    set_fields, flip_header, set_box_size, set_picture_size, swap_boxes, rearrange_box, flip_many,
    fill_block, cut_tail, cut_middle, repeat_block, cut_front, flip_one,
)  # fmt: skip
# How many operators damage one file; a number that stands here twice is twice as likely.
STEPS = (1, 1, 1, 2, 3)
SPLICE_SHARE = 0.06


def make_mutant(sources: Sequence[Mutant], seed: int, number: int) -> Mutant:
    """Return case `number` of a seed: one of the sources, damaged."""
    rng = np.random.default_rng([seed, number])
    source = sources[int(rng.integers(len(sources)))]
    data, done = source.data, [source.what]
    if rng.random() < SPLICE_SHARE:
        other = sources[int(rng.integers(len(sources)))]
        data = cut_tail(data, rng) + cut_front(other.data, rng)
        done.append(f"spliced onto {other.what}")
    else:
        first = number % len(OPERATORS)
        for step in range(STEPS[rng.integers(len(STEPS))]):
            operator = OPERATORS[first if step == 0 else int(rng.integers(len(OPERATORS)))]
            data = operator(data, rng) or b"\0"
            done.append(operator.__name__)
    return Mutant(f"seed {seed} case {number}: {', '.join(done)}", source.suffix, data)
