"""Which clips of train a probe learns from is the same question for every probe."""

from typing import Any

import numpy as np
import numpy.typing as npt

from clip_kinetics700_builder.config import EvaluationConfig, TrainConfig
from clip_kinetics700_builder.evaluate.clips import EvaluationSource, open_evaluation
from clip_kinetics700_builder.system.progress import Progress
from clip_kinetics700_builder.types import InputError

IntArray = npt.NDArray[np.int64]


def open_probe(
    config: EvaluationConfig, *, is_shuffled: bool = False, progress: Progress
) -> EvaluationSource:
    """Open a dataset for a probe, which learns from train and counts on another split.

    Raises:
        InputError: it is to count on train, or the dataset cannot be evaluated.
    """
    if config.split == "train":
        raise InputError("--split train: a probe is trained on it; give validation or test")
    return open_evaluation(
        config, "train", config.split, is_shuffled=is_shuffled, progress=progress
    )


def draw_clips(labels: IntArray, config: TrainConfig, *, name: str, seed: int) -> IntArray:
    """Return the (n,) places of the share of clips that is learned from, in random order.

    Args:
        labels: (n_clips,) class of each clip of train that can be learned from.
        config: which share.
        name: what messages call the dataset.
        seed: changes the order, and which clips are taken.

    Raises:
        InputError: there are none, or those taken are of fewer than two classes.
    """
    if not len(labels):
        raise InputError(f"{name}: no clip of train has a label and frames")
    n_taken = max(1, round(config.fraction * len(labels)))
    chosen = np.random.default_rng(seed).permutation(len(labels))[:n_taken]
    n_classes = len(np.unique(labels[chosen]))
    if n_classes < 2:
        raise InputError(f"{name}: the clips of train are of {n_classes} class; a probe needs two")
    return chosen


def count_held_out(n_clips: int, config: TrainConfig) -> int:
    """Return how many of the clips choose between classifiers: one at least, but not all."""
    return min(max(1, round(config.held_out * n_clips)), n_clips - 1)


def describe_train(
    source: EvaluationSource, config: TrainConfig, *, n_clips: int, n_used: int
) -> dict[str, Any]:
    """Return what a result says of the clips of train."""
    return {
        "clips": n_clips,
        "used": n_used,
        "fraction": config.fraction,
        "dropped": {k: n for k, n in sorted(source.dropped["train"].items()) if n},
    }
