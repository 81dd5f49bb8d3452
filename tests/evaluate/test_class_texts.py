"""Class texts are published in the dataset: listed, verified, used, and removed when stale."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import clip_kinetics700
from clip_kinetics700.schema import CLASS_TEXTS_NAME
from clip_kinetics700.texts import encode_class_texts
from clip_kinetics700_builder.config import TextConfig
from clip_kinetics700_builder.dataset.manifest import parse_manifest
from clip_kinetics700_builder.evaluate.class_texts import choose_model
from clip_kinetics700_builder.system.files import write_json
from tests.support.damage.datasets import (
    copy_dataset,
    edit_manifest,
    make_dataset,
    problems_of,
    reseal,
)
from tests.support.datasets.builds import Outcome, run_cli, run_cli_process
from tests.support.datasets.cards import load_manifest
from tests.support.datasets.places import over_http
from tests.support.hub.hubs import upload_dataset


@pytest.fixture(scope="module")
def narrow_clip(tmp_path_factory: pytest.TempPathFactory, random_model: Path) -> Path:
    """Return a whole CLIP of the width of the small datasets."""
    from tests.support.datasets.models import save_whole_clip

    width = 8
    return save_whole_clip(tmp_path_factory.mktemp("narrow") / "clip", random_model, width=width)


@pytest.fixture
def published(tmp_path: Path, narrow_clip: Path) -> Path:
    """Return a small dataset with class texts."""
    directory = copy_dataset(tmp_path / "toy")
    outcome = embed(directory, narrow_clip)
    assert outcome.returncode == 0, outcome.stderr
    return directory


def embed(directory: Path, model: Path, *words: str) -> Outcome:
    """Run embed-classes."""
    return run_cli("embed-classes", directory, "--model", model, "--quiet", *words)


def test_texts_are_published_and_verified(published: Path) -> None:
    """The manifest lists the file with its rows, the data's hash stays, nothing else changes."""
    before = load_manifest(copy_dataset(published.parent / "before"))
    manifest = load_manifest(published)
    assert parse_manifest(manifest).data_sha256 == parse_manifest(before).data_sha256
    assert manifest["files"].pop(CLASS_TEXTS_NAME)["rows"] == len(manifest["class_names"])
    assert manifest["self_sha256"] != before["self_sha256"]
    assert {**manifest, "self_sha256": ""} == {**before, "self_sha256": ""}
    assert problems_of(published) == {}
    texts = clip_kinetics700.class_texts(published)
    assert list(texts.names) == manifest["class_names"]
    np.testing.assert_allclose(np.linalg.norm(texts.embeddings, axis=1), 1, atol=1e-6)


def test_the_same_command_gives_the_same_bytes(published: Path, narrow_clip: Path) -> None:
    """Embedding again changes no byte of file or manifest."""
    names = (CLASS_TEXTS_NAME, "manifest.json")
    before = [(published / name).read_bytes() for name in names]
    assert embed(published, narrow_clip).returncode == 0
    assert [(published / name).read_bytes() for name in names] == before


def test_damage_to_texts_is_found(published: Path) -> None:
    """A flipped byte, other classes, another width and rows of another length are named."""
    path = published / CLASS_TEXTS_NAME
    sound, texts = path.read_bytes(), clip_kinetics700.class_texts(published)
    path.write_bytes(b"p" + sound[1:])
    assert "sha256" in problems_of(published)[CLASS_TEXTS_NAME]
    cases = {
        "is not of the classes": replace(texts, names=texts.names[::-1]),
        "not of length 1": replace(texts, embeddings=2 * texts.embeddings),
        "columns": replace(texts, embeddings=np.eye(len(texts.names), 99, dtype=np.float32)),
    }
    for message, wrong in cases.items():
        path.write_bytes(encode_class_texts(wrong))
        reseal(published)
        assert message in problems_of(published)[CLASS_TEXTS_NAME]
    path.write_bytes(b"no zip")
    reseal(published)
    assert CLASS_TEXTS_NAME in problems_of(published)
    path.unlink()
    assert problems_of(published)[CLASS_TEXTS_NAME] == "is missing"


def test_texts_that_the_manifest_does_not_list_are_found(published: Path) -> None:
    """A run that was cut off between file and manifest is found, and mended by running it again."""
    edit_manifest(published, lambda document: document["files"].pop(CLASS_TEXTS_NAME))
    assert "does not list" in problems_of(published)[CLASS_TEXTS_NAME]


def test_another_assembly_removes_them(published: Path) -> None:
    """Texts of an earlier assembly do not stay beside data that they may not belong to."""
    make_dataset(published)
    assert not (published / CLASS_TEXTS_NAME).exists()
    assert problems_of(published) == {}


def test_a_conversion_knows_its_output_again(tmp_path: Path, narrow_clip: Path) -> None:
    """Converting again after texts were published writes nothing and keeps them."""
    source, output = copy_dataset(tmp_path / "source"), tmp_path / "out"
    words = ("convert", source, output, "--samples-per-shard", "5")
    assert run_cli(*words).returncode == 0
    assert embed(output, narrow_clip).returncode == 0
    before = (output / "manifest.json").read_bytes()
    outcome = run_cli(*words)
    assert outcome.returncode == 0, outcome.stderr
    assert (output / "manifest.json").read_bytes() == before


def test_published_texts_are_used_where_they_are_the_wanted_ones(
    published: Path, narrow_clip: Path, tmp_path: Path
) -> None:
    """They spare the text model; other prompts, or another model, compute anew."""
    result = tmp_path / "r.json"
    (tmp_path / "prompts.txt").write_text("{}\n")
    words: list[str | Path] = ["evaluate", "zero-shot", published, "--quiet", "--json", result]
    cases: list[tuple[list[str | Path], str]] = [
        ([], "published"),
        (["--model", narrow_clip], "published"),
        (["--model", narrow_clip, "--prompts", tmp_path / "prompts.txt"], "computed"),
    ]
    for more, expected in cases:
        outcome = run_cli(*words, *more)
        assert outcome.returncode == 0, outcome.stderr
        found = json.loads(result.read_text())
        assert found["parameters"]["class_texts"] == expected
        assert found["model"]["id"] == narrow_clip.name
    (published / CLASS_TEXTS_NAME).write_bytes(b"other bytes")
    outcome = run_cli(*words)
    assert outcome.returncode == 2
    assert f"{CLASS_TEXTS_NAME} is not the file that manifest.json lists" in outcome.stderr


@pytest.mark.slow
def test_a_repository_is_evaluated_at_its_commit(
    published: Path, tmp_path: Path, hub: dict[str, str]
) -> None:
    """Data and published texts come from the Hub; the result names repository and commit."""
    upload_dataset(published, "alice/kinetics", hub)
    words = ("evaluate", "zero-shot", "alice/kinetics", "--json", tmp_path / "r.json")
    outcome = run_cli_process(*words, **hub)
    assert outcome.returncode == 0, outcome.stderr
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["dataset"]["source"] == "alice/kinetics"
    assert len(result["dataset"]["revision"]) == 40
    assert result["parameters"]["class_texts"] == "published"


def test_a_url_is_evaluated(published: Path, tmp_path: Path) -> None:
    """Data and published texts may lie behind a web server."""
    with over_http(published) as url:
        words = ("evaluate", "zero-shot", url, "--quiet", "--json", tmp_path / "r.json")
        outcome = run_cli(*words)
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads((tmp_path / "r.json").read_text())["parameters"]["class_texts"] == "published"


@pytest.mark.parametrize(
    ("recorded", "model", "expected"),
    [
        (None, None, ("openai/clip-vit-base-patch32", None)),
        ("random_clip", None, ("openai/clip-vit-base-patch32", None)),
        ("owner/clip", None, ("owner/clip", "abc")),
        ("owner/clip", "my/other", ("my/other", None)),
    ],
)
def test_the_model_is_that_of_the_frames(
    tmp_path: Path, recorded: str | None, model: str | None, expected: tuple[str, str | None]
) -> None:
    """Where none is named it is the Hub's model of the manifest, else the builds' default."""
    document = load_manifest(copy_dataset(tmp_path / "dataset"))
    document["configuration"] |= {"model": recorded, "model_revision": "abc"}
    manifest = parse_manifest(document) if recorded else None
    assert choose_model(manifest, TextConfig(model=model)) == expected


def test_texts_of_another_family_stay_marked(published: Path, tmp_path: Path) -> None:
    """Texts that were published by force need it again from who uses them."""
    texts = clip_kinetics700.class_texts(published)
    forced = replace(texts, family="another family, forced")
    (published / CLASS_TEXTS_NAME).write_bytes(encode_class_texts(forced))
    reseal(published)
    words = ("evaluate", "zero-shot", published, "--quiet", "--json", tmp_path / "r.json")
    assert "another family, forced" in run_cli(*words).stderr
    assert run_cli(*words).returncode == 2
    assert run_cli(*words, "--force").returncode == 0


def test_what_is_no_finished_dataset_is_refused(tmp_path: Path, narrow_clip: Path) -> None:
    """Without a manifest, or without classes, there is nothing to publish."""
    (tmp_path / "empty").mkdir()
    assert embed(tmp_path / "empty", narrow_clip).returncode == 2
    directory = copy_dataset(tmp_path / "toy")
    edit_manifest(directory, lambda document: document.update(class_names=None))
    outcome = embed(directory, narrow_clip)
    assert outcome.returncode == 2
    assert "has no classes, so there is nothing to embed" in outcome.stderr


def test_a_changed_manifest_is_not_signed_again(published: Path, narrow_clip: Path) -> None:
    """embed-classes refuses a manifest that was edited, as verify and push do."""
    manifest = json.loads((published / "manifest.json").read_text())
    manifest["configuration"]["model"] = "another"
    write_json(published / "manifest.json", manifest)
    before = (published / "manifest.json").read_bytes()
    outcome = embed(published, narrow_clip)
    assert outcome.returncode == 2
    assert "manifest.json: " in outcome.stderr
    assert (published / "manifest.json").read_bytes() == before
