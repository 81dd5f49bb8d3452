"""Gives the columns of every table of a dataset, as `datasets` features and as Arrow schemas.

Builder and reader share them: a change here changes published files. Of ours it imports `schema`
alone, so that the `datasets` script can bring it along.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .schema import META_DTYPES, Float16Array


def features_dict(width: int, class_names: Sequence[str] | None) -> dict[str, Any]:
    """Return the dataset's features in the JSON form of `datasets`; videos may have no classes."""

    def value(dtype: str) -> dict[str, Any]:
        return {"dtype": dtype, "_type": "Value"}

    # datasets >= 4 writes `List` instead, which 2.21 and 3.6 cannot read.
    def sequence(feature: dict[str, Any], length: int = -1) -> dict[str, Any]:
        return {"feature": feature, "length": length, "_type": "Sequence"}

    meta = {name: value(dtype) for name, dtype in META_DTYPES.items()}
    meta["timestamps"] = sequence(meta["timestamps"])
    if class_names is not None:
        meta["label_id"] = {"names": list(class_names), "_type": "ClassLabel"}
    return {
        "embeddings": sequence(sequence(value("float16"), width)),
        "caption": value("string"),
        "meta": meta,
    }


META_TYPES = {name: pa.type_for_alias(dtype) for name, dtype in META_DTYPES.items()}
META_TYPE = pa.struct(META_TYPES | {"timestamps": pa.list_(META_TYPES["timestamps"])})


def embeddings_type(width: int) -> pa.DataType:
    """Return the Arrow type of `embeddings`: list<fixed_size_list<float16, width>>."""
    return pa.list_(pa.list_(pa.float16(), width))


def embeddings_array(
    arrays: Sequence[Float16Array], width: int, lengths: Sequence[int] | None = None
) -> pa.ListArray:
    """Return (n_frames, width) float16 arrays as a column of `embeddings_type`, a row of each.

    Where rows are not arrays of their own, `lengths` are theirs. A single array is not copied.
    """
    is_single = len(arrays) == 1
    frames = arrays[0] if is_single else np.concatenate([np.empty((0, width), "f2"), *arrays])
    rows = pa.FixedSizeListArray.from_arrays(pa.array(frames.reshape(-1)), width)
    offsets = np.cumsum([0, *(map(len, arrays) if lengths is None else lengths)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), rows)


def column_list(column: pa.ChunkedArray) -> list[Any]:
    """Return a column as Python values, many times faster than `to_pylist`.

    Lists of numbers become (n,) arrays of the numbers' own dtype.
    """
    dtype = column.type
    if column.null_count == len(column):
        return [None] * len(column)
    if pa.types.is_string(dtype) or (not column.null_count and not pa.types.is_nested(dtype)):
        return list(column.to_numpy(zero_copy_only=False).tolist())
    if pa.types.is_list(dtype):
        return [value for chunk in column.chunks for value in _split_lists(chunk)]
    return list(column.to_pylist())


def _split_lists(lists: pa.ListArray) -> list[npt.NDArray[Any] | None]:
    """Return each list of numbers as a view of their common array, a missing one as None."""
    offsets = lists.offsets.to_numpy().tolist()
    values = lists.values.to_numpy()
    valid = lists.is_valid().to_numpy(zero_copy_only=False).tolist()
    return [
        values[begin:end] if is_there else None
        for begin, end, is_there in zip(offsets, offsets[1:], valid, strict=False)
    ]


def data_schema(width: int, class_names: Sequence[str] | None) -> pa.Schema:
    """Return the schema of the Parquet files, `datasets` features included."""
    features = {"info": {"features": features_dict(width, class_names)}}
    return pa.schema(
        [
            ("embeddings", embeddings_type(width)),
            ("caption", pa.string()),
            ("meta", META_TYPE),
        ],
        metadata={"huggingface": json.dumps(features)},
    )


INDEX_SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("caption", pa.string()),
        *META_TYPE,
        ("tar_file", pa.string()),
        ("npy_offset", pa.int64()),
        ("npy_nbytes", pa.int64()),
    ]
)

# The columns of the index that describe a sample, without those that say where it lies.
SAMPLE_COLUMNS = ("caption", *META_DTYPES)

FAILURES_SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("youtube_id", pa.string()),
        ("time_start", pa.int64()),
        ("time_end", pa.int64()),
        ("label", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("message", pa.string()),
    ]
)
