"""Scores of classes become outcomes of clips, and these become accuracies with intervals.

The outcome of a clip is the place at which its true class came, and the class that came first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clip_kinetics700_builder.card.results import (
    ClassScore,
    ConfusedPair,
    EvaluationResult,
    Metric,
)
from clip_kinetics700_builder.evaluate.clips import EvaluationSource
from clip_kinetics700_builder.types import InputError

TOP = 5
LEVEL = 0.95
RESAMPLES = 10_000
# The place of a class that was not found at all, beyond any top.
NEVER = np.iinfo(np.int32).max
NOTHING = -1
CONFUSED_PAIRS = 50

Int32Array = npt.NDArray[np.int32]
IntArray = npt.NDArray[np.int64]


class Outcomes(NamedTuple):
    """What came of clips that were scored."""

    labels: IntArray
    """(n_clips,) number of the true class."""
    places: Int32Array
    """(n_clips,) how many classes came before the true one; `NEVER` for a clip without frames."""
    predicted: Int32Array
    """(n_clips,) number of the class that came first; `NOTHING` for a clip without frames."""


def rank_classes(scores: npt.NDArray[Any], labels: IntArray) -> Outcomes:
    """Return the outcomes of (n_clips, n_classes) scores; of equal ones the first class wins.

    A class that cannot be is -inf. A row of -inf, or with a NaN, finds nothing.
    """
    rows = np.arange(len(scores))
    true = scores[rows, labels][:, None]
    before = np.arange(scores.shape[1]) < labels[:, None]
    places = ((scores > true) | ((scores == true) & before)).sum(axis=1).astype(np.int32)
    best = scores.argmax(axis=1)
    is_number = ~np.isnan(scores).any(axis=1)
    places[~is_number | (true[:, 0] == -np.inf)] = NEVER
    is_found = is_number & (scores[rows, best] > -np.inf)
    return Outcomes(labels, places, np.where(is_found, best, NOTHING).astype(np.int32))


def join_outcomes(outcomes: Sequence[Outcomes]) -> Outcomes:
    """Return the outcomes of several batches as one."""
    return Outcomes(*map(np.concatenate, zip(*outcomes, strict=True)))


def measure(outcomes: Outcomes, seed: int) -> dict[str, Metric]:
    """Return top-1, top-5 and their mean, OpenAI's metric for Kinetics-700, with their intervals.

    These are percentile intervals over clips drawn with replacement. The metrics depend only on
    how many clips came first, among the first five, and later, and these counts of a resample are
    multinomial: drawn so, they cost nothing and are exact.
    """
    n_clips = len(outcomes.places)
    n_first = int((outcomes.places < 1).sum())
    n_top = int((outcomes.places < TOP).sum())
    shares = np.array([n_first, n_top - n_first, n_clips - n_top]) / n_clips
    counts = np.random.default_rng(seed).multinomial(n_clips, shares, size=RESAMPLES) / n_clips
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    top1, top5 = float((outcomes.places < 1).mean()), float((outcomes.places < TOP).mean())
    drawn1, drawn5 = counts[:, 0], counts[:, 0] + counts[:, 1]
    return {
        "top1": Metric(top1, *np.quantile(drawn1, tails).tolist()),
        "top5": Metric(top5, *np.quantile(drawn5, tails).tolist()),
        "mean": Metric((top1 + top5) / 2, *np.quantile((drawn1 + drawn5) / 2, tails).tolist()),
    }


def measure_classes(outcomes: Outcomes, names: Sequence[str]) -> tuple[ClassScore, ...]:
    """Return the scores of the classes that have clips, in the order of the class list."""
    counts, top1, top5 = (
        np.bincount(outcomes.labels[outcomes.places < top], minlength=len(names))
        for top in (np.inf, 1, TOP)
    )
    return tuple(
        ClassScore(
            names[number],
            int(counts[number]),
            float(top1[number] / counts[number]),
            float(top5[number] / counts[number]),
        )
        for number in np.flatnonzero(counts).tolist()
    )


def rank_confused(outcomes: Outcomes, n_classes: int) -> list[tuple[int, int, int]]:
    """Return each class, what it was wrongly taken for and how often, the most frequent first."""
    is_wrong = (outcomes.predicted != outcomes.labels) & (outcomes.predicted != NOTHING)
    codes = outcomes.labels[is_wrong] * n_classes + outcomes.predicted[is_wrong]
    pairs, counts = np.unique(codes, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    columns = (*np.divmod(pairs[order], n_classes), counts[order])
    return list(zip(*(column.tolist() for column in columns), strict=True))


def list_confused(outcomes: Outcomes, names: Sequence[str]) -> tuple[ConfusedPair, ...]:
    """Return the pairs of classes that are taken for each other most often."""
    ranked = rank_confused(outcomes, len(names))[:CONFUSED_PAIRS]
    return tuple(ConfusedPair(names[true], names[taken], count) for true, taken, count in ranked)


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What came of an evaluation."""

    result: EvaluationResult
    outcomes: Outcomes
    """The outcomes of every counted clip."""
    names: Sequence[str]
    """The class list."""

    def __repr__(self) -> str:
        """Return the figures alone."""
        result = self.result
        tops = f"top-1 {result.top1.value:.4f}, top-5 {result.top5.value:.4f}"
        what = f"{result.task}, {result.protocol}, {result.split}"
        return f"Evaluation({what}: {tops} of {result.counted:,} clips)"


def sum_up(
    source: EvaluationSource, outcomes: Outcomes, packages: Sequence[str], **method: Any
) -> Evaluation:
    """Return the outcomes of an evaluation with the result that sums them up.

    Args:
        source: what was evaluated.
        outcomes: of its clips.
        packages: libraries whose versions the result states.
        method: the fields of an `EvaluationResult` that say how clips were classified.

    Raises:
        InputError: no clip is left to count.
    """
    config, names = source.config, source.labels.names
    if not len(outcomes.places):
        raise InputError(f"{source.name}: no clip of split {config.split} can be counted")
    dropped = source.dropped[config.split]
    result = EvaluationResult(
        **{**method, **measure(outcomes, config.seed)},
        split=config.split,
        counted=len(outcomes.places),
        dropped={reason: count for reason, count in sorted(dropped.items()) if count},
        dataset=source.describe(),
        seed=config.seed,
        level=LEVEL,
        resamples=RESAMPLES,
        classes=measure_classes(outcomes, names),
        confused=list_confused(outcomes, names),
        versions={package: version(package) for package in packages},
    )
    return Evaluation(result, outcomes, names)
