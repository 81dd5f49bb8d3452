"""Encoded clips in plan order in, the published layout out: pure I/O in constant memory.

Shards hold exactly `samples_per_shard` samples whatever failed and however parts were cut,
because their order and their cuts come from the plan alone.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from builder.card import render_card
from builder.config import AssembleConfig
from builder.manifest import (
    Totals,
    build_manifest,
    describe_file,
    read_manifest,
    write_manifest,
)
from builder.output import remove_stale_files
from builder.shard_writers import (
    TableFile,
    open_parquet_shard,
    open_table_file,
    open_tar_shard,
    splits_csv,
)
from builder.types import Clip, EncodedClip, Failure, InputError
from builder.work import refuse_differences
from builder.write import write_text
from clip_kinetics700.features import FAILURES_SCHEMA, INDEX_SCHEMA, data_schema
from clip_kinetics700.schema import (
    FAILURES_NAME,
    INDEX_NAME,
    KEY_NAME,
    MANIFEST_NAME,
    SPLITS,
    SPLITS_CSV_NAME,
    SPLITS_CSV_WORD,
    TAR_NAME,
    Sample,
)


class Rows(Protocol):
    """What can be assembled: results of a plan, in its order."""

    @property
    def configuration(self) -> Mapping[str, Any]:
        """What the manifest says the embeddings were made with."""
        ...

    @property
    def class_names(self) -> list[str] | None:
        """Names by label id; None for videos without classes."""
        ...

    @property
    def canary(self) -> list[float] | None:
        """Embedding of the package's test video, where it was computed."""
        ...

    @property
    def width(self) -> int:
        """Columns of the embeddings."""
        ...

    @property
    def totals(self) -> Mapping[str, Totals]:
        """Counts of every split, known before the first result is read."""
        ...

    def results(self, split: str) -> Iterator[tuple[Clip, EncodedClip | Failure]]:
        """Yield every row of a split in plan order."""
        ...


@dataclass(slots=True)
class _Layout:
    """State of one assembly: what was numbered and written so far."""

    output: Path
    rows: Rows
    config: AssembleConfig
    index: TableFile
    failures: TableFile
    schema: pa.Schema
    label_ids: Mapping[str, int]
    n_samples: int = 0
    tars: list[tuple[str, str]] = field(default_factory=list)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)


def assemble(
    rows: Rows, config: AssembleConfig, *, advance: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Write the published layout and return its manifest, which is written last.

    Raises:
        InputError: the output holds a dataset of another configuration.
    """
    configuration = describe_assembly(rows, config)
    check_output(config.output, configuration, rows.class_names)
    date = resolve_date(config)
    config.output.mkdir(parents=True, exist_ok=True)
    (config.output / MANIFEST_NAME).unlink(missing_ok=True)
    files = write_files(rows, config, advance)
    remove_stale_files(config.output, files)
    manifest = build_manifest(
        configuration=configuration,
        class_names=rows.class_names,
        totals=rows.totals,
        files=files,
        canary=rows.canary,
        date=date,
    )
    write_text(config.output / "README.md", render_card(manifest))
    write_manifest(config.output, manifest)
    return manifest


def describe_assembly(rows: Rows, config: AssembleConfig) -> dict[str, Any]:
    """Return what the manifest will say was the configuration."""
    return {**rows.configuration, **describe_options(config)}


def describe_options(config: AssembleConfig) -> dict[str, Any]:
    """Return what of the configuration follows from the options of assembly alone."""
    return {"samples_per_shard": config.samples_per_shard, "formats": list(config.formats)}


def check_output(
    output: Path, configuration: Mapping[str, Any], class_names: list[str] | None
) -> None:
    """Refuse an output that holds a dataset of another configuration."""
    manifest = read_manifest(output)
    if manifest is not None:
        stored = {**manifest["configuration"], "class_names": manifest["class_names"]}
        refuse_differences(output, stored, {**configuration, "class_names": class_names})


def resolve_date(config: AssembleConfig) -> str | None:
    """Return the date of --date or SOURCE_DATE_EPOCH, the only clocks that reach an output."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if config.date is not None or not epoch:
        return config.date
    try:
        return datetime.fromtimestamp(int(epoch), timezone.utc).date().isoformat()
    except (ValueError, OverflowError, OSError) as error:
        raise InputError(
            f"SOURCE_DATE_EPOCH is {epoch!r}; seconds since 1970 are needed"
        ) from error


def write_files(
    rows: Rows, config: AssembleConfig, advance: Callable[[int], None]
) -> dict[str, dict[str, Any]]:
    """Write everything but card and manifest; return the manifest's entry of each file."""
    output = config.output
    with ExitStack() as stack:
        layout = _Layout(
            output=output,
            rows=rows,
            config=config,
            index=stack.enter_context(open_table_file(output / INDEX_NAME, INDEX_SCHEMA)),
            failures=stack.enter_context(open_table_file(output / FAILURES_NAME, FAILURES_SCHEMA)),
            schema=data_schema(rows.width, rows.class_names),
            label_ids={name: index for index, name in enumerate(rows.class_names or [])},
        )
        for split in SPLITS:
            if split in rows.totals:
                write_split(layout, split, advance)
    files = layout.files
    n_failures = sum(totals.failures for totals in rows.totals.values())
    files[INDEX_NAME] = describe_file(output / INDEX_NAME, layout.n_samples)
    files[FAILURES_NAME] = describe_file(output / FAILURES_NAME, n_failures)
    if "webdataset" in config.formats:
        write_text(output / SPLITS_CSV_NAME, splits_csv(layout.tars))
        files[SPLITS_CSV_NAME] = describe_file(output / SPLITS_CSV_NAME, len(layout.tars))
    return files


def write_split(layout: _Layout, split: str, advance: Callable[[int], None]) -> None:
    """Write the shards of one split; failed rows go to the failures table as they come."""
    per_shard = layout.config.samples_per_shard
    n_shards = -(-layout.rows.totals[split].samples // per_shard)
    samples = list_samples(layout, split, advance)
    for shard in range(n_shards):
        write_shard(layout, split, islice(samples, per_shard), f"{shard:05d}-of-{n_shards:05d}")
    # What follows the last sample can only be failures.
    deque(samples, maxlen=0)


def list_samples(layout: _Layout, split: str, advance: Callable[[int], None]) -> Iterator[Sample]:
    """Number the samples of a split over the whole dataset."""
    for clip, result in layout.rows.results(split):
        advance(1)
        if isinstance(result, Failure):
            layout.failures.add(failure_row(clip, result))
        else:
            key = KEY_NAME.format(layout.n_samples)
            layout.n_samples += 1
            yield make_sample(key, clip, result, layout.label_ids)


def write_shard(layout: _Layout, split: str, samples: Iterator[Sample], numbers: str) -> None:
    """Write one tar and one Parquet file with the same rows, and their index."""
    n_samples = layout.n_samples
    tar_name = parquet_name = None
    with ExitStack() as stack:
        tar = parquet = None
        if "webdataset" in layout.config.formats:
            tar_name = TAR_NAME.format(len(layout.tars))
            tar = stack.enter_context(open_tar_shard(layout.output / tar_name))
        if "parquet" in layout.config.formats:
            parquet_name = f"data/{split}-{numbers}.parquet"
            (layout.output / "data").mkdir(exist_ok=True)
            path = layout.output / parquet_name
            parquet = stack.enter_context(open_parquet_shard(path, layout.schema))
        for sample in samples:
            offset, n_bytes = tar.add(sample) if tar else (None, None)
            if parquet:
                parquet.add(sample)
            layout.index.add(
                {
                    "split": split,
                    "caption": sample.caption,
                    **sample.meta,
                    "tar_file": tar_name,
                    "npy_offset": offset,
                    "npy_nbytes": n_bytes,
                }
            )
    if tar_name is not None:
        layout.tars.append((tar_name.removesuffix(".tar"), SPLITS_CSV_WORD[split]))
    for name in filter(None, (tar_name, parquet_name)):
        layout.files[name] = describe_file(layout.output / name, layout.n_samples - n_samples)


def make_sample(key: str, clip: Clip, encoded: EncodedClip, label_ids: Mapping[str, int]) -> Sample:
    """Join what the annotations and the encoder say of one clip."""
    info = encoded.info
    return Sample(
        key=key,
        embeddings=encoded.embeddings,
        caption=clip.caption,
        youtube_id=clip.video_id,
        time_start=clip.time_start,
        time_end=clip.time_end,
        label_id=None if clip.label is None else label_ids.get(clip.label),
        timestamps=encoded.timestamps,
        duration=None if info is None else info.duration_seconds,
        fps=None if info is None else info.frames_per_second,
        width=None if info is None else info.width,
        height=None if info is None else info.height,
        extra=clip.extra,
    )


def failure_row(clip: Clip, failure: Failure) -> dict[str, Any]:
    """Return a row of failures.parquet."""
    return {
        "split": clip.split,
        "youtube_id": clip.video_id,
        "time_start": clip.time_start,
        "time_end": clip.time_end,
        "label": clip.label,
        "stage": failure.stage,
        "reason": failure.reason,
        "message": failure.message,
    }
