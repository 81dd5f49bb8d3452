"""`clip-kinetics700 card` puts results of evaluations on the card, or says in one line why not."""

import json
from pathlib import Path
from typing import Any

import pytest

from clip_kinetics700_builder.system.files import seal_json, write_json
from tests.support.datasets.builds import run_cli
from tests.support.datasets.cards import load_manifest, read_card, read_tables, write_result
from tests.support.datasets.conversions import assert_one_line


def test_results_are_shown(dataset: Path, tmp_path: Path) -> None:
    """Each result is a row with intervals beside the references; ten confused pairs follow."""
    copy = copy_card(dataset, tmp_path / "copy")
    manifest = load_manifest(dataset)
    paths = [
        write_result(tmp_path / "a.json", manifest),
        write_result(
            tmp_path / "b.json",
            manifest,
            task="linear-probe",
            model={"id": "LogisticRegression(C=0.316)", "sha256": None},
        ),
    ]
    words = [word for path in paths for word in ("--evaluation", path)]
    outcome = run_cli("card", copy, *words)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    text = read_card(copy)[1]
    table, _, confused = read_tables(text, "Evaluation")
    assert [row["task"] for row in table] == ["zero-shot", "linear-probe"] * 2
    assert table[0] == {
        "task": "zero-shot",
        "protocol": "card | 28 prompts",
        "model": "openai/clip-vit-base-patch32",
        "clips": "33,000",
        "dropped": "12 no_label",
        "top-1": "0.381 [0.376, 0.386]",
        "top-5": "0.652 [0.647, 0.657]",
        "mean": "0.516 [0.512, 0.521]",
    }
    assert "95 %" in text
    assert "ab" * 32 in text
    assert "No evaluation" not in text
    assert [row["taken for"] for row in confused] == ["yoga"] * 10
    assert confused[0] == {"clips of": "class 0", "taken for": "yoga", "clips": "40"}
    outcome = run_cli("card", copy, "--quiet")
    assert (outcome.returncode, outcome.stdout) == (0, "")
    assert read_card(copy) == read_card(dataset)


def copy_card(dataset: Path, copy: Path) -> Path:
    """Make a directory with the manifest alone, of which a card is made."""
    copy.mkdir()
    (copy / "manifest.json").write_bytes((dataset / "manifest.json").read_bytes())
    return copy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "clip-kinetics700-evaluation/2"}, "is no result of format"),
        (
            {"task": "guessing"},
            "task is 'guessing', allowed are zero-shot, linear-",
        ),
        ({"split": "val"}, "split is 'val'"),
        ({"top1": 1.5}, "top1 is 1.5, it must be between 0 and 1"),
        ({"top5": True}, "top5 is True"),
        ({"top1": 0.9}, "do not fit each other"),
        ({"mean": 0.6}, "do not fit each other"),
        ({"clips": {"counted": -1, "dropped": {}}}, "clips.counted is -1"),
        ({"model": {"id": "x"}}, "has no sha256"),
        ({"model": None}, "NoneType"),
        ({"interval": {"level": 0.95, "top1": [0.4, 0.3]}}, "must begin before it ends"),
        ({"dataset": {"data_sha256": None}}, "is of data with the sha256 None"),
        ({"dataset": {"data_sha256": "0" * 64}}, "is of data with the sha256 000"),
    ],
)
def test_other_results_are_refused(
    dataset: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """A result of other data, or one with impossible values, is one line and no card."""
    copy = copy_card(dataset, tmp_path / "copy")
    path = write_result(tmp_path / "result.json", load_manifest(dataset), **changes)
    assert_one_line(run_cli("card", copy, "--evaluation", path), 2, str(path), message)
    assert not (copy / "README.md").exists()


def test_what_is_no_dataset_has_no_card(dataset: Path, tmp_path: Path) -> None:
    """A directory without a manifest, a damaged one, or a file that is no JSON is named."""
    assert_one_line(run_cli("card", tmp_path), 2, "holds no manifest.json")
    copy = copy_card(dataset, tmp_path / "copy")
    (tmp_path / "x.json").write_text("{")
    outcome = run_cli("card", copy, "--evaluation", tmp_path / "x.json")
    assert_one_line(outcome, 2, "x.json: is no JSON")
    document = json.loads((copy / "manifest.json").read_text())
    write_json(copy / "manifest.json", {**document, "date": "2020-01-01"})
    assert_one_line(run_cli("card", copy), 2, "manifest.json: self_sha256 is")


def test_a_manifest_of_an_earlier_version_has_a_card(dataset: Path, tmp_path: Path) -> None:
    """Without counts by class and by frames the card has no pictures, and is a card."""
    copy = copy_card(dataset, tmp_path / "copy")
    document = json.loads((copy / "manifest.json").read_text())
    for totals in (document["totals"], *document["totals"]["splits"].values()):
        del totals["samples_by_label"], totals["samples_by_n_frames"]
    write_json(copy / "manifest.json", seal_json(document))
    assert run_cli("card", copy).returncode == 0
    assert "max_samples=100" in read_card(copy)[1]
