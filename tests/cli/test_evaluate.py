"""The command line evaluates datasets of any dialect, or refuses them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from clip_kinetics700 import Sample
from clip_kinetics700_builder.dataset.manifest import read_manifest
from clip_kinetics700_builder.encode.model_files import find_model
from clip_kinetics700_builder.encode.text import load_text_encoder
from clip_kinetics700_builder.system.files import hash_file
from tests.support.datasets.builds import run_cli
from tests.support.datasets.dialects import write_flat_upstream
from tests.support.datasets.evaluations import (
    NAMES,
    assert_refused,
    evaluate,
    make_clips,
    write_clips,
    write_prompt,
)

Float64Array = npt.NDArray[np.float64]


def embed(model: Path, names: Sequence[str]) -> Float64Array:
    """Return the directions of classes by the 28 prompts, written from the protocol alone."""
    verbs = "{},person {},person using {},person doing {},person during {},person performing {}"
    endings = [*verbs.split(","), "person practicing {}"]
    kinds = ("a photo of", "a video of", "a example of", "a demonstration of")
    prompts = [
        f"{kind} {'' if ending == '{}' else 'a '}{ending}." for kind in kinds for ending in endings
    ]
    assert len(prompts) == 28
    encoder = load_text_encoder(find_model(str(model), None))
    rows = []
    for name in names:
        vectors = encoder.encode([prompt.format(name) for prompt in prompts]).astype(np.float64)
        mean = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).mean(axis=0)
        rows.append(mean / np.linalg.norm(mean))
    return np.stack(rows)


def refer(clips: Sequence[Sample], weights: Float64Array) -> tuple[float, float]:
    """Return top-1 and top-2 of the card's protocol in float64, clip by clip."""
    places = []
    for clip in clips:
        frames = clip.embeddings.astype(np.float64)
        if len(frames):
            frames /= np.linalg.norm(frames, axis=1, keepdims=True)
            powers = np.exp(100 * frames @ weights.T)
            chances = (powers / powers.sum(axis=1, keepdims=True)).mean(axis=0)
            assert clip.label_id is not None
            places.append(int((chances > chances[clip.label_id]).sum()))
        else:
            places.append(99)
    return float(np.mean(np.array(places) < 1)), float(np.mean(np.array(places) < 5))


def test_the_result_is_that_of_the_protocol(tmp_path: Path, whole_clip: Path) -> None:
    """From frames and model to top-1 and top-5, the command agrees with a plain reference."""
    clips = make_clips(40)
    source = write_clips(tmp_path / "toy", clips)
    outcome = evaluate(source, whole_clip, "--json", tmp_path / "r.json")
    assert outcome.returncode == 0, outcome.stderr
    assert "records no model, so nothing says" in outcome.stderr
    result = json.loads((tmp_path / "r.json").read_text())
    top1, top5 = refer(clips, embed(whole_clip, NAMES))
    assert (result["top1"], result["top5"]) == pytest.approx((top1, top5), abs=1e-6)
    assert result["mean"] == pytest.approx((top1 + top5) / 2)
    assert (
        top5 == 0.75
    )  # a fourth of the clips has no frames, and of three classes all are in top 5
    assert result["clips"] == {"counted": 40, "dropped": {}}
    low, high = result["interval"]["top1"]
    assert low < top1 < high


def test_a_result_says_what_it_is_of(tmp_path: Path, whole_clip: Path, dataset: Path) -> None:
    """Every key of the format is there, with the dataset's hashes and no path of the machine."""
    words = ("--classes", "700", "--prompts", write_prompt(tmp_path), "--seed", "3")
    outcome = evaluate(dataset, whole_clip, *words, "--json", tmp_path / "r.json")
    assert outcome.returncode == 0, outcome.stderr
    text = (tmp_path / "r.json").read_text()
    result, manifest = json.loads(text), read_manifest(dataset)
    assert manifest is not None
    assert set(result) == {
        "format", "task", "protocol", "split", "top1", "top5", "mean", "interval", "clips", "model",
        "dataset", "seed", "parameters", "per_class", "confused", "versions",
    }  # fmt: skip
    assert result["format"] == "clip-kinetics700-evaluation/1"
    assert (result["task"], result["protocol"], result["split"]) == (
        "zero-shot", "card", "validation",
    )  # fmt: skip
    assert result["dataset"] == {
        "source": "dataset",
        "revision": None,
        "manifest_sha256": manifest.self_sha256,
        "data_sha256": manifest.data_sha256,
    }
    sha256 = hash_file(whole_clip / "model.safetensors")
    assert result["model"] == {"id": "whole_clip", "sha256": sha256}
    assert result["seed"] == 3
    assert result["parameters"]["prompts"] == ["{}"]
    # The dataset was made with the vision tower alone: another file of the same model.
    assert result["parameters"]["family"] == "same embedding of the test video"
    assert sum(row["clips"] for row in result["per_class"]) == result["clips"]["counted"] == 5
    assert str(dataset.parent) not in text


def test_the_table_and_the_picture(tmp_path: Path, whole_clip: Path) -> None:
    """A person sees metrics, worst classes and confusions; the picture is a PNG and repeatable."""
    source = write_clips(tmp_path / "toy", make_clips(40))
    words: list[str | Path] = [
        "evaluate", "zero-shot", source, "--model", whole_clip, "--figure",
    ]  # fmt: skip
    outcome = run_cli(*words, tmp_path / "a.png")
    assert outcome.returncode == 0, outcome.stderr
    assert "zero-shot, protocol card: 40 clips of validation" in outcome.stdout
    assert "mean of the two" in outcome.stdout
    assert "taken for" in outcome.stdout
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert run_cli(*words, tmp_path / "b.png", "--quiet").stdout == ""
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_shuffled_labels_are_at_chance(tmp_path: Path, whole_clip: Path) -> None:
    """Frames that are their class's text are all right; with shuffled labels chance is inside."""
    weights = embed(whole_clip, NAMES).astype(np.float16)
    clips = [
        replace(clip, embeddings=weights[[number % 3]], timestamps=None)
        for number, clip in enumerate(make_clips(300))
    ]
    evaluate(write_clips(tmp_path / "true", clips), whole_clip, "--json", tmp_path / "true.json")
    assert json.loads((tmp_path / "true.json").read_text())["top1"] == 1
    labels = np.random.default_rng(1).permutation(np.arange(len(clips)) % 3)
    shuffled = [
        replace(clip, label_id=int(label), caption=NAMES[label])
        for clip, label in zip(clips, labels, strict=True)
    ]
    evaluate(write_clips(tmp_path / "any", shuffled), whole_clip, "--json", tmp_path / "any.json")
    low, high = json.loads((tmp_path / "any.json").read_text())["interval"]["top1"]
    assert low < 1 / 3 < high


def test_a_test_split_without_labels_is_refused(tmp_path: Path, whole_clip: Path) -> None:
    """Kinetics' test labels were never released, and the refusal says so."""
    unlabelled = [replace(clip, caption="", label_id=None) for clip in make_clips(4)]
    source = write_clips(tmp_path / "toy", make_clips(8), unlabelled)
    assert_refused(
        evaluate(source, whole_clip, "--split", "test"),
        "no clip of split test has a label: Kinetics never released those",
    )
    (source / "index.parquet").unlink()
    outcome = evaluate(source, whole_clip, "--split", "test", "--prompts", write_prompt(tmp_path))
    assert outcome.returncode == 2
    assert "no clip of split test has a label: Kinetics never released those" in outcome.stderr
    assert_refused(evaluate(source, whole_clip, "--split", "train"), "toy: has no split train")


def test_clips_without_a_label_are_dropped(tmp_path: Path, whole_clip: Path) -> None:
    """Some unlabelled clips are counted apart."""
    clips = make_clips(8)
    clips[5] = replace(clips[5], caption="", label_id=None)
    words = ("--prompts", write_prompt(tmp_path), "--json", tmp_path / "r.json")
    assert evaluate(write_clips(tmp_path / "toy", clips), whole_clip, *words).returncode == 0
    found = json.loads((tmp_path / "r.json").read_text())["clips"]
    assert found == {"counted": 7, "dropped": {"no_label": 1}}


def test_classes_that_are_not_in_the_list_are_named(tmp_path: Path, whole_clip: Path) -> None:
    """A class list that lacks classes of the data is refused before the model is loaded."""
    (tmp_path / "list.txt").write_text("zumba\nabseiling\n")
    source = write_clips(tmp_path / "toy", make_clips(8))
    message = (
        "toy: 5 clips are of classes that are not among the 2 of the class list: "
        "\"massaging person's head\", 'yoga'; --classes names another list"
    )
    assert_refused(evaluate(source, whole_clip, "--classes", tmp_path / "list.txt"), message)
    message = "--classes 500: is no file; allowed are 400, 600, 700 or a file"
    assert_refused(evaluate(source, whole_clip, "--classes", "500"), message)


def test_a_longer_class_list_is_taken(tmp_path: Path, whole_clip: Path) -> None:
    """Classes without clips compete and have no row; numbers are those of the given list."""
    (tmp_path / "list.txt").write_text("\n".join(["abseiling", *reversed(NAMES), "archery"]))
    source = write_clips(tmp_path / "toy", make_clips(8))
    words = ("--classes", tmp_path / "list.txt", "--json", tmp_path / "r.json")
    assert evaluate(source, whole_clip, *words).returncode == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert [row["name"] for row in result["per_class"]] == [*reversed(NAMES)]
    assert result["parameters"]["classes"] == 5


def test_upstreams_layout_is_evaluated(tmp_path: Path) -> None:
    """Tars with `.cap`, without manifest and of another width: labels are their captions'."""
    from clip_kinetics700_builder.encode.vision import save_random_model
    from tests.support.datasets.models import save_whole_clip

    source = write_flat_upstream(tmp_path / "CLIP")
    save_random_model(tmp_path / "vision")
    wide = save_whole_clip(tmp_path / "wide", tmp_path / "vision")
    message = "CLIP: its embeddings have 8 columns, texts of the model wide have 512"
    assert_refused(evaluate(source, wide), message)
    narrow = save_whole_clip(tmp_path / "narrow", tmp_path / "vision", width=8)
    words = ("--prompts", write_prompt(tmp_path), "--protocol", "center-frame")
    outcome = evaluate(source, narrow, *words, "--json", tmp_path / "r.json")
    assert outcome.returncode == 0, outcome.stderr
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["parameters"]["classes"] == 700
    assert {row["name"] for row in result["per_class"]} <= {"yoga", "archery", "zumba"}
    assert result["dataset"]["manifest_sha256"] is None


def test_a_first_clip_without_frames_tells_no_width(tmp_path: Path, whole_clip: Path) -> None:
    """Without a manifest the width is that of the first clip with frames: no clip is damaged."""
    clips = make_clips(8)
    clips[0] = replace(clips[0], embeddings=np.empty((0, 7), np.float16))
    source = write_clips(tmp_path / "toy", clips)
    for name in ("index.parquet", "manifest.json"):
        (source / name).unlink()
    outcome = evaluate(source, whole_clip, "--json", tmp_path / "r.json")
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads((tmp_path / "r.json").read_text())["clips"] == {"counted": 8, "dropped": {}}
