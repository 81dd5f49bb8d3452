"""A report beside each finished shard makes assembly resumable; it is checked before it is kept.

The report OUTPUT/.build/shards/SPLIT-NNNNN.json holds a digest of the tar that the shard's samples
make. It is written last and is the only sign of "done".
"""

import hashlib
import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from clip_kinetics700 import __version__
from clip_kinetics700.schema import SPLITS
from clip_kinetics700_builder.dataset.manifest import FileEntry
from clip_kinetics700_builder.dataset.shards import Shard
from clip_kinetics700_builder.system.files import write_json

REPORT_NAME = re.compile(rf"({'|'.join(SPLITS)})-(\d{{5,}})\.json")


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What a finished shard says of itself."""

    writer: str
    """What besides the samples decides the bytes of the files."""
    samples_sha256: str
    """Digest of all the samples, from key to embeddings, as they stand in a tar."""
    files: dict[str, FileEntry]
    """The manifest's entry of each file."""


class ShardReports:
    """The reports of one output directory."""

    def __init__(self, directory: Path, *, output: Path, schema: pa.Schema) -> None:
        """Read and write reports.

        Args:
            directory: where they lie.
            output: where the files of the shards lie.
            schema: of the Parquet files; class names are in it.
        """
        self._directory = directory
        self._output = output
        self._writer = describe_writer(schema)

    def find(self, shard: Shard) -> ShardReport | None:
        """Return the report of a shard whose files are there with their sizes, or None."""
        try:
            text = self._path(shard).read_text(encoding="utf-8")
            document = json.loads(text)
            files = {name: FileEntry(**entry) for name, entry in document.pop("files").items()}
            report = ShardReport(**document, files=files)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        paths = {name: self._output / name for name in shard.files}
        is_whole = files.keys() == paths.keys() and all(
            path.is_file() and path.stat().st_size == files[name].bytes
            for name, path in paths.items()
        )
        return report if is_whole and report.writer == self._writer else None

    def write(self, shard: Shard, digest: str, files: dict[str, FileEntry]) -> None:
        """Report a shard whose files are written."""
        self._directory.mkdir(parents=True, exist_ok=True)
        write_json(self._path(shard), asdict(ShardReport(self._writer, digest, files)))

    def drop_from(self, shard: Shard) -> None:
        """Remove the reports of a shard and of all after it."""
        for path in sorted(self._directory.glob("*.json")):
            match = REPORT_NAME.fullmatch(path.name)
            place = (SPLITS.index(match[1]), int(match[2])) if match else None
            if place is None or place >= (SPLITS.index(shard.split), shard.number):
                path.unlink()

    def clear(self) -> None:
        """Remove all reports: the manifest now says what they said."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _path(self, shard: Shard) -> Path:
        return self._directory / f"{shard.split}-{shard.number:05d}.json"


def describe_writer(schema: pa.Schema) -> str:
    """Return a digest of what besides the samples decides a file's bytes."""
    parts = [__version__, pa.__version__, str(schema), *map(str, (schema.metadata or {}).items())]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "backslashreplace")).hexdigest()
