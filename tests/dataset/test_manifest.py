"""The manifest is read through one door: whatever damage it has, every command refuses it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clip_kinetics700_builder.dataset.manifest import (
    ManifestError,
    read_manifest,
    require_manifest,
    seal_manifest,
)
from clip_kinetics700_builder.system.files import format_json, seal_json
from clip_kinetics700_builder.types import InputError
from tests.support.datasets.builds import run_cli
from tests.support.datasets.cards import load_manifest

Document = dict[str, Any]


def reseal(edit: Callable[[Document], object]) -> Callable[[str], str]:
    """Return the damage done by an edit after which the manifest is hashed again."""

    def damage(text: str) -> str:
        document = json.loads(text)
        edit(document)
        return format_json(seal_json(document))

    return damage


def flip_digit(text: str) -> str:
    """Change one digit of a hash."""
    at = text.index('"sha256": "') + len('"sha256": "')
    return text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]


DAMAGES: dict[str, tuple[Callable[[str], str], str]] = {
    "cut": (lambda text: text[: len(text) // 2], "is not JSON"),
    "indented": (lambda text: json.dumps(json.loads(text), indent=4) + "\n", "not spelled"),
    "flipped": (flip_digit, "self_sha256 is"),
    "newer": (reseal(lambda d: d.update(format="clip-kinetics700/2")), "is not a manifest of"),
    "missing": (reseal(lambda d: d["configuration"].pop("embedding_width")), "embedding_width"),
    "no_rows": (reseal(lambda d: d["files"]["index.parquet"].pop("rows")), "rows must be of type"),
    "another_type": (reseal(lambda d: d["totals"].update(rows="many")), "rows must be of type"),
    "a_list": (reseal(lambda d: d.update(files=[])), "files must be of type"),
    "canary": (reseal(lambda d: d.update(canary=["a"])), "canary is not a list of numbers"),
    "sums": (reseal(lambda d: d["totals"].update(frames=1)), "not the sum of the splits"),
    "stranger": (
        reseal(lambda d: d["files"].update({"ds_000099.tar": {**d["files"]["ds_000000.tar"]}})),
        "lists ds_000099.tar",
    ),
}


@pytest.fixture
def own(dataset: Path, tmp_path: Path) -> Path:
    """A copy of a dataset, without the work it came from, that a test may damage."""
    return Path(shutil.copytree(dataset, tmp_path / "own", ignore=lambda *_: [".build"]))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_manifest_is_refused_by_every_command(own: Path, damage: str) -> None:
    """`verify` reports what `info`, `convert`, `card`, `push` and the others refuse in one line."""
    change, reason = DAMAGES[damage]
    path = own / "manifest.json"
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    outcome = run_cli("verify", own)
    assert outcome.returncode == 1
    assert "manifest.json: " in outcome.stderr
    assert reason in outcome.stderr
    for words in (
        ("info", own),
        ("convert", own, own.parent / "out"),
        ("card", own),
        ("push", own, "alice/clips"),
        ("embed-classes", own),
        ("evaluate", "zero-shot", own),
    ):
        outcome = run_cli(*words)
        assert outcome.returncode == 2, words
        assert "manifest.json" in outcome.stderr, words
        assert len(outcome.stderr.splitlines()) == 1, outcome.stderr


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (
            lambda d: d["configuration"].update(frames_per_second="1"),
            "frames_per_second must be of",
        ),
        (lambda d: d["configuration"].update(model=7), "model must be of type str, got 7"),
        (lambda d: d["configuration"].update(weights_sha256=[1]), "weights_sha256 must be of type"),
        (lambda d: d["configuration"].update(weights_sha256={"a": 1}), "a must be of type str"),
        (lambda d: d["configuration"].update(dtype=["float32"]), "dtype must be of type str"),
        (lambda d: d.update(class_names=["x"]), "counts samples of .* classes, but has 1 class_na"),
    ],
)
def test_values_are_of_the_types_that_are_meant(
    own: Path, edit: Callable[[Document], object], reason: str
) -> None:
    """What the card or an evaluation would stumble over is refused when the manifest is read."""
    path = own / "manifest.json"
    path.write_text(reseal(edit)(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ManifestError, match=rf"manifest\.json: {reason}"):
        read_manifest(own)


@pytest.mark.parametrize("text", ["[" * 99_999 + "]" * 99_999, '{"a":' * 200 + "1" + "}" * 200])
def test_a_nested_manifest_is_no_json(own: Path, text: str) -> None:
    """A manifest that is nested too deep for Python's stack is one line."""
    (own / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError, match=r"manifest\.json: is not JSON"):
        read_manifest(own)


def test_a_manifest_is_a_regular_file(own: Path) -> None:
    """A directory or a FIFO in its place is an error, and nobody waits for a writer."""
    (own / "manifest.json").unlink()
    os.mkfifo(own / "manifest.json")
    with pytest.raises(ManifestError, match=r"manifest\.json: is no regular file"):
        read_manifest(own)


def test_a_sound_manifest_gives_itself_back(dataset: Path) -> None:
    """What is read, sealed again and spelled has the bytes of the file."""
    manifest = require_manifest(dataset)
    text = (dataset / "manifest.json").read_text(encoding="utf-8")
    assert format_json(seal_manifest(manifest.document).document) == text
    assert manifest.totals.rows == 28
    assert [shard.tar for shard in manifest.list_shards()] == [
        name for name in sorted(manifest.files) if name.startswith("ds_")
    ]


def test_what_others_call_a_manifest_is_none_of_ours(own: Path) -> None:
    """A directory whose manifest.json is somebody else's is read like any other dataset."""
    (own / "manifest.json").write_text('{"format": "web-app", "name": "x"}', encoding="utf-8")
    with pytest.raises(ManifestError, match="is not a manifest of format"):
        read_manifest(own)
    outcome = run_cli("info", own, "--json")
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads(outcome.stdout)["has_manifest"] is False


def test_a_directory_without_a_manifest_is_no_dataset(tmp_path: Path) -> None:
    """Where there is none, reading finds none and requiring says so."""
    assert read_manifest(tmp_path) is None
    with pytest.raises(InputError, match="so it is no finished dataset"):
        require_manifest(tmp_path)
    with pytest.raises(InputError, match="no such directory"):
        require_manifest(tmp_path / "nowhere")


def test_another_file_changes_the_hash_of_the_whole_alone(dataset: Path) -> None:
    """A file beside the data changes the hash of the manifest, not that of its data."""
    manifest = require_manifest(dataset)
    more = manifest.with_file("figures/class_balance.png", manifest.files["index.parquet"])
    assert more.self_sha256 != manifest.self_sha256
    assert more.data_sha256 == manifest.data_sha256
    assert load_manifest(dataset) == manifest.document
