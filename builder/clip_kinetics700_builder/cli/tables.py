"""A person sees these short tables of counts at the end of a run."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from clip_kinetics700_builder.card.results import EvaluationResult
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


def make_table(*headings: str, texts: Collection[str] = ("split",), title: str = "") -> Table:
    """Return a table of numbers; columns named in `texts` are words, which fold."""
    table = Table(title=title or None, title_justify="left")
    for heading in headings:
        is_text = heading in texts
        table.add_column(
            heading,
            justify="left" if is_text else "right",
            overflow="fold" if is_text else "ellipsis",
        )
    return table


def open_console(width: int | None = None) -> Console:
    """Return the console, of a fixed width or of lines that are never cut."""
    return Console(width=width, soft_wrap=width is None, markup=False, highlight=False, emoji=False)


def print_manifest(manifest: Manifest, output: Path, summary: "EncodeSummary | None") -> None:
    """Print rows, samples, failures by reason and frames of each split, and the rate."""
    names = ("rows", "samples", "failures", "frames")
    why = "why clips failed"
    table = make_table("split", *names, why, texts=("split", why), title=str(output))
    rows = [*manifest.splits.items()]
    for name, totals in [*rows, ("all", manifest.totals)]:
        reasons = ", ".join(f"{n} {r}" for r, n in sorted(totals.failures_by_reason.items()))
        numbers = [f"{getattr(totals, column):,}" for column in names]
        table.add_row(name, *numbers, reasons, end_section=name == rows[-1][0])
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
    table = make_table("split", "clips", "found", "missing", "empty files", "parts", title=DRY_RUN)
    parts = Counter(part.name.rsplit("-", 1)[0] for part in job.parts)
    for split, counts in job.count_found().items():
        numbers = [counts.total(), *(counts[n] for n in ("found", "missing", "empty_file"))]
        table.add_row(split, *map("{:,}".format, numbers), str(parts[split]))
    console = open_console()
    console.print(table)
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
    table = make_table("split", "files", "bytes", title=DRY_RUN)
    for split, n_files, n_bytes in plan:
        table.add_row(split, f"{n_files:,}", f"{n_bytes:,}")
    console = open_console()
    console.print(table)
    console.print(f"{source} would be converted into {output}")


def print_info(info: Mapping[str, Any]) -> None:
    """Print what `info.describe_source` returns, in tables of at most 80 columns."""
    console = open_console(COLUMNS)
    console.print(str(info["source"]), soft_wrap=True)
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in [*describe_source(info), *describe_numbers(info)]:
        table.add_row(name, text)
    console.print(table)
    for table in (tabulate_splits(info), tabulate_classes(info), tabulate_oddities(info)):
        console.print(table)


def describe_source(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a dataset is and what it was made with, as names and texts."""
    there = {True: "yes", False: "no"}
    made_with = info["provenance"] or {"provenance": "unknown"}
    names = ("provenance", "model", "model_revision", "frames_per_second", "dtype", "seed")
    bytes_of_samples, bytes_of_all = f"{info['bytes']:,}", f"{info['bytes_of_all_files']:,}"
    return [
        ("dialect", info["dialect"]),
        ("files", f"{info['n_files']:,} of {bytes_of_samples} bytes; all files {bytes_of_all}"),
        ("index, manifest", f"{there[info['has_index']]}, {there[info['has_manifest']]}"),
        *((name, str(made_with[name])) for name in names if made_with.get(name) is not None),
    ]


def describe_numbers(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return widths, types, frames and norms, as names and texts."""
    return [
        ("width", join_top(info["widths"])),
        ("type", join_top(info["dtypes"])),
        ("frames of a sample", join_extremes(info["frames_per_sample"], "{:,.4g}")),
        ("samples by frames", join_top((info["frames_per_sample"] or {}).get("counts", {}))),
        ("norm of a frame", join_extremes(info["norms"], "{:,.4g}")),
    ]


def join_top(counts: Mapping[str, int]) -> str:
    """Return how many there are of each, the most frequent first; a single one by name alone."""
    if len(counts) == 1:
        return next(iter(counts))
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    texts = [f"{name}: {count:,}" for name, count in ranked[:TOP_CLASSES]]
    left = len(ranked) - TOP_CLASSES
    return ", ".join([*texts, f"{left:,} others"] if left > 0 else texts)


def join_extremes(numbers: Mapping[str, float] | None, form: str) -> str:
    """Return minimum, median, mean and maximum in words."""
    names = ("min", "median", "mean", "max")
    return "" if numbers is None else ", ".join(f"{n} {form.format(numbers[n])}" for n in names)


def tabulate_splits(info: Mapping[str, Any]) -> Table:
    """Return the samples and frames of each split."""
    table = make_table("split", "samples", "frames")
    for split, counts in [*info["splits"].items(), ("all", info)]:
        table.add_row(split, f"{counts['samples']:,}", f"{counts['frames']:,}")
    return table


def tabulate_classes(info: Mapping[str, Any]) -> Table:
    """Return the classes with most samples, and how many have none."""
    classes = info["classes"]
    heading = f"{'' if classes['is_complete'] else 'more than '}{classes['number']:,} classes"
    table = make_table(heading, "samples", texts=(heading,))
    for name, count in list(classes["counts"].items())[:TOP_CLASSES]:
        # Captions of one's own may be whole paragraphs.
        text = make_printable(name if len(name) <= COLUMNS else f"{name[:COLUMNS]}...")
        table.add_row(text, f"{count:,}")
    table.add_section()
    table.add_row("without a caption or class", f"{info['without_class']:,}")
    table.add_row("without a label id", f"{info['without_label_id']:,}")
    return table


def tabulate_oddities(info: Mapping[str, Any]) -> Table:
    """Return what is odd, how often, and the first of each."""
    table = make_table("odd", "count", "the first", texts=("odd", "the first"))
    for name, text in ODDITY_TEXTS.items():
        oddity = info["oddities"][name]
        table.add_row(text, f"{oddity['count']:,}", oddity["first"] or "")
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
    why = "why they are missing"
    table = make_table("split", "clips", "here", "missing", why, texts=("split", why))
    for split in status.splits:
        count = status.rows[split]
        share = f"{1 - status.held[split] / count:.1%}"
        reasons = join_counts(status.reasons.get(split, Counter()))
        table.add_row(split, f"{count:,}", f"{status.held[split]:,}", share, reasons)
    console.print(table)
    console.print(tabulate_sources(status))
    for line in status.damaged:
        console.print(f"damaged: {line}", soft_wrap=True)
    console.print(tabulate_missing(status))


def tabulate_sources(status: Status) -> Table:
    """Return the attempts of each source by what came of them."""
    texts = ("source", "what came of them")
    table = make_table("source", "attempts", "what came of them", texts=texts)
    for name, counts in status.sources.items():
        table.add_row(name, f"{sum(counts.values()):,}", join_counts(counts))
    return table


def tabulate_missing(status: Status) -> Table:
    """Return the classes of which the largest share is missing."""
    table = make_table("class", "clips", "missing", "share", texts=("class",))
    ranked = sorted(status.classes.items(), key=lambda item: (-item[1][1] / item[1][0], item[0]))
    for name, (count, missing) in ranked[:WORST_CLASSES]:
        numbers = f"{count:,}", f"{missing:,}", f"{missing / count:.1%}"
        table.add_row(name or "without a class", *numbers)
    return table


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


def tabulate(title: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return rows as a table."""
    texts = ("version", "split", "in train of")
    table = make_table(*columns.values(), texts=texts, title=title)
    for row in rows:
        cells = [row[name] for name in columns]
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells))
    return table


def print_result(result: EvaluationResult) -> None:
    """Print the metrics with their intervals, the worst classes and the most confused pairs."""
    console = open_console(COLUMNS)
    for table in (tabulate_metrics(result), tabulate_scores(result), tabulate_confused(result)):
        console.print(table)
    if result.dropped:
        texts = [f"{count:,} {reason}" for reason, count in result.dropped.items()]
        console.print(f"not counted: {', '.join(texts)}")


def tabulate_metrics(result: EvaluationResult) -> Table:
    """Return top-1, top-5 and their mean."""
    model = make_printable(result.model)
    clips = f"{result.counted:,} clips of {result.split}"
    table = make_table(
        model,
        "accuracy",
        f"{result.level:.0%} interval",
        texts=(model,),
        title=f"{result.task}, protocol {result.protocol}: {clips}",
    )
    names = ("top-1", "top-5", "mean of the two")
    for name, metric in zip(names, (result.top1, result.top5, result.mean), strict=True):
        table.add_row(name, f"{metric.value:.4f}", f"{metric.low:.4f} to {metric.high:.4f}")
    return table


def tabulate_scores(result: EvaluationResult) -> Table:
    """Return the classes with the lowest top-1."""
    worst = sorted(result.classes, key=lambda score: (score.top1, score.top5, score.name))
    heading = f"the worst of {len(worst):,} classes"
    table = make_table(heading, "clips", "top-1", "top-5", texts=(heading,))
    for score in worst[:WORST_CLASSES]:
        numbers = f"{score.clips:,}", f"{score.top1:.3f}", f"{score.top5:.3f}"
        table.add_row(make_printable(score.name), *numbers)
    return table


def tabulate_confused(result: EvaluationResult) -> Table:
    """Return the pairs of classes that are confused most often."""
    table = make_table("class", "taken for", "clips", texts=("class", "taken for"))
    for pair in result.confused[:WORST_CLASSES]:
        table.add_row(make_printable(pair.true), make_printable(pair.predicted), f"{pair.clips:,}")
    return table


def print_hits(texts: Sequence[str], found: Sequence[Sequence["Hit"]]) -> None:
    """Print the clips that were found for each text, the best first: a line each, never cut."""
    console = open_console()
    for text, hits in zip(texts, found, strict=True):
        console.print(make_printable(text))
        for hit in hits:
            place = hit.link or f"second {hit.seconds:.0f}"
            line = f"{hit.similarity:8.4f}  {place}  {hit.split} {hit.key}  {hit.caption}"
            console.print(make_printable(line))
