"""These functions evaluate small datasets of labelled clips by the command line."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from clip_kinetics700 import Sample
from tests.support.datasets.builds import Outcome, run_cli
from tests.support.datasets.layouts import make_sample, write_dataset, write_index

NAMES = ("yoga", "zumba", "massaging person's head")
WIDTH = 512


def make_clips(count: int, seed: int = 0) -> list[Sample]:
    """Return clips of 0 to 3 random frames, of the three classes in turn."""
    rng, clips = np.random.default_rng(seed), []
    for number in range(count):
        frames = rng.standard_normal((number % 4, WIDTH)).astype(np.float16)
        clip = make_sample(number, width=WIDTH, n_frames=len(frames))
        label = number % len(NAMES)
        clips.append(replace(clip, embeddings=frames, caption=NAMES[label], label_id=label))
    return clips


def write_clips(directory: Path, validation: Sequence[Sample], test: Sequence[Sample] = ()) -> Path:
    """Write a dataset that has an index and says nothing of its model."""
    splits = {"validation": validation, **({"test": test} if test else {})}
    return write_index(write_dataset(directory, splits, class_names=NAMES, parquet=False))


def evaluate(source: Path | str, model: Path, *words: str | Path) -> Outcome:
    """Run a zero-shot evaluation with the package's prompts."""
    return run_cli("evaluate", "zero-shot", source, "--model", model, "--quiet", *words)


def assert_refused(outcome: Outcome, message: str) -> None:
    """Check that a command ended in one line and with exit code 2."""
    assert outcome.returncode == 2
    assert len(outcome.stderr.strip().splitlines()) == 1
    assert message in outcome.stderr


def write_prompt(directory: Path) -> Path:
    """Write a file of one prompt, the name alone."""
    (directory / "prompts.txt").write_text("{}\n")
    return directory / "prompts.txt"
