"""`verify.tables` and `verify.rows` find wrong tables whose hashes are right."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_kinetics700_builder.verify.rows import check_labels
from tests.support.damage.datasets import (
    CLASS_NAMES,
    FIRST_PARQUET,
    FIRST_TAR,
    copy_dataset,
    edit_row,
    edit_table,
    flip_byte,
    make_dataset,
    problems_of,
    read_tar,
    reseal,
)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Directory of a dataset with nothing wrong in it."""
    return copy_dataset(tmp_path / "dataset")


def test_reordered_rows(dataset: Path) -> None:
    """Rows of a Parquet file in another order than the tar's are named sample by sample."""
    edit_table(dataset, FIRST_PARQUET, lambda table: table.take([0, 2, 1, 3, 4]))
    found = problems_of(dataset)
    assert found.keys() == {FIRST_PARQUET}
    message = found[FIRST_PARQUET]
    assert "sample vid_000000001 and 1 more: its key is not the next one" in message
    assert "embeddings are not those of ds_000000.tar" in message
    assert "meta is not that of index.parquet" in message


@pytest.mark.parametrize("name", [FIRST_PARQUET, "index.parquet", "failures.parquet"])
def test_flipped_bytes_of_resealed_table(dataset: Path, name: str) -> None:
    """A Parquet file with a wrong byte never ends in a traceback."""
    content = (dataset / name).read_bytes()
    for offset in range(0, len(content), 331):
        (dataset / name).write_bytes(content)
        flip_byte(dataset / name, offset)
        reseal(dataset)
        problems_of(dataset)


@pytest.mark.parametrize(
    ("row", "values", "message"),
    [
        (1, {"split": "test"}, "sample vid_000000001: split is not train"),
        (1, {"tar_file": "ds_000001.tar"}, "sample vid_000000001: tar_file is not ds_000000.tar"),
        (1, {"tar_file": None}, "sample vid_000000001: tar_file is not ds_000000.tar"),
        (7, {"caption": "x"}, "sample vid_000000007: caption is not that of ds_000001.tar"),
        (7, {"width": None}, "sample vid_000000007: meta is not that of ds_000001.tar"),
        (17, {"npy_offset": 1}, "sample vid_000000017: npy_offset is not that of ds_000004.tar"),
        (17, {"npy_nbytes": 1}, "sample vid_000000017: npy_nbytes is not that of ds_000004.tar"),
    ],
)
def test_edited_index(dataset: Path, row: int, values: dict[str, Any], message: str) -> None:
    """A row of the index that is not what the shards say is a problem of the index alone."""
    edit_table(dataset, "index.parquet", edit_row(row, **values))
    assert problems_of(dataset) == {"index.parquet": message}


def test_index_without_tars_points_nowhere(tmp_path: Path) -> None:
    """Where there are no tars, an index that names one is wrong."""
    dataset = make_dataset(tmp_path, "parquet")
    edit_table(dataset, "index.parquet", edit_row(0, tar_file=FIRST_TAR, npy_offset=1))
    message = problems_of(dataset)["index.parquet"]
    assert "tar_file is not None" in message
    assert "npy_offset is given, but there are no tars" in message


def test_npy_offset_points_at_npy(dataset: Path) -> None:
    """What the index of a sound dataset points at is the npy member, byte for byte."""
    for row in pq.read_table(dataset / "index.parquet").to_pylist():
        members = dict(read_tar(dataset / row["tar_file"]))
        begin = row["npy_offset"]
        content = (dataset / row["tar_file"]).read_bytes()[begin : begin + row["npy_nbytes"]]
        assert content == members[f"{row['key']}.npy"]


def drop_metadata(table: pa.Table) -> pa.Table:
    """Return a table without the features of `datasets`."""
    return table.replace_schema_metadata(None)


def set_null(table: pa.Table) -> pa.Table:
    """Return a table whose second row has no caption."""
    return edit_row(1, caption=None)(table)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop_metadata, "the `huggingface` metadata"),
        (set_null, "1 caption are null"),
        (lambda table: table.drop_columns(["caption"]), "has the columns ['embeddings', 'meta']"),
        (lambda table: table.slice(1), "holds 4 rows, must hold 5"),
        (lambda table: pa.concat_tables([table, table.slice(4)]), "holds 6 rows, must hold 5"),
    ],
)
def test_edited_parquet(dataset: Path, edit: Callable[[pa.Table], pa.Table], message: str) -> None:
    """Schema, features, row count and nulls of the data are checked."""
    edit_table(dataset, FIRST_PARQUET, edit)
    found = problems_of(dataset)
    assert found.keys() == {FIRST_PARQUET}
    assert message in found[FIRST_PARQUET]


def test_parquet_alone_is_checked(tmp_path: Path) -> None:
    """Without tars the rows of a Parquet file are checked by themselves."""
    dataset = make_dataset(tmp_path, "parquet")
    columns = pq.read_table(dataset / FIRST_PARQUET).to_pydict()
    columns["embeddings"][3][0][0] = float("nan")
    columns["embeddings"][4] = []
    edit_table(dataset, FIRST_PARQUET, lambda table: pa.table(columns, schema=table.schema))
    message = problems_of(dataset)[FIRST_PARQUET]
    assert "sample vid_000000003: embeddings hold values that are not finite" in message
    assert "sample vid_000000004: has no frames" in message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"reason": "eaten by a dog"}, "holds the reason 'eaten by a dog', allowed are missing,"),
        ({"reason": "crashed"}, "holds 1 rows of split 'train' and reason 'crashed'"),
        ({"split": "test"}, "holds 2 rows of split 'test' and reason 'truncated', manifest.json"),
        ({"message": "two\nlines"}, "row 0: message is 'two\\nlines', must be one line"),
        ({"message": None}, "row 0: message is None, must be one line"),
    ],
)
def test_edited_failures(dataset: Path, values: dict[str, Any], message: str) -> None:
    """Failures have a reason of the list, one line of message, and the manifest's counts."""
    edit_table(dataset, "failures.parquet", edit_row(0, **values))
    found = problems_of(dataset)
    assert found.keys() == {"failures.parquet"}
    assert message in found["failures.parquet"]


def test_row_groups_may_be_cut_anywhere(dataset: Path) -> None:
    """Rows are compared whatever row groups they lie in."""
    table = pq.read_table(dataset / FIRST_PARQUET)
    pq.write_table(table, dataset / FIRST_PARQUET, row_group_size=2)
    reseal(dataset)
    assert problems_of(dataset) == {}


def test_caption_of_own_video_may_name_another_class() -> None:
    """A caption that names a class binds the label of a Kinetics clip, which has times, alone."""
    times = pa.array([None, 0, 0, 0], pa.int64())
    labels = pa.array([1, 1, None, 0], pa.int64())
    meta = pa.StructArray.from_arrays([times, labels], ["time_start", "label_id"])
    captions = pa.array(["abseiling", "abseiling", "abseiling", "somebody abseils"])
    faults = check_labels(meta, captions, CLASS_NAMES)
    wrong = faults["label_id is not the class that the caption names"]
    assert wrong.to_pylist() == [False, True, True, False]
