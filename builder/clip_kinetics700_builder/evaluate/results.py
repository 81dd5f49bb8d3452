"""Scores of classes in, what they are worth out: places, accuracies, intervals, one document.

A clip is an outcome: at which place its true class came, and which class came first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from clip_kinetics700_builder.types import InputError

FORMAT_NAME = "clip-kinetics700-evaluation/1"
TOP = 5
LEVEL = 0.95
RESAMPLES = 10_000
# The place of a class that was not found at all, beyond any top.
NEVER = np.iinfo(np.int32).max
NOTHING = -1
CONFUSED_PAIRS = 50

Int32Array = npt.NDArray[np.int32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
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
    return Outcomes(
        labels=np.concatenate([part.labels for part in outcomes]),
        places=np.concatenate([part.places for part in outcomes]),
        predicted=np.concatenate([part.predicted for part in outcomes]),
    )


def measure(outcomes: Outcomes) -> dict[str, float]:
    """Return top-1, top-5 and their mean, OpenAI's metric for Kinetics-700."""
    top1 = float((outcomes.places < 1).mean())
    top5 = float((outcomes.places < TOP).mean())
    return {"top1": top1, "top5": top5, "mean": (top1 + top5) / 2}


def bootstrap(outcomes: Outcomes, seed: int) -> dict[str, Any]:
    """Return percentile intervals of the metrics over clips drawn with replacement.

    Both metrics depend only on how many clips came first, among the first five, and later, and
    these counts of a resample are multinomial: drawn so, they cost nothing and are exact.
    """
    n_clips = len(outcomes.places)
    n_first = int((outcomes.places < 1).sum())
    n_top = int((outcomes.places < TOP).sum())
    shares = np.array([n_first, n_top - n_first, n_clips - n_top]) / n_clips
    counts = np.random.default_rng(seed).multinomial(n_clips, shares, size=RESAMPLES) / n_clips
    top1, top5 = counts[:, 0], counts[:, 0] + counts[:, 1]
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    drawn = {"top1": top1, "top5": top5, "mean": (top1 + top5) / 2}
    intervals = {name: np.quantile(values, tails).tolist() for name, values in drawn.items()}
    return {"level": LEVEL, "resamples": RESAMPLES, **intervals}


def measure_classes(outcomes: Outcomes, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return clips, top-1 and top-5 of each class that has clips, in the order of the list."""
    counts = np.bincount(outcomes.labels, minlength=len(names))
    tops = [
        np.bincount(outcomes.labels[outcomes.places < top], minlength=len(names))
        for top in (1, TOP)
    ]
    return [
        {
            "name": names[number],
            "clips": int(counts[number]),
            "top1": float(tops[0][number] / counts[number]),
            "top5": float(tops[1][number] / counts[number]),
        }
        for number in np.flatnonzero(counts).tolist()
    ]


def list_confused(outcomes: Outcomes, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the pairs of classes that are taken for each other most often, wrong ones only."""
    is_wrong = (outcomes.predicted != outcomes.labels) & (outcomes.predicted != NOTHING)
    codes = outcomes.labels[is_wrong] * len(names) + outcomes.predicted[is_wrong]
    pairs, counts = np.unique(codes, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:CONFUSED_PAIRS]
    return [
        {
            "true": names[pairs[place] // len(names)],
            "predicted": names[pairs[place] % len(names)],
            "clips": int(counts[place]),
        }
        for place in order
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What was evaluated, and how."""

    task: str
    """`zero-shot` or `linear-probe`."""
    protocol: str
    split: str
    dropped: Mapping[str, int]
    """Clips that are not counted, by reason."""
    model: Mapping[str, str | None]
    """`id` and `sha256`."""
    dataset: Mapping[str, str | None]
    """Name, revision and hashes."""
    seed: int
    parameters: Mapping[str, Any]
    """What else decides the figures."""
    packages: Sequence[str]
    """Libraries whose versions are told."""


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What came of an evaluation."""

    result: dict[str, Any]
    """The document that is written, and that the dataset's card reads."""
    outcomes: Outcomes
    """Of every counted clip."""
    names: Sequence[str]
    """The class list."""


def sum_up(run: Run, outcomes: Outcomes, names: Sequence[str]) -> Evaluation:
    """Return the outcomes of an evaluation with the document that sums them up.

    Raises:
        InputError: no clip is left to count.
    """
    if not len(outcomes.places):
        raise InputError(f"{run.dataset['source']}: no clip of split {run.split} can be counted")
    result = {
        "format": FORMAT_NAME,
        "task": run.task,
        "protocol": run.protocol,
        "split": run.split,
        **measure(outcomes),
        "interval": bootstrap(outcomes, run.seed),
        "clips": {
            "counted": len(outcomes.places),
            "dropped": {reason: count for reason, count in sorted(run.dropped.items()) if count},
        },
        "model": dict(run.model),
        "dataset": dict(run.dataset),
        "seed": run.seed,
        "parameters": dict(run.parameters),
        "per_class": measure_classes(outcomes, names),
        "confused": list_confused(outcomes, names),
        "versions": {package: version(package) for package in run.packages},
    }
    return Evaluation(result, outcomes, names)
