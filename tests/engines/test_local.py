"""The test video, locks, errors of the encoder and signals guard a run."""

import os
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from clip_kinetics700_builder.config import (
    AnnotationsConfig,
    ClipsConfig,
    EncodeConfig,
    ModelConfig,
    RunConfig,
)
from clip_kinetics700_builder.decode.pool import DecodePool
from clip_kinetics700_builder.decode.video import Decoding, make_task
from clip_kinetics700_builder.encode.batches import EncoderThreads
from clip_kinetics700_builder.engines.local import LocalEngine, Started, open_pool
from clip_kinetics700_builder.engines.prepare import plan_job, prepare_engine
from clip_kinetics700_builder.engines.test_video import check_colours
from clip_kinetics700_builder.types import (
    BuildError,
    Clip,
    Float32Array,
    Frames,
    InputError,
    UInt8Array,
    VideoInfo,
)
from tests.support.datasets.builds import RunBuild, build_arguments, command_line, published_hashes
from tests.support.datasets.encoders import load_test_encoder
from tests.support.kinetics.miniature import MiniKinetics
from tests.support.media.videos import UNCHANGED, CodedVideo
from tests.support.processes.checkout import SOURCE_PATHS

pytestmark = pytest.mark.needs_ffmpeg


def draw_canary(left: tuple[int, int, int], right: tuple[int, int, int]) -> UInt8Array:
    """Return a (16, 16, 3) frame of two halves."""
    frame = np.zeros((16, 16, 3), np.uint8)
    frame[:, :8], frame[:, 8:] = left, right
    return frame


RED, BLUE = (254, 0, 0), (0, 0, 254)


def test_the_canary_knows_left_from_right_and_red_from_blue() -> None:
    """A decoder that swaps channels or sides is refused before the first clip."""
    check_colours(draw_canary(RED, BLUE))
    with pytest.raises(BuildError, match="the decoder gives wrong colours"):
        check_colours(draw_canary(BLUE, RED))
    with pytest.raises(BuildError, match="the decoder gives wrong colours"):
        check_colours(draw_canary(RED, RED))


def test_the_canary_reaches_the_manifest(run_build: RunBuild, tmp_path: Path) -> None:
    """The manifest holds the embedding of the package's video, as wide as the data's."""
    manifest = run_build(tmp_path / "out", splits=("test",))
    assert manifest is not None
    assert len(manifest["canary"]) == manifest["configuration"]["embedding_width"]
    assert np.linalg.norm(manifest["canary"]) > 0


@pytest.mark.parametrize("value", [np.nan, 1e5])
def test_embeddings_that_are_no_numbers_stop_the_build(value: float) -> None:
    """NaN, or a value beyond float16, is the encoder's fault and names the clip."""
    clip = Clip("train", "abcdefghijk", 1, 11, None, "")
    encoder: Any = SimpleNamespace(
        width=4, batch_size=1, dtype="float16", encode=lambda _: np.full((1, 4), value, np.float32)
    )
    engine = LocalEngine([clip], None, {}, encoder, Decoding(1.0, UNCHANGED), Path())
    pixels, times = np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1, np.float32)
    frames = Frames(0, 0, pixels, times, VideoInfo(1, 1.0, 25.0, 8, 8))
    pool: Any = SimpleNamespace(decode=lambda _: [frames])
    with EncoderThreads(encoder, 1) as threads:
        started = Started(pool, threads, np.zeros(4, np.float32), lambda _: None)
        with pytest.raises(BuildError, match=r"clip abcdefghijk,1,11: .*not finite"):
            list(engine.encode([], started))


def test_an_encoder_that_fails_names_the_clip(random_model: Path, plain_video: CodedVideo) -> None:
    """Embeddings of another width than the configuration says end in a line with the clip."""
    clip = Clip("train", "abcdefghijk", 1, 11, None, "")
    encoder = load_test_encoder(random_model, batch_size=2)
    wrong = replace(encoder, width=encoder.width + 1)
    engine = LocalEngine([clip], None, {}, wrong, Decoding(1.0, encoder.preprocessing), Path())
    with DecodePool(1, 60) as pool, EncoderThreads(wrong, 1) as threads:
        started = Started(pool, threads, np.zeros(1, np.float32), lambda _: None)
        tasks = [make_task(engine.decoding, 0, plain_video.path)]
        line = (
            r"^clip abcdefghijk,1,11: the model gave embeddings of shape \(2, 512\), .*\(2, 513\)$"
        )
        with pytest.raises(BuildError, match=line):
            list(engine.encode(tasks, started))


def test_batches_hold_frames_of_several_parts(
    mini_kinetics: MiniKinetics, random_model: Path, tmp_path: Path
) -> None:
    """Parts of two rows each are one stream of full batches: none is padded at a part's end."""
    annotations = AnnotationsConfig(files=(mini_kinetics.annotations,))
    config = EncodeConfig(
        work=tmp_path,
        clips=ClipsConfig(annotations=annotations, videos=mini_kinetics.videos),
        model=ModelConfig(name=str(random_model), dtype="float32", batch_size=8),
        run=RunConfig(rows_per_part=2, decode_workers=1),
    )
    plan = plan_job(config)
    engine = prepare_engine(config, plan)
    calls: list[int] = []

    class Counting:
        width, batch_size = engine.encoder.width, engine.encoder.batch_size

        def encode(self, pixels: UInt8Array) -> Float32Array:
            calls.append(len(pixels))
            return engine.encoder.encode(pixels)

    with open_pool(config, engine) as pool, EncoderThreads(Counting(), 1) as threads:
        started = Started(pool, threads, np.zeros(1, np.float32), lambda _: None)
        reports = list(engine.encode_parts(plan.own_parts, started))
    assert [report.name for report in reports] == [part.name for part in plan.own_parts]
    n_frames = [report.n_frames for report in reports]
    # A clip may fail after some frames, which then went through the encoder for nothing.
    n_most = -(-(sum(n_frames) + 8) // 8)
    assert len(calls) <= n_most < sum(-(-count // 8) for count in n_frames)


def test_one_rank_is_run_once_at_a_time(run_build: RunBuild, tmp_path: Path) -> None:
    """A second process of the same rank on the same output is refused in one line."""
    (tmp_path / "out/.build").mkdir(parents=True)
    with (
        FileLock(tmp_path / "out/.build/rank-0-of-1.lock"),
        pytest.raises(InputError, match="another process is encoding rank 0 of 1"),
    ):
        run_build(tmp_path / "out", splits=("test",))


def test_a_part_in_other_hands_is_left_to_them(run_build: RunBuild, tmp_path: Path) -> None:
    """A part that another process holds is not encoded twice; the build is not finished yet."""
    (tmp_path / "out/.build/parts").mkdir(parents=True)
    with FileLock(tmp_path / "out/.build/parts/test-00000.lock"):
        assert run_build(tmp_path / "out", splits=("test",)) is None
    assert run_build(tmp_path / "out", splits=("test",)) is not None


def test_ranks_that_start_together_agree(
    dataset: Path, run_build: RunBuild, tmp_path: Path
) -> None:
    """Two ranks at once store one configuration and end in the bytes of one."""
    options: dict[str, Any] = {"rows_per_part": 3, "world_size": 2}
    results: list[Any] = []
    threads = [
        threading.Thread(
            target=lambda rank=rank: results.append(
                run_build(tmp_path / "out", rank=rank, **options)
            )
        )
        for rank in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any(result is not None for result in results)
    assert published_hashes(tmp_path / "out") == published_hashes(dataset)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_build_cleanly(
    mini_kinetics: MiniKinetics, random_model: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C and SIGTERM end in one line, the shell's exit code, and no process left."""
    arguments = build_arguments(mini_kinetics, random_model, tmp_path / "out")
    with subprocess.Popen(
        command_line(*arguments, "--rows-per-part", "1", "--quiet"),
        env={**os.environ, "PYTHONPATH": SOURCE_PATHS},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        while process.poll() is None and not list(tmp_path.glob("out/.build/parts/*.json")):
            time.sleep(0.005)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number, stderr
    assert stderr.strip().splitlines()[-1].endswith("run it again to go on")
    assert "Traceback" not in stderr
    assert is_gone(process.pid)


def is_gone(group: int) -> bool:
    """Say whether a process group has no member left, waiting for those that are ending."""
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
