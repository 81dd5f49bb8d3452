"""One file of samples -> its rows in order: a sample, or what is damaged there and whose it was.

The readers of `clip_kinetics700` raise damage or pass over it; here it is a row like any other,
because `convert` loses none, and `info` counts it.
"""

import json
import posixpath
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np

from builder.types import Clip
from clip_kinetics700.damage import DamageError
from clip_kinetics700.index import scan_loose
from clip_kinetics700.npy import encode_npy
from clip_kinetics700.schema import Sample, decode_sample
from clip_kinetics700.shards import decode_members, group_members, tar_stem
from clip_kinetics700.tars import Member, open_tar, read_members

Check: TypeAlias = Callable[[Sample], str | None]
"""Returns what is wrong with a sample that could be read, or None."""
# Stands in for an array that cannot be read, so that the rest of its sample can.
NO_FRAMES = encode_npy(np.empty((0, 1), np.float16))


class Damage(NamedTuple):
    """A row that cannot be read, and whose it is."""

    error: DamageError
    clip: Clip
    """What can be told of it; at least its split, and its key in place of the video's id."""


Row: TypeAlias = Sample | Damage


def scan_tar(path: str, split: str, check: Check) -> Iterator[Row]:
    """Yield the rows of one tar; where it is damaged itself, that is its last row."""
    last = None
    try:
        with open_tar(path) as stream:
            for key, members in group_members(read_members(stream)):
                last = key
                yield decode_row(path, split, key, members, check)
    except ValueError as error:
        after = "" if last is None else f", after sample {last}"
        damage = DamageError(path, None, None, f"{error}{after}")
        yield lost_file(damage, split, tar_stem(path))


def decode_row(
    path: str, split: str, key: str, members: list[tuple[str, Member]], check: Check
) -> Row:
    """Return the row of one run of members."""
    offset = dict(members).get("npy", members[0][1]).offset
    try:
        sample = decode_members(key, members).sample
    except ValueError as error:
        rest = {extension: member.data for extension, member in members}
        return Damage(name_damage(path, key, offset, error), guess_clip(split, key, rest))
    fault = check(sample)
    if fault is None:
        return sample
    return Damage(name_damage(path, key, offset, fault), clip_of_sample(sample, split))


def guess_clip(split: str, key: str, members: dict[str, bytes | memoryview]) -> Clip:
    """Return whose a damaged sample is, where its text and its json still tell."""
    try:
        document = json.loads(str(members.get("json", b"{}"), "utf-8"))
        # These are as many as the frames that are not there.
        document.pop("timestamps", None)
        rest = {**members, "npy": NO_FRAMES, "json": json.dumps(document).encode()}
        return clip_of_sample(decode_sample(key, rest), split)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return Clip(split, key, None, None, None, "")


def scan_triple(path: str, split: str, check: Check) -> Iterator[Row]:
    """Yield the one row of a `NAME.npy` with what lies beside it."""
    try:
        for sample, _, _ in scan_loose(path, on_error="raise"):
            fault = check(sample)
            if fault is None:
                yield sample
            else:
                damage = name_damage(path, sample.key, None, fault)
                yield Damage(damage, clip_of_sample(sample, split))
    except DamageError as error:
        key = error.key or posixpath.basename(path)
        yield lost_file(error, split, key)


def name_damage(path: str, key: str, offset: int | None, reason: object) -> DamageError:
    """Return the damage of one sample."""
    return DamageError(path, key, offset, str(reason).removeprefix(f"sample {key}: "))


def clip_of_sample(sample: Sample, split: str) -> Clip:
    """Return whose a sample is."""
    return Clip(
        split=split,
        video_id=sample.youtube_id or sample.key,
        time_start=sample.time_start,
        time_end=sample.time_end,
        label=sample.caption or None,
        caption=sample.caption,
    )


def lost_file(error: DamageError, split: str, name: str) -> Damage:
    """Return the row that stands for a file, or for the rest of one, that cannot be read."""
    return Damage(error, Clip(split, name, None, None, None, ""))
