"""A `Machine` says what the GPU check asks of a computer, and where the files of the check lie."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Machine:
    """What is asked, and where its files lie."""

    on_gpu: bool
    out: Path
    work: Path

    @property
    def device(self) -> str:
        """Where the encoder runs."""
        return "cuda" if self.on_gpu else "cpu"

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes that are tried."""
        return (64, 256, 512, 1024) if self.on_gpu else (8, 16)

    @property
    def n_workers(self) -> int:
        """Processes that decode."""
        return (os.cpu_count() or 1) if self.on_gpu else 2

    @property
    def n_sources(self) -> int:
        """Small clips that are made; they are linked under several names."""
        return 48 if self.on_gpu else 2

    @property
    def n_clips(self) -> int:
        """Small clips of a build."""
        return 1600 if self.on_gpu else 8


def run_python(*words: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run Python with these arguments."""
    command = [sys.executable, *map(str, words)]
    environment = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
