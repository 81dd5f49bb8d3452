"""Opens a source as a sequence of samples, each of which is read when it is asked for.

`load_dataset`, `batches` and `EmbeddingWebDatasetReader` are layers of this one reader.
"""

import operator
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from html import escape
from itertools import chain
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from .arrays import Arrays, Results, make_samples, open_arrays, read_ahead
from .damage import DamageError, OnError, check_on_error, keep_whole
from .hub import find_source
from .index import Block, Index, IntArray, load_index, scan_samples
from .layout import Layout, Source, read_layout
from .remote import is_remote
from .schema import SPLIT_OF_WORD, Sample, suggest
from .selection import Selection, find_split, resolve_split, resolve_splits, select_rows


class OpenSource:
    """A source, and what has been learned about it so far; all views of a dataset share one."""

    def __init__(self, layout: Layout, on_error: OnError) -> None:
        self.layout = layout
        self.on_error = on_error

    @cached_property
    def index(self) -> Index:
        """The index, read or made when it is first needed."""
        return load_index(self.layout, on_error=self.on_error)

    @cached_property
    def arrays(self) -> Arrays:
        """The reader of the embeddings."""
        return open_arrays(self.index, kind=self.layout.kind)

    @property
    def has_index(self) -> bool:
        """Tell whether samples can be found without reading all of them."""
        is_known = self.layout.index is not None or self.layout.kind == "parquet"
        return is_known or "index" in self.__dict__


class Splits(dict[str, "EmbeddingDataset"]):
    """The datasets of splits by name; other words for a split find it too."""

    def __missing__(self, word: str) -> "EmbeddingDataset":
        try:
            return self[resolve_split(str(word), tuple(self), "the dataset")]
        except ValueError as error:
            raise KeyError(str(error)) from None


class EmbeddingDataset:
    """Samples of a source in order: all of them, a split, or a selection.

    `dataset[3]` and `dataset["vid_000000003"]` are samples, `dataset["train"]`, `dataset[2:9]` and
    `dataset[[5, 1]]` datasets of these. Arrays are read-only. To torch it is a map-style dataset,
    which a DataLoader and its samplers take.
    """

    def __init__(
        self, source: OpenSource, splits: Sequence[str], rows: IntArray | None = None
    ) -> None:
        """View what `open` has opened: (n,) int64 rows of its index, or all rows of some splits."""
        self._source = source
        self._splits = tuple(splits)
        self._given_rows = rows

    @property
    def layout(self) -> Layout:
        """Which files hold the samples."""
        return self._source.layout

    @property
    def index(self) -> Index:
        """One row for every sample of the source, selected or not."""
        return self._source.index

    @property
    def on_error(self) -> OnError:
        """Whether damage is raised or skipped."""
        return self._source.on_error

    @cached_property
    def rows(self) -> IntArray:
        """(n,) int64 rows of the index that these samples are, in order."""
        if self._given_rows is not None:
            return self._given_rows
        if self._splits == tuple(self.layout.files):
            return np.arange(len(self.index), dtype=np.int64)
        return np.concatenate([self.index.rows_of(split) for split in self._splits])

    @property
    def needs_index(self) -> bool:
        """Tell whether these are read by the index: there is one, or they are a selection."""
        return self._given_rows is not None or self._source.has_index

    @property
    def is_random_access(self) -> bool:
        """Tell whether rows cost the same in any order, as pieces of files of this machine do."""
        return self.layout.kind != "parquet" and not any(map(is_remote, self.index.files))

    @property
    def is_empty(self) -> bool:
        """Tell whether there is no sample; upstream's last tar may hold none."""
        return len(self) == 0 if self.needs_index else next(iter(self), None) is None

    @property
    def splits(self) -> dict[str, "EmbeddingDataset"]:
        """The dataset of each split: `train`, `validation`, `test`; other words find them too."""
        rows: dict[str, IntArray | None] = dict.fromkeys(self._splits)
        if self._given_rows is not None:
            for split in rows:
                rows[split] = self.rows[np.isin(self.rows, self.index.rows_of(split))]
        return Splits((s, EmbeddingDataset(self._source, [s], rows[s])) for s in rows)

    def keys(self) -> list[str]:
        """Return the key of each sample in order; a key may come several times."""
        return self.index.take(self.rows).column("key")

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names by `label_id`; None where no manifest gives them."""
        return self.layout.class_names

    @property
    def width(self) -> int:
        """Columns of the embeddings.

        Raises:
            ValueError: no manifest says it, and there is no sample.
        """
        if self.layout.width is not None:
            return self.layout.width
        # Its own splits first: nothing of others is fetched that is not needed.
        splits = dict.fromkeys([*self._splits, *self.layout.files])
        samples = iter(EmbeddingDataset(self._source, tuple(splits)))
        first = next(samples, None)
        if first is not None:
            # A sample without frames does not tell; upstream gives it a width of its own.
            telling = next((s for s in chain([first], samples) if len(s.embeddings)), first)
            return int(telling.embeddings.shape[1])
        raise ValueError(f"{self.layout.root}: no samples, so nothing tells how wide they are")

    def select(
        self,
        split: str | Sequence[str] | None = None,
        *,
        classes: Sequence[str] | None = None,
        max_samples: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
    ) -> "EmbeddingDataset":
        """Return a part of the dataset, as FiftyOne selects.

        Args:
            split: `train`, `validation`, `test` or another word for one, or several; None is all.
            classes: names of classes, as the captions have them, or one; None is all.
            max_samples: at most so many of each split, fewer where there are fewer.
            shuffle: take them in a random order instead of the first ones in order.
            seed: changes that order.

        Raises:
            ValueError: there is no such split or class; it gives the nearest names.
        """
        splits = resolve_splits(split, self._splits, self.layout.root or "the source")
        how = Selection(classes=classes, max_samples=max_samples, shuffle=shuffle, seed=seed)
        if how.is_everything and self._given_rows is None:
            return EmbeddingDataset(self._source, splits)
        views = self.splits
        rows = {split: views[split].rows for split in splits}
        selected = select_rows(self.index, rows, how, self.class_names)
        return EmbeddingDataset(self._source, splits, np.concatenate([*selected.values()]))

    def __len__(self) -> int:
        """Count the samples; without an index that reads all of them once."""
        return len(self.rows)

    def __contains__(self, item: object) -> bool:
        """Tell whether there is a sample, by itself or its key, or a split of this name."""
        word = item.key if isinstance(item, Sample) else item
        if not isinstance(word, str):
            return False
        is_split = word is item and find_split(word, self._splits) is not None
        return is_split or len(self._rows_of_key(word)) > 0

    @overload
    def __getitem__(self, place: int) -> Sample: ...

    @overload
    def __getitem__(self, place: str) -> Any: ...

    @overload
    def __getitem__(self, place: slice | Sequence[int] | IntArray) -> "EmbeddingDataset": ...

    def __getitem__(
        self, place: int | str | slice | Sequence[int] | IntArray
    ) -> "Sample | EmbeddingDataset":
        """Return the sample at a place or of a key, or the dataset of a split or several places.

        A word for a split that is here names that split, even if a sample has it for a key.

        Raises:
            IndexError: there is no such place.
            KeyError: there is no such split or key, or there are several samples of this key.
            DamageError: the sample is damaged, whatever `on_error` says.
        """
        if isinstance(place, str):
            if find_split(place, self._splits) is not None:
                return self.select(place)
            return self._read(np.array([self._find(place)]))[0]
        if isinstance(place, slice):
            return EmbeddingDataset(self._source, self._splits, self.rows[place])
        if isinstance(place, Sequence | np.ndarray):
            return EmbeddingDataset(self._source, self._splits, self.rows[as_places(place)])
        number = operator.index(place)
        if not -len(self) <= number < len(self):
            raise IndexError(f"sample {number} of a dataset of {len(self)}")
        return self._read(self.rows[[number]])[0]

    def __getitems__(self, places: Sequence[int]) -> list[Sample]:
        """Return the samples at several places at once, as a DataLoader asks for them."""
        return self._read(self.rows[as_places(places)])

    def __iter__(self) -> Iterator[Sample]:
        """Yield the samples in order; samples of whole splits need no index.

        Raises:
            DamageError: a sample or a tar is damaged and `on_error` is `raise`.
        """
        if not self.needs_index:
            files = {split: self.layout.files[split] for split in self._splits}
            layout = replace(self.layout, files=files)
            for _, _, placed in scan_samples(layout, on_error=self.on_error):
                yield placed.sample
            return
        yield from keep_whole(self.read_rows(self.rows), self.on_error)

    def __repr__(self) -> str:
        """Name the source, the splits and, where that is known, how many samples there are."""
        name = self.layout.root or f"{sum(map(len, self.layout.files.values()))} named tars"
        count = f", {len(self):,} samples" if self._source.has_index else ""
        return f"<EmbeddingDataset {name}: {', '.join(self._splits)}{count}>"

    def _repr_html_(self) -> str:
        """Show a notebook the source and its splits, with counts where an index tells them."""
        heads = ["split"]
        rows = [[split] for split in self._splits]
        if self._source.has_index:
            heads += ["samples", "frames"]
            n_frames = self.index.samples.column("n_frames").to_numpy()
            for row, part in zip(rows, self.splits.values(), strict=True):
                row += [f"{len(part):,}", f"{n_frames[part.rows].sum():,}"]
        body = "".join(
            f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in row)}</tr>"
            for tag, row in [("th", heads), *(("td", row) for row in rows)]
        )
        return f"<p>{escape(repr(self))}</p><table>{body}</table>"

    def read_blocks(self, rows: IntArray) -> Iterator[tuple[Block, Results]]:
        """Yield rows of the index in blocks, in order, with the embeddings of each."""
        return read_ahead(self.index, self._source.arrays, rows)

    def read_rows(self, rows: IntArray) -> Iterator[Sample | DamageError]:
        """Yield the samples of rows of the index, in order, damage in its place."""
        for block, results in self.read_blocks(rows):
            yield from make_samples(self.index, block, results)

    def _read(self, rows: IntArray) -> list[Sample]:
        """Return the samples of a few rows."""
        return list(keep_whole(self.read_rows(rows), "raise"))

    def _rows_of_key(self, key: str) -> IntArray:
        """Return the (n,) int64 rows of a key among these."""
        rows = np.array(self.index.rows_by_key.get(key, []), np.int64)
        if self._given_rows is not None:
            return rows[np.isin(rows, self._given_rows)]
        splits = self.index.splits
        numbers = [number for number, split in enumerate(splits) if split in self._splits]
        return rows[np.isin(self.index.split_numbers[rows], numbers)]

    def _find(self, key: str) -> int:
        """Return the row of a key."""
        rows = self._rows_of_key(key)
        if len(rows) == 1:
            return int(rows[0])
        if len(rows) == 0:
            hint = suggest(key, [*self._splits, *SPLIT_OF_WORD])
            raise KeyError(f"no split and no sample {key!r} in {self!r}{hint}")
        files = [self.index.files[number] for number in self.index.file_numbers[rows]]
        names = ", ".join(map(self.layout.relative, files))
        raise KeyError(f"{len(rows)} samples {key!r}, in {names}: ask for one by its place")


def as_places(places: Sequence[int] | Sequence[str] | npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return places, or one bool for each sample, as an (n,) array that indexes rows."""
    array = np.asarray(places)
    if array.ndim == 1 and (array.dtype.kind in "iub" or not len(array)):
        return array if len(array) else array.astype(np.int64)
    raise TypeError(f"samples are named by places or by one key, got {places!r:.99}")


def open_dataset(
    source: Source,
    *,
    index: str | os.PathLike[str] | None = None,
    on_error: OnError = "raise",
    revision: str | None = None,
    name: str | None = None,
) -> EmbeddingDataset:
    """Open a dataset of any dialect; `clip_kinetics700.open` is this function.

    Args:
        source: a directory, a repository of the Hub, an fsspec URL of a directory, or tars: one,
            several (they are `train`), or several by split.
        index: path or URL of an index that lies elsewhere than in the source.
        on_error: `raise` damage, naming file, key, byte and reason, or `skip` it with a warning.
        revision: branch, tag or commit of a repository.
        name: the configuration, where the source has several, as `push_to_hub` calls it.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: there are no samples in it, nothing says which tar belongs to which split, or
            an option is wrong.
    """
    check_on_error(on_error)
    layout = read_layout(source, revision=revision, name=name)
    if index is not None:
        layout = replace(layout, index=find_source(index))
    return EmbeddingDataset(OpenSource(layout, on_error), tuple(layout.files))
