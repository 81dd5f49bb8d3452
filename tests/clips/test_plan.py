"""The order of a plan follows from its rows alone, and the plan's file gives it back."""

import hashlib
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_kinetics700.schema import SPLITS
from clip_kinetics700_builder.clips.plan import (
    PlanTable,
    cut_parts,
    cut_splits,
    order_clips,
    plan_digest,
    read_plan,
    write_plan,
)
from clip_kinetics700_builder.types import Clip, InputError

OWN = Clip("test", "ü", None, None, None, "", path="in/ü.mp4", extra='{"path": "in/ü.mp4"}')


def make_clips(count: int) -> list[Clip]:
    """Return that many clips, a third of each split, ids and segments partly shared."""
    return [
        Clip(SPLITS[i % 3], f"id_{i // 2:08d}", 10 * i, 10 * i + 10, "yoga", "yoga")
        for i in range(count)
    ]


def test_order_is_split_then_documented_digest() -> None:
    """A row's place is that of blake2b over NUL-separated seed, id and times."""

    def key(clip: Clip) -> tuple[int, bytes]:
        text = f"7\0{clip.video_id}\0{clip.time_start}\0{clip.time_end}"
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        return ["train", "validation", "test"].index(clip.split), digest

    clips = make_clips(100)
    assert order_clips(clips, 7) == sorted(clips, key=key)


def test_order_is_pinned() -> None:
    """The first rows of a known list stay the first rows, in every version of the code."""
    ordered = order_clips([*make_clips(30), OWN], 0)
    assert [clip.identity for clip in ordered[:3]] == [
        "id_00000010,210,220",
        "id_00000000,0,10",
        "id_00000009,180,190",
    ]
    assert [clip.split for clip in ordered] == ["train"] * 10 + ["validation"] * 10 + ["test"] * 11


@settings(deadline=None)
@given(st.sets(st.integers(0, 29)), st.randoms(use_true_random=False), st.integers())
def test_rows_that_come_or_go_leave_the_others_alone(
    kept: set[int], random: Random, seed: int
) -> None:
    """Any subset in any order of input keeps the order it has in the whole."""
    clips = make_clips(30)
    subset = [clips[i] for i in kept]
    random.shuffle(subset)
    whole = order_clips(clips, seed)
    assert order_clips(subset, seed) == [clip for clip in whole if clip in subset]


def test_seeds_give_other_orders() -> None:
    """The seed shuffles rows within their splits."""
    clips = make_clips(60)
    assert order_clips(clips, 0) != order_clips(clips, 1)
    assert order_clips(clips, 0) == order_clips(clips[::-1], 0)


@pytest.mark.parametrize("rows_per_part", [1, 3, 7, 10, 500])
def test_parts_hold_every_row_once_and_one_split_each(rows_per_part: int) -> None:
    """Parts are runs of the plan, full but for the last of a split."""
    clips = order_clips(make_clips(30), 0)
    parts = cut_parts(clips, rows_per_part)
    assert [row for part in parts for row in part.rows or ()] == list(range(30))
    for part in parts:
        assert {clips[row].split for row in part.rows or ()} == {part.name[:-6]}
    names = [part.name for part in parts]
    per_split = -(-10 // rows_per_part)
    assert names == [f"{split}-{i:05d}" for split in SPLITS for i in range(per_split)]


def test_parts_of_absent_splits_do_not_exist() -> None:
    """A split without rows has no part, and no rows give no parts."""
    clips = [clip for clip in make_clips(9) if clip.split != "validation"]
    parts = cut_parts(order_clips(clips, 0), 2)
    assert [part.name for part in parts] == [
        "train-00000",
        "train-00001",
        "test-00000",
        "test-00001",
    ]
    assert cut_parts([], 2) == []


def test_parts_are_refused_for_no_rows_or_no_plan() -> None:
    """Less than one row a part, or rows that are not in plan order, are errors."""
    with pytest.raises(InputError, match="at least 1, got 0"):
        cut_parts([], 0)
    with pytest.raises(ValueError, match="row 3 of the plan, train, follows a later split"):
        cut_parts(make_clips(4), 2)


def test_a_plan_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """Order, missing values and letters survive, equal plans are equal bytes."""
    clips = order_clips([*make_clips(20), OWN], 0)
    write_plan(tmp_path / "a.parquet", clips)
    write_plan(tmp_path / "b.parquet", clips)
    assert read_plan(tmp_path / "a.parquet") == clips
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.parquet", "b.parquet"]


def test_a_plan_as_a_table_gives_the_same_clips(tmp_path: Path) -> None:
    """Clips that are made when they are asked for are those of the list, and so are the splits."""
    clips = order_clips([*make_clips(2500), OWN], 0)
    write_plan(tmp_path / "plan.parquet", clips)
    plan = PlanTable(tmp_path / "plan.parquet")
    assert len(plan) == len(clips)
    assert list(plan) == clips
    assert plan.take(range(990, 1010)) == clips[990:1010]
    assert {s: {c.split for c in plan.take(span)} for s, span in plan.spans.items()} == {
        split: {split} for split in SPLITS
    }
    assert cut_splits(plan.spans, 500) == cut_parts(clips, 500)


def test_an_empty_plan_can_be_written(tmp_path: Path) -> None:
    """No rows are no special case."""
    write_plan(tmp_path / "plan.parquet", [])
    assert read_plan(tmp_path / "plan.parquet") == []
    assert PlanTable(tmp_path / "plan.parquet").spans == {}


def test_a_file_that_is_no_plan_is_refused(tmp_path: Path) -> None:
    """Missing files, other bytes and other columns are errors that name the file."""
    file = tmp_path / "plan.parquet"
    with pytest.raises(InputError, match=r"cannot read plan .*plan.parquet"):
        read_plan(file)
    file.write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"cannot read plan .*plan.parquet"):
        read_plan(file)
    pq.write_table(pa.table({"x": [1]}), file)
    with pytest.raises(InputError, match=r"plan.parquet is no plan: columns \['x'\], expected"):
        read_plan(file)


def test_the_digest_is_of_documented_lines() -> None:
    """The digest is sha256 of one JSON array a row."""
    line = rb'["test","\u00fc",null,null,null,"","in/\u00fc.mp4","{\"path\": \"in/\u00fc.mp4\"}"]'
    assert plan_digest([OWN]) == hashlib.sha256(line + b"\n").hexdigest()


def test_the_digest_sees_every_field_and_the_order() -> None:
    """Another value anywhere, or two rows exchanged, is another plan."""
    a, b = make_clips(2)
    changed = Clip(a.split, a.video_id, a.time_start, a.time_end, a.label, "Yoga")
    assert len({plan_digest(plan) for plan in ([a, b], [b, a], [changed, b], [a], [])}) == 5
