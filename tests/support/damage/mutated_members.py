"""These functions rewrite a tar with wrong members: headers, extensions, order, content.

All checksums are right, and by chance an index says where everything lies now, so that only the
content can tell.
"""

import gzip
import io
import random
import re
import tarfile
from collections.abc import Callable
from itertools import takewhile
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from clip_kinetics700.schema import INDEX_NAME
from tests.support.datasets.dialects import foreign_members
from tests.support.kinetics.hostile_archives import (
    BLOCK,
    END_MARK,
    make_member,
    make_pax_fields,
    patch_header,
)

Files: TypeAlias = dict[str, bytes]
Part: TypeAlias = tuple[str, bytes, bytes]
"""A member: its name, its headers, its bytes without padding."""
Edit: TypeAlias = Callable[[bytes, random.Random], tuple[bytes, str]]

SHAPE = re.compile(rb"'shape': \((\d{1,9}),")
SIZE, KIND, MAGIC, PREFIX, CHECKSUM = 124, 156, 257, 345, 148
HEADER_FIELDS: tuple[tuple[int, bytes], ...] = (
    *((SIZE, b"%011o\0" % size) for size in (0, 1, 127, 129, 511, 1024, 1 << 20, (1 << 33) - 1)),
    *((SIZE, field) for field in (b" " * 12, b"7" * 12, b"-0000000012\0", b"0x80\0", b"12\0 rest")),
    *((SIZE, b"\x80" + size.to_bytes(11, "big")) for size in (1, 7 << 30, 10 << 30, 1 << 80)),
    (SIZE, (-BLOCK).to_bytes(12, "big", signed=True)),
    *((KIND, bytes([kind])) for kind in b"\0 1234567gxLKSDMVNXA"),
    *(
        (0, name + b"\0")
        for name in (b"vid_000000003.npy", b"vid_00001.npy", b"a/b.txt", b"x", b"")
    ),
    *(
        (0, name + b"\0")
        for name in (b"\xff\xfe.npy", b"../../evil.npy", b"/", b".npy", b"._v.npy")
    ),
    *((MAGIC, magic) for magic in (b"ustar\x0000", b"ustar  \0", bytes(8), b"xstar\0")),
    *((PREFIX, prefix + b"\0") for prefix in (b"train", b"..", b"\xff", b"a" * 154)),
)
COMMENT = make_pax_fields(("comment", "nothing"))
PAX_FIELDS = (
    *(make_pax_fields(("size", size)) for size in ("1", "0", "-1", "x", "1e3", "9" * 30, "512")),
    *(make_pax_fields(("path", path)) for path in ("vid_00001.npy", "a\0b.npy", "", "x/y.json")),
    COMMENT,
    make_pax_fields(("GNU.sparse.major", "1"), ("GNU.sparse.realsize", "99")),
    make_pax_fields(("mtime", "nan"), ("uid", "x"), ("path", "z.txt")),
    *(b"30 path=short\n", b"3 x", b"0 path=x\n", b"no length", b"\xb2\xb3 path=x\n"),
    *(b"9" * 5000 + b" path=x\n", b"13 path=\xff\xfe.t\n"),
)
LONG_NAMES = (b"n" * 300 + b".npy\0", b"a\0b.npy\0", b"no_end.npy", b"\xff.txt\0", b"\0", b"d/\0")
STRAY_NAMES = ("README", "._vid_00000.npy", "d/", "vid_00000.npy", "vid_00000.JSON", "s.txt")
STRAY_KINDS = (tarfile.REGTYPE, tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, b"g")


def is_tar(name: str) -> bool:
    """Tell by its name whether a file is a tar."""
    return name.endswith((".tar", ".tar.gz"))


def read_tar(files: Files, name: str) -> bytes:
    """Return a sound tar, unpacked."""
    return gzip.decompress(files[name]) if name.endswith(".gz") else files[name]


def change_tar(files: Files, name: str, change: Callable[[bytes], bytes]) -> None:
    """Replace what a tar holds, also behind gzip."""
    changed = change(read_tar(files, name))
    files[name] = gzip.compress(changed, 1, mtime=0) if name.endswith(".gz") else changed


def split_tar(data: bytes) -> list[Part]:
    """Return the members of a sound tar."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [
            (
                info.name,
                data[info.offset : info.offset_data],
                data[info.offset_data : info.offset_data + info.size],
            )
            for info in tar
        ]


def join_part(headers: bytes, data: bytes) -> bytes:
    """Return the blocks of a member."""
    return headers + data + bytes(-len(data) % BLOCK)


def choose_tar(files: Files, rng: random.Random) -> str:
    """Return a tar that has members."""
    return rng.choice([name for name in files if is_tar(name) and files[name].strip(b"\0")])


def has_extension(part: bytes) -> bool:
    """Tell whether a member has headers before its own."""
    return part[KIND : KIND + 1] in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME)


def put_pax(parts: list[bytes], at: int, rng: random.Random) -> None:
    """Put a PAX header before a member; no standard says which of two counts."""
    fields = COMMENT if has_extension(parts[at]) else rng.choice(PAX_FIELDS)
    parts.insert(at, make_member("PaxHeaders/x", fields, tarfile.XHDTYPE))


def put_long_name(parts: list[bytes], at: int, rng: random.Random) -> None:
    """Put one of GNU's long names, or of links, before a member."""
    kind = rng.choice((tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK))
    kind = tarfile.GNUTYPE_LONGLINK if has_extension(parts[at]) else kind
    parts.insert(at, make_member("././@LongLink", rng.choice(LONG_NAMES), kind))


def put_stray(parts: list[bytes], at: int, rng: random.Random) -> None:
    """Put a stray member, or a second one of a sample, between the others."""
    data = rng.choice((b"", b"9 a=bcd\n\n", b"{}"))
    parts.insert(at, make_member(rng.choice(STRAY_NAMES), data, rng.choice(STRAY_KINDS)))


def put_sample(parts: list[bytes], at: int, rng: random.Random) -> None:
    """Put the members of another sample in the middle."""
    parts[at:at] = [make_member(*member) for member in foreign_members(rng.randrange(4))]


MEMBER_CHANGES: dict[str, Callable[[list[bytes], int, random.Random], object]] = {
    "pax": put_pax,
    "long name": put_long_name,
    "stray": put_stray,
    "sample between": put_sample,
    "missing": lambda parts, at, rng: parts.pop(at),
    "twice": lambda parts, at, rng: parts.insert(rng.randrange(len(parts) + 1), parts[at]),
    "moved": lambda parts, at, rng: parts.insert(rng.randrange(len(parts)), parts.pop(at)),
    "shuffled": lambda parts, at, rng: rng.shuffle(parts),
    "reversed": lambda parts, at, rng: parts.reverse(),
    "end in the middle": lambda parts, at, rng: parts.insert(at, END_MARK),
    "zero block": lambda parts, at, rng: parts.insert(at, bytes(BLOCK)),
    "all twice": lambda parts, at, rng: parts.extend(list(parts)),
    "none": lambda parts, at, rng: parts.clear(),
}


def mutate_members(files: Files, rng: random.Random) -> str:
    """Change header, order or number of a tar's members; every checksum is right again."""
    name = choose_tar(files, rng)
    members = split_tar(read_tar(files, name))
    at = rng.randrange(len(members))
    member_name, headers, data = members[at]
    parts = [join_part(*member[1:]) for member in members]
    kind = rng.choice(("header", "header", "header", "header", "checksum", *MEMBER_CHANGES))
    if kind == "header":
        place, field = rng.choice(HEADER_FIELDS)
        kind = f"header field {place} {field!r}"
        parts[at] = join_part(headers[:-BLOCK] + patch_header(headers[-BLOCK:], place, field), data)
    elif kind == "checksum":
        place = len(headers) - BLOCK + CHECKSUM
        field = rng.choice(
            (b" " * 8, bytes(8), b"0010000\0", headers[place : place + 6].lstrip(b"0"))
        )
        kind = f"checksum {field!r}"
        parts[at] = join_part(headers[:place] + field.ljust(8) + headers[place + 8 :], data)
    else:
        MEMBER_CHANGES[kind](parts, at, rng)
    end = rng.choice((END_MARK, END_MARK, END_MARK, bytes(BLOCK), b"", bytes(20 * BLOCK)))
    change_tar(files, name, lambda _: b"".join(parts) + end)
    how = reindex(files, name) if rng.random() < 0.5 else "old index"
    return f"{name}: member {at} {member_name!r}: {kind}, end mark of {len(end)}, {how}"


def change_member(
    files: Files, rng: random.Random, *, suffixes: tuple[str, ...], edit: Edit
) -> str:
    """Edit the content of one member, or of a loose file; the tar around it is sound."""
    loose = [name for name in files if name.endswith(suffixes) and "/" in name]
    if loose:
        name = rng.choice(loose)
        files[name], what = edit(files[name], rng)
        how = reindex(files, name) if rng.random() < 0.7 else "old index"
        return f"{name}: {what}, {how}"
    name = choose_tar(files, rng)
    members = split_tar(read_tar(files, name))
    at = rng.choice([at for at, member in enumerate(members) if member[0].endswith(suffixes)])
    member_name, headers, data = members[at]
    changed, what = edit(data, rng)
    size = b"%011o\0" % len(changed)
    members[at] = (
        member_name,
        headers[:-BLOCK] + patch_header(headers[-BLOCK:], SIZE, size),
        changed,
    )
    whole = b"".join(join_part(*member[1:]) for member in members) + END_MARK
    change_tar(files, name, lambda _: whole)
    how = reindex(files, name) if rng.random() < 0.7 else "old index"
    return f"{name}: {member_name}: {what}, {how}"


def reindex(files: Files, name: str) -> str:
    """Let the index say where the arrays of a file lie now, and how many frames they claim."""
    table = pq.read_table(pa.BufferReader(files[INDEX_NAME]))
    rows = [
        {**row, **(locate_array(files, name, row) if row["tar_file"] == name else {})}
        for row in table.to_pylist()
    ]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, table.schema), sink)
    files[INDEX_NAME] = sink.getvalue()
    return "new index"


def locate_array(files: Files, name: str, row: dict[str, object]) -> dict[str, object]:
    """Return the new values of an index row, none where its array is not found."""
    place, data = {"npy_offset": 0, "npy_nbytes": len(files[name])}, files[name]
    if is_tar(name):
        try:
            data = read_tar(files, name)
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                # With a size below zero tarfile would read one header for ever.
                infos = {info.name: info for info in takewhile(lambda info: info.size >= 0, tar)}
            info = infos[f"{row['key']}.npy"]
        except (tarfile.TarError, KeyError, ValueError, OverflowError):
            return {}
        place, data = (
            {"npy_offset": info.offset_data, "npy_nbytes": info.size},
            data[info.offset_data :],
        )
    found = SHAPE.search(data[:200])
    n_frames = row["n_frames"] if found is None else int(found[1])
    is_same = n_frames == row["n_frames"]
    return {**place, "n_frames": n_frames, "timestamps": row["timestamps"] if is_same else None}
