"""An `EvaluationSource` gives the labelled clips of a split, and counts what it leaves out.

Labels come from `label_id` where a manifest says what it counts, and else from the caption.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clip_kinetics700.classes import VERSIONS, class_names
from clip_kinetics700.damage import OnError
from clip_kinetics700.dataset import EmbeddingDataset, OpenSource
from clip_kinetics700.hub import parse_repository_url
from clip_kinetics700.layout import Layout
from clip_kinetics700.remote import strip_query
from clip_kinetics700.schema import Sample
from clip_kinetics700_builder.clips.classes import read_classes
from clip_kinetics700_builder.config import EvaluationConfig
from clip_kinetics700_builder.dataset.manifest import Manifest
from clip_kinetics700_builder.read.rows import (
    Row,
    RowSource,
    batch_samples,
    count_steps,
    open_source,
    prepare_rows,
    read_own_manifest,
    read_rows,
)
from clip_kinetics700_builder.system.progress import Progress, no_progress
from clip_kinetics700_builder.types import InputError

IntArray = npt.NDArray[np.int64]
STRANGERS_SHOWN = 5


class Labels:
    """Which class of the list a clip is of; remembers the classes that are not in it."""

    def __init__(self, own_names: Sequence[str] | None, names: Sequence[str]) -> None:
        """Take what `label_id` counts in the dataset, if something says so, and the class list."""
        self.names = tuple(names)
        self._own_names = own_names
        self._ids = {name: number for number, name in enumerate(names)}
        self._strangers: Counter[str] = Counter()

    def find(self, caption: str, label_id: int | None) -> int | None:
        """Return the number of a clip's class, or None if it has no label of the list."""
        if self._own_names is None:
            name = caption
        elif label_id is None:
            name = ""
        elif 0 <= label_id < len(self._own_names):
            name = self._own_names[label_id]
        else:
            name = f"label_id {label_id}"
        if not name:
            return None
        number = self._ids.get(name)
        if number is None:
            self._strangers[name] += 1
        return number

    def refuse_strangers(self, source: str) -> None:
        """Refuse data with classes that are not in the list; name some of them."""
        if self._strangers:
            shown = sorted(self._strangers)[:STRANGERS_SHOWN]
            left = len(self._strangers) - len(shown)
            raise InputError(
                f"{source}: {self._strangers.total():,} clips are of classes that are not among "
                f"the {len(self.names)} of the class list: {', '.join(map(repr, shown))}"
                f"{f' and {left} others' if left else ''}; --classes names another list"
            )


@dataclass(frozen=True, slots=True, eq=False)
class ClipBatch:
    """Labelled clips of a split, their frames one after the other."""

    frames: npt.NDArray[Any]
    """(n_frames, width) floats as stored."""
    sizes: IntArray
    """(n_clips,) frames of each clip; 0 where it has none."""
    labels: IntArray
    """(n_clips,) places in the class list."""
    places: IntArray
    """(n_clips,) places among the rows of the split, as its index has them."""


@dataclass(frozen=True, slots=True)
class EvaluationSource:
    """A dataset that is evaluated."""

    name: str
    """As results and messages name it: the repository, or the name of the directory."""
    revision: str | None
    """Commit of a repository."""
    rows: RowSource
    manifest: Manifest | None
    """The manifest of a dataset of ours; None for others."""
    labels: Labels
    width: int
    """Columns of the embeddings."""
    config: EvaluationConfig
    progress: Progress = no_progress
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    """Clips of each split that was read that are not counted, by reason."""

    def read(self, split: str) -> Iterator[ClipBatch]:
        """Yield the labelled clips of a split in batches.

        Raises:
            DamageError: a clip is damaged or of another width, and damage is not to be skipped.
            InputError: no clip has a label, or there are classes that are not in the list.
        """
        dataset = self.rows.dataset
        steps = dataset.index.rows_of(split) if dataset.needs_index else dataset.layout.files[split]
        total, unit = len(steps), count_steps(self.rows)[1]
        dropped = self.dropped[split] = Counter()
        n_labelled = 0
        with self.progress(split, total, unit) as advance:
            rows = read_rows(self.rows, split, advance, check=self._check_width)
            on_error, places = self.config.source.on_error, list[int]()
            sound = note_places(rows, places)
            for samples in batch_samples(sound, on_error, lambda _: dropped.update(["damaged"])):
                batch = self._label(samples, places[: len(samples)], dropped)
                del places[: len(samples)]
                n_labelled += len(batch.labels)
                if len(batch.labels):
                    yield batch
        self.labels.refuse_strangers(self.name)
        if not n_labelled:
            raise InputError(f"{self.name}: no clip of split {split} has a label{why_none(split)}")

    def _check_width(self, sample: Sample) -> str | None:
        width = sample.embeddings.shape[1]
        # A clip without frames may have a width of its own.
        is_other = width != self.width and len(sample.embeddings)
        return f"{width} columns, the others have {self.width}" if is_other else None

    def _label(
        self, samples: Sequence[Sample], places: Sequence[int], dropped: Counter[str]
    ) -> ClipBatch:
        found = [self.labels.find(sample.caption, sample.label_id) for sample in samples]
        labelled = [row for row, label in enumerate(found) if label is not None]
        dropped["no_label"] += len(samples) - len(labelled)
        arrays: list[npt.NDArray[Any]] = [samples[row].embeddings for row in labelled]
        no_frames: npt.NDArray[Any] = np.empty((0, self.width), np.float32)
        return ClipBatch(
            frames=np.concatenate([array for array in arrays if len(array)] or [no_frames]),
            sizes=np.array([len(array) for array in arrays], np.int64),
            labels=np.array([found[row] for row in labelled], np.int64),
            places=np.array([places[row] for row in labelled], np.int64),
        )

    def describe(self) -> dict[str, str | None]:
        """Return what a result says of the dataset."""
        manifest = self.manifest
        return {
            "source": self.name,
            "revision": self.revision,
            "manifest_sha256": None if manifest is None else manifest.self_sha256,
            "data_sha256": None if manifest is None else manifest.data_sha256,
        }


def note_places(rows: Iterable[Row], places: list[int]) -> Iterator[Row]:
    """Yield rows as they come, and add to `places` which of them are samples."""
    for place, row in enumerate(rows):
        if isinstance(row, Sample):
            places.append(place)
        yield row


def why_none(split: str) -> str:
    """Return why a split may have no labels."""
    if split == "test":
        return ": Kinetics never released those of its test split; evaluate train or validation"
    return "; an evaluation needs clips of known classes"


def open_evaluation(
    config: EvaluationConfig,
    *splits: str,
    is_shuffled: bool = False,
    progress: Progress = no_progress,
) -> EvaluationSource:
    """Open a dataset of which some splits will be read; refuse at once what cannot be evaluated.

    One that will be shuffled needs an index; where there is none, all of it is read to make it.

    Raises:
        InputError: there is no such dataset, split or class list, or the index says already that
            clips have no labels, or labels that are not in the list.
        DamageError: the index is damaged, and damage is not to be skipped.
    """
    dataset = open_source(config.source)
    on_error = config.source.on_error
    rows = prepare_rows(dataset, on_error)
    if is_shuffled:
        rows = require_index(rows, on_error)
    layout = rows.dataset.layout
    name, revision = name_source(layout, config.source.source)
    for split in splits:
        if split not in layout.files:
            raise InputError(f"{name}: has no split {split}, only {', '.join(layout.files)}")
    labels = Labels(layout.class_names, resolve_classes(config.classes, layout.class_names))
    if rows.dataset.needs_index:
        for split in splits:
            check_labels(rows, split, labels, name)
    width = find_width(rows, on_error)
    return EvaluationSource(
        name=name,
        revision=revision,
        rows=rows,
        manifest=read_own_manifest(layout),
        labels=labels,
        width=width,
        config=config,
        progress=progress,
    )


def require_index(rows: RowSource, on_error: OnError) -> RowSource:
    """Return a source that has an index, made where there is none.

    Where damage is skipped, such an index has no row for it: a warning names it, no result counts.

    Raises:
        DamageError: a sample is damaged, and damage is not to be skipped.
    """
    if rows.dataset.needs_index:
        return rows
    layout = rows.dataset.layout
    dataset = EmbeddingDataset(OpenSource(layout, on_error), tuple(layout.files))
    len(dataset.index)
    return RowSource(dataset, rows.lost)


def find_width(rows: RowSource, on_error: OnError) -> int:
    """Return the columns of the embeddings, those of the first sound clip where damage is skipped.

    Raises:
        InputError: nothing tells.
    """
    try:
        return rows.dataset.width
    except ValueError as error:
        if on_error == "raise":
            raise InputError(str(error)) from error
    for split in rows.dataset.layout.files:
        for row in read_rows(rows, split, lambda _: None, check=lambda _: None):
            if isinstance(row, Sample) and len(row.embeddings):
                return int(row.embeddings.shape[1])
    raise InputError(f"{rows.dataset.layout.root}: no sound clip tells how wide embeddings are")


def check_labels(rows: RowSource, split: str, labels: Labels, name: str) -> None:
    """Refuse labels by the index alone, before a model is loaded or a frame is read."""
    index = rows.dataset.index
    block = index.take(index.rows_of(split))
    pairs = zip(block.column("caption"), block.column("label_id"), strict=True)
    found = [labels.find(caption or "", label_id) for caption, label_id in pairs]
    labels.refuse_strangers(name)
    if all(label is None for label in found):
        raise InputError(f"{name}: no clip of split {split} has a label{why_none(split)}")


def resolve_classes(classes: str | None, own_names: Sequence[str] | None) -> Sequence[str]:
    """Return the class list: a given one, that of the manifest, or that of Kinetics-700."""
    if classes is None:
        return class_names("700") if own_names is None else own_names
    if classes not in VERSIONS and not Path(classes).is_file():
        raise InputError(f"--classes {classes}: is no file; allowed are 400, 600, 700 or a file")
    return read_classes(classes)


def name_source(layout: Layout, source: str) -> tuple[str, str | None]:
    """Return what results call a dataset, and its commit: never a path of this machine."""
    root = layout.repository or layout.root or source
    place = parse_repository_url(root)
    if place is not None:
        return f"{place.repository}{place.directory}", place.revision
    return strip_query(root).rstrip("/").rpartition("/")[2], None
