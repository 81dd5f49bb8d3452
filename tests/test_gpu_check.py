"""The GPU check runs where there is no GPU, so that it runs on the first day there is one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes.checkout import PROJECT, SOURCE_PATHS


@pytest.mark.slow
@pytest.mark.needs_ffmpeg
def test_every_step_answers_without_a_gpu(tmp_path: Path) -> None:
    """With --cpu no step ends in an error, and builds of the same clips have the same bytes."""
    command = [sys.executable, "-m", "benchmarks.gpu.check", "--cpu", "--out", str(tmp_path)]
    command += ["--only", "memory,decode,builds,nvdec,encode,bits"]
    subprocess.run(command, cwd=PROJECT, env={**os.environ, "PYTHONPATH": SOURCE_PATHS}, check=True)
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert {name: facts for name, facts in result.items() if "error" in facts} == {}
    assert result["builds"]["same bytes"]
    assert result["builds"]["compiled"]["samples"] == 8
    assert all(result["bits"]["float32"][name] for name in ("twice", "elsewhere", "loaded anew"))
