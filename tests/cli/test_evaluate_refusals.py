"""Evaluation refuses models, prompts and outputs that cannot be used, each in one line."""

import json
from pathlib import Path

import pytest

from tests.support.datasets.evaluations import (
    assert_refused,
    evaluate,
    make_clips,
    write_clips,
    write_prompt,
)


def test_texts_of_another_family_are_refused(
    tmp_path: Path, dataset: Path, whole_clip: Path
) -> None:
    """Another CLIP than that of the frames needs --force, and the result says that it was so."""
    from clip_kinetics700_builder.encode.vision import save_random_model
    from tests.support.datasets.models import save_whole_clip

    save_random_model(tmp_path / "vision", seed=7)
    other = save_whole_clip(tmp_path / "other", tmp_path / "vision")
    words = ("--prompts", write_prompt(tmp_path), "--json", tmp_path / "r.json")
    assert_refused(evaluate(dataset, other, *words), "its frames are of random_clip (weights ")
    outcome = evaluate(dataset, other, *words, "--force")
    assert outcome.returncode == 0, outcome.stderr
    assert "the figures mean nothing" in outcome.stderr
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["parameters"]["family"] == "another family, forced"


def test_models_without_texts_are_refused(
    tmp_path: Path, random_model: Path, whole_clip: Path
) -> None:
    """A vision tower alone has no texts; one without a tokenizer cannot read them."""
    source = write_clips(tmp_path / "toy", make_clips(4))
    assert_refused(evaluate(source, random_model), "'clip_vision_model', which has no text tower")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        (bare / name).symlink_to(whole_clip / name)
    assert_refused(evaluate(source, bare), "model bare: holds no tokenizer (tokenizer.json, or")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (bare / name).write_bytes((whole_clip / name).read_bytes())
    (bare / "vocab.json").write_text("[1]")
    assert_refused(evaluate(source, bare), "model bare: vocab.json must hold a JSON object")
    vocabulary = {**json.loads((whole_clip / "vocab.json").read_text()), "more": 192}
    (bare / "vocab.json").write_text(json.dumps(vocabulary))
    assert_refused(evaluate(source, bare), "has 193 tokens, its text tower 192")
    (bare / "tokenizer.json").write_text("{}")
    assert_refused(evaluate(source, bare), "model bare: its tokenizer cannot be loaded: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "is empty"), ("a photo\n", "line 1: 'a photo' must hold {} once"), ("{} {}", "once")],
)
def test_prompts_that_cannot_be_used(
    content: str, message: str, tmp_path: Path, whole_clip: Path
) -> None:
    """A prompt without a place for the name, or with two, is named with its line."""
    (tmp_path / "prompts.txt").write_text(content)
    source = write_clips(tmp_path / "toy", make_clips(4))
    assert_refused(evaluate(source, whole_clip, "--prompts", tmp_path / "prompts.txt"), message)


def test_outputs_are_checked_first(tmp_path: Path, whole_clip: Path) -> None:
    """A result that could not be written at the end is refused at the start."""
    source = write_clips(tmp_path / "toy", make_clips(4))
    outcome = evaluate(source, whole_clip, "--json", tmp_path / "nowhere/r.json")
    assert_refused(outcome, "there is no directory")
