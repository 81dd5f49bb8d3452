"""Search gives what a float32 product with every frame gives, with a link to YouTube."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import clip_kinetics700
from clip_kinetics700 import DamageError, Sample
from clip_kinetics700_builder.evaluate import search
from clip_kinetics700_builder.evaluate.search import load_frames, search_frames
from clip_kinetics700_builder.types import InputError
from tests.support.datasets.builds import run_cli
from tests.support.datasets.dialects import write_foreign
from tests.support.datasets.layouts import make_sample, write_dataset, write_index

WIDTH = 8


def make_clip(number: int, frames: npt.ArrayLike, **changes: Any) -> Sample:
    """Return a clip of these frames, a second apart from second 0.5 on."""
    rows = np.asarray(frames, np.float16)
    clip = make_sample(number, width=rows.shape[1], n_frames=len(rows))
    timestamps = 0.5 + np.arange(len(rows), dtype=np.float32)
    return replace(clip, **{"embeddings": rows, "timestamps": timestamps, **changes})


def write(directory: Path, clips: Sequence[Sample]) -> Path:
    """Write a dataset of train alone."""
    return write_index(write_dataset(directory, {"train": clips}, class_names=None))


def make_noise(count: int) -> list[Sample]:
    """Return clips of 0 to 5 random frames."""
    rng = np.random.default_rng(2)
    return [make_clip(n, rng.standard_normal((n % 6, WIDTH))) for n in range(count)]


def test_the_result_is_that_of_brute_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips, their order and cosines are those of one product in float32, whatever the pieces."""
    monkeypatch.setattr(search, "FRAMES_PER_PIECE", 7)
    clips = make_noise(60)
    vectors = np.random.default_rng(3).standard_normal((3, WIDTH)).astype(np.float32)
    store = load_frames(clip_kinetics700.open(write(tmp_path / "toy", clips)))
    found = search_frames(store, vectors, top=9)
    for vector, hits in zip(vectors, found, strict=True):
        best = {}
        for clip in clips:
            frames = clip.embeddings.astype(np.float32)
            if len(frames):
                norms = np.linalg.norm(frames, axis=1) * np.linalg.norm(vector)
                best[clip.key] = float((frames @ vector / norms).max())
        order = sorted(best, key=lambda key: -best[key])[:9]
        assert [hit.key for hit in hits] == order
        np.testing.assert_allclose([hit.similarity for hit in hits], [best[k] for k in order], 1e-5)


def test_the_link_goes_to_the_second_of_the_best_frame(tmp_path: Path) -> None:
    """The best of three frames is the last, 2.5 s into a clip that starts at second 40."""
    clip = make_clip(40, [[1, 0], [0, 1], [3, 4]], caption="juggling fire")
    store = load_frames(clip_kinetics700.open(write(tmp_path / "toy", [clip])))
    (hit,) = search_frames(store, np.array([[0.6, 0.8]]), top=20)[0]
    assert hit.similarity == pytest.approx(1)
    assert (hit.key, hit.caption, hit.split, hit.seconds) == (
        clip.key,
        "juggling fire",
        "train",
        2.5,
    )
    assert hit.link == f"https://www.youtube.com/watch?v={clip.youtube_id}&t=42s"


def test_without_times_a_frame_is_a_second(tmp_path: Path) -> None:
    """Upstream records no timestamps: the third frame is at second 2; own videos have no link."""
    clip = make_clip(7, [[1, 0], [0, 1], [3, 4]], timestamps=None, time_start=None)
    store = load_frames(clip_kinetics700.open(write(tmp_path / "toy", [clip])))
    (hit,) = search_frames(store, np.array([[0.6, 0.8]]), top=1)[0]
    assert (hit.seconds, hit.link) == (2.0, None)


def test_of_equal_clips_the_earlier_is_first(tmp_path: Path) -> None:
    """Frames of one direction are equal whatever their length, and keep the order of the data."""
    clips = [make_clip(number, [[0, 1 + number], [0, 1]]) for number in range(5)]
    store = load_frames(clip_kinetics700.open(write(tmp_path / "toy", clips)))
    hits = search_frames(store, np.array([[0, 1]]), top=3)[0]
    assert [hit.key for hit in hits] == [clip.key for clip in clips[:3]]
    assert [hit.seconds for hit in hits] == [0.5] * 3


def test_frames_that_are_no_numbers_match_nothing(tmp_path: Path) -> None:
    """NaN, infinity and zeros have a cosine of 0, not NaN, and their clips stay."""
    rows: list[list[float]] = [[np.nan, 1], [np.inf, 1], [0, 0], [-1, 0], [1, 0]]
    clips = [make_clip(number, [row]) for number, row in enumerate(rows)]
    store = load_frames(clip_kinetics700.open(write(tmp_path / "toy", clips)))
    hits = search_frames(store, np.array([[1, 0]]), top=5)[0]
    assert [hit.similarity for hit in hits] == [1, 0, 0, 0, -1]


def test_float32_is_kept(tmp_path: Path) -> None:
    """Frames that are stored as float32 are not rounded to float16."""
    opened = clip_kinetics700.open(write_foreign(tmp_path / "toy", dtype=np.float32))
    store = load_frames(opened)
    assert store.frames.dtype == np.float32
    np.testing.assert_array_equal(store.frames, np.concatenate([s.embeddings for s in opened]))


def test_clips_of_another_width_are_damage(tmp_path: Path) -> None:
    """A clip of another width is named, or left out where damage is skipped."""
    clips = [make_clip(0, [[1, 0]]), make_clip(1, [[1, 0, 0]])]
    source = write_dataset(tmp_path / "toy", {"train": clips}, class_names=None, parquet=False)
    dataset = clip_kinetics700.open(source)
    with pytest.raises(DamageError, match="vid_000000001: 3 columns, the others have 2"):
        load_frames(dataset)
    assert len(load_frames(dataset, on_error="skip").frames) == 1


def test_nothing_to_search_is_refused(tmp_path: Path) -> None:
    """A dataset of clips without frames is one line."""
    source = write(tmp_path / "toy", [make_clip(0, np.empty((0, WIDTH)))])
    with pytest.raises(InputError, match="there are no frames to search"):
        load_frames(clip_kinetics700.open(source))


def test_the_command_searches_several_texts(dataset: Path, whole_clip: Path) -> None:
    """One run answers several texts, of one split where asked, as lines or as JSON."""
    words: list[str | Path] = [
        "search",
        dataset,
        "a person juggling fire",
        "yoga",
        "--model",
        whole_clip,
    ]
    outcome = run_cli(*words, "--top", "2", "--split", "val", "--json")
    assert outcome.returncode == 0, outcome.stderr
    found = json.loads(outcome.stdout)
    assert list(found) == ["a person juggling fire", "yoga"]
    for hits in found.values():
        assert [hit["split"] for hit in hits] == ["validation"] * 2
    first = found["yoga"][0]
    lines = run_cli(*words, "--top", "2", "--split", "val").stdout
    assert f"{first['similarity']:.4f}  {first['link']}  validation {first['key']}" in lines
    clip = clip_kinetics700.open(dataset)[first["key"]]
    assert clip.time_start is not None
    assert first["link"].endswith(f"{clip.youtube_id}&t={int(clip.time_start + first['seconds'])}s")
