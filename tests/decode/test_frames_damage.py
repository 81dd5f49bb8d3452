"""A clip with a damaged frame fails; damage that no kept frame shows costs nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from clip_kinetics700_builder.decode.video import DecodeTask, Decoding, decode_frames
from clip_kinetics700_builder.types import Failure, Frames
from tests.support.media.videos import UNCHANGED, draw_motion, encode_video

ONE_GROUP = {
    "h264.mp4": ("-c:v", "libx264", "-g", "999"),
    "hevc.mp4": ("-c:v", "libx265", "-x265-params", "log-level=none:keyint=999"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-g", "999", "-deadline", "realtime", "-cpu-used", "8"),
    "av1.mp4": ("-c:v", "libaom-av1", "-g", "999", "-usage", "realtime", "-cpu-used", "8"),
    "mpeg4.mp4": ("-c:v", "mpeg4", "-g", "600", "-bf", "2"),
}
AS_IT_IS = replace(UNCHANGED, size=(120, 160))
SOUND_LEVELS = 2.0


@pytest.fixture(scope="module")
def sound_videos(video_directory: Path) -> dict[str, Path]:
    """Videos of 60 frames that are hard to predict, with one key frame each, by codec."""
    frames = draw_motion(60, width=160, height=120)
    return {
        name: encode_video(video_directory / f"sound_{name}", frames, *options, rate="15")
        for name, options in ONE_GROUP.items()
    }


def decode(path: Path) -> Frames | Failure:
    """Decode one frame a second."""
    return decode_frames(DecodeTask(7, str(path), 0, Decoding(1.0, AS_IT_IS)))


def list_packets(path: Path) -> list[tuple[int, int]]:
    """Return the place and the size of the packets of a file's pictures."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [(packet.pos or 0, packet.size) for packet in container.demux(stream) if packet.size]


def overwrite(path: Path, place: int, data: bytes) -> None:
    """Write bytes into the middle of a file."""
    with path.open("r+b") as file:
        file.seek(place)
        file.write(data)


Damage = Callable[[bytearray, np.random.Generator, int, int], None]


def make_hole(n_bytes: int) -> Damage:
    """Return what puts zeros where a disk or a download lost a block."""

    def damage(data: bytearray, random: np.random.Generator, begin: int, end: int) -> None:
        place = int(random.integers(begin, end))
        stop = min(place + n_bytes, end)
        data[place:stop] = bytes(stop - place)

    return damage


def scatter(data: bytearray, random: np.random.Generator, begin: int, end: int) -> None:
    """Put sixteen other bytes here and there."""
    for place in random.integers(begin, end, 16):
        data[place] ^= int(random.integers(1, 256))


TELLING = ("h264.mp4", "av1.mp4", "mpeg4.mp4")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((name, make_hole(n_bytes)) for name in ONE_GROUP for n_bytes in (4096, 65536)),
        *((name, scatter) for name in TELLING),
    ],
)
def test_no_damage_makes_a_wrong_sample(
    sound_videos: dict[str, Path], tmp_path: Path, name: str, damage: Damage
) -> None:
    """Holes never end as wrong frames, in any codec, nor scattered bytes where a codec can tell."""
    content, sound = sound_videos[name].read_bytes(), decode(sound_videos[name])
    assert isinstance(sound, Frames)
    packets = list_packets(sound_videos[name])
    path = tmp_path / name
    for seed in range(6):
        data = bytearray(content)
        damage(data, np.random.default_rng(seed), packets[0][0] + 64, sum(packets[-1]))
        path.write_bytes(data)
        found = decode(path)
        if isinstance(found, Failure):
            assert found.reason in ("decode_error", "truncated")
        else:
            levels = np.abs(found.pixels.astype(int) - sound.pixels).mean(axis=(1, 2, 3))
            assert levels.max() <= SOUND_LEVELS, f"seed {seed}"


def test_the_damaged_frame_is_named(sound_videos: dict[str, Path], tmp_path: Path) -> None:
    """The failure says when the first kept frame is displayed that shows the damage."""
    path = tmp_path / "hole.mp4"
    path.write_bytes(sound_videos["mpeg4.mp4"].read_bytes())
    place, size = list_packets(path)[20]
    assert size > 600
    overwrite(path, place + 20, bytes(size - 20))
    assert decode(path) == Failure(7, "decode", "decode_error", "the frame at 2.00 s is damaged")


def test_damaged_frames_can_be_kept(sound_videos: dict[str, Path], tmp_path: Path) -> None:
    """Where damage is allowed, all frames come, and those that show it are named."""
    path = tmp_path / "hole.mp4"
    path.write_bytes(sound_videos["mpeg4.mp4"].read_bytes())
    place, size = list_packets(path)[20]
    overwrite(path, place + 20, bytes(size - 20))
    keeping = Decoding(1.0, AS_IT_IS, keeps_damaged=True)
    found, sound = (
        decode_frames(DecodeTask(7, str(file), 0, keeping))
        for file in (path, sound_videos["mpeg4.mp4"])
    )
    assert isinstance(found, Frames)
    assert isinstance(sound, Frames)
    assert (found.damaged, sound.damaged) == ((2, 3), ())
    assert np.array_equal(found.pixels[:2], sound.pixels[:2])


def test_damage_that_no_kept_frame_shows_costs_nothing(
    sound_videos: dict[str, Path], tmp_path: Path
) -> None:
    """A frame behind the last kept one may be damaged: the clip's frames are those of before."""
    path = tmp_path / "tail.mp4"
    path.write_bytes(sound_videos["mpeg4.mp4"].read_bytes())
    sound, [*_, (place, size)] = decode(path), list_packets(path)
    overwrite(path, place, b"\xff" * size)
    found = decode(path)
    assert isinstance(sound, Frames)
    assert isinstance(found, Frames)
    assert np.array_equal(found.pixels, sound.pixels)


def test_an_encrypted_video_says_so(tmp_path: Path) -> None:
    """Common Encryption leaves grey noise to who decodes it all the same."""
    key = (
        "-encryption_scheme",
        "cenc-aes-ctr",
        "-encryption_key",
        "76a6c65c5ea762046bd749a2e632ccbb",
    )
    options = (*key, "-encryption_kid", "a7e61c373e219033c21091fa607bf3b8")
    path = encode_video(tmp_path / "secret.mp4", draw_motion(5), "-c:v", "libx264", *options)
    assert decode(path) == Failure(7, "decode", "encrypted", "the video stream is encrypted")


def test_a_stream_without_its_first_key_is_never_grey(tmp_path: Path) -> None:
    """A recording that begins between two keys shows its first sound frame until the next."""
    frames = draw_motion(40, width=160, height=120)
    whole = encode_video(
        tmp_path / "whole.ts", frames, "-c:v", "mpeg4", "-g", "20", "-q:v", "2", rate="10"
    )
    places = [place for place, _ in list_packets(whole)]
    path = tmp_path / "cut.ts"
    path.write_bytes(whole.read_bytes()[places[5] // 188 * 188 :])
    found = decode(path)
    assert isinstance(found, Frames)
    levels = np.abs(found.pixels[0].astype(int) - frames).mean(axis=(1, 2, 3))
    assert (int(levels.argmin()), found.info.n_frames) == (20, 4)
    assert levels.min() < 12
