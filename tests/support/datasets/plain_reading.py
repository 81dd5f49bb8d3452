"""These functions read the files of a dataset with tarfile, numpy and json alone.

The rows that they return are the right answer, in order; None stands for what cannot be read, which
a reader may not pass over without a word. They use none of our code.
"""

import gzip
import io
import json
import posixpath
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from tokenize import TokenError
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Files: TypeAlias = Mapping[str, bytes]
Layout: TypeAlias = dict[str, list[str]]

WORDS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
SPLITS = ("train", "validation", "test")
MEMBERS = ("npy", "json", "txt", "cap")
INTEGERS = ("label_id", "width", "height")
NUMBERS = ("duration", "fps")
OWN_FIELDS: tuple[str, ...] = (
    "videoID",
    "start_time",
    "end_time",
    "key",
    "youtube_id",
    "time_start",
    "time_end",
)
OWN_FIELDS += (*INTEGERS, *NUMBERS, "n_frames", "timestamps", "extra")
BLOCK = 512
# Errors that these libraries raise for damage: many more kinds than ours may.
REFUSALS: tuple[type[BaseException], ...] = (
    *(ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError, OSError),
    *(MemoryError, RecursionError, SyntaxError, TokenError, tarfile.TarError, zlib.error),
    pa.ArrowException,
)


class Row(NamedTuple):
    """A sample in values that can be compared, NaN with NaN."""

    split: str
    key: str
    caption: str
    dtype: str
    shape: tuple[int, ...]
    array: bytes
    meta: str
    """Every field of meta as text with its types; empty where frames and times differ in number."""

    @property
    def embeddings(self) -> npt.NDArray[Any]:
        """The array."""
        return np.frombuffer(self.array, self.dtype).reshape(self.shape)


Expected: TypeAlias = list[Row | None]


class PlainMember(NamedTuple):
    """One file of a tar."""

    key: str
    extension: str
    data: bytes


def make_row(split: str, key: Any, caption: Any, array: npt.NDArray[Any], meta: Any) -> Row:
    """Return a row; whatever is no text, array or number in its place is refused."""
    if not isinstance(key, str) or not isinstance(caption, str):
        raise TypeError(f"{key = }, {caption = }")
    if array.ndim != 2 or array.dtype.kind != "f":
        raise ValueError(f"an array of {array.dtype} and {array.shape}")
    times = meta["timestamps"]
    is_timed = times is None or len(times) == len(array)
    fields = {name: meta[name] for name in ("youtube_id", "time_start", "time_end", "extra")}
    fields |= {name: meta[name] for name in INTEGERS}
    fields |= {name: as_number(meta[name]) for name in NUMBERS}
    fields["timestamps"] = None if times is None else np.asarray(times, np.float32).tolist()
    # A float16 in any order of memory is the same array.
    data = np.ascontiguousarray(array).tobytes()
    return Row(
        split, key, caption, array.dtype.str, array.shape, data, repr(fields) if is_timed else ""
    )


def as_number(value: Any) -> float | None:
    """Return a number as a float; one that is none is refused."""
    if value is None:
        return None
    if isinstance(value, bool):
        raise TypeError(f"{value} is no number")
    return float(value)


def load_array(data: bytes) -> npt.NDArray[Any]:
    """Return the array of a `.npy`."""
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise TypeError(f"no array but {type(array)}")
    return array


def plain_layout(files: Files) -> Layout:
    """Return which files of a sound dataset belong to which split, in order."""
    pairs = []
    tars = sorted(name for name in files if name.endswith((".tar", ".tar.gz")))
    if "splits.csv" in files:
        lines = [line.split(",") for line in files["splits.csv"].decode().split("\n")]
        rows = [line for line in lines if len(line) == 2 and line[0] != "tar_file"]
        pairs = [(WORDS[word], tar) for (_, word), tar in zip(rows, tars, strict=True)]
    else:
        arrays = sorted(name for name in files if name.endswith(".npy"))
        pairs = [(WORDS[name.split("/")[0]], name) for name in tars or arrays]
    groups = {split: [name for word, name in pairs if word == split] for split in SPLITS}
    return {split: group for split, group in groups.items() if group}


@lru_cache(maxsize=64)
def unpack(data: bytes) -> tuple[bytes, bool]:
    """Return what gzip holds, as far as it can be read, and whether that is all."""
    if data[:2] != b"\x1f\x8b":
        return data, True
    pieces = []
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        try:
            while piece := file.read1(BLOCK):
                pieces.append(piece)
        except REFUSALS:
            return b"".join(pieces), False
    return b"".join(pieces), True


@lru_cache(maxsize=64)
def read_tar(data: bytes) -> tuple[dict[int, PlainMember], bool]:
    """Return the files of a tar by where they start, and whether nothing was found damaged."""
    plain, is_whole = unpack(data)
    members = {}
    try:
        # Names that are no UTF-8 are Latin-1.
        with tarfile.open(
            fileobj=io.BytesIO(plain), mode="r:", encoding="utf-8", errors="surrogateescape"
        ) as tar:
            for info in tar:
                if info.size < 0:
                    # tarfile would read this header for ever.
                    raise tarfile.ReadError(f"a member of {info.size} bytes")
                if info.isreg():
                    file = tar.extractfile(info)
                    content = b"" if file is None else file.read()
                    members[info.offset_data] = name_member(info.name, content)
            # tarfile takes anything that is no header for the end.
            is_whole = is_whole and plain[tar.offset : tar.offset + BLOCK] == bytes(BLOCK)
    except REFUSALS:
        is_whole = False
    return members, is_whole


def name_member(name: str, data: bytes) -> PlainMember:
    """Return a file of a tar with its key and extension."""
    raw = name.encode("utf-8", "surrogateescape")
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        name = raw.decode("latin-1")
    base = posixpath.basename(name)
    stem, _, extension = base.partition(".")
    key = name[: len(name) - len(base)] + stem
    return PlainMember(key if stem else "", extension.lower(), data)


def read_group(split: str, key: str, members: Mapping[str, bytes]) -> Row | None:
    """Return the row of one sample's members."""
    try:
        array = load_array(members["npy"])
        caption = members.get("txt", members.get("cap", b"")).decode()
        document = json.loads(members["json"].decode()) if "json" in members else {}
        return make_row(split, key, caption, array, read_document(document))
    except REFUSALS:
        return None


def read_document(document: dict[str, Any]) -> dict[str, Any]:
    """Return the meta of a json."""
    meta = {name: document.get(name) for name in (*INTEGERS, *NUMBERS)}
    for name, theirs in (("time_start", "start_time"), ("time_end", "end_time")):
        value = document.get(name, document.get(theirs))
        if isinstance(value, bool):
            raise TypeError(f"{value} is no time")
        is_int = value is None or isinstance(value, int)
        meta[name] = value if is_int else None if value == "" else int(float(str(value)))
    meta["youtube_id"] = document.get("youtube_id", document.get("videoID"))
    for name, kind in (("youtube_id", str), *((name, int) for name in INTEGERS)):
        if meta[name] is not None and type(meta[name]) is not kind:
            raise TypeError(f"{name} is {meta[name]!r}")
    times = document.get("timestamps")
    if times is not None and not all(type(value) in (int, float) for value in times):
        raise TypeError("times are no numbers")
    extra = document.get("extra")
    others = {name: value for name, value in document.items() if name not in OWN_FIELDS}
    if others:
        kept = json.loads(extra) if isinstance(extra, str) else {}
        extra = json.dumps({**kept, **others}, ensure_ascii=False)
    if not isinstance(extra, str | None):
        raise TypeError(f"extra is {extra!r}")
    return {**meta, "timestamps": times, "extra": extra}


def read_tar_rows(split: str, data: bytes) -> Iterator[Row | None]:
    """Yield the rows of a tar, None where it is damaged."""
    members, is_whole = read_tar(data)
    runs: list[tuple[str, dict[str, bytes]]] = []
    for member in members.values():
        if not member.key:
            continue
        if not runs or runs[-1][0] != member.key:
            runs.append((member.key, {}))
        runs[-1][1][member.extension] = member.data
    for key, run in runs:
        if not run.keys().isdisjoint(MEMBERS):
            yield read_group(split, key, run)
    if not is_whole:
        yield None


def read_scanned(files: Files, layout: Layout) -> Expected:
    """Return the rows of tars or loose files, read from first to last."""
    rows: Expected = []
    for split, names in layout.items():
        for name in names:
            if not name.endswith(".npy"):
                rows += read_tar_rows(split, files[name]) if name in files else [None]
                continue
            stem = name.removesuffix(".npy")
            beside = {
                word: files[f"{stem}.{word}"] for word in MEMBERS if f"{stem}.{word}" in files
            }
            rows.append(read_group(split, posixpath.basename(stem), beside))
    return rows
