"""What a person sees of clips that were got, or not: short tables of counts."""

from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from builder.download import DryRun
from builder.download_run import DownloadSummary
from builder.status import Status

COLUMNS = 80
TOP_CLASSES = 10


def print_dry_run(plan: DryRun, output: Path) -> None:
    """Print what a download would get."""
    console = Console(soft_wrap=True, markup=False, highlight=False)
    console.print(
        f"dry run: of {plan.n_wanted:,} clips {plan.n_held:,} are in {output}; "
        f"up to {plan.n_to_get:,} would be got"
    )
    if plan.n_archives:
        console.print(f"{plan.n_archives:,} archives of {plan.n_bytes:,} bytes would be read")
    for line in plan.unmeasured:
        console.print(line)


def print_download(summary: DownloadSummary, output: Path) -> None:
    """Print what a download did."""
    console = Console(soft_wrap=True, markup=False, highlight=False)
    sources = join_counts(summary.got) or "none"
    console.print(f"{output}: {summary.held:,} clips were there, got {sources}")
    if summary.reasons:
        console.print(f"not got: {join_counts(summary.reasons)}; `status` says more")


def print_status(status: Status, directory: Path) -> None:
    """Print clips, missing share and reasons by split, attempts by source, the worst classes."""
    console = Console(width=COLUMNS, markup=False, highlight=False)
    console.print(f"{directory}: a {status.kind}", soft_wrap=True)
    table = Table()
    for name in ("split", "clips", "here", "missing"):
        table.add_column(name, justify="left" if name == "split" else "right")
    table.add_column("why they are missing", overflow="fold")
    for split in status.splits:
        count = status.rows[split]
        share = f"{1 - status.held[split] / count:.1%}"
        why = join_counts(status.reasons.get(split, Counter()))
        table.add_row(split, f"{count:,}", f"{status.held[split]:,}", share, why)
    console.print(table)
    console.print(tabulate_sources(status))
    for line in status.damaged:
        console.print(f"damaged: {line}", soft_wrap=True)
    console.print(tabulate_classes(status))


def tabulate_sources(status: Status) -> Table:
    """Return the attempts of each source by what came of them."""
    table = Table()
    table.add_column("source", overflow="fold")
    table.add_column("attempts", justify="right")
    table.add_column("what came of them", overflow="fold")
    for name, counts in status.sources.items():
        table.add_row(name, f"{sum(counts.values()):,}", join_counts(counts))
    return table


def tabulate_classes(status: Status) -> Table:
    """Return the classes of which the largest share is missing."""
    table = Table()
    table.add_column("class", overflow="fold")
    for name in ("clips", "missing", "share"):
        table.add_column(name, justify="right")
    ranked = sorted(status.classes.items(), key=lambda item: (-item[1][1] / item[1][0], item[0]))
    for name, (count, missing) in ranked[:TOP_CLASSES]:
        table.add_row(
            name or "without a class", f"{count:,}", f"{missing:,}", f"{missing / count:.1%}"
        )
    return table


def join_counts(counts: "Counter[str]") -> str:
    """Return how many there are of each, the most frequent first."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.most_common())
