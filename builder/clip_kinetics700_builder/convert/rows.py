"""A `ConvertedRows` gives the rows of any local dataset as results that assembly writes.

All of it is read twice: to know counts, width and class list before a byte is written, then to
write. What cannot be a sample of ours becomes a failure, so that no row is lost.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clip_kinetics700.damage import DamageError, OnError, report_damage
from clip_kinetics700.features import FAILURES_SCHEMA
from clip_kinetics700.layout import Layout
from clip_kinetics700.schema import FAILURES_NAME, MANIFEST_NAME, REASONS, SPLITS, Sample
from clip_kinetics700_builder.assemble.rows import (
    Result,
    find_misfit,
    is_integer,
    is_utf8,
    judge_array,
)
from clip_kinetics700_builder.convert.labels import SourceLabels
from clip_kinetics700_builder.dataset.manifest import Manifest
from clip_kinetics700_builder.dataset.totals import Totals
from clip_kinetics700_builder.read.rows import (
    Check,
    Damage,
    Row,
    RowSource,
    clip_of_sample,
    read_own_manifest,
    read_rows,
)
from clip_kinetics700_builder.system.files import make_printable
from clip_kinetics700_builder.system.progress import Advance
from clip_kinetics700_builder.types import BuildError, Clip, Failure, InputError

log = logging.getLogger(__name__)


def check_rows(
    totals: Mapping[str, Totals], manifest: Manifest, name: str, on_error: OnError
) -> None:
    """Refuse a source that holds other rows than its manifest says: files are missing.

    Raises:
        BuildError: it does, and damage is not to be skipped.
    """
    stated = {split: counts.rows for split, counts in manifest.splits.items()}
    found = {split: counts.rows for split, counts in totals.items()}
    if found != stated:
        message = f"{name}: holds {found} rows, its {MANIFEST_NAME} says {stated}"
        if on_error == "raise":
            raise BuildError(message)
        log.warning("%s", message)


def read_failures(
    layout: Layout, manifest: Manifest | None, split: str
) -> Iterator[tuple[Clip, Failure]]:
    """Yield the failed rows of a split in order; none where the source is not ours.

    Raises:
        InputError: the table is not there, or a reason in it is unknown.
        DamageError: the table cannot be read.
    """
    if manifest is None or FAILURES_NAME not in manifest.files:
        return
    path = Path(layout.root) / FAILURES_NAME
    if not path.is_file():
        raise InputError(f"{path}: is missing, though the manifest beside it lists it")
    for row in read_table(path):
        if row["reason"] not in REASONS:
            raise InputError(f"{path}: reason {row['reason']!r}, allowed are {', '.join(REASONS)}")
        if row["split"] == split:
            place = (row["youtube_id"], row["time_start"], row["time_end"])
            clip = Clip(split, *place, row["label"], caption=row["label"] or "")
            yield clip, Failure(0, row["stage"], row["reason"], row["message"])


def read_table(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table of failures.

    Raises:
        DamageError: it cannot be read.
    """
    try:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(columns=FAILURES_SCHEMA.names):
                yield from batch.cast(FAILURES_SCHEMA).to_pylist()
    except (pa.ArrowException, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DamageError(str(path), None, None, reason) from error


class ConvertedRows:
    """The rows of a local dataset of any dialect, as results that can be assembled."""

    def __init__(
        self,
        source: RowSource,
        *,
        class_list: str,
        on_error: OnError = "raise",
        advance: Advance = lambda _: None,
    ) -> None:
        """Read all of it once; damage that is skipped becomes failures.

        Raises:
            DamageError: a sample or a file is damaged, and `on_error` is `raise`.
            InputError: there are no samples, or their captions are not of the class list.
            BuildError: there are other rows than the source's own manifest says.
        """
        layout = source.dataset.layout
        self._source = source
        self._on_error = on_error
        self._manifest = read_own_manifest(layout)
        is_known = self._manifest is not None
        self._labels = SourceLabels(layout.class_names, class_list, is_known=is_known)
        count = SourceCount(source, self._manifest, self._labels, on_error)
        for split in SPLITS:
            count.add_split(split, advance)
        if self._manifest is not None:
            check_rows(count.totals, self._manifest, layout.root, on_error)
        self.width = count.choose_width()
        self.totals = count.finish(self.width)
        self.class_names = self._labels.names
        self.canary = None if self._manifest is None else self._manifest.canary
        self.configuration = self._describe(count)
        # Labels that are missing in a source of ours are filled in from a list that is given.
        self.fingerprint = f"{class_list} {count.sha256.hexdigest()}"

    def _describe(self, count: "SourceCount") -> dict[str, Any]:
        """Return what a manifest of ours says the embeddings were made with, or what is known."""
        if self._manifest is not None:
            return dict(self._manifest.configuration)
        return {
            "provenance": "unknown",
            "clips": "own videos" if count.has_own_videos else "kinetics",
            "embedding_width": self.width,
            "rows": {split: totals.rows for split, totals in self.totals.items()},
            "rows_sha256": count.sha256.hexdigest(),
        }

    def results(self, split: str) -> Iterator[Result]:
        """Yield every row of a split: the failures that the source lists, then its samples."""
        yield from read_failures(self._source.dataset.layout, self._manifest, split)
        for row in read_rows(self._source, split, lambda _: None, check=check_with(self._labels)):
            if isinstance(row, Damage) and self._on_error == "raise":
                raise row.error
            judged = judge_row(row)
            if isinstance(judged, Sample) and judged.embeddings.shape[1] != self.width:
                found = judged.embeddings.shape[1]
                text = f"the array is {found} wide, those of most are {self.width}"
                judged = fault_of(judged, "unreadable", text)
            if isinstance(judged, Failure):
                yield clip_of_row(row, split), judged
            else:
                yield replace(judged, label_id=self._labels.label_of(judged))


@dataclass(slots=True, eq=False)
class SourceCount:
    """What the first reading of a source finds out; it shows the labels all samples."""

    source: RowSource
    manifest: Manifest | None
    labels: SourceLabels
    on_error: OnError
    samples: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By split and width: which width is the dataset's shows in the end."""
    frames: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Of these samples."""
    totals: dict[str, Totals] = field(default_factory=dict)
    has_own_videos: bool = False
    sha256: Any = field(default_factory=hashlib.sha256)
    """Over all rows in order, whatever file or dialect they came in."""

    def add_split(self, split: str, advance: Advance) -> None:
        """Read the rows of a split; those that no sample of ours can be are failures."""
        totals = Totals()
        for _, failure in read_failures(self.source.dataset.layout, self.manifest, split):
            totals.rows += 1
            totals.add_failures(failure.reason, 1)
        for row in read_rows(self.source, split, advance, check=check_with(self.labels)):
            totals.rows += 1
            if isinstance(row, Damage):
                report_damage(row.error, self.on_error)
            judged = judge_row(row)
            if isinstance(judged, Failure):
                totals.add_failures(judged.reason, 1)
                self.sha256.update(repr((split, judged.reason, judged.message)).encode())
            else:
                self._add_sample(judged, split)
        if totals.rows or split in self.source.dataset.layout.files:
            self.totals[split] = totals

    def _add_sample(self, sample: Sample, split: str) -> None:
        """Count a sample under its width: which one is the dataset's is not known yet."""
        n_frames, width = sample.embeddings.shape
        self.samples[split, width] += 1
        self.frames[split, width] += n_frames
        self.has_own_videos |= sample.time_start is None
        self.labels.add(sample, split)
        row = repr((split, sample.caption, sample.meta))
        self.sha256.update(row.encode("utf-8", "backslashreplace"))
        self.sha256.update(np.ascontiguousarray(sample.embeddings).data)

    def choose_width(self) -> int:
        """Return the width of the dataset: the manifest's, or that of most samples.

        Raises:
            InputError: there is no sample of it.
        """
        by_width: Counter[int] = Counter()
        for (_, width), count in self.samples.items():
            by_width[width] += count
        stated = self.source.dataset.layout.width
        most = max(by_width, key=lambda width: (by_width[width], -width), default=0)
        width = most if stated is None else stated
        if width < 1 or not by_width[width]:
            n_rows = sum(totals.rows for totals in self.totals.values())
            name = self.source.dataset.layout.root or "the source"
            wide = "" if stated is None else f" {stated} wide, as its manifest.json says"
            raise InputError(f"{name}: none of its {n_rows} rows holds embeddings{wide}")
        return width

    def finish(self, width: int) -> dict[str, Totals]:
        """Return the counts of every split, once the width is known."""
        for (split, found), count in self.samples.items():
            totals = self.totals[split]
            if found == width:
                totals.samples += count
                totals.frames += self.frames[split, found]
            else:
                totals.add_failures("unreadable", count)
        return self.totals


def check_with(labels: SourceLabels) -> Check:
    """Return what finds values that cannot be written, or that verification would refuse."""

    def check(sample: Sample) -> str | None:
        return find_misfit(sample) or labels.find_contradiction(sample)

    return check


def judge_row(row: Row) -> Sample | Failure:
    """Return the sample with float16 embeddings, or why there is none."""
    if isinstance(row, Damage):
        place = "" if row.error.key is None else f"sample {row.error.key}: "
        text = make_printable(f"{place}{row.error.reason}")
        return Failure(0, "source", "unreadable", text)
    judged = judge_array(row.embeddings)
    if isinstance(judged, tuple):
        return fault_of(row, *judged)
    return row if judged is row.embeddings else replace(row, embeddings=judged)


def fault_of(sample: Sample, reason: str, text: str) -> Failure:
    """Return the failure of a sample that could be read; its key leads back to it."""
    return Failure(0, "source", reason, make_printable(f"sample {sample.key}: {text}"))


def clip_of_row(row: Row, split: str) -> Clip:
    """Return whose a row is, in values that the table of failures can hold."""
    clip = row.clip if isinstance(row, Damage) else clip_of_sample(row, split)
    if is_utf8(clip.video_id) and is_integer(clip.time_start) and is_integer(clip.time_end):
        return clip
    return replace(
        clip,
        video_id=make_printable(clip.video_id),
        time_start=clip.time_start if is_integer(clip.time_start) else None,
        time_end=clip.time_end if is_integer(clip.time_end) else None,
    )
