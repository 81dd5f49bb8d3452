"""Any sample survives its encoding, which has one spelling that standard tools read as well."""

import io
import json

import numpy as np
from hypothesis import given
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
from tests.support.datasets.places import assert_identical, bits_of
from tests.support.datasets.strategies import float16_arrays, samples


@given(samples())
def test_any_sample_comes_back(sample: Sample) -> None:
    """Decoding what was encoded gives every bit, letter and number of the sample."""
    assert_identical(decode_sample(sample.key, dict(encode_sample(sample))), sample)


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


@given(st.integers(0, 10**9 - 1), st.integers(0, 10**9 - 1))
def test_keys_sort_as_their_numbers(one: int, other: int) -> None:
    """The order of keys as texts is that of the samples' numbers."""
    keys = KEY_NAME.format(one), KEY_NAME.format(other)
    assert (keys[0] < keys[1]) == (one < other)
