"""One tar gives its samples, and its name tells which split it belongs to."""

import logging
import tarfile
from pathlib import Path

import numpy as np
import pytest

from clip_kinetics700.shards import read_shard, read_splits_csv, split_tars
from tests.support.datasets.layouts import make_sample, npy_bytes, write_members, write_tar

NPY = npy_bytes(np.ones((2, 4), np.float32))
LITERAL = "ds_{tar_count+i:06}"


def test_samples_come_in_order(tmp_path: Path) -> None:
    """A shard gives back the samples that were written, in order, bit for bit."""
    samples = [make_sample(number) for number in range(5)]
    write_tar(tmp_path / "ds_000000.tar", samples)
    read = list(read_shard(tmp_path / "ds_000000.tar"))
    assert [sample.meta for sample in read] == [sample.meta for sample in samples]
    assert [s.embeddings.tobytes() for s in read] == [s.embeddings.tobytes() for s in samples]


@pytest.mark.parametrize(
    "tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_upstream_shard_is_read(tmp_path: Path, tar_format: int) -> None:
    """`.cap`, no json, directories in keys, 0 rows and stray files are all read past or read."""
    members = [
        ("README.md", b"hello"),
        ("a.b/vid_0.cap", b"yoga"),
        ("a.b/vid_0.npy", NPY),
        ("a.c/vid_0.npy", npy_bytes(np.zeros((0, 4), np.float64))),
    ]
    write_members(tmp_path / "t.tar.gz", members, tar_format)
    read = [(s.key, s.caption, s.embeddings.shape) for s in read_shard(tmp_path / "t.tar.gz")]
    assert read == [("a.b/vid_0", "yoga", (2, 4)), ("a.c/vid_0", "", (0, 4))]


def test_damaged_sample_names_tar_and_key(tmp_path: Path) -> None:
    """A sample that cannot be read raises with the tar, the key and the reason."""
    write_members(tmp_path / "t.tar", [("vid_0.npy", NPY), ("vid_1.npy", NPY[:-1])])
    shard = read_shard(tmp_path / "t.tar")
    assert next(shard).key == "vid_0"
    with pytest.raises(ValueError, match=r"/t\.tar: sample vid_1: npy of shape \(2, 4\) needs"):
        next(shard)


def test_member_twice_is_damage(tmp_path: Path) -> None:
    """Two members of one name in one sample raise; one of them would be lost."""
    write_members(tmp_path / "t.tar", [("vid_0.npy", NPY), ("vid_0.npy", NPY)])
    with pytest.raises(ValueError, match=r"t\.tar: sample vid_0: two members `\.npy`"):
        list(read_shard(tmp_path / "t.tar"))


def test_truncated_shard_says_after_which_sample(tmp_path: Path) -> None:
    """A tar cut between two samples gives the ones before and then raises, naming the last."""
    path = tmp_path / "t.tar"
    write_members(path, [("vid_0.npy", NPY), ("vid_1.npy", NPY), ("vid_2.npy", NPY)])
    path.write_bytes(path.read_bytes()[:2048])
    shard = read_shard(path)
    assert next(shard).key == "vid_0"
    with pytest.raises(ValueError, match=r"t\.tar: truncated: .* after sample vid_0"):
        list(shard)


def test_splits_csv_with_and_without_suffix() -> None:
    """Values may end in .tar or not, headers and blank lines may come anywhere."""
    text = "tar_file,split\nds_1,val\n\ntar_file,split\n ds_0.tar , train\n"
    tars = ["data/ds_0.tar", "data/ds_1.tar.gz"]
    assert read_splits_csv(text, tars) == {"train": tars[:1], "validation": tars[1:]}


def test_splits_csv_with_upstreams_literal_names() -> None:
    """Rows that hold upstream's unformatted name take the tars in order."""
    text = f"tar_file,split\n{LITERAL},train\n{LITERAL},train\n{LITERAL},test\n"
    tars = ["ds_2.tar", "ds_0.tar", "ds_1.tar"]
    assert read_splits_csv(text, tars) == {"train": ["ds_0.tar", "ds_1.tar"], "test": ["ds_2.tar"]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ds_0,train\nds_9,test\n", "names 'ds_9', but it is missing"),
        ("ds_0,train\nds_0,test\n", "names 'ds_0', but it is missing or named before"),
        ("tar_file,split\nds_0\n", "line 2: expected `tar_file,split`, got"),
        ("ds_0,trian\n", "line 1: unknown split 'trian'"),
        (f"{LITERAL},train\n{LITERAL},train\n", "2 rows, but there are only 1 tars"),
    ],
)
def test_wrong_splits_csv_is_refused(text: str, reason: str) -> None:
    """A row that names no tar, none of these, or one twice raises and says which."""
    with pytest.raises(ValueError, match=reason):
        read_splits_csv(text, ["ds_0.tar"])


def test_tar_left_out_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A tar that no row names is not read, and a warning says so."""
    with caplog.at_level(logging.WARNING):
        splits = read_splits_csv("ds_0,train\n", ["ds_0.tar", "ds_1.tar"])
    assert splits == {"train": ["ds_0.tar"]}
    assert "leaves out ds_1.tar" in caplog.text


def test_split_directories_need_no_csv() -> None:
    """Tars in directories named for splits belong to them, though their numbers repeat."""
    tars = ["data/val/ds_0.tar", "data/train/ds_1.tar", "data/train/ds_0.tar"]
    assert split_tars(tars, "ds_0,test\n") == {
        "train": ["data/train/ds_0.tar", "data/train/ds_1.tar"],
        "validation": ["data/val/ds_0.tar"],
    }


def test_flat_tars_need_a_csv() -> None:
    """Flat tars without a splits.csv raise instead of being guessed at."""
    with pytest.raises(ValueError, match=r"no splits\.csv says which tar"):
        split_tars(["ds_0.tar"], None)
