"""Pads samples of different lengths to one batch of tensors, with a mask."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict

import numpy as np
import torch

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


def make_batch(rows: Sequence[BatchRow], *, dtype: Dtype) -> Batch:
    """Return samples padded to the longest, at least one frame, their embeddings of this dtype."""
    arrays, captions, labels, keys = zip(*rows, strict=True)
    lengths = np.array([len(array) for array in arrays])
    longest = max(1, int(lengths.max()))
    if lengths.min() == longest:
        padded = np.stack(arrays)
    else:
        stored = np.result_type(*{array.dtype for array in arrays})
        padded = np.zeros((len(arrays), longest, arrays[0].shape[1]), stored)
        for row, array in enumerate(arrays):
            padded[row, : len(array)] = array
    return Batch(
        embeddings=cast(torch.from_numpy(padded), getattr(torch, dtype)),
        mask=torch.from_numpy(np.arange(longest) < lengths[:, None]),
        captions=list(captions),
        label_ids=torch.tensor(labels, dtype=torch.int64),
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


def collate(rows: Sequence[Mapping[str, Any] | Sample], *, dtype: Dtype = "float32") -> Batch:
    """Return rows of `datasets`, in any of its formats, or `Sample`s as a padded batch.

    Use it as in `DataLoader(load_dataset(...), batch_size=64, collate_fn=collate)`.

    Args:
        rows: have `embeddings`, `caption` and `meta`.
        dtype: dtype of the batch's embeddings.

    Raises:
        ValueError: no row has a frame, so nothing tells how wide embeddings are.
    """
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
    return make_batch(collated, dtype=dtype)
