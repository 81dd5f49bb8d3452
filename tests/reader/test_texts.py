"""Zero-shot scores are what their protocols say, and published texts are what was written."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import clip_kinetics700
from clip_kinetics700.schema import CLASS_TEXTS_NAME, PROTOCOLS, Protocol
from clip_kinetics700.texts import ClassTexts, decode_class_texts, encode_class_texts, score_clips
from tests.support.processes.checkout import SOURCE_PATHS

Array = npt.NDArray[Any]


def make_texts(embeddings: npt.ArrayLike) -> ClassTexts:
    """Return texts of classes `a`, `b`, ... with these rows."""
    rows = np.asarray(embeddings, np.float32)
    names = tuple(chr(ord("a") + number) for number in range(len(rows)))
    return ClassTexts(names, rows, ("a photo of {}.",), "clip", "0" * 64, "same weights")


def refer(clip: npt.NDArray[np.float16], texts: ClassTexts, protocol: str) -> Any:
    """Return the probabilities of one clip in float64, written from the protocol alone."""

    def unit(rows: Array) -> Any:
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    def softmax(logits: Array) -> Any:
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)

    weights = texts.embeddings.astype(np.float64).T
    frames = unit(clip.astype(np.float64))
    if protocol == "card":
        return softmax(100 * frames @ weights).mean(axis=0)
    if protocol == "mean-embedding":
        return softmax(100 * unit(frames.mean(axis=0)) @ weights)
    return softmax(100 * frames[len(frames) // 2] @ weights)


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        # Frames point at a, a and b; the logits of (a, b) are (100, 0), (100, 0) and (0, 100).
        ("card", (2 / 3, 1 / 3)),
        # Their mean is (2, 1) / sqrt(5): the logits are 44.7 apart.
        ("mean-embedding", (1.0, 0.0)),
        # The frame 3 // 2 is the second one.
        ("center-frame", (1.0, 0.0)),
    ],
)
def test_scores_by_hand(protocol: Protocol, expected: tuple[float, float]) -> None:
    """Three frames of any length, two for one class, give what a pencil gives."""
    frames = np.array([[5, 0], [0.25, 0], [0, 3]], np.float16)
    scores = clip_kinetics700.zero_shot(frames, make_texts(np.eye(2)), protocol=protocol)
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scores_are_those_of_an_independent_reference(protocol: Protocol) -> None:
    """Batches of clips of 0 to 6 frames have the reference's probabilities to 1e-6."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((30, 16))
    texts = make_texts(weights / np.linalg.norm(weights, axis=1, keepdims=True))
    sizes = rng.integers(0, 7, 50)
    clips = [(5 * rng.standard_normal((size, 16))).astype(np.float16) for size in sizes]
    scores = score_clips(np.concatenate(clips), sizes, texts, protocol=protocol)
    assert scores.dtype == np.float32
    for clip, row in zip(clips, scores, strict=True):
        expected = refer(clip, texts, protocol) if len(clip) else np.zeros(30)
        np.testing.assert_allclose(row, expected, atol=1e-6)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_clip_without_usable_frames_has_scores_of_zero(protocol: Protocol) -> None:
    """No frames, NaN or infinity give zeros and no warning; neighbours are not touched."""
    frames = np.array([[np.nan, 1], [np.inf, 1], [2, 0]], np.float16)
    scores = score_clips(frames, np.array([1, 0, 1, 1]), make_texts(np.eye(2)), protocol=protocol)
    np.testing.assert_array_equal(scores[:3], 0)
    np.testing.assert_allclose(scores[3], [1, 0], atol=1e-6)


def test_a_frame_of_zeros_says_nothing() -> None:
    """A frame without a direction gives every class the same probability."""
    scores = clip_kinetics700.zero_shot(np.zeros((1, 2), np.float16), make_texts(np.eye(2)))
    np.testing.assert_allclose(scores, [0.5, 0.5])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_type_of_frames_is_scored_in_float32(dtype: str) -> None:
    """What is stored in another float type gives the same scores."""
    frames = np.array([[3, 4], [1, 0]], dtype)
    scores = clip_kinetics700.zero_shot(frames, make_texts(np.eye(2)))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, [0.5, 0.5], atol=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    """Frames of another width and unknown protocols are named."""
    texts = make_texts(np.eye(2))
    with pytest.raises(ValueError, match=r"frames of shape \(1, 3\) for texts of 2 columns"):
        clip_kinetics700.zero_shot(np.ones((1, 3), np.float16), texts)
    with pytest.raises(ValueError, match="unknown protocol 'best'; known: card"):
        clip_kinetics700.zero_shot(np.ones((1, 2)), texts, protocol="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 class names, but text embeddings of"):
        ClassTexts(("a", "b"), np.ones((3, 2), np.float32), (), "m", "0", "f")


def test_published_texts_come_back_and_their_bytes_tell_no_time(tmp_path: Path) -> None:
    """The file holds names, prompts and model beside the rows, and no date."""
    texts = make_texts(np.eye(3))
    data = encode_class_texts(texts)
    assert encode_class_texts(texts) == data
    with zipfile.ZipFile(io.BytesIO(data)) as members:
        assert {member.date_time for member in members.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    (tmp_path / CLASS_TEXTS_NAME).write_bytes(data)
    found = clip_kinetics700.class_texts(tmp_path)
    np.testing.assert_array_equal(found.embeddings, texts.embeddings)
    for name in ("names", "prompts", "model", "model_sha256", "family"):
        assert getattr(found, name) == getattr(texts, name)


def test_a_dataset_without_texts_says_so(tmp_path: Path) -> None:
    """Where no texts are published the error names the file and the place."""
    with pytest.raises(FileNotFoundError, match=rf"no {CLASS_TEXTS_NAME} in .*{tmp_path.name}"):
        clip_kinetics700.class_texts(tmp_path)


def npy(array: npt.ArrayLike) -> bytes:
    """Return an array as a `.npy` file, which numpy also loads."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 cut off", b"text", npy([1.0])])
def test_other_bytes_are_no_texts(data: bytes, tmp_path: Path) -> None:
    """Files that are cut off or hold something else are refused by name."""
    (tmp_path / CLASS_TEXTS_NAME).write_bytes(data)
    with pytest.raises(ValueError, match=CLASS_TEXTS_NAME):
        clip_kinetics700.class_texts(tmp_path)


def test_texts_that_are_not_finite_are_refused() -> None:
    """A file of NaN would make every score NaN."""
    data = encode_class_texts(make_texts([[np.nan, 1]]))
    with pytest.raises(ValueError, match="not finite"):
        decode_class_texts(data)


def test_scoring_loads_no_heavy_library() -> None:
    """Published texts and `zero_shot` need neither torch nor transformers nor scikit-learn."""
    program = (
        "import sys, clip_kinetics700; clip_kinetics700.zero_shot, clip_kinetics700.class_texts\n"
        "print([m for m in ('torch', 'transformers', 'sklearn', 'scipy') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": SOURCE_PATHS},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "[]", result.stderr


def pack(**members: bytes) -> bytes:
    """Return a zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def save(array: np.ndarray[Any, Any]) -> bytes:
    """Return the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK",
        save(np.zeros(3)),
        pack(embeddings=b"no array", class_names=b"", prompts=b""),
        pack(class_names=save(np.array(7)), prompts=save(np.array(7)), embeddings=save(np.eye(2))),
        pack(embeddings=b"\x93NUMPY\x01\x00\x10\x00{'descr': (((((((\n"),
        pack(embeddings=bytes(300 << 20)),
    ],
    ids=["empty", "cut off", "npy", "no arrays", "numbers", "broken header", "bomb"],
)
def test_hostile_texts_are_one_kind_of_error(data: bytes) -> None:
    """Whatever lies under the name, a reader sees a ValueError that says so."""
    with pytest.raises(ValueError, match="no file of class texts"):
        decode_class_texts(data)
