"""Reads finished parts: a few numbers of each row at once, its embeddings when they are asked for.

Assembly reads gigabytes of parts in the order of the plan. No file stays memory-mapped meanwhile:
its pages would count as memory of the process.
"""

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clip_kinetics700_builder.parts.part import PartReport, read_report
from clip_kinetics700_builder.system.files import naming
from clip_kinetics700_builder.types import (
    BuildError,
    EncodedClip,
    Failure,
    Float16Array,
    Float32Array,
    VideoInfo,
)

Value = TypeVar("Value")

# Archives scatter the rows of a plan over all parts; macOS lets a process open 256 files.
MAX_OPEN_FILES = 64
NO_FAILURE = -1
ROW_TYPE = np.dtype(
    [
        ("part", "i4"),  # number of the file that holds the embeddings
        ("failure", "i4"),  # number in `Shared.failures`, NO_FAILURE for a sample
        ("begin", "i8"),  # first byte of the embeddings in the file
        ("n_embedded", "i4"),  # rows of the embeddings
        ("timestamps", "i4"),  # number in `Shared.timestamps`
        ("n_frames", "i4"),
        ("duration", "f8"),
        ("fps", "f8"),
        ("width", "i4"),
        ("height", "i4"),
    ]
)
"""What is kept of a row in memory: 52 bytes, and 33 MB of the whole of Kinetics-700."""
RowArray = npt.NDArray[Any]
"""(n_rows,) ROW_TYPE."""
ITEM_NBYTES = 2


class Reason(NamedTuple):
    """Why rows failed."""

    stage: str
    reason: str
    message: str


class Numbered(Generic[Value]):
    """Values that occur in many rows, each kept once and known by its number."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.values: list[Value] = []
        self._numbers: dict[Value, int] = {}

    def add(self, value: Value) -> int:
        """Return the number of a value."""
        number = self._numbers.setdefault(value, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number


class Shared:
    """What many rows of many parts have in common."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.failures = Numbered[Reason]()
        self.timestamps = Numbered[bytes]()
        """Those of float32; clips of one length have the same timestamps."""

    def list_reasons(self, failures: npt.NDArray[np.int32]) -> list[str | None]:
        """Return why rows failed by their (n_rows,) int32 failures, None for samples."""
        reasons = [*(failure.reason for failure in self.failures.values), None]
        # NO_FAILURE finds the last of these, None.
        return [reasons[number] for number in failures.tolist()]


class PartFiles:
    """Reads embeddings from the Arrow files of parts, few of which are open at a time."""

    def __init__(self, directory: Path, names: Sequence[str], width: int) -> None:
        """Open no file yet."""
        self._paths = [directory / f"{name}.arrow" for name in names]
        self._width = width
        self._open: OrderedDict[int, int] = OrderedDict()

    def read(self, part: int, begin: int, n_rows: int) -> Float16Array:
        """Return (n_rows, width) float16 embeddings.

        Args:
            part: number of the part among the names.
            begin: first byte of the embeddings in its file.
            n_rows: how many rows they have.
        """
        path, nbytes = self._paths[part], n_rows * self._width * ITEM_NBYTES
        with naming(path):
            descriptor = self._open.get(part)
            if descriptor is None:
                if len(self._open) == MAX_OPEN_FILES:
                    os.close(self._open.popitem(last=False)[1])
                descriptor = self._open[part] = os.open(path, os.O_RDONLY)
            data = os.pread(descriptor, nbytes, begin)
            while len(data) < nbytes:
                # The system reads at most 2 GB at a time.
                more = os.pread(descriptor, nbytes - len(data), begin + len(data))
                if not more:
                    raise damaged_part(path.stem)
                data += more
        return np.frombuffer(data, np.float16).reshape(n_rows, self._width)

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)


class PartReader:
    """Gives the rows of one finished part, and the result of each."""

    def __init__(self, directory: Path, name: str, *, shared: Shared | None = None) -> None:
        """Open a part whose report is there.

        Args:
            directory: the parts directory.
            name: the part's.
            shared: what it shares with other parts that are read together.

        Raises:
            BuildError: a file of the part is damaged.
        """
        self.report: PartReport = read_report(directory, name)
        self._shared = Shared() if shared is None else shared
        try:
            with pa.memory_map(str(directory / f"{name}.arrow")) as source:
                self.rows, self.width = _read_rows(source, self._shared)
        except pa.ArrowInvalid as error:
            raise damaged_part(name) from error
        self._files = PartFiles(directory, [name], self.width)

    def result(self, index: int) -> EncodedClip | Failure:
        """Return the result at an index of `report.rows`."""
        values = self.rows[index].tolist()
        return make_result(self.report.rows[index], values, self._shared, self._files)

    def list_reasons(self) -> list[str | None]:
        """Return why each row failed, in the order of `report.rows`; None if it did not."""
        return self._shared.list_reasons(self.rows["failure"])


def make_result(
    row: int, values: tuple[Any, ...], shared: Shared, files: PartFiles
) -> EncodedClip | Failure:
    """Return the result of a row of the plan.

    Args:
        row: its index in the plan.
        values: those of ROW_TYPE.
        shared: holds the values that have numbers.
        files: the parts.
    """
    part, failure, begin, n_embedded, timestamps, *info = values
    if failure != NO_FAILURE:
        return Failure(row, *shared.failures.values[failure])
    embeddings = files.read(part, begin, n_embedded)
    times: Float32Array = np.frombuffer(shared.timestamps.values[timestamps], np.float32)
    return EncodedClip(row, embeddings, times, VideoInfo(*info))


def damaged_part(name: str) -> BuildError:
    """Return the error of a part whose Arrow file is not what was written."""
    return BuildError(
        f"part {name}: {name}.arrow is damaged; delete {name}.json and run encode again"
    )


def _read_rows(source: pa.MemoryMappedFile, shared: Shared) -> tuple[RowArray, int]:
    """Return the rows of an Arrow file and its width, without reading any embeddings."""
    base = source.read_buffer(1).address
    file = pa.ipc.open_file(source)
    batches = [file.get_batch(number) for number in range(file.num_record_batches)]
    rows = [_read_batch(batch, base, shared) for batch in batches]
    width: int = file.schema.field("embeddings").type.value_type.list_size
    return np.concatenate([np.zeros(0, ROW_TYPE), *rows]), width


def _read_batch(batch: pa.RecordBatch, base: int, shared: Shared) -> RowArray:
    """Return the rows of a record batch, the inverse of `record_batch`.

    Args:
        batch: its buffers are those of the mapped file.
        base: address of the file's first byte.
        shared: takes what rows have in common.
    """
    rows = np.zeros(batch.num_rows, ROW_TYPE)
    embeddings, halves = batch.column("embeddings"), batch.column("embeddings").values.values
    offsets = embeddings.offsets.to_numpy()
    rows["n_embedded"] = np.diff(offsets)
    row_nbytes = embeddings.type.value_type.list_size * ITEM_NBYTES
    if len(halves):
        # An address in the map tells the place in the file, which stays when the map is gone.
        rows["begin"] = halves.buffers()[1].address - base + offsets[:-1] * np.int64(row_nbytes)
    for name in ("n_frames", "duration", "fps", "width", "height"):
        dtype = pa.from_numpy_dtype(ROW_TYPE[name])
        # The cast refuses what does not fit.
        rows[name] = batch.column(name).fill_null(0).cast(dtype).to_numpy(zero_copy_only=False)
    rows["failure"] = NO_FAILURE
    has_failed = batch.column("reason").is_valid().to_numpy(zero_copy_only=False)
    failed = batch.filter(pa.array(has_failed)).select(Reason._fields).to_pylist()
    rows["failure"][has_failed] = [shared.failures.add(Reason(**texts)) for texts in failed]
    times = batch.column("timestamps")
    ends = 4 * times.offsets.to_numpy()
    data = times.values.to_numpy().tobytes()
    spans = zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
    rows["timestamps"] = [shared.timestamps.add(data[begin:end]) for begin, end in spans]
    return rows
