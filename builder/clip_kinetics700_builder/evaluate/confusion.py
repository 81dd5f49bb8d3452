"""A picture shows which classes are taken for each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from clip_kinetics700_builder.evaluate.results import Outcomes, rank_confused
from clip_kinetics700_builder.system.files import atomic_path

CLASSES_SHOWN = 20
DOTS_PER_INCH = 150
LETTERS_SHOWN = 32


def draw_confusion(path: Path, outcomes: Outcomes, names: Sequence[str], title: str) -> None:
    """Write a PNG: rows are true classes, columns what they were taken for, in shares of the row.

    Of the classes those are shown that are confused most often with another one. The same outcomes
    give the same picture with the same version of matplotlib.
    """
    ranked = rank_confused(outcomes, len(names))
    worst = dict.fromkeys(number for *pair, _ in ranked for number in pair)
    # Where nothing is confused any classes show that.
    chosen = np.array([*worst] or np.unique(outcomes.labels))[:CLASSES_SHOWN]
    totals = np.bincount(outcomes.labels, minlength=len(names))[chosen]
    taken = [outcomes.predicted[outcomes.labels == number] for number in chosen]
    counts = np.array([[(found == number).sum() for number in chosen] for found in taken])
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
