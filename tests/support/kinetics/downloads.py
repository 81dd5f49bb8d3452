"""These functions download a tree like CVDF's bucket, and say what a download must bring."""

from pathlib import Path
from typing import Any

from clip_kinetics700_builder.config import DownloadConfig
from clip_kinetics700_builder.download.download import download
from clip_kinetics700_builder.download.run import DownloadSummary
from clip_kinetics700_builder.option import make_config
from clip_kinetics700_builder.sources.ledger import LEDGER_NAME, Attempt, read_attempts
from tests.support.kinetics.cvdf import CvdfTree


def download_tree(tree: CvdfTree, output: Path, **options: Any) -> DownloadSummary:
    """Download the rows of a tree from it, in this process."""
    defaults: dict[str, Any] = {
        "annotations": tuple(tree.annotations),
        "version": tree.version,
        "base_url": str(tree.root),
    }
    config = make_config(DownloadConfig, {**defaults, **options}, output=output)
    return download(config)


def list_clips(output: Path) -> dict[str, bytes]:
    """Return the bytes of every video that is not hidden."""
    return {
        path.name: path.read_bytes()
        for path in output.rglob("*_*_*.*")
        if path.is_file() and ".download" not in path.parts
    }


def whole_clips(tree: CvdfTree) -> dict[str, bytes]:
    """Return what a download of a tree must bring: its annotated clips that are not empty."""
    return {name: data for name, data in tree.clips.items() if data}


def read_ledger(output: Path) -> list[Attempt]:
    """Return the attempts of a download."""
    return list(read_attempts(output / ".download" / LEDGER_NAME))
