"""A `PartRows` gives the results of a work directory's finished parts in the order of the plan.

A row may lie in several parts: in that of the videos directory, in two archives, in another try.
Which of them counts follows from what they hold, never from when they were made.
"""

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clip_kinetics700_builder.clips.plan import PlanTable, cut_splits
from clip_kinetics700_builder.dataset.totals import Totals
from clip_kinetics700_builder.parts.canary import Canary, compare_canaries
from clip_kinetics700_builder.parts.part import PartReport, is_done, report_path, split_name
from clip_kinetics700_builder.parts.part_reader import (
    NO_FAILURE,
    ROW_TYPE,
    PartFiles,
    PartReader,
    Shared,
    damaged_part,
    make_result,
)
from clip_kinetics700_builder.parts.work import (
    PLAN_NAME,
    WorkConfig,
    list_reports,
    parts_directory,
    read_sources,
    require_work,
)
from clip_kinetics700_builder.types import (
    NO_FILE,
    BuildError,
    Clip,
    EncodedClip,
    Failure,
    InputError,
)

ROWS_PER_PIECE = 1000
NO_PART = -1
MAX_RANK = 1 << 20


class Unit(NamedTuple):
    """A part that there must be; others are further tries of it."""

    rank: int
    """0 for the videos directory, then archives in their order."""
    rows: Sequence[int] | None
    """Its rows; None where its archive tells."""


class PartRows:
    """The results of a whole plan, whatever parts they lie in."""

    def __init__(self, work: Path, *, is_finished: bool = True) -> None:
        """Open every part of a work directory.

        Args:
            work: the directory.
            is_finished: all parts must be there; else those that are there are opened.

        Raises:
            InputError: it is no work directory, or parts are not finished.
        """
        config = require_work(work)
        self.clips = PlanTable(work / PLAN_NAME)
        """The plan."""
        units = list_units(work, config, self.clips.spans)
        self.unfinished = check_units(work, units, is_finished=is_finished)
        self._directory = parts_directory(work)
        order = {name: place for place, name in enumerate(units)}

        def rank_try(name: str) -> tuple[int, int]:
            first, number = split_name(name)
            return order[first], number

        names = sorted(list_reports(work), key=rank_try)
        self.newest_report_ns = max(
            report_path(self._directory, name).stat().st_mtime_ns for name in names
        )
        self.configuration: dict[str, Any] = config.configuration
        self.class_names = config.class_names
        self.width = int(config.configuration["embedding_width"])
        self._shared = Shared()
        self._files = PartFiles(self._directory, names, self.width)
        self._rows = np.zeros(len(self.clips), ROW_TYPE)
        self._rows["part"] = NO_PART
        self.reports: list[PartReport] = []
        """Reports of all parts, in the order in which they are preferred."""
        self._failures: list[npt.NDArray[np.int32]] = []
        self._open_parts(names, units)
        self.canary: Canary | None = compare_canaries(self.reports)
        self.totals = self._count()

    def list_results(self) -> Iterator[tuple[PartReport, list[str | None]]]:
        """Yield the report of each part and why its rows failed, None where they did not."""
        for report, failures in zip(self.reports, self._failures, strict=True):
            yield report, self._shared.list_reasons(failures)

    def list_reasons(self, *, missing: str) -> list[str | None]:
        """Return for each row of the plan why it failed, None where it did not.

        Args:
            missing: what is said of rows that no part holds.
        """
        reasons = self._shared.list_reasons(self._rows["failure"])
        in_none = (self._rows["part"] == NO_PART).tolist()
        return [missing if n else reason for n, reason in zip(in_none, reasons, strict=True)]

    def results(self, split: str) -> Iterator[tuple[Clip, EncodedClip | Failure]]:
        """Yield every row of a split in plan order."""
        span = self.clips.spans.get(split, range(0))
        for piece in (span[at : at + ROWS_PER_PIECE] for at in range(0, len(span), ROWS_PER_PIECE)):
            clips = self.clips.take(piece)
            values = self._rows[piece.start : piece.stop].tolist()
            for row, clip, of_row in zip(piece, clips, values, strict=True):
                if of_row[0] == NO_PART:
                    yield clip, Failure(row, "source", "missing", NO_FILE)
                    continue
                result = make_result(row, of_row, self._shared, self._files)
                if isinstance(result, Failure) and result.reason == "missing":
                    result = Failure(row, "source", "missing", NO_FILE)
                yield clip, result

    def _open_parts(self, names: Sequence[str], units: Mapping[str, Unit]) -> None:
        """Read the parts, which must be sorted, and keep of every row the result that counts."""
        best = np.full(len(self.clips), np.iinfo(np.int64).max)
        for number, name in enumerate(names):
            reader = PartReader(self._directory, name, shared=self._shared)
            check_report(reader, units.get(name), len(self.clips), self.width)
            first, attempt = split_name(name)
            rows = np.asarray(reader.report.rows, np.int64)
            found = reader.rows
            found["part"] = number
            rank = rank_results(found["failure"], self._shared, units[first].rank, attempt)
            # Between equal ones the earlier part's is taken.
            is_better = rank < best[rows]
            best[rows[is_better]] = rank[is_better]
            self._rows[rows[is_better]] = found[is_better]
            self.reports.append(shrink_report(reader.report, self.reports))
            self._failures.append(found["failure"].copy())

    def _count(self) -> dict[str, Totals]:
        totals: dict[str, Totals] = {}
        all_reasons = self.list_reasons(missing="missing")
        for split, span in self.clips.spans.items():
            rows = self._rows[span.start : span.stop]
            of_split = all_reasons[span.start : span.stop]
            reasons = Counter(reason for reason in of_split if reason is not None)
            n_samples = of_split.count(None)
            is_sample = (rows["failure"] == NO_FAILURE) & (rows["part"] != NO_PART)
            totals[split] = Totals(
                len(rows), n_samples, frames=int(rows["n_frames"][is_sample].sum())
            )
            for reason, count in reasons.items():
                totals[split].add_failures(reason, count)
        return totals


def rank_results(
    failures: npt.NDArray[np.int32], shared: Shared, unit: int, attempt: int
) -> npt.NDArray[np.int64]:
    """Return (n_rows,) int64 ranks: of several results of one row the least rank counts.

    A sample comes before a failure, one that says more than that a source has no file before one
    that does not, the videos directory before archives, these in their order, overlays first, and
    the last try before earlier ones.

    Args:
        failures: of the rows of one part.
        shared: what their numbers stand for.
        unit: rank of the part's unit.
        attempt: number of the try.
    """
    reasons = shared.list_reasons(failures)
    kinds = [0 if reason is None else 2 if reason == "missing" else 1 for reason in reasons]
    if max(unit, attempt) >= MAX_RANK:
        raise ValueError(f"more than {MAX_RANK} archives, or tries of one")
    return (np.asarray(kinds, np.int64) * MAX_RANK + unit) * MAX_RANK + (MAX_RANK - 1 - attempt)


def shrink_report(report: PartReport, others: Sequence[PartReport]) -> PartReport:
    """Return a report that takes less memory: thousands of them are kept."""
    first = others[0].canary if others else None
    canary = first if first is not None and report.canary == first else report.canary
    return replace(report, rows=array("q", report.rows), canary=canary)


def check_report(reader: PartReader, unit: Unit | None, n_rows: int, width: int) -> None:
    """Refuse a part of other rows than the plan's, or of another width.

    Raises:
        BuildError: names the part.
    """
    report = reader.report
    rows = np.asarray(report.rows, np.int64)
    is_inside = len(np.unique(rows)) == len(rows) and ((rows >= 0) & (rows < n_rows)).all()
    is_stated = unit is None or unit.rows is None or report.rows == list(unit.rows)
    if not (is_inside and is_stated and len(rows) == len(reader.rows)):
        raise BuildError(
            f"part {report.name}: its rows are not those of the plan; "
            f"delete {report.name}.json and encode again"
        )
    if reader.width != width:
        raise damaged_part(report.name)


def list_units(work: Path, config: WorkConfig, spans: Mapping[str, range]) -> dict[str, Unit]:
    """Return the parts that there must be, by name, in the order in which they are preferred."""
    sources = read_sources(work)
    parts = cut_splits(spans, config.rows_per_part) if sources.has_videos else []
    units = {part.name: Unit(0, part.rows) for part in parts}
    return units | {name: Unit(rank, None) for rank, name in enumerate(sources.archives, 1)}


def check_units(work: Path, units: Mapping[str, Unit], *, is_finished: bool) -> list[str]:
    """Return the names of the parts that are not finished.

    Raises:
        InputError: some are not, though all must be, or none is.
        BuildError: a part is there that no source of this build has made.
    """
    unfinished = [name for name in units if not is_done(parts_directory(work), name)]
    if unfinished and (is_finished or len(unfinished) == len(units)):
        raise InputError(
            f"{work}: {len(unfinished)} of {len(units)} parts are not finished, the first is "
            f"{unfinished[0]}; run encode again with the same options, for every rank"
        )
    for name in list_reports(work):
        if split_name(name)[0] not in units:
            raise BuildError(f"part {name}: is of no source of this build; delete {name}.json")
    return unfinished
