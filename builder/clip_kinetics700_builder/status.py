"""Counts what came of the clips of a download or of a build, and why some of them are missing."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clip_kinetics700.schema import SPLITS
from clip_kinetics700_builder.assemble.part_rows import PartRows
from clip_kinetics700_builder.clips.plan import read_plan
from clip_kinetics700_builder.dataset.layout import WORK_NAME
from clip_kinetics700_builder.download.download import KNOWN_NAME
from clip_kinetics700_builder.download.folder import STATE_NAME, list_held
from clip_kinetics700_builder.download.sources import CVDF
from clip_kinetics700_builder.parts.part import split_name
from clip_kinetics700_builder.parts.work import is_work_directory
from clip_kinetics700_builder.sources.ledger import GOT, LEDGER_NAME, read_attempts
from clip_kinetics700_builder.types import Clip, InputError


@dataclass(slots=True)
class Status:
    """What came of the clips of a directory."""

    kind: str
    """`download` or `build`."""
    rows: Counter[str] = field(default_factory=Counter)
    """Clips by split."""
    held: Counter[str] = field(default_factory=Counter)
    """Clips that are there, by split."""
    reasons: dict[str, Counter[str]] = field(default_factory=dict)
    """Clips that are not there, by split and by the reason of the last attempt."""
    sources: dict[str, Counter[str]] = field(default_factory=dict)
    """Attempts by source and by reason, `got` for those that brought a clip."""
    classes: dict[str, list[int]] = field(default_factory=dict)
    """How many clips there are to be and how many are missing, by class."""
    damaged: list[str] = field(default_factory=list)
    """One line for each archive that could not be read to its end at the last try."""

    def add(self, clip: Clip, reason: str | None) -> None:
        """Count a clip; without a reason it is there."""
        self.rows[clip.split] += 1
        counts = self.classes.setdefault(clip.label or "", [0, 0])
        counts[0] += 1
        if reason is None:
            self.held[clip.split] += 1
        else:
            counts[1] += 1
            self.reasons.setdefault(clip.split, Counter())[reason] += 1

    def add_attempt(self, source: str, reason: str | None) -> None:
        """Count an attempt; without a reason it brought its clip."""
        self.sources.setdefault(source, Counter())[reason or GOT] += 1

    @property
    def splits(self) -> list[str]:
        """The splits of the clips, in the order of `SPLITS`."""
        return [split for split in SPLITS if split in self.rows]

    def document(self) -> dict[str, Any]:
        """Return the counts for JSON."""
        return {
            "kind": self.kind,
            "splits": {
                split: {
                    "clips": self.rows[split],
                    "held": self.held[split],
                    "missing_share": 1 - self.held[split] / self.rows[split],
                    "reasons": dict(self.reasons.get(split, {})),
                }
                for split in self.splits
            },
            "sources": {name: dict(counts) for name, counts in self.sources.items()},
            "damaged_archives": self.damaged,
            "classes": {
                name: {"clips": counts[0], "missing": counts[1]}
                for name, counts in sorted(self.classes.items())
            },
        }


def read_status(directory: Path) -> Status:
    """Return what came of the clips of a download or of a build.

    Raises:
        InputError: the directory is neither, or a build of which no part is finished.
    """
    if (directory / STATE_NAME / KNOWN_NAME).is_file():
        return read_download(directory)
    for work in (directory, directory / WORK_NAME):
        if is_work_directory(work):
            return read_build(work)
    raise InputError(
        f"{directory}: holds neither a download of `clip-kinetics700 download` nor a build"
    )


def read_download(directory: Path) -> Status:
    """Return the status of a directory of clips."""
    status = Status("download")
    clips = read_plan(directory / STATE_NAME / KNOWN_NAME)
    held = list_held(directory, clips)
    last: dict[str, str | None] = {}
    for attempt in read_attempts(directory / STATE_NAME / LEDGER_NAME):
        status.add_attempt(attempt.source, attempt.reason)
        last[attempt.identity] = attempt.reason
    for clip in clips:
        status.add(clip, None if clip.identity in held else last.get(clip.identity) or "not_asked")
    return status


def read_build(work: Path) -> Status:
    """Return the status of a build, as far as its parts are finished."""
    status = Status("build")
    rows = PartRows(work, is_finished=False)
    clips = list(rows.clips)
    for report, reasons in rows.list_results():
        source = "videos" if report.source == "videos" else CVDF
        for row, reason in zip(report.rows, reasons, strict=True):
            if clips[row].path is None:
                status.add_attempt(source, reason)
    last = {split_name(report.name)[0]: report for report in rows.reports}
    status.damaged = [": ".join(report.error) for report in last.values() if report.error]
    reasons = rows.list_reasons(missing="not_done" if rows.unfinished else "missing")
    for clip, reason in zip(clips, reasons, strict=True):
        status.add(clip, reason)
    return status
