"""Selects rows of an index by split, class and number, in order or shuffled.

Words and their meaning are FiftyOne's, so that clips to download, to encode and to read are asked
for in one way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .index import Index, IntArray
from .schema import SPLIT_OF_WORD, suggest


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What is wanted of each split."""

    classes: Sequence[str] | None = None
    """Names of classes, as the captions have them, or one; None is all."""
    max_samples: int | None = None
    """At most so many of each split, fewer where there are fewer; None is all."""
    shuffle: bool = False
    """Take them in a random order instead of the first ones in the dataset's order."""
    seed: int = 0
    """Changes the random order."""

    def __post_init__(self) -> None:
        if isinstance(self.classes, str):
            object.__setattr__(self, "classes", (self.classes,))
        if self.max_samples is not None and self.max_samples < 1:
            raise ValueError(f"max_samples must be at least 1, got {self.max_samples}")

    @property
    def is_everything(self) -> bool:
        """Tell whether this is every sample in the dataset's order."""
        return self.classes is None and self.max_samples is None and not self.shuffle


def resolve_splits(
    split: str | Sequence[str] | None, splits: Sequence[str], source: str
) -> list[str]:
    """Return the splits of a source that were asked for, by any word in use for them; None is all.

    Raises:
        ValueError: there is no such split; it gives the nearest names.
    """
    words = [split] if isinstance(split, str) else split
    if words is None or "all" in words:
        return list(splits)
    return list(dict.fromkeys(resolve_split(word, splits, source) for word in words))


def find_split(word: str, splits: Sequence[str]) -> str | None:
    """Return the split that a word means; None where it is not among these."""
    names = (word, SPLIT_OF_WORD.get(word.strip().lower()))
    return next((name for name in names if name in splits), None)


def resolve_split(word: str, splits: Sequence[str], source: str) -> str:
    """Return the split that a word means, or raise ValueError with the nearest names."""
    split = find_split(word, splits)
    if split is not None:
        return split
    # A word for a split that is not here is no misspelling.
    is_known = word.strip().lower() in SPLIT_OF_WORD
    hint = "" if is_known else suggest(word, [*splits, *SPLIT_OF_WORD])
    raise ValueError(f"no split {word!r} in {source}; there are {', '.join(splits)}{hint}")


def select_rows(
    index: Index,
    rows: Mapping[str, IntArray],
    selection: Selection,
    class_names: Sequence[str] | None,
) -> dict[str, IntArray]:
    """Return the (n,) int64 selected rows of each split, in the order they are to be read.

    Classes are those of a manifest, or else what the captions say.

    Raises:
        ValueError: there is no such class; it gives the nearest names.
    """
    selected = dict(rows)
    if selection.classes is not None:
        is_wanted = match_classes(index, selection.classes, class_names)
        selected = {split: group[is_wanted[group]] for split, group in selected.items()}
    if selection.shuffle:
        for split, group in selected.items():
            selected[split] = np.random.default_rng(selection.seed).permutation(group)
    return {split: group[: selection.max_samples] for split, group in selected.items()}


def match_classes(
    index: Index, classes: Sequence[str], class_names: Sequence[str] | None
) -> npt.NDArray[np.bool_]:
    """Return (n,) bool that tells which rows of an index have one of these classes."""
    captions = index.samples.column("caption")
    known = class_names
    if known is None:
        known = sorted(caption for caption in pc.unique(captions).to_pylist() if caption)
    for name in classes:
        if name not in known:
            hint = suggest(str(name), known)
            raise ValueError(f"no class {name!r} among the {len(known)} there are{hint}")
    wanted = pc.is_in(captions, pa.array(list(classes), pa.string()))
    return np.asarray(wanted.to_numpy(), np.bool_)
