"""The sources are asked one after the other, each for what those before it did not have."""

from pathlib import Path
from typing import Any

import pytest

from clip_kinetics700_builder.download import youtube as youtube_module
from clip_kinetics700_builder.download.sources import MAX_DOUBTFUL
from clip_kinetics700_builder.download.youtube import BotWallError
from clip_kinetics700_builder.types import OutageError
from tests.support.hub.servers import serve
from tests.support.kinetics.cvdf import CvdfTree
from tests.support.kinetics.downloads import download_tree, list_clips, read_ledger, whole_clips
from tests.support.kinetics.miniature import MiniKinetics
from tests.support.media.videos import CodedVideo


def test_classes_fetch_only_their_archives(trees: dict[str, CvdfTree], tmp_path: Path) -> None:
    """Numbered archives are looked into, and only those of the classes are fetched whole."""
    tree = trees["700-2020"]
    with serve(tree.root) as served:
        download_tree(tree, tmp_path, base_url=served.url, classes=("yoga",), splits=("train",))
        whole = [request for request in served.requests if request.range_asked == "bytes=0-0"]
    assert len(whole) == 1
    assert [path.parent.name for path in tmp_path.rglob("*.mp4")] == ["yoga"]


def test_clips_fall_through_to_the_next_source(
    trees: dict[str, CvdfTree], mini_kinetics: MiniKinetics, tmp_path: Path
) -> None:
    """A directory is asked first, archives for the rest; both attempts are on record."""
    tree = trees["600"]
    held = tmp_path / "held"
    held.mkdir()
    name = "yoga-yoga-1_000033_000043.mp4"
    (held / name).write_bytes(b"of the directory")
    (held / "archery-_-1_000000_000010.mp4").touch()
    download_tree(tree, tmp_path / "out", source=(str(held), "cvdf"))
    clips = list_clips(tmp_path / "out")
    assert clips == {**whole_clips(tree), name: b"of the directory"}
    attempts = [a for a in read_ledger(tmp_path / "out") if a.youtube_id == "archery-_-1"]
    assert [(a.source, a.outcome, a.reason) for a in attempts] == [
        (str(held), "failed", "empty_file"),
        ("cvdf", "got", None),
    ]


def test_youtube_is_the_last_to_be_asked(
    trees: dict[str, CvdfTree], plain_video: CodedVideo, tmp_path: Path
) -> None:
    """A clip that no archive has is cut out of its video; one that nobody has keeps each reason."""
    tree, videos = trees["600"], tmp_path / "videos"
    videos.mkdir()
    (videos / "--3ouPhoy2A.mp4").write_bytes(plain_video.path.read_bytes())
    with serve(videos) as served:
        download_tree(
            tree, tmp_path / "out", source=("cvdf", "youtube"), youtube_interval=0.0,
            youtube_address=served.url + "/{id}.mp4", splits=("validation", "test"),
        )  # fmt: skip
    # The segment starts where the video has ended.
    attempts = [a for a in read_ledger(tmp_path / "out") if a.youtube_id == "--3ouPhoy2A"]
    assert [(a.source, a.reason) for a in attempts] == [
        ("cvdf", "not_in_archive"),
        ("youtube", "cut_failed"),
    ]
    assert {request.path for request in served.requests} == {"/--3ouPhoy2A.mp4"}


def test_refusals_are_counted_over_all_rounds(
    trees: dict[str, CvdfTree], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random sample tries one clip after another; the wall of bots ends that all the same."""
    monkeypatch.setattr(youtube_module, "YOUTUBE_PAUSES_SECONDS", ())
    (tmp_path / "nothing").mkdir()
    with serve(tmp_path / "nothing") as served:
        served.fail(".mp4", 429)
        with pytest.raises(BotWallError, match="refused 5 clips in a row"):
            ask_youtube(trees["600"], tmp_path / "out", served.url, max_samples=1, shuffle=True)
    assert [a.reason for a in read_ledger(tmp_path / "out")] == ["rate_limited"] * 4 + ["bot_wall"]


def ask_youtube(tree: CvdfTree, output: Path, address: str, **options: Any) -> None:
    """Download the rows of train from a server that takes the place of YouTube."""
    download_tree(
        tree, output, source=("youtube",), youtube_interval=0.0,
        youtube_address=address + "/{id}.mp4", splits=("train",), **options,
    )  # fmt: skip


def test_a_site_that_is_down_is_on_no_line_of_the_ledger(
    trees: dict[str, CvdfTree], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three clips in a row tell an outage from what is wrong with one video."""
    monkeypatch.setattr(youtube_module, "YOUTUBE_PAUSES_SECONDS", ())
    (tmp_path / "nothing").mkdir()
    with serve(tmp_path / "nothing") as served:
        served.fail(".mp4", 503)
        with pytest.raises(OutageError, match="run the same command again to go on"):
            ask_youtube(trees["600"], tmp_path / "out", served.url)
        assert len(served.requests) == MAX_DOUBTFUL
    assert read_ledger(tmp_path / "out") == []


def test_one_video_that_fails_among_others_is_on_record(
    trees: dict[str, CvdfTree], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once another clip has its answer, the way to the site was open."""
    monkeypatch.setattr(youtube_module, "YOUTUBE_PAUSES_SECONDS", ())
    (tmp_path / "nothing").mkdir()
    with serve(tmp_path / "nothing") as served:
        served.fail("yoga-yoga-1.mp4", 503)
        ask_youtube(trees["600"], tmp_path / "out", served.url)
    reasons = {a.youtube_id: a.reason for a in read_ledger(tmp_path / "out")}
    assert reasons.pop("yoga-yoga-1") == "http_503"
    assert set(reasons.values()) == {"http_404"}
