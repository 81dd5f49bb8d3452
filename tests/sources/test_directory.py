"""The file of a clip is found in any tree, and always the same one."""

import os
from pathlib import Path

import pytest

from clip_kinetics700_builder.sources.directory import find_clip, index_videos
from clip_kinetics700_builder.types import Clip, Failure, InputError

LABEL = "massaging person's head (not neck)"


def clip(video_id: str = "-a_bcdefg_-", start: int = 7, end: int = 17) -> Clip:
    """Return a clip of the validation split whose id has dashes and underscores."""
    return Clip("validation", video_id, start, end, LABEL, LABEL)


def put(videos: Path, relative: str, data: bytes = b"x") -> Path:
    """Write a file below a directory and return its path."""
    file = videos / relative
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


@pytest.mark.parametrize(
    "directory",
    [
        "",
        "val/massaging person's head (not neck)/",
        "massaging_person's_head_(not_neck)/",
        "massaging_persons_head_not_neck/",
        "a/b/c/d/e/f/g/",
        "-x/.hidden/",
    ],
)
@pytest.mark.parametrize("extension", ["mp4", "MKV", "webm", "avi", "ts"])
def test_clips_are_found_by_name_in_any_directory(
    tmp_path: Path, directory: str, extension: str
) -> None:
    """Neither the directory nor the container's extension matters."""
    file = put(tmp_path, f"{directory}-a_bcdefg_-_000007_000017.{extension}")
    assert index_videos(tmp_path).find(clip()) == file


@pytest.mark.parametrize("video_id", ["-----------", "___________", "_1_000001_0", "--_000007_0"])
def test_ids_are_read_by_position(tmp_path: Path, video_id: str) -> None:
    """Ids made of dashes, underscores and digits that look like times are found."""
    file = put(tmp_path, f"{video_id}_000007_000017.mp4")
    assert index_videos(tmp_path).find(clip(video_id)) == file


def test_segments_of_one_id_are_told_apart(tmp_path: Path) -> None:
    """The times are part of a clip's name."""
    file = put(tmp_path, "-a_bcdefg_-_000007_000017.mp4")
    other = put(tmp_path, "-a_bcdefg_-_023760_023770.mp4")
    index = index_videos(tmp_path)
    assert [index.find(clip()), index.find(clip(start=23760, end=23770))] == [file, other]
    assert index.find(clip(start=8, end=17)) is None


@pytest.mark.parametrize(
    "name",
    [
        "._-a_bcdefg_-_000007_000017.mp4",
        "-a_bcdefg_-_000007_000017.mp4.part",
        "-a_bcdefg_-_000007_000017.f137.mp4",
        "-a_bcdefg_-_000007_000017.part",
        "-a_bcdefg_-_000007_000017.YTDL",
        "-a_bcdefg_-_000007_000017.json",
        "-a_bcdefg_-_000007_000017.description",
        "-a_bcdefg_-_000007_000017.jpg",
        "-a_bcdefg_-_000007_000017",
        "x-a_bcdefg_-_000007_000017.mp4",
        "-a_bcdefg_-_7_17.mp4",
    ],
)
def test_what_is_no_clip_is_passed_over(tmp_path: Path, name: str) -> None:
    """AppleDouble files, unfinished downloads and side files are not the clip."""
    put(tmp_path, name)
    assert index_videos(tmp_path).find(clip()) is None


def test_of_several_files_the_best_is_taken(tmp_path: Path) -> None:
    """Filled before empty, then the label's directory, then the split's, then by path."""
    name = "-a_bcdefg_-_000007_000017.mp4"
    best_last = [
        put(tmp_path, f"massaging_persons_head_not_neck/{name}", b""),
        put(tmp_path, f"z/{name}"),
        put(tmp_path, f"b/{name}"),
        put(tmp_path, f"y/val/yoga/{name}"),
        put(tmp_path, f"y/train/massaging_persons_head_not_neck/{name}"),
        put(tmp_path, f"z/valid/massaging_person's_head_(not_neck)/{name}"),
    ]
    while best_last:
        assert index_videos(tmp_path).find(clip()) == best_last[-1]
        best_last.pop().unlink()


def test_links_are_followed_without_end(tmp_path: Path) -> None:
    """Linked directories and files are found, and circles of links end."""
    videos, elsewhere = tmp_path / "videos", tmp_path / "elsewhere"
    put(elsewhere, "-a_bcdefg_-_000007_000017.mp4")
    put(videos, "a/file.txt")
    (videos / "a" / "up").symlink_to(videos)
    (videos / "self").symlink_to("self")
    (videos / "gone.mp4").symlink_to("nowhere")
    (videos / "link").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(videos)
    (videos / "bbbbbbbbbbb_000007_000017.mkv").symlink_to(videos / "a" / "file.txt")
    index = index_videos(videos)
    assert index.find(clip()) == videos / "link" / "-a_bcdefg_-_000007_000017.mp4"
    assert index.find(clip("bbbbbbbbbbb")) == videos / "bbbbbbbbbbb_000007_000017.mkv"


def test_a_real_directory_goes_before_a_link_to_it(tmp_path: Path) -> None:
    """A directory that is also linked is known by its own name."""
    file = put(tmp_path, "z/-a_bcdefg_-_000007_000017.mp4")
    (tmp_path / "a").symlink_to(tmp_path / "z")
    assert index_videos(tmp_path).find(clip()) == file


def test_missing_and_empty_are_failures_without_paths(tmp_path: Path) -> None:
    """A row without a usable file ends as a Failure of the stage `source`."""
    put(tmp_path, "-a_bcdefg_-_000007_000017.mp4", b"")
    index = index_videos(tmp_path)
    found = [find_clip(index, clip(), 3), find_clip(index, clip("bbbbbbbbbbb"), 4)]
    failures = [failure for failure in found if isinstance(failure, Failure)]
    assert [(failure.row, failure.stage, failure.reason) for failure in failures] == [
        (3, "source", "empty_file"),
        (4, "source", "missing"),
    ]
    assert not any("/" in failure.message or "\n" in failure.message for failure in failures)


def test_a_file_that_went_away_is_missing(tmp_path: Path) -> None:
    """A file, or a link's target, that is gone since the index was made is no crash."""
    file = put(tmp_path, "-a_bcdefg_-_000007_000017.mp4")
    index = index_videos(tmp_path)
    file.unlink()
    file.symlink_to("nowhere")
    failure = find_clip(index, clip(), 0)
    assert isinstance(failure, Failure)
    assert failure.reason == "missing"


def test_what_is_no_regular_file_is_missing(tmp_path: Path) -> None:
    """A pipe with a clip's name is never opened."""
    os.mkfifo(tmp_path / "-a_bcdefg_-_000007_000017.mp4")
    assert index_videos(tmp_path).find(clip()) is None


def test_own_videos_are_found_by_path(tmp_path: Path) -> None:
    """A path is relative to the videos directory, or absolute."""
    inside, outside = put(tmp_path / "v", "-in/a clip.mov"), put(tmp_path, "b.mp4")
    index = index_videos(tmp_path / "v")

    def own(path: str) -> Clip:
        return Clip("train", "a", None, None, None, "", path=path)

    assert find_clip(index, own("-in/a clip.mov"), 0) == inside
    assert find_clip(index, own(str(outside)), 0) == outside
    for absent in ("b.mp4", "-in", "x" * 5000):
        failure = find_clip(index, own(absent), 0)
        assert isinstance(failure, Failure)
        assert failure.reason == "missing"


def test_a_videos_directory_must_be_one(tmp_path: Path) -> None:
    """A missing directory and a file in its place are errors that name it."""
    with pytest.raises(InputError, match=r"videos directory .*/no does not exist"):
        index_videos(tmp_path / "no")
    with pytest.raises(InputError, match=r"videos directory .*/file is not a directory"):
        index_videos(put(tmp_path, "file"))
