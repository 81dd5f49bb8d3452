"""matplotlib draws each picture of the card as PNG from its numbers, here alone.

The same numbers give the same bytes: no date, no version, no settings of the user. Each picture
holds its numbers as JSON in the text chunk `Description`, so that anybody can check or redraw it.
"""

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from clip_kinetics700_builder.dataset.layout import CLASS_BALANCE, FRAMES_PER_CLIP

# Okabe and Ito's colours, which the colour-blind can tell apart; each split has a panel as well.
COLOURS = {"train": "#0072B2", "validation": "#D55E00", "test": "#009E73"}
# Twice the 800 pixels that a card is wide, where 10 points are 14 pixels.
WIDTH_INCHES, DOTS_PER_INCH = 8.0, 200
MOST_NAMES = 30
MOST_LETTERS = 24
MOST_BARS = 40
WHOLE_NUMBERS = StrMethodFormatter("{x:,.0f}")
SETTINGS: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    # Class names are no formulas.
    "text.parse_math": False,
}


def draw_all(pictures: Mapping[str, Mapping[str, Any]]) -> dict[str, bytes]:
    """Return each picture as PNG, of the numbers under its name."""
    ways = {CLASS_BALANCE: draw_class_balance, FRAMES_PER_CLIP: draw_frames_per_clip}
    with warnings.catch_warnings():
        # Names that the font cannot spell are drawn as boxes, which nobody needs to be told of.
        warnings.simplefilter("ignore")
        return {name: ways[name](numbers) for name, numbers in pictures.items()}


def draw_class_balance(numbers: Mapping[str, Any]) -> bytes:
    """Return the picture of how many clips each class has, a panel a split, largest class first."""
    splits = numbers["samples_by_label"]
    n_named = max(sum(map(bool, counts)) for counts in splits.values())
    figure, panels = make_panels(len(splits), 2.9 if n_named <= MOST_NAMES else 2.1)
    for axes, (split, counts) in zip(panels, splits.items(), strict=True):
        draw_ranks(axes, split, counts, numbers["class_names"])
    panels[-1].set_xlabel("classes, those with most clips first")
    return save_figure(figure, numbers)


def draw_ranks(axes: Axes, split: str, counts: Sequence[int], names: Sequence[str]) -> None:
    """Draw the classes of one split that have clips."""
    order = sorted(range(len(counts)), key=lambda label: -counts[label])
    order = [label for label in order if counts[label]]
    heights = [counts[label] for label in order]
    median = float(np.median(heights))
    places = range(1, len(order) + 1)
    axes.bar(places, heights, 0.8 if len(order) <= MOST_NAMES else 1.0, color=COLOURS[split])
    axes.axhline(median, color="black", linewidth=1, linestyle="--")
    axes.set_title(
        f"{split}: {sum(heights):,} clips, {len(order):,} of {len(names):,} classes; "
        f"largest {heights[0]:,}, median {median:,g} (dashed), smallest {heights[-1]:,}"
    )
    axes.set_ylabel("clips")
    axes.set_xlim(0.5, len(order) + 0.5)
    if len(order) <= MOST_NAMES:
        labels = [shorten(names[label]) for label in order]
        axes.set_xticks(places, labels, rotation=45, ha="right", fontsize=8)


def draw_frames_per_clip(numbers: Mapping[str, Any]) -> bytes:
    """Return the picture of how many frames clips have, a panel a split, on one axis."""
    splits = numbers["samples_by_n_frames"]
    figure, panels = make_panels(len(splits), 1.9)
    longest = max(int(name) for counts in splits.values() for name in counts)
    step = -(-longest // MOST_BARS)
    for axes, (split, counts) in zip(panels, splits.items(), strict=True):
        draw_lengths(axes, split, {int(name): count for name, count in counts.items()}, step)
        axes.set_xlim(0.5, longest + step - 0.5)
    unit = "frames of a clip" if step == 1 else f"frames of a clip, {step:,} in a bar"
    panels[-1].set_xlabel(unit)
    return save_figure(figure, numbers)


def draw_lengths(axes: Axes, split: str, counts: Mapping[int, int], step: int) -> None:
    """Draw the clips of one split by their frames, so many lengths in a bar."""
    bars: dict[int, int] = {}
    for n_frames, count in counts.items():
        first = (n_frames - 1) // step * step + 1
        bars[first] = bars.get(first, 0) + count
    centres = [first + (step - 1) / 2 for first in bars]
    drawn = axes.bar(centres, list(bars.values()), 0.8 * step, color=COLOURS[split])
    n_clips = sum(counts.values())
    n_frames = sum(length * count for length, count in counts.items())
    axes.set_title(f"{split}: {n_clips:,} clips, {n_frames:,} frames")
    axes.set_ylabel("clips, log scale")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(WHOLE_NUMBERS)
    axes.minorticks_off()
    # A bar of one clip must be seen, and the largest has its number above it.
    axes.set_ylim(0.5, 6 * max(bars.values()))
    if len(bars) <= MOST_BARS // 2:
        axes.bar_label(drawn, [f"{count:,}" for count in bars.values()], fontsize=8, padding=1)


def make_panels(n_panels: int, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure of panels below each other, each so many inches high."""
    mpl.rcdefaults()
    mpl.rcParams.update(SETTINGS)
    size = (WIDTH_INCHES, height * n_panels)
    figure = Figure(figsize=size, dpi=DOTS_PER_INCH, layout="constrained")
    grid = figure.subplots(n_panels, 1, squeeze=False)
    panels: list[Axes] = list(grid[:, 0])
    for axes in panels:
        for axis, most_ticks in ((axes.xaxis, 12), (axes.yaxis, 5)):
            axis.set_major_locator(MaxNLocator(most_ticks, integer=True))
            axis.set_major_formatter(WHOLE_NUMBERS)
    return figure, panels


def save_figure(figure: Figure, numbers: Mapping[str, Any]) -> bytes:
    """Return a figure as PNG."""
    stream = io.BytesIO()
    text = json.dumps(numbers, ensure_ascii=True)
    figure.savefig(stream, format="png", metadata={"Software": None, "Description": text})
    return stream.getvalue()


def shorten(name: str) -> str:
    """Return a name that fits below its bar."""
    return name if len(name) <= MOST_LETTERS else name[: MOST_LETTERS - 1] + "…"
