"""The manifest: what the files of a dataset are, what they were made with, and their hashes.

In: a configuration, counts and written files. Out: `manifest.json`, the sign that a dataset
is complete; no path, host, worker count or clock in it.
"""

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clip_kinetics700.schema import (
    CLASS_TEXTS_NAME,
    FAILURES_NAME,
    INDEX_NAME,
    MANIFEST_NAME,
    REASONS,
    SPLITS,
    SPLITS_CSV_NAME,
    TAR_NAME,
)
from clip_kinetics700_builder.config import FORMATS
from clip_kinetics700_builder.dataset.layout import FIGURES
from clip_kinetics700_builder.dataset.problems import DamagedFileError
from clip_kinetics700_builder.system.files import format_json, hash_file, write_json
from clip_kinetics700_builder.types import InputError

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


# Wider than any model; it keeps a wrong number from costing memory.
MAX_WIDTH = 1 << 20
CANONICAL_NUMBER = re.compile(r"0|[1-9]\d*")
COUNTS = ("rows", "samples", "failures", "frames")


@dataclass(frozen=True, slots=True)
class Shard:
    """One run of samples, written to a tar, to a Parquet file, or to both."""

    split: str
    first: int
    """Number of its first sample in the whole dataset."""
    n_samples: int
    tar: str | None
    """Name of the tar; None where the dataset has none."""
    parquet: str | None
    """Name of the Parquet file; None where the dataset has none."""


@dataclass(frozen=True, slots=True)
class Contract:
    """What the manifest says of a dataset."""

    samples_per_shard: int
    formats: tuple[str, ...]
    width: int
    """Columns of the embeddings."""
    class_names: list[str] | None
    totals: dict[str, Totals]
    """Counts by split, in the order of the splits."""
    whole: Totals
    """Counts of the whole dataset, as the manifest gives them."""
    files: dict[str, dict[str, Any]]
    """`sha256`, `bytes` and `rows` by name."""

    def shards(self) -> Iterator[Shard]:
        """Yield the shards of the dataset in order: every one full but the last of a split."""
        first, tars = 0, itertools.count()
        for split, totals in self.totals.items():
            n_shards = -(-totals.samples // self.samples_per_shard)
            for index in range(n_shards):
                left = totals.samples - index * self.samples_per_shard
                n_samples = min(left, self.samples_per_shard)
                parquet = f"data/{split}-{index:05d}-of-{n_shards:05d}.parquet"
                yield Shard(
                    split=split,
                    first=first,
                    n_samples=n_samples,
                    tar=TAR_NAME.format(next(tars)) if "webdataset" in self.formats else None,
                    parquet=parquet if "parquet" in self.formats else None,
                )
                first += n_samples

    def count_rows(self) -> dict[str, int]:
        """Return the name of every file there must be, and how many rows it must hold."""
        totals = add_totals(self.totals)
        rows = {INDEX_NAME: totals.samples, FAILURES_NAME: totals.failures}
        n_tars = 0
        for shard in self.shards():
            rows |= {name: shard.n_samples for name in (shard.tar, shard.parquet) if name}
            n_tars += shard.tar is not None
        if "webdataset" in self.formats:
            rows[SPLITS_CSV_NAME] = n_tars
        if CLASS_TEXTS_NAME in self.files:
            # A dataset is complete without them; `embed-classes` adds them.
            rows[CLASS_TEXTS_NAME] = len(self.class_names or ())
        return rows


def read_contract(directory: Path) -> Contract:
    """Return what the manifest of a dataset says.

    Raises:
        InputError: there is no such directory, or no manifest in it.
        DamagedFileError: the manifest is not as it was written, or none of ours.
    """
    return parse_contract(read_document(directory))


def read_document(directory: Path) -> dict[str, Any]:
    """Return the manifest of a dataset, which is as it was written.

    Raises:
        InputError: there is no such directory, or no manifest in it.
        DamagedFileError: the manifest is not as it was written, or none of ours.
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory")
    try:
        document = read_manifest(directory)
    except InputError as error:
        prefix = f"{directory / MANIFEST_NAME}: "
        raise DamagedFileError(str(error).removeprefix(prefix)) from error
    if document is None:
        raise InputError(f"{directory}: holds no {MANIFEST_NAME}, so it is no finished dataset")
    check_own_hash(document)
    # The hash is of what the document says: white space and the last digits of a number are not.
    if (directory / MANIFEST_NAME).read_bytes() != format_json(document).encode("utf-8"):
        raise DamagedFileError("says what it said, but is not spelled as it was written")
    return document


def read_sound_document(directory: Path) -> dict[str, Any]:
    """Return the manifest of a dataset that is to be described or added to.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        document = read_document(directory)
        parse_contract(document)
    except DamagedFileError as error:
        raise InputError(f"{directory / MANIFEST_NAME}: {error}") from error
    return document


def check_own_hash(document: Mapping[str, Any]) -> None:
    """Refuse a manifest whose content is not what its own hash was taken over."""
    try:
        digest = hash_manifest(document)
    except UnicodeEncodeError as error:
        raise DamagedFileError("holds half a character, which no utf-8 text can") from error
    stated = document.get("self_sha256")
    if stated != digest:
        raise DamagedFileError(
            f"self_sha256 is {stated!r}, but its content hashes to {digest!r}; "
            "nothing else was checked, because all else is checked against it"
        )


def parse_contract(document: Mapping[str, Any]) -> Contract:
    """Return the manifest's content, every value of the type it must have.

    Raises:
        DamagedFileError: a value is not there or of another type.
    """
    configuration = look_up(document, "configuration", dict)
    formats = look_up(configuration, "formats", list)
    if not formats or any(name not in FORMATS for name in formats):
        raise DamagedFileError(f"formats are {formats!r:.80}, allowed are {', '.join(FORMATS)}")
    totals = look_up(document, "totals", dict)
    splits = look_up(totals, "splits", dict)
    if splits.keys() - {*SPLITS}:
        raise DamagedFileError(f"splits are {[*splits]!r:.80}, allowed are {', '.join(SPLITS)}")
    files = look_up(document, "files", dict)
    contract = Contract(
        samples_per_shard=look_up(configuration, "samples_per_shard", int),
        formats=tuple(formats),
        width=look_up(configuration, "embedding_width", int),
        class_names=parse_class_names(document),
        totals={
            split: parse_totals(look_up(splits, split, dict)) for split in SPLITS if split in splits
        },
        whole=parse_totals(totals),
        files={name: look_up(files, name, dict) for name in files},
    )
    check_sizes(contract)
    return contract


def check_sizes(contract: Contract) -> None:
    """Refuse numbers that nothing can be laid out by, or that would cost memory."""
    if contract.samples_per_shard < 1 or not 1 <= contract.width <= MAX_WIDTH:
        raise DamagedFileError(
            f"samples_per_shard is {contract.samples_per_shard} and embedding_width "
            f"{contract.width}; both must be over 0, the width {MAX_WIDTH} at most"
        )
    n_samples = max((totals.samples for totals in contract.totals.values()), default=0)
    n_shards = -(-n_samples // contract.samples_per_shard)
    if n_shards > len(contract.files):
        raise DamagedFileError(
            f"lists {len(contract.files)} files, where its totals ask for {n_shards} shards"
        )


def parse_class_names(document: Mapping[str, Any]) -> list[str] | None:
    """Return the names by label id; None for videos without classes."""
    if document.get("class_names") is None:
        return None
    names: list[str] = look_up(document, "class_names", list)
    if not all(isinstance(name, str) for name in names):
        raise DamagedFileError("class_names must be strings")
    return names


def parse_totals(document: Mapping[str, Any]) -> Totals:
    """Return the counts of a split or of the whole."""
    counts = {name: look_up(document, name, int) for name in COUNTS}
    if min(counts.values()) < 0:
        raise DamagedFileError(f"totals hold a negative count: {counts}")
    reasons = look_up(document, "failures_by_reason", dict)
    by_reason = {reason: look_up(reasons, reason, int) for reason in reasons}
    return Totals(**counts, failures_by_reason=by_reason, **parse_tallies(document))


def parse_tallies(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts of samples that earlier versions have not written."""
    found: dict[str, Any] = {}
    if "samples_by_label" in document:
        numbers = look_up(document, "samples_by_label", list)
        if not all(type(number) is int for number in numbers):
            raise DamagedFileError("samples_by_label must be whole numbers")
        found["samples_by_label"] = numbers
    if "samples_by_n_frames" in document:
        counts = look_up(document, "samples_by_n_frames", dict)
        if not all(CANONICAL_NUMBER.fullmatch(name) for name in counts):
            raise DamagedFileError("samples_by_n_frames must be named by numbers of frames")
        found["samples_by_n_frames"] = {name: look_up(counts, name, int) for name in counts}
    return found


def look_up(document: Mapping[str, Any], name: str, kind: type) -> Any:
    """Return a value of the type that it must have."""
    value = document.get(name)
    # JSON's true is an int in Python.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DamagedFileError(f"{name} must be of type {kind.__name__}, got {value!r:.80}")
    return value


def check_contract(contract: Contract) -> Iterator[str]:
    """Yield what is wrong with the manifest itself."""
    for split, totals in contract.totals.items():
        yield from check_totals(f"totals of {split}", totals)
    yield from check_totals("totals", contract.whole)
    if contract.whole != add_totals(contract.totals):
        yield "totals are not the sum of the splits"
    expected = contract.count_rows()
    for name in sorted(expected.keys() - contract.files.keys()):
        yield f"does not list {name}, which its totals and samples_per_shard ask for"
    for name, entry in contract.files.items():
        if name not in expected and name not in FIGURES:
            yield f"lists {name}, which its totals and samples_per_shard leave no place for"
        elif entry.get("rows") != expected.get(name, 0):
            yield f"says {name} has {entry.get('rows')} rows, where {expected.get(name, 0)} belong"


def check_totals(name: str, totals: Totals) -> Iterator[str]:
    """Yield what does not add up in one set of counts."""
    if totals.rows != totals.samples + totals.failures:
        yield (
            f"{name}: {totals.rows} rows are not {totals.samples} samples "
            f"and {totals.failures} failures"
        )
    if totals.failures != sum(totals.failures_by_reason.values()):
        yield f"{name}: {totals.failures} failures are not the sum of failures_by_reason"
    for reason in sorted(totals.failures_by_reason.keys() - {*REASONS}):
        yield f"{name}: unknown reason {reason!r}, allowed are {', '.join(REASONS)}"


class SampleTally:
    """Counts of samples by label and by number of frames."""

    def __init__(self, n_classes: int | None) -> None:
        """Count nothing yet; None where there are no classes."""
        self._by_label = None if n_classes is None else np.zeros(n_classes, np.int64)
        self._by_n_frames: Counter[int] = Counter()

    def add(self, label_ids: pa.Array, lengths: Sequence[int] | npt.NDArray[Any]) -> None:
        """Count samples; those without a label, or with one of no class, have lengths alone.

        Args:
            label_ids: int64, null where there is no label.
            lengths: frames of each sample.
        """
        if self._by_label is not None:
            labels = label_ids.drop_null().to_numpy()
            known = labels[(labels >= 0) & (labels < len(self._by_label))]
            self._by_label += np.bincount(known, minlength=len(self._by_label))
        n_frames, counts = np.unique(np.asarray(lengths, np.int64), return_counts=True)
        self._by_n_frames.update(dict(zip(n_frames.tolist(), counts.tolist(), strict=True)))

    @property
    def frames(self) -> int:
        """Frames of all samples."""
        return sum(n_frames * count for n_frames, count in self._by_n_frames.items())

    @property
    def samples_by_label(self) -> list[int] | None:
        """Samples of each class, in the order of their names; None where there are none."""
        return None if self._by_label is None else self._by_label.tolist()

    @property
    def samples_by_n_frames(self) -> dict[str, int]:
        """Samples by number of frames, as JSON has its names, in numeric order."""
        return {str(n_frames): count for n_frames, count in sorted(self._by_n_frames.items())}
