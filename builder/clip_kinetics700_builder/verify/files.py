"""Verification of files as files: which are there, whether each is the one the manifest lists.

The small tables, splits.csv and failures.parquet, are compared with the manifest here too.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clip_kinetics700.schema import (
    CLASS_TEXTS_NAME,
    FAILURES_NAME,
    MANIFEST_NAME,
    REASONS,
    SPLITS_CSV_NAME,
)
from clip_kinetics700.texts import decode_class_texts
from clip_kinetics700_builder.dataset.layout import FIGURES, README_NAME
from clip_kinetics700_builder.dataset.manifest import Manifest
from clip_kinetics700_builder.dataset.problems import DamagedFileError, Problems
from clip_kinetics700_builder.dataset.shards import SHARD_NAME, splits_csv
from clip_kinetics700_builder.system.files import hash_file
from clip_kinetics700_builder.verify.tables import count_failures


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset that is verified: where it is, what it must be, what is wrong with it so far."""

    directory: Path
    manifest: Manifest
    problems: Problems

    def find(self, name: str) -> Path | None:
        """Return the path of a file if it is the one that the manifest lists, byte for byte."""
        entry = self.manifest.files.get(name)
        if entry is None:
            return None  # that the manifest does not list it is a fault of the manifest
        path = self.directory / name
        if not path.is_file():
            self.problems.add(name, "is missing")
            return None
        try:
            n_bytes, digest = path.stat().st_size, hash_file(path)
        except OSError as error:
            self.problems.add(name, f"cannot be read: {error.strerror}")
            return None
        if n_bytes != entry.bytes:
            message = f"has {n_bytes} bytes, {MANIFEST_NAME} says {entry.bytes}"
            self.problems.add(name, message)
        elif digest != entry.sha256:
            message = f"has the sha256 {digest}, {MANIFEST_NAME} says {entry.sha256}"
            self.problems.add(name, message)
        else:
            return path
        return None


def check_names(dataset: Dataset, names: Iterable[str]) -> None:
    """Report which of the files do not belong to the dataset; hidden ones are nobody's business."""
    if not (dataset.directory / README_NAME).is_file():
        message = "is missing: it is the card, by which load_dataset finds the files"
        dataset.problems.add(README_NAME, message)
    known = {README_NAME, MANIFEST_NAME, *dataset.manifest.files}
    for name in names:
        is_hidden = any(part.startswith(".") for part in name.split("/"))
        if name not in known and not is_hidden:
            what = "a shard" if SHARD_NAME.fullmatch(name) else "a file"
            dataset.problems.add(name, f"is {what} that {MANIFEST_NAME} does not list")


def check_small_files(dataset: Dataset) -> None:
    """Check the files that are no samples: the small tables, the figures, the class texts."""
    checks: dict[str, Callable[[Path, Manifest], Iterator[str]]] = {
        SPLITS_CSV_NAME: check_splits_csv,
        FAILURES_NAME: check_failures,
        **dict.fromkeys(FIGURES, lambda *_: iter(())),
        CLASS_TEXTS_NAME: check_class_texts,
    }
    for name, check in checks.items():
        path = dataset.find(name)
        if path is not None:
            for message in check(path, dataset.manifest):
                dataset.problems.add(name, message)


def check_splits_csv(path: Path, manifest: Manifest) -> Iterator[str]:
    """Yield where splits.csv has not one row a tar, in order, with upstream's words."""
    found = path.read_bytes().split(b"\n")
    expected = splits_csv(manifest.list_shards()).encode("utf-8").split(b"\n")
    for number, (line, ours) in enumerate(zip(found, expected, strict=False), 1):
        if line != ours:
            yield f"line {number} is {line[:80]!r}, must be {ours!r}"
            return
    if len(found) != len(expected):
        yield f"holds {len(found) - 1} lines, must hold {len(expected) - 1}"


def check_class_texts(path: Path, manifest: Manifest) -> Iterator[str]:
    """Yield why published class texts are not unit vectors of the dataset's classes and width."""
    try:
        texts = decode_class_texts(path.read_bytes())
    except ValueError as error:
        yield str(error)
        return
    if list(texts.names) != manifest.class_names:
        yield f"is not of the classes of {MANIFEST_NAME}"
    width = texts.embeddings.shape[1]
    if width != manifest.width:
        yield f"has {width} columns, {MANIFEST_NAME} says {manifest.width}"
    if not np.allclose(np.linalg.norm(texts.embeddings, axis=1), 1, atol=1e-4):
        yield "holds rows that are not of length 1"


def check_failures(path: Path, manifest: Manifest) -> Iterator[str]:
    """Yield what is wrong with the rows of the failures, and with the manifest's counts of them."""
    try:
        found = count_failures(path, manifest.count_rows()[FAILURES_NAME])
    except DamagedFileError as error:
        yield str(error)
        return
    expected = Counter(
        {
            (split, reason): count
            for split, totals in manifest.splits.items()
            for reason, count in totals.failures_by_reason.items()
        }
    )
    for split, reason in sorted(found.keys() | expected.keys()):
        stated, there = expected[split, reason], found[split, reason]
        if reason not in REASONS:
            yield f"holds the reason {reason!r}, allowed are {', '.join(REASONS)}"
        if there != stated:
            yield (
                f"holds {there} rows of split {split!r} and reason {reason!r}, "
                f"{MANIFEST_NAME} says {stated}"
            )
