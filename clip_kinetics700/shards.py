"""One embedding tar -> its samples in order; and which tar belongs to which split.

In: tars of ours, of upstream or of WebDataset; the text of `splits.csv`. Out: `Sample`s, splits.
Under every way of reading the tars, so damage is named here, once, and never passed over.
"""

import csv
import io
import logging
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence

from .schema import (
    SPLIT_OF_WORD,
    SPLITS,
    Sample,
    decode_sample,
    normalize_split,
    split_member_name,
)
from .tars import Member, open_tar, read_members

logger = logging.getLogger(__name__)

TAR_SUFFIX = re.compile(r"\.(?:tar|tar\.gz|tgz)$", re.IGNORECASE)
SAMPLE_MEMBERS = frozenset({"npy", "json", "txt", "cap"})


def read_shard(path: str | os.PathLike[str]) -> Iterator[Sample]:
    """Yield the samples of one tar in order, from a local path or any fsspec URL.

    Raises:
        ValueError: a sample or the tar itself is damaged or cut short: which, where and how.
    """
    path = os.fspath(path)
    key = ""
    with open_tar(path) as stream:
        try:
            for key, members in group_members(read_members(stream)):
                yield decode_sample(key, members)
        except ValueError as error:
            after = "" if f"sample {key}:" in str(error) or not key else f", after sample {key}"
            raise ValueError(f"{path}: {error}{after}") from error


def group_members(members: Iterator[Member]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, bytes by extension) for each run of members with one key.

    Runs that hold none of a sample's members, such as a stray README, are passed over.

    Raises:
        ValueError: a sample holds two members of one extension.
    """
    current = ""
    group: dict[str, bytes] = {}
    for member in members:
        key, extension = split_member_name(member.name)
        if key != current:
            if not SAMPLE_MEMBERS.isdisjoint(group):
                yield current, group
            current, group = key, {}
        if extension in group:
            raise ValueError(f"sample {key}: two members `.{extension}`")
        group[extension] = member.data
    if not SAMPLE_MEMBERS.isdisjoint(group):
        yield current, group


def is_tar(name: str) -> bool:
    """Tell by its name whether a file is a tar, compressed or not."""
    return TAR_SUFFIX.search(name) is not None


def split_tars(tars: Sequence[str], splits_csv: str | None) -> dict[str, list[str]]:
    """Return the tars of each split, by their directory or else by the text of `splits.csv`.

    Args:
        tars: paths of all tars, relative to the dataset's directory.
        splits_csv: the text of `splits.csv`, or None where there is none.

    Raises:
        ValueError: neither says to which split a tar belongs.
    """
    words = [posixpath.basename(posixpath.dirname(tar)).lower() for tar in tars]
    if tars and all(word in SPLIT_OF_WORD for word in words):
        pairs = sorted(zip(words, tars, strict=True))
        return _collect((normalize_split(word), tar) for word, tar in pairs)
    if splits_csv is None:
        raise ValueError(
            "no splits.csv says which tar belongs to which split, "
            "and the tars lie in no directories named train, val or test"
        )
    return read_splits_csv(splits_csv, tars)


def read_splits_csv(text: str, tars: Sequence[str]) -> dict[str, list[str]]:
    """Return the tars of each split by the text of a `splits.csv`, ours or upstream's.

    Upstream once wrote a literal `ds_{tar_count+i:06}` for every name; such rows take, in order,
    the tars that no row names.

    Raises:
        ValueError: a row is no row, names a tar that is not there, or one that was named before.
    """
    tar_of_stem = {tar_stem(tar): tar for tar in tars}
    if len(tar_of_stem) < len(tars):
        raise ValueError("two tars have one name, so splits.csv cannot tell them apart")
    rows = _read_rows(text)
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
    return _collect(pairs)


def tar_stem(name: str) -> str:
    """Return the name of a tar without directories and without `.tar` or `.tar.gz`."""
    return TAR_SUFFIX.sub("", posixpath.basename(name.strip()))


def _read_rows(text: str) -> list[tuple[str, str]]:
    """Return (value, split) of each row; the header may come again in the middle."""
    rows = []
    for line, row in enumerate(csv.reader(io.StringIO(text.removeprefix("\ufeff"))), 1):
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


def _collect(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Group (split, tar) pairs by split, in the usual order of the splits."""
    pairs = list(pairs)
    groups = {split: [tar for word, tar in pairs if word == split] for split in SPLITS}
    return {split: group for split, group in groups.items() if group}
