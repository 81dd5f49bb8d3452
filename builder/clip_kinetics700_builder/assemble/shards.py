"""A `ShardLine` writes shard after shard, two at a time, as on a production line.

While the rest of one shard is encoded and written in its threads, the next one begins in ours:
Arrow needs half of the whole time for its Parquet files, and a file has one thread.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa

from clip_kinetics700.schema import Sample
from clip_kinetics700_builder.assemble.row_groups import FrameMemory, RowGroup, RowGroups
from clip_kinetics700_builder.assemble.shard_files import (
    ParquetShard,
    TableFile,
    TarShard,
    open_parquet_shard,
    open_tar_shard,
    open_unwritten_tar,
)
from clip_kinetics700_builder.dataset.manifest import FileEntry, describe_file
from clip_kinetics700_builder.dataset.shards import Shard
from clip_kinetics700_builder.dataset.totals import SampleTally, Totals
from clip_kinetics700_builder.system.threads import Background, open_background


class SampleIndex:
    """The index of a dataset, and the counts of the samples in it."""

    def __init__(self, table: TableFile, class_names: Sequence[str] | None) -> None:
        """Write to this table; None where the dataset has no classes."""
        self._table = table
        self._n_classes = None if class_names is None else len(class_names)
        self._tallies: dict[str, SampleTally] = {}

    def add(self, group: RowGroup, shard: Shard) -> None:
        """Take samples of a shard."""
        self._table.add_table(group.index_table(shard.split, shard.tar))
        self._tally(shard.split).add(group.columns["label_id"], group.lengths)

    def complete(self, totals: Mapping[str, Totals]) -> dict[str, Totals]:
        """Return the counts of each split with those of its samples by label and by frames."""
        return {
            split: replace(
                counts,
                samples_by_label=self._tally(split).samples_by_label,
                samples_by_n_frames=self._tally(split).samples_by_n_frames,
            )
            for split, counts in totals.items()
        }

    def _tally(self, split: str) -> SampleTally:
        return self._tallies.setdefault(split, SampleTally(self._n_classes))


Keep: TypeAlias = Callable[[Shard, str, dict[str, FileEntry]], None]
"""Is told of a shard whose files have their names: its digest, and the manifest's entries."""


@dataclass(slots=True)
class _OpenShard:
    """A shard whose files have not got their names yet."""

    shard: Shard
    files: ExitStack
    """Gives them their names when it is closed."""
    tar: TarShard
    parquet: ParquetShard | None
    n_samples: int = 0


class ShardLine:
    """Writes shards; each has its names when the next one's samples are read, or at the end."""

    def __init__(
        self, output: Path, schema: pa.Schema, keep: Keep, threads: Sequence[Background]
    ) -> None:
        """Write into a directory.

        Args:
            output: the directory.
            schema: of the Parquet files.
            keep: takes every shard that is finished, in their order.
            threads: four of them. Those of the shard before the last one are taken again, so that
                the memory is too that Arrow keeps for each thread.
        """
        self._output = output
        self._schema = schema
        self._keep = keep
        self.memory = FrameMemory(schema.field("embeddings").type.value_type.list_size)
        self._last: _OpenShard | None = None
        self._threads = deque(threads)

    def write(self, shard: Shard, samples: Iterable[Sample], index: SampleIndex | None) -> None:
        """Write the files of a shard, which have their names after the next one or `finish`.

        Args:
            shard: says which.
            samples: of the shard.
            index: takes their rows; None where it has them already.
        """
        with ExitStack() as files:
            opened = self._open(shard, files)
            groups = RowGroups(self.memory, keeps_frames=opened.parquet is not None)
            for group in gather_groups(samples, opened.tar, groups):
                self._write_group(opened, group, index)
            self.finish()
            # The rest of a small shard is written after files of the last one got their names.
            for group in groups.take_rest():
                self._write_group(opened, group, index)
            opened.files = files.pop_all()
        self._last = opened

    def _write_group(self, opened: _OpenShard, group: RowGroup, index: SampleIndex | None) -> None:
        opened.n_samples += len(group)
        if index is not None:
            index.add(group, opened.shard)
        if opened.parquet is not None:
            opened.parquet.add(group, self.memory)

    def digest(self, shard: Shard, samples: Iterable[Sample], index: SampleIndex) -> str:
        """Index samples, and return the digest that a report of their shard must have."""
        groups = RowGroups(self.memory, keeps_frames=False)
        with open_unwritten_tar(self._threads[0]) as tar:
            for group in chain(gather_groups(samples, tar, groups), groups.take_rest()):
                index.add(group, shard)
        return tar.samples_sha256

    def finish(self) -> None:
        """Give the files of the last shard their names."""
        last, self._last = self._last, None
        if last is None:
            return
        last.files.close()
        hashes = {last.shard.tar: last.tar.sha256}
        if last.parquet is not None:
            hashes[last.shard.parquet] = last.parquet.sha256
        entries = {
            name: describe_file(self._output / name, last.n_samples, hashes[name])
            for name in last.shard.files
        }
        self._keep(last.shard, last.tar.samples_sha256, entries)

    def _open(self, shard: Shard, files: ExitStack) -> _OpenShard:
        """Open the files of a shard."""
        tar = files.enter_context(self._open_tar(shard))
        parquet = None
        if shard.parquet is not None:
            path = self._output / shard.parquet
            path.parent.mkdir(exist_ok=True)
            opening = open_parquet_shard(path, self._schema, self._threads[1])
            parquet = files.enter_context(opening)
        self._threads.rotate(2)
        return _OpenShard(shard, files, tar, parquet)

    def _open_tar(self, shard: Shard) -> AbstractContextManager[TarShard]:
        """Open the tar of a shard, or one that is hashed alone where none is to be written."""
        thread = self._threads[0]
        if shard.tar is None:
            return open_unwritten_tar(thread)
        return open_tar_shard(self._output / shard.tar, thread)


@contextmanager
def open_shard_line(output: Path, schema: pa.Schema, keep: Keep) -> Iterator[ShardLine]:
    """Yield a line; a shard that is complete is finished even if the block fails after it."""
    with ExitStack() as stack:
        threads = [stack.enter_context(open_background()) for _ in range(4)]
        line = ShardLine(output, schema, keep, threads)
        try:
            yield line
        except BaseException:
            # What went wrong is raised; that the disk is full is no news then.
            with suppress(Exception):
                line.finish()
            raise
        line.finish()


def gather_groups(
    samples: Iterable[Sample], tar: TarShard, groups: RowGroups
) -> Iterator[RowGroup]:
    """Write samples to their tar one by one; yield them in groups that are full."""
    for sample in samples:
        group = groups.add(sample, tar.add(sample))
        if group is not None:
            yield group
