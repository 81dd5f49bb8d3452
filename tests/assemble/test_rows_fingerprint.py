"""Rows of other samples never have the fingerprint by which finished shards are kept."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from clip_kinetics700_builder.assemble.part_rows import PartRows
from clip_kinetics700_builder.assemble.processed_rows import ProcessedRows
from clip_kinetics700_builder.config import SourceConfig
from clip_kinetics700_builder.convert.rows import ConvertedRows
from clip_kinetics700_builder.read.rows import open_source, prepare_rows
from clip_kinetics700_builder.system.files import write_json
from tests.support.damage.datasets import (
    ChangedRows,
    SmallRows,
    edit_member,
    make_dataset,
    set_value,
)
from tests.support.datasets.works import encode_small


@pytest.mark.parametrize("seconds", [0.0, 9.5])
def test_a_part_of_other_bytes_has_another(tmp_path: Path, seconds: float) -> None:
    """What a part holds decides, not when or how fast it was made."""
    encode_small(tmp_path)
    before = PartRows(tmp_path).fingerprint
    for rows, is_same in ((SmallRows(), True), (ChangedRows(), False)):
        (tmp_path / "parts/train-00001.json").unlink()
        encode_small(tmp_path, rows, seconds=seconds)
        assert (PartRows(tmp_path).fingerprint == before) == is_same


def test_a_report_of_an_older_version_tells_bytes_apart(tmp_path: Path) -> None:
    """A part whose report has no hash is told by the hash of its file."""
    found = []
    for number, rows in enumerate((SmallRows(), SmallRows(), ChangedRows())):
        work = tmp_path / str(number)
        encode_small(work, rows)
        for path in (work / "parts").glob("*.json"):
            document = json.loads(path.read_text(encoding="utf-8"))
            del document["arrow_sha256"], document["self_sha256"]
            write_json(path, document)
        found.append(PartRows(work).fingerprint)
    assert found[0] == found[1] != found[2]


def test_another_array_has_another(tmp_path: Path) -> None:
    """One value of a processed dataset decides, not the time of its file."""

    def read() -> str:
        return ProcessedRows(tmp_path, seed=0, class_list="auto").fingerprint

    path = tmp_path / "train/a.npy"
    path.parent.mkdir()
    np.save(path, np.ones((2, 3), np.float16))
    before = read()
    np.save(path, np.ones((2, 3), np.float16))
    assert read() == before
    np.save(path, np.eye(2, 3, dtype=np.float16))
    assert read() != before


def read_converted(source: Path, class_list: str = "auto") -> str:
    """Return the fingerprint of a dataset that is converted."""
    rows = prepare_rows(open_source(SourceConfig(source=str(source))), "raise")
    return ConvertedRows(rows, class_list=class_list).fingerprint


def test_another_value_of_a_source_has_another(tmp_path: Path) -> None:
    """A source with a manifest of ours, of the same names and sizes, may hold other values."""
    one, other = make_dataset(tmp_path / "a", "webdataset"), tmp_path / "b"
    shutil.copytree(one, other)
    assert read_converted(one) == read_converted(other)
    edit_member(other, "vid_000000002.npy", set_value(1.0))
    assert read_converted(one) != read_converted(other)
