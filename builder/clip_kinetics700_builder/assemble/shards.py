"""Shards are written one after the other, in row groups of about a thousand samples.

One thread reads the samples and writes all but the Parquet files, for which Arrow needs two thirds
of the whole time: it writes a row group while the next one is made.
"""

import shutil
from collections import deque
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from clip_kinetics700.features import INDEX_SCHEMA, META_TYPE, data_schema, embeddings_array
from clip_kinetics700.index import index_row
from clip_kinetics700.schema import SPLITS, Sample
from clip_kinetics700_builder.assemble.rows import Rows, number_results
from clip_kinetics700_builder.assemble.tables import TableFile, open_table_file
from clip_kinetics700_builder.assemble.tar import spell_end, spell_sample
from clip_kinetics700_builder.dataset.layout import SHARDS_NAME, WORK_NAME
from clip_kinetics700_builder.dataset.manifest import FileEntry, describe_file
from clip_kinetics700_builder.dataset.shards import Shard
from clip_kinetics700_builder.dataset.totals import SampleTally, Totals
from clip_kinetics700_builder.parts.part import group_by_bytes
from clip_kinetics700_builder.system.files import (
    atomic_path,
    naming,
    read_sealed_json,
    seal_json,
    write_json,
)
from clip_kinetics700_builder.system.progress import Advance
from clip_kinetics700_builder.types import BuildError

ROWS_PER_GROUP = 1000
# A row group of long videos is closed early, since Arrow takes ten times its bytes while it writes
# one: at 16 MiB, or at what a thousand clips of sixteen frames are, but not above 64 MiB.
LEAST_BYTES, MOST_BYTES = 16 << 20, 64 << 20
FRAMES_PER_CLIP = 16
OTHER_SAMPLES = "other samples were read than were counted before; run it again"
END: Any = object()

Groups: TypeAlias = Generator["pa.Table | None", None, None]
"""Row groups of Parquet files that are to be written, and None after each shard: its tar is."""


class SampleWriter:
    """Reads all samples once: writes tars, index and failures, and makes the row groups."""

    def __init__(
        self, rows: Rows, output: Path, *, index: TableFile, failures: TableFile, advance: Advance
    ) -> None:
        self._rows = rows
        self._output = output
        self._index = index
        self._failures = failures
        self._advance = advance
        self.schema = data_schema(rows.width, rows.class_names)
        """Of the Parquet files."""
        n_classes = None if rows.class_names is None else len(rows.class_names)
        self._tallies = {split: SampleTally(n_classes) for split in rows.totals}
        self.tars: dict[Shard, dict[str, FileEntry]] = {}
        """The manifest's entries of tars that are written, by shard."""

    def make_groups(self, shards: Sequence[Shard], kept: Container[Shard]) -> Groups:
        """Yield the row groups that are to be written, shard by shard; none of those that are kept.

        Raises:
            BuildError: there are other samples than the totals say.
        """
        first = 0
        for split in filter(self._rows.totals.__contains__, SPLITS):
            samples = self._take_samples(split, first)
            for shard in shards:
                if shard.split == split:
                    of_shard = islice(samples, shard.n_samples)
                    yield from self._write_shard(shard, of_shard, is_kept=shard in kept)
                    yield None
                    first += shard.n_samples
            # What follows the last sample can only be failures.
            if sum(1 for _ in samples):
                raise BuildError(f"{split}: {OTHER_SAMPLES}")

    def complete(self, totals: Mapping[str, Totals]) -> dict[str, Totals]:
        """Return the counts of each split with those of its samples by label and by frames."""
        return {
            split: replace(
                counts,
                samples_by_label=self._tallies[split].samples_by_label,
                samples_by_n_frames=self._tallies[split].samples_by_n_frames,
            )
            for split, counts in totals.items()
        }

    def _take_samples(self, split: str, first: int) -> Iterator[Sample]:
        """Yield the samples of a split under their keys, and put its failures into their table."""
        for row in number_results(self._rows, split, first=first):
            self._advance(1)
            if isinstance(row, Sample):
                yield row
            else:
                self._failures.add(row)

    def _write_shard(
        self, shard: Shard, samples: Iterator[Sample], *, is_kept: bool
    ) -> Iterator[pa.Table]:
        """Yield the row groups of one shard, and write its tar unless that is kept."""
        tar_path = None if is_kept or shard.tar is None else self._output / shard.tar
        n_left = shard.n_samples
        with nullcontext() if tar_path is None else open_tar(tar_path) as write:
            for group, rows, members in self._spell_groups(shard, samples):
                if write is not None:
                    write(members)
                n_left -= len(group)
                if shard.parquet is not None and not is_kept:
                    yield make_table(group, rows, self.schema)
            if n_left:
                raise BuildError(f"{shard.split}: {OTHER_SAMPLES}")
        if tar_path is not None and shard.tar is not None:
            self.tars[shard] = {shard.tar: describe_file(tar_path, shard.n_samples)}

    def _spell_groups(
        self, shard: Shard, samples: Iterator[Sample]
    ) -> Iterator[tuple[list[Sample], pa.RecordBatch, bytes]]:
        """Yield samples in row groups with their rows of the index, and with their members."""
        n_bytes = 0
        width = self._rows.width
        for group in group_by_bytes(samples, limit_bytes(width), max_items=ROWS_PER_GROUP):
            members: list[bytes] = []
            rows: list[dict[str, Any]] = []
            for sample in group:
                if sample.embeddings.shape[1] != width:
                    found = sample.embeddings.shape[1]
                    raise ValueError(f"embeddings are {found} wide, those of the dataset {width}")
                spelled = spell_sample(sample)
                begin = n_bytes + spelled.npy_begin
                place = (None, None) if shard.tar is None else (begin, spelled.npy_nbytes)
                rows.append(index_row(shard.split, sample, shard.tar, place))
                self._index.add(rows[-1])
                members.append(spelled.data)
                n_bytes += len(spelled.data)
            columns = pa.RecordBatch.from_pylist(rows, INDEX_SCHEMA)
            self._tallies[shard.split].add(columns["label_id"], columns["n_frames"].to_numpy())
            yield group, columns, b"".join(members)


def limit_bytes(width: int) -> int:
    """Return at how many bytes of embeddings of a width a row group is closed."""
    return min(MOST_BYTES, max(LEAST_BYTES, 2 * width * FRAMES_PER_CLIP * ROWS_PER_GROUP))


def make_table(samples: Iterable[Sample], rows: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    """Return the rows of the Parquet file of samples, given their rows of the index."""
    width = schema.field("embeddings").type.value_type.list_size
    embeddings = embeddings_array([sample.embeddings for sample in samples], width)
    fields = list(META_TYPE)
    meta = pa.StructArray.from_arrays([rows[field.name] for field in fields], fields=fields)
    return pa.table([embeddings, rows["caption"], meta], schema=schema)


@contextmanager
def make_ahead(groups: Groups) -> Iterator[Iterator[pa.Table | None]]:
    """Yield row groups, each of which a thread makes while the one before is used."""
    with closing(groups), ThreadPoolExecutor(1) as thread:

        def take() -> Iterator[pa.Table | None]:
            upcoming = thread.submit(next, groups, END)
            while (group := upcoming.result()) is not END:
                upcoming = thread.submit(next, groups, END)
                yield group

        yield take()


def write_parquet(
    output: Path, shard: Shard, groups: Iterable[pa.Table], schema: pa.Schema
) -> dict[str, FileEntry]:
    """Write the row groups of a shard into its Parquet file, if it has one; return its entry."""
    if shard.parquet is None:
        deque(groups, maxlen=0)
        return {}
    path = output / shard.parquet
    path.parent.mkdir(exist_ok=True)
    with open_table_file(path, schema, plain=("embeddings",)) as file:
        for group in groups:
            file.write(group)
    return {shard.parquet: describe_file(path, shard.n_samples)}


@contextmanager
def open_tar(path: Path) -> Iterator[Callable[[bytes], object]]:
    """Yield what writes members to a tar, which has its end and its name if the block ends well."""
    with atomic_path(path) as partial, partial.open("wb") as stream:

        def write(members: bytes) -> None:
            with naming(path):
                stream.write(members)

        yield write
        write(spell_end(stream.tell()))


class ShardReports:
    """A report beside each finished shard makes assembly resumable.

    OUTPUT/.build/shards/SPLIT-NNNNN.json says what the shard was made of and what its files are. It
    is written last, is the only sign of "done", and goes before its files are written again.
    """

    def __init__(self, output: Path, fingerprint: str) -> None:
        """Take a dataset's directory, and a fingerprint of all that decides the bytes of shards."""
        self._output = output
        self._directory = output / WORK_NAME / SHARDS_NAME
        self._fingerprint = fingerprint

    def keep(self, shards: Iterable[Shard]) -> dict[Shard, dict[str, FileEntry]]:
        """Return the entries of the shards that are finished; reports of all others are removed."""
        found = {shard: self._find(shard) for shard in shards}
        kept = {shard: entries for shard, entries in found.items() if entries}
        for path in {*self._directory.glob("*")} - {*map(self._path, kept)}:
            path.unlink()
        return kept

    def _find(self, shard: Shard) -> dict[str, FileEntry] | None:
        """Return the entries of a shard whose files are there with their sizes, or None."""
        try:
            document = read_sealed_json(self._path(shard))
            entries = {name: FileEntry(**document["files"][name]) for name in shard.files}
            is_whole = document["fingerprint"] == self._fingerprint and all(
                (self._output / name).stat().st_size == entry.bytes
                for name, entry in entries.items()
            )
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return entries if is_whole else None

    def write(self, shard: Shard, entries: Mapping[str, FileEntry]) -> None:
        """Report a shard whose files are written."""
        self._directory.mkdir(parents=True, exist_ok=True)
        files = {name: entry.document() for name, entry in entries.items()}
        report = {"fingerprint": self._fingerprint, "files": files}
        write_json(self._path(shard), seal_json(report))

    def clear(self) -> None:
        """Remove all reports: the manifest now says what they said."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _path(self, shard: Shard) -> Path:
        return self._directory / f"{shard.split}-{shard.number:05d}.json"
