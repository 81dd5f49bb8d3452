"""Pads samples of different lengths to one batch of tensors, with a mask."""

import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict

import numpy as np
import torch
from torch.nn.functional import pad

from clip_kinetics700.arrays import Array
from clip_kinetics700.schema import Sample

Dtype: TypeAlias = Literal["float32", "float16"]
FramePolicy: TypeAlias = Literal["truncate", "uniform", "random"]
NO_LABEL = -1
# torch splits a copy of more elements over several threads.
ELEMENTS_PER_THREAD = (1 << 15) - 1


class BatchRow(NamedTuple):
    """What a batch takes from a sample."""

    embeddings: Array
    """(n_frames, width) floats, as stored."""
    caption: str
    label_id: int
    """-1 where there is no label."""
    key: str


class Batch(TypedDict):
    """B samples, padded to the longest of them: T frames of width D."""

    embeddings: torch.Tensor
    """(B, T, D) float32 or float16, zeros behind a sample's last frame."""
    mask: torch.Tensor
    """(B, T) bool, True where there is a frame."""
    captions: list[str]
    """B class names or captions."""
    label_ids: torch.Tensor
    """(B,) int64, -1 where there is no label."""
    keys: list[str]
    """B keys of the samples."""


def cut_frames(
    array: Array, max_frames: int, policy: FramePolicy, rng: np.random.Generator
) -> Array:
    """Return (n, width) floats, at most `max_frames` frames of a sample, as `batches` says."""
    surplus = len(array) - max_frames
    if surplus <= 0:
        return array
    if policy == "uniform":
        return array[((np.arange(max_frames) + 0.5) * len(array) / max_frames).astype(np.int64)]
    begin = int(rng.integers(surplus + 1)) if policy == "random" else 0
    return array[begin : begin + max_frames]


def make_batch(rows: Sequence[BatchRow], *, dtype: Dtype, n_frames: int | None = None) -> Batch:
    """Return samples as a batch, their embeddings of this dtype.

    They are padded to `n_frames`, or else to the longest, at least one frame.
    """
    arrays, captions, labels, keys = zip(*rows, strict=True)
    lengths = np.array([len(array) for array in arrays])
    longest = max(1, int(lengths.max())) if n_frames is None else n_frames
    if lengths.min() == longest:
        padded = np.concatenate(arrays).reshape(len(arrays), longest, -1)
    else:
        stored = np.result_type(*{array.dtype for array in arrays})
        padded = np.zeros((len(arrays), longest, arrays[0].shape[1]), stored)
        for row, array in enumerate(arrays):
            padded[row, : len(array)] = array
    return Batch(
        embeddings=cast(torch.from_numpy(padded), getattr(torch, dtype)),
        mask=torch.from_numpy(np.arange(longest) < lengths[:, None]),
        captions=list(captions),
        label_ids=torch.from_numpy(np.array(labels, np.int64)),
        keys=list(keys),
    )


def cast(stored: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor of any shape in another dtype, five times as fast as numpy, in one thread.

    Several threads wait for each other: with busy cores, a tenth of the speed was measured.
    """
    if stored.dtype == dtype:
        return stored
    wanted = torch.empty(stored.shape, dtype=dtype)
    source, target = stored.view(-1), wanted.view(-1)
    for begin in range(0, source.numel(), ELEMENTS_PER_THREAD):
        end = begin + ELEMENTS_PER_THREAD
        target[begin:end].copy_(source[begin:end])
    return wanted


def collate(
    rows: Sequence[Mapping[str, Any] | Sample],
    *,
    dtype: Dtype = "float32",
    columns: Sequence[str] | None = None,
) -> Batch:
    """Return rows of `datasets`, in any of its formats, or `Sample`s as a padded batch.

    Use it as in `DataLoader(load_dataset(...), batch_size=64, collate_fn=collate)`. It joins
    batches as well, for loops that ask for several at a time.

    Args:
        rows: have `embeddings`, `caption` and `meta`; or are batches.
        dtype: dtype of the batch's embeddings.
        columns: names of what the batch holds, to leave out the texts, say; None is all.

    Raises:
        ValueError: no row has a frame, so nothing tells how wide embeddings are.
    """
    if isinstance(rows[0], Mapping) and "mask" in rows[0]:
        return choose_columns(join_batches(rows), columns)
    samples: list[Mapping[str, Any]] = [
        {"embeddings": row.embeddings, "caption": row.caption, "meta": row.meta}
        if isinstance(row, Sample)
        else row
        for row in rows
    ]
    arrays = [np.asarray(row["embeddings"], np.dtype(dtype)) for row in samples]
    width = next((array.shape[1] for array in arrays if array.ndim == 2), None)
    if width is None:
        raise ValueError(f"none of the {len(rows)} rows has a frame, so their width is unknown")
    collated = []
    for row, array in zip(samples, arrays, strict=True):
        # A missing label is NaN in the numpy format of `datasets`.
        label = row["meta"]["label_id"]
        label_id = NO_LABEL if label is None or math.isnan(label) else int(label)
        frames = array.reshape(-1, width)
        collated.append(BatchRow(frames, row["caption"], label_id, row["meta"]["key"]))
    return choose_columns(make_batch(collated, dtype=dtype), columns)


def join_batches(parts: Sequence[Any]) -> Batch:
    """Return the samples of several batches as one, padded to the longest."""
    longest = max(part["mask"].shape[1] for part in parts)
    joined: dict[str, Any] = {}
    for name, first in parts[0].items():
        column = [part[name] for part in parts]
        if isinstance(first, list):
            joined[name] = [text for texts in column for text in texts]
            continue
        if first.ndim > 1:
            behind = [0, 0] * (first.ndim - 2)
            column = [pad(each, (*behind, 0, longest - each.shape[1])) for each in column]
        joined[name] = torch.cat(column)
    return typing.cast("Batch", joined)


def choose_columns(batch: Batch, columns: Sequence[str] | None) -> Batch:
    """Return the columns of a batch that are wanted; None is all."""
    chosen: dict[str, Any] = {
        name: value for name, value in batch.items() if columns is None or name in columns
    }
    return typing.cast("Batch", chosen)
