"""`verify.tars` finds every kind of damage in tars whose hashes are right."""

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.damage.datasets import (
    FIRST_PARQUET,
    FIRST_TAR,
    WIDTH,
    Members,
    copy_dataset,
    edit_member,
    edit_table,
    edit_tar,
    flip_byte,
    make_dataset,
    problems_of,
    read_tar,
    reseal,
    set_value,
    write_tar,
)
from tests.support.datasets.layouts import npy_bytes


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Directory of a dataset with nothing wrong in it."""
    return copy_dataset(tmp_path / "dataset")


def test_dropped_sample(dataset: Path) -> None:
    """A tar without one of its samples is found by the gap in its keys."""
    edit_tar(dataset, lambda members: members[:3] + members[6:])
    message = problems_of(dataset)[FIRST_TAR]
    assert "member 'vid_000000002.json' at byte 3072, where vid_000000001.json belongs" in message


def test_dropped_last_sample(dataset: Path) -> None:
    """A tar that ends before it is full is found, though its keys have no gap."""
    edit_tar(dataset, lambda members: members[:-3])
    assert "ends before vid_000000004.json" in problems_of(dataset)[FIRST_TAR]


def test_duplicated_sample(dataset: Path) -> None:
    """A sample that comes twice is named where it comes again, at the end of its tar too."""
    edit_tar(dataset, lambda members: members[:3] + members)
    edit_tar(dataset, lambda members: members + members[-3:], "ds_000001.tar")
    found = problems_of(dataset)
    assert "member 'vid_000000000.json'" in found[FIRST_TAR]
    assert "holds more than its samples" in found["ds_000001.tar"]
    assert found.keys() == {FIRST_TAR, "ds_000001.tar"}


def test_reordered_samples(dataset: Path) -> None:
    """Samples in another order are found by their keys."""
    edit_tar(dataset, lambda members: members[3:6] + members[:3] + members[6:])
    assert "where vid_000000000.json belongs" in problems_of(dataset)[FIRST_TAR]


def test_reordered_contents(dataset: Path) -> None:
    """Embeddings that changed places under unchanged names are found by the Parquet file."""

    def swap(members: Members) -> Members:
        contents = dict(members)
        first, fourth = "vid_000000000.npy", "vid_000000003.npy"
        swapped = {**contents, first: contents[fourth], fourth: contents[first]}
        return list(swapped.items())

    edit_tar(dataset, swap)
    message = problems_of(dataset)[FIRST_TAR]
    expected = f"sample vid_000000000 and 1 more: embeddings are not those of {FIRST_PARQUET}"
    assert expected in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(dataset: Path, value: float) -> None:
    """NaN and infinity are reported with the sample that holds them."""
    edit_member(dataset, "vid_000000002.npy", set_value(value))
    expected = "sample vid_000000002: embeddings hold values that are not finite"
    assert expected in problems_of(dataset)[FIRST_TAR]


def test_negative_zero_is_not_zero(tmp_path: Path) -> None:
    """Embeddings are compared bit for bit, so that 0 and -0 are two values."""
    dataset = make_dataset(tmp_path)
    edit_member(dataset, "vid_000000002.npy", set_value(0.0))
    columns = pq.read_table(dataset / FIRST_PARQUET).to_pydict()
    columns["embeddings"][2][0][3] = -0.0
    edit_table(dataset, FIRST_PARQUET, lambda table: pa.table(columns, schema=table.schema))
    assert "vid_000000002: embeddings are not those of" in problems_of(dataset)[FIRST_TAR]


HALVES = np.ones((3, WIDTH), np.float16)


@pytest.mark.parametrize(
    ("member", "content", "message"),
    [
        ("npy", npy_bytes(HALVES[:0]), "0 frames but timestamps of shape (3,)"),
        ("npy", npy_bytes(HALVES[:, :7]), "shape (3, 7)"),
        ("npy", npy_bytes(HALVES.astype(np.float32)), "dtype <f4"),
        ("npy", npy_bytes(HALVES.astype(">f2")), "dtype >f2"),
        ("npy", npy_bytes(np.asfortranarray(HALVES)), "'fortran_order': True"),
        (
            "npy",
            npy_bytes(HALVES).replace(b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00"),
            "array header",
        ),
        ("npy", npy_bytes(HALVES)[:-1], "needs 48 bytes, has 47"),
        ("npy", b"", "reading magic string"),
        ("json", b"{", "Expecting property name"),
        ("json", b"[" * 100_000, "nested"),
        ("json", b"\xff\xfe{\x00}\x00", "'utf-8' codec can't decode"),
        ("json", b"[]", "the json member is no object"),
        ("json", b"{} ", "where ours holds"),
        ("txt", b"\xff", "'utf-8' codec can't decode"),
        ("txt", b"abseiling\n", "caption is not that of index.parquet"),
    ],
)
def test_member_with_other_content(
    dataset: Path, member: str, content: bytes, message: str
) -> None:
    """What a member holds is checked to the letter, and no content ends in a traceback."""
    edit_member(dataset, f"vid_000000001.{member}", lambda _: content)
    found = problems_of(dataset)
    assert "sample vid_000000001" in found[FIRST_TAR]
    assert message in found[FIRST_TAR]
    assert found.keys() == {FIRST_TAR}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("key", "vid_000000009", '"key": "vid_000000009'),
        ("youtube_id", "-a_99999999", 'where ours holds b\'{"videoID": "-a_9'),
        ("time_start", 0.5, '"time_start": 0.5'),
        ("start_time", "0", '"start_time": "0"'),
        ("n_frames", 3, '"n_frames": 3'),
        ("n_frames", True, '"n_frames": true'),
        ("timestamps", [0.0, 1.0], "frames but timestamps of shape (2,)"),
        ("timestamps", ["zero"], "could not convert string to float"),
        ("timestamps", [0.5], "meta is not that of index.parquet"),
        ("duration", float("nan"), "duration is nan, no finite number"),
        ("width", 10**30, "no 64-bit integer"),
        ("label_id", 3, "label_id is outside of the 3 classes"),
        ("label_id", 1, "label_id is not the class that the caption names"),
        ("label_id", None, "label_id is not the class that the caption names"),
        ("extra", "\ud800", "extra is '\\ud800', no text"),
    ],
)
def test_json_with_another_value(dataset: Path, name: str, value: object, message: str) -> None:
    """Every field of the json member is checked, by itself or against the Parquet row."""

    def edit(data: bytes) -> bytes:
        document = {**json.loads(data), name: value}
        return json.dumps(document, ensure_ascii=name == "extra").encode()

    edit_member(dataset, "vid_000000000.json", edit)
    found = problems_of(dataset)
    assert message in found[FIRST_TAR]
    assert found.keys() == {FIRST_TAR}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("mtime", 1, "00000000001"),
        ("mode", 0o600, "0000600"),
        ("uid", 1000, "0001750"),
        ("gname", "users", "with its headers it holds"),
        ("type", tarfile.SYMTYPE, "no tar header at byte 512"),
    ],
)
def test_header_with_another_field(dataset: Path, field: str, value: Any, message: str) -> None:
    """Headers hold nothing of the machine that wrote them: mtime 0, one owner, one mode."""
    write_tar(dataset / FIRST_TAR, read_tar(dataset / FIRST_TAR), **{field: value})
    reseal(dataset)
    assert message in problems_of(dataset)[FIRST_TAR]


@pytest.mark.parametrize("member", range(3))
def test_members_in_another_order(dataset: Path, member: int) -> None:
    """The members of a sample are json, npy, txt, all of them and in this order."""
    edit_tar(dataset, lambda members: members[:member] + members[member + 1 :])
    assert "where vid_000000000." in problems_of(dataset)[FIRST_TAR]


@pytest.mark.slow
def test_flipped_bytes_of_resealed_tar(dataset: Path) -> None:
    """No byte of a tar can change unseen, padding included, even without its hash."""
    content = (dataset / FIRST_TAR).read_bytes()
    for offset in range(0, len(content), 211):
        (dataset / FIRST_TAR).write_bytes(content)
        flip_byte(dataset / FIRST_TAR, offset)
        reseal(dataset)
        assert problems_of(dataset).keys() == {FIRST_TAR}, offset
