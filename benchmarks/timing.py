"""`measure` times several ways in turns, so that a busy machine disturbs all of them alike."""

import gc
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

Measured = dict[str, dict[str, Any]]
WIDTH = 80


@dataclass(frozen=True, slots=True)
class Way:
    """One way to read samples, and the ways that it is compared with."""

    name: str
    read: Callable[[], int]
    """Reads all, opening included, and returns how many samples there were."""
    peers: tuple[str, ...] = ()
    """Names of the ways that it is compared with."""
    target: float | None = None
    """How many times as fast as each peer it should be."""
    share: float = 1.0
    """Share of the samples that it reads; a slow way reads fewer."""


def measure(ways: Sequence[Way], n_samples: int, *, repeats: int) -> Measured:
    """Time every way in turns, after one untimed turn, and return its rates and ratios by name."""
    rates: dict[str, list[float]] = {way.name: [] for way in ways}
    for turn in range(repeats + 1):
        for way in ways:
            gc.collect()
            begin = time.perf_counter()
            count = way.read()
            seconds = time.perf_counter() - begin
            if count != int(n_samples * way.share):
                raise RuntimeError(f"{way.name}: read {count} samples of {n_samples}")
            if turn:
                rates[way.name].append(count / seconds)
    return {way.name: describe_way(way, rates) for way in ways}


def describe_way(way: Way, rates: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return median rate, the rate of each turn and the median of the turns' ratios."""
    ratios = {
        peer: median(own / other for own, other in zip(rates[way.name], rates[peer], strict=True))
        for peer in way.peers
    }
    return {
        "samples_per_second": median(rates[way.name]),
        "turns": rates[way.name],
        "ratios": ratios,
        "target": way.target,
    }


def print_measured(title: str, measured: Measured) -> None:
    """Print rates, ratios and targets as a table within 80 columns."""
    table = Table("way", title=title, title_justify="left")
    table.add_column("samples/s", justify="right")
    table.add_column("ratio to", justify="left")
    table.add_column("target", justify="right")
    for name, row in measured.items():
        ratios = "\n".join(f"{ratio:.3g}x {peer}" for peer, ratio in row["ratios"].items())
        target = "" if row["target"] is None else f"{row['target']:g}x"
        table.add_row(name, f"{row['samples_per_second']:,.0f}", ratios, target)
    Console(width=WIDTH).print(table)


def write_json(path: Path | None, document: Any) -> None:
    """Write a JSON document, if a path is given."""
    if path is not None:
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
