"""The training example does what it says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes.checkout import SOURCE_PATHS

CHANCE = 1 / 6


@pytest.mark.slow
def test_only_the_order_of_frames_tells_classes_apart(tmp_path: Path) -> None:
    """The mean of frames and random labels give chance, attention 0.9; a resumed run is exact."""
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "examples.train_aggregator", "--json", str(figures)]
    environment = {**os.environ, "PYTHONPATH": SOURCE_PATHS}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    found = json.loads(figures.read_text())
    assert abs(found["mean pooling"] - CHANCE) <= 0.1
    assert found["aggregator"] >= 0.9
    assert abs(found["aggregator, random labels"] - CHANCE) <= 0.1
    assert found["resumed losses are equal"] is True
