"""A small work directory is written as `encode` writes one, of rows that need no encoder."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from clip_kinetics700_builder.assemble.assemble import assemble_directory
from clip_kinetics700_builder.clips.plan import cut_parts
from clip_kinetics700_builder.config import AssembleConfig
from clip_kinetics700_builder.dataset.manifest import Manifest
from clip_kinetics700_builder.parts.part import finish_part, is_done, write_results
from clip_kinetics700_builder.parts.part_reader import remove_damaged
from clip_kinetics700_builder.parts.retries import plan_retries
from clip_kinetics700_builder.parts.work import (
    Sources,
    WorkConfig,
    parts_directory,
    store_sources,
    store_work,
)
from clip_kinetics700_builder.system.progress import no_progress
from tests.support.damage.datasets import CLASS_NAMES, ROWS, WIDTH, SmallRows

ROWS_PER_PART = 6
CONFIG = WorkConfig({"embedding_width": WIDTH, "seed": 0}, CLASS_NAMES, "cpu", ROWS_PER_PART)


def encode_small(
    work: Path, rows: SmallRows | None = None, *, seconds: float = 0.0, retries: bool = False
) -> None:
    """Write the parts that are not finished, or that are damaged; each says it took so long.

    With `retries` what failed is tried again.
    """
    rows = SmallRows() if rows is None else rows
    clips = [clip for split in ROWS for clip, _ in rows.results(split)]
    places = [(split, row) for split in ROWS for row in range(ROWS[split])]
    store_work(work, lambda _: CONFIG, clips)
    store_sources(work, Sources())
    directory, parts = parts_directory(work), cut_parts(clips, ROWS_PER_PART)
    remove_damaged(directory, {part.name for part in parts}, no_progress)
    parts += plan_retries(directory, parts, ()) if retries else []
    for part in parts:
        if not is_done(directory, part.name):
            numbers = part.rows or ()
            results = [replace(rows.result(*places[number]), row=number) for number in numbers]
            report = write_results(
                directory, part, results, width=WIDTH, canary=np.ones(WIDTH, np.float32)
            )
            finish_part(directory, report, seconds=seconds)


def assemble_work(work: Path, output: Path) -> Manifest:
    """Assemble the parts of a work directory, five samples a shard."""
    config = AssembleConfig(source=work, output=output, samples_per_shard=5, figures=False)
    return assemble_directory(config)
