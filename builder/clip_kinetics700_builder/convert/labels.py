"""A `SourceLabels` finds one class list for a source, and every sample's label id in it.

A source that numbers its labels keeps its numbers. In another one the captions decide, as they do
for `assemble`, but one sample at a time: nothing here grows with the dataset.
"""

from collections.abc import Sequence

from clip_kinetics700.classes import VERSIONS, class_names
from clip_kinetics700.schema import Sample
from clip_kinetics700_builder.clips.classes import resolve_class_list
from clip_kinetics700_builder.read.rows import clip_of_sample
from clip_kinetics700_builder.types import InputError

LabelIds = dict[str, int]


def number_names(names: Sequence[str]) -> LabelIds:
    """Return the label id of each class name."""
    return {name: label_id for label_id, name in enumerate(names)}


class SourceLabels:
    """The class list of a source: its own, a given one, or the one that all its captions are of."""

    def __init__(self, names: Sequence[str] | None, class_list: str, *, is_known: bool) -> None:
        """Start with what is known before a sample is read.

        Args:
            names: the source's own class names by label id; None where it has none.
            class_list: `auto`, `400`, `600`, `700` or a text file.
            is_known: a manifest of ours says so: labels that are missing are missing on purpose.

        Raises:
            InputError: the list cannot be read, or the source numbers its labels by another one.
        """
        self._class_list = class_list
        self._fills = not is_known or class_list != "auto"
        self._candidates: list[LabelIds] = [] if names is None else [number_names(names)]
        self._is_open = names is None and not is_known and class_list == "auto"
        self._is_given = class_list != "auto"
        if self._is_given:
            given = resolve_class_list([], class_list) or ()
            if names is not None and tuple(names) != given:
                raise InputError(
                    f"--class-list {class_list}: the source numbers its labels by a list of its "
                    f"own, of {len(names)} classes"
                )
            self._candidates = [number_names(given)]
        elif self._is_open:
            self._candidates = [number_names(class_names(name)) for name in reversed(VERSIONS)]

    def add(self, sample: Sample, split: str) -> None:
        """Look at one sample, before any label is asked for.

        Raises:
            InputError: its caption is not among the names of the list that was given.
        """
        if self._is_open:
            self._candidates = [ids for ids in self._candidates if fits(ids, sample)]
        elif self._is_given and sample.caption and sample.caption not in self._ids:
            resolve_class_list([clip_of_sample(sample, split)], self._class_list)

    @property
    def names(self) -> list[str] | None:
        """The class names by label id, once all samples were looked at; None for free text."""
        return list(self._ids) if self._candidates else None

    def label_of(self, sample: Sample) -> int | None:
        """Return the label id a sample has, or else that of the class its caption names."""
        is_missing = sample.label_id is None and self._fills
        return self._ids.get(sample.caption) if is_missing else sample.label_id

    def find_contradiction(self, sample: Sample) -> str | None:
        """Return in what a label id contradicts the class names, if in anything."""
        label_id = sample.label_id
        if label_id is None or self._is_open or not self._candidates:
            return None
        if not 0 <= label_id < len(self._ids):
            return f"label_id {label_id} is outside of the {len(self._ids)} classes"
        # Captions of one's own videos are free to be a class's name.
        is_kinetics = sample.time_start is not None
        if is_kinetics and self._ids.get(sample.caption, label_id) != label_id:
            return f"label_id {label_id} is not the class that the caption names"
        return None

    @property
    def _ids(self) -> LabelIds:
        return self._candidates[0] if self._candidates else {}


def fits(ids: LabelIds, sample: Sample) -> bool:
    """Tell whether a sample may be of a class list: so it is without caption and label id."""
    if not sample.caption:
        return sample.label_id is None
    return sample.caption in ids and sample.label_id in (None, ids[sample.caption])
