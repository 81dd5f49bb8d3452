"""Reads the samples of a tar, or of a loose file, and tells which tar belongs to which split.

Tars may be ours, upstream's or any other of WebDataset's form. Every way of reading tars goes
through here, so that damage is named once and never passed over.
"""

import csv
import io
import logging
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from .damage import DamageError, OnError, report_damage
from .remote import is_gzip_name, strip_query
from .schema import SPLIT_OF_WORD, SPLITS, Sample, decode_sample, normalize_split, split_member_name
from .states import FileStates
from .streams import MAX_TEXT_BYTES, open_stream, open_unpacked, read_if_there, read_whole
from .tars import BLOCK, ZERO_BLOCK, Member, read_members

logger = logging.getLogger(__name__)

TAR_SUFFIX = re.compile(r"\.(?:tar|tar\.gz|tgz)$", re.IGNORECASE)
SAMPLE_MEMBERS = frozenset({"npy", "json", "txt", "cap"})


class PlacedSample(NamedTuple):
    """A sample and where its array lies."""

    sample: Sample
    npy_offset: int
    """First byte of the `.npy` member in the tar (in what gzip holds, for a `.tar.gz`)."""
    npy_nbytes: int
    """Length of that member."""


class Damaged(NamedTuple):
    """A sample of a tar, or the rest of the tar, that cannot be read."""

    error: DamageError
    members: dict[str, bytes | memoryview]
    """What there is of the sample, by extension."""


def read_shard(path: str | os.PathLike[str], *, on_error: OnError = "raise") -> Iterator[Sample]:
    """Yield the samples of one tar in order, from a local path or any fsspec URL.

    Args:
        path: the tar.
        on_error: `raise` what is damaged, or `skip` it with a warning.

    Raises:
        DamageError: a sample or the tar itself is damaged or cut short.
    """
    return (placed.sample for placed in scan_shard(path, on_error=on_error))


def scan_shard(
    path: str | os.PathLike[str],
    *,
    on_error: OnError = "raise",
    name: str | None = None,
    states: FileStates | None = None,
) -> Iterator[PlacedSample]:
    """Yield the samples of one tar in order, each with the place of its array.

    Damage names the tar by its path or URL, or by a name of its own.
    """
    path = os.fspath(path)
    for found in scan_tar(path, path if name is None else name, states):
        if isinstance(found, Damaged):
            report_damage(found.error, on_error)
        else:
            yield found


def scan_tar(
    path: str, name: str, states: FileStates | None = None
) -> Iterator[PlacedSample | Damaged]:
    """Yield the samples of one tar in order, damage in its place: a damaged tar's is the last."""
    last = None
    try:
        with open_unpacked(path, states) as stream:
            for key, members in group_members(read_members(stream)):
                last = key
                try:
                    placed = decode_members(key, members)
                except ValueError as error:
                    offset = dict(members).get("npy", members[0][1]).offset
                    damage = DamageError(name, key, offset, str(error))
                    yield Damaged(damage, {kind: member.data for kind, member in members})
                else:
                    yield placed
    except ValueError as error:
        after = "" if last is None else f", after sample {last}"
        yield Damaged(DamageError(name, None, None, f"{error}{after}"), {})


def scan_loose(
    path: str, *, on_error: OnError, states: FileStates | None = None
) -> Iterator[PlacedSample]:
    """Yield the one sample of a `NAME.npy` with a `NAME.txt` and a `NAME.json` beside it."""
    stem, _ = posixpath.splitext(path)
    key = posixpath.basename(stem)
    try:
        members = {"npy": read_whole(path, states)}
        for extension in ("json", "txt", "cap"):
            data = read_if_there(f"{stem}.{extension}", at_most=MAX_TEXT_BYTES)
            if data is not None:
                members[extension] = data
        sample = decode_sample(key, members)
    except ValueError as error:
        report_damage(DamageError(path, key, None, str(error)), on_error)
        return
    yield PlacedSample(sample, 0, len(members["npy"]))


def group_members(members: Iterator[Member]) -> Iterator[tuple[str, list[tuple[str, Member]]]]:
    """Yield (key, [(extension, member), ...]) for consecutive members with one key.

    What belongs to no sample is passed over, such as a stray README, and so are the hidden files
    that macOS puts between all others.
    """

    def name_visible() -> Iterator[tuple[str, str, Member]]:
        for member in members:
            key, extension = split_member_name(member.name)
            if key and key[-1] != "/":
                yield key, extension, member

    for key, group in groupby(name_visible(), itemgetter(0)):
        same_key = [(extension, member) for _, extension, member in group]
        if not SAMPLE_MEMBERS.isdisjoint(dict(same_key)):
            yield key, same_key


def decode_members(key: str, members: list[tuple[str, Member]]) -> PlacedSample:
    """Return the sample of the members with one key."""
    by_extension = dict(members)
    if len(by_extension) < len(members):
        extensions = [extension for extension, _ in members]
        twice = next(name for name in extensions if extensions.count(name) > 1)
        raise ValueError(f"two members `.{twice}`")
    sample = decode_sample(key, {extension: member.data for extension, member in members})
    npy = by_extension["npy"]
    return PlacedSample(sample, npy.offset, len(npy.data))


def is_tar(name: str) -> bool:
    """Tell by its name whether a file is a tar, compressed or not."""
    return TAR_SUFFIX.search(strip_query(name)) is not None


def is_empty_tar(path: str) -> bool:
    """Tell whether a tar begins with its end mark, as upstream's last one may."""
    with suppress(FileNotFoundError, ValueError), open_stream(path) as stream:
        return not is_gzip_name(path) and stream.read(BLOCK) == ZERO_BLOCK
    return False


def split_tars(tars: Sequence[str], splits_csv: str | None) -> dict[str, list[str]]:
    """Return the tars of each split, as their directories or else the text of `splits.csv` say.

    Raises:
        ValueError: neither says to which split a tar belongs.
    """
    words = [posixpath.basename(posixpath.dirname(tar)).lower() for tar in tars]
    if tars and all(word in SPLIT_OF_WORD for word in words):
        pairs = sorted(zip(words, tars, strict=True))
        return group_pairs((normalize_split(word), tar) for word, tar in pairs)
    if splits_csv is None:
        raise ValueError(
            "no splits.csv says which tar belongs to which split, "
            "and the tars lie in no directories named train, val or test"
        )
    return read_splits_csv(splits_csv, tars)


def read_splits_csv(text: str, tars: Sequence[str]) -> dict[str, list[str]]:
    """Return the tars of each split as the text of a `splits.csv` says, ours or upstream's.

    Upstream once wrote a literal `ds_{tar_count+i:06}` for every name; such rows take, in order,
    the tars that no row names.

    Raises:
        ValueError: a row is malformed, or names a tar that is not there or was named before.
    """
    tar_of_stem = {tar_stem(tar): tar for tar in tars}
    if len(tar_of_stem) < len(tars):
        raise ValueError("two tars have one name, so splits.csv cannot tell them apart")
    rows = _read_rows(text)
    if tars and not rows:
        raise ValueError("splits.csv names no tar")
    named = [tar_stem(value) for value, _ in rows if "{" not in value]
    unnamed = sorted(set(tar_of_stem) - set(named))
    if len(rows) - len(named) > len(unnamed):
        raise ValueError(f"splits.csv has {len(rows)} rows, but there are only {len(tars)} tars")
    left = iter(unnamed)
    pairs = []
    for value, split in rows:
        stem = next(left) if "{" in value else tar_stem(value)
        if stem not in tar_of_stem:
            raise ValueError(f"splits.csv names {value!r}, but it is missing or named before")
        pairs.append((split, tar_of_stem.pop(stem)))
    if tar_of_stem:
        logger.warning("splits.csv leaves out %s", ", ".join(sorted(tar_of_stem.values())))
    return group_pairs(pairs)


def tar_stem(name: str) -> str:
    """Return the name of a tar without directories and without `.tar` or `.tar.gz`."""
    return TAR_SUFFIX.sub("", posixpath.basename(strip_query(name.strip())))


def _read_rows(text: str) -> list[tuple[str, str]]:
    """Return (value, split) of each row; the header may come again in the middle."""
    rows = []
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=None))
    try:
        lines = list(reader)
    except csv.Error as error:
        raise ValueError(f"splits.csv, line {reader.line_num}: {error}") from error
    for line, row in enumerate(lines, 1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or cells[0].lower() == "tar_file":
            continue
        if len(cells) < 2:
            raise ValueError(f"splits.csv, line {line}: expected `tar_file,split`, got {row}")
        try:
            rows.append((cells[0], normalize_split(cells[1])))
        except ValueError as error:
            raise ValueError(f"splits.csv, line {line}: {error}") from error
    return rows


def group_pairs(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Group (split, tar) pairs by split, in the usual order of the splits, others behind them."""
    groups: dict[str, list[str]] = {split: [] for split in SPLITS}
    for split, tar in pairs:
        groups.setdefault(split, []).append(tar)
    return {split: group for split, group in groups.items() if group}
