"""Results of evaluations in, as JSON files of `clip-kinetics700 evaluate`; checked ones out.

A card must not show a figure of other data: each result names the dataset that it was measured on.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_kinetics700.schema import SPLITS
from clip_kinetics700_builder.dataset.manifest import hash_data
from clip_kinetics700_builder.types import InputError

RESULT_FORMAT = "clip-kinetics700-evaluation/1"
TASKS = ("zero-shot", "linear-probe")
METRICS = ("top1", "top5", "mean")
# `mean` is (top1 + top5) / 2; files may round it.
TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Metric:
    """One share of clips, with its interval; all between 0 and 1."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Result:
    """What the card says of one evaluation."""

    task: str
    protocol: str
    split: str
    counted: int
    """Clips that count."""
    dropped: dict[str, int]
    """Clips that do not, by reason."""
    model: str
    model_sha256: str | None
    seed: int
    level: float
    """Of the intervals, 0.95 for 95 %."""
    top1: Metric
    top5: Metric
    mean: Metric
    confused: tuple[tuple[str, str, int], ...]
    """True class, predicted class, clips; the most frequent pairs first."""


def read_results(paths: Sequence[Path], manifest: Mapping[str, Any]) -> list[Result]:
    """Return the results of all files.

    Args:
        paths: of the files.
        manifest: of the dataset whose card will show them.

    Raises:
        InputError: a file is none of ours, holds what cannot be, or is of other data.
    """
    data_sha256 = hash_data(manifest)
    return [read_result(path, data_sha256) for path in paths]


def read_result(path: Path, data_sha256: str) -> Result:
    """Return the result in one file, which must be of this data."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON") from error
    if not isinstance(document, dict) or document.get("format") != RESULT_FORMAT:
        raise InputError(f"{path}: is no result of format {RESULT_FORMAT}")
    try:
        result = parse_result(document)
        stated = document["dataset"]["data_sha256"]
    except KeyError as error:
        raise InputError(f"{path}: has no {error.args[0]}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: {error}") from error
    if stated != data_sha256:
        raise InputError(
            f"{path}: is of data with the sha256 {stated}, this dataset's is {data_sha256}"
        )
    return result


def parse_result(document: Mapping[str, Any]) -> Result:
    """Return a result, every value of it where it must lie.

    Raises:
        KeyError, ValueError, TypeError, AttributeError: it does not, or is of another type.
    """
    if document["task"] not in TASKS:
        raise ValueError(f"task is {document['task']!r}, allowed are {', '.join(TASKS)}")
    if document["split"] not in SPLITS:
        raise ValueError(f"split is {document['split']!r}, allowed are {', '.join(SPLITS)}")
    metrics = {name: parse_metric(document, name) for name in METRICS}
    top1, top5, mean = (metrics[name].value for name in METRICS)
    if top1 > top5 or abs(mean - (top1 + top5) / 2) > TOLERANCE:
        raise ValueError(f"top1 {top1}, top5 {top5} and their mean {mean} do not fit each other")
    clips, model, pairs = document["clips"], document["model"], document.get("confused", [])
    return Result(
        task=document["task"],
        protocol=str(document["protocol"]),
        split=document["split"],
        counted=parse_count(clips["counted"], "clips.counted"),
        dropped={
            str(reason): parse_count(count, f"clips.dropped.{reason}")
            for reason, count in clips["dropped"].items()
        },
        model=str(model["id"]),
        model_sha256=None if model["sha256"] is None else str(model["sha256"]),
        seed=parse_count(document["seed"], "seed"),
        level=parse_share(document["interval"]["level"], "interval.level"),
        **metrics,
        confused=tuple(
            (
                str(pair["true"]),
                str(pair["predicted"]),
                parse_count(pair["clips"], "confused.clips"),
            )
            for pair in pairs
        ),
    )


def parse_metric(document: Mapping[str, Any], name: str) -> Metric:
    """Return a metric with its interval."""
    low, high = (parse_share(end, f"interval.{name}") for end in document["interval"][name])
    if low > high:
        raise ValueError(f"interval.{name} is [{low}, {high}]; it must begin before it ends")
    return Metric(parse_share(document[name], name), low, high)


def parse_share(value: Any, name: str) -> float:
    """Return a share between 0 and 1."""
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r:.80}, it must be between 0 and 1")
    return float(value)


def parse_count(value: Any, name: str) -> int:
    """Return a whole number that is not negative."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} is {value!r:.80}, it must be a whole number from 0 on")
    return value
