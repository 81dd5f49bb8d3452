"""`make_mini_kinetics` makes a miniature Kinetics, 28 annotation rows and 26 files, with FFmpeg.

The traps of the real one are in it: ids that start with `-` or hold `_`, one id with two
segments, the three conventions for directory names, several containers, a test split without
labels, two rows without a file, an empty, a cut and a sound-only file.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from clip_kinetics700.schema import SPLITS


@dataclass(frozen=True, slots=True)
class Row:
    """One annotation row and how its file is made."""

    split: str
    label: str
    youtube_id: str
    time_start: int
    time_end: int
    seconds: float | None = 2.0
    """Length of the file; None for no file."""
    place: str = ""
    """Directory below the split's."""
    suffix: str = ".mp4"
    failure: str | None = None
    """Why the row gives no sample."""

    @property
    def file_name(self) -> str:
        """Name of the row's file, as Kinetics spells it."""
        return f"{self.youtube_id}_{self.time_start:06d}_{self.time_end:06d}{self.suffix}"

    @property
    def n_frames(self) -> int:
        """Number of frames at one a second."""
        return -int(-(self.seconds or 0) // 1)


ROWS = [
    Row("train", "testifying", "---QUuC4vJs", 84, 94, None, failure="missing"),
    Row("train", "putting on mascara", "--mascara_0", 7, 17, 2.5, "putting on mascara", ".avi"),
    Row("train", "arm wrestling", "-armwrestl_", 3, 13, 2.0, "arm_wrestling"),
    Row("train", "hurdling", "9r8wpMS2iEk", 48, 58, 10.08, "hurdling"),
    Row("train", "clean and jerk", "GGSY1Qvo990", 20, 30, 3.0, "clean_and_jerk/a/b/c"),
    Row("train", "cleaning pool", "_cleanpool-", 12, 22, 2.0, "cleaning pool"),
    Row("train", "cleaning pool", "_cleanpool-", 40, 45, 0.4, "cleaning pool"),
    Row("train", "archery", "archery-_-1", 0, 10, 2.0, "archery"),
    Row("train", "hitting baseball", "baseball__1", 5, 15, 2.0),
    Row("train", "cartwheeling", "cartwheel_1", 100, 110, 2.0, "cartwheeling"),
    Row("train", "cooking chicken", "cookchick_1", 61, 71, 2.0, "cooking_chicken"),
    Row("train", "driving car", "drivingcar1", 60, 70, 1.0, "driving car"),
    Row("train", "making a cake", "makingcake1", 23760, 23770, 2.0, "making a cake"),
    Row("train", "flipping pancake", "pancake-_-1", 9, 19, 2.0, "flipping pancake", ".mkv"),
    Row("train", "laughing", "truncated_1", 86, 96, 2.0, "laughing", failure="unreadable"),
    Row("train", "yoga", "yoga-yoga-1", 33, 43, 2.0, "yoga"),
    Row("train", "laughing", "zerobytes_1", 10, 20, 2.0, "laughing", failure="empty_file"),
    Row("validation", "massaging person's head", "--3ouPhoy2A", 20, 30, None, failure="missing"),
    Row("validation", "yoga", "Tw2yXa6CzWE", 491, 501, 2.0, "yoga"),
    Row("validation", "passing American football (in game)", "YABnJL_bDzw", 86, 96, 2.0,
        "passing_American_football_in_game"),
    Row("validation", "archery", "archery-_-2", 15, 25, 2.0, "archery", ".webm"),
    Row("validation", "laughing", "audioonly-1", 86, 96, 2.0, "laughing",
        failure="no_video_stream"),
    Row("validation", "finger snapping", "fingersnap_", 44, 54, 2.0, "finger snapping"),
    Row("validation", "training dog", "trainingdog", 2, 12, 2.0, "training dog"),
    Row("test", "", "G0mjFqytJt4", 152, 162, 2.0),
    Row("test", "", "canoeing__1", 77, 87, 2.0),
    Row("test", "", "dogeating_1", 1, 11, 2.0),
    Row("test", "", "peppers-_-1", 8, 18, 2.0),
]  # fmt: skip

CODECS = {
    ".mp4": ["-c:v", "libx264", "-pix_fmt", "yuv420p"],
    ".mkv": ["-c:v", "libx264", "-pix_fmt", "yuv420p"],
    ".avi": ["-c:v", "mpeg4"],
    ".webm": ["-c:v", "libvpx", "-deadline", "realtime"],
}
SPLIT_WORDS = {"train": "train", "validation": "validate", "test": "test"}


@dataclass(frozen=True, slots=True)
class MiniKinetics:
    """The places of a miniature Kinetics."""

    annotations: Path
    videos: Path


def make_mini_kinetics(directory: Path) -> MiniKinetics:
    """Write annotations in DeepMind's dialect and the video files."""
    annotations, videos = directory / "annotations", directory / "videos"
    annotations.mkdir(parents=True)
    for split in SPLITS:
        write_annotations(annotations / f"{SPLIT_WORDS[split]}.csv", split)
    for number, row in enumerate(ROWS):
        if row.seconds is None:
            continue
        path = videos / row.split / row.place / row.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        make_file(row, path, number)
    return MiniKinetics(annotations, videos)


def write_annotations(path: Path, split: str) -> None:
    """Write one split's CSV; the test split has no label column."""
    columns = ["youtube_id", "time_start", "time_end", "split"]
    lines = [",".join(columns if split == "test" else ["label", *columns])]
    for row in ROWS:
        if row.split != split:
            continue
        cells = [row.youtube_id, str(row.time_start), str(row.time_end), SPLIT_WORDS[split]]
        lines.append(",".join(cells if split == "test" else [row.label, *cells]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def make_file(row: Row, path: Path, number: int) -> None:
    """Write a row's file: a test picture that differs from row to row, or a damaged one."""
    if row.failure == "empty_file":
        path.touch()
        return
    if row.failure == "no_video_stream":
        run_ffmpeg(path, "sine=duration=2", ["-c:a", "aac"])
        return
    source = f"testsrc2=size=96x72:rate=25:duration={row.seconds},hue=h={number * 12}"
    run_ffmpeg(path, source, CODECS[row.suffix])
    if row.failure == "unreadable":
        # The index of an mp4 stands at its end: cut off, the file does not open.
        path.write_bytes(path.read_bytes()[:2000])


def run_ffmpeg(path: Path, source: str, codec: list[str]) -> None:
    """Encode a lavfi source."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-f", "lavfi", "-i", source, *codec, "-y"]
    subprocess.run([*command, f"file:{path}"], check=True)
