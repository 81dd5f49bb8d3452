"""A file that ends before its end is truncated, in every container that says where that is."""

from pathlib import Path

import pytest

from clip_kinetics700_builder.types import Failure, Frames
from tests.support.media.videos import (
    H264,
    MPEG2,
    MPEG4,
    VP9,
    decode,
    decode_well,
    draw_codes,
    encode_coded,
    encode_video,
    patch_bytes,
    read_codes,
    truncate_file,
)

Options = tuple[str, ...]
FRAGMENTS: Options = (*H264, "-movflags", "frag_keyframe+empty_moov")
# Ogg, NUT, MPEG-TS and MPEG-PS do not say where they end.
CUT: dict[str, Options] = {
    "fast.mp4": (*H264, "-movflags", "faststart"),
    "fragments.mp4": FRAGMENTS,
    "fast.mov": (*H264, "-movflags", "faststart"),
    "fast.3gp": ("-c:v", "mpeg4", "-movflags", "faststart"),
    "h264.mkv": H264,
    "mpeg4.mkv": MPEG4,
    "vp9.webm": VP9,
    "mpeg4.avi": MPEG4,
    "mjpeg.avi": ("-c:v", "mjpeg", "-q:v", "2"),
    "wmv2.wmv": ("-c:v", "wmv2", "-q:v", "2"),
    "msmpeg4.asf": ("-c:v", "msmpeg4", "-q:v", "2"),
    "flv1.flv": ("-c:v", "flv", "-q:v", "2"),
    "h264.flv": H264,
    "mpeg2.mxf": (*MPEG2, "-pix_fmt", "yuv422p"),
}


@pytest.mark.parametrize(
    "share",
    [pytest.param(0.4, marks=pytest.mark.slow), 0.6, pytest.param(0.8, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("name", CUT)
def test_a_cut_file_is_no_sample(tmp_path: Path, name: str, share: float) -> None:
    """The first part of a file is not taken for all of it."""
    path = tmp_path / name
    encode_coded(path, options=CUT[name], n_frames=150, size=(96, 64))
    assert isinstance(decode(path), Frames)
    truncate_file(path, share=share)
    failure = decode(path)
    assert isinstance(failure, Failure), failure
    assert failure.reason in ("truncated", "unreadable")


def test_fragments_that_are_missing_at_their_border_are_noticed(tmp_path: Path) -> None:
    """A fragment of which nothing came but its head is missed, although no frame is cut."""
    path = tmp_path / "fragments.mp4"
    encode_coded(path, options=FRAGMENTS, n_frames=100)
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"mdat") + 4])
    failure = decode(path)
    assert isinstance(failure, Failure), failure
    assert failure.reason == "truncated"


def test_a_duration_that_is_not_known_states_nothing(tmp_path: Path) -> None:
    """All ones stand for an unknown duration (ISO 14496-12, 8.4.2)."""
    path = tmp_path / "unknown.mp4"
    video = encode_coded(path, options=FRAGMENTS, n_frames=100)
    patch_bytes(path, b"mdhd", offset=16, data=b"\xff" * 4)
    assert read_codes(decode_well(path).pixels) == video.codes_at([0, 1, 2, 3])


def test_frames_without_times_are_told(tmp_path: Path) -> None:
    """Where every frame lasts no time, which is displayed when cannot be known."""
    path = encode_coded(tmp_path / "zero.mp4", options=H264).path
    patch_bytes(path, b"stts", offset=12, data=bytes(4))
    assert decode(path) == Failure(
        7, "decode", "decode_error", "all frames of the video have the same time"
    )


def test_a_codec_without_decoder_is_told(tmp_path: Path) -> None:
    """A codec that FFmpeg does not know is not taken for a file without video."""
    path = encode_coded(tmp_path / "unknown.mp4", options=H264).path
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz1"))
    failure = decode(path)
    assert isinstance(failure, Failure)
    assert failure.reason == "decode_error"
    assert "no decoder" in failure.message


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("raw.h264", H264),
        ("raw.hevc", ("-c:v", "libx265", "-x265-params", "log-level=none:keyint=24:bframes=3")),
        ("raw.m2v", MPEG2),
        ("raw.m4v", MPEG4),
    ],
)
def test_raw_streams_have_the_rate_of_their_header(
    tmp_path: Path, name: str, options: Options
) -> None:
    """A stream without a container, as a Raspberry Pi's camera writes, decodes to its frames."""
    video = encode_coded(tmp_path / name, options=options)
    assert read_codes(decode_well(video.path).pixels) == video.codes_at([0, 1, 2, 3])


@pytest.mark.parametrize("options", [H264, MPEG4], ids=["h264", "mpeg4"])
def test_frames_of_an_avi_are_those_displayed(tmp_path: Path, options: Options) -> None:
    """AVI knows no times of display; its frames come in their order all the same."""
    video = encode_coded(tmp_path / "b_frames.avi", options=options)
    frames = decode_well(video.path, rate=5.0)
    assert read_codes(frames.pixels) == video.codes_at(frames.timestamps.tolist())


def test_a_dvd_decodes(tmp_path: Path) -> None:
    """The navigation packs of a DVD are no obstacle."""
    path = tmp_path / "dvd.vob"
    frames = draw_codes(range(50), width=352, height=288)
    encode_video(path, frames, "-target", "pal-dvd", "-s", "352x288")
    assert read_codes(decode_well(path).pixels) == [0, 25]
