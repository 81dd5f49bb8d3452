"""The manifest: what the files of a dataset are, what they were made with, and their hashes.

In: a configuration, counts and written files. Out: `manifest.json`, the sign that a dataset
is complete; no path, host, worker count or clock in it.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.types import InputError
from builder.write import hash_file, write_json
from clip_kinetics700.schema import INDEX_NAME, MANIFEST_NAME, SPLITS

FORMAT_NAME = "clip-kinetics700/1"
DATA_FILE = re.compile(r"ds_\d+\.tar|data/.+\.parquet")


@dataclass(slots=True)
class Totals:
    """Counts of a split or of the whole dataset; `rows == samples + failures` always."""

    rows: int = 0
    samples: int = 0
    failures: int = 0
    frames: int = 0
    failures_by_reason: dict[str, int] = field(default_factory=dict)
    samples_by_label: list[int] | None = None
    """In the order of the class names; those without a label are in none. None if not counted."""
    samples_by_n_frames: dict[str, int] | None = None
    """By number of frames, in numeric order. None if not counted."""

    def add_failures(self, reason: str, count: int) -> None:
        """Count failed rows of one reason."""
        self.failures += count
        self.failures_by_reason[reason] = self.failures_by_reason.get(reason, 0) + count

    def document(self) -> dict[str, Any]:
        """Return the counts as the manifest holds them, without those that are not known."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in values.items() if value is not None}


def add_totals(totals: Mapping[str, Totals]) -> Totals:
    """Return the sum over splits."""
    whole = Totals()
    for part in totals.values():
        whole.rows += part.rows
        whole.samples += part.samples
        whole.frames += part.frames
        for reason, count in part.failures_by_reason.items():
            whole.add_failures(reason, count)
    whole.samples_by_label = add_lists([part.samples_by_label for part in totals.values()])
    whole.samples_by_n_frames = add_counts([part.samples_by_n_frames for part in totals.values()])
    return whole


def add_lists(lists: Sequence[list[int] | None]) -> list[int] | None:
    """Return the sum by place, or None where one of them is not known."""
    known = [numbers for numbers in lists if numbers is not None]
    lengths = {len(numbers) for numbers in known}
    if not known or len(known) < len(lists) or len(lengths) > 1:
        return None
    return [sum(numbers) for numbers in zip(*known, strict=True)]


def add_counts(counts: Sequence[dict[str, int] | None]) -> dict[str, int] | None:
    """Return the sum by name, in numeric order, or None where one of them is not known."""
    known = [count for count in counts if count is not None]
    if not known or len(known) < len(counts):
        return None
    whole = sum(map(Counter, known), Counter[str]())
    return {name: whole[name] for name in sorted(whole, key=int)}


def build_manifest(
    *,
    configuration: Mapping[str, Any],
    class_names: list[str] | None,
    totals: Mapping[str, Totals],
    files: Mapping[str, Mapping[str, Any]],
    canary: Mapping[str, Any],
    date: str | None,
) -> dict[str, Any]:
    """Return the manifest with its own hash."""
    splits = {split: totals[split].document() for split in SPLITS if split in totals}
    document: dict[str, Any] = {
        "format": FORMAT_NAME,
        "configuration": dict(configuration),
        "class_names": class_names,
        "totals": {**add_totals(totals).document(), "splits": splits},
        "files": {name: dict(files[name]) for name in sorted(files)},
        **canary,
        "date": date,
    }
    return {**document, "self_sha256": hash_manifest(document)}


def hash_manifest(document: Mapping[str, Any]) -> str:
    """Return the sha256 of a manifest's canonical JSON without `self_sha256`."""
    content = {name: value for name, value in document.items() if name != "self_sha256"}
    return hash_bytes(canonical_json(content))


def hash_bytes(data: bytes) -> str:
    """Return the sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def hash_data(manifest: Mapping[str, Any]) -> str:
    """Return the sha256 that tells the data of a dataset: of its tars, Parquet files and index.

    Card, pictures and whatever else can be made of the data again are not in it.
    """
    names = [name for name in manifest["files"] if name == INDEX_NAME or DATA_FILE.fullmatch(name)]
    digests = {name: manifest["files"][name]["sha256"] for name in names}
    return hash_bytes(canonical_json(digests))


def canonical_json(document: Any) -> bytes:
    """Return the one spelling of a JSON document that hashes are taken over."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8")


def describe_file(path: Path, rows: int, sha256: str | None = None) -> dict[str, Any]:
    """Return a file's entry in the manifest; one whose hash is not known is read for it."""
    digest = hash_file(path) if sha256 is None else sha256
    return {"sha256": digest, "bytes": path.stat().st_size, "rows": rows}


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """Return a dataset's manifest, or None where there is none.

    Raises:
        InputError: the file is there and is no manifest of ours.
    """
    path = directory / MANIFEST_NAME
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: is not JSON") from error
    objects = ("configuration", "totals", "files")
    if (
        not isinstance(document, dict)
        or document.get("format") != FORMAT_NAME
        or not all(isinstance(document.get(name), dict) for name in objects)
    ):
        raise InputError(f"{path}: is not a manifest of format {FORMAT_NAME}")
    return document


def write_manifest(directory: Path, document: Mapping[str, Any]) -> None:
    """Write the manifest, the last file of a dataset."""
    write_json(directory / MANIFEST_NAME, document)
