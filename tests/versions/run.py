"""Check that a dataset directory loads in every supported version of `datasets`.

In: a dataset directory (made here when none is given). Out: exit code 0 when every claim holds.
Each version has an environment of its own, without our package and without torch.
"""

import argparse
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ENVIRONMENTS = ROOT / ".venvs"
VERSIONS = tuple(
    path.stem.removeprefix("datasets-") for path in sorted(HERE.glob("datasets-*.txt"))
)

logger = logging.getLogger("versions")


def main() -> int:
    """Make the environments that are missing and run the check in each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, nargs="?", help="default: a small one made here")
    parser.add_argument("--only", choices=VERSIONS, action="append", help="version of datasets")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        dataset = arguments.dataset or make_dataset(scratch / "dataset")
        tars = assemble_tars(dataset, scratch / "tars")
        code = copy_code(scratch / "code")
        failed = [
            version
            for version in arguments.only or VERSIONS
            if not run_check(version, (dataset.resolve(), tars, code), scratch / version)
        ]
    logger.info("failed: %s", ", ".join(failed)) if failed else logger.info("all versions: ok")
    return 1 if failed else 0


def make_dataset(directory: Path) -> Path:
    """Build a miniature Kinetics with the command line, as a lab does before it publishes."""
    sys.path.insert(0, str(ROOT))
    from builder.encode import save_random_model
    from tests.builds import build_arguments, run_cli_process
    from tests.kinetics import make_mini_kinetics

    kinetics = make_mini_kinetics(directory.parent / "kinetics")
    save_random_model(directory.parent / "model")
    arguments = build_arguments(kinetics, directory.parent / "model", directory)
    outcome = run_cli_process(*arguments)
    if outcome.returncode:
        raise RuntimeError(outcome.stderr)
    return directory


def assemble_tars(dataset: Path, directory: Path) -> Path:
    """Convert a dataset into one of tars alone, with pictures, which `datasets` must not take."""
    sys.path.insert(0, str(ROOT))
    from tests.builds import run_cli_process

    words = ("--formats", "webdataset", "--samples-per-shard", "5", "--quiet")
    outcome = run_cli_process("convert", dataset, directory, *words)
    if outcome.returncode:
        raise RuntimeError(outcome.stderr)
    return directory


def copy_code(directory: Path) -> Path:
    """Copy the reader package, as somebody does who uses it without installing it."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "clip_kinetics700", directory / "clip_kinetics700", ignore=ignore)
    return directory


def run_check(version: str, places: Sequence[Path], home: Path) -> bool:
    """Run check.py in the environment of one version, with caches of its own."""
    python = ensure_environment(version)
    home.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    environment = {
        **kept,
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [str(python), str(HERE / "check.py"), *map(str, places)]
    return subprocess.run(command, env=environment, cwd=home, check=False).returncode == 0


def ensure_environment(version: str) -> Path:
    """Return the Python of a version's environment, made anew when its pins have changed."""
    pins = HERE / f"datasets-{version}.txt"
    directory = ENVIRONMENTS / f"datasets-{version}"
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


if __name__ == "__main__":
    sys.exit(main())
