"""Places, accuracies and intervals equal what counting by hand gives."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from clip_kinetics700_builder.card.results import ClassScore, ConfusedPair
from clip_kinetics700_builder.config import EvaluationConfig, SourceConfig
from clip_kinetics700_builder.evaluate.clips import open_evaluation
from clip_kinetics700_builder.evaluate.results import (
    NEVER,
    NOTHING,
    Outcomes,
    list_confused,
    measure,
    measure_classes,
    rank_classes,
    sum_up,
)
from clip_kinetics700_builder.types import InputError

NAMES = ("a", "b", "c")
INF = float("inf")


def make_outcomes(labels: list[int], places: list[int], predicted: list[int]) -> Outcomes:
    """Return outcomes from plain lists."""
    return Outcomes(
        np.array(labels, np.int64), np.array(places, np.int32), np.array(predicted, np.int32)
    )


@pytest.mark.parametrize(
    ("scores", "label", "place", "predicted"),
    [
        ([0.2, 0.5, 0.3], 1, 0, 1),
        ([0.2, 0.5, 0.3], 0, 2, 1),
        # Where scores are equal the first class of the list wins, as in numpy's argmax.
        ([0.4, 0.4, 0.2], 0, 0, 0),
        ([0.4, 0.4, 0.2], 1, 1, 0),
        ([0.3, 0.3, 0.3], 2, 2, 0),
        ([-INF, -INF, -INF], 0, NEVER, NOTHING),
        ([0.1, np.nan, 0.2], 2, NEVER, NOTHING),
        # A class that the classifier never saw is never right.
        ([-INF, 1.0, 2.0], 0, NEVER, 2),
    ],
)
def test_places_by_hand(scores: list[float], label: int, place: int, predicted: int) -> None:
    """Ties, clips without frames, NaN and unknown classes have their place by rule."""
    found = rank_classes(np.array([scores]), np.array([label]))
    assert (found.places[0], found.predicted[0]) == (place, predicted)


def test_metrics_by_hand() -> None:
    """One of four clips is first, three are among five: 0.25, 0.75 and their mean."""
    outcomes = make_outcomes([0, 0, 1, 2], [0, 4, 1, NEVER], [0, 1, 0, NOTHING])
    metrics = {name: metric.value for name, metric in measure(outcomes, seed=0).items()}
    assert metrics == {"top1": 0.25, "top5": 0.75, "mean": 0.5}
    assert measure_classes(outcomes, NAMES) == (
        ClassScore("a", clips=2, top1=0.5, top5=1.0),
        ClassScore("b", clips=1, top1=0.0, top5=1.0),
        ClassScore("c", clips=1, top1=0.0, top5=0.0),
    )


def test_classes_without_clips_are_left_out() -> None:
    """A class that the split lacks has no accuracy, and one class alone is enough."""
    outcomes = make_outcomes([1], [0], [1])
    assert measure_classes(outcomes, NAMES) == (ClassScore("b", 1, 1.0, 1.0),)


def test_confused_pairs_by_hand() -> None:
    """Pairs come by count, then in the order of the list; right and missing answers are none."""
    labels, predicted = [0, 0, 1, 1, 2, 2, 0], [1, 1, 0, 1, 0, NOTHING, 2]
    outcomes = make_outcomes(labels, [1] * 7, predicted)
    assert list_confused(outcomes, NAMES) == (
        ConfusedPair("a", "b", 2),
        ConfusedPair("a", "c", 1),
        ConfusedPair("b", "a", 1),
        ConfusedPair("c", "a", 1),
    )


def resample(places: npt.NDArray[np.int32], seed: int) -> dict[str, list[float]]:
    """Return the intervals by drawing clips one by one, as a textbook does."""
    drawn = places[np.random.default_rng(seed).integers(0, len(places), (4000, len(places)))]
    top1, top5 = (drawn < 1).mean(axis=1), (drawn < 5).mean(axis=1)
    values = {"top1": top1, "top5": top5, "mean": (top1 + top5) / 2}
    return {name: np.quantile(v, [0.025, 0.975]).tolist() for name, v in values.items()}


def test_intervals_are_those_of_resampled_clips() -> None:
    """Multinomial counts give the intervals of drawing clips, to what chance leaves."""
    places = np.random.default_rng(3).choice([0, 2, 9], 400, p=[0.3, 0.3, 0.4]).astype(np.int32)
    outcomes = make_outcomes([0] * 400, places.tolist(), [0] * 400)
    found, expected = measure(outcomes, 1), resample(places, 2)
    for name, interval in expected.items():
        np.testing.assert_allclose([found[name].low, found[name].high], interval, atol=0.01)
    assert found == measure(outcomes, 1)
    assert found != measure(outcomes, 2)


def test_nothing_to_count_is_refused(dataset: Path) -> None:
    """An evaluation of no clip at all has no accuracy."""
    source = open_evaluation(EvaluationConfig(source=SourceConfig(source=str(dataset))))
    with pytest.raises(InputError, match="dataset: no clip of split validation can be counted"):
        sum_up(source, make_outcomes([], [], []), packages=(), task="zero-shot")
