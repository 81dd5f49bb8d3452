"""Decoding gives the right times and pixels in any codec and container."""

import math
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import clip_kinetics700_builder.decode.video
from clip_kinetics700_builder.decode import torchcodec_frames
from clip_kinetics700_builder.decode.video import DecodeTask, Decoding, decode_frames
from clip_kinetics700_builder.types import Frames, UInt8Array
from tests.support.media.videos import (
    AV1,
    H264,
    HEVC,
    LONG_GOP,
    MPEG2,
    MPEG4,
    OPEN_GOP,
    UNCHANGED,
    VP9,
    CodedVideo,
    cut_coded,
    decode_well,
    draw_codes,
    draw_motion,
    draw_quadrants,
    encode_coded,
    encode_variable_rate,
    encode_video,
    patch_mkv_duration,
    patch_mp4_duration,
    patch_mp4_matrix,
    probe_times,
    read_codes,
    read_raw_frames,
    run_ffmpeg,
)

TEN_BIT = ("-pix_fmt", "yuv420p10le")
FULL_COLOUR = ("-pix_fmt", "yuv444p")

RECIPES: dict[str, Callable[[Path], CodedVideo]] = {
    "h264.mp4": partial(encode_coded, options=H264),
    "film.mp4": partial(encode_coded, options=H264, rate="24000/1001"),
    "sixty.mp4": partial(encode_coded, options=H264, rate="60000/1001", n_frames=200),
    "long_gop.mp4": partial(encode_coded, options=LONG_GOP, n_frames=260),
    "open_gop.mp4": partial(encode_coded, options=OPEN_GOP),
    "variable.mp4": partial(encode_variable_rate, options=H264),
    "variable.mkv": partial(encode_variable_rate, options=LONG_GOP),
    "variable.webm": partial(encode_variable_rate, options=VP9),
    "h264.ts": partial(encode_coded, options=H264),
    "long_gop.ts": partial(encode_coded, options=LONG_GOP, n_frames=110),
    "open_gop.ts": partial(encode_coded, options=OPEN_GOP),
    "mpeg2.ts": partial(encode_coded, options=MPEG2),
    "mpeg4.ts": partial(encode_coded, options=MPEG4),
    "hevc.ts": partial(encode_coded, options=HEVC),
    "mpeg2.mpg": partial(encode_coded, options=MPEG2),
    "mpeg1.mpg": partial(
        encode_coded, options=("-c:v", "mpeg1video", "-g", "12", "-bf", "2", "-q:v", "2")
    ),
    "late.webm": partial(encode_coded, options=(*VP9, "-output_ts_offset", "5")),
    "late.mkv": partial(encode_coded, options=(*H264, "-output_ts_offset", "5")),
    "late.mp4": partial(encode_coded, options=(*H264, "-output_ts_offset", "5")),
    "one_frame.mp4": partial(encode_coded, options=H264, n_frames=1),
    "one_frame.mkv": partial(encode_coded, options=H264, n_frames=1),
    "one_frame.webm": partial(encode_coded, options=VP9, n_frames=1),
    "one_frame.ts": partial(encode_coded, options=H264, n_frames=1),
    "one_frame.flv": partial(encode_coded, options=("-c:v", "flv"), n_frames=1),
    "short.mp4": partial(encode_coded, options=H264, n_frames=10),
    "vp9.webm": partial(encode_coded, options=VP9),
    "av1.mkv": partial(encode_coded, options=AV1),
    "hevc.mp4": partial(encode_coded, options=HEVC),
    "hevc_ten_bit.mp4": partial(encode_coded, options=(*HEVC, *TEN_BIT)),
    "h264_ten_bit.mp4": partial(encode_coded, options=(*H264, *TEN_BIT)),
    "odd.mp4": partial(encode_coded, options=(*H264, *FULL_COLOUR), size=(341, 255)),
    "mpeg4.avi": partial(encode_coded, options=MPEG4),
    "flash.flv": partial(encode_coded, options=("-c:v", "flv", "-g", "12", "-q:v", "2")),
    "theora.ogv": partial(encode_coded, options=("-c:v", "libtheora", "-q:v", "8")),
}


Options = tuple[str, ...]
MakeCoded = Callable[[str], CodedVideo]


@pytest.fixture(scope="module")
def make_coded(video_directory: Path) -> MakeCoded:
    """Return a function that makes a video of RECIPES once."""
    made: dict[str, CodedVideo] = {}

    def make(name: str) -> CodedVideo:
        if name not in made:
            made[name] = RECIPES[name](video_directory / name)
        return made[name]

    return make


@pytest.mark.parametrize("rate", [1.0, 2.5, 25.0])
@pytest.mark.parametrize("name", RECIPES)
def test_frames_are_those_displayed(make_coded: MakeCoded, name: str, rate: float) -> None:
    """Every kept frame is the one on the screen at its time, in any codec and container."""
    video = make_coded(name)
    frames = decode_well(video.path, rate=rate)
    exact_times = [k / rate for k in range(len(frames.pixels))]
    assert frames.timestamps.tolist() == np.asarray(exact_times, np.float32).tolist()
    assert read_codes(frames.pixels) == video.codes_at(exact_times)


@pytest.mark.parametrize("name", ["film.mp4", "variable.mp4", "variable.webm", "h264.ts"])
def test_the_videos_are_what_we_take_them_for(make_coded: MakeCoded, name: str) -> None:
    """An independent witness, the ffprobe program, sees the times the tests expect."""
    video = make_coded(name)
    assert probe_times(video.path) == pytest.approx(video.times, abs=0.0011)


@pytest.mark.parametrize("name", RECIPES)
def test_count_is_the_duration_rounded_up(make_coded: MakeCoded, name: str) -> None:
    """At one frame a second a clip gives a frame for each second, the last part of one included."""
    video = make_coded(name)
    info = decode_well(video.path).info
    # These containers do not say when the last frame ends: the scan's end is one frame early.
    is_vague = name.endswith((".mpg", ".flv")) or name == "variable.mp4"
    tolerance = 0.041 if is_vague else 0.0015
    assert info.duration_seconds == pytest.approx(video.duration_seconds, abs=tolerance)
    assert info.n_frames == math.ceil(video.duration_seconds - 1e-6)


def test_ten_seconds_and_two_frames_give_eleven(plain_video: CodedVideo) -> None:
    """A 10.08 s clip gives 11 frames, and its size, rate and duration."""
    frames = decode_well(plain_video.path)
    assert read_codes(frames.pixels) == [25 * k for k in range(11)]
    assert (frames.row, frames.first, frames.info.n_frames) == (7, 0, 11)
    assert frames.info.duration_seconds == pytest.approx(10.08)
    assert frames.info.frames_per_second == pytest.approx(25)
    assert (frames.info.width, frames.info.height) == (64, 48)


def test_frames_are_compact_bytes(plain_video: CodedVideo) -> None:
    """A worker sends back contiguous uint8, not much larger than its pixels."""
    frames = decode_well(plain_video.path)
    assert frames.pixels.dtype == np.uint8
    assert frames.pixels.shape == (11, 48, 64, 3)
    assert frames.pixels.flags.c_contiguous
    assert len(pickle.dumps(frames)) < frames.pixels.nbytes + 2000


@pytest.mark.parametrize("first", [1, 29, 48, 60])
def test_edit_lists_are_obeyed(plain_video: CodedVideo, tmp_path: Path, first: int) -> None:
    """A clip cut without encoding begins where the edit list says, not at its first packet."""
    cut = cut_coded(plain_video, tmp_path / "cut.mp4", first=first)
    frames = decode_well(cut.path)
    assert read_codes(frames.pixels) == cut.codes_at(frames.timestamps.tolist())
    assert read_codes(frames.pixels)[0] == first


@pytest.mark.parametrize("stated", [0.5, 9.0, 11.0])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_content_counts_not_header(
    plain_video: CodedVideo, tmp_path: Path, suffix: str, stated: float
) -> None:
    """A header that states another duration changes neither the count nor the frames."""
    path = tmp_path / f"stated.{suffix}"
    run_ffmpeg("-i", plain_video.path, "-c", "copy", path)
    {"mp4": patch_mp4_duration, "mkv": patch_mkv_duration}[suffix](path, seconds=stated)
    assert read_codes(decode_well(path).pixels) == [25 * k for k in range(11)]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm"])
def test_longer_sound_adds_no_frames(tmp_path: Path, suffix: str) -> None:
    """A video whose sound goes on for seconds ends with its pictures, and is not truncated."""
    codec = VP9 if suffix == "webm" else H264
    path = tmp_path / f"sound.{suffix}"
    encode_video(path, draw_codes(range(50)), *codec, sound_seconds=5.0)
    assert read_codes(decode_well(path).pixels) == [0, 25]


Turn = Callable[[UInt8Array], UInt8Array]
MATRICES: dict[str, tuple[tuple[int, int, int, int], Turn]] = {
    "as it is": ((1, 0, 0, 1), lambda frame: frame),
    "clockwise": ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),
    "upside down": ((-1, 0, 0, -1), lambda frame: np.rot90(frame, 2)),
    "anticlockwise": ((0, -1, 1, 0), np.rot90),
    "left and right": ((-1, 0, 0, 1), np.fliplr),
    "top and bottom": ((1, 0, 0, -1), np.flipud),
    "transposed": ((0, 1, 1, 0), lambda frame: frame.swapaxes(0, 1)),
    "transposed otherwise": ((0, -1, -1, 0), lambda frame: np.rot90(frame, 2).swapaxes(0, 1)),
}


@pytest.mark.parametrize("decoder", ["pyav", "torchcodec"])
@pytest.mark.parametrize("name", MATRICES)
def test_pictures_are_upright_as_displayed(tmp_path: Path, name: str, decoder: str) -> None:
    """Four coloured quadrants come out turned and mirrored as the file says, no colour swapped."""
    matrix, turn = MATRICES[name]
    drawn = draw_quadrants(30)
    path = encode_video(tmp_path / "turned.mp4", drawn, *H264, "-pix_fmt", "yuv444p")
    patch_mp4_matrix(path, *matrix)
    frames = decode_well(path, decoder=decoder)
    expected = turn(drawn[0])
    assert (frames.info.height, frames.info.width) == expected.shape[:2]
    shown = expected[:: expected.shape[0] // 4][1::2, :: expected.shape[1] // 4][:, 1::2]
    decoded = frames.pixels[0, 12::24, 16::32]
    assert np.abs(shown.astype(int) - decoded).max() < 20


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("mkv", OPEN_GOP),
        ("ts", H264),
        ("avi", MPEG4),
        ("mpg", MPEG2),
        *(
            pytest.param(suffix, options, marks=pytest.mark.slow)
            for suffix, options in [
                ("mp4", H264),
                ("mp4", HEVC),
                ("ts", OPEN_GOP),
                ("ts", LONG_GOP),
                ("ts", HEVC),
                ("ts", MPEG2),
                ("ts", MPEG4),
            ]
        ),
    ],
)
def test_long_videos_join_seamlessly(tmp_path: Path, suffix: str, options: Options) -> None:
    """A clip of more than 64 frames comes in pieces that lack and repeat nothing."""
    video = encode_coded(tmp_path / f"long.{suffix}", options=options, n_frames=2500)
    pieces = [decode_well(video.path, first=first) for first in (0, 64)]
    assert [piece.first for piece in pieces] == [0, 64]
    codes = [code for piece in pieces for code in read_codes(piece.pixels)]
    assert codes == [25 * k for k in range(100)]


@pytest.mark.parametrize(
    "name",
    [
        "long_gop.mp4",
        "h264.ts",
        "late.mkv",
        "vp9.webm",
        "mpeg4.avi",
        "mpeg2.mpg",
        "flash.flv",
        "theora.ogv",
    ],
)
def test_a_worker_that_knows_the_packets_gives_the_same(
    make_coded: MakeCoded, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second piece of a clip is the same whoever decodes it, by a seek or from the start."""
    path = make_coded(name).path
    monkeypatch.setattr(clip_kinetics700_builder.decode.video, "_scans", {})
    decode_well(path, rate=40.0)
    known = decode_well(path, rate=40.0, first=64)
    monkeypatch.setattr(clip_kinetics700_builder.decode.video, "_scans", {})
    unknown = decode_well(path, rate=40.0, first=64)
    assert np.array_equal(known.pixels, unknown.pixels)
    assert known.info == unknown.info


def test_grey_frames_are_not_taken_for_pictures(tmp_path: Path) -> None:
    """MPEG-4 decoders start anywhere: a seek into a long group of frames must not show."""
    options = ("-c:v", "mpeg4", "-g", "600", "-bf", "2", "-q:v", "2")
    video = encode_coded(tmp_path / "long.ts", options=options, n_frames=560, rate="5")
    frames = decode_well(video.path, first=64)
    assert read_codes(frames.pixels) == video.codes_at(frames.timestamps.tolist())


@pytest.mark.parametrize("decoder", ["pyav", "torchcodec"])
@pytest.mark.parametrize(
    "options",
    [
        ("-pix_fmt", "yuv420p", "-colorspace", "bt709", "-color_range", "tv"),
        ("-pix_fmt", "yuv420p", "-colorspace", "bt709", "-color_range", "pc"),
        ("-pix_fmt", "yuv422p", "-colorspace", "smpte170m"),
        ("-pix_fmt", "yuv420p10le", "-colorspace", "bt2020nc"),
        ("-pix_fmt", "gray"),
        ("-pix_fmt", "yuv420p", "-flags", "+ildct+ilme", "-x264opts", "tff=1"),
    ],
    ids=["bt709", "full range", "422", "10 bits", "grey", "interlaced"],
)
def test_colours_are_those_of_the_ffmpeg_program(
    tmp_path: Path, options: Options, decoder: str
) -> None:
    """Pictures are what `ffmpeg -i` shows, however their colours are stored."""
    path = encode_video(tmp_path / "colours.mkv", draw_motion(3), "-c:v", "libx264", *options)
    frames = decode_well(path, rate=25.0, decoder=decoder)
    assert np.array_equal(frames.pixels, read_raw_frames(path))


@pytest.mark.parametrize("decoder", ["pyav", "torchcodec"])
def test_square_pixels_stretch_the_picture(tmp_path: Path, decoder: str) -> None:
    """A picture of pixels twice as wide as high is stored narrow, and stretched when asked."""
    options = (*H264, "-vf", "setsar=2")
    path = encode_video(tmp_path / "wide.mp4", draw_codes(range(30)), *options)
    stored, stretched = (
        decode_frames(
            DecodeTask(
                7, str(path), 0, Decoding(1.0, UNCHANGED, decoder=decoder, squares_pixels=is_asked)
            )
        )
        for is_asked in (False, True)
    )
    assert isinstance(stored, Frames)
    assert isinstance(stretched, Frames)
    assert (stored.info.width, stretched.info.width) == (64, 128)
    assert (stored.info.height, stretched.info.height) == (48, 48)
    assert read_codes(stretched.pixels) == [0, 25]


def test_large_frames_are_decoded_in_slices(
    plain_video: CodedVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cutting the work of torchcodec to bound memory changes no pixel."""
    whole = decode_well(plain_video.path, rate=5.0, decoder="torchcodec")
    monkeypatch.setattr(torchcodec_frames, "MAX_SLICE_BYTES", 3 * 64 * 48 * 7)
    sliced = decode_well(plain_video.path, rate=5.0, decoder="torchcodec")
    assert np.array_equal(sliced.pixels, whole.pixels)


def test_walking_gives_what_picking_gives(
    plain_video: CodedVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding all frames and decoding few give the same ones, to the bit."""
    picked = decode_well(plain_video.path, rate=5.0)
    monkeypatch.setattr(clip_kinetics700_builder.decode.video, "_pick_crops", lambda *_: (None, ()))
    assert np.array_equal(decode_well(plain_video.path, rate=5.0).pixels, picked.pixels)


@pytest.mark.parametrize("name", RECIPES)
def test_both_decoders_give_the_same(make_coded: MakeCoded, name: str) -> None:
    """Torchcodec gives the frames and times that PyAV gives, in any codec and container."""
    path = make_coded(name).path
    first, second = decode_well(path), decode_well(path, decoder="torchcodec")
    assert np.array_equal(first.timestamps, second.timestamps)
    assert first.info == second.info
    assert np.abs(first.pixels.astype(int) - second.pixels).max() <= 1


def test_changing_size_is_followed(tmp_path: Path) -> None:
    """A stream that changes its size on the way gives crops of one size."""
    small = encode_coded(tmp_path / "small.ts", options=(*H264, "-muxdelay", "0"), n_frames=50)
    larger = ("-output_ts_offset", "2", "-muxdelay", "0")
    large = encode_coded(
        tmp_path / "large.ts", options=(*H264, *larger), n_frames=50, size=(128, 96)
    )
    path = tmp_path / "both.ts"
    path.write_bytes(small.path.read_bytes() + large.path.read_bytes())
    assert read_codes(decode_well(path).pixels) == [0, 25, 0, 25]
