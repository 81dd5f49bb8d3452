"""Rows of the same samples are checked one file at a time, then against each other.

Whole columns are compared at once; rows are looked at one by one only where columns differ.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clip_kinetics700.schema import INDEX_NAME, KEY_NAME, find_not_finite
from clip_kinetics700_builder.dataset.manifest import Manifest
from clip_kinetics700_builder.dataset.problems import Problems
from clip_kinetics700_builder.dataset.shards import Shard

UInt16Array = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class FileRows:
    """Rows of some samples as one file has them."""

    file: str
    """Its name."""
    batch: pa.RecordBatch


def check_values(rows: FileRows, first: int, manifest: Manifest, problems: Problems) -> None:
    """Check rows of a tar or of a data file by themselves."""
    meta = rows.batch.column("meta")
    embeddings = rows.batch.column("embeddings")
    caption = rows.batch.column("caption")
    lengths = pc.list_value_length(embeddings)
    keys = [KEY_NAME.format(first + row) for row in range(rows.batch.num_rows)]
    faults = {
        "its key is not the next one": unequal(meta.field("key"), pa.array(keys, pa.string())),
        "has no frames": pc.equal(lengths, 0),
        "n_frames is not the number of its embeddings": unequal(meta.field("n_frames"), lengths),
        "timestamps are not one a frame": differs_where_given(
            pc.list_value_length(meta.field("timestamps")), lengths
        ),
        "embeddings hold values that are not finite": mark_not_finite(embeddings),
    }
    if manifest.class_names is not None:
        faults |= check_labels(meta, caption, manifest.class_names)
    for message, mask in faults.items():
        problems.add_samples(rows.file, message, number_rows(mask, first))


def check_labels(
    meta: pa.StructArray, caption: pa.StringArray, class_names: Sequence[str]
) -> dict[str, pa.Array]:
    """Return the faults of labels; captions of one's own videos are free to be a class's name."""
    label_id = meta.field("label_id")
    is_outside = pc.or_(pc.less(label_id, 0), pc.greater_equal(label_id, len(class_names)))
    class_of_caption = pc.index_in(caption, value_set=pa.array(class_names, pa.string()))
    is_kinetics = pc.is_valid(meta.field("time_start"))
    is_wrong = pc.and_(
        pc.and_(is_kinetics, pc.is_valid(class_of_caption)), unequal(label_id, class_of_caption)
    )
    return {
        f"label_id is outside of the {len(class_names)} classes": is_outside,
        "label_id is not the class that the caption names": is_wrong,
    }


def compare_data(
    tar: FileRows, parquet: FileRows, index: FileRows | None, first: int, problems: Problems
) -> bool:
    """Compare the samples of a tar with those of its Parquet file; tell whether they agree.

    That is in captions and `meta`, where the index says who is right. It holds no embeddings:
    of two that differ, those are blamed whose `meta` the index does not know, else the tar's.
    """
    agree = all(
        tar.batch.column(name).equals(parquet.batch.column(name)) for name in ("caption", "meta")
    )
    is_tar_right = index is not None and index.batch.column("meta").equals(tar.batch.column("meta"))
    blamed, other = (parquet, tar) if is_tar_right and not agree else (tar, parquet)
    mask = differ_in_bits(blamed.batch.column("embeddings"), other.batch.column("embeddings"))
    message = f"embeddings are not those of {other.file}"
    problems.add_samples(blamed.file, message, number_rows(mask, first))
    return agree


def compare_columns(
    left: FileRows, right: FileRows, names: Iterable[str], first: int, problems: Problems
) -> None:
    """Compare columns of two files; the first of them is the one that is blamed."""
    for name in names:
        mine, others = left.batch.column(name), right.batch.column(name)
        if mine.equals(others):
            continue
        pairs = zip(mine.to_pylist(), others.to_pylist(), strict=True)
        rows = [first + row for row, (a, b) in enumerate(pairs) if a != b]
        problems.add_samples(left.file, f"{name} is not that of {right.file}", rows)


def compare_index(
    data: Sequence[FileRows], index: FileRows, first: int, problems: Problems, *, data_agree: bool
) -> None:
    """Compare the index with the data: where these agree it is wrong itself, else one of them."""
    names = ("caption", "meta")
    if data_agree:
        for rows in data[:1]:
            compare_columns(index, rows, names, first, problems)
    else:
        for rows in data:
            compare_columns(rows, index, names, first, problems)


def check_index(
    index: FileRows, tar: FileRows | None, shard: Shard, first: int, problems: Problems
) -> None:
    """Check where the index says that samples are."""
    n_rows = index.batch.num_rows
    expected = {
        f"split is not {shard.split}": ("split", pa.array([shard.split] * n_rows, pa.string())),
        f"tar_file is not {shard.tar}": ("tar_file", pa.array([shard.tar] * n_rows, pa.string())),
    }
    for message, (name, column) in expected.items():
        mask = unequal(index.batch.column(name), column)
        problems.add_samples(INDEX_NAME, message, number_rows(mask, first))
    if tar is not None:
        compare_columns(index, tar, ("npy_offset", "npy_nbytes"), first, problems)
    elif shard.tar is None:
        for name in ("npy_offset", "npy_nbytes"):
            mask = pc.is_valid(index.batch.column(name))
            message = f"{name} is given, but there are no tars"
            problems.add_samples(INDEX_NAME, message, number_rows(mask, first))


def unequal(left: pa.Array, right: pa.Array) -> pa.Array:
    """Return where two columns differ, null equal to null only."""
    differs = pc.fill_null(pc.not_equal(left, right), fill_value=False)
    return pc.or_(differs, pc.xor(pc.is_valid(left), pc.is_valid(right)))


def differs_where_given(left: pa.Array, right: pa.Array) -> pa.Array:
    """Return where two columns differ, null equal to everything."""
    return pc.fill_null(pc.not_equal(left, right), fill_value=False)


def number_rows(mask: pa.Array, first: int) -> list[int]:
    """Return the numbers in the dataset of the rows where a mask is true."""
    found = pc.indices_nonzero(mask).to_numpy()
    return [first + int(row) for row in found]


def embedding_bits(embeddings: pa.ListArray) -> tuple[UInt16Array, npt.NDArray[np.int64]]:
    """Return all numbers of a column as their bits, and where each row's begin and end."""
    numbers = embeddings.flatten().flatten()
    width = embeddings.type.value_type.list_size
    lengths = pc.list_value_length(embeddings).to_numpy().astype(np.int64)
    ends = np.concatenate([[0], np.cumsum(lengths) * width])
    return numbers.view(pa.uint16()).to_numpy(), ends


def mark_not_finite(embeddings: pa.ListArray) -> pa.Array:
    """Return which rows hold an infinity or a NaN."""
    bits, ends = embedding_bits(embeddings)
    mask = np.zeros(len(ends) - 1, np.bool_)
    places = find_not_finite(bits.view(np.float16))
    mask[np.searchsorted(ends, places, side="right") - 1] = True
    return pa.array(mask)


def differ_in_bits(left: pa.ListArray, right: pa.ListArray) -> pa.Array:
    """Return which rows of two columns of embeddings are not the same bits."""
    (bits, ends), (other_bits, other_ends) = embedding_bits(left), embedding_bits(right)
    if np.array_equal(ends, other_ends) and np.array_equal(bits, other_bits):
        return pa.array(np.zeros(len(ends) - 1, np.bool_))
    rows = range(len(ends) - 1)
    mine = (bits[ends[row] : ends[row + 1]] for row in rows)
    others = (other_bits[other_ends[row] : other_ends[row + 1]] for row in rows)
    pairs = zip(mine, others, strict=True)
    return pa.array([not np.array_equal(a, b) for a, b in pairs], pa.bool_())
