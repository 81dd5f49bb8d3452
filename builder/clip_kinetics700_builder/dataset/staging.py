"""A dataset that replaces another is staged beside it, and takes its place once it is whole.

A reader finds the old dataset or the new one. For as long as the renames take there is no manifest,
so nobody takes what lies there for either; whoever locks the directory next finishes renames that
were cut off.
"""

import errno
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clip_kinetics700.schema import MANIFEST_NAME
from clip_kinetics700_builder.dataset.layout import (
    README_NAME,
    WORK_NAME,
    remove_stale_files,
)
from clip_kinetics700_builder.dataset.manifest import ManifestError, read_manifest, write_manifest
from clip_kinetics700_builder.system.files import atomic_path, naming, sync_directory
from clip_kinetics700_builder.system.locks import hold_lock

log = logging.getLogger(__name__)

STAGE_NAME = "next"
"""In the folder of the build lies the dataset that is to replace the one that is there."""


@contextmanager
def lock_dataset(output: Path, *, waits: bool = False) -> Iterator[None]:
    """Hold the lock of what reads or writes the published files of a directory as a whole.

    Raises:
        InputError: another process holds it, and this one is not to wait.
    """
    (output / WORK_NAME).mkdir(parents=True, exist_ok=True)
    taken = f"{output}: another process is assembling, converting or publishing it; wait for it"
    with hold_lock(output / WORK_NAME / "assemble.lock", None if waits else taken):
        put_in_place(output)
        yield


def choose_stage(output: Path) -> Path:
    """Return where to write a dataset: beside the one that is there, or in its place if none is."""
    return output / WORK_NAME / STAGE_NAME if (output / MANIFEST_NAME).is_file() else output


def put_in_place(output: Path) -> None:
    """Let a dataset that is staged and whole replace the one that is there; else do nothing."""
    stage = output / WORK_NAME / STAGE_NAME
    try:
        manifest = read_manifest(stage)
    except ManifestError as error:
        log.warning("%s; it is assembled anew", error)
        (stage / MANIFEST_NAME).unlink()
        return
    if manifest is None:
        return
    # Without a manifest nothing is taken for a dataset, so it goes first and comes last.
    (output / MANIFEST_NAME).unlink(missing_ok=True)
    sync_directory(output)
    names = [README_NAME, *manifest.files]
    for name in names:
        if (stage / name).is_file():
            (output / name).parent.mkdir(exist_ok=True)
            move_file(stage / name, output / name)
    remove_stale_files(output, manifest.files)
    for place in {(output / name).parent for name in names}:
        with naming(place):
            sync_directory(place)
    write_manifest(output, manifest)
    # It goes first: what else is left here replaces nothing without it.
    (stage / MANIFEST_NAME).unlink()
    shutil.rmtree(stage, ignore_errors=True)


def move_file(source: Path, final: Path) -> None:
    """Rename a file; where `.build` or `data` is a link to another disk, copy it."""
    try:
        source.replace(final)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with atomic_path(final) as partial:
            shutil.copyfile(source, partial)
        source.unlink()
