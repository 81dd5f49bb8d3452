"""Segments are cut out of videos on a real server, and what goes wrong there has a typed reason."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_kinetics700_builder.decode.torchcodec_frames import import_torchcodec
from clip_kinetics700_builder.download import youtube as youtube_module
from clip_kinetics700_builder.download.youtube import (
    BotWallError,
    Youtube,
    choose_format,
    open_downloader,
)
from clip_kinetics700_builder.sources.ledger import FetchError
from clip_kinetics700_builder.types import Clip, InputError
from tests.support.hub.faults import Action, Fault, Faults
from tests.support.hub.servers import Served, serve
from tests.support.processes.checkout import SOURCE_PATHS

IDS = ("aaaaaaaaaaa", "-_aaaaaaaa-", "--aaaaaaaaa", "_aaaa_aaaaa")


# What is run, and killed, in a process of its own.
FETCH = """
import sys
from pathlib import Path
from clip_kinetics700_builder.types import Clip
from clip_kinetics700_builder.download.youtube import Youtube
youtube = Youtube(address=sys.argv[1], seconds_between=0.0)
youtube.fetch(Clip("train", sys.argv[2], 5, 9, "yoga", "yoga"), Path(sys.argv[3]))
"""


class MediaFaults(Faults):
    """Goes wrong only when ffmpeg reads, which asks for ranges; yt-dlp's look is answered."""

    def take(self, path: str, range_asked: str) -> Fault | None:
        """Return what is to go wrong with a request."""
        return super().take(path, range_asked) if range_asked else None


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty seconds that show their second in the brightness of the picture."""
    directory = tmp_path_factory.mktemp("videos")
    source = "color=size=64x48:rate=10:duration=20,geq=lum=10*floor(T)+20:cb=128:cr=128"
    command = ["ffmpeg", "-v", "error", "-nostdin", "-f", "lavfi", "-i", source]
    first = directory / f"{IDS[0]}.mp4"
    command += ["-c:v", "libx264", "-g", "200", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
    subprocess.run([*command, str(first)], check=True)
    for video_id in IDS[1:]:
        (directory / f"{video_id}.mp4").write_bytes(first.read_bytes())
    return directory


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another try comes at once."""
    monkeypatch.setattr(youtube_module, "YOUTUBE_PAUSES_SECONDS", (0.0, 0.0))


def open_youtube(served: Served, **options: Any) -> Youtube:
    """Return the source with a server of the test's own in YouTube's place."""
    defaults: dict[str, Any] = {"seconds_between": 0.0, "timeout_seconds": 5.0}
    address = served.url + "/{id}.mp4"
    return Youtube(address=address, **{**defaults, **options})


def make_clip(video_id: str = IDS[0], start: int = 5, end: int = 9) -> Clip:
    """Return a clip of a video."""
    return Clip("train", video_id, start, end, "yoga", "yoga")


@pytest.mark.parametrize("video_id", IDS)
def test_only_the_segment_comes(video_id: str, videos: Path, tmp_path: Path) -> None:
    """Four of twenty seconds come, the right ones, whatever the id begins with."""
    with serve(videos) as served:
        open_youtube(served).fetch(make_clip(video_id), tmp_path / "clip.mp4")
    decoder = import_torchcodec().decoders.VideoDecoder(tmp_path / "clip.mp4")
    assert decoder.metadata.duration_seconds == pytest.approx(4.0, abs=0.2)
    levels = [float(decoder.get_frame_played_at(t).data.float().mean()) for t in (0.5, 1.5, 2.5)]
    assert np.diff(levels) == pytest.approx([11.6, 11.6], abs=3)
    assert levels[0] == pytest.approx((70 - 16) * 255 / 219, abs=6)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize(("status", "reason"), [(404, "http_404"), (403, "http_403")])
def test_a_refused_video_leaves_nothing(
    status: int, reason: str, videos: Path, tmp_path: Path
) -> None:
    """The status of the server is the reason; no file is there, no connection left open."""
    with serve(videos) as served:
        served.fail(".mp4", status)
        with pytest.raises(FetchError, match=f"status {status}") as error:
            open_youtube(served).fetch(make_clip(), tmp_path / "clip.mp4")
    chain: Any = error.value
    assert chain.__context__.__context__.__context__.response.closed
    assert error.value.reason == reason
    assert list(tmp_path.iterdir()) == []


def test_a_failure_in_passing_is_tried_again(videos: Path, tmp_path: Path) -> None:
    """Two answers of 503, and the next brings the clip."""
    with serve(videos) as served:
        served.fail(".mp4", 503, times=2)
        open_youtube(served).fetch(make_clip(), tmp_path / "clip.mp4")
    assert (tmp_path / "clip.mp4").stat().st_size > 0


def test_a_stalled_server_times_out(videos: Path, tmp_path: Path) -> None:
    """A server that never answers costs the time-out and is a typed failure."""
    with serve(videos) as served:
        served.fail(".mp4", "stall")
        with pytest.raises(FetchError) as error:
            open_youtube(served, timeout_seconds=0.5).fetch(make_clip(), tmp_path / "clip.mp4")
    assert error.value.reason == "timed_out"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        pytest.param("trickle", "timed_out", marks=pytest.mark.slow),
        ("reset", "connection"),
        (403, "http_403"),
        (429, "rate_limited"),
    ],
)
def test_what_goes_wrong_while_it_is_cut_has_a_reason(
    action: Action | int, reason: str, videos: Path, tmp_path: Path
) -> None:
    """The page was answered, the video is not: ffmpeg ends in time, its words are understood."""
    with serve(videos) as served:
        served._plan = MediaFaults([Fault(".mp4", action)])
        with pytest.raises(FetchError, match=IDS[0]) as error:
            open_youtube(served, timeout_seconds=0.5).fetch(make_clip(), tmp_path / "clip.mp4")
    assert error.value.reason == reason
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_ends_early_gives_what_it_has(videos: Path, tmp_path: Path) -> None:
    """A video of 20 seconds gives three of the seconds 17 to 27."""
    with serve(videos) as served:
        open_youtube(served).fetch(make_clip(start=17, end=27), tmp_path / "clip.mp4")
    decoder = import_torchcodec().decoders.VideoDecoder(tmp_path / "clip.mp4")
    assert decoder.metadata.duration_seconds == pytest.approx(3.0, abs=0.2)


@pytest.mark.parametrize("content", [b"", b"no video at all" * 1000], ids=["empty", "garbage"])
def test_what_is_no_video_is_no_clip(content: bytes, tmp_path: Path) -> None:
    """An empty file and one that is no video fail, and nothing is there."""
    (tmp_path / "served").mkdir()
    (tmp_path / f"served/{IDS[0]}.mp4").write_bytes(content)
    (tmp_path / "clips").mkdir()
    with serve(tmp_path / "served") as served, pytest.raises(FetchError, match=IDS[0]):
        open_youtube(served).fetch(make_clip(), tmp_path / "clips/clip.mp4")
    assert list((tmp_path / "clips").iterdir()) == []


def test_a_kill_leaves_nothing_under_a_final_name(videos: Path, tmp_path: Path) -> None:
    """Killed while the video comes, a run leaves no clip; the next one gets it and cleans up."""
    final = tmp_path / "clip.mp4"
    (tmp_path / "clip.mp4.partial").write_bytes(b"half")
    with serve(videos) as served:
        served._plan = MediaFaults([Fault(".mp4", "stall", 1)])
        address = served.url + "/{id}.mp4"
        command = [sys.executable, "-c", FETCH, address, IDS[0], str(final)]
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": SOURCE_PATHS})
        while served.n_stalled == 0 and process.poll() is None:
            time.sleep(0.02)
        process.kill()
        process.wait()
        assert served.n_stalled == 1
        assert not final.exists()
        open_youtube(served).fetch(make_clip(), final)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_downloads_keep_their_distance(videos: Path, tmp_path: Path) -> None:
    """The second starts no earlier than `seconds_between` after the first."""
    with serve(videos) as served:
        youtube = open_youtube(served, seconds_between=1.0)
        begin = time.monotonic()
        for name in ("one.mp4", "two.mp4"):
            youtube.fetch(make_clip(), tmp_path / name)
    assert time.monotonic() - begin >= 1.0


def test_a_run_of_refusals_ends_with_advice(videos: Path, tmp_path: Path) -> None:
    """After so many refusals in a row one clear message says what helps; a success resets them."""
    with serve(videos) as served:
        youtube = open_youtube(served, max_bot_walls=2)
        served.fail(".mp4", 429, times=3)
        with pytest.raises(FetchError, match="fewer requests"):
            youtube.fetch(make_clip(), tmp_path / "clip.mp4")
        youtube.fetch(make_clip(), tmp_path / "clip.mp4")
        served.fail(".mp4", 429)
        with pytest.raises(FetchError) as first:
            youtube.fetch(make_clip(), tmp_path / "other.mp4")
        assert not isinstance(first.value, BotWallError)
        with pytest.raises(BotWallError, match=r"2 clips in a row.*--cookies FILE"):
            youtube.fetch(make_clip(), tmp_path / "other.mp4")


def test_a_segment_behind_the_end_is_no_clip(videos: Path, tmp_path: Path) -> None:
    """The error of a segment that starts after the end of the video says so."""
    with serve(videos) as served, pytest.raises(FetchError, match=r"ends at 20\.0 s") as error:
        open_youtube(served).fetch(make_clip(start=30, end=40), tmp_path / "clip.mp4")
    assert error.value.reason == "cut_failed"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("video_id", ["short", "aaaaaaaaaa;", "../aaaaaaaa", "aaaaaaaaaaaa"])
def test_what_is_no_id_is_never_asked_for(video_id: str, videos: Path, tmp_path: Path) -> None:
    """An id is data: anything else than eleven letters of it never becomes part of an address."""
    with serve(videos) as served:
        with pytest.raises(FetchError, match="is no YouTube id"):
            open_youtube(served).fetch(make_clip(video_id), tmp_path / "clip.mp4")
        assert served.requests == []


def test_cookies_are_read_and_never_written(videos: Path, tmp_path: Path) -> None:
    """The file of cookies is as it was; one in another format is refused without its content."""
    cookies = tmp_path / "cookies.txt"
    text = "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tname\tsecret\n"
    cookies.write_text(text)
    (tmp_path / "clips").mkdir()
    with serve(videos) as served:
        open_youtube(served, cookies=cookies).fetch(make_clip(), tmp_path / "clips/clip.mp4")
        assert cookies.read_text() == text
        cookies.write_text("secret\n")
        with pytest.raises(InputError, match="line 1: is not in Netscape's format") as error:
            open_youtube(served, cookies=cookies)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ([(1920, 1080), (640, 360), (320, 180)], (640, 360)),
        ([(1080, 1920), (256, 456), (144, 256)], (256, 456)),
        ([(320, 180), (256, 144)], (320, 180)),
    ],
)
def test_the_smallest_that_is_large_enough_is_taken(
    sizes: list[tuple[int, int]], chosen: tuple[int, int]
) -> None:
    """Short side 256 or more, portrait or not; else the largest there is."""
    formats = [
        {"width": width, "height": height, "protocol": "https", "vcodec": "avc1", "acodec": "none"}
        for width, height in sizes
    ]
    (best,) = choose_format(formats)
    assert (best["width"], best["height"]) == chosen


def test_yt_dlp_takes_the_format_that_we_choose() -> None:
    """Its own processing passes our choice on: of equal sizes the one with sound, read directly."""
    kinds = [("160", 144, "https", "none"), ("134", 360, "https", "none")]
    kinds += [("18", 360, "https", "mp4a"), ("93", 360, "m3u8_native", "mp4a")]
    names = ("format_id", "height", "protocol", "acodec")
    base: dict[str, Any] = {"width": 640, "vcodec": "avc1", "ext": "mp4"}
    formats = [base | dict(zip(names, kind, strict=True)) for kind in kinds]
    for each in formats:
        each["url"] = f"https://127.0.0.1/{each['format_id']}"
    video = {"id": IDS[0], "title": "t", "formats": formats, "extractor": "youtube"}
    video |= {"extractor_key": "Youtube", "webpage_url": "https://127.0.0.1/"}
    chosen = open_downloader(None, 1.0).process_ie_result(video, download=False)
    assert chosen["url"] == "https://127.0.0.1/18"
