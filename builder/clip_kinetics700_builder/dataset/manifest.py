"""The manifest says what the files of a dataset are, what they were made with, and their hashes.

It is written last and is the sign that a dataset is complete; no path, host, worker count or clock
is in it. Everybody reads it through `read_manifest`, so that all refuse what one refuses.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from clip_kinetics700.schema import (
    CLASS_TEXTS_NAME,
    FAILURES_NAME,
    INDEX_NAME,
    MANIFEST_NAME,
    SPLITS,
    SPLITS_CSV_NAME,
    parse_json,
)
from clip_kinetics700.streams import MAX_TEXT_BYTES, read_if_there
from clip_kinetics700_builder.dataset.layout import FIGURES, README_NAME
from clip_kinetics700_builder.dataset.problems import DamagedFileError
from clip_kinetics700_builder.dataset.shards import SHARD_NAME, Shard, plan_shards
from clip_kinetics700_builder.dataset.totals import Totals, add_totals
from clip_kinetics700_builder.parts.canary import Canary, Variant, describe_canary
from clip_kinetics700_builder.system.files import (
    SEAL_NAME,
    format_json,
    hash_file,
    hash_json,
    seal_json,
    write_json,
)
from clip_kinetics700_builder.types import FORMATS, InputError

FORMAT_NAME = "clip-kinetics700/1"
FORMAT_FAMILY = "clip-kinetics700/"
# Wider than any model; it keeps a wrong number from costing memory.
MAX_WIDTH = 1 << 20
CANONICAL_NUMBER = re.compile(r"0|[1-9]\d*")

# What the configuration may say besides, for the card and for evaluations.
OPTIONAL_TYPES = {"clips": str, "model": str, "dtype": str, "weights_sha256": dict[str, str]}
OPTIONAL_TYPES |= {"frames_per_second": Real}

Record = TypeVar("Record")


class ManifestError(InputError):
    """The manifest of a dataset cannot be believed."""

    def __init__(self, place: Path | str, reason: str) -> None:
        """Keep the reason alone, too: verification names the file by itself."""
        super().__init__(f"{place}/{MANIFEST_NAME}: {reason}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What the manifest says of one file."""

    sha256: str
    bytes: int
    rows: int

    def document(self) -> dict[str, Any]:
        """Return the entry as JSON holds it."""
        return {"sha256": self.sha256, "bytes": self.bytes, "rows": self.rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What `manifest.json` says of a dataset, every value of the type it must have."""

    document: Mapping[str, Any]
    """The JSON object itself."""
    configuration: Mapping[str, Any]
    """What the dataset was made with."""
    samples_per_shard: int
    formats: tuple[str, ...]
    width: int
    """Columns of the embeddings."""
    class_names: list[str] | None
    """Names by label id; None for videos without classes."""
    splits: dict[str, Totals]
    """Counts of each split, in the order of the splits."""
    totals: Totals
    """Counts of the whole dataset."""
    files: dict[str, FileEntry]
    canary: Canary | None
    """What the package's test video became; None where it was not encoded."""
    date: str | None
    self_sha256: str
    """Hash of all the rest of it."""

    def __repr__(self) -> str:
        """Return the counts alone: all of it is pages long."""
        counts = f"{self.totals.samples:,} samples, {self.totals.failures:,} failures"
        return f"Manifest({counts}, {self.totals.frames:,} frames, {len(self.files)} files)"

    def list_shards(self) -> list[Shard]:
        """Return the shards of the dataset in order."""
        counts = {split: totals.samples for split, totals in self.splits.items()}
        return [
            *plan_shards(counts, samples_per_shard=self.samples_per_shard, formats=self.formats)
        ]

    def count_rows(self) -> dict[str, int]:
        """Return the name of every file there must be, and how many rows it must hold."""
        totals, shards = add_totals(self.splits), self.list_shards()
        rows = {INDEX_NAME: totals.samples, FAILURES_NAME: totals.failures}
        rows |= {name: shard.n_samples for shard in shards for name in shard.files}
        if "webdataset" in self.formats:
            rows[SPLITS_CSV_NAME] = len(shards)
        if CLASS_TEXTS_NAME in self.files:
            # A dataset is complete without them; `embed-classes` adds them.
            rows[CLASS_TEXTS_NAME] = len(self.class_names or ())
        return rows

    @property
    def data_sha256(self) -> str:
        """The sha256 that tells the data of a dataset: of its tars, Parquet files and index.

        Card, pictures and whatever else can be made of the data again are not in it.
        """
        return hash_json(
            {
                name: entry.sha256
                for name, entry in self.files.items()
                if name == INDEX_NAME or SHARD_NAME.fullmatch(name)
            }
        )

    def with_file(self, name: str, entry: FileEntry) -> "Manifest":
        """Return the manifest with one more file, or another one of that name."""
        files = {**self.document["files"], name: entry.document()}
        return seal_manifest({**self.document, "files": dict(sorted(files.items()))})

    def is_complete(self, directory: Path) -> bool:
        """Say whether the card and every file of the manifest are there, these with their sizes."""
        return (directory / README_NAME).is_file() and all(
            (directory / name).is_file() and (directory / name).stat().st_size == entry.bytes
            for name, entry in self.files.items()
        )

    def find_contradictions(self) -> Iterator[str]:
        """Yield in what the manifest contradicts itself."""
        for split, totals in self.splits.items():
            yield from totals.find_contradictions(f"totals of {split}")
        yield from self.totals.find_contradictions("totals")
        names, counted = self.class_names, self.totals.samples_by_label
        if names is not None and counted is not None and len(counted) != len(names):
            yield f"counts samples of {len(counted)} classes, but has {len(names)} class_names"
        if self.totals != add_totals(self.splits):
            yield "totals are not the sum of the splits"
        expected = self.count_rows()
        for name in sorted(expected.keys() - self.files.keys()):
            yield f"does not list {name}, which its totals and samples_per_shard ask for"
        for name, entry in self.files.items():
            if name not in expected and name not in FIGURES:
                yield f"lists {name}, which its totals and samples_per_shard leave no place for"
            elif entry.rows != expected.get(name, 0):
                yield f"says {name} has {entry.rows} rows, where {expected.get(name, 0)} belong"


def make_manifest(
    *,
    configuration: Mapping[str, Any],
    class_names: list[str] | None,
    splits: Mapping[str, Totals],
    files: Mapping[str, FileEntry],
    canary: Canary | None,
    date: str | None,
) -> Manifest:
    """Return the manifest of a dataset, with its own hash."""
    by_split = {split: splits[split].document() for split in SPLITS if split in splits}
    return seal_manifest(
        {
            "format": FORMAT_NAME,
            "configuration": dict(configuration),
            "class_names": class_names,
            "totals": {**add_totals(splits).document(), "splits": by_split},
            "files": {name: files[name].document() for name in sorted(files)},
            **describe_canary(canary),
            "date": date,
        }
    )


def seal_manifest(document: Mapping[str, Any]) -> Manifest:
    """Return the manifest of a document, which gets the hash of its content."""
    return parse_manifest(seal_json(document))


def read_manifest(place: Path | str, *, strict: bool = True) -> Manifest | None:
    """Return the manifest of a dataset, or None where there is none.

    Args:
        place: directory or URL of the dataset.
        strict: refuse one that contradicts itself; verification reports all of that by itself.

    Raises:
        ManifestError: it is not as it was written, or none of ours.
    """
    try:
        data = read_if_there(f"{place}/{MANIFEST_NAME}", at_most=MAX_TEXT_BYTES)
    except ValueError as error:
        raise ManifestError(place, str(error).removeprefix(f"{place}/{MANIFEST_NAME}: ")) from error
    return None if data is None else check_manifest(data, place, strict=strict)


def check_manifest(data: bytes, place: Path | str, *, strict: bool = True) -> Manifest:
    """Return the manifest that a file holds; all as `read_manifest` has it."""
    try:
        manifest = parse_manifest(_parse_json(data))
        # The hash is of what the document says: white space and the last digits of a number are
        # not, so the bytes are compared as well.
        if data != format_json(manifest.document).encode("utf-8"):
            raise DamagedFileError("says what it said, but is not spelled as it was written")
        fault = next(manifest.find_contradictions(), None) if strict else None
        if fault is not None:
            raise DamagedFileError(fault)
    except DamagedFileError as error:
        raise ManifestError(place, str(error)) from error
    return manifest


def require_manifest(directory: Path, *, strict: bool = True) -> Manifest:
    """Return the manifest of a finished dataset; `strict` as `read_manifest` has it.

    Raises:
        InputError: there is no such directory, no manifest in it, or it is not as it was written.
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory")
    manifest = read_manifest(directory, strict=strict)
    if manifest is None:
        raise InputError(f"{directory}: holds no {MANIFEST_NAME}, so it is no finished dataset")
    return manifest


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest, the last file of a dataset."""
    write_json(directory / MANIFEST_NAME, manifest.document)


def describe_file(path: Path, rows: int, sha256: str | None = None) -> FileEntry:
    """Return a file's entry in the manifest; one whose hash is not known is read for it."""
    return FileEntry(sha256 or hash_file(path), path.stat().st_size, rows)


def _parse_json(data: bytes) -> dict[str, Any]:
    """Return the object in a manifest of ours, whose content is what its hash was taken over."""
    try:
        document = parse_json(data)
    except ValueError as error:
        raise DamagedFileError("is not JSON") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT_NAME:
        raise DamagedFileError(f"is not a manifest of format {FORMAT_NAME}")
    try:
        digest = seal_json(document)[SEAL_NAME]
    except UnicodeEncodeError as error:
        raise DamagedFileError("holds half a character, which no utf-8 text can") from error
    stated = document.get(SEAL_NAME)
    if stated != digest:
        raise DamagedFileError(
            f"self_sha256 is {stated!r}, but its content hashes to {digest!r}; "
            "nothing else was checked, because all else is checked against it"
        )
    return document


def parse_manifest(document: Mapping[str, Any]) -> Manifest:
    """Return the manifest that a JSON document is.

    Raises:
        DamagedFileError: a value is not there, of another type, or beyond what can be.
    """
    configuration = _look_up(document, "configuration", dict)
    formats = _look_up(configuration, "formats", list)
    if not formats or any(name not in FORMATS for name in formats):
        raise DamagedFileError(f"formats are {formats!r:.80}, allowed are {', '.join(FORMATS)}")
    for name, kind in OPTIONAL_TYPES.items():
        _look_up(configuration, name, kind | None)
    totals = _look_up(document, "totals", dict)
    splits = _look_up(totals, "splits", dict)
    if splits.keys() - {*SPLITS}:
        raise DamagedFileError(f"splits are {[*splits]!r:.80}, allowed are {', '.join(SPLITS)}")
    files = _look_up(document, "files", dict)
    manifest = Manifest(
        document=document,
        configuration=configuration,
        samples_per_shard=_look_up(configuration, "samples_per_shard", int),
        formats=tuple(formats),
        width=_look_up(configuration, "embedding_width", int),
        class_names=_look_up(document, "class_names", list[str] | None),
        splits={
            split: _parse_totals(_look_up(splits, split, dict))
            for split in SPLITS
            if split in splits
        },
        totals=_parse_totals(totals),
        files={
            name: _parse_record(FileEntry, _look_up(files, name, dict), f"files: {name}: ")
            for name in files
        },
        canary=_parse_canary(document),
        date=_look_up(document, "date", str | None),
        self_sha256=_look_up(document, "self_sha256", str),
    )
    _check_sizes(manifest)
    return manifest


def _check_sizes(manifest: Manifest) -> None:
    """Refuse numbers that nothing can be laid out by, or that would cost memory."""
    if manifest.samples_per_shard < 1 or not 1 <= manifest.width <= MAX_WIDTH:
        raise DamagedFileError(
            f"samples_per_shard is {manifest.samples_per_shard} and embedding_width "
            f"{manifest.width}; both must be over 0, the width {MAX_WIDTH} at most"
        )
    n_samples = max((totals.samples for totals in manifest.splits.values()), default=0)
    n_shards = -(-n_samples // manifest.samples_per_shard)
    if n_shards > len(manifest.files):
        raise DamagedFileError(
            f"lists {len(manifest.files)} files, where its totals ask for {n_shards} shards"
        )


def _parse_canary(document: Mapping[str, Any]) -> Canary | None:
    if document.get("canary") is None:
        return None
    variants = document.get("canary_variants", ())
    try:
        vector = _look_up(document, "canary", list)
        return Canary(list(map(float, vector)), tuple(Variant(**fields) for fields in variants))
    except (TypeError, ValueError) as error:
        raise DamagedFileError("canary is not a list of numbers") from error


def _parse_totals(document: Mapping[str, Any]) -> Totals:
    """Return the counts of a split or of the whole."""
    totals = _parse_record(Totals, document)
    if min(totals.rows, totals.samples, totals.failures, totals.frames) < 0:
        raise DamagedFileError(
            f"totals hold a negative count: {totals.rows} rows, {totals.samples} samples, "
            f"{totals.failures} failures, {totals.frames} frames"
        )
    if not all(map(CANONICAL_NUMBER.fullmatch, totals.samples_by_n_frames or ())):
        raise DamagedFileError("samples_by_n_frames must be named by numbers of frames")
    return totals


def _parse_record(kind: type[Record], document: Mapping[str, Any], place: str = "") -> Record:
    """Return a JSON object as a dataclass, each value of the type that its field has."""
    hints = get_type_hints(kind)
    return kind(**{name: _look_up(document, name, hints[name], place) for name in hints})


def _look_up(document: Mapping[str, Any], name: str, kind: Any, place: str = "") -> Any:
    """Return a value of the type that it must have, such as `dict[str, int] | None`."""
    value = document.get(name)
    if not (value is None and get_origin(kind) is UnionType):
        _check_type(value, kind, place + name)
    return value


def _check_type(value: Any, kind: Any, name: str) -> None:
    """Refuse a value that is not of a type, or holds one that is not of the type it must have."""
    outer, inner = get_origin(kind) or kind, get_args(kind)
    if outer is UnionType:
        _check_type(value, inner[0], name)
    # JSON's true is an int in Python.
    elif not isinstance(value, outer) or isinstance(value, bool):
        raise DamagedFileError(f"{name} must be of type {outer.__name__}, got {value!r:.80}")
    elif inner and outer is list:
        for one in value:
            _check_type(one, inner[0], f"each of {name}")
    elif inner:
        for key, one in value.items():
            _check_type(one, inner[1], key)
