"""These functions make archives that were built to do harm, or came to harm.

`HOSTILE` has them by name; each holds a good small clip behind what is hostile, where possible.
"""

import gzip
import random
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests.support.hub.faults import flip_bit

BLOCK = 512
END_MARK = bytes(2 * BLOCK)
EVIL_NAME = "evil-evil-1_000000_000010.mp4"
"""A clip's name that no test asks for."""
EVIL_DIRECTORY = str(Path("/", "tmp", "evil_abs"))
"""Directory that no test may ever write to."""
OUTSIDE = "../../../../etc/passwd"
GIGABYTE = 1 << 30
BOMB_BYTES = 3 * GIGABYTE
BOMB_PIECE_BYTES = GIGABYTE >> 4
FILLER_BYTES = 100_000
PAX_HEADER = tarfile.XHDTYPE


def make_header(
    name: str, nbytes: int = 0, kind: bytes = tarfile.REGTYPE, *, link: str = ""
) -> bytes:
    """Return the header of a member in GNU's dialect."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.type, entry.linkname, entry.mtime = nbytes, kind, link, 1_500_000_000
    return entry.tobuf(tarfile.GNU_FORMAT)


def make_member(name: str, data: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return a member: its header, its bytes, and zeros up to the next block."""
    return make_header(name, len(data), kind) + data + bytes(-len(data) % BLOCK)


def patch_header(header: bytes, at: int, field: bytes) -> bytes:
    """Return a header with another field, and a checksum that is right."""
    patched = bytearray(header)
    patched[at : at + len(field)] = field
    patched[148:156] = b" " * 8
    patched[148:156] = b"%06o\0 " % sum(patched)
    return bytes(patched)


def pack(*parts: bytes) -> bytes:
    """Return members as a whole tar in gzip."""
    return compress(b"".join(parts) + END_MARK)


def compress(data: bytes) -> bytes:
    """Return data in gzip, the same bytes at any time."""
    return gzip.compress(data, 6, mtime=0)


@cache
def make_bomb() -> bytes:
    """Return 3 GB of zeros in 3 MB: gzip may consist of members, and these are all the same."""
    return compress(bytes(BOMB_PIECE_BYTES)) * (BOMB_BYTES // BOMB_PIECE_BYTES)


@cache
def make_filler() -> bytes:
    """Return a member that gzip cannot make smaller."""
    return make_member(EVIL_NAME, random.Random(0).randbytes(FILLER_BYTES))


def pack_beside(hostile_name: str) -> Callable[[str, bytes], bytes]:
    """Return a function that packs a file of that name before the clip."""

    def build(name: str, data: bytes) -> bytes:
        return pack(make_member(hostile_name, b"evil"), make_member(name, data))

    return build


def pack_behind_special(kind: bytes, link: str = "") -> Callable[[str, bytes], bytes]:
    """Return a function that packs a link, device or pipe with the clip's name before the clip."""

    def build(name: str, data: bytes) -> bytes:
        return pack(make_header(name, 0, kind, link=link), make_member(name, data))

    return build


def pack_below_link(name: str, data: bytes) -> bytes:
    """Return a link to a directory outside, and the clip in that directory."""
    link = make_header("train", 0, tarfile.SYMTYPE, link=EVIL_DIRECTORY)
    return pack(link, make_member(f"train/{name}", data))


def pack_bomb_after_end(name: str, data: bytes) -> bytes:
    """Return a whole tar, with 3 GB of zeros behind its end mark."""
    return pack(make_member(name, data)) + make_bomb()


def pack_bomb_member(name: str, data: bytes) -> bytes:
    """Return a clip of 3 GB of zeros, and the good one after it."""
    header = compress(make_header(EVIL_NAME, BOMB_BYTES))
    return header + make_bomb() + pack(make_member(name, data))


def pack_huge_size(name: str, data: bytes) -> bytes:
    """Return a clip that states 10 GB and has a few bytes."""
    return pack(make_header(name, 10 * GIGABYTE), bytes(BLOCK), make_member(name, data))


def pack_negative_size(name: str, data: bytes) -> bytes:
    """Return the clip with -512 bytes: a reader that goes on by them reads the header for ever."""
    size = (-BLOCK).to_bytes(12, "big", signed=True)
    return pack(patch_header(make_header(name), 124, size), make_member(name, data))


def pack_sparse(name: str, data: bytes) -> bytes:
    """Return GNU's sparse file of 10 GB under the clip's name, with 4 bytes of content."""
    header = make_header(name, 4, tarfile.GNUTYPE_SPARSE)
    header = patch_header(header, 386, b"%011o\0%011o\0" % (0, 4))
    # The size is in base 256, because octal digits do not reach so far.
    header = patch_header(header, 483, b"\x80" + (10 * GIGABYTE).to_bytes(11, "big"))
    return pack(header, b"evil", bytes(BLOCK - 4), make_member(name, data))


def pack_sparse_pax(name: str, data: bytes) -> bytes:
    """Return PAX's sparse file: the member holds a map, and then the bytes that the map places."""
    fields = make_pax_fields(
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", name),
        ("GNU.sparse.realsize", str(10 * GIGABYTE)),
    )
    body = b"1\n0\n4\n".ljust(BLOCK, b"\0") + b"evil"
    header = make_member("PaxHeaders/evil", fields, PAX_HEADER)
    return pack(header, make_member(f"GNUSparseFile.0/{name}", body), make_member(name, data))


def make_pax_fields(*fields: tuple[str, str]) -> bytes:
    """Return the fields of a PAX header."""
    lines = b""
    for key, value in fields:
        rest = f" {key}={value}\n"
        # The length counts its own digits.
        length = len(rest) + len(str(len(rest) + 2))
        lines += f"{length}{rest}".encode("ascii")
    return lines


def pack_pax_huge_header(name: str, data: bytes) -> bytes:
    """Return a PAX header that states 10 GB for itself."""
    header = make_header("PaxHeaders/evil", 10 * GIGABYTE, PAX_HEADER)
    return pack(header, make_pax_fields(("comment", "evil")), make_member(name, data))


def pack_pax_huge_size(name: str, data: bytes) -> bytes:
    """Return a PAX header that states 10 TB for the clip."""
    fields = make_pax_fields(("size", str(10 << 40)))
    header = make_member("PaxHeaders/evil", fields, PAX_HEADER)
    return pack(header, make_member(name, data), make_member(name, data))


def pack_long_name(name: str, data: bytes) -> bytes:
    """Return a clip in directories whose names are 1 MB long, and the good one after it."""
    long_name = f"{'/'.join(['a' * 99] * 10_000)}/{EVIL_NAME}".encode("ascii") + b"\0"
    header = make_member("././@LongLink", long_name, tarfile.GNUTYPE_LONGNAME)
    return pack(header, make_member(EVIL_NAME, b"evil"), make_member(name, data))


def pack_empty_then_good(name: str, data: bytes) -> bytes:
    """Return the clip twice, first without a byte."""
    return pack(make_member(f"a/{name}", b""), make_member(f"b/{name}", data))


def pack_good_then_other(name: str, data: bytes) -> bytes:
    """Return the clip twice, the second time with other bytes."""
    return pack(make_member(f"a/{name}", data), make_member(f"b/{name}", b"other" + data))


def pack_whole(name: str, data: bytes) -> bytes:
    """Return a sound archive: the clip, and then a large one that no test asks for."""
    return pack(make_member(name, data), make_filler())


def pack_truncated(name: str, data: bytes) -> bytes:
    """Return an archive that ends in the middle of what follows the clip."""
    return pack_whole(name, data)[: -FILLER_BYTES // 2]


def pack_flipped(name: str, data: bytes) -> bytes:
    """Return an archive with one wrong bit in what follows the clip."""
    whole = pack_whole(name, data)
    return flip_bit(whole, len(whole) - FILLER_BYTES // 2)


def pack_wrong_checksum(name: str, data: bytes) -> bytes:
    """Return an archive that is sound but for the checksum at its end."""
    whole = pack_whole(name, data)
    return flip_bit(whole, len(whole) - 8)


def pack_garbage_after_end(name: str, data: bytes) -> bytes:
    """Return an archive with bytes that are no gzip after its end."""
    return pack_whole(name, data) + b"garbage " * 1000


def make_empty(_name: str, _data: bytes) -> bytes:
    """Return a file without a byte."""
    return b""


def make_error_page(_name: str, _data: bytes) -> bytes:
    """Return an error page, which a server sent instead of an archive."""
    return b"<!DOCTYPE html>\n<html><body><h1>503 Slow Down</h1></body></html>\n" * 20


HOSTILE: dict[str, Callable[[str, bytes], bytes]] = {
    "parent": pack_beside("../evil.mp4"),
    "parent_clip": pack_beside(f"../{EVIL_NAME}"),
    "parent_inside": pack_beside(f"a/../../{EVIL_NAME}"),
    "absolute": pack_beside(f"{EVIL_DIRECTORY}/{EVIL_NAME}"),
    "control_characters": pack_beside(f"\x1b[31m\nlog line\r/{EVIL_NAME}"),
    "symbolic_link": pack_behind_special(tarfile.SYMTYPE, OUTSIDE),
    "hard_link": pack_behind_special(tarfile.LNKTYPE, OUTSIDE),
    "character_device": pack_behind_special(tarfile.CHRTYPE),
    "pipe": pack_behind_special(tarfile.FIFOTYPE),
    "linked_directory": pack_below_link,
    "bomb_after_end": pack_bomb_after_end,
    "bomb_member": pack_bomb_member,
    "huge_size": pack_huge_size,
    "negative_size": pack_negative_size,
    "sparse": pack_sparse,
    "sparse_pax": pack_sparse_pax,
    "pax_huge_header": pack_pax_huge_header,
    "pax_huge_size": pack_pax_huge_size,
    "long_name": pack_long_name,
    "empty_then_good": pack_empty_then_good,
    "good_then_other": pack_good_then_other,
    "truncated": pack_truncated,
    "flipped": pack_flipped,
    "wrong_checksum": pack_wrong_checksum,
    "garbage_after_end": pack_garbage_after_end,
    "empty": make_empty,
    "error_page": make_error_page,
}

SOUND = frozenset(
    {
        "parent",
        "parent_clip",
        "parent_inside",
        "absolute",
        "control_characters",
        "symbolic_link",
        "hard_link",
        "character_device",
        "pipe",
        "linked_directory",
        "sparse",
        "sparse_pax",
        "long_name",
        "empty_then_good",
        "good_then_other",
    }
)
"""The archives that are whole as gzip and as tar, so that the good clip can be had."""
