"""Finished parts of a work directory in, results in plan order out: what assembly reads."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from builder.manifest import Totals
from builder.parts import PartReader, PartReport, is_done, report_path
from builder.plan import cut_parts
from builder.types import BuildError, Clip, EncodedClip, Failure, InputError, Part
from builder.work import WorkConfig, parts_directory, read_work

# Of the package's test video; what a change of driver or library leaves is far above it.
SAME_ENCODER_COSINE = 0.9999
NOT_ENCODED = "the clip is in no finished part"


class PartRows:
    """The results of a whole plan, whatever parts they lie in."""

    def __init__(self, work: Path) -> None:
        """Open every part of a work directory.

        Raises:
            InputError: it is no work directory, or parts are not finished.
        """
        config, self._clips = read_work(work)
        parts = list_finished_parts(work, config, self._clips)
        self._readers = [PartReader(parts_directory(work), part.name) for part in parts]
        check_reports([reader.report for reader in self._readers], parts)
        self.newest_report_ns = max(
            report_path(parts_directory(work), part.name).stat().st_mtime_ns for part in parts
        )
        # Where each plan row lies: number of its part, and index in it; -1 for no part.
        self._part_of_row = np.full(len(self._clips), -1, np.int32)
        self._index_of_row = np.zeros(len(self._clips), np.int64)
        for number, reader in enumerate(self._readers):
            rows = np.asarray(reader.report.rows, np.int64)
            self._part_of_row[rows] = number
            self._index_of_row[rows] = np.arange(len(rows))
        self.configuration: dict[str, Any] = config.configuration
        self.class_names = config.class_names
        self.canary = self._readers[0].report.canary
        self.width = int(config.configuration["embedding_width"])
        self.totals = self._count()

    def results(self, split: str) -> Iterator[tuple[Clip, EncodedClip | Failure]]:
        """Yield every row of a split in plan order."""
        for row, clip in enumerate(self._clips):
            if clip.split != split:
                continue
            number = self._part_of_row[row]
            if number < 0:
                yield clip, Failure(row, "source", "missing", NOT_ENCODED)
            else:
                yield clip, self._readers[number].result(int(self._index_of_row[row]))

    def _count(self) -> dict[str, Totals]:
        totals: dict[str, Totals] = {}
        for clip in self._clips:
            totals.setdefault(clip.split, Totals()).rows += 1
        for reader in self._readers:
            report = reader.report
            split_totals = totals[self._clips[report.rows[0]].split]
            split_totals.samples += report.n_samples
            split_totals.frames += report.n_frames
            for reason, count in reader.count_reasons().items():
                split_totals.add_failures(reason, count)
        for row in np.flatnonzero(self._part_of_row < 0):
            totals[self._clips[row].split].add_failures("missing", 1)
        return totals


def check_reports(reports: Sequence[PartReport], parts: Sequence[Part]) -> None:
    """Refuse parts of other rows than the plan's, and parts that another encoder made.

    Raises:
        BuildError: names the first such part.
    """
    first = np.asarray(reports[0].canary, np.float64)
    for report, part in zip(reports, parts, strict=True):
        canary = np.asarray(report.canary, np.float64)
        if report.rows != list(part.rows):
            fault = "its rows are not those of the plan"
        elif canary.shape != first.shape or cosine(canary, first) < SAME_ENCODER_COSINE:
            fault = f"its encoder gives another embedding than that of {reports[0].name}"
        else:
            continue
        raise BuildError(f"part {part.name}: {fault}; delete {part.name}.json and encode again")


def cosine(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Return the cosine of two vectors."""
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def list_finished_parts(work: Path, config: WorkConfig, clips: list[Clip]) -> list[Part]:
    """Return the parts of a plan.

    Raises:
        InputError: some are not finished; the first is named.
    """
    parts = cut_parts(clips, config.rows_per_part)
    unfinished = [part.name for part in parts if not is_done(parts_directory(work), part)]
    if unfinished:
        raise InputError(
            f"{work}: {len(unfinished)} of {len(parts)} parts are not finished, the first is "
            f"{unfinished[0]}; run encode again with the same options, for every rank"
        )
    return parts
