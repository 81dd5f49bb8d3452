"""Verification looks through a dataset directory, file by file, in constant memory.

A file that is not the one its manifest lists is one problem and is not looked into: what
else it would give are consequences. Files with the right hash are checked by content.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from clip_kinetics700.features import INDEX_SCHEMA, data_schema
from clip_kinetics700.schema import INDEX_NAME, MANIFEST_NAME
from clip_kinetics700_builder.dataset.layout import list_names
from clip_kinetics700_builder.dataset.manifest import ManifestError, require_manifest
from clip_kinetics700_builder.dataset.problems import DamagedFileError, Problem, Problems
from clip_kinetics700_builder.dataset.shards import Shard
from clip_kinetics700_builder.dataset.totals import SampleTally, Totals
from clip_kinetics700_builder.system.progress import Advance, Progress, no_progress
from clip_kinetics700_builder.verify.files import Dataset, check_names, check_small_files
from clip_kinetics700_builder.verify.rows import (
    FileRows,
    check_index,
    check_values,
    compare_data,
    compare_index,
)
from clip_kinetics700_builder.verify.tables import check_data_batch, nest_index_batch, read_table
from clip_kinetics700_builder.verify.tars import ROWS_PER_BATCH, read_tar

TALLIES = ("samples_by_label", "samples_by_n_frames")


class RowStream:
    """The rows of one file in order, as long as it can be read; its damage becomes a problem."""

    def __init__(
        self, dataset: Dataset, name: str | None, read: Callable[[Path], Iterator[pa.RecordBatch]]
    ) -> None:
        """Open a file; there are no rows of none, nor of one that is not the right one."""
        path = None if name is None else dataset.find(name)
        self._name = name or ""
        self._problems = dataset.problems
        self._batches = None if path is None else read(path)
        self._rest: list[pa.RecordBatch] = []

    @property
    def is_readable(self) -> bool:
        """Whether nothing is wrong so far."""
        return self._batches is not None

    def count_ready(self) -> int:
        """Return how many rows can be taken of one batch; 0 where there is no reading on."""
        if not self._rest:
            self._read()
        return self._rest[0].num_rows if self._rest else 0

    def take(self, n_rows: int) -> FileRows | None:
        """Return the next rows, exactly so many; None where there is no reading on."""
        while self.is_readable and sum(batch.num_rows for batch in self._rest) < n_rows:
            self._read()
        if not self.is_readable:
            return None
        rows = self._rest[0] if len(self._rest) == 1 else pa.concat_batches(self._rest)
        self._rest = [rows.slice(n_rows)] if rows.num_rows > n_rows else []
        return FileRows(self._name, rows.slice(0, n_rows))

    def finish(self) -> None:
        """Check that there is nothing after the rows that were taken."""
        self._read()

    def _read(self) -> None:
        try:
            if self._batches is not None:
                self._rest += islice(self._batches, 1)
        except DamagedFileError as error:
            self._problems.add(self._name, str(error))
            self._batches, self._rest = None, []


def verify_dataset(
    directory: Path,
    *,
    names: Iterable[str] | None = None,
    progress: Progress = no_progress,
) -> list[Problem]:
    """Return everything that is wrong with a dataset; nothing where it is as it was written.

    The names of its files are given where they are not all in the directory.

    Raises:
        InputError: there is no such directory, or no manifest in it.
    """
    problems = Problems()
    try:
        manifest = require_manifest(directory, strict=False)
    except ManifestError as error:
        problems.add(MANIFEST_NAME, error.reason)
        return problems.found()
    for message in manifest.find_contradictions():
        problems.add(MANIFEST_NAME, message)
    dataset = Dataset(directory, manifest, problems)
    check_names(dataset, list_names(directory) if names is None else names)
    check_small_files(dataset)
    with progress("verify", manifest.totals.samples, "samples") as advance:
        check_samples(dataset, advance)
    return problems.found()


def check_samples(dataset: Dataset, advance: Advance) -> None:
    """Check index, tars and Parquet files, shard by shard, and what samples they hold."""
    manifest = dataset.manifest
    n_classes = None if manifest.class_names is None else len(manifest.class_names)
    tallies = {split: SampleTally(n_classes) for split in manifest.splits}
    unread: set[str] = set()
    n_problems = len(dataset.problems.found())
    read_index = partial(
        read_table,
        schema=INDEX_SCHEMA,
        n_rows=manifest.count_rows()[INDEX_NAME],
        convert=nest_index_batch,
    )
    index = RowStream(dataset, INDEX_NAME, read_index)
    for shard in manifest.list_shards():
        if not check_shard(dataset, shard, index, tallies[shard.split], advance):
            unread.add(shard.split)
    index.finish()
    # Counts of samples that are wrong themselves are their consequences.
    names = TALLIES if len(dataset.problems.found()) == n_problems else ()
    for split, totals in manifest.splits.items():
        if split not in unread:
            for message in compare_tally(totals, tallies[split], names):
                dataset.problems.add(MANIFEST_NAME, f"totals of {split}: {message}")


def compare_tally(totals: Totals, tally: SampleTally, names: Iterable[str]) -> Iterator[str]:
    """Yield what the manifest says of the frames and the named counts of a split, and is not so."""
    if totals.frames != tally.frames:
        yield f"{totals.frames} frames, the samples hold {tally.frames}"
    for name in names:
        # A manifest of an earlier version does not say.
        stated, found = getattr(totals, name), getattr(tally, name)
        if stated is not None and stated != found:
            yield f"{name} is not what the samples hold"


def check_shard(
    dataset: Dataset, shard: Shard, index: RowStream, tally: SampleTally, advance: Advance
) -> bool:
    """Check one shard in all its files and count its samples; tell whether they can be read."""
    manifest, n_samples = dataset.manifest, shard.n_samples
    schema = data_schema(manifest.width, manifest.class_names)
    tar = RowStream(
        dataset,
        shard.tar,
        partial(read_tar, first=shard.first, n_samples=n_samples, width=manifest.width),
    )
    parquet = RowStream(
        dataset,
        shard.parquet,
        partial(read_table, schema=schema, n_rows=n_samples, convert=check_data_batch),
    )
    files = (tar, parquet, index)
    n_done = 0
    while n_done < n_samples:
        # As many of each as the first of them gives, so that long videos fit into memory.
        n_ready = next(filter(None, (file.count_ready() for file in files)), ROWS_PER_BATCH)
        n_rows = min(n_ready, ROWS_PER_BATCH, n_samples - n_done)
        together = [file.take(n_rows) for file in files]
        check_batch(dataset, shard, shard.first + n_done, together)
        data = next(filter(None, together[:2]), None)
        if data is not None:
            lengths = pc.list_value_length(data.batch.column("embeddings")).to_numpy()
            tally.add(data.batch.column("meta").field("label_id"), lengths)
        n_done += n_rows
        advance(n_rows)
    tar.finish()
    parquet.finish()
    return tar.is_readable or parquet.is_readable


def check_batch(
    dataset: Dataset, shard: Shard, first: int, together: Iterable[FileRows | None]
) -> None:
    """Check the same samples in all files that have them; the first has that number."""
    tar, parquet, index = together
    data = [rows for rows in (tar, parquet) if rows is not None]
    data_agree = True
    for rows in data:
        check_values(rows, first, dataset.manifest, dataset.problems)
    if tar is not None and parquet is not None:
        data_agree = compare_data(tar, parquet, index, first, dataset.problems)
    if index is not None:
        check_index(index, tar, shard, first, dataset.problems)
        compare_index(data, index, first, dataset.problems, data_agree=data_agree)
