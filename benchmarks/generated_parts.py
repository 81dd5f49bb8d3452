"""`write_work` generates a work directory: a plan like Kinetics-700's and all its finished parts.

The builder's own functions write it, as `encode` does. Embeddings are ten random frames of 512;
ids, times and labels are like Kinetics-700's.
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.synthetic import WIDTH, SyntheticRows, share_out
from clip_kinetics700.schema import Sample
from clip_kinetics700_builder.clips.plan import cut_parts, order_clips, write_plan
from clip_kinetics700_builder.parts.part import finish_part, write_results
from clip_kinetics700_builder.parts.work import (
    CONFIG_NAME,
    PLAN_NAME,
    Sources,
    WorkConfig,
    parts_directory,
    store_sources,
)
from clip_kinetics700_builder.system.files import write_json
from clip_kinetics700_builder.types import Clip, EncodedClip, Part, VideoInfo

ROWS_PER_PART = 500


def write_work(work: Path, n_samples: int, *, is_scattered: bool = False) -> None:
    """Write a work directory in which all parts are finished.

    Args:
        work: the directory.
        n_samples: clips of the plan, each of which has a sample.
        is_scattered: parts are archives, so their rows lie all over the plan.
    """
    rows = SyntheticRows(share_out(n_samples))
    samples = {s.youtube_id: (split, s) for split in rows.totals for s in rows.results(split)}
    clips = order_clips([make_clip(split, sample) for split, sample in samples.values()], seed=0)
    parts_directory(work).mkdir(parents=True)
    configuration = {"clips": "kinetics", "embedding_width": WIDTH, "seed": 0}
    config = WorkConfig(configuration, rows.class_names, "cpu", ROWS_PER_PART)
    write_json(work / CONFIG_NAME, asdict(config))
    write_plan(work / PLAN_NAME, clips)
    parts = scatter_parts(len(clips)) if is_scattered else cut_parts(clips, ROWS_PER_PART)
    names = tuple(part.name for part in parts) if is_scattered else ()
    store_sources(work, Sources(has_videos=not is_scattered, archives=names))
    canary = np.ones(WIDTH, np.float32)
    for part in parts:
        found = ((row, samples[clips[row].video_id][1]) for row in part.rows or ())
        results = (make_result(row, sample) for row, sample in found)
        report = write_results(parts_directory(work), part, results, width=WIDTH, canary=canary)
        finish_part(parts_directory(work), report)


def make_clip(split: str, sample: Sample) -> Clip:
    """Return the annotation that a sample belongs to."""
    return Clip(
        split=split,
        video_id=sample.youtube_id or "",
        time_start=sample.time_start,
        time_end=sample.time_end,
        label=sample.caption,
        caption=sample.caption,
    )


def make_result(row: int, sample: Sample) -> EncodedClip:
    """Return what the encoder made of a clip."""
    info = VideoInfo(
        n_frames=len(sample.embeddings),
        duration_seconds=sample.duration or 0.0,
        frames_per_second=sample.fps or 0.0,
        width=sample.width or 0,
        height=sample.height or 0,
    )
    return EncodedClip(row, sample.embeddings, sample.timestamps, info)


def scatter_parts(n_rows: int) -> list[Part]:
    """Return parts as archives make them: each row lies in any of them."""
    rows = np.random.default_rng(0).permutation(n_rows).tolist()
    places = range(0, n_rows, ROWS_PER_PART)
    return [Part(f"part_{i}", rows[at : at + ROWS_PER_PART]) for i, at in enumerate(places)]
