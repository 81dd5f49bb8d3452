"""This program checks that a dataset loads in every version of `datasets`, also from a Hub.

It makes a dataset where none is given, and exits with 0 when every claim holds. The Hub runs on
this machine; what is in it was published, or pushed by `push_to_hub`. Each version has an
environment of its own, without our package and without torch.
"""

import argparse
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.hub.hubs import Hub

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
VERSIONS = tuple(
    path.stem.removeprefix("datasets-") for path in sorted(HERE.glob("datasets-*.txt"))
)
NEWEST = VERSIONS[-1]
# The card of a branch that holds one split.
TRAIN_ONLY = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
---
"""

logger = logging.getLogger("versions")


def main() -> int:
    """Make the environments that are missing and run the check in each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, nargs="?", help="default: a small one made here")
    parser.add_argument("--only", choices=VERSIONS, action="append", help="version of datasets")
    arguments = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "builder")]
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logger.setLevel(logging.INFO)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        dataset = arguments.dataset or make_dataset(scratch / "dataset")
        tars = assemble_tars(dataset, scratch / "tars")
        code = copy_code(scratch / "code")
        places = (dataset.resolve(), tars, code)
        failed = check_versions(places, scratch, arguments.only or VERSIONS)
    logger.info("failed: %s", ", ".join(failed)) if failed else logger.info("all versions: ok")
    return 1 if failed else 0


def make_dataset(directory: Path) -> Path:
    """Build a miniature Kinetics with the command line, as a lab does before it publishes."""
    from clip_kinetics700_builder.encode.vision import save_random_model
    from tests.support.datasets.builds import build_arguments, run_cli_process
    from tests.support.kinetics.miniature import make_mini_kinetics

    kinetics = make_mini_kinetics(directory.parent / "kinetics")
    save_random_model(directory.parent / "model")
    arguments = build_arguments(kinetics, directory.parent / "model", directory)
    # Pictures of the card must not be taken for the data.
    arguments.remove("--no-figures")
    outcome = run_cli_process(*arguments)
    if outcome.returncode:
        raise RuntimeError(outcome.stderr)
    return directory


def assemble_tars(dataset: Path, directory: Path) -> Path:
    """Convert a dataset into one of tars alone, with pictures, which `datasets` must not take."""
    from tests.support.datasets.builds import run_cli_process

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


def check_versions(places: Sequence[Path], scratch: Path, versions: Sequence[str]) -> list[str]:
    """Run all checks in the environment of each version; return the versions that failed."""
    from tests.support.hub.hubs import ALICE, start_hub

    dataset = places[0]
    with start_hub(scratch) as hub:
        commit = publish(hub, dataset, scratch / "published")
        on_hub = {"HF_ENDPOINT": hub.endpoint}
        for name, disables_xet in (("xet", "0"), ("lfs", "1")):
            more = {**on_hub, "HF_TOKEN": ALICE, "HF_HUB_DISABLE_XET": disables_xet}
            words = ["push.py", str(dataset), f"alice/pushed-{name}"]
            if not run_script(NEWEST, scratch / f"push-{name}", words, more):
                return list(versions)
        check = ["check.py", *map(str, places)]
        return [
            version
            for version in versions
            if not run_script(version, scratch / version, check, {"HF_HUB_OFFLINE": "1"})
            or not run_script(
                version, scratch / f"{version}-hub", [*check, "--commit", commit], on_hub
            )
        ]


def publish(hub: "Hub", dataset: Path, copy: Path) -> str:
    """Push a dataset and, in the branch `train-only`, one split; return that one's commit."""
    from tests.support.datasets.builds import run_cli_process

    outcome = run_cli_process("push", dataset, "alice/published", **hub.environment())
    if outcome.returncode:
        raise RuntimeError(outcome.stderr)
    shutil.copytree(dataset, copy, ignore=shutil.ignore_patterns(".*"))
    (copy / "README.md").write_text(TRAIN_ONLY, encoding="utf-8")
    return hub.publish(copy, "alice/published", branch="train-only")


def run_script(version: str, home: Path, words: list[str], more: Mapping[str, str]) -> bool:
    """Run one of the scripts here in the environment of a version, with caches of its own."""
    from tests.support.processes.environments import ensure_environment

    python = ensure_environment(f"datasets-{version}", HERE / f"datasets-{version}.txt")
    home.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    environment = {
        **kept,
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **more,
    }
    command = [str(python), str(HERE / words[0]), *words[1:]]
    return subprocess.run(command, env=environment, cwd=home, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
