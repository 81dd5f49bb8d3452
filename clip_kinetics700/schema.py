"""Defines what one sample of a dataset is, and turns it into the bytes of a tar and back.

Builder and reader share this contract: a change here changes published files. It imports nothing of
ours, so that the `datasets` script can bring it along.
"""

import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from operator import attrgetter
from tokenize import TokenError
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Float16Array = npt.NDArray[np.float16]
Float32Array = npt.NDArray[np.float32]

SPLITS = ("train", "validation", "test")
SPLIT_OF_WORD = {
    "train": "train",
    "validation": "validation",
    "validate": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "holdout_test": "test",
}
# splits.csv alone keeps upstream's words.
SPLITS_CSV_WORD = {"train": "train", "validation": "val", "test": "test"}

TAR_NAME = "ds_{:06d}.tar"
KEY_NAME = "vid_{:09d}"
MANIFEST_NAME = "manifest.json"
SPLITS_CSV_NAME = "splits.csv"
INDEX_NAME = "index.parquet"
FAILURES_NAME = "failures.parquet"
CLASS_TEXTS_NAME = "class_text_embeddings.npz"
Protocol = Literal["card", "mean-embedding", "center-frame"]
"""How the frames of a clip become one zero-shot answer."""
PROTOCOLS: tuple[str, ...] = get_args(Protocol)
SAMPLES_PER_SHARD = 10_000
# Why a clip can have failed; a table of failures holds no other reason.
REASONS = (
    "missing",
    "empty_file",
    "unreadable",
    "no_video_stream",
    "no_frames",
    "truncated",
    "encrypted",
    "decode_error",
    "timed_out",
    "crashed",
    "out_of_memory",
)
# The fields of `meta`, in the order of the json of a sample; `timestamps` are a list of theirs.
META_DTYPES = {
    "key": "string",
    "youtube_id": "string",
    "time_start": "int64",
    "time_end": "int64",
    "label_id": "int64",
    "n_frames": "int64",
    "timestamps": "float32",
    "duration": "float64",
    "fps": "float64",
    "width": "int64",
    "height": "int64",
    "extra": "string",
}
UPSTREAM_FIELDS = ("videoID", "start_time", "end_time")
JSON_FIELDS = frozenset((*UPSTREAM_FIELDS, *META_DTYPES))
JSON_DECODER = json.JSONDecoder()
# What people write is a few levels deep; what is deeper ends Python's stack somewhere.
MAX_JSON_DEPTH = 100
TOO_DEEP = f"it is nested more than {MAX_JSON_DEPTH} deep"
JSON_SPACE = " \t\n\r"
JSON_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)

# No header of a float array is longer: a damaged length costs no memory.
MAX_NPY_HEADER = 65_536
# What numpy raises for a damaged header, besides ValueError.
NPY_HEADER_ERRORS = (
    *(SyntaxError, TokenError, TypeError, LookupError, AttributeError),
    *(OverflowError, MemoryError, RecursionError),
)
# The bits of a float16 without its sign; one from infinity's bits on is infinite or a NaN.
MAGNITUDE_BITS, INFINITY_BITS = np.uint16(0x7FFF), np.uint16(0x7C00)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One clip of the dataset: its frame embeddings, its caption and where it comes from."""

    key: str
    """`vid_%09d`, unique in the dataset."""
    embeddings: Float16Array
    """(n_frames, width) float16, CLIP `image_embeds`, not normalised."""
    caption: str
    """The class name with its spaces, or one's own caption; empty where there is none."""
    youtube_id: str | None
    """The YouTube id of a Kinetics clip, the file stem of one's own video."""
    time_start: int | None
    """Start of the clip in the original video, in seconds; None for one's own videos."""
    time_end: int | None
    """End of the clip in the original video, in seconds; None for one's own videos."""
    label_id: int | None
    """Index of the class in the version's class list; None where there is no label."""
    timestamps: Float32Array | None
    """(n_frames,) float32, seconds since the first frame of the clip; None if not recorded."""
    duration: float | None
    """Length of the clip in seconds, from its frames and not its header."""
    fps: float | None
    """Average frames per second of the clip."""
    width: int | None
    """Width of the displayed frames in pixels, rotation applied."""
    height: int | None
    """Height of the displayed frames in pixels, rotation applied."""
    extra: str | None
    """JSON object of the other columns of a plain table; None for Kinetics."""

    def __post_init__(self) -> None:
        shape, timestamps = self.embeddings.shape, self.timestamps
        if len(shape) != 2:
            raise ValueError(
                f"sample {self.key}: embeddings must have shape (n_frames, width), got {shape}"
            )
        if timestamps is not None and timestamps.shape != shape[:1]:
            raise ValueError(
                f"sample {self.key}: {shape[0]} frames but timestamps of shape {timestamps.shape}"
            )

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return len(self.embeddings)

    @property
    def meta(self) -> dict[str, Any]:
        """The `meta` struct of the Parquet files and the feature of the same name."""
        meta = dict(zip(META_DTYPES, GET_META(self), strict=True))
        if self.timestamps is not None:
            meta["timestamps"] = self.timestamps.tolist()
        return meta


# A third of the time of one `getattr` after the other.
GET_META = attrgetter(*META_DTYPES)


def normalize_split(word: str) -> str:
    """Return `train`, `validation` or `test` for any word in use for it.

    Raises:
        ValueError: the word names no split.
    """
    split = SPLIT_OF_WORD.get(word.strip().lower())
    if split is None:
        raise ValueError(f"unknown split {word!r}; known words: {', '.join(SPLIT_OF_WORD)}")
    return split


def suggest(word: str, known: Iterable[str]) -> str:
    """Return the end of a message that names the known words nearest to one; maybe nothing."""
    near = get_close_matches(word.strip().lower(), dict.fromkeys(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def encode_sample(sample: Sample) -> list[tuple[str, bytes]]:
    """Return the members of a sample in tar order: (extension, bytes) of json, npy and txt."""
    document = {
        "videoID": sample.youtube_id,
        "start_time": format_upstream_time(sample.time_start),
        "end_time": format_upstream_time(sample.time_end),
        **sample.meta,
    }
    return [
        ("json", JSON_ENCODER.encode(document).encode("utf-8")),
        ("npy", encode_npy(sample.embeddings)),
        ("txt", sample.caption.encode("utf-8")),
    ]


def format_upstream_time(seconds: int | None) -> str | None:
    """Return a time as upstream spells it: a string of six digits."""
    return None if seconds is None else f"{seconds:06d}"


def decode_sample(key: str, members: Mapping[str, bytes | memoryview]) -> Sample:
    """Return the sample of one set of tar members, ours or upstream's.

    Args:
        key: the name the members share.
        members: bytes by extension; `npy` is required, `txt` or `cap` is the caption.

    Raises:
        ValueError: there is no `npy`, or a member cannot be read; it names the key.
    """
    try:
        return _decode_members(key, members)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        reason = str(error).removeprefix(f"sample {key}: ")
        raise ValueError(f"sample {key}: {reason}") from error


def _decode_members(key: str, members: Mapping[str, bytes | memoryview]) -> Sample:
    """Return the sample of one set of tar members, or raise whatever their content leads to."""
    if "npy" not in members:
        raise ValueError(f"no npy member, only {sorted(members)}")
    embeddings = decode_npy(members["npy"])
    if embeddings.dtype.kind != "f":
        raise ValueError(f"embeddings must be of a float type, got {embeddings.dtype}")
    caption = str(members.get("txt", members.get("cap", b"")), "utf-8")
    document = parse_json(members.get("json", b"{}"))
    if not isinstance(document, dict):
        raise ValueError("the json member is no object")
    get = document.get
    timestamps = get("timestamps")
    return Sample(
        key,
        embeddings,
        caption,
        _require(get("youtube_id", get("videoID")), str, "youtube_id"),
        parse_time(get("time_start", get("start_time"))),
        parse_time(get("time_end", get("end_time"))),
        _require(get("label_id"), int, "label_id"),
        None if timestamps is None else np.asarray(timestamps, np.float32),
        _require(get("duration"), (int, float), "duration"),
        _require(get("fps"), (int, float), "fps"),
        _require(get("width"), int, "width"),
        _require(get("height"), int, "height"),
        _require(get("extra"), str, "extra")
        if JSON_FIELDS.issuperset(document)
        else _keep_other_fields(document),
    )


def _require(value: Any, kind: type | tuple[type, ...], name: str) -> Any:
    """Return a value of the json member, None included, or refuse its type."""
    if value is None or (isinstance(value, kind) and type(value) is not bool):
        return value
    raise ValueError(f"the json's {name} is {value!r}")


def _keep_other_fields(document: Mapping[str, Any]) -> str:
    """Return `extra` with the fields of a foreign json that have no column of their own."""
    extra = document.get("extra")
    others = {name: value for name, value in document.items() if name not in JSON_FIELDS}
    kept = parse_json(extra) if isinstance(extra, str) else {}
    return json.dumps({**kept, **others}, ensure_ascii=False)


def parse_json(text: str | bytes | memoryview, decoder: json.JSONDecoder = JSON_DECODER) -> Any:
    """Return what a JSON text says; NaN and Infinity are numbers, as Python's writers have them.

    Raises:
        ValueError: it is no JSON in UTF-8, or nested deeper than anything that is meant.
    """
    text = (text if isinstance(text, str) else str(text, "utf-8")).strip(JSON_SPACE)
    try:
        # This takes two thirds of the time of `loads`.
        document, end = decoder.raw_decode(text)
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error
    if end < len(text):
        raise ValueError(f"more text behind the JSON, at character {end}")
    # A text with few brackets cannot be deep.
    if text.count("[") + text.count("{") > MAX_JSON_DEPTH:
        level = [document]
        for _ in range(MAX_JSON_DEPTH):
            level = [value for outer in level for value in _list_values(outer)]
        if level:
            raise ValueError(TOO_DEEP)
    return document


def _list_values(value: Any) -> Iterable[Any]:
    """Return what a JSON array or object holds, of anything else nothing."""
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def parse_time(value: object) -> int | None:
    """Return seconds from an int, a float or a digit string; None stays None."""
    if type(value) is int:
        return value
    return None if value is None or value == "" else int(float(str(value)))


def split_member_name(name: str) -> tuple[str, str]:
    """Split a tar member's name at the first dot after the last slash: (key, extension).

    WebDataset's rule: `a/b.c/vid_1.npy` is (`a/b.c/vid_1`, `npy`).
    """
    dot = name.find(".", name.rfind("/") + 1)
    return (name, "") if dot < 0 else (name[:dot], name[dot + 1 :].lower())


def to_float16(array: npt.NDArray[Any]) -> Float16Array:
    """Return an array of floats as float16 of the same shape, infinite where they do not fit.

    One that is float16 already is returned itself.
    """
    with np.errstate(over="ignore"):
        return array.astype(np.float16, copy=False)


def find_not_finite(halves: Float16Array) -> npt.NDArray[np.intp]:
    """Return the places, flattened, of infinities and NaNs in an array; faster than `isfinite`."""
    magnitudes = halves.view(np.uint16) & MAGNITUDE_BITS
    if magnitudes.max(initial=0) < INFINITY_BITS:
        return np.empty(0, np.intp)
    return np.flatnonzero(magnitudes >= INFINITY_BITS)


def encode_npy(embeddings: Float16Array) -> bytes:
    """Return an (n_frames, width) float16 array in numpy format 1.0, C order."""
    array = np.ascontiguousarray(embeddings, dtype="<f2")
    return b"".join((_make_npy_header(array.shape), array.data))


@lru_cache(maxsize=1024)
def _make_npy_header(shape: tuple[int, ...]) -> bytes:
    """Return what numpy writes before a float16 array of a shape."""
    buffer = io.BytesIO()
    header = {"descr": "<f2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def decode_npy(data: bytes | memoryview) -> npt.NDArray[Any]:
    """Return the array of a `.npy` member, of any shape and dtype, read-only and without a copy.

    Nothing is ever unpickled.

    Raises:
        ValueError: not a numpy file, truncated, too long, or an array of objects.
    """
    # Version 1.0 has two bytes for the length of the rest of the header, later ones have four.
    if len(data) > 12 and data[6] == 1:
        header_nbytes = 10 + data[8] + (data[9] << 8)
    else:
        header_nbytes = 12 + int.from_bytes(data[8:12], "little")
    header = bytes(data[: min(header_nbytes, MAX_NPY_HEADER)])
    shape, order, dtype, nbytes = _read_npy_header(header)
    if len(data) != header_nbytes + nbytes:
        has = len(data) - header_nbytes
        raise ValueError(f"npy of shape {shape} needs {nbytes} bytes, has {has}")
    try:
        # Half the time of `frombuffer` and `reshape`.
        return np.ndarray(shape, dtype, data, header_nbytes, None, order)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"npy of shape {shape}: {error}") from error


@lru_cache(maxsize=1024)
def _read_npy_header(
    header: bytes,
) -> tuple[tuple[int, ...], Literal["F", "C"], np.dtype[Any], int]:
    """Return shape, memory order, dtype and bytes; most arrays of a dataset share few headers."""
    stream = io.BytesIO(header)
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version in ((2, 0), (3, 0)):
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"npy of version {version}")
    except NPY_HEADER_ERRORS as error:
        raise ValueError(f"damaged numpy header: {error}") from error
    if dtype.hasobject:
        raise ValueError("npy holds Python objects, which are not read")
    if min(shape, default=0) < 0:
        raise ValueError(f"npy of shape {shape}")
    return shape, "F" if fortran_order else "C", dtype, math.prod(shape) * dtype.itemsize
