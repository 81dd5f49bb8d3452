"""Finished parts of a work directory in, results in plan order out: what assembly reads.

A row may lie in several parts: in that of the videos directory, in two archives, in another try.
Which of them counts follows from what they hold, never from when they were made.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from builder.canary import Canary, compare_canaries
from builder.manifest import Totals
from builder.parts import PartReader, PartReport, is_done, report_path, split_name
from builder.plan import cut_parts
from builder.sources import NO_FILE
from builder.types import BuildError, Clip, EncodedClip, Failure, InputError
from builder.work import WorkConfig, list_reports, parts_directory, read_sources, read_work


class Unit(NamedTuple):
    """A part that there must be; others are further tries of it."""

    rank: int
    """0 for the videos directory, then archives in their order."""
    rows: Sequence[int] | None
    """Its rows; None where its archive tells."""


class Place(NamedTuple):
    """Where a row lies, so that the least of several places is the one that counts."""

    is_failure: bool
    is_missing: bool
    """It says nothing but that this source has no file."""
    unit: int
    """The videos directory before archives, these in their order, overlays first."""
    earlier: int
    """Minus the number of the try."""
    part: int
    at: int
    """Index of the row in the part."""
    n_frames: int
    reason: str


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
        config, self._clips = read_work(work)
        units = list_units(work, config, self._clips)
        self.unfinished = check_units(work, units, is_finished=is_finished)
        directory = parts_directory(work)
        order = {name: place for place, name in enumerate(units)}

        def rank_try(name: str) -> tuple[int, int]:
            first, number = split_name(name)
            return order[first], number

        names = sorted(list_reports(work), key=rank_try)
        self._readers = [PartReader(directory, name) for name in names]
        check_reports(self.reports, units, len(self._clips))
        self.newest_report_ns = max(
            report_path(directory, name).stat().st_mtime_ns for name in names
        )
        self.places = self._find_places(units)
        self.configuration: dict[str, Any] = config.configuration
        self.class_names = config.class_names
        self.canary: Canary | None = compare_canaries(self.reports)
        self.width = int(config.configuration["embedding_width"])
        self.totals = self._count()

    @property
    def clips(self) -> Sequence[Clip]:
        """The plan."""
        return self._clips

    @property
    def reports(self) -> list[PartReport]:
        """The reports of all parts, in the order of `Place.part`."""
        return [reader.report for reader in self._readers]

    def list_results(self) -> Iterator[tuple[PartReport, list[str | None]]]:
        """Yield the report of each part and why its rows failed, None where they did not."""
        for reader in self._readers:
            yield reader.report, reader.list_reasons()

    def results(self, split: str) -> Iterator[tuple[Clip, EncodedClip | Failure]]:
        """Yield every row of a split in plan order."""
        for row, clip in enumerate(self._clips):
            if clip.split != split:
                continue
            place = self.places[row]
            if place is None or place.is_missing:
                yield clip, Failure(row, "source", "missing", NO_FILE)
            else:
                yield clip, self._readers[place.part].result(place.at)

    def _find_places(self, units: dict[str, Unit]) -> list[Place | None]:
        """Return for each row of the plan where its result lies; None for no part."""
        places: list[Place | None] = [None] * len(self._clips)
        for number, reader in enumerate(self._readers):
            name, attempt = split_name(reader.report.name)
            frames, reasons = reader.list_frames(), reader.list_reasons()
            for index, row in enumerate(reader.report.rows):
                reason = reasons[index]
                place = Place(
                    is_failure=reason is not None,
                    is_missing=reason == "missing",
                    unit=units[name].rank,
                    earlier=-attempt,
                    part=number,
                    at=index,
                    n_frames=frames[index] or 0,
                    reason=reason or "",
                )
                other = places[row]
                places[row] = place if other is None else min(place, other)
        return places

    def _count(self) -> dict[str, Totals]:
        totals: dict[str, Totals] = {}
        for clip, place in zip(self._clips, self.places, strict=True):
            split_totals = totals.setdefault(clip.split, Totals())
            split_totals.rows += 1
            if place is None or place.is_failure:
                reason = "missing" if place is None else place.reason
                split_totals.add_failures(reason, 1)
            else:
                split_totals.samples += 1
                split_totals.frames += place.n_frames
        return totals


def check_reports(reports: Sequence[PartReport], units: Mapping[str, Unit], n_rows: int) -> None:
    """Refuse parts of other rows than the plan's.

    Raises:
        BuildError: names the first such part.
    """
    for report in reports:
        rows = np.asarray(report.rows, np.int64)
        stated = units[report.name].rows if report.name in units else None
        is_inside = len(np.unique(rows)) == len(rows) and ((rows >= 0) & (rows < n_rows)).all()
        if not is_inside or (stated is not None and report.rows != list(stated)):
            raise BuildError(
                f"part {report.name}: its rows are not those of the plan; "
                f"delete {report.name}.json and encode again"
            )


def list_units(work: Path, config: WorkConfig, clips: list[Clip]) -> dict[str, Unit]:
    """Return the parts that there must be, by name, in the order in which they are preferred."""
    sources = read_sources(work)
    parts = cut_parts(clips, config.rows_per_part) if sources.has_videos else []
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
