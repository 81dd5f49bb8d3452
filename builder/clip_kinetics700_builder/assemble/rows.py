"""Whatever is assembled gives its results as `Rows`; here they become samples and failed rows.

A result is what encoding made of a clip, or a sample of another dataset that is whole already.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from clip_kinetics700.schema import (
    KEY_NAME,
    Float16Array,
    Sample,
    find_not_finite,
    parse_json,
    to_float16,
)
from clip_kinetics700_builder.dataset.totals import Totals
from clip_kinetics700_builder.parts.canary import Canary
from clip_kinetics700_builder.types import Clip, EncodedClip, Failure

MAX_INTEGER = 2**63 - 1
MAX_FLOAT = sys.float_info.max

Result: TypeAlias = tuple[Clip, EncodedClip | Failure] | Sample
"""What became of one row: its embeddings or its failure; or a sample that is whole already."""


class Rows(Protocol):
    """What can be assembled: results of a plan, in its order."""

    @property
    def configuration(self) -> Mapping[str, Any]:
        """What the manifest says the embeddings were made with."""

    @property
    def class_names(self) -> list[str] | None:
        """Names by label id; None for videos without classes."""

    @property
    def canary(self) -> Canary | None:
        """Embeddings of the package's test video, where it was computed."""

    @property
    def width(self) -> int:
        """Columns of the embeddings."""

    @property
    def totals(self) -> Mapping[str, Totals]:
        """Counts of every split, known before the first result is read."""

    @property
    def fingerprint(self) -> str:
        """Digest of what decides the samples: other ones never have the same."""

    def results(self, split: str) -> Iterator[Result]:
        """Yield every row of a split in plan order, the same ones whenever it is called."""


def number_results(rows: Rows, split: str, *, first: int) -> Iterator[Sample | dict[str, Any]]:
    """Yield the samples of a split under their keys, and the failed rows as their table has them.

    `first` is the number of the split's first sample in the whole dataset.
    """
    number = first
    label_ids = {name: label_id for label_id, name in enumerate(rows.class_names or [])}
    for result in rows.results(split):
        key = KEY_NAME.format(number)
        if isinstance(result, Sample):
            is_same = result.key == key
            extra = result.extra if is_same else add_to_extra(result.extra, "key", result.key)
            yield replace(result, key=key, extra=extra)
        else:
            clip, encoded = result
            if isinstance(encoded, Failure):
                yield failure_row(clip, encoded)
                continue
            yield make_sample(key, clip, encoded, label_ids)
        number += 1


def make_sample(key: str, clip: Clip, encoded: EncodedClip, label_ids: Mapping[str, int]) -> Sample:
    """Join what the annotations and the encoder say of one clip."""
    info, extra = encoded.info, clip.extra
    if encoded.damaged:
        extra = add_to_extra(extra, "damaged_frames", encoded.damaged)
    return Sample(
        key=key,
        embeddings=encoded.embeddings,
        caption=clip.caption,
        youtube_id=clip.video_id,
        time_start=clip.time_start,
        time_end=clip.time_end,
        label_id=None if clip.label is None else label_ids.get(clip.label),
        timestamps=encoded.timestamps,
        duration=None if info is None else info.duration_seconds,
        fps=None if info is None else info.frames_per_second,
        width=None if info is None else info.width,
        height=None if info is None else info.height,
        extra=extra,
    )


def add_to_extra(extra: str | None, name: str, value: Any) -> str:
    """Return the JSON object `extra` with a value of ours, before those that were there.

    One that holds that name already, as of an earlier conversion, or that is no JSON object is kept
    whole below the name `extra`.
    """
    before: Any = {}
    if extra is not None:
        try:
            before = parse_json(extra)
        except ValueError:
            before = extra
    if not isinstance(before, dict) or name in before:
        before = {"extra": before}
    document = {name: value, **before}
    text = json.dumps(document, ensure_ascii=False)
    # A name in a tar that is no UTF-8 stands as surrogates, which only escapes can spell.
    return text if is_utf8(text) else json.dumps(document)


def is_utf8(text: str) -> bool:
    """Tell whether a text can be written as UTF-8: it holds no half characters."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def judge_array(array: npt.NDArray[Any]) -> Float16Array | tuple[str, str]:
    """Return an array as float16 embeddings, or the reason and the message of why it is none."""
    if array.ndim != 2 or array.dtype.kind != "f":
        text = f"the array has shape {array.shape} and dtype {array.dtype}, not (n, width) floats"
        return "unreadable", text
    if len(array) == 0:
        return "no_frames", "the array has 0 rows"
    halves = to_float16(array)
    if len(find_not_finite(halves)):
        return "unreadable", "the array holds values that are not finite in float16"
    return halves


def find_misfit(sample: Sample) -> str | None:
    """Return which value of a sample no column of ours can hold; foreign json holds anything."""
    for name in ("caption", "youtube_id", "extra"):
        text: Any = getattr(sample, name)
        if text is not None and not (isinstance(text, str) and is_utf8(text)):
            return f"{name} is {text!r:.80}, no text"
    for name in ("time_start", "time_end", "label_id", "width", "height"):
        number = getattr(sample, name)
        if not is_integer(number):
            return f"{name} is {number!r:.80}, no 64-bit integer"
    for name in ("duration", "fps"):
        number = getattr(sample, name)
        if number is not None and not (type(number) in (int, float) and abs(number) <= MAX_FLOAT):
            return f"{name} is {number!r:.80}, no finite number"
    if sample.timestamps is not None and not np.isfinite(sample.timestamps).all():
        return "timestamps are not finite"
    return None


def is_integer(number: int | None) -> bool:
    """Tell whether a column of integers can hold a value: null, or 64 bits and no truth value."""
    return number is None or (type(number) is int and abs(number) <= MAX_INTEGER)


def failure_row(clip: Clip, failure: Failure) -> dict[str, Any]:
    """Return a row of failures.parquet."""
    return {
        "split": clip.split,
        "youtube_id": clip.video_id,
        "time_start": clip.time_start,
        "time_end": clip.time_end,
        "label": clip.label,
        "stage": failure.stage,
        "reason": failure.reason,
        "message": failure.message,
    }
