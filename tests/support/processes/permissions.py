"""Runs commands that permission bits bind, even where the tests run as root."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.datasets.builds import Outcome, command_line
from tests.support.processes.checkout import SOURCE_PATHS

# Root gives up passing over permission bits (prctl's PR_CAPBSET_DROP of CAP_DAC_OVERRIDE and
# CAP_DAC_READ_SEARCH), which counts from the next exec on.
DROP = """
import ctypes, os, sys
if os.getuid() == 0:
    libc = ctypes.CDLL(None)
    libc.prctl(24, 1, 0, 0, 0)
    libc.prctl(24, 2, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def start_without_override(*arguments: str | Path, **environment: str) -> "subprocess.Popen[str]":
    """Start the CLI in a process that permission bits hold back."""
    return subprocess.Popen(
        [sys.executable, "-c", DROP, *command_line(*arguments)],
        env={**os.environ, "PYTHONPATH": SOURCE_PATHS, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_without_override(*arguments: str | Path, **environment: str) -> Outcome:
    """Run the CLI so to its end."""
    with start_without_override(*arguments, **environment) as process:
        stdout, stderr = process.communicate(timeout=300)
    return Outcome(process.returncode, stdout, stderr)
