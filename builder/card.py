"""A manifest in, the dataset card out: every figure on it is one of the manifest's."""

import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2

from clip_kinetics700.schema import SPLITS

REPOSITORY_PLACEHOLDER = "PATH_OR_REPOSITORY"
"""Stands in the card's examples until `push` knows the repository."""


def render_card(manifest: Mapping[str, Any]) -> str:
    """Return README.md of a dataset, with the YAML that `load_dataset` reads."""
    template = (resources.files("dataset_card") / "template.md").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    configuration, files = manifest["configuration"], manifest["files"]
    totals = manifest["totals"]
    all_splits = [
        {"name": split, **totals["splits"][split]} for split in SPLITS if split in totals["splits"]
    ]
    is_kinetics = configuration.get("clips") == "kinetics"
    rate = configuration.get("frames_per_second")
    return environment.from_string(template).render(
        title="CLIP-Kinetics700" if is_kinetics else "CLIP embeddings of videos",
        is_kinetics=is_kinetics,
        all_splits=all_splits,
        splits=[split for split in all_splits if split["samples"]],
        totals=totals,
        width=configuration["embedding_width"],
        model=configuration.get("model", "an unknown model"),
        rate="an unknown rate" if rate is None else f"{rate:g} frame{'s' * (rate != 1)} per second",
        has_parquet="parquet" in configuration["formats"],
        tars=tar_ranges(manifest),
        failures=sorted(totals["failures_by_reason"].items()),
        sizes=format_sizes(files),
        configuration=list_configuration(configuration),
    )


def tar_ranges(manifest: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the tars of each split in the brace form that webdataset expands."""
    n_per_shard = manifest["configuration"]["samples_per_shard"]
    if "webdataset" not in manifest["configuration"]["formats"]:
        return []
    ranges, first = [], 0
    for split in SPLITS:
        n_samples = manifest["totals"]["splits"].get(split, {}).get("samples", 0)
        n_tars = -(-n_samples // n_per_shard)
        if n_tars == 1:
            ranges.append({"split": split, "braces": f"ds_{first:06d}.tar"})
        elif n_tars:
            last = first + n_tars - 1
            ranges.append({"split": split, "braces": f"ds_{{{first:06d}..{last:06d}}}.tar"})
        first += n_tars
    return ranges


def format_sizes(files: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Return the bytes of the Parquet files and of the tars."""
    patterns = (("Parquet (`data/*.parquet`)", r"data/.*"), ("WebDataset (`ds_*.tar`)", r"ds_.*"))
    sums = [
        (name, sum(entry["bytes"] for file, entry in files.items() if re.fullmatch(pattern, file)))
        for name, pattern in patterns
    ]
    return [(name, size) for name, size in sums if size]


def list_configuration(configuration: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return the configuration as rows of a table, nested values by dotted name."""
    rows: list[tuple[str, str]] = []
    for name, value in sorted(configuration.items()):
        if isinstance(value, Mapping):
            rows += list_configuration(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, "not recorded" if value is None else str(value)))
    return rows
