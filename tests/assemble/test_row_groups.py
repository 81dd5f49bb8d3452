"""Row groups are closed early for long clips and hold the bytes that writing row by row gives."""

from threading import Thread

import numpy as np
import pyarrow as pa
import pytest

from clip_kinetics700.features import INDEX_SCHEMA, data_schema
from clip_kinetics700.index import index_row
from clip_kinetics700.schema import KEY_NAME, Sample
from clip_kinetics700_builder.assemble import row_groups
from clip_kinetics700_builder.assemble.row_groups import (
    ROWS_PER_GROUP,
    FrameMemory,
    RowGroup,
    RowGroups,
)
from clip_kinetics700_builder.assemble.tar import Place

WIDTH = 3
SCHEMA = data_schema(WIDTH, None)


def make_sample(number: int, n_frames: int, width: int = WIDTH) -> Sample:
    """Return a sample; every third one has no timestamps, every other no times."""
    rng = np.random.default_rng(number)
    times = None if number % 3 == 0 else np.linspace(0, 9, n_frames).astype(np.float32)
    begin = number if number % 2 else None
    return Sample(
        key=KEY_NAME.format(number),
        embeddings=rng.standard_normal((n_frames, width)).astype(np.float16),
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


def gather(samples: list[Sample], *, keeps_frames: bool = True) -> list[RowGroup]:
    """Return the groups of samples."""
    groups = RowGroups(FrameMemory(WIDTH), keeps_frames=keeps_frames)
    full = [groups.add(sample, Place(512, 100)) for sample in samples]
    return [*filter(None, full), *groups.take_rest()]


def test_columns_are_those_of_rows() -> None:
    """Tables made column by column equal those made of a dictionary for each row."""
    samples = [make_sample(number, number % 4) for number in range(50)]
    (group,) = gather(samples)
    rows = [
        {"embeddings": s.embeddings.tolist(), "caption": s.caption, "meta": s.meta} for s in samples
    ]
    assert group.data_table(SCHEMA).drop_columns("embeddings") == pa.Table.from_pylist(
        rows, SCHEMA
    ).drop_columns("embeddings")
    assert group.data_table(SCHEMA).column("embeddings").to_pylist() == [
        row["embeddings"] for row in rows
    ]
    for tar, place in (("ds_000000.tar", (512, 100)), (None, (None, None))):
        expected = [index_row("train", sample, tar, place) for sample in samples]
        assert group.index_table("train", tar) == pa.Table.from_pylist(expected, INDEX_SCHEMA)


def test_groups_have_a_thousand_rows() -> None:
    """Short clips fill groups by their number; nothing is left of none."""
    groups = gather([make_sample(number, 1) for number in range(2 * ROWS_PER_GROUP + 1)])
    assert [len(group) for group in groups] == [ROWS_PER_GROUP, ROWS_PER_GROUP, 1]
    assert gather([]) == []


def test_groups_of_long_clips_are_closed_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group is closed by the clip that fills it, and not before."""
    monkeypatch.setattr(row_groups, "MOST_BYTES", 2 * WIDTH * 100)
    assert [len(group) for group in gather([make_sample(n, 49) for n in range(4)])] == [3, 1]
    assert [len(group) for group in gather([make_sample(n, 50) for n in range(4)])] == [2, 2]


@pytest.mark.parametrize(
    ("width", "mib"), [(64, 16), (512, 16), (768, 23.4375), (1280, 39.0625), (4096, 64)]
)
def test_clips_of_ten_seconds_fill_groups_by_their_number(width: int, mib: float) -> None:
    """A thousand clips of sixteen frames are one group, or very nearly, for any usual model."""
    assert row_groups.limit_bytes(width) == mib * 2**20


def test_embeddings_of_another_width_are_refused() -> None:
    """One column is not spread over all of them."""
    with pytest.raises(ValueError, match="embeddings are 1 wide, those of the dataset 3"):
        gather([make_sample(0, 2, width=1)])


def test_memory_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that is too much beside others waits until they are written; alone it never does."""
    monkeypatch.setattr(row_groups, "BYTES_WAITING", 100)
    memory = FrameMemory(WIDTH)
    first, second = (gather([make_sample(number, 20)])[0] for number in range(2))
    memory.await_room(first)
    waiting = Thread(target=memory.await_room, args=(second,))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    memory.give_back(first)
    waiting.join(60)
    assert not waiting.is_alive()
    assert memory.take() is first.memory
