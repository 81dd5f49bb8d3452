"""Any sample survives its encoding, which has one spelling that standard tools read as well."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_kinetics700.schema import (
    KEY_NAME,
    META_DTYPES,
    UPSTREAM_FIELDS,
    Float16Array,
    Sample,
    decode_npy,
    decode_sample,
    encode_npy,
    encode_sample,
    format_upstream_time,
    parse_time,
)
from clip_kinetics700.shards import scan_shard
from clip_kinetics700_builder.assemble.shard_files import open_tar_shard, open_unwritten_tar
from clip_kinetics700_builder.assemble.tar import make_any_header, make_header
from clip_kinetics700_builder.system.files import hash_file
from clip_kinetics700_builder.system.threads import open_background
from tests.support.datasets.strategies import float16_arrays, samples

SAMPLE_LISTS = st.lists(samples(), max_size=4, unique_by=lambda sample: sample.key)


def bits_of(array: Any) -> tuple[Any, ...]:
    """Return what makes an array itself: type, shape and every bit."""
    return array.dtype.str, array.shape, array.tobytes()


def assert_same(one: Sample, other: Sample) -> None:
    """Compare two samples bit for bit; 0.0 and -0.0 are two values."""
    assert bits_of(one.embeddings) == bits_of(other.embeddings)
    assert repr((one.caption, one.meta)) == repr((other.caption, other.meta))


@given(samples())
def test_any_sample_comes_back(sample: Sample) -> None:
    """Decoding what was encoded gives every bit, letter and number of the sample."""
    assert_same(decode_sample(sample.key, dict(encode_sample(sample))), sample)


@given(samples())
def test_the_encoding_is_canonical(sample: Sample) -> None:
    """A sample that was decoded encodes to the bytes that it was decoded from."""
    members = encode_sample(sample)
    assert encode_sample(decode_sample(sample.key, dict(members))) == members


@given(samples())
def test_standard_tools_read_the_members(sample: Sample) -> None:
    """`np.load` without pickle, `json.loads` and UTF-8 give what the sample holds."""
    members = dict(encode_sample(sample))
    loaded = np.load(io.BytesIO(members["npy"]), allow_pickle=False)
    assert bits_of(loaded) == bits_of(sample.embeddings)
    assert members["txt"].decode("utf-8") == sample.caption
    document = json.loads(members["json"])
    assert tuple(document) == (*UPSTREAM_FIELDS, *META_DTYPES)
    assert repr({name: document[name] for name in META_DTYPES}) == repr(sample.meta)
    assert document["videoID"] == sample.youtube_id
    times = [parse_time(document[name]) for name in ("start_time", "end_time")]
    if all(abs(time or 0) < 2**53 for time in (sample.time_start, sample.time_end)):
        assert times == [sample.time_start, sample.time_end]


@given(float16_arrays())
def test_an_npy_is_what_numpy_saves(array: Float16Array) -> None:
    """The npy member is byte for byte the file of `np.save`, and both readers agree on it."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    assert encode_npy(array) == stream.getvalue()
    assert bits_of(decode_npy(encode_npy(array))) == bits_of(array)


@given(float16_arrays())
def test_how_an_array_lies_in_memory_leaves_no_trace(array: Float16Array) -> None:
    """Fortran order, big-endian numbers and strided views encode to the same bytes."""
    views = [
        np.asfortranarray(array),
        array.astype(">f2"),
        np.repeat(array, 2, axis=0)[::2],
        array[:, ::-1].copy()[:, ::-1],
    ]
    assert [encode_npy(view) for view in views] == [encode_npy(array)] * len(views)


@given(st.integers(0, 999_999))
def test_upstream_times_are_six_digits(seconds: int) -> None:
    """A time as upstream spells it has six digits and is read as the number it was."""
    text = format_upstream_time(seconds)
    assert text is not None
    assert (len(text), text.isdecimal(), parse_time(text)) == (6, True, seconds)


@settings(max_examples=40)
@given(found=SAMPLE_LISTS)
def test_tars_hold_samples_in_order(
    tmp_path_factory: pytest.TempPathFactory, found: list[Sample]
) -> None:
    """`tarfile` and our reader find the same members; the place of each npy is its place."""
    path: Path = tmp_path_factory.getbasetemp() / "any.tar"
    with open_background() as thread:
        with open_tar_shard(path, thread) as shard:
            places = [shard.add(sample) for sample in found]
        with open_unwritten_tar(thread) as unwritten:
            assert [unwritten.add(sample) for sample in found] == places
    assert (unwritten.samples_sha256, unwritten.sha256) == (shard.samples_sha256, shard.sha256)
    assert shard.sha256 == hash_file(path)
    expected = [
        (f"{sample.key}.{extension}", content)
        for sample in found
        for extension, content in encode_sample(sample)
    ]
    with tarfile.open(path) as tar:
        infos = tar.getmembers()
        contents = [(info.name, (tar.extractfile(info) or io.BytesIO()).read()) for info in infos]
    assert contents == expected
    assert all((info.mtime, info.uid, info.uname, info.mode) == (0, 0, "", 0o644) for info in infos)
    data = path.read_bytes()
    for sample, (offset, nbytes) in zip(found, places, strict=True):
        assert data[offset : offset + nbytes] == encode_npy(sample.embeddings)
    back = list(scan_shard(path))
    assert [(placed.npy_offset, placed.npy_nbytes) for placed in back] == places
    for placed, sample in zip(back, found, strict=True):
        assert placed.sample.key == sample.key
        assert_same(placed.sample, sample)


@settings(max_examples=40)
@given(found=SAMPLE_LISTS)
def test_the_same_samples_are_the_same_tar(
    tmp_path_factory: pytest.TempPathFactory, found: list[Sample]
) -> None:
    """A tar that was read and written again has the bytes it had."""
    path: Path = tmp_path_factory.getbasetemp() / "again.tar"

    def write(members: list[Sample]) -> bytes:
        with open_background() as thread, open_tar_shard(path, thread) as shard:
            for sample in members:
                shard.add(sample)
        return path.read_bytes()

    before = write(found)
    assert write([placed.sample for placed in scan_shard(path)]) == before
    assert len(before) % tarfile.RECORDSIZE == 0


@given(st.text(min_size=1, max_size=120), st.integers(0, 8**11 - 1))
def test_headers_are_those_of_tarfile(key: str, nbytes: int) -> None:
    """A header made in a hurry has the bytes of `tarfile`'s, or is refused as it refuses it."""

    def make(function: Callable[[], bytes]) -> bytes | str:
        try:
            return function()
        except ValueError as error:
            return str(error)

    ours = make(lambda: make_header(key, "json", nbytes))
    assert ours == make(lambda: make_any_header(f"{key}.json", nbytes))


def test_a_size_that_ustar_has_no_room_for_is_refused() -> None:
    """A member of 8 GiB is an error, not a header with another size."""
    with pytest.raises(ValueError, match="overflow"):
        make_header("vid_000000000", "npy", 8**11)


@given(st.integers(0, 10**9 - 1), st.integers(0, 10**9 - 1))
def test_keys_sort_as_their_numbers(one: int, other: int) -> None:
    """The order of keys as texts is that of the samples' numbers."""
    keys = KEY_NAME.format(one), KEY_NAME.format(other)
    assert (keys[0] < keys[1]) == (one < other)
