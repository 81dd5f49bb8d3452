"""Writes the results of a part to disk, and reads its report.

`NAME.arrow` holds a row for each of its rows of the plan. `NAME.json`, the report, is written last:
it is the only sign that the part is finished. It holds the hash of the Arrow file and its own, so
that whoever reads the part reads what was written.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from clip_kinetics700.features import embeddings_array, embeddings_type
from clip_kinetics700_builder.system.files import (
    atomic_path,
    hash_file,
    read_sealed_json,
    seal_json,
    write_json,
)
from clip_kinetics700_builder.types import BuildError, EncodedClip, Failure, Float32Array, Part

NO_EMBEDDINGS = np.empty(0, np.float16)
# A record batch is closed at this size, so that a part of very long videos stays bounded.
BATCH_BYTES = 64 << 20
# The columns of a part that hold what `VideoInfo` says, each with the attribute of that.
INFO_ATTRIBUTES = {
    "n_frames": "n_frames",
    "duration": "duration_seconds",
    "fps": "frames_per_second",
    "width": "width",
    "height": "height",
}


Item = TypeVar("Item")


class DamagedPartError(BuildError):
    """A file of a finished part is not what was written: name of the part, file and reason."""

    @property
    def what(self) -> str:
        """What is wrong, without what to do: who can encode does it at once."""
        return "part {}: {} is damaged: {}".format(*self.args)

    def __str__(self) -> str:
        """Return the line for the user."""
        return f"{self.what}; run encode again with the same options"


@dataclass(frozen=True, slots=True)
class PartReport:
    """What a finished part says about itself."""

    name: str
    rows: Sequence[int]
    """Indices into the plan, in the order of the Arrow file."""
    n_samples: int
    n_failures: int
    n_frames: int
    arrow_bytes: int
    canary: list[float]
    """Embedding of the package's test video by the encoder that made this part."""
    source: str = "videos"
    """Where the clips came from: `videos`, the directory, or the name of an archive."""
    error: list[str] | None = None
    """Reason and message where the archive could not be read to its end: it gives no rows then."""
    n_clips_seen: int | None = None
    """Clips in the archive, even those that were not wanted."""
    refusals: list[str] = field(default_factory=list)
    """One line for each member of the archive that was refused."""
    arrow_sha256: str | None = None
    """Hash of the Arrow file; None where an older version wrote the report."""
    seconds: float = 0.0
    """Time that it took; the only field that is not the same whenever the part is made."""


def part_schema(width: int) -> pa.Schema:
    """Return the schema of a part's Arrow file."""
    return pa.schema(
        [
            ("row", pa.int64()),
            ("embeddings", embeddings_type(width)),
            ("timestamps", pa.list_(pa.float32())),
            ("damaged", pa.list_(pa.int64())),
            ("n_frames", pa.int64()),
            ("duration", pa.float64()),
            ("fps", pa.float64()),
            ("width", pa.int64()),
            ("height", pa.int64()),
            ("stage", pa.string()),
            ("reason", pa.string()),
            ("message", pa.string()),
        ]
    )


def write_results(
    directory: Path,
    part: Part,
    results: Iterable[EncodedClip | Failure],
    *,
    width: int,
    canary: Float32Array,
) -> PartReport:
    """Write the Arrow file of a part, which is not finished before `finish_part` is called.

    The canary is the (width,) float32 embedding of the package's test video.

    Raises:
        BuildError: the results are not those of the part's rows, where these are known.
    """
    rows: list[int] = []
    n_failures = n_frames = 0
    schema = part_schema(width)
    arrow_path = directory / f"{part.name}.arrow"
    with atomic_path(arrow_path) as partial:
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batch in group_by_bytes(results, BATCH_BYTES):
                writer.write_batch(record_batch(batch, schema, width))
                rows += [result.row for result in batch]
                n_failures += sum(isinstance(result, Failure) for result in batch)
                n_frames += sum(
                    r.info.n_frames for r in batch if isinstance(r, EncodedClip) and r.info
                )
        # The system still has what was written: this costs milliseconds.
        sha256 = hash_file(partial)
        if part.archive is None and rows != list(part.rows or ()):
            n_rows = len(part.rows or ())
            raise BuildError(f"part {part.name}: {len(rows)} results for {n_rows} rows")
    return PartReport(
        name=part.name,
        rows=rows,
        n_samples=len(rows) - n_failures,
        n_failures=n_failures,
        n_frames=n_frames,
        arrow_bytes=arrow_path.stat().st_size,
        canary=canary.tolist(),
        source="videos" if part.archive is None else part.archive.name,
        arrow_sha256=sha256,
    )


def finish_part(directory: Path, report: PartReport, *, seconds: float = 0.0) -> PartReport:
    """Finish a part whose Arrow file is there: write its report, with the time that it took."""
    report = replace(report, seconds=seconds)
    write_json(report_path(directory, report.name), seal_json(asdict(report)))
    return report


def group_by_bytes(
    items: Iterable[Item], max_bytes: int, *, max_items: int | None = None
) -> Iterator[list[Item]]:
    """Yield items in lists, each closed at so many bytes of embeddings, or so many items."""
    group: list[Item] = []
    n_bytes = 0
    for item in items:
        group.append(item)
        # A failure has none.
        n_bytes += getattr(item, "embeddings", NO_EMBEDDINGS).nbytes
        if n_bytes >= max_bytes or len(group) == max_items:
            yield group
            group, n_bytes = [], 0
    if group:
        yield group


def record_batch(
    results: Sequence[EncodedClip | Failure], schema: pa.Schema, width: int
) -> pa.RecordBatch:
    """Return results as rows of the part's schema."""
    no_frames = np.empty((0, width), np.float16)
    embeddings = [getattr(result, "embeddings", no_frames) for result in results]
    columns: dict[str, Any] = {"embeddings": embeddings_array(embeddings, width)}
    # A failure has nothing of what a clip has, and a clip nothing of it: that is null in its row.
    for name in ("row", "timestamps", "damaged", "stage", "reason", "message"):
        columns[name] = [getattr(result, name, None) for result in results]
    infos = [getattr(result, "info", None) for result in results]
    for name, attribute in INFO_ATTRIBUTES.items():
        columns[name] = [getattr(info, attribute, None) for info in infos]
    return pa.RecordBatch.from_pydict(columns, schema=schema)


def report_path(directory: Path, name: str) -> Path:
    """Return where the report of a part lies, whether it is there or not."""
    return directory / f"{name}.json"


def name_try(name: str, number: int) -> str:
    """Return the name of another try of a part; the first try is number 0."""
    return f"{name}.retry{number}" if number else name


def split_name(name: str) -> tuple[str, int]:
    """Return the name of a part's first try, and the number of this try, 0 for the first."""
    first, _, number = name.partition(".retry")
    return first, int(number or 0)


def is_done(directory: Path, name: str) -> bool:
    """Tell whether a part is finished: its report is there."""
    return report_path(directory, name).is_file()


def read_report(directory: Path, name: str) -> PartReport:
    """Return a finished part's report; `part_reader.read_part` checks the Arrow file too.

    Raises:
        DamagedPartError: the report is not what was written.
    """
    path = report_path(directory, name)
    try:
        return PartReport(**read_sealed_json(path))
    except (ValueError, TypeError) as error:
        raise DamagedPartError(name, path.name, "it is not as it was written") from error
