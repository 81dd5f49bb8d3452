"""These functions make small datasets by `assemble.assemble`, and damage them.

Damage ends with hashes that are those of the files again, so that only a look at the content can
tell it.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clip_kinetics700.schema import encode_npy
from clip_kinetics700_builder.assemble.assemble import assemble
from clip_kinetics700_builder.config import AssembleConfig
from clip_kinetics700_builder.dataset.totals import Totals
from clip_kinetics700_builder.parts.canary import Canary
from clip_kinetics700_builder.system.files import hash_file, seal_json, write_json
from clip_kinetics700_builder.types import Clip, EncodedClip, Failure, VideoInfo
from clip_kinetics700_builder.verify.dataset import verify_dataset
from tests.support.datasets.builds import list_published

WIDTH = 8
CLASS_NAMES = ["abseiling", "air drumming", "answering questions"]
# 12, 4 and 3 samples make 3, 1 and 1 shards of 5; every fourth row fails.
ROWS = {"train": 16, "validation": 5, "test": 4}
REASONS = ("missing", "truncated", "unreadable")
FIRST_TAR = "ds_000000.tar"
FIRST_PARQUET = "data/train-00000-of-00003.parquet"

Members = list[tuple[str, bytes]]


class SmallRows:
    """Rows that can be assembled: random embeddings, every fourth row a failure."""

    configuration: Mapping[str, Any] = {"embedding_width": WIDTH, "seed": 0}
    class_names: list[str] | None = CLASS_NAMES
    canary: Canary | None = None
    width = WIDTH
    fingerprint = "small"

    def __init__(self) -> None:
        self.totals: dict[str, Totals] = {}
        for split, n_rows in ROWS.items():
            totals = self.totals[split] = Totals(rows=n_rows)
            for _, result in self.results(split):
                if isinstance(result, Failure):
                    totals.add_failures(result.reason, 1)
                else:
                    totals.samples += 1
                    totals.frames += len(result.embeddings)

    def results(self, split: str) -> Iterator[tuple[Clip, EncodedClip | Failure]]:
        """Yield the rows of a split."""
        for row in range(ROWS[split]):
            label = None if split == "test" else CLASS_NAMES[row % 3]
            clip = Clip(split, f"-a_{row:08d}", row, row + 10, label, label or "")
            yield clip, self.result(split, row)

    def result(self, split: str, row: int) -> EncodedClip | Failure:
        """Return what became of one row."""
        if row % 4 == 1:
            return Failure(row, "source", REASONS[row % 3], "the file is no video")
        n_frames = 1 + row % 4
        rng = np.random.default_rng([row, *split.encode()])
        embeddings = rng.standard_normal((n_frames, WIDTH)).astype(np.float16)
        info = VideoInfo(n_frames, n_frames - 0.1, 29.97, 340, 256)
        return EncodedClip(row, embeddings, np.arange(n_frames, dtype=np.float32), info)


class ChangedRows(SmallRows):
    """The same rows, but one of them has another embedding: no count and no size tells it."""

    fingerprint = "changed"

    def result(self, split: str, row: int) -> EncodedClip | Failure:
        """Return what became of one row."""
        result = super().result(split, row)
        if isinstance(result, EncodedClip) and (split, row) == ("train", 8):
            return replace(result, embeddings=result.embeddings + np.float16(1))
        return result


def make_dataset(directory: Path, *formats: str) -> Path:
    """Assemble the small rows in these formats, both where none is named."""
    formats = formats or ("parquet", "webdataset")
    config = AssembleConfig(
        source=directory, output=directory, samples_per_shard=5, formats=formats, figures=False
    )
    assemble(SmallRows(), config)
    return directory


@cache
def read_sound_files() -> dict[str, bytes]:
    """Return the files of a dataset in both formats by name; it is assembled once."""
    with TemporaryDirectory() as place:
        directory = make_dataset(Path(place))
        return {
            path.relative_to(directory).as_posix(): path.read_bytes()
            for path in list_published(directory)
        }


def copy_dataset(directory: Path) -> Path:
    """Write a dataset in both formats, with nothing wrong in it."""
    (directory / "data").mkdir(parents=True)
    for name, content in read_sound_files().items():
        (directory / name).write_bytes(content)
    return directory


def edit_manifest(dataset: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest and give it the hash of its new content."""
    document = json.loads((dataset / "manifest.json").read_text())
    edit(document)
    write_json(dataset / "manifest.json", seal_json(document))


def reseal(dataset: Path) -> None:
    """Put every file's hash and size into the manifest, so that hashes catch nothing."""

    def take_over(document: dict[str, Any]) -> None:
        for name, entry in document["files"].items():
            path = dataset / name
            entry |= {"sha256": hash_file(path), "bytes": path.stat().st_size}

    edit_manifest(dataset, take_over)


def flip_byte(path: Path, offset: int) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def read_tar(path: Path) -> Members:
    """Return names and contents of a tar's members."""
    with tarfile.open(path) as tar:
        return [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]


def write_tar(path: Path, members: Members, **fields: Any) -> None:
    """Write a tar as the builder does, apart from these fields of its headers."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))


def edit_tar(dataset: Path, edit: Callable[[Members], Members], name: str = FIRST_TAR) -> None:
    """Rewrite a tar with other members, hashes included."""
    write_tar(dataset / name, edit(read_tar(dataset / name)))
    reseal(dataset)


def edit_member(dataset: Path, name: str, edit: Callable[[bytes], bytes]) -> None:
    """Change the content of one member of the first tar, hashes included."""
    edit_tar(
        dataset, lambda members: [(n, edit(data) if n == name else data) for n, data in members]
    )


def set_value(value: float) -> Callable[[bytes], bytes]:
    """Return the edit that puts a number into an npy member."""

    def edit(data: bytes) -> bytes:
        array = np.load(io.BytesIO(data))
        array[0, 3] = value
        return encode_npy(array)

    return edit


def edit_table(dataset: Path, name: str, edit: Callable[[pa.Table], pa.Table]) -> None:
    """Rewrite a Parquet file with other rows, hashes included."""
    pq.write_table(edit(pq.read_table(dataset / name)), dataset / name)
    reseal(dataset)


def edit_row(row: int, **values: Any) -> Callable[[pa.Table], pa.Table]:
    """Return the edit that puts other values in one row of a table."""

    def edit(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        rows[row] |= values
        return pa.Table.from_pylist(rows, table.schema)

    return edit


def problems_of(dataset: Path) -> dict[str, str]:
    """Return the problems by file, those of one file joined."""
    found: dict[str, str] = {}
    for problem in verify_dataset(dataset):
        assert problem.message.isprintable()
        assert str(dataset) not in problem.message
        found[problem.file] = "; ".join(filter(None, (found.get(problem.file), problem.message)))
    return found
