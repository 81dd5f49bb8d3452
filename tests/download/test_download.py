"""`download` brings every clip that there is and says of the others why, whatever fails."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from clip_kinetics700_builder.clips.releases import RELEASES
from clip_kinetics700_builder.config import DownloadConfig
from clip_kinetics700_builder.download.archive_store import write_staged
from clip_kinetics700_builder.download.download import download, plan_download
from clip_kinetics700_builder.download.run import DownloadSummary
from clip_kinetics700_builder.download.youtube import BotWallError
from clip_kinetics700_builder.sources.archive import ArchiveClip
from clip_kinetics700_builder.sources.ledger import LEDGER_NAME, Attempt, read_attempts
from clip_kinetics700_builder.types import InputError
from tests.support.datasets.builds import SOURCE_PATHS, command_line, run_cli
from tests.support.hub.faults import Action
from tests.support.hub.servers import serve
from tests.support.kinetics.cvdf import CvdfTree
from tests.support.kinetics.hostile_archives import EVIL_DIRECTORY, HOSTILE, SOUND
from tests.support.kinetics.miniature import ROWS, MiniKinetics
from tests.support.media.videos import CodedVideo


def get(tree: CvdfTree, output: Path, **options: Any) -> DownloadSummary:
    """Download in this process."""
    defaults: dict[str, Any] = {
        "annotations": tuple(tree.annotations),
        "version": tree.version,
        "base_url": str(tree.root),
    }
    config = DownloadConfig(output=output, **{**defaults, **options})
    return download(config)


def list_clips(output: Path) -> dict[str, bytes]:
    """Return the bytes of every video that is not hidden."""
    return {
        path.name: path.read_bytes()
        for path in output.rglob("*_*_*.*")
        if path.is_file() and ".download" not in path.parts
    }


def whole_clips(tree: CvdfTree) -> dict[str, bytes]:
    """Return what is to come of a tree: its annotated clips with bytes in them."""
    return {name: data for name, data in tree.clips.items() if data}


def read_ledger(output: Path) -> list[Attempt]:
    """Return the attempts of a download."""
    return list(read_attempts(output / ".download" / LEDGER_NAME))


@pytest.mark.parametrize("version", RELEASES)
def test_every_clip_comes_with_its_bytes(
    version: str, trees: dict[str, CvdfTree], tmp_path: Path
) -> None:
    """All clips of a release come, through every trap of its archives, and nothing else does."""
    tree = trees[version]
    with serve(tree.root) as served:
        get(tree, tmp_path, base_url=served.url)
    assert list_clips(tmp_path) == whole_clips(tree)


def test_what_does_not_come_has_a_reason(trees: dict[str, CvdfTree], tmp_path: Path) -> None:
    """Each row is on record once: got, or failed with a typed reason."""
    tree = trees["700-2020"]
    get(tree, tmp_path)
    attempts = read_ledger(tmp_path)
    assert len(attempts) == len({attempt.identity for attempt in attempts}) == len(ROWS)
    failed = {attempt.youtube_id: attempt.reason for attempt in attempts if attempt.reason}
    assert failed == {
        "---QUuC4vJs": "not_in_archive",
        "--3ouPhoy2A": "not_in_archive",
        "zerobytes_1": "empty_file",
    }
    sizes = {attempt.bytes for attempt in attempts if attempt.outcome == "got"}
    assert sizes == {len(data) for data in whole_clips(tree).values()}


def test_a_second_run_asks_for_nothing(trees: dict[str, CvdfTree], tmp_path: Path) -> None:
    """What is there, and what has failed, is not fetched again; only --retry-errors asks again."""
    tree = trees["600"]
    with serve(tree.root) as served:
        get(tree, tmp_path, base_url=served.url)
        served.forget()
        get(tree, tmp_path, base_url=served.url)
        assert served.requests == []
        get(tree, tmp_path, base_url=served.url, retry_errors=("bot_wall",))
        assert served.requests == []
        get(tree, tmp_path, base_url=served.url, retry_errors=())
        assert served.requests


def test_what_a_kill_left_unchecked_does_not_count(
    trees: dict[str, CvdfTree], tmp_path: Path
) -> None:
    """Clips that were unpacked before their archive's checksum was right are not taken as got."""
    tree = trees["600"]
    get(tree, tmp_path, classes=("archery",))
    clip = ArchiveClip("yoga-yoga-1_000033_000043", "mp4", "", b"half")
    staging = tmp_path / ".download/staging/train-yoga"
    staging.mkdir(parents=True)
    write_staged(staging, clip)
    get(tree, tmp_path)
    assert list_clips(tmp_path) == whole_clips(tree)


def test_a_larger_request_fetches_what_is_new(trees: dict[str, CvdfTree], tmp_path: Path) -> None:
    """Of two requests the second asks for archives of the new classes alone."""
    tree = trees["600"]
    with serve(tree.root) as served:
        get(tree, tmp_path, base_url=served.url, classes=("yoga",))
        assert {path.split("_0")[0] for path in list_clips(tmp_path)} == {
            "yoga-yoga-1",
            "Tw2yXa6CzWE",
        }
        served.forget()
        get(tree, tmp_path, base_url=served.url, classes=("yoga", "archery"))
        fetched = {request.path for request in served.requests if ".tar" in request.path}
    assert fetched == {"/600/train/archery.tar.gz", "/600/val/archery.tar.gz"}


def test_classes_fetch_only_their_archives(trees: dict[str, CvdfTree], tmp_path: Path) -> None:
    """Numbered archives are looked into, and only those of the classes are fetched whole."""
    tree = trees["700-2020"]
    with serve(tree.root) as served:
        get(tree, tmp_path, base_url=served.url, classes=("yoga",), splits=("train",))
        whole = [request for request in served.requests if request.range_asked == "bytes=0-0"]
    assert len(whole) == 1
    assert [path.parent.name for path in tmp_path.rglob("*.mp4")] == ["yoga"]


def test_max_samples_counts_what_is_there(trees: dict[str, CvdfTree], tmp_path: Path) -> None:
    """At most so many of each split, those on disk first; the next request adds the difference."""
    tree = trees["600"]
    get(tree, tmp_path, max_samples=2)
    first = list_clips(tmp_path)
    assert len(first) == 6
    get(tree, tmp_path, max_samples=3)
    second = list_clips(tmp_path)
    assert len(second) == 9
    assert first.items() <= second.items()


def test_a_failed_archive_is_made_up_for(trees: dict[str, CvdfTree], tmp_path: Path) -> None:
    """In the place of clips of a damaged archive others come, and none is called absent."""
    tree = trees["600"]
    with serve(tree.root) as served:
        served.fail("train/yoga.tar", 404)
        served.fail("train/archery.tar", 404)
        get(tree, tmp_path, base_url=served.url, max_samples=5, splits=("train",))
    assert len(list_clips(tmp_path)) == 5
    assert {a.reason for a in read_ledger(tmp_path) if a.reason} <= {"empty_file"}


def test_a_directory_makes_up_for_its_empty_files(
    trees: dict[str, CvdfTree], tmp_path: Path
) -> None:
    """Of five files of which three are empty, two are got when two are wanted."""
    held, names = tmp_path / "held", sorted(whole_clips(trees["600"]))
    held.mkdir()
    train = [
        name for name in names if any(r.file_name == name and r.split == "train" for r in ROWS)
    ]
    for number, name in enumerate(train[:5]):
        (held / name).write_bytes(b"clip" if number > 2 else b"")
    get(trees["600"], tmp_path / "out", source=(str(held),), max_samples=2, splits=("train",))
    assert set(list_clips(tmp_path / "out")) == set(train[3:5])


def test_a_random_sample_is_that_of_its_seed(trees: dict[str, CvdfTree], tmp_path: Path) -> None:
    """Shuffled, the clips follow from the seed; one that fails is replaced by the next."""
    tree = trees["400"]
    names = []
    for number, seed in enumerate((1, 1, 2)):
        output = tmp_path / str(number)
        get(tree, output, max_samples=4, shuffle=True, seed=seed)
        names.append(set(list_clips(output)))
    assert names[0] == names[1] != names[2]
    assert [len(group) for group in names] == [12, 12, 12]


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
    get(tree, tmp_path / "out", source=(str(held), "cvdf"))
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
    """What no archive has is cut out of its video; a row that nobody has keeps each reason."""
    tree, videos = trees["600"], tmp_path / "videos"
    videos.mkdir()
    (videos / "--3ouPhoy2A.mp4").write_bytes(plain_video.path.read_bytes())
    with serve(videos) as served:
        get(
            tree, tmp_path / "out", source=("cvdf", "youtube"), youtube_interval=0.0,
            youtube_address=served.url + "/{id}.mp4", splits=("validation", "test"),
        )  # fmt: skip
    # Its segment begins where the video has ended.
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
    monkeypatch.setattr("clip_kinetics700_builder.download.youtube.YOUTUBE_PAUSES_SECONDS", ())
    (tmp_path / "nothing").mkdir()
    with serve(tmp_path / "nothing") as served:
        served.fail(".mp4", 429)
        with pytest.raises(BotWallError, match="refused 5 clips in a row"):
            get(
                trees["600"], tmp_path / "out", source=("youtube",), youtube_interval=0.0,
                youtube_address=served.url + "/{id}.mp4", splits=("train",),
                max_samples=1, shuffle=True,
            )  # fmt: skip
    assert [a.reason for a in read_ledger(tmp_path / "out")] == ["rate_limited"] * 4 + ["bot_wall"]


@pytest.mark.parametrize("seed", range(4))
def test_faults_end_right(
    seed: int, trees: dict[str, CvdfTree], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random resets, cut and wrong bodies and errors of the server: every clip comes in the end."""
    monkeypatch.setattr("clip_kinetics700.remote.PAUSE_SECONDS", 0.001)
    tree = trees["700-2020"]
    actions: list[Action | int] = ["reset", "cut", "short", "long", 500, 503, 429]
    with serve(tree.root) as served:
        served.fail_randomly(seed, 0.2, actions, pattern=".tar")
        for _ in range(6):
            get(tree, tmp_path, base_url=served.url, retry_errors=())
    assert list_clips(tmp_path) == whole_clips(tree)


def test_a_flipped_bit_is_fetched_again(trees: dict[str, CvdfTree], tmp_path: Path) -> None:
    """One wrong bit is found by gzip's checksum; fetched anew, the archive's clips are right."""
    tree = trees["600"]
    with serve(tree.root) as served:
        served.fail("train/yoga.tar", "flip", times=2)
        get(tree, tmp_path, base_url=served.url)
    assert list_clips(tmp_path) == whole_clips(tree)


@pytest.mark.parametrize(
    ("action", "reason"), [("stall", "timed_out"), ("flip", "checksum"), (404, "http_404")]
)
def test_lasting_faults_are_typed(
    action: Any, reason: str, trees: dict[str, CvdfTree], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """An archive that never comes right costs its clips, whose rows say why."""
    monkeypatch.setattr("clip_kinetics700.remote.PAUSE_SECONDS", 0.001)
    monkeypatch.setattr("clip_kinetics700.remote.SILENCE_SECONDS", 0.2)
    tree = trees["600"]
    with serve(tree.root) as served:
        served.fail("train/yoga.tar", action)
        get(tree, tmp_path, base_url=served.url)
    reasons = {a.youtube_id: a.reason for a in read_ledger(tmp_path) if a.reason}
    assert reasons["yoga-yoga-1"] == reason
    assert len(list_clips(tmp_path)) == len(whole_clips(tree)) - 1


@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_hostile_archives_write_nothing_outside(
    kind: str, trees: dict[str, CvdfTree], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A hostile archive gives its good clip or none, and all others come."""
    tree = trees["600"]
    name = "yoga-yoga-1_000033_000043.mp4"
    archive = next(path for path in tree.archives if path.name == "yoga.tar.gz")
    whole = archive.read_bytes()
    archive.write_bytes(HOSTILE[kind](name, tree.clips[name]))
    try:
        get(tree, tmp_path / "out")
    finally:
        archive.write_bytes(whole)
    expected = whole_clips(tree)
    if kind not in SOUND:
        del expected[name]
    assert list_clips(tmp_path / "out") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not Path(EVIL_DIRECTORY).exists()
    if kind in ("parent", "symbolic_link", "huge_size", "sparse"):
        assert "train-yoga: refused " in caplog.text


def test_a_dry_run_says_what_it_would_take(trees: dict[str, CvdfTree], tmp_path: Path) -> None:
    """Clips, archives and bytes are told, and nothing is written."""
    tree = trees["600"]
    with serve(tree.root) as served:
        config = DownloadConfig(
            output=tmp_path / "out", version="600", base_url=served.url, splits=("train",),
            annotations=tuple(tree.annotations), classes=("yoga", "archery"),
        )  # fmt: skip
        plan = plan_download(config)
    sizes = [path.stat().st_size for path in tree.archives if path.parent.name == "train"
             and path.name in ("yoga.tar.gz", "archery.tar.gz")]  # fmt: skip
    assert (plan.n_to_get, plan.n_archives, plan.n_bytes) == (2, 2, sum(sizes))
    assert not (tmp_path / "out").exists()


def test_metadata_has_a_caption_for_every_video(trees: dict[str, CvdfTree], tmp_path: Path) -> None:
    """Each split's metadata.jsonl names its videos, with caption, id and times."""
    get(trees["700-2020"], tmp_path)
    for split, count in (("train", 15), ("val", 6), ("test", 4)):
        lines = (tmp_path / split / "metadata.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert len(rows) == count
        assert all((tmp_path / split / row["file_name"]).is_file() for row in rows)
        assert all(row["caption"] == row["label"] for row in rows)


def test_the_directory_opens_as_a_videofolder(
    trees: dict[str, CvdfTree], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`load_dataset("videofolder")` finds the three splits with their captions."""
    from datasets import load_dataset

    get(trees["700-2020"], tmp_path / "clips")
    loaded = load_dataset(
        "videofolder", data_dir=str(tmp_path / "clips"), cache_dir=str(tmp_path / "cache")
    )
    assert {name: len(split) for name, split in loaded.items()} == {
        "train": 15, "validation": 6, "test": 4
    }  # fmt: skip
    assert "yoga" in loaded["train"].remove_columns("video")["caption"]


def test_what_is_running_is_not_run_twice(trees: dict[str, CvdfTree], tmp_path: Path) -> None:
    """A second download into one directory is refused in one line."""
    (tmp_path / ".download").mkdir()
    held = FileLock(tmp_path / ".download/download.lock")
    with held, pytest.raises(InputError, match="another download is running"):
        get(trees["600"], tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--source", "nowhere"), "is no directory, nor cvdf or youtube"),
        (("--classes", "yoda"), "no clip is of class 'yoda'; near names: yoga"),
        (("--retry-errors", "bad_luck"), "'bad_luck' is no reason"),
        (("--max-samples", "0"), "--max-samples"),
    ],
)
def test_misuse_is_one_line(
    options: tuple[str, ...], message: str, trees: dict[str, CvdfTree], tmp_path: Path
) -> None:
    """What cannot be meant ends with exit code 2 and one line."""
    tree = trees["600"]
    words = ["--version", "600", "--base-url", str(tree.root), "--output", str(tmp_path / "out")]
    outcome = run_cli("download", "--annotations", *tree.annotations, *words, *options)
    assert (outcome.returncode, outcome.stderr.count("\n")) == (2, 1)
    assert message in outcome.stderr


def test_status_tells_the_missing_share(trees: dict[str, CvdfTree], tmp_path: Path) -> None:
    """Clips, those that are here and the reasons for the others, by split, source and class."""
    from clip_kinetics700_builder.status import read_status

    get(trees["700-2020"], tmp_path)
    document = read_status(tmp_path).document()
    assert document["splits"]["train"]["clips"] == 17
    assert document["splits"]["train"]["reasons"] == {"not_in_archive": 1, "empty_file": 1}
    assert document["classes"]["testifying"] == {"clips": 1, "missing": 1}
    assert document["sources"]["cvdf"]["got"] == 25
    outcome = run_cli("status", tmp_path)
    assert outcome.returncode == 0
    assert "not_in_archive" in outcome.stdout


@pytest.mark.slow
def test_fifty_kills_lose_nothing_and_repeat_nothing(
    trees: dict[str, CvdfTree], tmp_path: Path
) -> None:
    """After each of 50 `kill -9` the next run goes on; what was complete is not fetched again."""
    tree = trees["600"]
    output = tmp_path / "out"
    with serve(tree.root, latency_seconds=0.05) as served:
        words = ["--version", "600", "--base-url", served.url, "--output", str(output)]
        command = command_line(
            "download", "--annotations", *tree.annotations, *words, "--num-workers", "1"
        )
        environment = {**os.environ, "PYTHONPATH": SOURCE_PATHS}
        n_killed = 0
        for number in range(50):
            done = {a.archive for a in read_ledger(output) if a.archive}
            if len(list_clips(output)) == len(whole_clips(tree)):
                shutil.rmtree(output)
                done = set()
            served.forget()
            with subprocess.Popen(
                command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                start_new_session=True,
            ) as process:  # fmt: skip
                wait_for_request(served, process)
                time.sleep(random.Random(number).uniform(0, 0.6))
                n_killed += process.poll() is None
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
            asked = {request.path for request in served.requests if ".tar" in request.path}
            assert not {name for name in done if f"/{name_path(name)}" in asked}
            assert list_clips(output).items() <= whole_clips(tree).items()
        assert n_killed > 40
        assert subprocess.run(command, env=environment, check=False).returncode == 0
    assert list_clips(output) == whole_clips(tree)
    got = [attempt.identity for attempt in read_ledger(output) if attempt.outcome == "got"]
    assert len(got) == len(set(got))


def wait_for_request(served: Any, process: "subprocess.Popen[bytes]") -> None:
    """Return when the download has begun to fetch, or is done."""
    while process.poll() is None and not served.requests:
        time.sleep(0.005)


def name_path(name: str) -> str:
    """Return where the archive of class-wise Kinetics 600 lies."""
    split, _, label = name.partition("-")
    return f"600/{'val' if split == 'validation' else split}/{label.replace('_', ' ')}.tar.gz"
