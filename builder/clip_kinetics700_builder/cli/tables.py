"""A person sees these short tables of counts at the end of a run."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from clip_kinetics700_builder.card.results import EvaluationResult
from clip_kinetics700_builder.cli.terminal import clean
from clip_kinetics700_builder.config import EncodeConfig
from clip_kinetics700_builder.dataset.manifest import Manifest
from clip_kinetics700_builder.download.download import DryRun
from clip_kinetics700_builder.download.run import DownloadSummary
from clip_kinetics700_builder.status import Status
from clip_kinetics700_builder.system.files import make_printable

if TYPE_CHECKING:  # they import torch, which most commands do without
    from clip_kinetics700_builder.build import EncodeSummary
    from clip_kinetics700_builder.engines.cost import Cost, CostModel
    from clip_kinetics700_builder.engines.prepare import Job
    from clip_kinetics700_builder.evaluate.search import Hit

COLUMNS = 80
ANNOTATION_COLUMNS = 100
TOP_CLASSES = 5
WORST_CLASSES = 10
DRY_RUN = "dry run: nothing was written"
ODDITY_TEXTS = {
    "damaged": "samples that cannot be read",
    "empty": "samples of no frames",
    "other_width": "samples of another width",
    "not_finite": "samples with values that are not finite",
    "zero_frames": "frames of zeros only",
    "label_outside": "label ids outside of the classes",
    "duplicate_keys": "keys that came before",
    "duplicate_clips": "clips that came before in their split",
    "clips_in_several_splits": "clips that are in another split too",
}
RELEASES = {
    "version": "version",
    "split": "split",
    "rows": "rows",
    "classes": "classes",
    "without_label": "no label",
    "other_length": "not 10 s",
    "is_cc": "CC",
    "is_cc_unknown": "CC unknown",
}
LEAKAGE = {
    "version": "version",
    "split": "split",
    "clips": "clips",
    "in_train_of": "in train of",
    "same_segment": "same clips",
    "overlapping": "overlapping",
}


def make_table(
    *headings: str,
    rows: Iterable[Iterable[Any]],
    texts: Collection[str] = ("split",),
    title: str = "",
) -> Table:
    """Return a table of numbers; columns named in `texts` are words, which fold."""
    table = Table(title=title or None, title_justify="left")
    for heading in headings:
        is_text = heading in texts
        table.add_column(
            heading,
            justify="left" if is_text else "right",
            overflow="fold" if is_text else "ellipsis",
        )
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    return table


class CleanConsole(Console):
    """Prints what is clean, in tables too."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text as it is shown; everything that is not built by us comes by here."""
        return super().render_str(clean(text), **options)


def open_console(width: int | None = None) -> Console:
    """Return the console, of a fixed width or of lines that are never cut."""
    return CleanConsole(
        width=width, soft_wrap=width is None, markup=False, highlight=False, emoji=False
    )


def print_manifest(manifest: Manifest, output: Path, summary: "EncodeSummary | None") -> None:
    """Print rows, samples, failures by reason and frames of each split, and the rate."""
    names = ("rows", "samples", "failures", "frames")
    why = "why clips failed"
    rows = []
    for split, totals in [*manifest.splits.items(), ("all", manifest.totals)]:
        reasons = ", ".join(f"{n} {r}" for r, n in sorted(totals.failures_by_reason.items()))
        rows.append([split, *(getattr(totals, name) for name in names), reasons])
    table = make_table("split", *names, why, rows=rows, texts=("split", why), title=str(output))
    table.rows[-2].end_section = True
    console = open_console()
    console.print(table)
    if summary is not None and summary.n_clips:
        rate = summary.n_clips / summary.seconds
        console.print(f"{summary.n_clips} clips in {summary.seconds:.1f} s: {rate:.2f} clips/s")


def print_encoded(summary: "EncodeSummary", work: Path) -> None:
    """Print what one run of encode did, and what is left."""
    rate = summary.n_clips / summary.seconds if summary.n_clips else 0.0
    open_console().print(
        f"{summary.n_parts} parts with {summary.n_clips} clips in {summary.seconds:.1f} s "
        f"({rate:.2f} clips/s); {summary.n_parts_left} parts are left in {work}"
    )


def print_plan(job: "Job", config: EncodeConfig) -> None:
    """Print what a run would do: clips, found files and parts of each split."""
    names = ("found", "missing", "empty_file")
    parts = Counter(part.name.rsplit("-", 1)[0] for part in job.parts)
    rows = [
        (split, counts.total(), *(counts[name] for name in names), parts[split])
        for split, counts in job.count_found().items()
    ]
    headings = ("split", "clips", "found", "missing", "empty files", "parts")
    console = open_console()
    console.print(make_table(*headings, rows=rows, title=DRY_RUN))
    if job.archives:
        console.print(f"{len(job.archives)} archives would be read for the clips that are missing")
    n_left = len(job.list_unfinished(config.work))
    console.print(
        f"rank {job.rank} of {job.world_size} would encode {n_left} of its "
        f"{len(job.own_parts)} parts, {len(job.own_parts) - n_left} are done"
    )


def print_cost(model: "CostModel", cost: "Cost") -> None:
    """Print what a build would take, and what that is based on."""
    console = open_console()
    console.print(
        f"{cost.n_clips:,} clips would take {format_seconds(cost.seconds)} on this machine, "
        f"{decimal(cost.dataset_bytes)} of dataset and {decimal(cost.work_bytes)} of parts"
    )
    known = "as is usual, no clip here to measure"
    if model.n_decoded:
        known = f"measured on {model.n_decoded} of them"
    encoder = "a GPU" if model.on_gpu else f"{model.n_cores} cores"
    console.print(
        f"decoding: {1000 * model.decode_seconds:.0f} ms of a core and {model.n_frames:.3g} frames "
        f"a clip ({known}); encoding: {1 / model.frame_seconds:.4g} frames/s on {encoder}"
    )


def format_seconds(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def print_conversion(plan: Iterable[tuple[str, int, int]], source: str, output: Path) -> None:
    """Print what a conversion would read: files and bytes of each split."""
    console = open_console()
    console.print(make_table("split", "files", "bytes", rows=plan, title=DRY_RUN))
    console.print(f"{source} would be converted into {output}")


def print_info(info: Mapping[str, Any]) -> None:
    """Print what `info.describe_source` returns, in tables of at most 80 columns."""
    console = open_console(COLUMNS)
    console.print(str(info["source"]), soft_wrap=True)
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in describe_info(info):
        table.add_row(name, text)
    console.print(table)
    splits = [*info["splits"].items(), ("all", info)]
    rows = [(split, counts["samples"], counts["frames"]) for split, counts in splits]
    console.print(make_table("split", "samples", "frames", rows=rows))
    console.print(tabulate_classes(info))
    oddities = [(text, info["oddities"][name]) for name, text in ODDITY_TEXTS.items()]
    rows = [(text, oddity["count"], oddity["first"] or "") for text, oddity in oddities]
    texts = ("odd", "the first")
    console.print(make_table("odd", "count", "the first", rows=rows, texts=texts))


def describe_info(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a dataset is and was made with, widths, frames and norms, as names and texts."""
    there = {True: "yes", False: "no"}
    made_with = info["provenance"] or {"provenance": "unknown"}
    names = ("provenance", "model", "model_revision", "frames_per_second", "dtype", "seed")
    bytes_of_samples, bytes_of_all = f"{info['bytes']:,}", f"{info['bytes_of_all_files']:,}"
    return [
        ("dialect", info["dialect"]),
        ("files", f"{info['n_files']:,} of {bytes_of_samples} bytes; all files {bytes_of_all}"),
        ("index, manifest", f"{there[info['has_index']]}, {there[info['has_manifest']]}"),
        *((name, str(made_with[name])) for name in names if made_with.get(name) is not None),
        ("width", join_top(info["widths"])),
        ("type", join_top(info["dtypes"])),
        ("frames of a sample", join_extremes(info["frames_per_sample"])),
        ("samples by frames", join_top((info["frames_per_sample"] or {}).get("counts", {}))),
        ("norm of a frame", join_extremes(info["norms"])),
    ]


def join_top(counts: Mapping[str, int]) -> str:
    """Return how many there are of each, the most frequent first; a single one by name alone."""
    if len(counts) == 1:
        return next(iter(counts))
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    texts = [f"{name}: {count:,}" for name, count in ranked[:TOP_CLASSES]]
    left = len(ranked) - TOP_CLASSES
    return ", ".join([*texts, f"{left:,} others"] if left > 0 else texts)


def join_extremes(numbers: Mapping[str, float] | None) -> str:
    """Return minimum, median, mean and maximum in words."""
    names = ("min", "median", "mean", "max")
    return "" if numbers is None else ", ".join(f"{n} {numbers[n]:,.4g}" for n in names)


def tabulate_classes(info: Mapping[str, Any]) -> Table:
    """Return the classes with most samples, and how many have none."""
    classes = info["classes"]
    heading = f"{'' if classes['is_complete'] else 'more than '}{classes['number']:,} classes"
    # Captions of one's own may be whole paragraphs.
    rows = [
        (make_printable(name if len(name) <= COLUMNS else f"{name[:COLUMNS]}..."), count)
        for name, count in list(classes["counts"].items())[:TOP_CLASSES]
    ]
    table = make_table(heading, "samples", rows=rows, texts=(heading,))
    table.add_section()
    table.add_row("without a caption or class", f"{info['without_class']:,}")
    table.add_row("without a label id", f"{info['without_label_id']:,}")
    return table


def print_download_plan(plan: DryRun, output: Path) -> None:
    """Print what a download would get."""
    console = open_console()
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
    console = open_console()
    sources = join_counts(summary.got) or "none"
    console.print(f"{output}: {summary.held:,} clips were there, got {sources}")
    if summary.reasons:
        console.print(f"not got: {join_counts(summary.reasons)}; `status` says more")


def print_status(status: Status, directory: Path) -> None:
    """Print clips, missing share and reasons by split, attempts by source, the worst classes."""
    console = open_console(COLUMNS)
    console.print(f"{directory}: a {status.kind}", soft_wrap=True)
    rows: list[tuple[Any, ...]] = []
    for split in status.splits:
        count, held = status.rows[split], status.held[split]
        reasons = join_counts(status.reasons.get(split, Counter()))
        rows.append((split, count, held, f"{1 - held / count:.1%}", reasons))
    why = "why they are missing"
    texts = ("split", why)
    console.print(make_table("split", "clips", "here", "missing", why, rows=rows, texts=texts))
    rows = [(name, counts.total(), join_counts(counts)) for name, counts in status.sources.items()]
    texts = ("source", "what came of them")
    console.print(make_table("source", "attempts", "what came of them", rows=rows, texts=texts))
    for line in status.damaged:
        console.print(f"damaged: {line}", soft_wrap=True)
    ranked = sorted(status.classes.items(), key=lambda item: (-item[1][1] / item[1][0], item[0]))
    rows = [
        (name or "without a class", count, missing, f"{missing / count:.1%}")
        for name, (count, missing) in ranked[:WORST_CLASSES]
    ]
    headings = ("class", "clips", "missing", "share")
    console.print(make_table(*headings, rows=rows, texts=("class",)))


def join_counts(counts: "Counter[str]") -> str:
    """Return how many there are of each, the most frequent first."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.most_common())


def print_annotations(description: Mapping[str, Any]) -> None:
    """Print what `compare.describe_table` returns."""
    console = open_console(ANNOTATION_COLUMNS)
    console.print(tabulate("", RELEASES, description["releases"]))
    for version, counts in description["duplicates"].items():
        console.print(
            f"{version}: {counts['segments']:,} clips are there several times, "
            f"{counts['ids_with_several_segments']:,} ids have several segments"
        )
    if description["leakage"]:
        title = "held-out clips in a training split"
        console.print(tabulate(title, LEAKAGE, description["leakage"]))


def tabulate(title: str, columns: Mapping[str, str], found: Sequence[Mapping[str, Any]]) -> Table:
    """Return counts by name as a table."""
    texts = ("version", "split", "in train of")
    rows = [[counts[name] for name in columns] for counts in found]
    return make_table(*columns.values(), rows=rows, texts=texts, title=title)


def print_result(result: EvaluationResult) -> None:
    """Print the metrics with their intervals, the worst classes and the most confused pairs."""
    console = open_console(COLUMNS)
    names, metrics = ("top-1", "top-5", "mean of the two"), (result.top1, result.top5, result.mean)
    model, clips = make_printable(result.model), f"{result.counted:,} clips of {result.split}"
    rows: list[tuple[Any, ...]] = [
        (name, f"{metric.value:.4f}", f"{metric.low:.4f} to {metric.high:.4f}")
        for name, metric in zip(names, metrics, strict=True)
    ]
    title = f"{result.task}, protocol {result.protocol}: {clips}"
    headings = [model, "accuracy", f"{result.level:.0%} interval"]
    console.print(make_table(*headings, rows=rows, texts=(model,), title=title))
    worst = sorted(result.classes, key=lambda score: (score.top1, score.top5, score.name))
    rows = [
        (make_printable(score.name), score.clips, f"{score.top1:.3f}", f"{score.top5:.3f}")
        for score in worst[:WORST_CLASSES]
    ]
    heading = f"the worst of {len(worst):,} classes"
    console.print(make_table(heading, "clips", "top-1", "top-5", rows=rows, texts=(heading,)))
    rows = [
        (make_printable(pair.true), make_printable(pair.predicted), pair.clips)
        for pair in result.confused[:WORST_CLASSES]
    ]
    texts = ("class", "taken for")
    console.print(make_table("class", "taken for", "clips", rows=rows, texts=texts))
    if result.dropped:
        counts = [f"{count:,} {reason}" for reason, count in result.dropped.items()]
        console.print(f"not counted: {', '.join(counts)}")


def print_hits(texts: Sequence[str], found: Sequence[Sequence["Hit"]]) -> None:
    """Print the clips that were found for each text, the best first: a line each, never cut."""
    console = open_console()
    for text, hits in zip(texts, found, strict=True):
        console.print(make_printable(text))
        for hit in hits:
            place = hit.link or f"second {hit.seconds:.0f}"
            line = f"{hit.similarity:8.4f}  {place}  {hit.split} {hit.key}  {hit.caption}"
            console.print(make_printable(line))
