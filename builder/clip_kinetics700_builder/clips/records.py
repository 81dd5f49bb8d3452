"""Turns one record of an annotation file into a clip and the word that the file uses for its split.

Whatever is wrong is a `ValueError`; whoever reads the file adds the file and the line.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from clip_kinetics700.schema import SPLIT_OF_WORD, normalize_split
from clip_kinetics700_builder.types import Clip

VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")
# A clip's file name has room for six digits; times in milliseconds have more.
WHOLE_SECONDS = re.compile(r"([0-9]{1,6})(?:\.0*)?")
KINETICS_COLUMNS = ("youtube_id", "time_start", "time_end")
IS_CC_OF_WORD = {"": None, "0": False, "false": False, "1": True, "true": True}


def check_columns(columns: Sequence[str]) -> None:
    """Refuse the header of a table that is neither Kinetics' nor a plain one."""
    if len(set(columns)) < len(columns):
        raise ValueError(f"a column occurs twice in the header: {columns!r:.120}")
    if "path" not in columns and not set(KINETICS_COLUMNS) <= set(columns):
        raise ValueError(
            f"unknown header {columns!r:.120}; a Kinetics list has {', '.join(KINETICS_COLUMNS)} "
            "and may have label, split, is_cc; a table of one's own videos has path "
            "and may have caption, label, split and others"
        )


def find_split_word(file_name: str) -> str:
    """Return the split word in a file's name: `test` of `kinetics700_test.csv`."""
    tokens = re.findall(r"holdout_test|[a-z]+", file_name.lower())
    words = [str(token) for token in tokens if token in SPLIT_OF_WORD]
    if len({normalize_split(word) for word in words}) != 1:
        raise ValueError(
            "no split is given, neither here nor in the file's name, "
            f"where one of {', '.join(SPLIT_OF_WORD)} would name it"
        )
    return words[-1]


def parse_record(
    columns: Sequence[str], fields: Sequence[str], default_word: str | None
) -> tuple[Clip, str]:
    """Return the clip and the split word of one record of a table."""
    if len(fields) != len(columns):
        raise ValueError(f"{len(fields)} fields where the header has {len(columns)}")
    cells = dict(zip(columns, fields, strict=True))
    word = cells.get("split", default_word or "").strip().lower()
    if "path" in cells:
        return make_own_clip(cells, word), word
    times = (cells["time_start"], cells["time_end"])
    return make_kinetics_clip(cells["youtube_id"], times, cells.get("label"), word), word


def make_kinetics_clip(
    video_id: str, times: tuple[object, object], label: object, word: str
) -> Clip:
    """Return the clip of a Kinetics row of any format."""
    if VIDEO_ID.fullmatch(video_id) is None:
        raise ValueError(f"{video_id!r} is no YouTube id, which is 11 of A-Z a-z 0-9 _ -")
    start, end = parse_seconds("time_start", times[0]), parse_seconds("time_end", times[1])
    if end <= start:
        raise ValueError(f"time_end {end} is not after time_start {start}")
    if not isinstance(label, str | None):
        raise ValueError(f"the label must be a string, got {label!r:.120}")
    name = (label or "").strip()
    name.encode("utf-8")  # JSON can hold halves of characters, which no file can
    return Clip(normalize_split(word), video_id, start, end, name or None, caption=name)


def parse_seconds(column: str, value: object) -> int:
    """Return whole seconds, such as `84` or `84.0`; refuse `84.5`, `-1` and `nan`."""
    match = WHOLE_SECONDS.fullmatch(str(value).strip())
    if match is None:
        raise ValueError(f"{column} must be whole seconds from 0 to 999999, got {value!r:.120}")
    return int(match[1])


def parse_is_cc(text: str) -> bool | None:
    """Return whether a video is under a Creative Commons licence; None for an empty cell."""
    word = text.strip().lower()
    if word not in IS_CC_OF_WORD:
        raise ValueError(f"is_cc must be 0, 1, false, true or empty, got {text!r:.120}")
    return IS_CC_OF_WORD[word]


def make_own_clip(cells: Mapping[str, str], word: str) -> Clip:
    """Return the clip of a row of a plain table."""
    path = PurePosixPath(cells["path"])
    if not path.stem or "\0" in cells["path"]:
        raise ValueError(f"path {cells['path']!r} names no file")
    label = cells.get("label", "").strip() or None
    known = ("caption", "label", "split")
    others = {column: text for column, text in cells.items() if column not in known}
    return Clip(
        split=normalize_split(word),
        video_id=path.stem,
        time_start=None,
        time_end=None,
        label=label,
        # A caption is one line on disk.
        caption=" ".join((cells.get("caption") or label or "").splitlines()),
        path=str(path),
        extra=json.dumps(others, ensure_ascii=False, sort_keys=True),
    )


def parse_entry(key: str, entry: Any, file_name: str) -> tuple[Clip, str]:
    """Return the clip and the split word of one JSON entry."""
    match entry:
        case {"annotations": {"segment": [start, end]} as annotations}:
            word = str(entry.get("subset") or find_split_word(file_name)).strip().lower()
            return make_kinetics_clip(key, (start, end), annotations.get("label"), word), word
    raise ValueError(f'expected {{"annotations": {{"segment": [start, end]}}}}, got {entry!r:.120}')
