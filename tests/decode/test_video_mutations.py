"""Damaged videos, and files that only look like videos, cost themselves alone."""

import csv
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clip_kinetics700.schema import REASONS
from clip_kinetics700_builder.demo import list_packaged_videos
from clip_kinetics700_builder.types import Frames
from clip_kinetics700_builder.verify.dataset import verify_dataset
from tests.support.datasets.builds import build_dataset
from tests.support.kinetics.miniature import MiniKinetics
from tests.support.media.imposters import list_pictures, list_scripts
from tests.support.media.mutants import Mutant, make_mutant
from tests.support.media.outcomes import DEADLY, describe, run_cases
from tests.support.media.videos import (
    H264,
    HEVC,
    MPEG2,
    MPEG4,
    VP9,
    CodedVideo,
    cut_coded,
    decode,
    draw_codes,
    encode_coded,
    encode_video,
    run_ffmpeg,
)
from tests.support.media.watching import Listener, OpenedFiles
from tests.support.processes.torture import IS_FULL, count_cases, say_count

pytestmark = [pytest.mark.needs_ffmpeg, pytest.mark.torture, pytest.mark.slow]

SEED = 20_240_731
BUILD_SEED = 7
LIMIT_SECONDS = 20.0
# Seconds that a machine with other work may add to a task that ends by itself.
MARGIN_SECONDS = 10.0
SOUND_EVERY = 50
OWN_CLIPS = os.environ.get("CLIP_KINETICS700_CLIPS")
MAX_OWN_CLIPS = 100
OWN_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg"}
KINDS = ["made", "own"] if IS_FULL and OWN_CLIPS else ["made"]
ENCODINGS = {
    "b_frames.mp4": H264,
    "faststart.mp4": (*H264, "-movflags", "faststart"),
    "fragmented.mp4": (*H264, "-movflags", "frag_keyframe+empty_moov"),
    "baseline.mov": ("-c:v", "libx264", "-profile:v", "baseline", "-pix_fmt", "yuv420p"),
    "hevc.mp4": HEVC,
    "mpeg4.mp4": MPEG4,
    "mpeg4.avi": MPEG4,
    "vp8.webm": ("-c:v", "libvpx", "-deadline", "realtime"),
    "vp9.webm": VP9,
    "h264.mkv": H264,
    "h264.ts": H264,
    "mpeg2.mpg": MPEG2,
    "gif.gif": (),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Mutant]]:
    """Sound videos: small ones of many kinds and real ones, and those of one's own."""
    directory = tmp_path_factory.mktemp("sources")
    for name, options in ENCODINGS.items():
        encode_coded(directory / name, options=options, n_frames=60)
    whole = encode_coded(directory / "whole.mp4", options=H264, n_frames=80)
    cut_coded(whole, directory / "edit_list.mp4", first=30)
    encode_video(directory / "sound.mp4", draw_codes(range(50)), *H264, sound_seconds=2.0)
    for path in list_packaged_videos():
        cut = ("-t", "2", "-an", "-c", "copy")
        run_ffmpeg("-ss", "1", "-i", path, *cut, directory / f"real_{path.stem}.mp4")
    return {"made": read_sources(sorted(directory.iterdir())), "own": read_sources(list_own())}


def list_own() -> list[Path]:
    """Return some of one's own clips, evenly chosen."""
    files = sorted(Path(OWN_CLIPS).rglob("*.*")) if OWN_CLIPS else []
    clips = [path for path in files if path.suffix in OWN_SUFFIXES and path.stat().st_size]
    return clips[:: -(-len(clips) // MAX_OWN_CLIPS) or 1]


def read_sources(paths: Sequence[Path]) -> list[Mutant]:
    """Return files as mutants that nothing was done to."""
    return [Mutant(path.name, path.suffix, path.read_bytes()) for path in paths]


@pytest.mark.parametrize("kind", KINDS)
def test_every_mutant_has_one_outcome(
    kind: str, sources: dict[str, list[Mutant]], plain_video: CodedVideo, tmp_path: Path
) -> None:
    """Each damaged file is all its frames or one failure, in time; sound files are as before."""
    n_cases = count_cases(200, full=1000)
    sound = Mutant("sound", ".mp4", plain_video.path.read_bytes())
    cases = [sound, *(Mutant(name, ".mp4", data) for name, data in list_pictures())]
    for number in range(n_cases):
        cases.append(make_mutant(sources[kind], SEED, number))
        if number % SOUND_EVERY == SOUND_EVERY - 1:
            cases.append(sound)
    begin = time.monotonic()
    outcomes = run_cases(cases, tmp_path / "cases", LIMIT_SECONDS)
    seconds = time.monotonic() - begin
    for case, outcome in zip(cases, outcomes, strict=True):
        ended = outcome.reason not in DEADLY
        assert bool(outcome.seconds) or not ended, case.what
        assert max(outcome.seconds, default=0.0) <= LIMIT_SECONDS + MARGIN_SECONDS, case.what
        assert case is not sound or outcome.digest == outcomes[0].digest, case.what
    assert outcomes[0].reason == ""
    peak, what = max((o.peak_mib, c.what) for c, o in zip(cases, outcomes, strict=True))
    say_count(
        f"{len(cases)} {kind} videos and pictures, seed {SEED}, {seconds:.0f} s: "
        f"{describe(outcomes)}; at most {peak} MiB ({what})"
    )


@pytest.fixture
def listener() -> Iterator[Listener]:
    """A server that nothing may ask."""
    server = Listener()
    yield server
    server.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of files that are opened")
def test_no_script_is_followed(tmp_path: Path, listener: Listener) -> None:
    """A playlist or script under a video's name fails; what it names is not opened or asked."""
    secrets = tmp_path / "cases" / "secrets"
    secrets.mkdir(parents=True)
    options = (*H264, "-movflags", "frag_keyframe+empty_moov+dash")
    secret = encode_coded(secrets / "secret.mp4", options=options, n_frames=50).path
    url = f"http://127.0.0.1:{listener.port}/secret.mp4"
    scripts = list(list_scripts(secret, url))
    followed = {}
    with OpenedFiles(secrets) as opened:
        for number, (name, data) in enumerate(scripts):
            path = secrets.parent / f"script{number}.mp4"
            path.write_bytes(data)
            result = decode(path)
            names = opened.take() + [caller.decode() for caller in listener.callers]
            listener.callers.clear()
            if names or isinstance(result, Frames):
                followed[name] = names or "decoded"
    say_count(f"{len(scripts)} playlists and scripts under a video's name")
    assert followed == {}


def test_a_path_is_never_an_address(
    plain_video: CodedVideo,
    random_model: Path,
    tmp_path: Path,
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Names with colons, below a relative directory, are names of files: none is a protocol."""
    monkeypatch.chdir(tmp_path)
    address = f"http:/127.0.0.1:{listener.port}/x.mp4"
    noise = [address, "concat:good.mp4|good.mp4", "subfile,,start,0,end,0,,:good.mp4"]
    sound = ["good.mp4", "val:2020/x.mp4", "data:x.mp4", "concat:good.mp4"]
    for name in (*noise, *sound):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        data = b"no video" if name in noise else plain_video.path.read_bytes()
        Path(name).write_bytes(data)
    output = build_own(Path(), [*noise, *sound], random_model, tmp_path / "out")
    assert listener.callers == []
    assert sorted(read_embeddings(output)) == sorted(sound)
    failures = pq.read_table(output / "failures.parquet").to_pylist()
    assert [failure["reason"] for failure in failures] == ["unreadable"] * len(noise)


def build_own(videos: Path, names: Sequence[str], model: Path, output: Path) -> Path:
    """Build from a table of files, each with its name for a caption, and verify."""
    table = output.with_suffix(".csv")
    with table.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([("path", "caption"), *((name, name) for name in names)])
    options = {"decode_workers": 2, "task_timeout": LIMIT_SECONDS}
    manifest = build_dataset(MiniKinetics(table, videos), model, output, **options)
    assert manifest is not None
    assert verify_dataset(output) == []
    return output


def read_embeddings(output: Path) -> dict[str, list[list[float]]]:
    """Return the embeddings of a dataset by caption."""
    tables = [pq.read_table(path) for path in sorted(output.glob("data/*.parquet"))]
    rows = [row for table in tables for row in table.to_pylist()]
    return {row["caption"]: row["embeddings"] for row in rows}


def test_a_build_among_mutants_is_the_same(
    sources: dict[str, list[Mutant]], random_model: Path, tmp_path: Path
) -> None:
    """Every row of a table is a sample or a failure; sound clips have the same embeddings."""
    n_mutants = count_cases(40, full=200)
    videos = tmp_path / "videos"
    videos.mkdir()
    sound = {f"sound_{source.what}": source.data for source in sources["made"][::2]}
    mutants = [make_mutant(sources["made"], BUILD_SEED, number) for number in range(n_mutants)]
    mutants += [Mutant(name, ".mp4", data) for name, data in list_pictures()]
    files = {f"{row:04d}{mutant.suffix}": mutant.data for row, mutant in enumerate(mutants)}
    for name, data in (sound | files).items():
        (videos / name).write_bytes(data)
    both = interleave(list(files), list(sound))
    alone = read_embeddings(build_own(videos, list(sound), random_model, tmp_path / "alone"))
    output = build_own(videos, both, random_model, tmp_path / "mixed")
    mixed = read_embeddings(output)
    assert sorted(alone) == sorted(sound)
    assert {name: mixed.get(name) for name in alone} == alone
    failures = pq.read_table(output / "failures.parquet").to_pylist()
    stems = [row["youtube_id"] for row in failures] + [Path(name).stem for name in mixed]
    assert sorted(stems) == sorted(Path(name).stem for name in both)
    reasons = Counter(row["reason"] for row in failures)
    assert set(reasons) <= set(REASONS)
    say_count(
        f"build of {len(both)} rows, {len(files)} of them mutants, seed {BUILD_SEED}: "
        f"{len(mixed)} samples, " + ", ".join(f"{n} {reason}" for reason, n in reasons.items())
    )


def interleave(many: Sequence[str], few: Sequence[str]) -> list[str]:
    """Return all of both, the few spread evenly among the many."""
    step = -(-len(many) // len(few))
    parts = [[*many[i * step : (i + 1) * step], name] for i, name in enumerate(few)]
    return [name for part in parts for name in part]
