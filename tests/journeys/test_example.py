"""The training example does what it says."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clip_kinetics700.texts import ClassTexts, normalize_rows
from clip_kinetics700.training.collate import BatchRow, make_batch
from examples.contrastive_aggregator import MAX_TEXTS, Texts, main
from examples.ordered_clips import write_ordered_clips
from tests.support.processes.checkout import SOURCE_PATHS

# torch says so of the released torchdata.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")

CHANCE = 1 / 6
BASE = ("--epochs", "3", "--batch-size", "32")


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset whose classes only the order of the frames tells apart."""
    return write_ordered_clips(tmp_path_factory.mktemp("ordered"))


def run(data: Path, output: Path, *words: str | Path) -> dict[str, Any]:
    """Train in this process and return the last report."""
    assert main(["--data", str(data), "--output", str(output), *BASE, *map(str, words)]) == 0
    return read_report(output)


def run_ranks(data: Path, output: Path, *words: str) -> dict[str, Any]:
    """Train in two processes and return the last report."""
    command: list[str | Path] = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "-m", "examples.contrastive_aggregator", "--data", data, "--output", output, *BASE, *words,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": SOURCE_PATHS, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    return read_report(output)


def read_report(output: Path) -> dict[str, Any]:
    """Return the last report of a run."""
    return dict(json.loads((output / "reports.json").read_text())[-1])


def read_losses(output: Path) -> list[float]:
    """Return the loss of every step of a run."""
    return list(torch.load(output / "checkpoint.pt", weights_only=True)["losses"])


@pytest.mark.slow
def test_only_the_order_of_frames_tells_classes_apart(tmp_path: Path, ordered: Path) -> None:
    """Attention is 60 points above the mean of the frames, trained or not, which is at chance."""
    found = run(ordered, tmp_path / "transformer")
    trained_mean = run(ordered, tmp_path / "mean", "--aggregator", "mean")
    for mean in (found["mean_pooling_top1"], trained_mean["top1"]):
        assert abs(mean - CHANCE) <= 0.1
        assert found["top1"] >= mean + 0.6


@pytest.mark.slow
def test_random_labels_give_chance(tmp_path: Path, ordered: Path) -> None:
    """What was learned from labels that say nothing of the frames holds nowhere else."""
    found = run(ordered, tmp_path / "random", "--random-labels")
    assert abs(found["top1"] - CHANCE) <= 0.1


@pytest.mark.slow
def test_a_resumed_run_is_exact(tmp_path: Path, ordered: Path) -> None:
    """Stopped within an epoch, with workers or without, it has the losses of a whole run."""
    run(ordered, tmp_path / "whole")
    for workers in ("0", "2"):
        output = tmp_path / workers
        run(ordered, output, "--steps", "50", "--save-every", "20", "--workers", workers)
        assert len(read_losses(output)) == 50
        run(ordered, output, "--resume", "--workers", workers)
        assert read_losses(output) == read_losses(tmp_path / "whole")
    assert read_report(output) == read_report(tmp_path / "whole")


@pytest.mark.slow
def test_ranks_train_together(tmp_path: Path, ordered: Path) -> None:
    """Two processes share clips and gradients, count each clip once, and resume exactly too."""
    found = run_ranks(ordered, tmp_path / "whole")
    assert found["clips"] == 300
    assert found["top1"] >= found["mean_pooling_top1"] + 0.6
    run_ranks(ordered, tmp_path / "again", "--steps", "30")
    assert run_ranks(ordered, tmp_path / "again", "--resume") == found
    assert read_losses(tmp_path / "again") == read_losses(tmp_path / "whole")


@pytest.mark.slow
def test_upstreams_layout_is_trained_on(tmp_path: Path, ordered: Path) -> None:
    """Tars with captions alone, and texts by caption in a file, are enough."""
    data = tmp_path / "upstream"
    data.mkdir()
    for file in (*ordered.glob("ds_*.tar"), ordered / "splits.csv"):
        shutil.copy(file, data)
    texts = ordered / "class_text_embeddings.npz"
    assert run(data, tmp_path / "run", "--texts", texts)["top1"] >= 0.9


def test_a_run_is_not_mixed_with_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is there is not begun anew by mistake, and none is resumed that is not there."""
    with pytest.raises(SystemExit, match="2"):
        main(["--output", str(tmp_path), "--resume"])
    assert "holds no run to resume, another --output begins anew" in capsys.readouterr().err
    (tmp_path / "checkpoint.pt").touch()
    with pytest.raises(SystemExit, match="2"):
        main(["--output", str(tmp_path)])
    assert "holds a run; --resume goes on" in capsys.readouterr().err


@pytest.mark.parametrize("n_texts", [6, MAX_TEXTS + 1])
def test_of_many_texts_those_of_the_batch_are_compared(n_texts: int) -> None:
    """A clip's text is among those that are chosen; one without frames or text has none."""
    rows = normalize_rows(np.random.default_rng(0).standard_normal((n_texts, 4)))
    names = tuple(f"text {number}" for number in range(n_texts))
    texts = Texts(ClassTexts(names, rows, ("{}",), "", "", ""), is_random=False)
    frames, nothing = np.ones((2, 4), np.float32), np.empty((0, 4), np.float32)
    clips = [(frames, "text 5"), (frames, "text 2"), (nothing, "text 3"), (frames, "unknown")]
    batch = make_batch([BatchRow(a, name, -1, name) for a, name in clips], dtype="float32")
    chosen, places = texts.choose(batch)
    assert len(chosen) == (6 if n_texts == 6 else 3)
    np.testing.assert_array_equal(chosen[places[:2]], rows[[5, 2]])
    assert places[2:].tolist() == [-1, -1]
