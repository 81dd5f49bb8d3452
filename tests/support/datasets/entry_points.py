"""Each `Way` reads a dataset through one entry point, as rows that can be compared."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from clip_kinetics700 import EmbeddingDataset, Sample
from clip_kinetics700.damage import OnError
from tests.support.datasets.places import in_memory, over_http
from tests.support.datasets.plain_reading import SPLITS, Expected, Row, make_row

Seen: TypeAlias = tuple[Any, ...]
"""What a way gives for a row."""
Read: TypeAlias = Callable[[EmbeddingDataset, str | Path], Iterator[Seen]]
View: TypeAlias = Callable[[Expected], Sequence[Seen | None]]
Place: TypeAlias = Callable[[Path], AbstractContextManager[str | Path]]


class Way(NamedTuple):
    """One entry point, with where the source lies and what is done about damage."""

    name: str
    on_error: OnError
    place: Place
    read: Read
    view: View
    """Returns what the way must give for these rows."""
    uses_index: bool = False
    is_elsewhere: bool = False
    """Whether the index lies outside the source."""
    may_refuse: bool = False
    """Whether it may refuse a source of which nothing is left even where damage is skipped."""


def see(sample: Sample, split: str = "") -> Row:
    """Return a sample as a row; one that is not as the contract has it is an error."""
    return make_row(split, sample.key, sample.caption, sample.embeddings, sample.meta)


def iterate(dataset: EmbeddingDataset, source: str | Path) -> Iterator[Seen]:
    """Read from first to last."""
    yield from map(see, dataset)


def read_places(dataset: EmbeddingDataset, source: str | Path) -> Iterator[Seen]:
    """Ask for one place after the other."""
    for place in range(len(dataset)):
        yield see(dataset[place])


def read_keys(dataset: EmbeddingDataset, source: str | Path) -> Iterator[Seen]:
    """Ask by key where one sample has it, and by place from the end where more do."""
    keys = dataset.index.samples.column("key").to_pylist()
    for place, key in enumerate(keys):
        is_one = isinstance(key, str) and keys.count(key) == 1
        yield see(dataset[key] if is_one else dataset[place - len(keys)])


def read_slices(dataset: EmbeddingDataset, source: str | Path) -> Iterator[Seen]:
    """Read one half as a slice, and the other in lists of places."""
    middle = len(dataset) // 2
    yield from map(see, dataset[:middle])
    for place in range(middle, len(dataset), 2):
        yield from map(see, dataset.__getitems__(range(len(dataset))[place : place + 2]))


def read_splits(dataset: EmbeddingDataset, source: str | Path) -> Iterator[Seen]:
    """Read one split after the other."""
    for split, part in dataset.splits.items():
        for sample in part:
            yield see(sample, split)


def read_batches(dataset: EmbeddingDataset, source: str | Path) -> Iterator[Seen]:
    """Read padded batches."""
    from clip_kinetics700 import batches

    for batch in batches(dataset, None, batch_size=3):
        rows = zip(
            batch["keys"], batch["captions"], batch["embeddings"], batch["mask"], strict=True
        )
        for key, caption, embeddings, mask in rows:
            yield key, caption, embeddings[mask].numpy().tobytes()


def read_upstream(dataset: EmbeddingDataset, source: str | Path) -> Iterator[Seen]:
    """Read as programs for upstream's reader do."""
    from clip_kinetics700 import EmbeddingWebDatasetReader

    reader = EmbeddingWebDatasetReader(
        str(source), -1, 1, 0, enable_meta=True, tokenizer=None, on_error=dataset.on_error
    )
    for batch in reader:
        yield batch["text"][0], batch["embeddings"][0].float().numpy().tobytes()


def read_streamed(dataset: EmbeddingDataset, source: str | Path) -> Iterator[Seen]:
    """Stream through `datasets`; by the index where there is one."""
    from clip_kinetics700 import load_dataset

    how: dict[str, Any] = {"max_samples": 1000} if dataset.needs_index else {}
    options: dict[str, Any] = {
        "streaming": True,
        "on_error": dataset.on_error,
        "cache_dir": "cache",
    }
    for rows in load_dataset(source, **options, **how).values():
        for row in rows:
            array = np.asarray(row["embeddings"], np.float16)
            yield row["meta"]["key"], row["caption"], len(array), unify_nan(array).tobytes()


def unify_nan(array: Any) -> Any:
    """Return float16 in which every NaN is the same."""
    with np.errstate(over="ignore"):
        halves = array.astype(np.float16)
    return np.where(np.isnan(halves), np.float16("nan"), halves)


def view_rows(rows: Expected) -> Sequence[Seen | None]:
    """Return rows as most ways give them, the split aside."""
    return [row._replace(split="") if row and row.meta else None for row in rows]


def view_splits(rows: Expected) -> Sequence[Seen | None]:
    """Return rows by split, and None behind all for each that cannot be read."""
    there = sort_rows([row for row in rows if row and row.meta])
    return [*there, *[None] * (len(rows) - len(there))]


def sort_rows(rows: Expected) -> list[Row]:
    """Return the rows that can be read by split."""
    return sorted((row for row in rows if row), key=lambda row: SPLITS.index(row.split))


def view_batches(rows: Expected) -> Sequence[Seen | None]:
    """Return rows as batches of float32 hold them, without times."""
    return [
        row and (row.key, row.caption, row.embeddings.astype(np.float32).tobytes()) for row in rows
    ]


def view_upstream(rows: Expected) -> Sequence[Seen | None]:
    """Return rows as upstream's reader gives them."""
    return [
        (row.caption, row.embeddings.astype(np.float32).tobytes()) if row and row.meta else None
        for row in rows
    ]


def view_streamed(rows: Expected) -> Sequence[Seen | None]:
    """Return rows as `datasets` gives them, without times."""
    there = [
        (row.key, row.caption, row.shape[0], unify_nan(row.embeddings).tobytes())
        for row in sort_rows(rows)
    ]
    return [*there, *[None] * (len(rows) - len(there))]


SCAN_WAYS = (
    Way("iterate", "raise", nullcontext, iterate, view_rows),
    Way("iterate, skip", "skip", nullcontext, iterate, view_rows),
    Way("places", "raise", nullcontext, read_places, view_rows),
    Way("memory", "raise", in_memory, iterate, view_rows),
    Way("memory, skip", "skip", in_memory, iterate, view_rows),
    Way("splits", "raise", nullcontext, read_splits, view_splits),
)
INDEX_WAYS = (
    Way("index", "raise", nullcontext, iterate, view_rows, uses_index=True),
    Way("index, skip", "skip", nullcontext, iterate, view_rows, uses_index=True),
    Way("index, places", "raise", nullcontext, read_places, view_rows, uses_index=True),
    Way("index, keys", "raise", nullcontext, read_keys, view_rows, uses_index=True),
    Way("index, slices", "raise", nullcontext, read_slices, view_rows, uses_index=True),
    Way("index, splits", "raise", in_memory, read_splits, view_splits, uses_index=True),
    Way("index, memory, skip", "skip", in_memory, iterate, view_rows, uses_index=True),
    Way("elsewhere", "raise", nullcontext, iterate, view_rows, uses_index=True, is_elsewhere=True),
    Way("elsewhere, skip", "skip", in_memory, iterate, view_rows, uses_index=True,
        is_elsewhere=True),
)  # fmt: skip
RARE_WAYS = (
    Way("batches", "raise", nullcontext, read_batches, view_batches),
    Way("batches, skip", "skip", nullcontext, read_batches, view_batches),
    Way("index, batches, skip", "skip", nullcontext, read_batches, view_batches, uses_index=True),
    Way("upstream", "raise", nullcontext, read_upstream, view_upstream),
    Way("upstream, skip", "skip", nullcontext, read_upstream, view_upstream),
    Way("streaming", "raise", nullcontext, read_streamed, view_streamed),
    Way("streaming, skip", "skip", nullcontext, read_streamed, view_streamed, may_refuse=True),
    Way("index, streaming, skip", "skip", nullcontext, read_streamed, view_streamed,
        uses_index=True, may_refuse=True),
    Way("http, skip", "skip", over_http, iterate, view_rows),
    Way("index, http", "raise", over_http, read_slices, view_rows, uses_index=True),
    Way("index, http, skip", "skip", over_http, iterate, view_rows, uses_index=True),
)  # fmt: skip
