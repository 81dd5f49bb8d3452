"""Row groups are closed early for long clips and hold the bytes that writing row by row gives."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pytest

from clip_kinetics700.features import INDEX_SCHEMA, data_schema
from clip_kinetics700.index import index_row
from clip_kinetics700.schema import KEY_NAME, Sample
from clip_kinetics700_builder.assemble import shards
from clip_kinetics700_builder.assemble.shards import ROWS_PER_GROUP, limit_bytes, make_table
from clip_kinetics700_builder.parts.part import group_by_bytes

WIDTH = 3
SCHEMA = data_schema(WIDTH, None)


def make_sample(number: int, n_frames: int) -> Sample:
    """Return a sample; every third one has no timestamps, every other no times."""
    rng = np.random.default_rng(number)
    times = None if number % 3 == 0 else np.linspace(0, 9, n_frames).astype(np.float32)
    begin = number if number % 2 else None
    return Sample(
        key=KEY_NAME.format(number),
        embeddings=rng.standard_normal((n_frames, WIDTH)).astype(np.float16),
        caption=f"größe {number}",
        youtube_id=None,
        time_start=begin,
        time_end=None,
        label_id=number % 5,
        timestamps=times,
        duration=number + 0.1,
        fps=None,
        width=340,
        height=256,
        extra=None,
    )


def count_groups(samples: Iterable[Sample]) -> list[int]:
    """Return how many samples each row group has."""
    groups = group_by_bytes(samples, limit_bytes(WIDTH), max_items=ROWS_PER_GROUP)
    return [len(group) for group in groups]


def test_columns_are_those_of_rows() -> None:
    """Tables made column by column equal those made of a dictionary for each row."""
    samples = [make_sample(number, number % 4) for number in range(50)]
    rows = [
        {"embeddings": s.embeddings.tolist(), "caption": s.caption, "meta": s.meta} for s in samples
    ]
    index = [index_row("train", sample, None, (None, None)) for sample in samples]
    table = make_table(samples, pa.RecordBatch.from_pylist(index, INDEX_SCHEMA), SCHEMA)
    assert table.drop_columns("embeddings") == pa.Table.from_pylist(rows, SCHEMA).drop_columns(
        "embeddings"
    )
    assert table.column("embeddings").to_pylist() == [row["embeddings"] for row in rows]


def test_groups_have_a_thousand_rows() -> None:
    """Short clips fill groups by their number; nothing is left of none."""
    samples = (make_sample(number, 1) for number in range(2 * ROWS_PER_GROUP + 1))
    assert count_groups(samples) == [ROWS_PER_GROUP, ROWS_PER_GROUP, 1]
    assert count_groups([]) == []


def test_groups_of_long_clips_are_closed_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group is closed by the clip that fills it, and not before."""
    monkeypatch.setattr(shards, "MOST_BYTES", 2 * WIDTH * 100)
    assert count_groups(make_sample(n, 49) for n in range(4)) == [3, 1]
    assert count_groups(make_sample(n, 50) for n in range(4)) == [2, 2]


@pytest.mark.parametrize(
    ("width", "mib"), [(64, 16), (512, 16), (768, 23.4375), (1280, 39.0625), (4096, 64)]
)
def test_clips_of_ten_seconds_fill_groups_by_their_number(width: int, mib: float) -> None:
    """A thousand clips of sixteen frames are one group, or very nearly, for any usual model."""
    assert limit_bytes(width) == mib * 2**20
