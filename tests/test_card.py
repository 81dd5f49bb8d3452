"""The card: YAML that `datasets` reads, and figures that are the manifest's."""

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import DatasetCard

from builder.card import render_card, tar_ranges
from builder.manifest import read_manifest


def load_card(dataset: Path) -> Any:
    """Return the card as the Hub reads it."""
    return DatasetCard.load(dataset / "README.md")


def test_one_configuration_names_the_parquet_files(dataset: Path) -> None:
    """The YAML has one configuration, `default`, with the files of each split."""
    document = load_card(dataset).data.to_dict()
    files = [
        {"split": split, "path": f"data/{split}-*.parquet"}
        for split in ("train", "validation", "test")
    ]
    assert document["configs"] == [{"config_name": "default", "data_files": files}]
    assert document["license"] == "cc-by-4.0"


def test_the_figures_are_the_manifests(dataset: Path) -> None:
    """Rows, frames and failures of the table, and the model's hash, stand in the manifest."""
    manifest = read_manifest(dataset)
    assert manifest is not None
    text = load_card(dataset).text
    for split, totals in manifest["totals"]["splits"].items():
        row = f"| {split} | {totals['samples']} | {totals['frames']} | {totals['failures']} |"
        assert row in text
    for reason, count in manifest["totals"]["failures_by_reason"].items():
        assert f"| {reason} | {count} |" in text
    assert manifest["configuration"]["weights_sha256"]["model.safetensors"] in text


def test_tars_are_printed_in_brace_form(dataset: Path) -> None:
    """Each split's tars are one pattern that webdataset expands, numbered over all splits."""
    manifest = read_manifest(dataset)
    assert manifest is not None
    assert tar_ranges(manifest) == [
        {"split": "train", "braces": "ds_{000000..000002}.tar"},
        {"split": "validation", "braces": "ds_000003.tar"},
        {"split": "test", "braces": "ds_000004.tar"},
    ]


def test_a_card_without_samples_has_no_configuration(dataset: Path) -> None:
    """A build in which every clip failed still has a card, which names no files."""
    manifest = read_manifest(dataset)
    assert manifest is not None
    for totals in manifest["totals"]["splits"].values():
        totals["samples"] = 0
    header = render_card(manifest).split("---\n")[1]
    assert "configs" not in yaml.safe_load(header)


def test_a_card_is_the_same_every_time(dataset: Path) -> None:
    """Rendering reads the manifest and nothing else: no clock, no path."""
    manifest = read_manifest(dataset)
    assert manifest is not None
    assert render_card(manifest) == (dataset / "README.md").read_text(encoding="utf-8")
