"""Makes environments of pinned versions, apart from the one that the tests run in."""

import hashlib
import logging
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENTS = ROOT / ".venvs"

logger = logging.getLogger(__name__)


def ensure_environment(name: str, pins: Path) -> Path:
    """Return the Python of an environment, made anew when its pins have changed."""
    directory = ENVIRONMENTS / name
    python = directory / "bin" / "python"
    stamp = directory / "stamp"
    state = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == state:
        return python
    logger.info("making %s", directory.relative_to(ROOT))
    shutil.rmtree(directory, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--requirement", str(pins)], check=True)
    stamp.write_text(state)
    return python
