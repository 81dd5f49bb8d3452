"""Reads annotation files: Kinetics CSV or JSON of any version, or a table of one's own videos.

A list that is wrong somewhere is refused whole, by file and line, because a build of a wrong list
is found out only days later.
"""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clip_kinetics700.schema import SPLITS, parse_json
from clip_kinetics700_builder.clips.records import (
    check_columns,
    find_split_word,
    parse_entry,
    parse_is_cc,
    parse_record,
)
from clip_kinetics700_builder.types import Clip, InputError

LIST_NAME = re.compile(r"(?P<stem>[^.].*)\.(?P<kind>csv|json)(\.gz)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class AnnotationRow:
    """An annotated clip, the word that its list uses for its split, and where it stands."""

    clip: Clip
    split_word: str
    file: Path
    place: int | str
    """The line in a table, or the key of a JSON entry."""
    is_cc: bool | None = None
    """Whether the video is under a Creative Commons licence; None where the list does not say."""

    def __str__(self) -> str:
        kind = "line" if isinstance(self.place, int) else "entry"
        return f"{self.file} {kind} {self.place!r:.120}"


@dataclass(slots=True)
class AnnotationSet:
    """The clips of all files so far, and what later rows must not contradict."""

    clips: list[Clip] = field(default_factory=list)
    rows: dict[str, AnnotationRow] = field(default_factory=dict)
    """The first row of each clip, by the clip's identity."""
    words: dict[str, AnnotationRow] = field(default_factory=dict)
    """The first row of each split."""

    def add(self, row: AnnotationRow) -> None:
        """Add the clip of a row, or refuse the row."""
        split = row.clip.split
        named = self.words.setdefault(split, row)
        if named.split_word != row.split_word:
            raise InputError(
                f"{row}: split {row.split_word!r}, but {split} is called {named.split_word!r} "
                f"in {named}; lists of different releases leak from one split into another, "
                "so one build takes one word for a split"
            )
        first = self.rows.setdefault(row.clip.identity, row)
        if first is row:
            self.clips.append(row.clip)
        elif first.clip != row.clip or not are_one_list(first.file, row.file):
            raise InputError(
                f"{row}: {row.clip.identity!r:.120} is in {first} already; remove one of them"
            )


def read_annotations(paths: Sequence[Path], *, splits: Sequence[str] = ()) -> list[Clip]:
    """Return the clips of annotation files in the order of the files.

    Args:
        paths: CSV or JSON files, gzipped or not, or directories of them.
        splits: splits to keep, as `train`, `validation` or `test`; empty keeps all.

    Raises:
        InputError: a file cannot be read, a row is wrong, or a split is in no file.
    """
    annotations = AnnotationSet()
    for file in list_files(paths):
        is_empty = True
        for row in read_rows(file):
            annotations.add(row)
            is_empty = False
        if is_empty:
            raise InputError(f"{file} holds no rows; expected at least one below the header")
    present = [split for split in SPLITS if split in annotations.words]
    for split in splits:
        if split not in present:
            raise InputError(
                f"no annotation is of split {split!r}; there are: {', '.join(present)}"
            )
    return [clip for clip in annotations.clips if not splits or clip.split in splits]


def list_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files of paths; those of a directory are its lists, sorted by name."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(entry for entry in path.iterdir() if LIST_NAME.fullmatch(entry.name))
            if not found:
                raise InputError(f"directory {path} holds no .csv, .json, .csv.gz or .json.gz file")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise InputError(f"annotation file {path} does not exist")
    for index, file in enumerate(files):
        if file in files[:index]:
            raise InputError(f"annotation file {file} is given twice")
    if not files:
        raise InputError("no annotation file is given")
    return files


def read_rows(file: Path) -> Iterator[AnnotationRow]:
    """Yield the rows of a list, JSON or a table by its name."""
    return read_json(file) if is_json(file) else read_table(file)


def is_json(file: Path) -> bool:
    """Tell JSON from a table by the name of the file."""
    match = LIST_NAME.fullmatch(file.name)
    return match is not None and match["kind"].lower() == "json"


def are_one_list(file: Path, other: Path) -> bool:
    """Tell whether two files are one list in two formats, as DeepMind's archives hold them."""
    ours, theirs = LIST_NAME.fullmatch(file.name), LIST_NAME.fullmatch(other.name)
    if ours is None or theirs is None or file.parent != other.parent:
        return False
    return ours["stem"] == theirs["stem"] and ours["kind"].lower() != theirs["kind"].lower()


def read_lines(file: Path) -> Iterator[str]:
    """Yield the lines of a utf-8 file with their ends, without a byte order mark."""
    number = 1
    try:
        with gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} line {number}: not utf-8 text ({error.reason})") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "damaged gzip data"
        raise InputError(f"cannot read {file}: {reason}") from error


def read_records(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of its first line, fields) of each record that is not blank."""
    reader = csv.reader(read_lines(file), strict=True)
    number = 1
    try:
        for fields in reader:
            if fields:
                yield number, fields
            number = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{file} line {number}: not a record of a CSV file ({error})") from error


def read_table(file: Path) -> Iterator[AnnotationRow]:
    """Yield the rows of a Kinetics CSV or of a table of one's own videos."""
    records = read_records(file)
    number, header = next(records, (0, None))
    if header is None:
        raise InputError(f"{file} is empty; expected a header line and rows")
    columns = [name.strip() for name in header]
    try:
        check_columns(columns)
        default_word = "train" if "path" in columns else None
        if default_word is None and "split" not in columns:
            default_word = find_split_word(file.name)
    except ValueError as error:
        raise InputError(f"{file} line {number}: {error}") from error
    # A table of one's own videos may have a column of this name, with any content.
    at = columns.index("is_cc") if "is_cc" in columns and "path" not in columns else None
    for number, fields in records:
        try:
            clip, word = parse_record(columns, fields, default_word)
            is_cc = None if at is None else parse_is_cc(fields[at])
        except ValueError as error:
            raise InputError(f"{file} line {number}: {error}") from error
        yield AnnotationRow(clip, word, file, number, is_cc)


def read_json(file: Path) -> Iterator[AnnotationRow]:
    """Yield the rows of DeepMind's JSON, an object of entries by YouTube id."""
    text = "".join(read_lines(file))
    if not text.strip():
        raise InputError(f"{file} is empty; expected a JSON object of entries by YouTube id")
    try:
        entries = parse_json(text, json.JSONDecoder(object_pairs_hook=build_object))
    except ValueError as error:
        raise InputError(f"{file}: not a usable JSON document ({error})") from error
    if not isinstance(entries, dict):
        raise InputError(f"{file}: expected a JSON object of entries by YouTube id")
    for key, entry in entries.items():
        try:
            clip, word = parse_entry(key, entry, file.name)
        except ValueError as error:
            raise InputError(f"{file} entry {key!r:.120}: {error}") from error
        yield AnnotationRow(clip, word, file, key)


def build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, but refuse a key that occurs twice instead of dropping one."""
    document: dict[str, Any] = {}
    for key, value in pairs:
        if key in document:
            raise ValueError(f"key {key!r} occurs twice")
        document[key] = value
    return document
