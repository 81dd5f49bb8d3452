"""A `RowGroups` gathers about a thousand samples as columns, for Parquet files and for the index.

Column by column Arrow takes values in a fraction of the time that it takes rows of dictionaries.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Condition
from typing import Any

import numpy as np
import pyarrow as pa

from clip_kinetics700.features import INDEX_SCHEMA, META_TYPE, SAMPLE_COLUMNS, embeddings_array
from clip_kinetics700.schema import Float16Array, Float32Array, Sample
from clip_kinetics700_builder.assemble.tar import Place

ROWS_PER_GROUP = 1000
# A row group of long videos is closed early, since Arrow takes ten times its bytes while it writes
# one: at 16 MiB, or at what a thousand clips of sixteen frames are, but not above 64 MiB.
LEAST_BYTES, MOST_BYTES = 16 << 20, 64 << 20
FRAMES_PER_CLIP = 16
# Bytes of row groups that wait to be written, and of memory that is kept for the next ones.
BYTES_WAITING = 32 << 20
BYTES_KEPT = 24 << 20
FEWEST_FRAMES = 1024
INT64 = pa.int64()


@dataclass(frozen=True, slots=True, eq=False)
class RowGroup:
    """Some samples of a shard, in order."""

    columns: dict[str, pa.Array]
    """Caption and meta, by their names in the index."""
    places: list[Place]
    """Where their arrays lie in the tar."""
    frames: Float16Array
    """(n_frames, width), the embeddings of all; a part of `memory`."""
    memory: Float16Array
    """What `FrameMemory` takes back once the group is written."""
    lengths: Sequence[int]
    """Frames of each sample."""

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.places)

    def data_table(self, schema: pa.Schema) -> pa.Table:
        """Return the rows of the Parquet files."""
        embeddings = embeddings_array([self.frames], self.frames.shape[1], self.lengths)
        fields = [META_TYPE.field(index) for index in range(META_TYPE.num_fields)]
        meta = pa.StructArray.from_arrays(
            [self.columns[field.name] for field in fields], fields=fields
        )
        return pa.table([embeddings, self.columns["caption"], meta], schema=schema)

    def index_table(self, split: str, tar: str | None) -> pa.Table:
        """Return the rows of the index, of samples in a tar or in none."""
        has_place = tar is not None
        columns = {
            **self.columns,
            "split": pa.repeat(split, len(self)),
            "tar_file": pa.array([tar] * len(self), pa.string()),
            "npy_offset": pa.array([p.offset if has_place else None for p in self.places], INT64),
            "npy_nbytes": pa.array([p.nbytes if has_place else None for p in self.places], INT64),
        }
        return pa.table([columns[name] for name in INDEX_SCHEMA.names], schema=INDEX_SCHEMA)


class FrameMemory:
    """Memory for embeddings that wait to be written, used again and again, and not too much."""

    def __init__(self, width: int) -> None:
        """Keep embeddings of this width."""
        self.width = width
        self._free: list[Float16Array] = []
        self._n_waiting = 0
        self._changed = Condition()

    def take(self) -> Float16Array:
        """Return (capacity, width) float16 memory to fill."""
        with self._changed:
            return self._free.pop() if self._free else np.empty((0, self.width), np.float16)

    def await_room(self, group: RowGroup) -> None:
        """Wait until a group may wait to be written: alone, or if all are not too much."""
        nbytes = group.frames.nbytes
        with self._changed:
            self._changed.wait_for(
                lambda: not self._n_waiting or self._n_waiting + nbytes <= BYTES_WAITING
            )
            self._n_waiting += nbytes

    def give_back(self, group: RowGroup) -> None:
        """Take the memory of a group back that waited and is written."""
        with self._changed:
            self._n_waiting -= group.frames.nbytes
            # What very long videos have taken is not kept.
            if group.memory.nbytes <= BYTES_KEPT:
                self._free.append(group.memory)
            self._changed.notify_all()


class RowGroups:
    """Gathers samples until they are a row group."""

    def __init__(self, memory: FrameMemory, *, keeps_frames: bool) -> None:
        """Gather no sample yet.

        Args:
            memory: where embeddings are kept.
            keeps_frames: the groups are to have the embeddings.
        """
        self._memory = memory
        self._buffer: Float16Array | None = None
        self._keeps_frames = keeps_frames
        self._n_frames = 0
        self._rows: list[tuple[Any, ...]] = []
        self._places: list[Place] = []

    def add(self, sample: Sample, place: Place) -> RowGroup | None:
        """Take a sample; return its group if it is the last one of it."""
        begin = self._n_frames
        n_frames, width = sample.embeddings.shape
        self._n_frames = end = begin + n_frames
        if self._keeps_frames:
            self._reserve(end, width)[begin:end] = sample.embeddings
        self._places.append(place)
        self._rows.append(
            (
                sample.caption,
                sample.key,
                sample.youtube_id,
                sample.time_start,
                sample.time_end,
                sample.label_id,
                n_frames,
                sample.timestamps,
                sample.duration,
                sample.fps,
                sample.width,
                sample.height,
                sample.extra,
            )
        )
        is_full = len(self._rows) == ROWS_PER_GROUP or 2 * end * width >= limit_bytes(width)
        return self._take() if is_full else None

    def take_rest(self) -> Iterator[RowGroup]:
        """Yield the group of the last samples, if there are any."""
        if self._rows:
            yield self._take()

    def _take(self) -> RowGroup:
        values = dict(zip(SAMPLE_COLUMNS, zip(*self._rows, strict=True), strict=True))
        columns = {name: make_column(name, column) for name, column in values.items()}
        memory = self._memory.take() if self._buffer is None else self._buffer
        group = RowGroup(
            columns, self._places, memory[: self._n_frames], memory, values["n_frames"]
        )
        self._buffer = None
        self._rows, self._places, self._n_frames = [], [], 0
        return group

    def _reserve(self, n_frames: int, width: int) -> Float16Array:
        """Return memory that has room for so many frames; refuse those of another width."""
        memory = self._memory.take() if self._buffer is None else self._buffer
        if width != memory.shape[1]:
            raise ValueError(f"embeddings are {width} wide, those of the dataset {memory.shape[1]}")
        if n_frames > len(memory):
            larger = np.empty((max(2 * n_frames, FEWEST_FRAMES), width), np.float16)
            larger[: len(memory)] = memory
            memory = larger
        self._buffer = memory
        return memory


def limit_bytes(width: int) -> int:
    """Return at how many bytes of embeddings of a width a row group is closed."""
    return min(MOST_BYTES, max(LEAST_BYTES, 2 * width * FRAMES_PER_CLIP * ROWS_PER_GROUP))


def make_column(name: str, values: Sequence[Any]) -> pa.Array:
    """Return values as the column of the index that has this name."""
    if name == "timestamps" and all(times is not None for times in values):
        return make_lists(values)
    return pa.array(values, INDEX_SCHEMA.field(name).type)


def make_lists(values: Sequence[Float32Array]) -> pa.ListArray:
    """Return arrays as lists of float32."""
    numbers = np.concatenate(values).astype(np.float32, copy=False)
    offsets = np.concatenate([[0], np.cumsum([len(times) for times in values])])
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(numbers))
