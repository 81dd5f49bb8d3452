"""This benchmark measures what evaluating and searching Kinetics-700 takes, in time and memory.

Run as `python -m benchmarks.evaluation [--samples 634987] [--rows 33966,134122,536489]
[--card-rows 2000,8000] [--directory DIR] [--json FILE]`. For zero-shot and search it writes 8.5 GB
of generated tars with random frames, which are deleted again unless a directory is given, and of
which the attentive probe and the training example take a pass; for the linear probes it makes
features around a direction for each class. Each task runs in a process of its own.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.full_size import write_full_size
from benchmarks.full_size_tasks import read_peak_mib
from benchmarks.server import ENVIRONMENT
from benchmarks.synthetic import COUNTS
from benchmarks.timing import WIDTH, write_json
from clip_kinetics700.schema import MANIFEST_NAME
from clip_kinetics700_builder.types import Float32Array

N_CLASSES = 700
FEATURE_WIDTH = 512
# Length of the mean of all features; CLIP's embeddings of pictures have about this one.
COMMON = 0.8
# Length of a class's direction, against noise of length 1 within the class.
SEPARATION = 0.12
ROWS_AT_A_TIME = 8192
# Length of embeddings as CLIP gives them, which the card's protocol does not normalise.
RAW_LENGTH = np.float32(10)


def main() -> int:
    """Write, measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=sum(COUNTS.values()))
    parser.add_argument("--rows", default="33966,134122,536489")
    parser.add_argument("--card-rows", default="2000,8000")
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--task", nargs=2, metavar=("NAME", "ARGUMENT"))
    arguments = parser.parse_args()
    if arguments.task:
        name, argument = arguments.task
        document = run_here(TASKS[name], argument)
        sys.stdout.write(json.dumps(document))
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found: list[dict[str, Any]] = []
    with ExitStack() as stack:
        directory = arguments.directory
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "dataset"
        if arguments.samples and not (directory / MANIFEST_NAME).is_file():
            write_full_size(directory, arguments.samples)
        names = SOURCE_TASKS if arguments.samples else ()
        found += [run_task(name, str(directory)) for name in names]
    for name, rows in (("mean-pooled", arguments.rows), ("card", arguments.card_rows)):
        found += [run_task(name, count) for count in rows.split(",") if count]
    print_tasks(found)
    write_json(arguments.json, found)
    return 0


def run_here(task: Callable[[str], dict[str, Any]], argument: str) -> dict[str, Any]:
    """Run a task in this process; return its figures, seconds and peak memory."""
    begin = time.perf_counter()
    document = task(argument)
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "peak_mib": read_peak_mib(), **document}


def run_task(name: str, argument: str) -> dict[str, Any]:
    """Run a task in a process of its own and return its figures."""
    command = [sys.executable, "-m", "benchmarks.evaluation", "--task", name, argument]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    print(f"{name} {argument}: {done.stdout}", file=sys.stderr)
    what = argument if argument.isdecimal() else ""
    return {"task": name, "rows": what, **json.loads(done.stdout)}


def evaluate_validation(source: str) -> dict[str, Any]:
    """Evaluate validation with random texts that are published beside it, as a user does."""
    from clip_kinetics700.texts import ClassTexts, normalize_rows
    from clip_kinetics700_builder.config import EvaluationConfig, SourceConfig, ZeroShotConfig
    from clip_kinetics700_builder.dataset.manifest import read_manifest
    from clip_kinetics700_builder.evaluate.class_texts import SAME_WEIGHTS, publish, read_prompts
    from clip_kinetics700_builder.evaluate.zero_shot import evaluate_zero_shot

    manifest = read_manifest(Path(source))
    if manifest is None:
        raise SystemExit(f"{source}: no dataset")
    random = np.random.default_rng(0).standard_normal((N_CLASSES, FEATURE_WIDTH))
    texts = ClassTexts(
        tuple(manifest.class_names or ()),
        normalize_rows(random),
        read_prompts(None),
        "random",
        "",
        SAME_WEIGHTS,
    )
    publish(Path(source), manifest, texts)
    config = EvaluationConfig(source=SourceConfig(source=source))
    begin = time.perf_counter()
    result = evaluate_zero_shot(ZeroShotConfig(evaluation=config)).result
    return {
        "seconds": time.perf_counter() - begin,
        "clips": result.counted,
        "top1": result.top1.value,
    }


def read_train(source: str) -> dict[str, Any]:
    """Read the pooled features of train, what a probe does before it learns."""
    from clip_kinetics700_builder.config import EvaluationConfig, SourceConfig
    from clip_kinetics700_builder.evaluate.clips import open_evaluation
    from clip_kinetics700_builder.evaluate.linear_probe import read_features

    config = EvaluationConfig(source=SourceConfig(source=source))
    features = read_features(open_evaluation(config, "train"), is_card=False)
    return {"clips": len(features.labels)}


def search_all(source: str) -> dict[str, Any]:
    """Load all frames and search them for one vector and for eight, as random as the frames."""
    import clip_kinetics700
    from clip_kinetics700_builder.evaluate.search import load_frames, search_frames

    begin = time.perf_counter()
    store = load_frames(clip_kinetics700.open(source))
    load_seconds = time.perf_counter() - begin
    vectors = np.random.default_rng(0).standard_normal((8, FEATURE_WIDTH)).astype(np.float32)
    turns = []
    for count in (1, 1, 1, 8):
        begin = time.perf_counter()
        search_frames(store, vectors[:count], top=20)
        turns.append(time.perf_counter() - begin)
    return {
        "clips": len(store.begins),
        "frames": len(store.frames),
        "load_seconds": load_seconds,
        "search_seconds": sorted(turns[:3])[1],
        "search_8_seconds": turns[3],
    }


def train_attentive(source: str) -> dict[str, Any]:
    """Take one pass of the attentive probe over train, after the reading that looks at its frames.

    Seconds are of the pass alone, and so of one of the epochs.
    """
    from clip_kinetics700_builder.config import EvaluationConfig, SourceConfig
    from clip_kinetics700_builder.evaluate.attentive_probe import (
        FramePreparation,
        survey_train,
        train_probes,
    )
    from clip_kinetics700_builder.evaluate.clips import open_evaluation

    opened = open_evaluation(EvaluationConfig(source=SourceConfig(source=source)), "train")
    begin = time.perf_counter()
    train = survey_train(opened)
    survey_seconds = time.perf_counter() - begin
    begin = time.perf_counter()
    train_probes(opened, train.places, FramePreparation(train.mean, train.scale), n_epochs=1)
    seconds = time.perf_counter() - begin
    return describe_pass(len(train.labels), seconds) | {"survey_seconds": survey_seconds}


def train_example(source: str) -> dict[str, Any]:
    """Take one epoch of the example with its defaults, counting in validation included."""
    import clip_kinetics700
    from examples.contrastive_aggregator import main

    with tempfile.TemporaryDirectory() as output:
        begin = time.perf_counter()
        main(["--data", source, "--output", output, "--epochs", "1"])
        seconds = time.perf_counter() - begin
    return describe_pass(len(clip_kinetics700.open(source).select("train")), seconds)


def describe_pass(n_clips: int, seconds: float) -> dict[str, Any]:
    """Return what a pass over so many clips took, and minutes for all of Kinetics-700's train."""
    minutes = seconds / n_clips * COUNTS["train"] / 60
    return {"seconds": seconds, "clips": n_clips, "full_size_minutes": minutes}


def make_features(n_rows: int, seed: int) -> tuple[Float32Array, Any]:
    """Return rows of length 1 around a direction of their class, with correlated columns."""
    shape, rng = np.random.default_rng(0), np.random.default_rng(seed)
    spectrum = np.arange(1, FEATURE_WIDTH + 1) ** -0.5
    spectrum /= np.linalg.norm(spectrum)
    rotation = np.linalg.qr(shape.standard_normal((FEATURE_WIDTH, FEATURE_WIDTH)))[0]
    axes = (spectrum[:, None] * rotation).astype(np.float32)
    mean = shape.standard_normal(FEATURE_WIDTH)
    mean *= COMMON / np.sqrt(1 - COMMON**2) / np.linalg.norm(mean)
    centers = SEPARATION * shape.standard_normal((N_CLASSES, FEATURE_WIDTH), dtype=np.float32)
    labels = rng.integers(0, N_CLASSES, n_rows)
    rows = np.empty((n_rows, FEATURE_WIDTH), np.float32)
    for begin in range(0, n_rows, ROWS_AT_A_TIME):
        piece = rows[begin : begin + ROWS_AT_A_TIME]
        noise = rng.standard_normal(piece.shape, dtype=np.float32)
        piece[:] = (centers[labels[begin : begin + len(piece)]] + noise) @ axes + mean
        piece /= np.linalg.norm(piece, axis=1, keepdims=True)
    return rows, labels


def train_probe(protocol: str, n_rows: int) -> dict[str, Any]:
    """Train a probe and count on as many rows as Kinetics-700 has in validation."""
    from clip_kinetics700_builder.evaluate.linear_probe import (
        Features,
        train_card,
        train_mean_pooled,
    )

    rows, labels = make_features(n_rows, seed=1)
    others, truth = make_features(min(n_rows, COUNTS["validation"]), seed=2)
    if protocol == "card":
        rows *= RAW_LENGTH
        others *= RAW_LENGTH
    begin = time.perf_counter()
    if protocol == "card":
        score, parameters = train_card(Features(rows, labels), N_CLASSES)
    else:
        score, parameters = train_mean_pooled(
            Features(rows, labels), N_CLASSES, n_held_out=n_rows // 10
        )
    seconds = time.perf_counter() - begin
    chosen: dict[str, Any] = {
        name: parameters[name] for name in ("c", "passes", "iterations") if name in parameters
    }
    pieces = range(0, len(truth), ROWS_AT_A_TIME)
    best = [score(others[begin : begin + ROWS_AT_A_TIME]).argmax(axis=1) for begin in pieces]
    top1 = float((np.concatenate(best) == truth).mean())
    return {"seconds": seconds, "clips": n_rows, "top1": top1, **chosen}


def print_tasks(found: list[dict[str, Any]]) -> None:
    """Print what every task took."""
    table = Table("task")
    for name in ("clips", "seconds", "peak RSS", "what else"):
        table.add_column(name, justify="right")
    for row in found:
        known = ("task", "rows", "clips", "seconds", "peak_mib")
        more = ", ".join(f"{k} {v:.4g}" for k, v in row.items() if k not in known)
        peak = "unknown" if row["peak_mib"] is None else f"{row['peak_mib']:,.0f} MiB"
        table.add_row(row["task"], f"{row['clips']:,}", f"{row['seconds']:.1f}", peak, more)
    Console(width=WIDTH).print(table)


# The example compares with the texts that zero-shot publishes.
SOURCE_TASKS = ("zero-shot", "read-train", "search", "attentive", "example")
TASKS: dict[str, Callable[[str], dict[str, Any]]] = {
    "zero-shot": evaluate_validation,
    "read-train": read_train,
    "search": search_all,
    "attentive": train_attentive,
    "example": train_example,
    "mean-pooled": lambda rows: train_probe("mean-pooled", int(rows)),
    "card": lambda rows: train_probe("card", int(rows)),
}

if __name__ == "__main__":
    sys.exit(main())
