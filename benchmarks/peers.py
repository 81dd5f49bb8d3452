"""These functions read all samples with other readers than ours and return how many there were.

The readers are webdataset, tarfile, upstream's and `datasets`. Upstream's needs an unmaintained
tokeniser, so its logic stands here, pinned: what clip-video-encode's dataset_reader.py does at
commit 1933acc, without `text_tokens`.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import torch
import webdataset
from torch.utils.data import DataLoader

Array = npt.NDArray[Any]


def read_webdataset(urls: str | list[str], *, decode: bool) -> int:
    """Read tars with webdataset, and with its decoders or as bytes."""
    stream = webdataset.WebDataset(urls, shardshuffle=False)
    count = 0
    for sample in stream.decode() if decode else stream:
        touch(sample["npy"], sample["txt"], sample["json"])
        count += 1
    return count


def read_tarfile(paths: Sequence[str]) -> int:
    """Read tars with Python's tarfile as a stream, and decode the members."""
    count = 0
    for path in paths:
        with tarfile.open(path, "r|") as tar:
            members: dict[str, bytes] = {}
            for member in tar:
                file = tar.extractfile(member)
                if file is None:
                    continue
                extension = member.name.partition(".")[2]
                members[extension] = file.read()
                if extension == "txt":
                    array = np.lib.format.read_array(io.BytesIO(members["npy"]))
                    touch(array, members["txt"].decode(), json.loads(members["json"]))
                    count += 1
    return count


def touch(*values: object) -> None:
    """Look at the parts of a sample, as a user would."""


class UpstreamSample:
    """Turns a sample of webdataset's into upstream's."""

    def __init__(self, n_frames: int) -> None:
        """Pad or cut to so many frames."""
        self._n_frames = n_frames

    def __call__(self, item: dict[str, bytes]) -> dict[str, Any]:
        """Return embeddings, their mask and the text; `.txt` as ours have, not its `.cap`."""
        embeddings = np.lib.format.read_array(io.BytesIO(item["npy"]))[: self._n_frames]
        n_missing = self._n_frames - len(embeddings)
        padding = np.zeros((n_missing, embeddings.shape[1]), dtype=embeddings.dtype)
        return {
            "zero_mask": np.concatenate([np.ones(len(embeddings)), np.zeros(n_missing)]),
            "embeddings": torch.from_numpy(np.concatenate([embeddings, padding])),
            "text": item["txt"].decode("utf-8"),
        }


def read_upstream(urls: str, *, n_frames: int, batch_size: int) -> int:
    """Read padded batches as upstream's reader does, with one worker."""
    stream = webdataset.WebDataset(urls, shardshuffle=False).map(UpstreamSample(n_frames))
    loader: Iterable[dict[str, Any]] = DataLoader(
        stream, batch_size=batch_size, num_workers=1, prefetch_factor=2
    )
    return sum(len(batch["text"]) for batch in loader)


def stream_parquet(paths: Sequence[str], cache: str) -> Any:
    """Return the samples of Parquet files as `datasets` streams them."""
    return datasets.load_dataset(
        "parquet", data_files=list(paths), split="train", streaming=True, cache_dir=cache
    )


def read_datasets(dataset: Any, *, kind: str, batch_size: int | None) -> int:
    """Read a dataset of `datasets`, streaming or not, in one of its formats, row by row or not."""
    dataset = dataset if kind == "python" else dataset.with_format(kind)
    if batch_size is None:
        return sum(len(row["caption"]) > 0 for row in dataset)
    return sum(len(batch["caption"]) for batch in dataset.iter(batch_size=batch_size))


def read_datasets_padded(dataset: Any, *, batch_size: int, by_row: bool) -> int:
    """Read padded batches with mask and labels from a dataset of `datasets` in numpy format."""
    dataset = dataset.with_format("numpy")
    count = 0
    if not by_row:
        for batch in dataset.iter(batch_size=batch_size):
            count += pad_batch(batch["embeddings"], batch["meta"])
        return count
    rows = []
    for row in dataset:
        rows.append(row)
        if len(rows) == batch_size:
            count += pad_batch([row["embeddings"] for row in rows], [row["meta"] for row in rows])
            rows = []
    return count + pad_batch([row["embeddings"] for row in rows], [row["meta"] for row in rows])


def pad_batch(arrays: Sequence[Array] | Array, meta: Iterable[dict[str, Any]]) -> int:
    """Make a padded batch with mask and labels of numpy arrays; return its size.

    One array of (n, n_frames, width), which `datasets` gives for equal lengths, is padded already.
    """
    if not len(arrays):
        return 0
    lengths = np.array([len(array) for array in arrays])
    longest = int(lengths.max())
    if isinstance(arrays, np.ndarray) and arrays.ndim == 3:
        padded = arrays
    elif lengths.min() == longest:
        padded = np.stack([*arrays])
    else:
        padded = np.zeros((len(arrays), longest, arrays[0].shape[1]), arrays[0].dtype)
        for row, array in enumerate(arrays):
            padded[row, : len(array)] = array
    labels = torch.tensor([int(row["label_id"]) for row in meta])
    mask = torch.from_numpy(np.arange(longest) < lengths[:, None])
    touch(torch.from_numpy(padded), mask, labels)
    return len(arrays)
