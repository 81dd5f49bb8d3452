"""Verification looks through a dataset directory, file by file, in constant memory.

A file that is not the one its manifest lists is one problem and is not looked into: what
else it would give are consequences. Files with the right hash are checked by content.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from clip_kinetics700.features import INDEX_SCHEMA, data_schema
from clip_kinetics700.schema import INDEX_NAME, MANIFEST_NAME
from clip_kinetics700_builder.dataset.layout import FIGURES, list_names
from clip_kinetics700_builder.dataset.manifest import (
    ManifestError,
    require_manifest,
)
from clip_kinetics700_builder.dataset.problems import DamagedFileError, Problem, Problems
from clip_kinetics700_builder.dataset.shards import Shard
from clip_kinetics700_builder.dataset.totals import SampleTally, Totals
from clip_kinetics700_builder.system.progress import Advance, Progress, no_progress
from clip_kinetics700_builder.verify.files import (
    Dataset,
    check_class_texts,
    check_failures,
    check_names,
    check_splits_csv,
)
from clip_kinetics700_builder.verify.rows import (
    FileRows,
    check_index,
    check_values,
    compare_data,
    compare_index,
)
from clip_kinetics700_builder.verify.tables import check_data_batch, nest_index_batch, open_table
from clip_kinetics700_builder.verify.tars import open_tar_reader

ROWS_PER_BATCH = 1000
TALLIES = ("samples_by_label", "samples_by_n_frames")


class RowReader(Protocol):
    """Reads the rows of one file in order."""

    def next(self, limit: int) -> pa.RecordBatch:
        """Return the next rows, at least one and at most `limit`."""
        ...

    def finish(self) -> None:
        """Check that there is nothing after the rows that were read."""
        ...


@dataclass(slots=True)
class ReadableFile:
    """Gives the rows of one file as long as it can be read; its damage becomes a problem."""

    name: str
    problems: Problems
    reader: RowReader | None

    def read(self, n_rows: int, *, at_most: bool) -> FileRows | None:
        """Return the next rows, exactly so many or at most; None where there is no reading on."""
        batches: list[pa.RecordBatch] = []
        left = n_rows
        try:
            while self.reader is not None and left and not (at_most and batches):
                batches.append(self.reader.next(left))
                left -= batches[-1].num_rows
        except DamagedFileError as error:
            self._give_up(error)
        if self.reader is None:
            return None
        return FileRows(self.name, batches[0] if len(batches) == 1 else pa.concat_batches(batches))

    def finish(self) -> None:
        """Check that there are no more rows."""
        try:
            if self.reader is not None:
                self.reader.finish()
        except DamagedFileError as error:
            self._give_up(error)

    def _give_up(self, error: DamagedFileError) -> None:
        self.problems.add(self.name, str(error))
        self.reader = None


def verify_dataset(
    directory: Path,
    *,
    names: Iterable[str] | None = None,
    progress: Progress = no_progress,
) -> list[Problem]:
    """Return everything that is wrong with a dataset; nothing where it is as it was written.

    Args:
        directory: the dataset.
        names: the names of its files, where they are not all in the directory.
        progress: shows how many samples are done.

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
    check_splits_csv(dataset)
    check_failures(dataset)
    for name in FIGURES:
        dataset.find(name)
    check_class_texts(dataset)
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
    with ExitStack() as stack:
        open_index = partial(
            open_table,
            schema=INDEX_SCHEMA,
            n_rows=manifest.count_rows()[INDEX_NAME],
            convert=nest_index_batch,
        )
        index = open_file(dataset, INDEX_NAME, open_index, stack)
        for shard in manifest.list_shards():
            if not check_shard(dataset, shard, index, tallies[shard.split], advance):
                unread.add(shard.split)
    # Counts of samples that are wrong themselves are their consequences.
    names = TALLIES if len(dataset.problems.found()) == n_problems else ()
    for split, totals in manifest.splits.items():
        if split not in unread:
            for message in compare_tally(totals, tallies[split], names):
                dataset.problems.add(MANIFEST_NAME, f"totals of {split}: {message}")


def compare_tally(totals: Totals, tally: SampleTally, names: Iterable[str]) -> Iterator[str]:
    """Yield what the manifest says of the samples of a split and is not so.

    Args:
        totals: what it says.
        tally: what there is.
        names: of the counts that are compared besides that of the frames.
    """
    if totals.frames != tally.frames:
        yield f"{totals.frames} frames, the samples hold {tally.frames}"
    for name in names:
        # A manifest of an earlier version does not say.
        stated, found = getattr(totals, name), getattr(tally, name)
        if stated is not None and stated != found:
            yield f"{name} is not what the samples hold"


def open_file(
    dataset: Dataset,
    name: str | None,
    open_reader: Callable[[Path], AbstractContextManager[RowReader]],
    stack: ExitStack,
) -> ReadableFile:
    """Return the rows of a file; none where there is no such file, or not the right one."""
    path = None if name is None else dataset.find(name)
    file = ReadableFile(name or "", dataset.problems, None)
    try:
        file.reader = None if path is None else stack.enter_context(open_reader(path))
    except DamagedFileError as error:
        dataset.problems.add(file.name, str(error))
    return file


def check_shard(
    dataset: Dataset,
    shard: Shard,
    index: ReadableFile,
    tally: SampleTally,
    advance: Advance,
) -> bool:
    """Check one shard in all its files and count its samples; tell whether they can be read."""
    manifest = dataset.manifest
    open_tar = partial(open_tar_reader, first=shard.first, width=manifest.width)
    schema = data_schema(manifest.width, manifest.class_names)
    open_parquet = partial(
        open_table, schema=schema, n_rows=shard.n_samples, convert=check_data_batch
    )
    n_done = 0
    with ExitStack() as stack:
        tar = open_file(dataset, shard.tar, open_tar, stack)
        parquet = open_file(dataset, shard.parquet, open_parquet, stack)
        while n_done < shard.n_samples:
            limit = min(ROWS_PER_BATCH, shard.n_samples - n_done)
            together = read_together((tar, parquet, index), limit)
            check_batch(dataset, shard, shard.first + n_done, together)
            n_rows = max((rows.batch.num_rows for rows in together if rows), default=limit)
            data = next((rows for rows in together[:2] if rows), None)
            if data is not None:
                count_samples(data, tally)
            n_done += n_rows
            advance(n_rows)
        tar.finish()
    return tar.reader is not None or parquet.reader is not None


def read_together(files: Iterable[ReadableFile], limit: int) -> list[FileRows | None]:
    """Return the next rows of all files, as many of each as the first of them gives."""
    found: list[FileRows | None] = []
    n_rows: int | None = None
    for file in files:
        rows = file.read(limit if n_rows is None else n_rows, at_most=n_rows is None)
        n_rows = rows.batch.num_rows if rows is not None and n_rows is None else n_rows
        found.append(rows)
    return found


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


def count_samples(rows: FileRows, tally: SampleTally) -> None:
    """Count some samples by label and by frames."""
    lengths = pc.list_value_length(rows.batch.column("embeddings")).to_numpy()
    tally.add(rows.batch.column("meta").field("label_id"), lengths)
