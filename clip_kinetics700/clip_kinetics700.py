"""Gives any source to `datasets`, as a builder class and as the loading script of 2.x and 3.x.

These versions copy a script together with the `NAME.py` files beside it that it imports itself, by
`from .NAME import` at column 0: all modules that the reader needs must be imported here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from .arrays import ROWS_PER_BLOCK, Array, Results
from .damage import DamageError, OnError, report_damage
from .dataset import EmbeddingDataset, OpenSource, open_dataset
from .features import META_TYPE, SAMPLE_COLUMNS, data_schema, embeddings_array, features_dict
from .hub import parse_repository_url
from .index import IntArray, index_row, make_piece
from .layout import DEFAULT_NAME, fingerprint
from .local import LocalFiles
from .manifest import parse_manifest
from .parquet import ParquetSource
from .remote import is_remote
from .schema import to_float16
from .selection import Selection, resolve_splits
from .shards import scan_shard

# The script uses nothing of some, but its modules do. A comment behind them would be a URL.
from .states import FileStates
from .streams import open_stream
from .tars import read_members

DESCRIPTION = "CLIP embeddings of the Kinetics clips, one frame per second."
# Rows are handed over as Arrow tables of about 5 MB: encoding them one by one as Python objects
# takes 28 times as long in datasets 2.21.
SAMPLES_PER_TABLE = 512
# Workers share a dataset by pieces of its rows: as many rows as a tar holds, or fewer where that
# would leave workers without a piece.
MAX_ROWS_PER_SHARD = 10_000
MIN_ROWS_PER_SHARD = ROWS_PER_BLOCK
SHARDS_WANTED = 64


@dataclass
class ClipKinetics700Config(datasets.BuilderConfig):  # type: ignore[misc]
    """Options of the builder; the cache also depends on what the source holds at the moment."""

    tars: Mapping[str, Sequence[str]] | None = None
    """Tars by split, as they are named; `data_files` takes patterns of names."""
    splits: Sequence[str] | None = None
    """Splits to prepare; None is all."""
    classes: Sequence[str] | None = None
    """Names of classes, or one; None is all."""
    max_samples: int | None = None
    """Greatest number of samples of each split; None is all."""
    shuffle: bool = False
    """Take the samples in a random order."""
    seed: int = 0
    """Changes the random order."""
    index: str | None = None
    """Path or URL of an index that lies elsewhere than in the source."""
    revision: str | None = None
    """Branch, tag or commit of a repository."""
    on_error: OnError = "raise"
    """Raise damage, or skip it with a warning."""

    @property
    def is_everything(self) -> bool:
        """Tell whether nothing is left out of the splits that are read, and nothing moved."""
        return Selection(
            classes=self.classes, max_samples=self.max_samples, shuffle=self.shuffle
        ).is_everything

    def open(self) -> EmbeddingDataset:
        """Open the source, without an index only the files of the splits that are wanted.

        Raises:
            ValueError: none was named, or it has no such split.
        """
        source: Any = self.data_dir if self.tars is None else self.tars
        if self.data_files is not None:
            source = {str(split): list(files) for split, files in self.data_files.items()}
        if source is None:
            raise ValueError("ClipKinetics700 needs data_dir=DIR, the directory of the tars")
        dataset = open_dataset(
            source,
            index=self.index,
            on_error=self.on_error,
            revision=self.revision,
            name=None if self.name == DEFAULT_NAME else self.name,
        )
        if dataset.needs_index:
            return dataset
        layout = dataset.layout
        splits = resolve_splits(self.splits, tuple(layout.files), layout.root or "the source")
        files = {split: layout.files[split] for split in splits}
        return EmbeddingDataset(OpenSource(replace(layout, files=files), self.on_error), splits)

    def create_config_id(self, config_kwargs: dict[str, Any], *args: Any, **kwargs: Any) -> str:
        """Add the state of the source: a rebuilt one must not be answered from the cache."""
        config_id = super().create_config_id(config_kwargs, *args, **kwargs)
        layout = self.open().layout
        url = parse_repository_url(layout.repository or "")
        if url is not None and self.index is None:
            # A commit never changes, and is found again where the Hub cannot be asked.
            return f"{config_id}-{url.revision or '':.16}"
        return f"{config_id}-{fingerprint(layout)}"


class ClipKinetics700(datasets.ArrowBasedBuilder):  # type: ignore[misc]
    """Reads a dataset of any dialect: `ClipKinetics700(data_dir=DIR, classes=["yoga"])`."""

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = ClipKinetics700Config

    def _info(self) -> datasets.DatasetInfo:
        """Return the features; their width and class names are the source's."""
        config = self.config
        self.dataset: EmbeddingDataset = config.open()
        selected = self.dataset.select(
            config.splits,
            classes=config.classes,
            max_samples=config.max_samples,
            shuffle=config.shuffle,
            seed=config.seed,
        )
        # `datasets` cannot prepare a split without samples.
        self.parts = {split: part for split, part in selected.splits.items() if not part.is_empty}
        columns = selected.width, selected.class_names
        self.schema = data_schema(*columns)
        features = features_dict(*columns)
        return datasets.DatasetInfo(
            description=DESCRIPTION, features=datasets.Features.from_dict(features)
        )

    def _split_generators(
        self, dl_manager: "datasets.DownloadManager | datasets.StreamingDownloadManager"
    ) -> list[datasets.SplitGenerator]:
        """Return one generator for each split; its shards are what workers share."""
        generators = []
        for split, part in self.parts.items():
            is_by_rows = part.needs_index or part.layout.kind == "loose"
            names: Sequence[Any] = cut_rows(part.rows) if is_by_rows else part.layout.files[split]
            is_downloaded = not is_by_rows and all(map(is_remote, names))
            shards = dl_manager.download(names) if is_downloaded else names
            kwargs = {"shards": shards, "names": names}
            generators.append(datasets.SplitGenerator(name=split, gen_kwargs=kwargs))
        return generators

    def _generate_tables(
        self, shards: list[IntArray | str], names: list[IntArray | str]
    ) -> Iterator[tuple[str, pa.Table]]:
        """Yield the samples in order as tables, each with its place.

        Shards are (n,) int64 rows of the index, or tars, maybe copies of those that damage names.
        """
        for number, (shard, name) in enumerate(zip(shards, names, strict=True)):
            if isinstance(shard, np.ndarray):
                tables = self._read_rows(shard)
            else:
                tables = self._read_tar(shard, str(name))
            for place, table in enumerate(tables):
                yield f"{number}#{place}", table

    def _read_rows(self, rows: IntArray) -> Iterator[pa.Table]:
        """Yield the samples of (n,) int64 rows of the index."""
        for block, results in self.dataset.read_blocks(rows):
            files = self.dataset.index.file_numbers[block.rows]
            names = [self.dataset.index.files[number] for number in files.tolist()]
            yield make_table(block.samples, results, names, self.schema, self.config.on_error)

    def _read_tar(self, tar: str, name: str) -> Iterator[pa.Table]:
        """Yield the samples of a tar that is in no index."""
        on_error = self.config.on_error
        samples = scan_shard(tar, on_error=on_error, name=name)
        while group := list(islice(samples, SAMPLES_PER_TABLE)):
            rows = [index_row("", placed.sample, name, placed[1:]) for placed in group]
            table = make_piece(rows, on_error)
            # Rows that do not fit the columns are left out of the table.
            arrays = {offset: sample.embeddings for sample, offset, _ in group}
            results: Results = [arrays[offset] for offset in table.column("npy_offset").to_pylist()]
            samples_table = table.select(SAMPLE_COLUMNS)
            yield make_table(samples_table, results, [name] * len(results), self.schema, on_error)


def cut_rows(rows: IntArray) -> list[IntArray]:
    """Return (n,) int64 rows cut into the pieces that workers share, in order."""
    wanted = -(-len(rows) // SHARDS_WANTED)
    size = min(max(wanted, MIN_ROWS_PER_SHARD), MAX_ROWS_PER_SHARD)
    return [rows[begin : begin + size] for begin in range(0, len(rows), size)]


def make_table(
    samples: pa.Table, results: Results, files: list[str], schema: pa.Schema, on_error: OnError
) -> pa.Table:
    """Return samples, with their embeddings and the names of their files, as one table of a schema.

    Raises:
        DamageError: a sample is damaged, or not as wide as the dataset, and is not to be left out.
    """
    width = schema.field("embeddings").type.value_type.list_size
    arrays = {}
    for row, result in enumerate(results):
        array = fit_columns(result, width)
        if isinstance(array, str):
            array = DamageError(files[row], samples.column("key")[row].as_py(), None, array)
        if isinstance(array, DamageError):
            report_damage(array, on_error)
        else:
            arrays[row] = array
    if len(arrays) < samples.num_rows:
        samples = samples.take(pa.array(list(arrays), pa.int64()))
    fields = [samples.column(field.name).combine_chunks() for field in META_TYPE]
    columns = [
        embeddings_array(list(arrays.values()), width),
        samples.column("caption").combine_chunks(),
        pa.StructArray.from_arrays(fields, fields=list(META_TYPE)),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def fit_columns(result: Array | DamageError, width: int) -> Array | DamageError | str:
    """Return (n, width) float16 of any float array, or why the dataset's columns cannot hold it."""
    if isinstance(result, DamageError):
        return result
    if result.shape[1] != width:
        return f"embeddings of shape {result.shape} in a dataset of width {width}"
    halves = to_float16(result)
    if halves is not result and np.isinf(halves).sum() > np.isinf(result).sum():
        return f"embeddings of {result.dtype} hold numbers too large for float16"
    return halves
