"""A linear probe trains a classifier on the frames of train and counts on another split.

`card` is the upstream card's protocol on scikit-learn. `mean-pooled` is the better one, which
chooses C on a held-out part of train; it takes a few minutes of all of Kinetics-700.
"""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from clip_kinetics700.texts import pool_clips, take_center
from clip_kinetics700_builder.config import LinearProbeConfig
from clip_kinetics700_builder.evaluate.clips import ClipBatch, EvaluationSource
from clip_kinetics700_builder.evaluate.results import (
    Evaluation,
    Outcomes,
    join_outcomes,
    rank_classes,
    sum_up,
)
from clip_kinetics700_builder.evaluate.train_clips import (
    count_held_out,
    describe_train,
    draw_clips,
    open_probe,
)
from clip_kinetics700_builder.system.progress import Progress, no_progress
from clip_kinetics700_builder.types import Float32Array

if TYPE_CHECKING:  # it imports torch
    from clip_kinetics700_builder.evaluate.softmax_regression import Fit, Prepared

log = logging.getLogger(__name__)

CARD_C = 0.316
CARD_MAX_ITERATIONS = 1000
# Half decades, for features of length 1.
C_VALUES = (1.0, 3.16, 10.0, 31.6, 100.0, 316.0, 1000.0, 3160.0, 10000.0)
SWEEP_TOLERANCE = 1e-4
FINAL_TOLERANCE = 1e-6
ROWS_PER_PIECE = 8192

IntArray = npt.NDArray[np.int64]
Score: TypeAlias = Callable[[Float32Array], npt.NDArray[Any]]
"""Returns (n, n_classes) scores of (n, width) features; -inf for a class it never saw."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """One vector a clip."""

    rows: Float32Array
    """(n, width) float32."""
    labels: IntArray
    """(n,) numbers of the classes."""


def evaluate_linear_probe(
    config: LinearProbeConfig, *, progress: Progress = no_progress
) -> Evaluation:
    """Return the result of a linear probe, and what came of each clip.

    Raises:
        InputError: the dataset cannot be used, or train has clips of fewer than two classes.
        DamageError: a clip is damaged, and damage is not to be skipped.
    """
    evaluation, is_card = config.evaluation, config.protocol == "card"
    source = open_probe(evaluation, progress=progress)
    names = source.labels.names
    train = read_features(source, is_card=is_card)
    n_clips = len(train.labels)
    train = choose_rows(train, config, source.name)
    if is_card:
        score, parameters = train_card(train, len(names))
    else:
        n_held_out = count_held_out(len(train.labels), config.train)
        score, parameters = train_mean_pooled(train, len(names), n_held_out=n_held_out)
    batches = source.read(evaluation.split)
    outcomes = join_outcomes([score_batch(b, source, score, is_card=is_card) for b in batches])
    return sum_up(
        source,
        outcomes,
        packages=("numpy", "scikit-learn") if is_card else ("numpy", "scipy", "torch"),
        task="linear-probe",
        protocol=config.protocol,
        model=parameters.pop("classifier"),
        model_sha256=None,
        parameters={
            "classes": len(names),
            "train": describe_train(
                source, config.train, n_clips=n_clips, n_used=len(train.labels)
            ),
            **parameters,
        },
    )


def read_features(source: EvaluationSource, *, is_card: bool) -> Features:
    """Return the features of train; clips without frames, or with NaN, are dropped."""
    rows, labels = [np.empty((0, source.width), np.float32)], [np.empty(0, np.int64)]
    for batch in source.read("train"):
        there = batch.sizes > 0
        source.dropped["train"]["no_frames"] += int((~there).sum())
        if not there.any():
            continue
        features = make_features(batch, is_card=is_card)
        is_finite = np.isfinite(features).all(axis=1)
        rows.append(features[is_finite])
        labels.append(batch.labels[there][is_finite])
        source.dropped["train"]["not_finite"] += int((~is_finite).sum())
    return Features(np.concatenate(rows), np.concatenate(labels))


def make_features(batch: ClipBatch, *, is_card: bool) -> Float32Array:
    """Return the (n, width) float32 features of the clips of a batch that have frames."""
    sizes = batch.sizes[batch.sizes > 0]
    return take_center(batch.frames, sizes) if is_card else pool_clips(batch.frames, sizes)


def choose_rows(features: Features, config: LinearProbeConfig, name: str) -> Features:
    """Return the share of the rows that is trained on.

    They stay in order for the card's protocol, of which scikit-learn sees what upstream saw; the
    other one takes them in a random order, so that any run of rows is a random part.
    """
    seed = config.evaluation.seed
    chosen = draw_clips(features.labels, config.train, name=name, seed=seed)
    if config.protocol == "card":
        chosen.sort()
        if len(chosen) == len(features.labels):
            return features
    return Features(features.rows[chosen], features.labels[chosen])


def train_card(train: Features, n_classes: int) -> tuple[Score, dict[str, Any]]:
    """Train as upstream's card did, with scikit-learn's defaults: lbfgs, L2.

    Of 700 classes and all rows that takes hours.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(random_state=0, C=CARD_C, max_iter=CARD_MAX_ITERATIONS)
    with warnings.catch_warnings():
        # The result states how many iterations there were.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train.rows, train.labels)

    def score(rows: Float32Array) -> npt.NDArray[Any]:
        scores = np.full((len(rows), n_classes), -np.inf)
        scores[:, model.classes_.astype(np.int64)] = model.predict_proba(rows)
        return scores

    return score, {
        "classifier": "scikit-learn LogisticRegression",
        "c": CARD_C,
        "max_iterations": CARD_MAX_ITERATIONS,
        "iterations": int(model.n_iter_.max()),
        "feature": "centre frame, not normalised",
    }


def train_mean_pooled(
    train: Features, n_classes: int, *, n_held_out: int
) -> tuple[Score, dict[str, Any]]:
    """Choose C on the held-out part of train, then train on all of it; uses up the features."""
    from clip_kinetics700_builder.evaluate.softmax_regression import (
        fit_classifier,
        prepare_features,
    )

    seen = np.unique(train.labels)
    data = prepare_features(train.rows, np.searchsorted(seen, train.labels))
    held, rest = data.take(0, n_held_out), data.take(n_held_out, len(train.labels))
    best, sweep, n_passes = sweep_c(rest, held, len(seen))
    c = max(sweep, key=lambda step: step["top1"])["c"]
    final = fit_classifier(data, len(seen), c=c, tolerance=FINAL_TOLERANCE, start=best)
    log.info("C %g: trained on all rows, %d passes", c, final.n_passes)
    weights, bias = final.restore(data)

    def score(rows: Float32Array) -> npt.NDArray[Any]:
        scores = np.full((len(rows), n_classes), -np.inf, np.float32)
        scores[:, seen] = rows @ weights + bias
        return scores

    return score, {
        "classifier": "multinomial logistic regression",
        "c": c,
        "sweep": sweep,
        "held_out": n_held_out,
        "passes": n_passes + final.n_passes,
        "feature": "normalised mean of the normalised frames",
    }


def sweep_c(
    rest: "Prepared", held: "Prepared", n_classes: int
) -> tuple["Fit | None", list[dict[str, float]], int]:
    """Return the best classifier for what is held out, top-1 of each C tried, and passes taken.

    C goes up, each classifier begins where the one before ended, and two that gain nothing end it.
    """
    from clip_kinetics700_builder.evaluate.softmax_regression import fit_classifier

    best, fit, sweep, n_passes, n_worse = None, None, list[dict[str, float]](), 0, 0
    for c in C_VALUES:
        fit = fit_classifier(rest, n_classes, c=c, tolerance=SWEEP_TOLERANCE, start=fit)
        top1 = measure_top1(fit.score, held.rows, np.asarray(held.labels))
        log.info("C %g: top-1 %.4f of what is held out, %d passes", c, top1, fit.n_passes)
        n_passes += fit.n_passes
        gains = top1 > max((step["top1"] for step in sweep), default=-1.0)
        best, n_worse = (fit, 0) if gains else (best, n_worse + 1)
        sweep.append({"c": c, "top1": top1})
        if n_worse == 2:
            break
    else:
        log.warning("C %g is the largest that is tried, and may not be the best", c)
    return best, sweep, n_passes


def measure_top1(score: Callable[[Any], npt.NDArray[Any]], rows: Any, labels: IntArray) -> float:
    """Return the share of (n, width) rows whose label, (n,), has the highest score."""
    begins = range(0, len(labels), ROWS_PER_PIECE)
    found = [score(rows[begin : begin + ROWS_PER_PIECE]).argmax(axis=1) for begin in begins]
    return float((np.concatenate(found) == labels).mean())


def score_batch(
    batch: ClipBatch, source: EvaluationSource, score: Score, *, is_card: bool
) -> Outcomes:
    """Return the outcomes of a batch.

    A clip without frames is dropped by the card's protocol, and wrong by the other one; one with
    values that are not finite is wrong.
    """
    there = batch.sizes > 0
    scores = np.full((len(batch.labels), len(source.labels.names)), -np.inf)
    if there.any():
        features = make_features(batch, is_card=is_card)
        is_finite = np.isfinite(features).all(axis=1)
        if is_finite.any():
            scores[np.flatnonzero(there)[is_finite]] = score(features[is_finite])
    if not is_card:
        return rank_classes(scores, batch.labels)
    source.dropped[source.config.split]["no_frames"] += int((~there).sum())
    return rank_classes(scores[there], batch.labels[there])
