"""The result of an evaluation: what `evaluate --json` writes and the card reads.

A card must not show a figure of other data, so each result names the dataset it was measured on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clip_kinetics700.schema import SPLITS, parse_json
from clip_kinetics700_builder.dataset.manifest import Manifest
from clip_kinetics700_builder.types import InputError

RESULT_FORMAT = "clip-kinetics700-evaluation/1"
TASKS = ("zero-shot", "linear-probe", "attentive-probe")
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
class ClassScore:
    """How well the clips of one class are recognised."""

    name: str
    clips: int
    top1: float
    top5: float


@dataclass(frozen=True, slots=True)
class ConfusedPair:
    """How many clips of one class were taken for another one."""

    true: str
    predicted: str
    clips: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """What an evaluation came to."""

    task: str
    """One of `TASKS`."""
    protocol: str
    split: str
    counted: int
    """Clips that count."""
    dropped: Mapping[str, int]
    """Clips that do not count, by reason."""
    model: str
    """Name of the text model or of the classifier."""
    model_sha256: str | None
    dataset: Mapping[str, str | None]
    """Source, revision and hashes of the dataset."""
    seed: int
    level: float
    """Level of the intervals, 0.95 for 95 %."""
    resamples: int
    """Resamples that the intervals were taken from."""
    top1: Metric
    top5: Metric
    mean: Metric
    parameters: Mapping[str, Any]
    """What else decides the figures."""
    classes: tuple[ClassScore, ...]
    """Classes that have clips, in the order of the class list."""
    confused: tuple[ConfusedPair, ...]
    """The most frequent pairs first."""
    versions: Mapping[str, str]
    """Versions of the libraries that computed."""

    def document(self) -> dict[str, Any]:
        """Return the result as JSON holds it."""
        metrics: dict[str, Metric] = {name: getattr(self, name) for name in METRICS}
        intervals = {name: [metric.low, metric.high] for name, metric in metrics.items()}
        return {
            "format": RESULT_FORMAT,
            "task": self.task,
            "protocol": self.protocol,
            "split": self.split,
            **{name: metric.value for name, metric in metrics.items()},
            "interval": {"level": self.level, "resamples": self.resamples, **intervals},
            "clips": {"counted": self.counted, "dropped": dict(self.dropped)},
            "model": {"id": self.model, "sha256": self.model_sha256},
            "dataset": dict(self.dataset),
            "seed": self.seed,
            "parameters": dict(self.parameters),
            "per_class": [asdict(score) for score in self.classes],
            "confused": [asdict(pair) for pair in self.confused],
            "versions": dict(self.versions),
        }


def read_results(paths: Sequence[Path], manifest: Manifest) -> list[EvaluationResult]:
    """Return the results in files, all of which must be of the dataset of this manifest.

    Raises:
        InputError: a file is none of ours, holds what cannot be, or is of other data.
    """
    return [read_result(path, manifest.data_sha256) for path in paths]


def read_result(path: Path, data_sha256: str) -> EvaluationResult:
    """Return the result in one file, which must be of this data."""
    try:
        document = parse_json(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: is no JSON") from error
    if not isinstance(document, dict) or document.get("format") != RESULT_FORMAT:
        raise InputError(f"{path}: is no result of format {RESULT_FORMAT}")
    try:
        result = parse_result(document)
        stated = result.dataset["data_sha256"]
    except KeyError as error:
        raise InputError(f"{path}: has no {error.args[0]}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: {error}") from error
    if stated != data_sha256:
        raise InputError(
            f"{path}: is of data with the sha256 {stated}, this dataset's is {data_sha256}"
        )
    return result


def parse_result(document: Mapping[str, Any]) -> EvaluationResult:
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
    clips, model, interval = document["clips"], document["model"], document["interval"]
    return EvaluationResult(
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
        dataset=dict(document["dataset"]),
        seed=parse_count(document["seed"], "seed"),
        level=parse_share(interval["level"], "interval.level"),
        resamples=parse_count(interval.get("resamples", 0), "interval.resamples"),
        **metrics,
        parameters=dict(document.get("parameters", {})),
        classes=tuple(ClassScore(**row) for row in document.get("per_class", ())),
        confused=tuple(map(parse_pair, document.get("confused", ()))),
        versions=dict(document.get("versions", {})),
    )


def parse_metric(document: Mapping[str, Any], name: str) -> Metric:
    """Return a metric with its interval."""
    low, high = (parse_share(end, f"interval.{name}") for end in document["interval"][name])
    if low > high:
        raise ValueError(f"interval.{name} is [{low}, {high}]; it must begin before it ends")
    return Metric(parse_share(document[name], name), low, high)


def parse_pair(pair: Mapping[str, Any]) -> ConfusedPair:
    """Return one pair of classes."""
    n_clips = parse_count(pair["clips"], "confused.clips")
    return ConfusedPair(str(pair["true"]), str(pair["predicted"]), n_clips)


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
