"""Videos become a published dataset with results on its card, each step by its own command."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import clip_kinetics700
from tests.support.datasets.builds import run_cli_process
from tests.support.hub.publishing import REPOSITORY, expect_tree, run_hub
from tests.support.kinetics.miniature import MiniKinetics
from tests.support.processes.checkout import SOURCE_PATHS

LOAD = """
import sys
from datasets import load_dataset
print({split: len(rows) for split, rows in load_dataset(sys.argv[1]).items()})
"""


@pytest.mark.slow
def test_from_videos_to_a_published_dataset(
    tmp_path: Path, mini_kinetics: MiniKinetics, whole_clip: Path
) -> None:
    """What was encoded is evaluated, described with its results, published, verified and loaded."""
    output, prompts = tmp_path / "dataset", tmp_path / "prompts.txt"
    prompts.write_text("a photo of {}.\n", encoding="utf-8")
    results = [
        tmp_path / f"{name}.json" for name in ("zero-shot", "card", "mean-pooled", "attentive")
    ]
    probe = ("evaluate", "linear-probe", output, "--json")
    commands: list[list[str | Path]] = [
        ["build", "--annotations", mini_kinetics.annotations, "--videos", mini_kinetics.videos,
         "--output", output, "--model", whole_clip, "--dtype", "float32"],
        ["embed-classes", output, "--model", whole_clip, "--prompts", prompts],
        # No --model is named: the published texts are enough.
        ["evaluate", "zero-shot", output, "--prompts", prompts, "--json", results[0]],
        [*probe, results[1]],
        [*probe, results[2], "--protocol", "mean-pooled"],
        ["evaluate", "attentive-probe", output, "--json", results[3]],
        ["search", output, "yoga", "--model", whole_clip, "--top", "1"],
        ["card", output, *(word for file in results for word in ("--evaluation", file))],
        ["verify", output],
    ]  # fmt: skip
    for command in commands:
        outcome = run_cli_process(*command)
        assert outcome.returncode == 0, outcome.stderr
    check_results(output, results)
    with run_hub(tmp_path / "server") as hub:
        outcome = hub.push(output, REPOSITORY)
        assert outcome.returncode == 0, outcome.stderr
        tree = hub.read_tree()
        del tree[".gitattributes"]
        assert tree == expect_tree(output)
        assert {"class_text_embeddings.npz", "figures/class_balance.png"} <= tree.keys()
        environment = hub.environment(xet=False)
        again = tmp_path / "again.json"
        words = ("--prompts", prompts, "--json", again)
        for outcome in (
            run_cli_process("verify", REPOSITORY, **environment),
            run_cli_process("evaluate", "zero-shot", REPOSITORY, *words, **environment),
        ):
            assert outcome.returncode == 0, outcome.stderr
        here, there = (json.loads(file.read_text()) for file in (results[0], again))
        assert there["dataset"]["source"] == REPOSITORY
        for name in ("top1", "top5", "interval", "per_class", "confused"):
            assert here[name] == there[name]
        loaded = subprocess.run(
            [sys.executable, "-c", LOAD, REPOSITORY],
            env={**os.environ, "PYTHONPATH": SOURCE_PATHS, **environment},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert "'validation': 5" in loaded.stdout


def check_results(output: Path, results: list[Path]) -> None:
    """Check that zero-shot is what numpy makes of the published texts, and the card what it was."""
    document = json.loads(results[0].read_text())
    assert document["parameters"]["class_texts"] == "published"
    assert document["parameters"]["family"] == "same weights"
    texts = clip_kinetics700.class_texts(output)
    samples = list(clip_kinetics700.open(output).splits["validation"])
    best = [int(clip_kinetics700.zero_shot(s.embeddings, texts).argmax()) for s in samples]
    right = [label == sample.label_id for label, sample in zip(best, samples, strict=True)]
    assert document["top1"] == pytest.approx(np.mean(right))
    assert document["clips"]["counted"] == len(samples) == 5
    card = (output / "README.md").read_text(encoding="utf-8")
    for file in results:
        stated = json.loads(file.read_text())
        row = rf"\| {stated['task']} \| {stated['protocol']} \|.*\| {stated['top1']:.3f} \["
        assert re.search(row, card)
