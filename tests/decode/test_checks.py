"""The first bytes and the name of a file tell whether FFmpeg must not open it; others pass."""

import random
from pathlib import Path

import pytest

from clip_kinetics700_builder.decode.checks import (
    MAX_DURATION_SECONDS,
    MAX_FRAME_PIXELS,
    MAX_FRAMES_PER_CLIP,
    check_file,
    check_length,
    check_size,
)
from clip_kinetics700_builder.types import ClipError

ID3 = b"ID3\x04\x00\x00\x00\x00\x01\x00" + b"x" * 128


@pytest.mark.parametrize(
    "data",
    [
        b"#EXTM3U\n#EXTINF:1,\nother.mp4\n",
        b"#EXTM3U\x01\x00",
        b"ffconcat version 1.0\nfile other.mp4\n\x00\x00",
        b"# VobSub index file, v7\n",
        b'<?xml version="1.0"?><MPD profiles="urn:mpeg:dash"/>',
        b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n",
        ID3 + b"ffconcat version 1.0\n",
        ID3 + ID3 + b"#EXTM3U\n",
        b"short text",
    ],
)
def test_text_is_no_video(tmp_path: Path, data: bytes) -> None:
    """Playlists and other text are refused, also behind the tags that FFmpeg passes over."""
    path = tmp_path / "video.mp4"
    path.write_bytes(data)
    with pytest.raises(ClipError) as caught:
        check_file(str(path))
    assert caught.value.args[:2] == ("decode", "unreadable")


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00",
        b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81",
        b"RIFFabcdAVI LISTabcdhdrlavih",
        b"GIF89a@@@@@@@@@@@@@@",
        b"Gaa?aaaaaaaaaaaaaaaaaaaa",
        b"YUV4MPEG2 W64 H48 F25:1\nFRAME\n",
        b"nut/multimedia container\x00",
        ID3 + b"\xff\xfb\x90\x00" + bytes(16),
    ],
)
def test_containers_pass(tmp_path: Path, data: bytes) -> None:
    """The first bytes of a container pass, however printable they are."""
    path = tmp_path / "video.mp4"
    path.write_bytes(data)
    check_file(str(path))


def test_transport_streams_cut_anywhere_pass(tmp_path: Path) -> None:
    """A packet of a transport stream is no text, whatever its bytes are."""
    rng = random.Random(1)
    path = tmp_path / "cut.ts"
    for _ in range(200):
        path.write_bytes(b"G" + rng.randbytes(187))
        check_file(str(path))


@pytest.mark.parametrize("name", ["a%03d.png", "a*.JPG", "[0-9].webp"])
def test_a_series_of_pictures_is_no_video(tmp_path: Path, name: str) -> None:
    """Names that FFmpeg takes for a pattern of other files are refused."""
    path = tmp_path / name
    path.write_bytes(bytes(64))
    with pytest.raises(ClipError, match="series of pictures"):
        check_file(str(path))


@pytest.mark.parametrize("name", ["100%.mp4", "what?.webm", "a.png"])
def test_other_names_pass(tmp_path: Path, name: str) -> None:
    """A video may be called what it likes, and a picture by a plain name."""
    path = tmp_path / name
    path.write_bytes(bytes(64))
    check_file(str(path))


def test_files_that_are_not_there_or_empty_are_told_apart(tmp_path: Path) -> None:
    """Missing, no file at all, and no bytes are three reasons of the source."""
    (tmp_path / "empty.mp4").touch()
    reasons = {}
    for name in ("empty.mp4", "gone.mp4", "."):
        with pytest.raises(ClipError) as caught:
            check_file(str(tmp_path / name))
        reasons[name] = caught.value.args[:2]
    assert reasons == {
        "empty.mp4": ("source", "empty_file"),
        "gone.mp4": ("source", "missing"),
        ".": ("source", "unreadable"),
    }


def test_absurd_claims_are_refused() -> None:
    """Sizes and lengths at the limit pass, those beyond it do not."""
    side = int(MAX_FRAME_PIXELS**0.5)
    check_size(side, side)
    check_length(MAX_DURATION_SECONDS, MAX_FRAMES_PER_CLIP)
    with pytest.raises(ClipError, match="pixels"):
        check_size(side, side + 1)
    with pytest.raises(ClipError, match="no size"):
        check_size(0, 1)
    for duration, n_frames in ((MAX_DURATION_SECONDS + 1, 1), (1.0, MAX_FRAMES_PER_CLIP + 1)):
        with pytest.raises(ClipError, match="span"):
            check_length(duration, n_frames)
