"""What a person sees at the end of a run: short tables of counts."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from builder.config import EncodeConfig
from builder.parts import is_done
from builder.pipeline import EncodeSummary
from builder.prepare import Plan
from builder.work import parts_directory
from clip_kinetics700.schema import SPLITS


def print_manifest(
    manifest: Mapping[str, Any], output: Path, summary: EncodeSummary | None
) -> None:
    """Print rows, samples, failures by reason and frames of each split, and the rate."""
    totals = manifest["totals"]
    table = Table(title=str(output), title_justify="left")
    for name in ("split", "rows", "samples", "failures", "frames", "why clips failed"):
        numeric = name in ("rows", "samples", "failures", "frames")
        table.add_column(name, justify="right" if numeric else "left")
    rows = [(split, totals["splits"][split]) for split in SPLITS if split in totals["splits"]]
    for name, counts in [*rows, ("all", totals)]:
        reasons = ", ".join(f"{n} {r}" for r, n in sorted(counts["failures_by_reason"].items()))
        numbers = [f"{counts[c]:,}" for c in ("rows", "samples", "failures", "frames")]
        table.add_row(name, *numbers, reasons, end_section=name == rows[-1][0])
    console = Console(soft_wrap=True, markup=False)
    console.print(table)
    if summary is not None and summary.n_clips:
        rate = summary.n_clips / summary.seconds
        console.print(f"{summary.n_clips} clips in {summary.seconds:.1f} s: {rate:.2f} clips/s")


def print_encoded(summary: EncodeSummary, config: EncodeConfig) -> None:
    """Print what one run of encode did, and what is left."""
    console = Console(soft_wrap=True, markup=False)
    rate = summary.n_clips / summary.seconds if summary.n_clips else 0.0
    console.print(
        f"{summary.n_parts} parts with {summary.n_clips} clips in {summary.seconds:.1f} s "
        f"({rate:.2f} clips/s); {summary.n_parts_left} parts are left in {config.work}"
    )


def print_plan(plan: Plan, config: EncodeConfig) -> None:
    """Print what a run would do: clips, found files and parts of each split."""
    table = Table(title="dry run: nothing was written", title_justify="left")
    for name in ("split", "clips", "found", "missing", "empty files", "parts"):
        table.add_column(name, justify="left" if name == "split" else "right")
    parts = Counter(part.name.rsplit("-", 1)[0] for part in plan.parts)
    for split, counts in plan.count_found().items():
        numbers = [counts.total() if hasattr(counts, "total") else sum(counts.values())]
        numbers += [counts[outcome] for outcome in ("found", "missing", "empty_file")]
        table.add_row(split, *map("{:,}".format, numbers), str(parts[split]))
    console = Console(soft_wrap=True, markup=False)
    console.print(table)
    directory = parts_directory(config.work)
    n_done = sum(is_done(directory, part) for part in plan.own_parts)
    console.print(
        f"rank {config.rank} of {config.world_size} would encode "
        f"{len(plan.own_parts) - n_done} of its {len(plan.own_parts)} parts, {n_done} are done"
    )
