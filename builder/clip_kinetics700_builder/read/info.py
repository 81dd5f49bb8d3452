"""`info` counts what is in a dataset of any dialect and what is odd about it, in one pass.

The printed tables and `--json` are two forms of one document.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from clip_kinetics700.damage import OnError
from clip_kinetics700.layout import Layout
from clip_kinetics700.remote import is_gzip_name
from clip_kinetics700.schema import SPLIT_OF_WORD, Sample
from clip_kinetics700_builder.config import SourceConfig
from clip_kinetics700_builder.read.info_counts import (
    Classes,
    Oddity,
    SeenNames,
    describe_counts,
    describe_norms,
)
from clip_kinetics700_builder.read.rows import (
    Damage,
    Row,
    batch_samples,
    count_steps,
    list_source,
    open_source,
    prepare_rows,
    read_own_manifest,
    read_rows,
    read_size,
)
from clip_kinetics700_builder.system.progress import Progress, no_progress

ODDITIES = ("damaged", "empty", "not_finite", "zero_frames", "label_outside")


class Survey:
    """What is counted while the rows pass by."""

    def __init__(self, class_names: Sequence[str] | None, on_error: OnError) -> None:
        self._class_names = class_names
        self._on_error = on_error
        self.samples: Counter[str] = Counter()
        self.frames: Counter[str] = Counter()
        self.n_frames: Counter[int] = Counter()
        self.widths: Counter[int] = Counter()
        self.dtypes: Counter[str] = Counter()
        self.first_of_width: dict[int, str] = {}
        self.norms: list[npt.NDArray[np.float32]] = []
        self.classes = Classes()
        self.n_without_label_id = 0
        self.keys, self.clips = SeenNames(), SeenNames()
        self.oddities = {name: Oddity() for name in ODDITIES}

    def add(self, rows: Iterator[Row], split: str) -> None:
        """Count the rows of one split."""
        for batch in batch_samples(rows, self._on_error, self._note_damage):
            for sample in batch:
                self._add_sample(sample, split)
            self._add_frames(batch)

    def _note_damage(self, row: Damage) -> None:
        self.oddities["damaged"].add(row.error.key or row.clip.video_id)

    def _add_sample(self, sample: Sample, split: str) -> None:
        n_frames, width = sample.embeddings.shape
        self.samples[split] += 1
        self.frames[split] += n_frames
        self.n_frames[n_frames] += 1
        self.widths[width] += 1
        self.first_of_width.setdefault(width, sample.key)
        self.dtypes[str(sample.embeddings.dtype)] += 1
        if n_frames == 0:
            self.oddities["empty"].add(sample.key)
        self._add_label(sample)
        self.keys.add(sample.key, "")
        if None not in (sample.youtube_id, sample.time_start, sample.time_end):
            clip = f"{sample.youtube_id} {sample.time_start}-{sample.time_end}"
            self.clips.add(clip, split)

    def _add_label(self, sample: Sample) -> None:
        names, label_id = self._class_names, sample.label_id
        name = sample.caption
        self.n_without_label_id += label_id is None
        if names is not None and label_id is not None:
            if 0 <= label_id < len(names):
                name = names[label_id]
            else:
                self.oddities["label_outside"].add(sample.key)
        self.classes.add(name)

    def _add_frames(self, samples: Sequence[Sample]) -> None:
        """Count norms, zeros and what is not finite, of all frames of one width at once."""
        for width in {sample.embeddings.shape[1] for sample in samples}:
            group = [sample for sample in samples if sample.embeddings.shape[1] == width]
            frames = np.concatenate([sample.embeddings for sample in group])
            norms = measure_frames(frames)
            is_zero = norms == 0
            is_odd = ~np.isfinite(norms)
            self.norms.append(norms[~is_odd])
            if is_zero.any() or is_odd.any():
                sizes = [len(sample.embeddings) for sample in group]
                owners = np.repeat(np.arange(len(group)), sizes)
                self._add_owners("zero_frames", group, owners[is_zero])
                self._add_owners("not_finite", group, np.unique(owners[is_odd]))

    def _add_owners(self, name: str, group: Sequence[Sample], owners: npt.NDArray[Any]) -> None:
        if len(owners):
            self.oddities[name].add(group[int(owners[0])].key, len(owners))


def measure_frames(frames: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return the (n,) float32 L2 norms of (n, width) frames; NaN where a number is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        floats = frames.astype(np.float32, copy=False)
        norms = np.sqrt(np.einsum("ij,ij->i", floats, floats))
        # Numbers of float64 may be finite and their squares not, or not zero and their squares so.
        odd = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
        if len(odd):
            exact = np.linalg.norm(frames[odd].astype(np.float64), axis=1)
            norms[odd] = np.clip(exact, None, np.finfo(np.float32).max)
            norms[odd[~np.isfinite(frames[odd]).all(axis=1)]] = np.nan
    return np.asarray(norms, np.float32)


def describe_source(config: SourceConfig, *, progress: Progress = no_progress) -> dict[str, Any]:
    """Read a source once; return what is in it, ready for JSON.

    Raises:
        InputError: there is no such source.
        DamageError: a sample or a file is damaged, and `config.on_error` is `raise`.
    """
    dataset = open_source(config)
    layout = dataset.layout
    described = describe_files(layout, config.source)
    source = prepare_rows(dataset, config.on_error)
    survey = Survey(layout.class_names, config.on_error)
    with progress("read", *count_steps(source)) as advance:
        for split in layout.files:
            survey.add(read_rows(source, split, advance), split)
    return {**described, **describe_samples(survey)}


def describe_files(layout: Layout, source: str) -> dict[str, Any]:
    """Return which dialect a source is, how many bytes, and what it was made with."""
    manifest = read_own_manifest(layout)
    names = [layout.relative(path) for group in layout.files.values() for path in group]
    sizes = {name: read_size(info) or 0 for name, info in list_source(layout).items()}
    return {
        "source": source,
        "dialect": describe_dialect(layout, is_ours=manifest is not None),
        "has_index": layout.index is not None,
        "has_manifest": manifest is not None,
        "n_files": len(names),
        "bytes": sum(sizes[name] for name in names),
        "bytes_of_all_files": sum(sizes.values()),
        "provenance": None if manifest is None else dict(manifest.configuration),
    }


def describe_dialect(layout: Layout, *, is_ours: bool) -> str:
    """Return in a few words what holds the samples, and what tells of which split they are."""
    names = [layout.relative(path) for group in layout.files.values() for path in group]
    if layout.kind == "loose":
        return "processed dataset of SPLIT/NAME.npy"
    if layout.kind == "parquet":
        return "Parquet of this project's layout" if is_ours else "Parquet"
    kind = "gzipped tars" if any(map(is_gzip_name, names)) else "tars"
    if is_ours:
        return f"{kind} of this project's layout"
    if not layout.root:
        return f"{kind}, named one by one"
    by_directory = all(PurePosixPath(name).parent.name in SPLIT_OF_WORD for name in names)
    return f"{kind}, by directories of splits" if by_directory else f"{kind}, by splits.csv"


def describe_samples(survey: Survey) -> dict[str, Any]:
    """Return what was counted."""
    widths = survey.widths.most_common()
    others = Oddity()
    for width, count in widths[1:]:
        others.add(survey.first_of_width[width], count)
    found = {
        **survey.oddities,
        "other_width": others,
        "duplicate_keys": survey.keys.again,
        "duplicate_clips": survey.clips.again,
        "clips_in_several_splits": survey.clips.elsewhere,
    }
    return {
        "samples": survey.samples.total(),
        "frames": survey.frames.total(),
        "splits": {
            split: {"samples": count, "frames": survey.frames[split]}
            for split, count in survey.samples.items()
        },
        "frames_per_sample": describe_counts(survey.n_frames),
        "width": widths[0][0] if widths else None,
        "widths": {str(width): count for width, count in widths},
        "dtypes": dict(survey.dtypes.most_common()),
        "norms": describe_norms(survey.norms),
        "classes": {
            "number": len(survey.classes.counts),
            "is_complete": survey.classes.is_complete,
            "counts": dict(survey.classes.counts.most_common()),
        },
        "without_class": survey.classes.n_missing,
        "without_label_id": survey.n_without_label_id,
        "oddities": {
            name: {"count": oddity.count, "first": oddity.first} for name, oddity in found.items()
        },
    }
