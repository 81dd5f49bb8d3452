"""A dataset is whole or not there: what is still being written is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import clip_kinetics700
from clip_kinetics700.schema import encode_sample
from tests.support.datasets.layouts import (
    SAMPLES,
    make_sample,
    make_samples,
    write_dataset,
    write_members,
)


def begin_build(directory: Path) -> None:
    """Leave the folder in which a build or a conversion keeps its parts."""
    (directory / ".build").mkdir()


def break_off(directory: Path) -> None:
    """Leave a file that was being written."""
    (directory / "data/validation-00000-of-00001.parquet.partial").touch()


def lose_last(data: Path) -> None:
    """Leave the first file of two."""
    (data / "train-00000-of-00001.parquet").rename(data / "train-00000-of-00002.parquet")


def mix_totals(data: Path) -> None:
    """Leave files of two assemblies, as many as the first of them says there are."""
    shutil.copy(data / "train-00000-of-00001.parquet", data / "train-00001-of-00003.parquet")
    lose_last(data)


def repeat_first(data: Path) -> None:
    """Leave two files that are both the first one."""
    shutil.copy(data / "train-00000-of-00001.parquet", data / "train-00000-of-00003.parquet")
    lose_last(data)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Parquet files of three splits, and no manifest."""
    directory = write_dataset(tmp_path / "d", make_samples(SAMPLES))
    for path in (*directory.glob("ds_*.tar"), directory / "manifest.json"):
        path.unlink()
    return directory


@pytest.mark.parametrize(
    ("begin", "sign"), [(begin_build, r"\.build"), (break_off, r"data/.*\.partial")]
)
def test_what_is_being_written_is_refused(
    directory: Path, begin: Callable[[Path], None], sign: str
) -> None:
    """Splits that are finished are no whole dataset; the manifest says when it is one."""
    whole = len(clip_kinetics700.open(directory))
    begin(directory)
    with pytest.raises(ValueError, match=rf"d: is not finished: {sign} is there, and no manifest"):
        clip_kinetics700.open(directory)
    (directory / "manifest.json").write_text("{}")
    assert len(clip_kinetics700.open(directory)) == whole


@pytest.mark.parametrize("harm", [lose_last, mix_totals, repeat_first])
def test_files_that_are_missing_by_their_names_are(
    directory: Path, harm: Callable[[Path], None]
) -> None:
    """Files whose names say that there are others are not all there is, nor is a mixture."""
    harm(directory / "data")
    with pytest.raises(ValueError, match=r"has \d of 2 files like data/train-00000-of-00002"):
        clip_kinetics700.open(directory)


def test_splits_are_found_by_names_of_any_case(tmp_path: Path) -> None:
    """Directories of splits may be spelled as people spell them; keys stay what they are."""
    data = encode_sample(make_sample(1))[1][1]
    for name in ("Train/a.npy", "Train/B.npy", "VAL/b.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    splits = clip_kinetics700.open(tmp_path).splits
    assert {split: part.keys() for split, part in splits.items()} == {
        "train": ["B", "a"],
        "validation": ["b"],
    }


def test_keys_that_differ_in_case_alone_are_two(tmp_path: Path) -> None:
    """In a tar, where a file system cannot make them one, both samples are found by their keys."""
    (tmp_path / "train").mkdir()
    members = [
        (f"{key}.npy", encode_sample(make_sample(number))[1][1])
        for number, key in enumerate(("a", "A"))
    ]
    write_members(tmp_path / "train/0.tar", members)
    dataset = clip_kinetics700.open(tmp_path)
    found = [dataset[key].embeddings.tobytes() for key in ("a", "A")]
    assert found == [make_sample(number).embeddings.tobytes() for number in (0, 1)]
