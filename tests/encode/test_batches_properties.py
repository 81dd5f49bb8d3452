"""For any clips in any pieces, packing gives every clip its own frames, one shape of batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_kinetics700_builder.encode.tower import ClipVisionEncoder
from clip_kinetics700_builder.types import (
    EncodedClip,
    Encoder,
    Failure,
    Float32Array,
    Frames,
    UInt8Array,
    VideoInfo,
)
from tests.support.datasets.encoders import encode_all, load_test_encoder

BATCH_SIZE = 3
SIDE = 2
WIDTH = 3
FRAME_SEED = 7


class WeighingEncoder:
    """Weighs each frame's bytes by themselves, and keeps the shapes it was called with."""

    width = WIDTH

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.shapes: list[tuple[int, ...]] = []

    def encode(self, pixels: UInt8Array) -> Float32Array:
        """Return three sums of integers, which are exact in whatever batch."""
        self.shapes.append(pixels.shape)
        flat = pixels.reshape(len(pixels), -1).astype(np.int64)
        weights = np.arange(flat.shape[1] * WIDTH).reshape(-1, WIDTH)
        return (flat @ weights / 64).astype(np.float32)


@dataclass(frozen=True)
class DrawnClip:
    """A clip as the decoder gives it: frames of each piece, and after which it fails."""

    pieces: tuple[int, ...]
    fails_after: int | None

    @property
    def n_frames(self) -> int:
        """How many frames the clip would have."""
        return sum(self.pieces)


@st.composite
def drawn_clips(draw: st.DrawFn, max_pieces: int = 4, max_piece: int = 5) -> DrawnClip:
    """Draw a clip, every third or so a failure before its first or after any piece but the last."""
    pieces = draw(st.lists(st.integers(1, max_piece), min_size=1, max_size=max_pieces))
    fails_after = draw(st.none() | st.none() | st.integers(0, len(pieces) - 1))
    return DrawnClip(tuple(pieces), fails_after)


def list_pixels(row: int, n_frames: int, side: int) -> UInt8Array:
    """Return the frames of a clip, noise of its own."""
    rng = np.random.default_rng([FRAME_SEED, row])
    return rng.integers(0, 256, (n_frames, side, side, 3), dtype=np.uint8)


def decode(clips: list[DrawnClip], first_row: int, side: int) -> Iterator[Frames | Failure]:
    """Yield the pieces of clips, and failures where they fail."""
    for row, clip in enumerate(clips, first_row):
        pixels = list_pixels(row, clip.n_frames, side)
        info = VideoInfo(clip.n_frames, float(clip.n_frames), 25.0, side, side)
        first = 0
        for count in clip.pieces[: clip.fails_after]:
            times = np.arange(first, first + count, dtype=np.float32) + row
            yield Frames(row, first, pixels[first : first + count], times, info)
            first += count
        if clip.fails_after is not None:
            yield Failure(row, "decode", "decode_error", f"after {first} frames")


def encode_alone(pixels: UInt8Array, encoder: Encoder) -> bytes:
    """Return the float16 bits of frames that are encoded one by one, each beside black ones."""
    rows = []
    for frame in pixels:
        batch = np.zeros((encoder.batch_size, *frame.shape), np.uint8)
        batch[0] = frame
        rows.append(encoder.encode(batch)[0])
    return np.asarray(rows).astype(np.float16).tobytes()


def check_results(clips: list[DrawnClip], first_row: int, encoder: Encoder, side: int) -> None:
    """Encode clips, and hold each result against its frames encoded alone."""
    results = list(encode_all(decode(clips, first_row, side), encoder))
    assert [result.row for result in results] == [*range(first_row, first_row + len(clips))]
    for clip, result in zip(clips, results, strict=True):
        if clip.fails_after is not None:
            n_before = sum(clip.pieces[: clip.fails_after])
            failure = Failure(result.row, "decode", "decode_error", f"after {n_before} frames")
            assert result == failure
            continue
        assert isinstance(result, EncodedClip)
        assert result.embeddings.shape == (clip.n_frames, encoder.width)
        pixels = list_pixels(result.row, clip.n_frames, side)
        assert result.embeddings.tobytes() == encode_alone(pixels, encoder)
        assert result.timestamps is not None
        assert result.timestamps.tolist() == [k + result.row for k in range(clip.n_frames)]


@given(st.lists(drawn_clips(), max_size=7), st.integers(1, 9), st.integers(0, 1000))
def test_every_clip_gets_its_own_frames(
    clips: list[DrawnClip], batch_size: int, first_row: int
) -> None:
    """Every clip gives one result, in order, with the rows of its frames encoded one by one."""
    check_results(clips, first_row, WeighingEncoder(batch_size), SIDE)


@given(st.lists(drawn_clips(), max_size=7), st.integers(1, 9))
def test_every_batch_has_one_shape_and_is_full_but_the_last(
    clips: list[DrawnClip], batch_size: int
) -> None:
    """No call has another shape, and there are no more calls than the frames need."""
    encoder = WeighingEncoder(batch_size)
    list(encode_all(decode(clips, 0, SIDE), encoder))
    n_frames = sum(sum(clip.pieces[: clip.fails_after]) for clip in clips)
    assert encoder.shapes == [(batch_size, SIDE, SIDE, 3)] * -(-n_frames // batch_size)


@given(st.lists(drawn_clips(), min_size=1, max_size=7), st.integers(1, 9))
def test_clips_do_not_wait_for_more_than_what_is_on_its_way(
    clips: list[DrawnClip], batch_size: int
) -> None:
    """Never more than three batches beyond the first clip are taken and not given back."""
    n_taken = n_given = 0

    def count(items: Iterator[Frames | Failure]) -> Iterator[Frames | Failure]:
        nonlocal n_taken
        for item in items:
            n_taken += len(item.pixels) if isinstance(item, Frames) else 0
            yield item

    for result in encode_all(count(decode(clips, 0, SIDE)), WeighingEncoder(batch_size)):
        n_waiting = n_taken - n_given
        clip = clips[result.row]
        longest_piece = max(max(other.pieces) for other in clips)
        assert n_waiting < clip.n_frames + 3 * batch_size + longest_piece
        n_given += sum(clip.pieces[: clip.fails_after])


@pytest.fixture(scope="module")
def clip_encoder(random_model: Path) -> ClipVisionEncoder:
    """A small CLIP in float32."""
    return load_test_encoder(random_model, batch_size=BATCH_SIZE)


@settings(max_examples=6)
@given(clips=st.lists(drawn_clips(max_pieces=2, max_piece=2), min_size=2, max_size=4))
def test_a_real_model_gives_every_clip_its_own_frames(
    clip_encoder: ClipVisionEncoder, clips: list[DrawnClip]
) -> None:
    """A CLIP in float32 gives a frame the same bits, whatever batch it came in."""
    check_results(clips, 0, clip_encoder, side=224)
