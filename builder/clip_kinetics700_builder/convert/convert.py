"""Conversion rewrites a dataset of any dialect in our layout; cut off, it goes on where it was.

A remote source is copied into DIR/.build/source first, and the copy goes when all is verified.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clip_kinetics700.dataset import EmbeddingDataset
from clip_kinetics700.layout import STATE_FIELDS, Layout, describe_file
from clip_kinetics700.remote import is_remote
from clip_kinetics700.schema import SPLITS
from clip_kinetics700_builder.assemble.assemble import (
    assemble,
    describe_assembly,
    refuse_other_assembly,
    resolve_date,
)
from clip_kinetics700_builder.config import ConvertConfig
from clip_kinetics700_builder.convert.fetch import fetch_source, is_fetched
from clip_kinetics700_builder.convert.rows import ConvertedRows
from clip_kinetics700_builder.dataset.layout import (
    CONVERSION_NAME,
    WORK_NAME,
    is_published,
    list_names,
    read_state,
    refuse_foreign,
)
from clip_kinetics700_builder.dataset.manifest import Manifest, read_manifest
from clip_kinetics700_builder.dataset.problems import Problem
from clip_kinetics700_builder.dataset.staging import lock_dataset
from clip_kinetics700_builder.read.rows import (
    count_steps,
    list_source,
    open_layout,
    open_source,
    prepare_rows,
    read_size,
)
from clip_kinetics700_builder.system.files import check_directory, hash_file, write_json
from clip_kinetics700_builder.system.progress import Progress, no_progress
from clip_kinetics700_builder.types import InputError
from clip_kinetics700_builder.verify.dataset import verify_dataset

log = logging.getLogger(__name__)

COPY_NAME = "source"
Listing = Mapping[str, Mapping[str, Any]]


def convert(
    config: ConvertConfig, *, progress: Progress = no_progress
) -> tuple[Manifest, list[Problem]]:
    """Convert a dataset, or go on where that was cut off.

    Returns:
        The manifest of the output, and what verification finds wrong with it.

    Raises:
        InputError: the source cannot be read, or the output is in the way.
        DamageError: the source is damaged, and damage is not to be skipped.
        BuildError: what arrives is not what the source says.
    """
    dataset = open_for_conversion(config)
    listing = list_source(dataset.layout)
    state = describe_state(config, dataset.layout, listing)
    work = config.assembly.output / WORK_NAME
    with lock_dataset(config.assembly.output):
        manifest = find_finished(config, state)
        if manifest is None:
            begin(work, state)
            manifest = write_dataset(config, dataset, listing, progress)
            write_json(work / CONVERSION_NAME, {**state, "manifest": manifest.self_sha256})
        else:
            log.info(
                "%s: is complete, nothing to write; it is verified again", config.assembly.output
            )
        problems = verify_dataset(config.assembly.output, progress=progress)
        if not problems:
            shutil.rmtree(work / COPY_NAME, ignore_errors=True)
    return manifest, problems


def open_for_conversion(config: ConvertConfig) -> EmbeddingDataset:
    """Open the source, and refuse what could only end badly, before a byte is written.

    Raises:
        InputError: the source cannot be read, or the output is in the way.
    """
    check_directory("DIR", config.assembly.output)
    dataset = open_source(config.source)
    unknown = [split for split in dataset.layout.files if split not in SPLITS]
    if unknown:
        raise InputError(
            f"{config.source.source}: has a split {unknown[0]!r}; a dataset of ours has only "
            f"{', '.join(SPLITS)}"
        )
    refuse_nested(dataset.layout, config.assembly.output)
    refuse_foreign(config.assembly.output, option="DIR", converts=True)
    refuse_strangers(config.assembly.output)
    refuse_other_assembly(config.assembly)
    return dataset


def refuse_nested(layout: Layout, output: Path) -> None:
    """Refuse an output that is the source, or where one of the two lies within the other."""
    target = output.resolve()
    if not layout.root:
        paths = [path for group in layout.files.values() for path in group]
        inside = [path for path in paths if target in Path(path).resolve().parents]
        if inside and not is_remote(inside[0]):
            raise InputError(f"DIR {output}: holds the source; give another directory")
    elif not is_remote(layout.root):
        source = Path(layout.root).resolve()
        if source == target:
            raise InputError(f"DIR {output}: is the source itself; give another directory")
        if source in target.parents or target in source.parents:
            raise InputError(f"DIR {output}: one of source and output holds the other")


def refuse_strangers(output: Path) -> None:
    """Refuse files that are no part of a dataset, which verification would find in the end."""
    for name in list_names(output):
        if not is_published(name.removesuffix(".partial")):
            raise InputError(f"DIR {output}: holds {name}, which is no file of a dataset")


def describe_plan(config: ConvertConfig) -> list[tuple[str, int, int]]:
    """Return files and bytes of each split that a conversion would read; writes nothing."""
    layout = open_for_conversion(config).layout
    listing = list_source(layout)
    return [
        (split, len(group), sum(read_size(listing[layout.relative(path)]) or 0 for path in group))
        for split, group in layout.files.items()
    ]


def describe_state(config: ConvertConfig, layout: Layout, listing: Listing) -> dict[str, Any]:
    """Return what tells whether a source is still what it was, without reading it."""
    files, class_list = dict(listing), config.assembly.class_list or "auto"
    if layout.index is not None and config.source.index is not None:
        files["--index"] = describe_file(layout.index)
    if Path(class_list).is_file():
        files["--class-list"] = {"sha256": hash_file(Path(class_list))}
    known = [[name, *(str(files[name].get(key)) for key in STATE_FIELDS)] for name in sorted(files)]
    groups = {split: list(map(layout.relative, group)) for split, group in layout.files.items()}
    text = json.dumps([layout.root, groups, layout.index, known])
    return {
        "files_sha256": hashlib.sha256(text.encode("ascii")).hexdigest(),
        "class_list": class_list,
        "on_error": config.source.on_error,
    }


def find_finished(config: ConvertConfig, state: Mapping[str, Any]) -> Manifest | None:
    """Return the manifest of the output if it is complete and was made of this very source."""
    manifest = read_manifest(config.assembly.output)
    if manifest is None or manifest.date != resolve_date(config.assembly):
        return None
    stored = read_state(config.assembly.output, CONVERSION_NAME)
    is_current = stored == {**state, "manifest": manifest.self_sha256}
    return manifest if is_current and manifest.is_complete(config.assembly.output) else None


def begin(work: Path, state: Mapping[str, Any]) -> None:
    """Store what is converted; the copy of another source, or of another state of it, goes."""
    before = read_state(work.parent, CONVERSION_NAME) or {}
    if before.get("files_sha256") != state["files_sha256"]:
        shutil.rmtree(work / COPY_NAME, ignore_errors=True)
    write_json(work / CONVERSION_NAME, state)


def write_dataset(
    config: ConvertConfig, dataset: EmbeddingDataset, listing: Listing, progress: Progress
) -> Manifest:
    """Fetch the source where it is remote, read it once, then write; return the manifest."""
    if is_fetched(dataset.layout):
        copy = config.assembly.output / WORK_NAME / COPY_NAME
        dataset = open_layout(fetch_source(dataset.layout, listing, copy, progress=progress))
    on_error = config.source.on_error
    source = prepare_rows(dataset, on_error)
    with progress("read", *count_steps(source)) as advance:
        rows = ConvertedRows(
            source,
            class_list=config.assembly.class_list or "auto",
            on_error=on_error,
            advance=advance,
        )
    manifest = find_same_rows(config, rows)
    if manifest is not None:
        return manifest
    n_rows = sum(totals.rows for totals in rows.totals.values())
    with progress("write", n_rows, "rows") as advance:
        return assemble(rows, config.assembly, advance=advance)


def find_same_rows(config: ConvertConfig, rows: ConvertedRows) -> Manifest | None:
    """Return the manifest of the output if it is complete and holds these very rows.

    Only where the source has no manifest of ours does the configuration tell that.
    """
    manifest = read_manifest(config.assembly.output)
    assembly = config.assembly
    if manifest is None or "rows_sha256" not in rows.configuration:
        return None
    found = [manifest.configuration, manifest.class_names, manifest.date]
    same = [describe_assembly(rows, assembly), rows.class_names, resolve_date(assembly)]
    return manifest if found == same and manifest.is_complete(config.assembly.output) else None
