"""An index is read, made where there is none, and refused where it contradicts the data."""

import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clip_kinetics700
from clip_kinetics700 import DamageError
from clip_kinetics700.features import INDEX_SCHEMA
from tests.support.datasets.dialects import write_foreign
from tests.support.datasets.layouts import (
    SAMPLES,
    make_sample,
    make_samples,
    write_dataset,
    write_index,
    write_members,
    write_tar,
)
from tests.support.datasets.places import numbers_read, over_http

KEYS = [f"vid_{number:09d}" for number in range(19)]
TAR = "ds_000001.tar"  # Samples 5 to 9.


def read_all(source: Any, **options: Any) -> list[str]:
    """Return the keys of all samples, read from first to last."""
    return [sample.key for sample in iter(clip_kinetics700.open(source, **options))]


def lose_tar(directory: Path) -> None:
    """Remove the tar."""
    (directory / TAR).unlink()


def write_other(directory: Path) -> None:
    """Add a tar that no index knows to the end of train."""
    write_tar(directory / "ds_000007.tar", [make_sample(70)])
    with (directory / "splits.csv").open("a") as file:
        file.write("ds_000007,train\n")


def lose_listed(directory: Path) -> None:
    """Remove a tar, from splits.csv too."""
    lose_tar(directory)
    text = (directory / "splits.csv").read_text()
    (directory / "splits.csv").write_text(text.replace(f"{TAR[:-4]},train\n", ""))


def lose_index(directory: Path) -> None:
    """Remove the index."""
    (directory / "index.parquet").unlink()


def break_index(directory: Path) -> None:
    """Put other bytes into the index."""
    (directory / "index.parquet").write_bytes(b"other bytes")


def move_tar(directory: Path) -> None:
    """Give a tar of train to validation."""
    text = (directory / "splits.csv").read_text()
    (directory / "splits.csv").write_text(text.replace(f"{TAR[:-4]},train", f"{TAR[:-4]},val"))


@pytest.mark.parametrize(
    ("change", "message", "kept"),
    [
        (write_other, r"index\.parquet knows nothing of ds_000007\.tar", KEYS),
        (lose_listed, rf"index\.parquet names {TAR}, which is not there", KEYS[:5] + KEYS[10:]),
        (move_tar, rf"index\.parquet has {TAR} in train, but it is in validation", KEYS),
    ],
)
def test_index_of_other_tars(
    tmp_path: Path,
    change: Callable[[Path], None],
    message: str,
    kept: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An index of other tars than there are raises, or a warning names what it does not know."""
    change(write_index(write_dataset(tmp_path, make_samples(SAMPLES), parquet=False)))
    with pytest.raises(ValueError, match=message):
        read_all(tmp_path)
    assert read_all(tmp_path, on_error="skip") == kept
    assert re.search(message, caplog.text)


def test_splits_are_those_of_the_source(tmp_path: Path) -> None:
    """With damage skipped, a tar that changed its split is in the new one and not in the old."""
    move_tar(write_index(write_dataset(tmp_path, make_samples(SAMPLES), parquet=False)))
    splits = clip_kinetics700.open(tmp_path, on_error="skip").splits
    assert {split: len(part) for split, part in splits.items()} == {
        "train": 7,
        "validation": 9,
        "test": 3,
    }


def test_empty_last_tar_is_no_tar_the_index_misses(tmp_path: Path) -> None:
    """A tar without samples needs no rows in the index."""
    write_index(write_dataset(tmp_path, make_samples(SAMPLES), parquet=False))
    write_members(tmp_path / "ds_000099.tar", [])
    with (tmp_path / "splits.csv").open("a") as file:
        file.write("ds_000099,test\n")
    assert read_all(tmp_path) == KEYS


def spoil(table: pa.Table, name: str, value: object) -> pa.Table:
    """Return an index with one value of its third row changed."""
    rows = table.to_pylist()
    rows[2][name] = value
    return pa.Table.from_pylist(rows, table.schema)


def cast_keys(table: pa.Table) -> pa.Table:
    """Return an index whose keys are numbers."""
    place = table.schema.get_field_index("n_frames")
    return table.set_column(place, "n_frames", pa.array(["x"] * table.num_rows))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda table: table.drop_columns(["npy_offset"]), "npy_offset"),
        (lambda table: spoil(table, "npy_nbytes", None), "it has rows without npy_nbytes"),
        (lambda table: spoil(table, "key", None), "it has rows without key"),
        (lambda table: spoil(table, "npy_offset", 100), "rows whose npy_offset is not from 512 to"),
        (lambda table: spoil(table, "split", "dev"), "it names splits other than train, valid"),
        (cast_keys, "Failed to parse"),
    ],
)
def test_damaged_index_is_refused_or_made_anew(
    tmp_path: Path,
    change: Callable[[pa.Table], pa.Table],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A file that is no index raises with its name, or all is read instead, with a warning."""
    directory = write_index(write_dataset(tmp_path, make_samples(SAMPLES), parquet=False))
    pq.write_table(change(pq.read_table(directory / "index.parquet")), directory / "index.parquet")
    with pytest.raises(DamageError, match=rf"index\.parquet: is no index: .*{reason}"):
        read_all(directory)
    assert read_all(directory, on_error="skip") == KEYS
    assert reason in caplog.text
    assert "all of it is read" in caplog.text


def test_damaged_bytes_of_an_index_never_give_other_samples(tmp_path: Path) -> None:
    """Cut anywhere or with any byte changed, an index raises, or the samples are the right ones."""
    directory = write_index(write_dataset(tmp_path, make_samples(SAMPLES), parquet=False))
    path = directory / "index.parquet"
    data, right = path.read_bytes(), make_samples(SAMPLES)
    arrays = [s.embeddings.tobytes() for group in right.values() for s in group]
    n_refused = 0
    for place in range(0, len(data), 97):
        for damaged in (
            data[:place],
            data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :],
        ):
            path.write_bytes(damaged)
            try:
                read = list(iter(clip_kinetics700.open(directory)))
            except ValueError:
                n_refused += 1
            else:
                assert [sample.embeddings.tobytes() for sample in read] == arrays
    assert n_refused > len(data) // 97


def test_index_may_lie_elsewhere(tmp_path: Path) -> None:
    """An index at another place, named, is used; one that is not there is an error."""
    directory = write_index(write_dataset(tmp_path / "d", make_samples(SAMPLES), parquet=False))
    shutil.move(directory / "index.parquet", tmp_path / "elsewhere.parquet")
    dataset = clip_kinetics700.open(directory, index=tmp_path / "elsewhere.parquet")
    assert (dataset.needs_index, [sample.key for sample in dataset]) == (True, KEYS)
    with pytest.raises(FileNotFoundError, match=r"nothing\.parquet"):
        read_all(directory, index=tmp_path / "nothing.parquet")


def test_reading_all_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without an index one warning tells that all is read, however often a sample is asked for."""
    write_dataset(tmp_path, make_samples(SAMPLES), parquet=False)
    dataset = clip_kinetics700.open(tmp_path)
    assert dataset["vid_000000003"].key == dataset.select(max_samples=4)[3].key
    assert (len(dataset), len(dataset.splits["test"])) == (19, 3)
    (record,) = caplog.records
    assert record.message.startswith(f"{tmp_path} has no index: all of it is read to learn what")
    assert "`clip-kinetics700 index SOURCE` writes one" in record.message


def test_reading_from_first_to_last_needs_no_index(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Iterating over splits in full reads no index and says nothing."""
    write_dataset(tmp_path, make_samples(SAMPLES), parquet=False)
    dataset = clip_kinetics700.open(tmp_path)
    read = [sample.key for part in (dataset, dataset.select("val")) for sample in iter(part)]
    assert read == KEYS + KEYS[12:16]
    assert not dataset.needs_index
    assert caplog.records == []


def test_schema_of_the_index_is_what_is_read(tmp_path: Path) -> None:
    """The index holds every column by its name and type."""
    directory = write_index(write_dataset(tmp_path, make_samples(SAMPLES), parquet=False))
    assert pq.read_schema(directory / "index.parquet").equals(INDEX_SCHEMA)


@pytest.mark.parametrize("place", [nullcontext, over_http])
def test_named_tars_use_the_index_beside_them(
    tmp_path: Path, place: Callable[[Path], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Tars named one by one are found by the index of their directory, in the order given."""
    directory = write_index(write_dataset(tmp_path / "d", make_samples(SAMPLES), parquet=False))
    expected = {number: KEYS[5 * number : 5 * number + 5] for number in range(2)}
    with place(directory) as root:
        named = clip_kinetics700.open([f"{root}/ds_00000{number}.tar" for number in (1, 0)])
        assert named.keys() == expected[1] + expected[0]
        assert named["train"].keys() == named.keys()
        assert named[KEYS[0]].key == named[5].key == KEYS[0]
        by_split = clip_kinetics700.open({"test": f"{root}/ds_000000.tar"})
        assert by_split["test"].keys() == expected[0]
    assert not caplog.records


def test_an_index_above_the_tars_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Tars in a directory of their own, as upstream's lie, have their index one above it."""
    directory = write_index(write_foreign(tmp_path / "d"))
    tars = sorted(directory.rglob("*.tar"))
    assert numbers_read(clip_kinetics700.open(tars)[[6, 0]]) == [6, 0]
    assert not caplog.records


@pytest.mark.parametrize("change", [write_other, lose_index, break_index])
def test_tars_that_the_index_does_not_know_are_read(
    tmp_path: Path, change: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Without an index of all named tars they are read themselves, which a warning says."""
    change(write_index(write_dataset(tmp_path, make_samples(SAMPLES), parquet=False)))
    tars = sorted(tmp_path.glob("*.tar"))
    assert clip_kinetics700.open(tars).keys() == read_all(tars)
    assert "has no index: all of it is read" in caplog.text
