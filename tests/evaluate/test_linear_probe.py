"""The card's probe gives scikit-learn's results, and both protocols count clips as they say."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import top_k_accuracy_score

from clip_kinetics700.schema import Sample
from clip_kinetics700_builder.config import (
    EvaluationConfig,
    LinearProbeConfig,
    SourceConfig,
    TrainConfig,
)
from clip_kinetics700_builder.evaluate.linear_probe import evaluate_linear_probe
from clip_kinetics700_builder.types import InputError
from tests.support.datasets.layouts import make_sample, write_dataset

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = tuple(f"class {number}" for number in range(8))
WIDTH = 12
Array = npt.NDArray[Any]


def make_clips(
    count: int, *, seed: int, classes: Sequence[int] = range(8), first: int = 0
) -> list[Sample]:
    """Return clips of 1 to 4 frames that lie, with noise, around a direction of their class."""
    rng, centers = (
        np.random.default_rng(seed),
        np.random.default_rng(99).standard_normal((8, WIDTH)),
    )
    clips = []
    for number in range(count):
        label = classes[number % len(classes)]
        frames = 1 + centers[label] + 1.5 * rng.standard_normal((1 + number % 4, WIDTH))
        clip = make_sample(first + number, width=WIDTH, n_frames=len(frames))
        changes: Mapping[str, Any] = {"caption": NAMES[label], "label_id": label}
        clips.append(replace(clip, embeddings=frames.astype(np.float16), **changes))
    return clips


def write(directory: Path, train: Sequence[Sample], validation: Sequence[Sample]) -> Path:
    """Write a dataset of two splits without an index."""
    splits = {"train": train, "validation": validation}
    return write_dataset(directory, splits, samples_per_shard=100, class_names=NAMES, parquet=False)


def probe(source: Path, **options: Any) -> dict[str, Any]:
    """Return the result of a probe."""
    config = EvaluationConfig(source=SourceConfig(source=str(source)))
    return evaluate_linear_probe(LinearProbeConfig(evaluation=config, **options)).result.document()


def take_centers(clips: Sequence[Sample]) -> Array:
    """Return the frame n // 2 of each clip."""
    frames = [clip.embeddings[len(clip.embeddings) // 2] for clip in clips]
    return np.stack(frames).astype(np.float32)


def list_labels(clips: Sequence[Sample]) -> Array:
    """Return the label ids of clips."""
    return np.array([clip.label_id for clip in clips])


def test_the_cards_protocol_is_scikit_learns(tmp_path: Path) -> None:
    """Top-1 and top-5 are those of scikit-learn on centre frames, with the card's numbers."""
    train, validation = make_clips(160, seed=0), make_clips(80, seed=1, first=500)
    result = probe(write(tmp_path / "toy", train, validation))
    model = LogisticRegression(random_state=0, C=0.316, max_iter=1000)
    model.fit(take_centers(train), list_labels(train))
    chances = model.predict_proba(take_centers(validation))
    for top, name in ((1, "top1"), (5, "top5")):
        expected = top_k_accuracy_score(list_labels(validation), chances, k=top)
        assert result[name] == pytest.approx(expected, abs=1e-6)
    assert 0.3 < result["top1"] < result["top5"]


def test_clips_without_frames_count_as_the_protocol_says(tmp_path: Path) -> None:
    """The card drops them from both splits; the other protocol takes them for wrong."""
    empty = np.empty((0, WIDTH), np.float16)
    train, validation = make_clips(80, seed=0), make_clips(16, seed=1, first=500)
    none: dict[str, Any] = {"embeddings": empty, "timestamps": np.empty(0, np.float32)}
    train[0], validation[0] = replace(train[0], **none), replace(validation[0], **none)
    source = write(tmp_path / "toy", train, validation)
    card = probe(source)
    assert card["clips"] == {"counted": 15, "dropped": {"no_frames": 1}}
    assert card["parameters"]["train"]["dropped"] == {"no_frames": 1}
    better = probe(source, protocol="mean-pooled")
    assert better["clips"] == {"counted": 16, "dropped": {}}
    assert next(row["top5"] for row in better["per_class"] if row["name"] == NAMES[0]) < 1


@pytest.mark.parametrize("protocol", ["card", "mean-pooled"])
def test_values_that_are_not_finite_are_never_learned_from(tmp_path: Path, protocol: str) -> None:
    """A clip of NaN is dropped from train, and wrong where it is counted."""
    train, validation = make_clips(80, seed=0), make_clips(16, seed=1, first=500)
    for clips in (train, validation):
        odd = np.full_like(clips[3].embeddings, np.nan)
        clips[3] = replace(clips[3], embeddings=odd)
    result = probe(write(tmp_path / "toy", train, validation), protocol=protocol)
    assert result["parameters"]["train"]["dropped"] == {"not_finite": 1}
    assert result["clips"] == {"counted": 16, "dropped": {}}
    assert next(row["top5"] for row in result["per_class"] if row["name"] == NAMES[3]) <= 0.5


def test_a_class_that_train_lacks_is_never_right(tmp_path: Path) -> None:
    """Both protocols take clips of a class that was not trained for wrong, and go on."""
    train = make_clips(80, seed=0, classes=range(2, 8))
    source = write(tmp_path / "toy", train, make_clips(32, seed=1, first=500))
    for protocol in ("card", "mean-pooled"):
        rows = {row["name"]: row for row in probe(source, protocol=protocol)["per_class"]}
        assert rows[NAMES[0]]["top5"] == rows[NAMES[1]]["top5"] == 0
        assert rows[NAMES[5]]["top5"] > 0


def test_one_class_is_refused(tmp_path: Path) -> None:
    """Nothing can be learned from one class."""
    source = write(tmp_path / "toy", make_clips(9, seed=0, classes=[3]), make_clips(8, seed=1))
    with pytest.raises(InputError, match="clips of train are of 1 class; a probe needs two"):
        probe(source)
    config = EvaluationConfig(source=SourceConfig(source=str(source)), split="train")
    with pytest.raises(InputError, match="--split train: a probe is trained on it"):
        evaluate_linear_probe(LinearProbeConfig(evaluation=config))


def test_a_fraction_of_train_is_the_seeds(tmp_path: Path) -> None:
    """Half of train is half of it, and the same half for the same seed."""
    source = write(tmp_path / "toy", make_clips(160, seed=0), make_clips(40, seed=1, first=500))
    result = probe(source, train=TrainConfig(fraction=0.5))
    assert result["parameters"]["train"]["used"] == 80
    assert result == probe(source, train=TrainConfig(fraction=0.5))


def test_c_is_chosen_on_what_is_held_out(tmp_path: Path) -> None:
    """The sweep ends after two that gain nothing, and the first of the best is taken."""
    source = write(tmp_path / "toy", make_clips(400, seed=0), make_clips(80, seed=1, first=500))
    found = probe(source, protocol="mean-pooled")["parameters"]
    tops = [step["top1"] for step in found["sweep"]]
    assert found["c"] == found["sweep"][int(np.argmax(tops))]["c"]
    assert found["held_out"] == 40
    gains = [top > max(tops[:place], default=-1) for place, top in enumerate(tops)]
    assert gains[-2:] == [False, False]
    assert [False, False] not in [gains[i : i + 2] for i in range(len(gains) - 2)]
