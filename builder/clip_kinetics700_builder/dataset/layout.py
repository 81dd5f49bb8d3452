"""These are the names in a dataset's directory, and what in it may be replaced or removed."""

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clip_kinetics700.schema import CLASS_TEXTS_NAME, parse_json
from clip_kinetics700_builder.dataset.shards import SHARD_NAME
from clip_kinetics700_builder.parts.work import is_work_directory
from clip_kinetics700_builder.types import InputError

log = logging.getLogger(__name__)

WORK_NAME = ".build"
"""A build keeps its parts in a hidden folder of its output, where `datasets` does not look."""
SHARDS_NAME = "shards"
"""In that folder lie the reports of finished shards, until the dataset is complete."""
CONVERSION_NAME = "conversion.json"
"""In that folder too: of what a conversion makes this dataset, and what came of it."""
ASSEMBLY_NAME = "assembly.json"
"""And what it was assembled of: digests of that and of the manifest."""
CLASS_BALANCE = "figures/class_balance.png"
FRAMES_PER_CLIP = "figures/frames_per_clip.png"
FIGURES = (CLASS_BALANCE, FRAMES_PER_CLIP)
README_NAME = "README.md"
SINGLE_FILES = (
    README_NAME,
    "splits.csv",
    "index.parquet",
    "failures.parquet",
    CLASS_TEXTS_NAME,
    "manifest.json",
    *FIGURES,
)
"""What a dataset has besides shards; it need not have all of them."""


def refuse_foreign(output: Path, *, option: str = "--output", converts: bool = False) -> None:
    """Refuse a directory with files that would be replaced and that are not of this work.

    Ours is what has been begun here before, by a build or an assembly, or by a conversion if it
    `converts`. Messages name the directory by the option that the user has given.
    """
    work = output / WORK_NAME
    if converts and is_work_directory(work):
        raise InputError(f"{option} {output}: holds the parts of a build; give another directory")
    if not converts and (work / CONVERSION_NAME).is_file():
        raise InputError(f"{option} {output}: holds a conversion; give another directory")
    if work.is_dir():
        return
    names = [name for name in list_published(output) if not name.endswith(".partial")]
    if names and "manifest.json" not in names:
        raise InputError(
            f"{option} {output}: holds {names[0]}, which was not made here and would be "
            "replaced; give an empty or a new directory"
        )


def list_published(output: Path) -> list[str]:
    """Return what a directory has under the names of published files, cut-off ones too."""
    paths = [path for place in ("", "data", "figures") for path in (output / place).glob("*")]
    names = sorted(path.relative_to(output).as_posix() for path in paths)
    return [name for name in names if is_published(name.removesuffix(".partial"))]


def remove_stale_files(output: Path, files: Mapping[str, Any]) -> None:
    """Remove what an earlier assembly left that this one did not write, cut-off files too."""
    # The card and the manifest are written after this.
    kept = {*files, README_NAME, "manifest.json"}
    for name in list_published(output):
        if name not in kept:
            log.info("removing %s, left by an earlier assembly", output / name)
            (output / name).unlink()


def is_published(name: str) -> bool:
    """Say whether a file of a dataset can have this name."""
    return name in SINGLE_FILES or SHARD_NAME.fullmatch(name) is not None


def list_names(directory: Path) -> Iterator[str]:
    """Yield the names of all files, apart from hidden ones and those in hidden directories."""
    for place, directories, files in os.walk(directory):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield (Path(place) / name).relative_to(directory).as_posix()


def read_state(output: Path, name: str) -> dict[str, Any] | None:
    """Return what is stored of a conversion or an assembly; None where nothing can be read."""
    try:
        text = (output / WORK_NAME / name).read_text(encoding="utf-8")
        return dict(parse_json(text))
    except (OSError, ValueError, TypeError):
        return None
