"""Damage is named, raised or left out, and never passes for right."""

import gzip
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clip_kinetics700
from clip_kinetics700 import DamageError, load_dataset
from clip_kinetics700.schema import encode_sample
from tests.support.datasets.layouts import (
    SAMPLES,
    make_samples,
    write_dataset,
    write_index,
    write_members,
)
from tests.support.datasets.places import over_http

KEYS = [f"vid_{number:09d}" for number in range(19)]
TAR = "ds_000001.tar"  # Samples 5 to 9.


def change_tar(directory: Path, old: bytes, new: bytes, *, name: str = TAR) -> None:
    """Replace bytes of a tar once, in a new file: a map of the old one stays what it is."""
    data = (directory / name).read_bytes()
    assert data.count(old) == 1
    replace_file(directory / name, data.replace(old, new.ljust(len(old), b"\0")))


def replace_file(path: Path, data: bytes) -> None:
    """Write a file beside the old one and put it in its place."""
    path.with_suffix(".new").write_bytes(data)
    path.with_suffix(".new").replace(path)


def damage_npy(directory: Path) -> None:
    """Let the array of sample 6 have other columns than bytes."""
    tar = (directory / TAR).read_bytes()
    begin = tar.index(b"\x93NUMPY", tar.index(b"vid_000000006.npy"))
    header = tar[begin : begin + 128]
    changed = header.replace(b", 8)", b", 9)")
    replace_file(
        directory / TAR,
        tar.replace(tar[begin : begin + 200], changed + tar[begin + 128 : begin + 200]),
    )


def damage_name(directory: Path) -> None:
    """Flip a bit in the header of the array of sample 7."""
    change_tar(directory, b"vid_000000007.npy", b"wid_000000007.npy")


def damage_json(directory: Path) -> None:
    """Spoil the json of sample 8."""
    change_tar(directory, b'"key": "vid_000000008"', b'"key": "vid_00000000')


def cut_tar(directory: Path) -> None:
    """Cut the tar between sample 7 and 8."""
    tar = (directory / TAR).read_bytes()
    replace_file(directory / TAR, tar[: tar.index(b"vid_000000008.json")])


def cut_in_array(directory: Path) -> None:
    """Cut the tar in the array of sample 7."""
    tar = (directory / TAR).read_bytes()
    replace_file(directory / TAR, tar[: tar.index(b"vid_000000007.npy") + 600])


def repeat_member(directory: Path) -> None:
    """Write a tar in which sample 6 has two arrays."""
    members = [
        (f"{sample.key}.{extension}", data)
        for sample in make_samples(SAMPLES)["train"][5:10]
        for extension, data in encode_sample(sample)
    ]
    members.insert(6, (members[4][0], members[4][1]))
    write_members(directory / "new", members)
    (directory / "new").replace(directory / TAR)


def swap_sample(directory: Path) -> None:
    """Put another sample of the same size in the place of sample 9, under another key."""
    tar = (directory / TAR).read_bytes()
    replace_file(directory / TAR, tar.replace(b"vid_000000009", b"vid_000000999"))


# By name: the harm to a tar, and the samples that are lost without an index and with one, and why.
DAMAGES: dict[str, tuple[Callable[[Path], None], set[int], str, set[int], str]] = {
    "npy": (damage_npy, {6}, r"sample vid_000000006: npy of .* needs", {6}, "npy of .* needs"),
    "header": (damage_name, {7, 8, 9}, "no tar header at byte .* after", {7}, "another file than"),
    "json": (damage_json, {8}, r"sample vid_000000008: Invalid control", set(), ""),
    "cut between": (cut_tar, {7, 8, 9}, "truncated: .* after sample .*6", {8, 9}, "file ends at"),
    "cut inside": (cut_in_array, {7, 8, 9}, "truncated: ends at byte", {7, 8, 9}, "file ends at"),
    "twice": (
        repeat_member,
        {6},
        "two members `.npy`",
        {7, 8, 9},
        "another file than|file ends at",
    ),
    "swapped": (swap_sample, {9}, "", {9}, "another file than the index says lies there"),
}


def read_all(source: Any, **options: Any) -> list[str]:
    """Return the keys of all samples, read from first to last."""
    return [sample.key for sample in iter(clip_kinetics700.open(source, **options))]


@pytest.mark.parametrize("place", [nullcontext, over_http])
@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "swapped"])
def test_damage_without_an_index(
    tmp_path: Path, damage: str, place: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Read from first to last, damage is raised with tar and reason, or left out with a warning."""
    harm, lost, reason, *_ = DAMAGES[damage]
    harm(write_dataset(tmp_path, make_samples(SAMPLES), parquet=False))
    with place(tmp_path) as source:
        with pytest.raises(DamageError, match=rf"{source}/{TAR}: .*{reason}"):
            read_all(source)
        kept = read_all(source, on_error="skip")
    assert kept == [key for number, key in enumerate(KEYS) if number not in lost]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert re.search(rf"skipped: {source}/{TAR}: .*{reason}", caplog.text)


@pytest.mark.parametrize("place", [nullcontext, over_http])
@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "json"])
def test_damage_behind_an_index(
    tmp_path: Path, damage: str, place: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """By the index, each lost sample is named with its tar, byte and reason."""
    harm, _, _, lost, reason = DAMAGES[damage]
    harm(write_index(write_dataset(tmp_path, make_samples(SAMPLES), parquet=False)))
    first = KEYS[min(lost)]
    with place(tmp_path) as source:
        with pytest.raises(DamageError, match=rf"{TAR}: sample {first}: .*({reason})") as raised:
            read_all(source)
        kept = read_all(source, on_error="skip")
        with pytest.raises(DamageError, match=first):
            clip_kinetics700.open(source, on_error="skip")[first]
    assert (raised.value.path, raised.value.key) == (f"{source}/{TAR}", first)
    assert f"(at byte {raised.value.offset})" in str(raised.value)
    assert kept == [key for number, key in enumerate(KEYS) if number not in lost]
    assert len(caplog.records) == len(lost)


@pytest.mark.parametrize("has_index", [False, True])
def test_damaged_gzip_is_left_out(
    tmp_path: Path, *, has_index: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A tar.gz that ends early or fails its checksum raises, or its tar is left out."""
    write_dataset(tmp_path, make_samples(SAMPLES), parquet=False)
    for tar in tmp_path.glob("*.tar"):
        (tmp_path / f"{tar.name}.gz").write_bytes(gzip.compress(tar.read_bytes()))
        tar.unlink()
    if has_index:
        write_index(tmp_path)
    data = (tmp_path / f"{TAR}.gz").read_bytes()
    for damaged in (data[:-300], data[:-8] + bytes(8)):
        replace_file(tmp_path / f"{TAR}.gz", damaged)
        with pytest.raises(DamageError, match=rf"{TAR}\.gz: .*damaged gzip stream"):
            read_all(tmp_path)
        kept = read_all(tmp_path, on_error="skip")
        assert set(KEYS) - set(kept) <= set(KEYS[5:10])
        assert "damaged gzip stream" in caplog.text


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("has_index", [False, True])
@pytest.mark.parametrize("words", [{}, {"max_samples": 50}])
def test_load_dataset_skips_too(
    tmp_path: Path, words: dict[str, Any], *, has_index: bool, streaming: bool
) -> None:
    """`load_dataset` raises damage with tar and key, or leaves out just the damaged samples."""
    directory = write_dataset(tmp_path / "d", make_samples(SAMPLES), parquet=False)
    if has_index:
        write_index(directory)
    damage_npy(directory)
    cache = str(tmp_path / "cache")
    options: dict[str, Any] = {"streaming": streaming, "cache_dir": cache, **words}
    with pytest.raises(DamageError, match=rf"{TAR}: sample vid_000000006: npy of shape"):
        list(load_dataset(directory, "train", **options))
    loaded = load_dataset(directory, "train", on_error="skip", **options)
    assert [row["meta"]["key"] for row in loaded] == [k for k in KEYS[:12] if k != KEYS[6]]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("has_index", [False, True])
def test_a_split_of_nothing_but_damage_is_empty(
    tmp_path: Path, *, has_index: bool, streaming: bool
) -> None:
    """With damage skipped, a split of which nothing is left has no rows, and the others all."""
    directory = write_dataset(tmp_path / "d", make_samples(SAMPLES), parquet=False)
    if has_index:
        write_index(directory)
    tar = directory / "ds_000003.tar"  # it holds all of validation
    replace_file(tar, tar.read_bytes().replace(b"\x93NUMPY", b"\x93NUMPI"))
    cache = str(tmp_path / "cache")
    options: dict[str, Any] = {"streaming": streaming, "cache_dir": cache}
    loaded = load_dataset(directory, on_error="skip", **options)
    counts = {split: len(list(rows)) for split, rows in loaded.items()}
    assert {split: n for split, n in counts.items() if n} == {"train": 12, "test": 3}


def test_rows_that_fit_no_column_are_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A json with a number too large is skipped alone; the samples beside it stay their own."""
    (tmp_path / "train").mkdir()
    samples = make_samples({"train": 5})["train"]
    members = [
        (f"{s.key}.{extension}", data) for s in samples for extension, data in encode_sample(s)
    ]
    spoiled = members[6][1].replace(b'"width": 340', b'"width": 34%s' % (b"0" * 30))
    members[6] = (members[6][0], spoiled)
    write_members(tmp_path / "train/0.tar", members)
    right = [s.embeddings.tobytes() for s in samples[:2] + samples[3:]]
    options: dict[str, Any] = {"streaming": True, "on_error": "skip"}
    selections: list[dict[str, Any]] = [{}, {"max_samples": 9}]
    for words in selections:
        rows = load_dataset(tmp_path, "train", **options, **words).with_format("numpy")
        arrays = [row["embeddings"].astype("<f2").tobytes() for row in rows]
        assert arrays == right
    assert (
        len(re.findall(r"train/0\.tar: sample vid_000000002: .*\(at byte \d+\)", caplog.text)) == 2
    )


def test_damaged_parquet_is_named_or_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A Parquet file that is cut raises with its name, or its split is left out."""
    write_dataset(tmp_path, make_samples(SAMPLES))
    for tar in tmp_path.glob("*.tar"):
        tar.unlink()
    path = tmp_path / "data/validation-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DamageError, match=r"validation-00000-of-00001\.parquet: "):
        read_all(tmp_path)
    assert read_all(tmp_path, on_error="skip") == KEYS[:12] + KEYS[16:]
    assert "skipped: " in caplog.text


def test_damaged_pages_of_parquet_are_named(tmp_path: Path) -> None:
    """Parquet whose embeddings cannot be decoded raises with file and key."""
    write_dataset(tmp_path, make_samples({"train": 3}))
    (tmp_path / "ds_000000.tar").unlink()
    path = tmp_path / "data/train-00000-of-00001.parquet"
    data = path.read_bytes()
    path.write_bytes(b"PAR1" + b"\xff" * 60 + data[64:])
    with pytest.raises(DamageError, match=r"train-00000-of-00001\.parquet: sample vid_000000000:"):
        read_all(tmp_path)


@pytest.mark.parametrize("frames", ["with a missing one", "of integers"])
def test_parquet_without_floats_everywhere_is_refused(tmp_path: Path, frames: str) -> None:
    """A missing frame would give a sample its neighbour's: it is damage, as integers are."""
    samples = make_samples({"train": 3})
    path = write_dataset(tmp_path, samples) / "data/train-00000-of-00001.parquet"
    for tar in tmp_path.glob("*.tar"):
        tar.unlink()
    (tmp_path / "splits.csv").unlink()
    table = pq.read_table(path)
    rows = table.column("embeddings").to_pylist()
    if frames == "of integers":
        integers = pa.list_(pa.list_(pa.int16(), 8))
        changed = pa.array([[[1] * 8 for _ in row] for row in rows], integers)
    else:
        changed = pa.array([[None, *rows[0][1:]], *rows[1:]], table.schema.field(0).type)
    pq.write_table(table.set_column(0, "embeddings", changed), path)
    with pytest.raises(DamageError, match="are no floats, or some are missing"):
        list(clip_kinetics700.open(tmp_path))
