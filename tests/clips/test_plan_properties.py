"""For any clips, a plan is an order of their own, cut into parts that lose nothing."""

from dataclasses import replace
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_kinetics700.schema import SPLITS
from clip_kinetics700_builder.clips.plan import (
    cut_parts,
    order_clips,
    plan_digest,
    read_plan,
    write_plan,
)
from clip_kinetics700_builder.types import Clip
from tests.support.datasets.strategies import INTEGERS, TEXTS, clip_lists

SEEDS = st.integers(0, 2**63 - 1)
RANDOMS = st.randoms(use_true_random=False)
OTHER_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "split": st.sampled_from(SPLITS),
    "video_id": TEXTS,
    "time_start": st.none() | INTEGERS,
    "time_end": st.none() | INTEGERS,
    "label": st.none() | TEXTS,
    "caption": TEXTS,
    "path": st.none() | TEXTS,
    "extra": st.none() | TEXTS,
}


@given(clip_lists(), SEEDS, RANDOMS)
def test_the_order_is_of_the_rows_alone(clips: list[Clip], seed: int, random: Random) -> None:
    """The plan holds every clip once, split by split, however its annotations were ordered."""
    plan = order_clips(clips, seed)
    assert sorted(map(repr, plan)) == sorted(map(repr, clips))
    places = [SPLITS.index(clip.split) for clip in plan]
    assert places == sorted(places)
    shuffled = random.sample(clips, len(clips))
    assert order_clips(shuffled, seed) == plan


@given(clip_lists(min_size=12, max_size=20), SEEDS, SEEDS)
def test_the_order_is_of_the_seed(clips: list[Clip], one: int, other: int) -> None:
    """Another seed is another order: of 12 rows and more, two agree once in 400 million."""
    in_train = [replace(clip, split="train") for clip in clips]
    plans = [order_clips(in_train, seed) for seed in (one, other)]
    assert (plans[0] == plans[1]) == (one == other)


@given(clip_lists(max_size=30), st.integers(1, 12), st.integers(1, 5))
def test_parts_and_ranks_share_the_rows_out(
    clips: list[Clip], rows_per_part: int, world_size: int
) -> None:
    """Every row is in one part of one rank; parts are of one split, full but for its last."""
    plan = order_clips(clips, 0)
    parts = cut_parts(plan, rows_per_part)
    assert [row for part in parts for row in part.rows or ()] == list(range(len(plan)))
    assert len({part.name for part in parts}) == len(parts)
    for split, of_split in groupby(parts, lambda part: part.name.rpartition("-")[0]):
        rows = [part.rows or () for part in of_split]
        assert {plan[row].split for part in rows for row in part} == {split}
        *full, last = map(len, rows)
        assert {*full} <= {rows_per_part}
        assert 0 < last <= rows_per_part
    of_ranks = [parts[rank::world_size] for rank in range(world_size)]
    names = [part.name for of_rank in of_ranks for part in of_rank]
    assert sorted(names) == sorted(part.name for part in parts)


def list_neighbours(value: Any) -> list[Any]:
    """Return values that a careless digest takes for the same one."""
    text = str(value)
    if isinstance(value, int):
        return [value + 1, -value]
    return [None, text, text.swapcase(), f"{text} ", f"{text}\0", normalize("NFD", text)]


@pytest.mark.parametrize("name", OTHER_VALUES)
@settings(max_examples=40)
@given(clips=clip_lists(min_size=1, max_size=5), data=st.data())
def test_the_digest_is_of_every_field(name: str, clips: list[Clip], data: st.DataObject) -> None:
    """Another value in any field of any clip gives another digest."""
    row = data.draw(st.integers(0, len(clips) - 1))
    before = getattr(clips[row], name)
    near = st.sampled_from(list_neighbours(before))
    value = data.draw((OTHER_VALUES[name] | near).filter(lambda value: value != before))
    changed = [*clips]
    changed[row] = replace(clips[row], **{name: value})
    assert plan_digest(changed) != plan_digest(clips)


@given(clip_lists(min_size=3, max_size=3), *[st.lists(st.integers(0, 2), max_size=3)] * 2)
def test_digests_are_equal_for_equal_plans_alone(
    clips: list[Clip], one: list[int], other: list[int]
) -> None:
    """Plans of the same clips have one digest where they hold them in one order, only there."""
    digests = [plan_digest([clips[row] for row in rows]) for rows in (one, other)]
    assert (digests[0] == digests[1]) == (one == other)


@settings(max_examples=60)
@given(clips=clip_lists())
def test_any_plan_comes_back(tmp_path_factory: pytest.TempPathFactory, clips: list[Clip]) -> None:
    """Whatever letters and numbers clips hold, the plan's file gives them and their digest back."""
    path: Path = tmp_path_factory.getbasetemp() / "any_plan.parquet"
    write_plan(path, clips)
    back = read_plan(path)
    assert back == clips
    assert plan_digest(back) == plan_digest(clips)
