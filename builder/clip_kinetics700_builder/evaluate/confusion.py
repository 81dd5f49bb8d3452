"""A picture shows which classes are taken for each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from clip_kinetics700_builder.evaluate.results import NOTHING, IntArray, Outcomes
from clip_kinetics700_builder.system.files import atomic_path

CLASSES_SHOWN = 20
DOTS_PER_INCH = 150
LETTERS_SHOWN = 32


def choose_worst(outcomes: Outcomes, n_classes: int) -> IntArray:
    """Return (n,) int64 classes of the most confused pairs, the worst pair first."""
    counts = count_pairs(outcomes, n_classes)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[: int((counts > 0).sum())]
    pairs = np.stack(np.unravel_index(order, counts.shape), axis=1)
    chosen = list(dict.fromkeys(pairs.ravel().tolist()))[:CLASSES_SHOWN]
    return np.array(chosen, np.int64)


def count_pairs(outcomes: Outcomes, n_classes: int) -> IntArray:
    """Return (n_classes, n_classes): of the clips of a row's class, those taken for a column's."""
    is_found = outcomes.predicted != NOTHING
    codes = outcomes.labels[is_found] * n_classes + outcomes.predicted[is_found]
    return np.bincount(codes, minlength=n_classes**2).reshape(n_classes, n_classes)


def draw_confusion(path: Path, outcomes: Outcomes, names: Sequence[str], title: str) -> None:
    """Write a PNG: rows are true classes, columns what they were taken for, in shares of the row.

    Of the classes those are shown that are confused most often with another one. The same outcomes
    give the same picture with the same version of matplotlib.
    """
    chosen = choose_worst(outcomes, len(names))
    if not len(chosen):
        # Nothing is confused: any classes show that.
        chosen = np.unique(outcomes.labels)[:CLASSES_SHOWN]
    totals = np.bincount(outcomes.labels, minlength=len(names))[chosen]
    counts = count_pairs(outcomes, len(names))[np.ix_(chosen, chosen)]
    shares = counts / np.maximum(totals, 1)[:, None]
    labels = [shorten(names[number]) for number in chosen]
    size = 3 + 0.3 * len(chosen)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes: Any = figure.add_subplot()
    image = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("taken for")
    axes.set_ylabel("class")
    axes.set_title(title)
    figure.colorbar(image, label="share of the clips of a class")
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})


def shorten(name: str) -> str:
    """Return a class name that fits an axis; a dollar sign would begin a formula."""
    text = name if len(name) <= LETTERS_SHOWN else f"{name[: LETTERS_SHOWN - 3]}..."
    return text.replace("$", r"\$")
