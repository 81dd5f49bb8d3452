"""Several test modules draw texts, clips, samples and results of rows by these strategies.

Results are drawn as a few numbers and a seed, so that a failing example is short and cheap.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from clip_kinetics700.schema import KEY_NAME, REASONS, SPLITS, Float16Array, Sample
from clip_kinetics700_builder.config import AssembleConfig
from clip_kinetics700_builder.dataset.totals import Totals
from clip_kinetics700_builder.parts.canary import Canary
from clip_kinetics700_builder.types import FORMATS, NO_FILE, Clip, EncodedClip, Failure, VideoInfo
from tests.support.damage.datasets import CLASS_NAMES
from tests.support.processes.torture import count_cases, say_count

MAX_INT64 = 2**63 - 1
# A float16 whose five bits of exponent are all set is infinite or no number.
EXPONENT_BITS = np.uint16(0x7C00)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
"""Everything that UTF-8 can hold: NUL, line breaks, combining marks, planes above the first."""
INTEGERS = st.integers(-MAX_INT64 - 1, MAX_INT64)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def kinetics_clips(draw: st.DrawFn) -> Clip:
    """Draw a row of Kinetics; labels may be missing, as in its test split."""
    start = draw(st.integers(0, 999_999))
    label = draw(st.none() | st.sampled_from(CLASS_NAMES))
    video_id = draw(st.text("aZ09_-", min_size=11, max_size=11))
    return Clip(draw(st.sampled_from(SPLITS)), video_id, start, start + 10, label, label or "")


@st.composite
def own_clips(draw: st.DrawFn) -> Clip:
    """Draw a row of one's own videos: no times, any caption, a path and other columns."""
    path = draw(TEXTS.filter(lambda text: text != "" and "\0" not in text))
    return Clip(
        split=draw(st.sampled_from(SPLITS)),
        video_id=draw(TEXTS),
        time_start=None,
        time_end=None,
        label=draw(st.none() | TEXTS),
        caption=draw(TEXTS),
        path=path,
        extra=draw(st.none() | TEXTS),
    )


def clip_lists(min_size: int = 0, max_size: int = 12) -> st.SearchStrategy[list[Clip]]:
    """Return what draws clips of one kind or both, no two of them the same row."""
    return st.lists(
        kinetics_clips() | own_clips(),
        min_size=min_size,
        max_size=max_size,
        unique_by=lambda clip: clip.identity,
    )


def float16_arrays(max_frames: int = 5) -> st.SearchStrategy[Float16Array]:
    """Return what draws (n_frames, width) arrays of finite numbers, -0 and subnormals included."""
    return st_numpy.arrays(
        np.float16,
        st.tuples(st.integers(0, max_frames), st.integers(1, 5)),
        elements=st.floats(width=16, allow_nan=False, allow_infinity=False),
    )


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """Draw any sample that the contract allows."""
    embeddings = draw(float16_arrays())
    times = st_numpy.arrays(
        np.float32,
        len(embeddings),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
    return Sample(
        key=KEY_NAME.format(draw(st.integers(0, 10**9 - 1))),
        embeddings=embeddings,
        caption=draw(TEXTS),
        youtube_id=draw(st.none() | TEXTS),
        time_start=draw(st.none() | INTEGERS),
        time_end=draw(st.none() | INTEGERS),
        label_id=draw(st.none() | INTEGERS),
        timestamps=draw(st.none() | times),
        duration=draw(st.none() | FLOATS),
        fps=draw(st.none() | FLOATS),
        width=draw(st.none() | INTEGERS),
        height=draw(st.none() | INTEGERS),
        extra=draw(st.none() | TEXTS),
    )


@dataclass(frozen=True)
class DrawnRows:
    """Rows that can be assembled: a plan, and what became of each of its rows."""

    clips: list[Clip]
    outcomes: list[EncodedClip | Failure]
    width: int
    class_names: list[str] | None = field(default_factory=lambda: [*CLASS_NAMES])
    canary: Canary | None = None
    fingerprint: str = "drawn"

    @property
    def configuration(self) -> Mapping[str, Any]:
        """What the manifest says the embeddings were made with."""
        return {"embedding_width": self.width, "seed": 0}

    @property
    def totals(self) -> dict[str, Totals]:
        """Counts of every split that has rows."""
        totals: dict[str, Totals] = {}
        for clip, outcome in zip(self.clips, self.outcomes, strict=True):
            of_split = totals.setdefault(clip.split, Totals())
            of_split.rows += 1
            if isinstance(outcome, Failure):
                of_split.add_failures(outcome.reason, 1)
            else:
                of_split.samples += 1
                of_split.frames += len(outcome.embeddings)
        return totals

    def results(self, split: str) -> Iterator[tuple[Clip, EncodedClip | Failure]]:
        """Yield the rows of a split."""
        for clip, outcome in zip(self.clips, self.outcomes, strict=True):
            if clip.split == split:
                yield clip, outcome


@st.composite
def drawn_rows(draw: st.DrawFn, *, from_parts: bool = False) -> DrawnRows:
    """Draw the rows of a plan: their splits, how many frames each gave, and what else it holds.

    Args:
        draw: hypothesis's function that draws from a strategy.
        from_parts: draw only what a part can hold, which has an info of every clip.
    """
    # Zero frames stand for a failure.
    lengths = draw(st.lists(st.lists(st.integers(0, 4), max_size=9), min_size=3, max_size=3))
    lengths[0] = lengths[0] or [1]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    captions = draw(st.lists(TEXTS, min_size=1, max_size=4))
    width = draw(st.integers(1, 4))
    clips: list[Clip] = []
    outcomes: list[EncodedClip | Failure] = []
    for split, of_split in zip(SPLITS, lengths, strict=True):
        for n_frames in of_split:
            row = len(clips)
            clips.append(make_clip(rng, split, row, captions))
            outcomes.append(make_outcome(rng, row, n_frames, width))
            if isinstance(outcomes[-1], EncodedClip) and not from_parts and row % 5 == 4:
                outcomes[-1] = EncodedClip(row, outcomes[-1].embeddings, None, None)
    return DrawnRows(clips, outcomes, width, canary=Canary([1.0] * width))


def make_clip(rng: np.random.Generator, split: str, row: int, captions: list[str]) -> Clip:
    """Return a clip of Kinetics with a label or none, or one's own video with any caption."""
    kind = int(rng.integers(3))
    if kind == 0:
        caption = captions[int(rng.integers(len(captions)))]
        return Clip(split, f"é{row}", None, None, None, caption, path=f"in/é{row}.mp4", extra="{}")
    label = None if kind == 1 else CLASS_NAMES[int(rng.integers(len(CLASS_NAMES)))]
    return Clip(split, f"-a_{row:08d}", row, row + 10, label, label or "")


def make_outcome(
    rng: np.random.Generator, row: int, n_frames: int, width: int
) -> EncodedClip | Failure:
    """Return what became of a row: embeddings of any finite bits, or a failure for no frames."""
    if n_frames == 0:
        reason = REASONS[int(rng.integers(len(REASONS)))]
        message = NO_FILE if reason == "missing" else "the file is no video"
        return Failure(row, "source" if reason == "missing" else "decode", reason, message)
    bits = rng.integers(0, 2**16, (n_frames, width), dtype=np.uint16)
    # What would be infinite or no number becomes -0 or 0, which must not be taken for each other.
    bits[bits & EXPONENT_BITS == EXPONENT_BITS] &= np.uint16(0x8000)
    info = VideoInfo(n_frames, float(rng.random() + n_frames), 29.97, 340, 256)
    return EncodedClip(row, bits.view(np.float16), np.arange(n_frames, dtype=np.float32), info)


examples: list[str] = []
"""Directories that examples took since the module started."""


def count_examples(suite: int) -> int:
    """Return how many examples a test draws: ten times as many with `make torture`."""
    return count_cases(suite, full=10 * suite)


def say_examples(what: str) -> Iterator[None]:
    """Report how many examples took a directory, when a module ends."""
    examples.clear()
    yield
    say_count(f"{len(examples)} {what}, by hypothesis, derandomised")


@contextmanager
def temporary_path() -> Iterator[Path]:
    """Yield a directory that is removed afterwards: an example must not see the one before."""
    with TemporaryDirectory() as place:
        examples.append(place)
        yield Path(place)


def config_of(output: Path, n_per_shard: int, formats: tuple[str, ...] = FORMATS) -> AssembleConfig:
    """Return options of an assembly."""
    return AssembleConfig(
        source=output, output=output, samples_per_shard=n_per_shard, formats=formats, figures=False
    )
