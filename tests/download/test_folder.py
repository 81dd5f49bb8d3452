"""A directory of clips is one that `datasets` opens, with a caption for every video."""

import json
from pathlib import Path

import pytest

from clip_kinetics700_builder.download.folder import place_clip, write_metadata
from clip_kinetics700_builder.types import Clip
from tests.support.kinetics.cvdf import CvdfTree
from tests.support.kinetics.downloads import download_tree


def test_metadata_has_a_caption_for_every_video(trees: dict[str, CvdfTree], tmp_path: Path) -> None:
    """Each split's metadata.jsonl names its videos, with caption, id and times."""
    download_tree(trees["700-2020"], tmp_path)
    for split, count in (("train", 15), ("val", 6), ("test", 4)):
        lines = (tmp_path / split / "metadata.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert len(rows) == count
        assert all((tmp_path / split / row["file_name"]).is_file() for row in rows)
        assert all(row["caption"] == row["label"] for row in rows)


def test_the_directory_opens_as_a_videofolder(
    trees: dict[str, CvdfTree], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`load_dataset("videofolder")` finds the three splits with their captions."""
    from datasets import load_dataset

    download_tree(trees["700-2020"], tmp_path / "clips")
    loaded = load_dataset(
        "videofolder", data_dir=str(tmp_path / "clips"), cache_dir=str(tmp_path / "cache")
    )
    assert {name: len(split) for name, split in loaded.items()} == {
        "train": 15, "validation": 6, "test": 4
    }  # fmt: skip
    assert "yoga" in loaded["train"].remove_columns("video")["caption"]


def test_a_label_of_any_length_is_a_directory(tmp_path: Path) -> None:
    """Labels that begin alike keep directories of their own, and captions are whole."""
    labels = ["long " * 100 + end for end in ("one", "two", "\u7684" * 300)]
    clips = [Clip("train", f"abcdefghij{n}", 0, 10, label, label) for n, label in enumerate(labels)]
    places = [place_clip(tmp_path, clip, "mp4") for clip in clips]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"video")
    assert len({place.parent for place in places}) == len(labels)
    write_metadata(tmp_path, clips)
    lines = (tmp_path / "train/metadata.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["label"] for line in lines} == set(labels)
