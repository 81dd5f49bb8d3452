"""Rows of other samples never have the fingerprint by which finished shards are kept."""

import os
import shutil
from pathlib import Path

import numpy as np

from clip_kinetics700_builder.assemble.part_rows import PartRows
from clip_kinetics700_builder.assemble.processed_rows import ProcessedRows
from clip_kinetics700_builder.config import SourceConfig
from clip_kinetics700_builder.convert.rows import ConvertedRows
from clip_kinetics700_builder.dataset.layout import WORK_NAME
from clip_kinetics700_builder.read.rows import open_source, prepare_rows
from tests.support.damage.datasets import edit_member, make_dataset, set_value


def test_a_part_that_is_made_again_has_another(dataset: Path, tmp_path: Path) -> None:
    """The report of a part that was written later, with whatever result, is another one."""
    work = Path(shutil.copytree(dataset / WORK_NAME, tmp_path / "work"))
    before = PartRows(work).fingerprint
    assert PartRows(work).fingerprint == before
    report = work / "parts/train-00000.json"
    os.utime(report, ns=(0, report.stat().st_mtime_ns + 1))
    assert PartRows(work).fingerprint != before


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
