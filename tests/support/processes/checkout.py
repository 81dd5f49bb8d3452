"""Where the checkout lies, and what makes another process run its code whatever is installed."""

import os
from pathlib import Path

PROJECT = Path(__file__).parents[3]
SOURCE_PATHS = os.pathsep.join((str(PROJECT), str(PROJECT / "builder")))
"""The value of PYTHONPATH for such a process."""
