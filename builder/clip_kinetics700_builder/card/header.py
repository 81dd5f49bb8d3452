"""A manifest in, the YAML at the top of the card out: what the Hub and `load_dataset` read.

It names one configuration, the Parquet files by split, or the tars where there are none, and the
features, so that neither the viewer nor `datasets` has to guess.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import DatasetCardData

from clip_kinetics700.classes import VERSIONS, class_names
from clip_kinetics700.features import features_dict
from clip_kinetics700.schema import SPLITS


@dataclass(frozen=True, slots=True)
class Subject:
    """What the card is about."""

    is_kinetics: bool
    """Whether the clips are those of Kinetics, whichever release."""
    release: str | None
    """`400`, `600` or `700`, by its classes; None where these are others."""
    title: str
    tags: tuple[str, ...]


def find_subject(manifest: Mapping[str, Any]) -> Subject:
    """Return what a manifest tells of the videos."""
    formats = manifest["configuration"]["formats"]
    common = ("clip", "video", "embeddings", *(["webdataset"] * ("webdataset" in formats)))
    if manifest["configuration"].get("clips") != "kinetics":
        return Subject(
            is_kinetics=False, release=None, title="CLIP embeddings of videos", tags=common
        )
    names = manifest["class_names"] or []
    release = next((version for version in VERSIONS if names == list(class_names(version))), None)
    return Subject(
        is_kinetics=True,
        release=release,
        title=f"CLIP-Kinetics{release or ''}",
        tags=(
            *common,
            "action-recognition",
            "kinetics",
            *([f"kinetics-{release}"] * bool(release)),
        ),
    )


# Upper bounds, as the Hub names them.
SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
)
# Kinetics' labels were given by workers of Mechanical Turk, its class names by its authors.
KINETICS_FIELDS = {
    "annotations_creators": ["crowdsourced"],
    "language_creators": ["expert-generated"],
    "language": ["en"],
    "license": "cc-by-4.0",
    "multilinguality": ["monolingual"],
}


def render_header(manifest: Mapping[str, Any], subject: Subject) -> str:
    """Return the YAML, without the lines of dashes around it."""
    fields: dict[str, Any] = dict(KINETICS_FIELDS) if subject.is_kinetics else {}
    files = list_data_files(manifest)
    if files:
        fields["dataset_info"] = describe_info(manifest, files)
        fields["configs"] = [{"config_name": "default", "data_files": describe_files(files)}]
    data = DatasetCardData(
        **fields,
        pretty_name=subject.title,
        size_categories=[categorize_size(manifest["totals"]["samples"])],
        task_categories=["feature-extraction", "zero-shot-classification"],
        tags=list(subject.tags),
    )
    return data.to_yaml().strip()


def categorize_size(n_samples: int) -> str:
    """Return what the Hub calls a dataset of this size."""
    return next((name for limit, name in SIZES if n_samples < limit), "1B<n<10B")


def list_data_files(manifest: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the files that the configuration names, of each split that has samples."""
    if "parquet" in manifest["configuration"]["formats"]:
        names = {split: list_parquet_files(manifest, split) for split in SPLITS}
    else:
        names = list_tars(manifest)
    return {split: group for split, group in names.items() if group}


def list_parquet_files(manifest: Mapping[str, Any], split: str) -> list[str]:
    """Return the names of the Parquet files of a split."""
    pattern = re.compile(rf"data/{split}-\d+-of-\d+\.parquet")
    return [name for name in sorted(manifest["files"]) if pattern.fullmatch(name)]


def list_tars(manifest: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the names of the tars of each split, which are numbered on over the splits."""
    configuration, splits = manifest["configuration"], manifest["totals"]["splits"]
    if "webdataset" not in configuration["formats"]:
        return {}
    names, first = {}, 0
    for split in SPLITS:
        n_tars = -(-splits.get(split, {}).get("samples", 0) // configuration["samples_per_shard"])
        names[split] = [f"ds_{number:06d}.tar" for number in range(first, first + n_tars)]
        first += n_tars
    return names


def describe_files(files: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """Return the files of the configuration by split: a pattern, or tars by their names."""
    return [
        {
            "split": split,
            "path": f"data/{split}-*.parquet" if group[0].endswith(".parquet") else group,
        }
        for split, group in files.items()
    ]


def describe_info(manifest: Mapping[str, Any], files: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return features and sizes; `load_dataset` compares the number of rows with what it reads."""
    nbytes = {
        split: sum(manifest["files"][name]["bytes"] for name in group)
        for split, group in files.items()
    }
    columns = features_dict(manifest["configuration"]["embedding_width"], manifest["class_names"])
    if "parquet" not in manifest["configuration"]["formats"]:
        columns = as_members(columns)
    counts = manifest["totals"]["splits"]
    return {
        "features": describe_feature(columns)["struct"],
        "splits": [
            {"name": split, "num_bytes": size, "num_examples": counts[split]["samples"]}
            for split, size in nbytes.items()
        ],
        "download_size": sum(nbytes.values()),
        "dataset_size": sum(nbytes.values()),
    }


def as_members(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the features of the same samples as `datasets` reads them from tars.

    It would infer them from a few rows, and wrongly so where those have no label.
    """
    text = {"dtype": "string", "_type": "Value"}
    upstream = dict.fromkeys(("videoID", "start_time", "end_time"), text)
    return {
        "__key__": text,
        "__url__": text,
        "json": {**upstream, **columns["meta"]},
        "npy": columns["embeddings"],
        "txt": columns["caption"],
    }


def describe_feature(feature: Mapping[str, Any]) -> dict[str, Any]:
    """Return a feature in the YAML form of `datasets`, of that in its JSON form.

    The word is `sequence`: 2.21 and 3.6 do not know the lists of newer versions.
    """
    match feature.get("_type"):
        case "Value":
            return {"dtype": feature["dtype"]}
        case "ClassLabel":
            names = {str(number): name for number, name in enumerate(feature["names"])}
            return {"dtype": {"class_label": {"names": names}}}
        case "Sequence":
            inner = describe_feature(feature["feature"])
            length = {} if feature["length"] < 0 else {"length": feature["length"]}
            return {"sequence": inner["dtype"] if inner.keys() == {"dtype"} else inner, **length}
        case _:
            fields = [{"name": name, **describe_feature(of)} for name, of in feature.items()]
            return {"struct": fields}
