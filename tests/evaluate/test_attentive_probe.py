"""The attentive probe sees the order of frames, and counts clips as the other evaluations do."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clip_kinetics700.damage import DamageError
from clip_kinetics700.schema import Sample
from clip_kinetics700.training.collate import BatchRow, make_batch
from clip_kinetics700_builder.config import (
    AttentiveProbeConfig,
    EvaluationConfig,
    LinearProbeConfig,
    SourceConfig,
    TrainConfig,
)
from clip_kinetics700_builder.evaluate.attentive_probe import (
    AttentiveProbe,
    FramePreparation,
    evaluate_attentive_probe,
)
from clip_kinetics700_builder.evaluate.linear_probe import evaluate_linear_probe
from tests.support.datasets.layouts import make_sample, write_dataset, write_index

pytestmark = pytest.mark.usefixtures("one_thread")

N_SHOTS = 6
NAMES = tuple(f"order {number}" for number in range(6))
WIDTH = 24
CHANCE = 1 / len(NAMES)
EMPTY = np.empty((0, WIDTH), np.float16)


def make_clips(count: int, *, first: int, is_random: bool = False) -> list[Sample]:
    """Return clips whose classes are orders of the same shots, each of one frame or two."""
    shape, rng = np.random.default_rng(0), np.random.default_rng(first)
    shots = shape.standard_normal((N_SHOTS, WIDTH))
    orders = [shape.permutation(N_SHOTS) for _ in NAMES]
    clips = []
    for number in range(count):
        order = orders[number % len(NAMES)]
        frames = np.repeat(shots[order], rng.integers(1, 3, N_SHOTS), axis=0)
        frames += 0.5 * rng.standard_normal(frames.shape)
        label = int(rng.integers(len(NAMES))) if is_random else number % len(NAMES)
        clip = make_sample(first + number, width=WIDTH, n_frames=len(frames))
        clips.append(
            replace(
                clip,
                embeddings=frames.astype(np.float16),
                caption=NAMES[label],
                label_id=label,
            )
        )
    return clips


def write(directory: Path, train: Sequence[Sample], validation: Sequence[Sample]) -> Path:
    """Write a dataset of two splits with an index."""
    splits = {"train": train, "validation": validation}
    write_dataset(directory, splits, samples_per_shard=200, class_names=NAMES, parquet=False)
    return write_index(directory)


def configure(source: Path, **options: Any) -> EvaluationConfig:
    """Return what evaluates this dataset."""
    return EvaluationConfig(source=SourceConfig(source=str(source), **options))


def probe(source: Path, **options: Any) -> dict[str, Any]:
    """Return the result of an attentive probe."""
    evaluation = options.pop("evaluation", None) or configure(source)
    config = AttentiveProbeConfig(evaluation=evaluation, **options)
    return evaluate_attentive_probe(config).result.document()


def blank(clip: Sample) -> Sample:
    """Return a clip without its frames."""
    return replace(clip, embeddings=EMPTY, timestamps=np.empty(0, np.float32))


@pytest.mark.slow
def test_order_is_seen(tmp_path: Path) -> None:
    """It is 60 points above the probe of the mean of the frames, which stays near chance."""
    source = write(tmp_path / "toy", make_clips(600, first=0), make_clips(240, first=5000))
    config = LinearProbeConfig(evaluation=configure(source), protocol="mean-pooled")
    pooled = evaluate_linear_probe(config).result.document()
    assert abs(pooled["top1"] - CHANCE) < 0.1
    assert probe(source)["top1"] >= pooled["top1"] + 0.6


@pytest.mark.slow
def test_random_labels_give_chance(tmp_path: Path) -> None:
    """Where labels say nothing of the frames, nothing is learned that holds elsewhere."""
    train = make_clips(600, first=0, is_random=True)
    source = write(tmp_path / "toy", train, make_clips(240, first=5000, is_random=True))
    assert abs(probe(source)["top1"] - CHANCE) < 0.1


def test_an_index_changes_nothing(tmp_path: Path) -> None:
    """The result is the seed's, whatever was drawn before, also of tars that must be indexed."""
    source = write(tmp_path / "toy", make_clips(90, first=0), make_clips(30, first=5000))
    result = probe(source, epochs=2)
    torch.rand(1)
    assert result == probe(source, epochs=2)
    (source / "index.parquet").unlink()
    assert result == probe(source, epochs=2)


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    """Clips without frames or of NaN are dropped from train, and wrong where they count."""
    train, validation = make_clips(40, first=0), make_clips(12, first=5000)
    for clips in (train, validation):
        clips[0] = blank(clips[0])
        clips[1] = replace(clips[1], embeddings=np.full_like(clips[1].embeddings, np.nan))
    result = probe(write(tmp_path / "toy", train, validation), epochs=1)
    assert result["parameters"]["train"]["dropped"] == {"no_frames": 1, "not_finite": 1}
    assert result["parameters"]["train"]["used"] == 38
    assert result["clips"] == {"counted": 12, "dropped": {}}
    rows = {row["name"]: row for row in result["per_class"]}
    assert rows[NAMES[0]]["top5"] <= 0.5
    assert rows[NAMES[1]]["top5"] <= 0.5


@pytest.mark.parametrize("has_index", [True, False])
def test_damage_is_raised_or_left_out(tmp_path: Path, *, has_index: bool) -> None:
    """A clip of another width is named, or, where damage is skipped, counted and never read."""
    train = make_clips(40, first=0)
    train[7] = make_sample(7, width=5)
    source = write(tmp_path / "toy", train, make_clips(12, first=5000))
    if not has_index:
        (source / "index.parquet").unlink()
    with pytest.raises(DamageError, match="5 columns, the others have 24"):
        probe(source, epochs=1)
    result = probe(source, evaluation=configure(source, on_error="skip"), epochs=1)
    expected = {"clips": 39, "used": 39, "fraction": 1.0, "dropped": {"damaged": 1}}
    assert result["parameters"]["train"] == expected


def test_a_class_that_train_lacks_is_never_right(tmp_path: Path) -> None:
    """Its clips are taken for others, and those of a fraction of train are as many as it says."""
    train = [clip for clip in make_clips(60, first=0) if clip.label_id != 2]
    source = write(tmp_path / "toy", train, make_clips(18, first=5000))
    result = probe(source, epochs=1, train=TrainConfig(fraction=0.5))
    assert result["parameters"]["train"]["used"] == 25
    assert result["parameters"]["held_out"] == 2
    assert next(row["top5"] for row in result["per_class"] if row["name"] == NAMES[2]) == 0


def test_the_best_learning_rate_of_what_is_held_out_is_taken(tmp_path: Path) -> None:
    """The first of the best of the sweep, on a tenth of train."""
    source = write(tmp_path / "toy", make_clips(100, first=0), make_clips(12, first=5000))
    found = probe(source, epochs=5)["parameters"]
    tops = [step["top1"] for step in found["sweep"]]
    assert found["held_out"] == 10
    assert found["learning_rate"] == found["sweep"][int(np.argmax(tops))]["learning_rate"]


def score(arrays: Sequence[np.ndarray[Any, Any]]) -> torch.Tensor:
    """Return the logits of clips by a probe that attends, of random weights."""
    torch.manual_seed(0)
    probe = AttentiveProbe(WIDTH, len(NAMES))
    torch.nn.init.normal_(probe.queries)
    prepare = FramePreparation(torch.zeros(WIDTH), torch.ones(WIDTH))
    batch = make_batch([BatchRow(array, "", 0, "") for array in arrays], dtype="float32")
    logits: torch.Tensor = probe(prepare(batch), batch["mask"])
    return logits.detach()


def test_padding_is_not_seen() -> None:
    """A clip has the same logits alone and padded to a longer one."""
    rng = np.random.default_rng(0)
    short, long = (rng.standard_normal((n, WIDTH)).astype(np.float32) for n in (3, 9))
    torch.testing.assert_close(score([short])[0], score([short, long])[0])


def test_the_same_frames_backwards_are_another_clip() -> None:
    """The places of the frames reach the classifier."""
    frames = np.random.default_rng(0).standard_normal((5, WIDTH)).astype(np.float32)
    forwards, backwards = score([frames, frames[::-1].copy()])
    assert (forwards - backwards).abs().max() > 0.1
