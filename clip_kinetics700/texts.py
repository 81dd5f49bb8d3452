"""Reads the class texts that are published beside a dataset, and classifies clips by them.

The text model was run by whoever published the file, so that zero-shot needs numpy alone.
"""

import io
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .hub import find_source, pin_commit
from .layout import AnyPath
from .schema import CLASS_TEXTS_NAME, PROTOCOLS, Float32Array, Protocol
from .streams import read_if_there

# The logit scale that CLIP itself has learned.
LOGIT_SCALE = np.float32(100)
# The unpacked file may be this large; texts of 700 classes take 1.5 MB.
MAX_NBYTES = 1 << 28
STRING_FIELDS = ("model", "model_sha256", "family")


@dataclass(frozen=True, slots=True, eq=False)
class ClassTexts:
    """One direction in CLIP's space for each class, and how it was made."""

    names: tuple[str, ...]
    """Class names; the position is the column of the scores."""
    embeddings: Float32Array
    """(n_classes, width) float32, rows of length 1."""
    prompts: tuple[str, ...]
    """Texts with `{}` for the class name; a class's direction is the mean over them."""
    model: str
    """Hub id or name of the text model."""
    model_sha256: str
    """sha256 of the weights file; of several, that of a JSON object of their sha256s by name."""
    family: str
    """How it is known that the text model belongs to the embeddings of the dataset."""

    def __post_init__(self) -> None:
        if self.embeddings.ndim != 2 or len(self.embeddings) != len(self.names):
            raise ValueError(
                f"{len(self.names)} class names, but text embeddings of {self.embeddings.shape}"
            )


def encode_class_texts(texts: ClassTexts) -> bytes:
    """Return the bytes of the npz file: the same texts give the same bytes."""
    buffer = io.BytesIO()
    # numpy dates every member 1980-01-01.
    arrays: dict[str, Any] = {
        "embeddings": texts.embeddings.astype(np.float32),
        "class_names": np.array(texts.names, np.str_),
        "prompts": np.array(texts.prompts, np.str_),
        **{name: np.array(getattr(texts, name), np.str_) for name in STRING_FIELDS},
    }
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def decode_class_texts(data: bytes) -> ClassTexts:
    """Return what `encode_class_texts` wrote, or raise ValueError for other bytes."""
    try:
        texts = read_members(data)
    except Exception as error:  # a hostile file makes zipfile and numpy raise a dozen kinds
        raise ValueError(f"no file of class texts: {error}") from error
    embeddings = texts.embeddings
    if embeddings.dtype != np.float32 or not np.isfinite(embeddings).all():
        raise ValueError(f"class texts are {embeddings.dtype}, or not finite; float32 is needed")
    return texts


def read_members(data: bytes) -> ClassTexts:
    """Return what the arrays of an npz file hold, which must not be huge."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        n_bytes = sum(member.file_size for member in archive.infolist())
    if n_bytes > MAX_NBYTES:
        raise ValueError(f"its arrays take {n_bytes:,} bytes, allowed are {MAX_NBYTES:,}")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return ClassTexts(
            names=tuple(map(str, arrays["class_names"].tolist())),
            embeddings=arrays["embeddings"],
            prompts=tuple(map(str, arrays["prompts"].tolist())),
            **{name: str(arrays[name]) for name in STRING_FIELDS},
        )


def class_texts(source: AnyPath, *, revision: str | None = None) -> ClassTexts:
    """Return the class texts that are published beside a dataset.

    Args:
        source: a directory, a repository of the Hub, or an fsspec URL of a directory.
        revision: branch, tag or commit of a repository.

    Raises:
        FileNotFoundError: there are none.
        ValueError: the file holds something else.
    """
    root = find_source(source, revision)
    pinned = pin_commit(root)
    if pinned is not None:
        root = pinned.cache or pinned.url
    data = read_if_there(f"{root}/{CLASS_TEXTS_NAME}")
    if data is None:
        raise FileNotFoundError(f"no {CLASS_TEXTS_NAME} in {root}")
    try:
        return decode_class_texts(data)
    except ValueError as error:
        raise ValueError(f"{root}/{CLASS_TEXTS_NAME}: {error}") from error


def zero_shot(
    embeddings: npt.NDArray[Any], texts: ClassTexts, *, protocol: Protocol = "card"
) -> Float32Array:
    """Return the probability of each class for one clip.

    Args:
        embeddings: (n_frames, width) floats, normalised or not.
        texts: what `class_texts` returns.
        protocol: `card`, the mean over frames of each frame's probabilities; `mean-embedding`,
            those of the mean of the normalised frames; `center-frame`, those of the frame in the
            middle.

    Returns:
        (n_classes,) float32; zeros for a clip without frames.

    Raises:
        ValueError: the texts are of another width than the embeddings.
    """
    scores = score_clips(embeddings, np.array([len(embeddings)]), texts, protocol=protocol)
    return scores.reshape(-1)


def score_clips(
    frames: npt.NDArray[Any],
    sizes: npt.NDArray[np.int64],
    texts: ClassTexts,
    *,
    protocol: Protocol = "card",
) -> Float32Array:
    """Return (n_clips, n_classes) float32 probabilities of clips whose frames follow each other.

    A clip without frames, or with one that is not finite, has zeros.

    Args:
        frames: (n_frames, width) floats of all the clips.
        sizes: (n_clips,) int64 number of frames of each clip.
        texts: what `class_texts` returns.
        protocol: as for `zero_shot`.

    Raises:
        ValueError: widths differ, or there is no such protocol.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; known: {', '.join(PROTOCOLS)}")
    weights = texts.embeddings
    if frames.ndim != 2 or frames.shape[1] != weights.shape[1]:
        raise ValueError(f"frames of shape {frames.shape} for texts of {weights.shape[1]} columns")
    scores = np.zeros((len(sizes), len(weights)), np.float32)
    there = np.flatnonzero(sizes)
    if len(there) == 0:
        return scores
    if protocol == "card":
        found = mean_of_clips(classify(normalize_rows(frames), weights), sizes[there])
    elif protocol == "mean-embedding":
        found = classify(pool_clips(frames, sizes[there]), weights)
    else:
        found = classify(normalize_rows(take_center(frames, sizes[there])), weights)
    found[~np.isfinite(found).all(axis=1)] = 0
    scores[there] = found
    return scores


def classify(units: Float32Array, weights: Float32Array) -> Float32Array:
    """Return (n, n_classes) float32 softmax(100 * units @ weights.T) of rows of length 1."""
    with np.errstate(invalid="ignore"):  # a frame that is not finite becomes NaN, found later
        logits = LOGIT_SCALE * (units @ weights.T)
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=1, keepdims=True)
    return logits


def normalize_rows(rows: npt.NDArray[Any]) -> Float32Array:
    """Return (n, width) floats as float32 rows of length 1; a row of zeros stays zeros."""
    with np.errstate(invalid="ignore", over="ignore"):
        floats = rows.astype(np.float32)
        norms = np.sqrt(np.einsum("ij,ij->i", floats, floats))
        floats /= np.maximum(norms, np.finfo(np.float32).tiny)[:, None]
    return floats


def mean_of_clips(rows: Float32Array, sizes: npt.NDArray[np.int64]) -> Float32Array:
    """Return the (n_clips, columns) float32 means of the rows of each clip; none may be empty."""
    sums: Float32Array = np.add.reduceat(rows, np.cumsum(sizes) - sizes, axis=0)
    sums /= sizes[:, None].astype(np.float32)
    return sums


def pool_clips(frames: npt.NDArray[Any], sizes: npt.NDArray[np.int64]) -> Float32Array:
    """Return (n_clips, width) float32: the normalised mean of the normalised frames."""
    return normalize_rows(mean_of_clips(normalize_rows(frames), sizes))


def take_center(frames: npt.NDArray[Any], sizes: npt.NDArray[np.int64]) -> Float32Array:
    """Return the (n_clips, width) float32 frame `n // 2` of each clip; none may be empty."""
    centers: Float32Array = frames[np.cumsum(sizes) - sizes + sizes // 2].astype(np.float32)
    return centers
