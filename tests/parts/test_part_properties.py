"""For any rows, how their parts were cut, dealt to archives and ordered leaves no trace."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_kinetics700_builder.assemble.assemble import assemble
from clip_kinetics700_builder.assemble.part_rows import PartRows
from clip_kinetics700_builder.clips.plan import cut_parts, write_plan
from clip_kinetics700_builder.parts.part import finish_part, name_try, write_results
from clip_kinetics700_builder.parts.part_reader import make_results, read_part
from clip_kinetics700_builder.parts.work import (
    CONFIG_NAME,
    PLAN_NAME,
    Sources,
    WorkConfig,
    parts_directory,
    store_sources,
)
from clip_kinetics700_builder.system.files import write_json
from clip_kinetics700_builder.types import NO_FILE, Archive, EncodedClip, Failure, Part
from tests.support.damage.datasets import problems_of
from tests.support.datasets.builds import published_hashes
from tests.support.datasets.strategies import (
    DrawnRows,
    config_of,
    count_examples,
    drawn_rows,
    say_examples,
    temporary_path,
)

SHARD_SIZES = st.integers(1, 6)
# Generators that draw the order in which parts are written, and what else lies in archives.
RANDOMS = st.randoms(use_true_random=False)


@pytest.fixture(scope="module", autouse=True)
def _say_examples() -> Iterator[None]:
    yield from say_examples("drawn work directories")


@dataclass(frozen=True)
class Work:
    """A work directory: a plan that is stored, and parts that are written to it."""

    path: Path
    rows: DrawnRows

    def store(self, sources: Sources, rows_per_part: int) -> None:
        """Store configuration, sources and plan."""
        parts_directory(self.path).mkdir(parents=True)
        config = WorkConfig(
            dict(self.rows.configuration), self.rows.class_names, "cpu", rows_per_part
        )
        write_json(self.path / CONFIG_NAME, asdict(config))
        write_plan(self.path / PLAN_NAME, self.rows.clips)
        store_sources(self.path, sources)

    def finish(self, part: Part, outcomes: Sequence[EncodedClip | Failure]) -> None:
        """Write a part and its report."""
        canary = np.ones(self.rows.width, np.float32)
        directory = parts_directory(self.path)
        report = write_results(directory, part, outcomes, width=self.rows.width, canary=canary)
        finish_part(directory, report)

    def assemble_beside(self, n_per_shard: int) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Return the hashes of what the parts give, and of what the rows themselves give."""
        output = self.path / "published"
        assemble(PartRows(self.path), config_of(output, n_per_shard))
        assert problems_of(output) == {}
        from_parts = published_hashes(output)
        shutil.rmtree(output)
        assemble(self.rows, config_of(output, n_per_shard))
        return from_parts, published_hashes(output)


@pytest.mark.torture
@settings(max_examples=count_examples(20))
@given(drawn_rows(from_parts=True), SHARD_SIZES, st.integers(1, 12), RANDOMS)
def test_how_parts_are_cut_leaves_no_trace(
    rows: DrawnRows, n_per_shard: int, rows_per_part: int, random: Random
) -> None:
    """Parts of any size, written in any order, are published as the rows are without parts."""
    parts = cut_parts(rows.clips, rows_per_part)
    random.shuffle(parts)
    with temporary_path() as path:
        work = Work(path, rows)
        work.store(Sources(), rows_per_part)
        for part in parts:
            work.finish(part, [rows.outcomes[row] for row in part.rows or ()])
        from_parts, from_rows = work.assemble_beside(n_per_shard)
        assert from_parts == from_rows


def spoil(outcome: EncodedClip | Failure, random: Random) -> Failure:
    """Return a failure that must not count beside an outcome."""
    is_sample = isinstance(outcome, EncodedClip)
    reason = random.choice(["missing", "truncated", "crashed"]) if is_sample else "missing"
    return Failure(outcome.row, "decode", reason, NO_FILE)


def deal_rows(rows: DrawnRows, n_archives: int, random: Random) -> dict[str, list[Any]]:
    """Return what each archive gave, in any order: every outcome in one, worse ones in others."""
    names = [f"part_{number}" for number in range(n_archives)]
    dealt: dict[str, list[Any]] = {name: [] for name in names}
    tries: dict[str, list[Any]] = {}
    for outcome in rows.outcomes:
        home = random.choice(names)
        dealt[home].append(outcome)
        others = [name for name in names if name != home and random.random() < 0.3]
        for name in others:
            dealt[name].append(spoil(outcome, random))
        if random.random() < 0.3:
            tries.setdefault(name_try(home, 1), []).append(spoil(outcome, random))
        elif isinstance(outcome, Failure) and outcome.reason == "missing":
            # A clip that no source has may be in no archive at all.
            dealt[home].pop()
    dealt |= tries
    for outcomes in dealt.values():
        random.shuffle(outcomes)
    return dealt


@pytest.mark.slow
@pytest.mark.torture
@settings(max_examples=count_examples(20))
@given(drawn_rows(from_parts=True), SHARD_SIZES, st.integers(1, 4), RANDOMS)
def test_how_rows_lie_in_archives_leaves_no_trace(
    rows: DrawnRows, n_per_shard: int, n_archives: int, random: Random
) -> None:
    """Rows dealt to archives in any order, beside failures of other tries, are published alike."""
    dealt = deal_rows(rows, n_archives, random)
    names = random.sample([*dealt], len(dealt))
    sources = tuple(f"part_{number}" for number in range(n_archives))
    with temporary_path() as path:
        work = Work(path, rows)
        work.store(Sources(has_videos=False, archives=sources), 500)
        for name in names:
            archive = Archive(name.partition(".")[0], "nowhere", None)
            work.finish(Part(name, None, archive), dealt[name])
        from_parts, from_rows = work.assemble_beside(n_per_shard)
        assert from_parts == from_rows


@pytest.mark.torture
@settings(max_examples=count_examples(20))
@given(drawn_rows(from_parts=True), RANDOMS)
def test_a_part_gives_back_what_was_written(rows: DrawnRows, random: Random) -> None:
    """Any results, in any order of rows, are read from their part bit for bit, and counted."""
    outcomes = random.sample(rows.outcomes, len(rows.outcomes))
    part = Part("train-00000", [outcome.row for outcome in outcomes])
    canary = np.ones(rows.width, np.float32)
    with temporary_path() as path:
        report = write_results(path, part, outcomes, width=rows.width, canary=canary)
        finish_part(path, report)
        finished = read_part(path, part.name)
        assert finished.report == report
        found = list(make_results(finished.rows, [path / f"{part.name}.arrow"], rows.width))
        assert list(map(describe, found)) == list(map(describe, outcomes))
    lengths = [len(o.embeddings) if isinstance(o, EncodedClip) else None for o in outcomes]
    assert report.n_failures == lengths.count(None)
    assert report.n_frames == sum(length or 0 for length in lengths)


def describe(outcome: EncodedClip | Failure) -> tuple[Any, ...]:
    """Return what makes an outcome itself, every bit of it."""
    if isinstance(outcome, Failure):
        return (outcome,)
    assert outcome.timestamps is not None
    arrays = outcome.embeddings, outcome.timestamps
    return outcome.row, outcome.info, *[(a.shape, a.dtype, a.tobytes()) for a in arrays]
