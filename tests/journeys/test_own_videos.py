"""Any labelled folder of one's own videos can be encoded from a plain table."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from clip_kinetics700 import load_dataset
from clip_kinetics700_builder import build
from clip_kinetics700_builder.verify.dataset import verify_dataset
from tests.support.media.videos import CodedVideo

pytestmark = pytest.mark.needs_ffmpeg


def build_table(
    table: str, plain_video: CodedVideo, model: Path, directory: Path
) -> tuple[Path, dict[str, Any]]:
    """Build from a table whose files a.mp4 and sub/b.mp4 are the plain video."""
    (directory / "videos/sub").mkdir(parents=True)
    for name in ("a.mp4", "sub/b.mp4"):
        (directory / "videos" / name).write_bytes(plain_video.path.read_bytes())
    (directory / "table.csv").write_text(table, encoding="utf-8")
    output = directory / "out"
    manifest = build(
        output,
        annotations=directory / "table.csv",
        videos=directory / "videos",
        model=str(model),
        dtype="float32",
        batch_size=4,
        decode_workers=1,
    ).manifest
    assert manifest is not None
    return output, dict(manifest.document)


def test_captions_and_other_columns_are_kept(
    plain_video: CodedVideo, random_model: Path, tmp_path: Path
) -> None:
    """Caption and split are the table's; other columns and the file's name are in `extra`."""
    table = "path,caption,split,mood\na.mp4,a test,train,calm\nsub/b.mp4,another,val,wild\n"
    output, manifest = build_table(table, plain_video, random_model, tmp_path)
    rows = {row["caption"]: row for row in pq.read_table(output / "index.parquet").to_pylist()}
    assert [(row["split"], caption) for caption, row in sorted(rows.items())] == [
        ("train", "a test"),
        ("validation", "another"),
    ]
    assert json.loads(rows["another"]["extra"]) == {"mood": "wild", "path": "sub/b.mp4"}
    assert (rows["another"]["youtube_id"], rows["another"]["time_start"]) == ("b", None)
    assert manifest["class_names"] is None
    assert verify_dataset(output) == []


def test_labels_become_classes(plain_video: CodedVideo, random_model: Path, tmp_path: Path) -> None:
    """A label column gives the classes, in the order of code points, and the captions."""
    table = "path,label\na.mp4,zebra\nsub/b.mp4,Ant\n"
    output, _ = build_table(table, plain_video, random_model, tmp_path)
    train = load_dataset(str(output), split="train")
    label = train.features["meta"]["label_id"]
    assert label.names == ["Ant", "zebra"]
    assert sorted((row["caption"], label.int2str(row["meta"]["label_id"])) for row in train) == [
        ("Ant", "Ant"),
        ("zebra", "zebra"),
    ]


def test_a_file_that_is_not_there_is_a_failure(
    plain_video: CodedVideo, random_model: Path, tmp_path: Path
) -> None:
    """A path without a file is a row of failures.parquet with the name of its video."""
    table = "path,caption\na.mp4,here\ngone.mp4,not here\n"
    output, manifest = build_table(table, plain_video, random_model, tmp_path)
    (failure,) = pq.read_table(output / "failures.parquet").to_pylist()
    assert (failure["youtube_id"], failure["reason"]) == ("gone", "missing")
    assert manifest["totals"]["samples"] == 1
