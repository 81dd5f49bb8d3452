"""The dataset card is rendered from a manifest and results of evaluations.

The words stand in `dataset_card/template.md`; here is what is counted, chosen and spelled for them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import jinja2

from clip_kinetics700_builder.card.facts import (
    choose_class,
    describe_failures,
    describe_pictures,
    describe_sizes,
    describe_splits,
    list_configuration,
)
from clip_kinetics700_builder.card.header import find_subject, render_header
from clip_kinetics700_builder.card.results import METRICS, EvaluationResult, read_results
from clip_kinetics700_builder.dataset.layout import README_NAME
from clip_kinetics700_builder.dataset.manifest import Manifest, require_manifest
from clip_kinetics700_builder.system.files import write_text

REPOSITORY_PLACEHOLDER = "PATH_OR_REPOSITORY"
"""Stands in examples for what the dataset is opened by; `push` puts the repository's name there."""
MOST_CONFUSED = 10
# What means something to Markdown in the middle of a line.
MARKUP = re.compile(r"[\\|\[\]`]")
MEMBERS = {"embeddings": "npy", "caption": "txt", "meta": "json"}
"""What `datasets` calls the columns where it reads them from tars."""


def find_template() -> Path:
    """Return the card's template: the wheel's copy, or that of the checkout."""
    package = Path(__file__).parents[1]
    installed = package / "dataset_card" / "template.md"
    return installed if installed.is_file() else package.parents[1] / "dataset_card" / "template.md"


def write_card(directory: Path, evaluations: Sequence[Path]) -> Path:
    """Write the card of a finished dataset again, with results of evaluations; return its path.

    Raises:
        InputError: there is no dataset, its manifest is damaged, or a result is not of it.
    """
    manifest = require_manifest(directory)
    path = directory / README_NAME
    write_text(path, render_card(manifest, read_results(evaluations, manifest)))
    return path


def render_card(manifest: Manifest, results: Sequence[EvaluationResult] = ()) -> str:
    """Return README.md of a dataset, with the YAML that `load_dataset` reads."""
    return load_template().render(collect_values(manifest, results))


@cache
def load_template() -> jinja2.Template:
    """Return the card's template, compiled once a process."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    environment.filters |= {
        "count": "{:,}".format,
        "cell": spell_cell,
        "size": spell_size,
        # The three digits that such intervals leave.
        "metric": "{0.value:.3f} [{0.low:.3f}, {0.high:.3f}]".format,
        "dropped": spell_dropped,
        "percent": lambda share: f"{100 * share:g} %",
        # What JSON spells is a literal of Python too, with the quotes of its formatters.
        "literal": partial(json.dumps, ensure_ascii=False),
        "code": spell_code,
    }
    return environment.from_string(find_template().read_text(encoding="utf-8"))


def collect_values(manifest: Manifest, results: Sequence[EvaluationResult]) -> dict[str, Any]:
    """Return what the template is filled with."""
    subject = find_subject(manifest)
    splits = describe_splits(manifest)
    filled = [split for split in splits if split["samples"]]
    return {
        "header": render_header(manifest, subject),
        "subject": subject,
        "repository": REPOSITORY_PLACEHOLDER,
        "splits": splits,
        "filled": filled,
        "first": filled[0] if filled else None,
        "last": filled[-1] if filled else None,
        "totals": manifest.totals.document(),
        "class_names": manifest.class_names,
        "example_class": choose_class(manifest),
        "sizes": describe_sizes(manifest),
        "pictures": describe_pictures(manifest),
        "reasons": describe_failures(manifest),
        "data_sha256": manifest.data_sha256,
        "results": results,
        "metrics": METRICS,
        "confused": choose_confused(results),
        **describe_making(manifest),
    }


def describe_making(manifest: Manifest) -> dict[str, Any]:
    """Return what the template says of how a dataset was made."""
    configuration = manifest.configuration
    rate = configuration.get("frames_per_second")
    has_parquet = "parquet" in manifest.formats
    spoken, interval = "an unknown rate", ""
    if rate is not None:
        spoken = f"{rate:g} frame{'s' * (rate != 1)} per second of video"
        # How long after the first frame the k-th one is displayed.
        interval = "k seconds" if rate == 1 else f"k / {rate:g} seconds"
    return {
        "width": manifest.width,
        "model": configuration.get("model", ""),
        "weights": sorted(configuration.get("weights_sha256", {}).items()),
        "rate": spoken,
        "interval": interval,
        "is_known": "provenance" not in configuration and rate is not None,
        "has_parquet": has_parquet,
        "has_tars": "webdataset" in manifest.formats,
        "columns": {name: name if has_parquet else member for name, member in MEMBERS.items()},
        "configuration": list_configuration(configuration),
    }


def choose_confused(results: Sequence[EvaluationResult]) -> list[tuple[str, str, int]]:
    """Return the most confused pairs of the first zero-shot result that has any."""
    found = (result.confused for result in results if result.task == "zero-shot")
    pairs = next(filter(None, found), ())[:MOST_CONFUSED]
    return [(pair.true, pair.predicted, pair.clips) for pair in pairs]


def spell_size(nbytes: int) -> str:
    """Return bytes with three digits in the unit that suits them."""
    size, units = float(nbytes), iter(("bytes", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while size >= 999.5 and unit != "TB":
        size, unit = size / 1000, next(units)
    return f"{size:.3g} {unit}"


def spell_dropped(dropped: Mapping[str, int]) -> str:
    """Return how many clips were dropped, and why."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(dropped.items()) if count)
    return reasons or "0"


def spell_code(text: str) -> str:
    """Return a text as code; nothing of nothing."""
    return f"`{' '.join(text.replace('`', '').split())}`" if text else ""


def spell_cell(text: str) -> str:
    """Return any text as the content of one cell of a table, no link or picture in it."""
    return MARKUP.sub(r"\\\g<0>", " ".join(text.split())).replace("<", "&lt;")
