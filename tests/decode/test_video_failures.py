"""Every file that gives no frames fails for a typed reason; a missing FFmpeg is one line."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import clip_kinetics700_builder.decode.checks
from clip_kinetics700.schema import REASONS
from clip_kinetics700_builder.decode.demux import VideoFile
from clip_kinetics700_builder.decode.video import (
    DecodeTask,
    Decoding,
    check_decoder,
    decode_frames,
    list_versions,
)
from clip_kinetics700_builder.types import Failure
from tests.support.media.videos import (
    H264,
    LIKE_CLIP,
    LONG_GOP,
    CodedVideo,
    decode,
    draw_codes,
    encode_coded,
    encode_video,
    patch_mkv_duration,
    run_ffmpeg,
    truncate_file,
)
from tests.support.processes.checkout import SOURCE_PATHS

# The first major version that torchcodec loads of each library, which is FFmpeg 4's.
FFMPEG_LIBRARIES = {
    "libavutil": 56,
    "libavcodec": 58,
    "libavformat": 58,
    "libavdevice": 58,
    "libavfilter": 7,
    "libswscale": 5,
    "libswresample": 3,
}


def make_missing(path: Path) -> None:
    """Make another file only: an empty directory would be a disk that is not mounted."""
    path.with_name("other.mp4").touch()


def make_empty(path: Path) -> None:
    """Make a file without bytes, as broken downloads leave it."""
    path.touch()


def make_text(path: Path) -> None:
    """Make an error page under a video's name."""
    path.write_text("<html>This video is not available</html>" * 50)


def make_indexless(path: Path) -> None:
    """Make an mp4 that ends before its index, which lies at the end."""
    encode_coded(path, options=H264)
    truncate_file(path, share=0.6)


def make_sound(path: Path) -> None:
    """Make a file of sound alone."""
    run_ffmpeg("-f", "lavfi", "-i", "sine=duration=2", path)


def make_cover(path: Path) -> None:
    """Make a song with the picture of its album."""
    cover = ("-c:v", "mjpeg", "-disposition:v", "attached_pic")
    encode_video(path, draw_codes([5]), *cover, sound_seconds=3.0)


def make_header_only(path: Path) -> None:
    """Make a fragmented mp4 that ends before its first fragment."""
    encode_coded(path, options=(*H264, "-movflags", "empty_moov+frag_keyframe"))
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"moof") - 4])


def make_truncated_mp4(path: Path) -> None:
    """Make half an mp4 whose index lies at its start."""
    encode_coded(path, options=(*H264, "-movflags", "+faststart"))
    truncate_file(path, share=0.6)


def make_truncated_mkv(path: Path) -> None:
    """Make half a Matroska file, with sound."""
    encode_video(path, draw_codes(range(80)), *H264, sound_seconds=3.0)
    truncate_file(path, share=0.5)


def make_short_mkv(path: Path) -> None:
    """Make a file that states a longer duration than it has."""
    encode_coded(path, options=H264)
    patch_mkv_duration(path, seconds=4.3)


def make_damaged(path: Path) -> None:
    """Make an mp4 with rubbish in the middle of its pictures."""
    encode_coded(path, options=LONG_GOP, n_frames=400)
    content = path.read_bytes()
    begin = content.index(b"mdat") + (len(content) - content.index(b"mdat")) // 3
    path.write_bytes(content[:begin] + b"\xff" * 3000 + content[begin + 3000 :])


BROKEN = [
    (make_missing, "missing", "source"),
    (make_empty, "empty_file", "source"),
    (make_text, "unreadable", "decode"),
    (make_indexless, "unreadable", "decode"),
    (make_sound, "no_video_stream", "decode"),
    (make_cover, "no_video_stream", "decode"),
    (make_header_only, "no_frames", "decode"),
    (make_truncated_mp4, "truncated", "decode"),
    (make_truncated_mkv, "truncated", "decode"),
    (make_short_mkv, "truncated", "decode"),
    (make_damaged, "decode_error", "decode"),
]


@pytest.mark.parametrize(
    ("make", "reason", "stage"), BROKEN, ids=[row[0].__name__ for row in BROKEN]
)
def test_broken_files_give_their_reason(
    tmp_path: Path, make: Callable[[Path], None], reason: str, stage: str
) -> None:
    """Each kind of unusable file becomes a failure with its reason, in one line of ours."""
    path = tmp_path / ("clip.mkv" if make.__name__.endswith("mkv") else "clip.mp4")
    make(path)
    failure = decode(path)
    assert isinstance(failure, Failure), failure
    assert (failure.row, failure.reason, failure.stage) == (7, reason, stage)
    assert failure.reason in REASONS
    assert len(failure.message.splitlines()) == 1
    assert not any(word in failure.message for word in (str(tmp_path), "torchcodec", ".cpp"))


def test_a_directory_is_unreadable(tmp_path: Path) -> None:
    """A directory under a clip's name fails that clip alone."""
    failure = decode(tmp_path)
    assert isinstance(failure, Failure)
    assert (failure.reason, failure.stage) == ("unreadable", "source")


def test_a_damaged_clock_ends_no_build(
    plain_video: CodedVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clip that claims more frames than any video has is a failure, not a flood."""
    monkeypatch.setattr(clip_kinetics700_builder.decode.checks, "MAX_FRAMES_PER_CLIP", 10)
    failure = decode(plain_video.path)
    assert isinstance(failure, Failure)
    assert failure == Failure(7, "decode", "decode_error", "the frames' times span 10 s")


def test_a_needle_of_a_video_is_refused(tmp_path: Path) -> None:
    """Frames that would grow beyond memory, their shorter edge enlarged, are not resized."""
    frames = np.zeros((2, 2, 8000, 3), np.uint8)
    path = encode_video(tmp_path / "needle.mkv", frames, "-c:v", "ffv1")
    failure = decode_frames(DecodeTask(0, str(path), 0, Decoding(1.0, LIKE_CLIP)))
    assert isinstance(failure, Failure)
    assert failure.reason == "out_of_memory"


@pytest.mark.parametrize("decoder", ["pyav", "torchcodec"])
def test_decoders_are_found_here(decoder: str) -> None:
    """Where the libraries load, the check is silent and FFmpeg's version has a number."""
    check_decoder(decoder)
    assert list_versions(decoder)["ffmpeg"][:1].isalnum()


@pytest.mark.skipif(sys.platform != "linux", reason="LD_LIBRARY_PATH is Linux's")
def test_missing_ffmpeg_is_one_clear_line(tmp_path: Path) -> None:
    """Where FFmpeg's libraries do not load, importing works and the check says what to do."""
    for name, first in FFMPEG_LIBRARIES.items():
        for major in range(first, first + 6):
            (tmp_path / f"{name}.so.{major}").write_text("no library")
    code = (
        "import clip_kinetics700_builder.decode.video as decode\n"
        "from clip_kinetics700_builder.types import InputError\n"
        "try:\n    decode.check_decoder('torchcodec')\n"
        "except InputError as error:\n    print(error)\n"
    )
    paths = {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": SOURCE_PATHS}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | paths,
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(result.stdout.splitlines()) == 1
    assert "`apt-get install ffmpeg` or `brew install ffmpeg`" in result.stdout


def test_a_file_that_points_behind_every_end_is_damaged(tmp_path: Path) -> None:
    """FFmpeg seeks where it is sent; that no such place is there is no error of the disk."""
    path = tmp_path / "file"
    path.write_bytes(b"four")
    with VideoFile(path) as file:
        assert file.seek(-1) == -1
        assert file.seek(2) == 2
