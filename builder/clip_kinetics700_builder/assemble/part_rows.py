"""A `PartRows` gives the results of a work directory's finished parts in the order of the plan.

A row may lie in several parts: in that of the videos directory, in two archives, in another try.
Which of them counts follows from what they hold, never from when they were made.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clip_kinetics700_builder.clips.plan import PlanTable, cut_splits
from clip_kinetics700_builder.dataset.totals import Totals
from clip_kinetics700_builder.parts.canary import Canary, compare_canaries
from clip_kinetics700_builder.parts.part import DamagedPartError, PartReport, is_done, split_name
from clip_kinetics700_builder.parts.part_reader import (
    ROW_SCHEMA,
    FinishedPart,
    make_results,
    read_part,
)
from clip_kinetics700_builder.parts.work import (
    PLAN_NAME,
    WorkConfig,
    list_reports,
    parts_directory,
    read_sources,
    require_work,
)
from clip_kinetics700_builder.system.files import hash_json
from clip_kinetics700_builder.system.machine import count_cores
from clip_kinetics700_builder.system.threads import work_off
from clip_kinetics700_builder.types import (
    NO_FILE,
    BuildError,
    Clip,
    EncodedClip,
    Failure,
    InputError,
)

ROWS_PER_PIECE = 1000
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
        """Open every part of a work directory, or those that are there if not all must be finished.

        What is not finished is only counted, so no bytes are hashed then.

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
        self.configuration: dict[str, Any] = config.configuration
        self.class_names = config.class_names
        self.width = int(config.configuration["embedding_width"])
        self._paths = [self._directory / f"{name}.arrow" for name in names]
        self.reports: list[PartReport] = []
        """Reports of all parts, in the order in which they are preferred."""
        self._reasons: list[pa.ChunkedArray] = []
        read = partial(read_part, self._directory, is_hashed=is_finished)
        # Most of the time goes into hashes, during which other threads go on.
        parts = work_off(read, names, count_cores(), lambda _: None)
        self._rows = self._choose_rows(parts, units)
        self.canary: Canary | None = compare_canaries(self.reports)
        self.totals = self._count()

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all that parts hold, the same whenever and however fast they were made."""
        names = [field.name for field in fields(PartReport) if field.name != "seconds"]
        return hash_json([[getattr(report, name) for name in names] for report in self.reports])

    def list_results(self) -> Iterator[tuple[PartReport, list[str | None]]]:
        """Yield the report of each part and why its rows failed, None where they did not."""
        for report, reasons in zip(self.reports, self._reasons, strict=True):
            yield report, reasons.to_pylist()

    def list_reasons(self, *, missing: str) -> list[str | None]:
        """Return why each row of the plan failed, None where it did not, `missing` in no part."""
        is_nowhere = pc.is_null(self._rows["part"])
        return list(pc.if_else(is_nowhere, missing, self._rows["reason"]).to_pylist())

    def results(self, split: str) -> Iterator[tuple[Clip, EncodedClip | Failure]]:
        """Yield every row of a split in plan order."""
        span = self.clips.spans.get(split, range(0))
        for piece in (span[at : at + ROWS_PER_PIECE] for at in range(0, len(span), ROWS_PER_PIECE)):
            rows = self._rows.slice(piece.start, len(piece))
            results = make_results(rows, self._paths, self.width)
            for row, clip, result in zip(piece, self.clips.take(piece), results, strict=True):
                if isinstance(result, Failure) and result.reason == "missing":
                    yield clip, Failure(row, "source", "missing", NO_FILE)
                else:
                    yield clip, result

    def _choose_rows(self, parts: Sequence[FinishedPart], units: Mapping[str, Unit]) -> pa.Table:
        """Take parts, which must be sorted; return for each row the result that counts."""
        best = np.full(len(self.clips), np.iinfo(np.int64).max)
        places = np.full(len(self.clips), -1)
        tables = [ROW_SCHEMA.append(pa.field("part", pa.int64())).empty_table()]
        n_rows = 0
        for number, part in enumerate(parts):
            name = part.report.name
            check_part(part, units.get(name), len(self.clips), self.width)
            first, attempt = split_name(name)
            rows = np.asarray(part.report.rows, np.int64)
            rank = rank_results(part.rows["reason"], units[first].rank, attempt)
            # Between equal ones the earlier part's is taken.
            is_better = rank < best[rows]
            best[rows[is_better]] = rank[is_better]
            places[rows[is_better]] = n_rows + np.flatnonzero(is_better)
            tables.append(part.rows.append_column("part", pa.array(np.full(len(rows), number))))
            n_rows += len(rows)
            self.reports.append(part.report)
            self._reasons.append(part.rows["reason"])
        found = pa.concat_tables(tables).combine_chunks()
        chosen = found.take(pa.array(places, mask=places < 0))
        reasons = pc.if_else(pc.is_null(chosen["part"]), "missing", chosen["reason"])
        return chosen.set_column(chosen.column_names.index("reason"), "reason", reasons)

    def _count(self) -> dict[str, Totals]:
        totals: dict[str, Totals] = {}
        for split, span in self.clips.spans.items():
            rows = self._rows.slice(span.start, len(span))
            reasons = Counter(rows["reason"].drop_null().to_pylist())
            # Failures have no frames.
            n_frames = pc.sum(rows["n_frames"]).as_py() or 0
            totals[split] = Totals(len(rows), rows["reason"].null_count, frames=n_frames)
            for reason, count in reasons.items():
                totals[split].add_failures(reason, count)
        return totals


def rank_results(reasons: pa.ChunkedArray, unit: int, attempt: int) -> npt.NDArray[np.int64]:
    """Return (n_rows,) int64 ranks: of several results of one row the least rank counts.

    A sample comes before a failure, one that says more than that a source has no file before one
    that does not, the videos directory before archives, these in their order, overlays first, and
    the last try before earlier ones.
    """
    if max(unit, attempt) >= MAX_RANK:
        raise ValueError(f"more than {MAX_RANK} archives, or tries of one")
    kinds = pc.if_else(pc.is_null(reasons), 0, pc.if_else(pc.equal(reasons, "missing"), 2, 1))
    ranks: npt.NDArray[np.int64] = kinds.to_numpy().astype(np.int64)
    return (ranks * MAX_RANK + unit) * MAX_RANK + (MAX_RANK - 1 - attempt)


def check_part(part: FinishedPart, unit: Unit | None, n_rows: int, width: int) -> None:
    """Raise BuildError for a part of other rows than the plan's, or of another width."""
    report = part.report
    rows = np.asarray(report.rows, np.int64)
    is_inside = len(np.unique(rows)) == len(rows) and ((rows >= 0) & (rows < n_rows)).all()
    is_stated = unit is None or unit.rows is None or report.rows == list(unit.rows)
    if not (is_inside and is_stated and len(rows) == len(part.rows)):
        raise BuildError(
            f"part {report.name}: its rows are not those of the plan; "
            f"delete {report.name}.json and encode again"
        )
    if part.width != width:
        reason = f"its embeddings are {part.width} wide, not {width}"
        raise DamagedPartError(report.name, f"{report.name}.arrow", reason)


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
