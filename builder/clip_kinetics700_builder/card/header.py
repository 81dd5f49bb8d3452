"""The YAML at the top of the card tells the Hub and `load_dataset` what the dataset holds.

It names one configuration, the Parquet files by split, or the tars where there are none, and the
features, so that neither the viewer nor `datasets` has to guess.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import DatasetCardData

from clip_kinetics700.classes import VERSIONS, class_names
from clip_kinetics700.features import features_dict
from clip_kinetics700_builder.dataset.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Subject:
    """What the card is about."""

    is_kinetics: bool
    """Whether the clips are those of Kinetics, whichever release."""
    release: str | None
    """`400`, `600` or `700`, by its classes; None where these are others."""
    title: str
    tags: tuple[str, ...]


def find_subject(manifest: Manifest) -> Subject:
    """Return what a manifest tells of the videos."""
    has_tars = "webdataset" in manifest.formats
    common = ("clip", "video", "embeddings", *(["webdataset"] * has_tars))
    if manifest.configuration.get("clips") != "kinetics":
        title = "CLIP embeddings of videos"
        return Subject(is_kinetics=False, release=None, title=title, tags=common)
    names = tuple(manifest.class_names or ())
    release = next((version for version in VERSIONS if names == class_names(version)), None)
    tags = (*common, "action-recognition", "kinetics", *([f"kinetics-{release}"] * bool(release)))
    title = f"CLIP-Kinetics{release or ''}"
    return Subject(is_kinetics=True, release=release, title=title, tags=tags)


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


def render_header(manifest: Manifest, subject: Subject) -> str:
    """Return the YAML, without the lines of dashes around it."""
    fields: dict[str, Any] = dict(KINETICS_FIELDS) if subject.is_kinetics else {}
    files = list_data_files(manifest)
    if files:
        fields["dataset_info"] = describe_info(manifest, files)
        fields["configs"] = [{"config_name": "default", "data_files": describe_files(files)}]
    data = DatasetCardData(
        **fields,
        pretty_name=subject.title,
        size_categories=[categorize_size(manifest.totals.samples)],
        task_categories=["feature-extraction", "zero-shot-classification"],
        tags=list(subject.tags),
    )
    return data.to_yaml().strip()


def categorize_size(n_samples: int) -> str:
    """Return what the Hub calls a dataset of this size."""
    return next((name for limit, name in SIZES if n_samples < limit), "1B<n<10B")


def list_data_files(manifest: Manifest) -> dict[str, list[str]]:
    """Return the files that the configuration names, of each split that has samples."""
    files: dict[str, list[str]] = {}
    for shard in manifest.list_shards():
        # Parquet where there is any.
        files.setdefault(shard.split, []).append(shard.files[-1])
    return files


def describe_files(files: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """Return the files of the configuration by split: a pattern, or tars by their names."""
    return [
        {
            "split": split,
            "path": f"data/{split}-*.parquet" if group[0].endswith(".parquet") else group,
        }
        for split, group in files.items()
    ]


def describe_info(manifest: Manifest, files: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return features and sizes; `load_dataset` compares the number of rows with what it reads."""
    nbytes = {
        split: sum(manifest.files[name].bytes for name in group) for split, group in files.items()
    }
    columns = features_dict(manifest.width, manifest.class_names)
    if "parquet" not in manifest.formats:
        columns = as_members(columns)
    return {
        "features": describe_feature(columns)["struct"],
        "splits": [
            {"name": split, "num_bytes": size, "num_examples": manifest.splits[split].samples}
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
