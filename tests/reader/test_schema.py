"""A sample has these literal bytes on disk, and everything that is no sample is refused."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_kinetics700.schema import (
    SPLIT_OF_WORD,
    decode_npy,
    decode_sample,
    encode_npy,
    encode_sample,
    normalize_split,
    parse_time,
    split_member_name,
)
from tests.support.datasets.layouts import make_sample, npy_bytes


def test_sample_members_are_these_bytes() -> None:
    """The members of a sample are json, npy and txt, byte for byte as written here."""
    sample = make_sample(1, width=2, n_frames=1)
    members = dict(encode_sample(sample))
    header = b"{'descr': '<f2', 'fortran_order': False, 'shape': (1, 2), }".ljust(117) + b"\n"
    assert list(members) == ["json", "npy", "txt"]
    assert members["npy"] == b"\x93NUMPY\x01\x00v\x00" + header + sample.embeddings.tobytes()
    assert members["txt"] == b"tying knot (not on a tie)"
    assert members["json"] == (
        b'{"videoID": "-a_00000001", "start_time": "000001", "end_time": "000011", '
        b'"key": "vid_000000001", "youtube_id": "-a_00000001", "time_start": 1, "time_end": 11, '
        b'"label_id": 1, "n_frames": 1, "timestamps": [0.0], "duration": 0.75, "fps": 29.97, '
        b'"width": 340, "height": 256, "extra": null}'
    )


@pytest.mark.parametrize("number", range(3))
def test_sample_survives_encoding(number: int) -> None:
    """Decoding what was encoded gives the same sample, one without a label included."""
    sample = make_sample(number)
    decoded = decode_sample(sample.key, dict(encode_sample(sample)))
    assert decoded.meta == sample.meta
    assert decoded.caption == sample.caption
    assert decoded.embeddings.tobytes() == sample.embeddings.tobytes()


def test_upstream_sample_is_read() -> None:
    """Upstream's `.cap`, times as strings and missing fields are read; its key is the tar's."""
    document = {"videoID": "-x", "start_time": "000003", "end_time": 13}
    members = {"cap": b"yoga", "npy": npy_bytes(np.zeros((0, 4), np.float32))}
    sample = decode_sample("a/b", {**members, "json": json.dumps(document).encode()})
    assert (sample.key, sample.caption, sample.youtube_id) == ("a/b", "yoga", "-x")
    assert (sample.time_start, sample.time_end, sample.timestamps) == (3, 13, None)
    assert sample.embeddings.shape == (0, 4)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"txt": b"yoga"}, "no npy member"),
        ({"npy": b"no numpy"}, "magic string"),
        ({"npy": npy_bytes(np.zeros(3, np.float16))}, r"shape \(n_frames, width\)"),
        ({"npy": npy_bytes(np.zeros((1, 2), np.int64))}, "float type, got int64"),
        ({"npy": npy_bytes(np.zeros((1, 2), np.float16)), "txt": b"\xff"}, "utf-8"),
        ({"npy": npy_bytes(np.zeros((1, 2), np.float16)), "json": b"{"}, "property name"),
        ({"npy": npy_bytes(np.zeros((1, 2), np.float16)), "json": b"[]"}, "no object"),
        ({"npy": npy_bytes(np.zeros((1, 2), np.float16)), "json": b"[" * 99999}, "nested"),
        (
            {"npy": npy_bytes(np.zeros((1, 2), np.float16)), "json": b'{"start_time": "x"}'},
            "float: 'x'",
        ),
        (
            {"npy": npy_bytes(np.zeros((1, 2), np.float16)), "json": b'{"timestamps": [0, 1]}'},
            r"timestamps of shape \(2,\)",
        ),
    ],
)
def test_damaged_sample_is_named(members: dict[str, bytes], reason: str) -> None:
    """A sample that cannot be read raises a ValueError that names it and the reason."""
    with pytest.raises(ValueError, match=rf"^sample vid_1: .*{reason}"):
        decode_sample("vid_1", members)


def test_npy_is_never_unpickled() -> None:
    """An array of Python objects is refused before its pickle is looked at."""
    with pytest.raises(ValueError, match="Python objects"):
        decode_npy(npy_bytes(np.array([[print]], dtype=object)))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_npy_of_any_float_type_and_order_is_read(dtype: str, order: Any) -> None:
    """Every float type, byte order and memory order gives the array that was saved."""
    array = np.arange(6, dtype=dtype).reshape(2, 3, order=order)
    decoded = decode_npy(npy_bytes(array))
    assert decoded.dtype == array.dtype
    assert np.array_equal(decoded, array)


@given(st.data())
def test_damaged_npy_is_a_value_error(data: st.DataObject) -> None:
    """However a npy is cut or changed, reading it gives an array or a ValueError, nothing else."""
    whole = bytearray(encode_npy(np.ones((2, 4), np.float16)))
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    for _ in range(data.draw(st.integers(0, 3)) if cut else 0):
        cut[data.draw(st.integers(0, len(cut) - 1))] = data.draw(st.integers(0, 255))
    try:
        array = decode_npy(bytes(cut))
    except ValueError:
        return
    assert array.nbytes <= 16


@pytest.mark.parametrize("extra", [-1, 1])
def test_npy_of_another_length_is_refused(extra: int) -> None:
    """One byte less or more than the header says is an error that tells both numbers."""
    whole = encode_npy(np.ones((2, 4), np.float16))
    with pytest.raises(ValueError, match=f"needs 16 bytes, has {16 + extra}"):
        decode_npy((whole + b"\0")[: len(whole) + extra])


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("vid_1.npy", ("vid_1", "npy")),
        ("a.b/c/vid_1.NPY", ("a.b/c/vid_1", "npy")),
        ("vid_1.seg.npy", ("vid_1", "seg.npy")),
        ("a.b/README", ("a.b/README", "")),
    ],
)
def test_member_name_splits_at_first_dot_after_last_slash(
    name: str, parts: tuple[str, str]
) -> None:
    """A key may hold directories with dots; the extension is lower case."""
    assert split_member_name(name) == parts


@pytest.mark.parametrize("word", SPLIT_OF_WORD)
def test_split_words_are_understood_in_any_case(word: str) -> None:
    """Every word for a split gives train, validation or test."""
    assert normalize_split(f" {word.upper()}\n") == SPLIT_OF_WORD[word]


def test_unknown_split_word_is_refused() -> None:
    """A word that names no split raises and tells the words that do."""
    with pytest.raises(ValueError, match="unknown split 'trian'; known words: train, validation"):
        normalize_split("trian")


@pytest.mark.parametrize(
    ("value", "seconds"), [("000003", 3), (3, 3), (3.0, 3), ("", None), (None, None)]
)
def test_times_are_read_in_every_spelling(value: object, seconds: int | None) -> None:
    """Six digits, an int, a float and nothing are the spellings of a time."""
    assert parse_time(value) == seconds


def test_sample_refuses_other_shapes() -> None:
    """Embeddings of one dimension are refused with the key and the shape."""
    sample = make_sample(0)
    with pytest.raises(ValueError, match=r"sample vid_000000000: .* got \(3,\)"):
        replace(sample, embeddings=np.zeros(3, np.float16))
