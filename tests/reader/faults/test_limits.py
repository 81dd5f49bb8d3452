"""What a file claims is compared before it is believed: sizes, depths and names."""

import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clip_kinetics700
from clip_kinetics700 import DamageError, parquet, streams
from clip_kinetics700.schema import MAX_JSON_DEPTH, parse_json
from clip_kinetics700.streams import read_whole
from tests.support.datasets.layouts import (
    SAMPLES,
    make_samples,
    npy_bytes,
    write_dataset,
    write_index,
    write_members,
)
from tests.support.hub.servers import serve

KEYS = [f"vid_{number:09d}" for number in range(19)]
OUTSIDE = ["../x.tar", "/etc/passwd", "http://127.0.0.1:9/x.tar", "x.tar::http://h/y", "data", "",
           "a\0b", "a\nb.tar", "x" * 5000, "../../../../dev/zero"]  # fmt: skip


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A dataset of tars with an index."""
    return write_index(write_dataset(tmp_path / "d", make_samples(SAMPLES), parquet=False))


def rename_first(directory: Path, name: str) -> None:
    """Let the index say that the first sample lies in a file of another name."""
    table = pq.read_table(directory / "index.parquet")
    names = [name, *table.column("tar_file").to_pylist()[1:]]
    place = table.schema.get_field_index("tar_file")
    table = table.set_column(place, "tar_file", pa.array(names))
    pq.write_table(table, directory / "index.parquet")


@pytest.mark.parametrize("name", OUTSIDE)
def test_files_that_are_not_the_datasets_are_never_opened(
    directory: Path, name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that names another file is refused in one line, or its rows are left out."""
    rename_first(directory, name)
    with pytest.raises(ValueError, match=r"index\.parquet names .*, which is not there") as refused:
        list(clip_kinetics700.open(directory))
    assert "\n" not in str(refused.value)
    dataset = clip_kinetics700.open(directory, on_error="skip")
    assert [sample.key for sample in dataset] == dataset.keys() == KEYS[1:]
    assert len(caplog.records) == 1


def test_a_fifo_in_place_of_a_tar_does_not_hang(directory: Path) -> None:
    """A tar that is a FIFO is damage of its samples alone, by the index and without one."""
    (directory / "ds_000001.tar").unlink()
    os.mkfifo(directory / "ds_000001.tar")
    for _ in ("with an index", "without one"):
        with pytest.raises(DamageError, match=r"ds_000001\.tar: .*is no regular file"):
            list(clip_kinetics700.open(directory))
        kept = [sample.key for sample in clip_kinetics700.open(directory, on_error="skip")]
        assert kept == KEYS[:5] + KEYS[10:]
        (directory / "index.parquet").unlink(missing_ok=True)


@pytest.mark.parametrize("target", ["ds_000001.tar", "nothing"])
def test_a_link_to_nothing_is_not_passed_over(directory: Path, target: str) -> None:
    """A tar that is a link to itself or to nothing is an error, not a shorter dataset."""
    (directory / "ds_000001.tar").unlink()
    (directory / "ds_000001.tar").symlink_to(target)
    with pytest.raises((DamageError, OSError), match=r"ds_000001\.tar"):
        list(clip_kinetics700.open(directory))


def test_a_fifo_beside_an_array_does_not_hang(tmp_path: Path) -> None:
    """The text of a loose sample that is a FIFO is damage of that sample."""
    (tmp_path / "train").mkdir()
    for key in "ab":
        (tmp_path / f"train/{key}.npy").write_bytes(npy_bytes(np.ones((1, 2), np.float16)))
    os.mkfifo(tmp_path / "train/a.txt")
    with pytest.raises(DamageError, match=r"train/a\.npy: .*a\.txt: is no regular file"):
        list(clip_kinetics700.open(tmp_path))
    assert [s.key for s in clip_kinetics700.open(tmp_path, on_error="skip")] == ["b"]


@pytest.mark.parametrize("name", ["../ds_000000.tar", "/etc/x.tar", "x::http://h/ds_000000.tar"])
def test_a_manifest_names_files_of_its_dataset_alone(directory: Path, name: str) -> None:
    """A manifest by which a web server's files are found cannot lead elsewhere."""
    (directory / "manifest.json").write_text(json.dumps({"files": {name: {}}}))
    with serve(directory) as served:
        with pytest.raises(ValueError, match=r"manifest\.json: names .*, which lies outside"):
            clip_kinetics700.open(served.url)
        assert {request.path for request in served.requests} == {"/manifest.json"}


@pytest.mark.parametrize("has_index", [False, True])
def test_a_gzip_bomb_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_index: bool
) -> None:
    """Bytes that become a thousand times as many are refused before all are there."""
    (tmp_path / "train").mkdir()
    array = npy_bytes(np.zeros((8192, 512), np.float16))
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        info = tarfile.TarInfo("a.npy")
        info.size = len(array)
        tar.addfile(info, io.BytesIO(array))
    (tmp_path / "train/0.tar.gz").write_bytes(gzip.compress(plain.getvalue()))
    if has_index:
        write_index(tmp_path)
    assert len(list(clip_kinetics700.open(tmp_path))) == 1
    monkeypatch.setattr(streams, "MIN_UNPACKED_BYTES", 1 << 20)
    with pytest.raises(DamageError, match=r"0\.tar\.gz: .*bytes of gzip hold more than 1,\d+,\d+"):
        list(clip_kinetics700.open(tmp_path))


def test_an_index_bomb_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dictionary's text that each row names cannot become gigabytes."""
    table = pq.read_table(directory / "index.parquet")
    place = table.schema.get_field_index("extra")
    table = table.set_column(place, "extra", pa.array(["x" * (1 << 20)] * table.num_rows))
    pq.write_table(table, directory / "index.parquet", compression="zstd")
    assert len(clip_kinetics700.open(directory)) == table.num_rows
    monkeypatch.setattr(streams, "MIN_UNPACKED_BYTES", 4 << 20)
    monkeypatch.setattr(parquet, "MAX_BATCH_BYTES", 2 << 20)
    with pytest.raises(DamageError, match=r"is no index: .* bytes of Parquet hold more than 4,194"):
        len(clip_kinetics700.open(directory))


def test_a_bomb_of_numbers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One number that stands for a million embeddings is refused by its row group's footer."""
    directory = write_dataset(tmp_path / "d", make_samples(SAMPLES))
    for tar in directory.glob("*.tar"):
        tar.unlink()
    monkeypatch.setattr(streams, "MIN_UNPACKED_BYTES", 1 << 10)
    monkeypatch.setattr(streams, "MAX_RATIO", 1 / 100)
    with pytest.raises(DamageError, match=r"parquet: .* say that they hold .* values; at most 128"):
        list(clip_kinetics700.open(directory))


def test_a_file_is_read_whole_up_to_a_limit(tmp_path: Path) -> None:
    """A file of text that never ends fills no memory, on disk and by HTTP."""
    (tmp_path / "a").write_bytes(bytes(3000))
    assert len(read_whole(str(tmp_path / "a"), at_most=3000)) == 3000
    with serve(tmp_path) as served:
        for path in (str(tmp_path / "a"), f"{served.url}/a"):
            with pytest.raises(ValueError, match=f"^{path}: is longer than 2,999 bytes"):
                read_whole(path, at_most=2999)


def nest(depth: int) -> Any:
    """Return arrays and objects in each other."""
    document: Any = 1
    for level in range(depth):
        document = [document] if level % 2 else {"a": document}
    return document


def test_json_has_a_depth() -> None:
    """What is nested as deep as allowed is read, what is deeper is one line."""
    text = json.dumps(nest(MAX_JSON_DEPTH))
    assert parse_json(text) == parse_json(f" {text}\n".encode()) == nest(MAX_JSON_DEPTH)
    for wrong in (json.dumps(nest(MAX_JSON_DEPTH + 1)), "[" * 99_999 + "]" * 99_999):
        with pytest.raises(ValueError, match="nested more than 100 deep"):
            parse_json(wrong)
    assert parse_json(json.dumps([[1]] * 200)) == [[1]] * 200


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "Expecting value"), ("{} x", "more text behind"), (b"\xff", "utf-8"),
     ("9" * 5000, "limit"), ('{"a": }', "Expecting value")],
)  # fmt: skip
def test_what_is_no_json_is_a_value_error(text: str | bytes, reason: str) -> None:
    """Anything that is no JSON document is one kind of error."""
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_a_deep_json_is_damage_of_its_sample(tmp_path: Path) -> None:
    """A sample whose json is nested too deep is left out, its neighbour is not."""
    (tmp_path / "train").mkdir()
    array = npy_bytes(np.ones((1, 2), np.float16))
    deep = json.dumps(nest(MAX_JSON_DEPTH + 1)).encode()
    members = [("a.json", deep), ("a.npy", array), ("b.npy", array)]
    write_members(tmp_path / "train/0.tar", members)
    with pytest.raises(DamageError, match=r"0\.tar: sample a: it is nested more than 100 deep"):
        list(clip_kinetics700.open(tmp_path))
    assert [s.key for s in clip_kinetics700.open(tmp_path, on_error="skip")] == ["b"]
