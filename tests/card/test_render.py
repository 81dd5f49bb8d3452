"""The card has YAML that the Hub and `datasets` read, and the figures of the manifest."""

import json
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import yaml
from huggingface_hub import DatasetCard, DatasetCardData

from clip_kinetics700.classes import class_names
from clip_kinetics700.features import features_dict
from clip_kinetics700.schema import REASONS, SPLITS
from clip_kinetics700_builder.assemble.assemble import assemble
from clip_kinetics700_builder.card.facts import REASON_MEANINGS
from clip_kinetics700_builder.card.header import categorize_size
from clip_kinetics700_builder.card.render import REPOSITORY_PLACEHOLDER, render_card
from clip_kinetics700_builder.config import AssembleConfig
from clip_kinetics700_builder.dataset.manifest import parse_manifest, seal_manifest
from clip_kinetics700_builder.system.files import hash_json
from tests.support.damage.datasets import make_dataset
from tests.support.datasets.cards import (
    OwnRows,
    load_manifest,
    read_card,
    read_number,
    read_tables,
    split_card,
)


def test_one_configuration_names_the_parquet_files(dataset: Path) -> None:
    """The YAML has one configuration, `default`, with the files of each split."""
    document, _ = read_card(dataset)
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in SPLITS]
    assert document["configs"] == [{"config_name": "default", "data_files": files}]


def test_the_yaml_says_what_the_hub_asks(dataset: Path) -> None:
    """Licence, languages, creators, size and tasks are there, in words the Hub knows."""
    document, _ = read_card(dataset)
    expected = {
        "license": "cc-by-4.0",
        "annotations_creators": ["crowdsourced"],
        "language_creators": ["expert-generated"],
        "language": ["en"],
        "multilinguality": ["monolingual"],
        "pretty_name": "CLIP-Kinetics700",
        "size_categories": ["n<1K"],
        "task_categories": ["feature-extraction", "zero-shot-classification"],
    }
    assert {name: document[name] for name in expected} == expected
    assert {"clip", "kinetics-700", "webdataset"} <= set(document["tags"])
    assert yaml.safe_load(DatasetCardData(**document).to_yaml()) == document


def test_the_hub_accepts_the_card(illustrated: Path, hub: dict[str, str]) -> None:
    """`DatasetCard.validate` passes against a Hub, which refuses a YAML that is cut off."""
    program = (
        "import sys\nfrom huggingface_hub import DatasetCard\n"
        "DatasetCard.load(sys.argv[1]).validate()\n"
        "class Broken(DatasetCard):\n    __str__ = lambda self: '---\\nlicense: [\\n---\\n'\n"
        "try:\n    Broken('').validate()\nexcept ValueError:\n    print('refused')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(illustrated / "README.md")],
        env=hub, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (0, "refused\n"), result.stderr


def test_the_features_are_those_of_the_files(dataset: Path) -> None:
    """`datasets` makes of the YAML the features that stand in the Parquet files."""
    document, _ = read_card(dataset)
    manifest = load_manifest(dataset)
    features = datasets.Features._from_yaml_list(document["dataset_info"]["features"])
    width = manifest["configuration"]["embedding_width"]
    expected = datasets.Features.from_dict(features_dict(width, manifest["class_names"]))
    assert features == expected
    assert features["meta"]["label_id"].names == list(class_names("700"))


def test_split_sizes_are_the_manifests(dataset: Path) -> None:
    """Rows and bytes of each split in `dataset_info` are those of its Parquet files."""
    info = read_card(dataset)[0]["dataset_info"]
    files = load_manifest(dataset)["files"]
    for split in info["splits"]:
        group = [files[name] for name in files if name.startswith(f"data/{split['name']}-")]
        assert split["num_examples"] == sum(entry["rows"] for entry in group)
        assert split["num_bytes"] == sum(entry["bytes"] for entry in group)
    total = sum(split["num_bytes"] for split in info["splits"])
    assert info["download_size"] == info["dataset_size"] == total


@pytest.mark.parametrize(
    ("n_samples", "name"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (634_987, "100K<n<1M"), (10**6, "1M<n<10M")],
)
def test_size_categories_are_computed(n_samples: int, name: str) -> None:
    """A dataset is in the category whose bounds its samples lie between."""
    assert categorize_size(n_samples) == name


def test_the_splits_table_is_the_manifests(dataset: Path) -> None:
    """Clips, frames, failures and files of each split parse back to the manifest's."""
    manifest = load_manifest(dataset)
    (rows,) = read_tables(read_card(dataset)[1], "Splits")
    splits = {row["split"]: row for row in rows}
    whole = {"all": manifest["totals"], **manifest["totals"]["splits"]}
    assert splits.keys() == whole.keys()
    for split, totals in whole.items():
        found = [read_number(splits[split][name]) for name in ("clips", "frames", "failed")]
        assert found == [totals["samples"], totals["frames"], totals["failures"]]
    tars = [splits[split]["tars"] for split in SPLITS]
    assert tars == ["`ds_{000000..000002}.tar`", "`ds_000003.tar`", "`ds_000004.tar`"]
    assert splits["train"]["Parquet files"] == "`data/train-*.parquet` 3"


def test_the_other_tables_are_the_manifests(dataset: Path) -> None:
    """Sizes, failures by reason and split, and the configuration parse back as well."""
    manifest = load_manifest(dataset)
    text = read_card(dataset)[1]
    (sizes,) = read_tables(text, "Sizes, and one format alone")
    for row, prefix in zip(sizes, ("data/", "ds_"), strict=True):
        group = [entry for name, entry in manifest["files"].items() if name.startswith(prefix)]
        assert read_number(row["bytes"]) == sum(entry["bytes"] for entry in group)
        assert read_number(row["files"]) == len(group)
    (failures,) = read_tables(text, "What is missing, and why")
    counts = {"all": manifest["totals"], **manifest["totals"]["splits"]}
    for name, totals in counts.items():
        found = {row["reason"]: read_number(row[name]) for row in failures}
        assert {key: count for key, count in found.items() if count} == totals["failures_by_reason"]
    (rows,) = read_tables(text, "How it was made")
    settings = {row["setting"]: row["value"] for row in rows}
    assert settings["versions.torch"] == manifest["configuration"]["versions"]["torch"]
    digest = manifest["configuration"]["weights_sha256"]["model.safetensors"]
    assert settings["weights_sha256.model.safetensors"] == digest
    assert f"sha256 `{digest}`" in text
    assert f"`{parse_manifest(manifest).data_sha256}`" in text


def test_every_reason_is_explained() -> None:
    """The card has words for each reason that a row of failures.parquet can have."""
    assert REASON_MEANINGS.keys() == {*REASONS}


def test_pictures_are_shown_with_words(illustrated: Path, dataset: Path) -> None:
    """Each picture of the manifest is on the card, and says in words what it shows."""
    text = read_card(illustrated)[1]
    assert "](figures/class_balance.png)" in text
    assert "train: 13 classes, the largest of 2, the median of 1, the smallest of 1." in text
    assert "](figures/frames_per_clip.png)" in text
    assert "train: 1 to 11 frames, 2 in 64.3% of them." in text
    assert "figures/" not in read_card(dataset)[1]


def test_a_card_without_samples_has_no_configuration(dataset: Path) -> None:
    """A build in which every clip failed still has a card, which names no files."""
    manifest = load_manifest(dataset)
    for totals in (manifest["totals"], *manifest["totals"]["splits"].values()):
        totals["samples"] = 0
    manifest["files"] = {}
    document, text = split_card(render_card(seal_manifest(manifest)))
    assert "configs" not in document
    assert "dataset_info" not in document
    assert "```python" not in text


def test_a_card_is_the_same_every_time(illustrated: Path) -> None:
    """Rendering reads the manifest and nothing else: no clock, no path."""
    text = (illustrated / "README.md").read_text(encoding="utf-8")
    assert render_card(parse_manifest(load_manifest(illustrated))) == text


def test_data_is_told_by_its_files(illustrated: Path, dataset: Path) -> None:
    """The hash of the data is over tars, Parquet files and index, whatever else there is."""
    files = load_manifest(illustrated)["files"]
    names = [n for n in files if n.startswith(("ds_", "data/")) or n == "index.parquet"]
    digests = {name: files[name]["sha256"] for name in names}
    expected = hash_json(digests)
    assert parse_manifest(load_manifest(illustrated)).data_sha256 == expected
    assert parse_manifest(load_manifest(dataset)).data_sha256 == expected
    assert len(names) == 11


def test_own_videos_have_a_card_of_their_own(tmp_path: Path) -> None:
    """Nothing of Kinetics is on it: no licence, no citation, no reference figures."""
    config = AssembleConfig(source=tmp_path, output=tmp_path / "out", figures=False)
    assemble(OwnRows(), config)
    document, text = read_card(tmp_path / "out")
    assert document["pretty_name"] == "CLIP embeddings of videos"
    assert not {"license", "language", "annotations_creators"} & document.keys()
    for word in ("Kinetics-", "bibtex", "0.31", "SlowFast", "YouTube", "CC BY", "ClassLabel"):
        assert word not in text
    assert "The maker of the videos and captions states the terms here." in text
    assert "No evaluation of this dataset has been run." in text


def test_the_card_names_references_and_terms(dataset: Path) -> None:
    """Kinetics-700's card has upstream's figures, the field's, the licence, and what to cite."""
    text = read_card(dataset)[1]
    first, scale = read_tables(text, "Evaluation")
    figures = [[row[name] for name in ("task", "top-1", "top-5", "mean")] for row in first]
    assert figures == [
        ["zero-shot", "0.31", "0.56", "0.44"],
        ["linear-probe", "0.41", "0.65", "0.53"],
    ]
    assert [row["top-1"] for row in scale] == ["65.7", "84.9"]
    assert "No evaluation of this dataset has been run." in text
    for words in ("CC BY 4.0", "says MIT", "belongs to those who uploaded it", "@article{carreira"):
        assert words in text


def test_names_are_spelled_safely(dataset: Path) -> None:
    """What could end a cell, a literal or a tag ends none of them."""
    manifest = load_manifest(dataset)
    manifest["configuration"]["model"] = "a|b<c"
    manifest["configuration"]["seed"] = "![x](https://127.0.0.1/p.png)"
    manifest["class_names"] = [f'"{name}"' for name in manifest["class_names"]]
    text = split_card(render_card(seal_manifest(manifest)))[1]
    (rows,) = read_tables(text, "How it was made")
    assert {"setting": "model", "value": "a|b&lt;c"} in rows
    assert "![x](" not in text
    assert 'classes=["\\"cleaning pool\\""]' in text


def test_the_placeholder_is_all_that_push_replaces(dataset: Path) -> None:
    """The word stands in every example that opens the dataset, and nowhere in the YAML."""
    text = (dataset / "README.md").read_text(encoding="utf-8")
    document, body = split_card(text)
    assert body.count(REPOSITORY_PLACEHOLDER) >= 12
    assert REPOSITORY_PLACEHOLDER not in json.dumps(document)
    pushed = text.replace(REPOSITORY_PLACEHOLDER, "alice/CLIP-Kinetics700")
    assert DatasetCard(pushed).data.to_yaml() == DatasetCard(text).data.to_yaml()


def test_small_formats_have_a_card(tmp_path: Path) -> None:
    """With Parquet alone no tar is named, and the index points into none."""
    text = (make_dataset(tmp_path / "out", "parquet") / "README.md").read_text(encoding="utf-8")
    for word in (".tar", "webdataset", "in which tar"):
        assert word not in text
