"""These functions read a card as people and the Hub do: its tables, its examples, its YAML."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from clip_kinetics700_builder.dataset.manifest import parse_manifest
from tests.support.damage.datasets import SmallRows

Row = dict[str, str]


class OwnRows(SmallRows):
    """Videos without classes, as somebody's own are."""

    class_names = None


def split_card(text: str) -> tuple[dict[str, Any], str]:
    """Return the YAML and the Markdown below it."""
    match = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL)
    assert match is not None
    return yaml.safe_load(match[1]), match[2]


def read_card(dataset: Path) -> tuple[dict[str, Any], str]:
    """Return the YAML and the Markdown of a dataset's card."""
    return split_card((dataset / "README.md").read_text(encoding="utf-8"))


def read_tables(text: str, heading: str) -> list[list[Row]]:
    """Return the tables of a section, each row by the names in the table's head."""
    section = re.split(r"\n#+ ", text.partition(f"# {heading}\n")[2])[0]
    blocks = re.findall(r"(?:^\|.*\|\n)+", section, re.MULTILINE)
    tables = []
    for block in blocks:
        head, _, *rows = (split_row(line) for line in block.splitlines())
        tables.append([dict(zip(head, row, strict=True)) for row in rows])
    return tables


def split_row(line: str) -> list[str]:
    """Return the cells of a row."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def read_number(cell: str) -> int:
    """Return the number in a cell."""
    return int(cell.replace(",", ""))


def read_examples(text: str) -> list[str]:
    """Return the Python code of the card, block by block."""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def load_manifest(dataset: Path) -> dict[str, Any]:
    """Return the JSON object of a dataset's manifest."""
    document: dict[str, Any] = json.loads((dataset / "manifest.json").read_text(encoding="utf-8"))
    return document


def write_result(path: Path, manifest: dict[str, Any], **changes: Any) -> Path:
    """Write the result of an evaluation of a dataset, with some fields changed."""
    document = {
        "format": "clip-kinetics700-evaluation/1",
        "task": "zero-shot",
        "protocol": "card | 28 prompts",
        "split": "validation",
        "top1": 0.381,
        "top5": 0.652,
        "mean": 0.5165,
        "interval": {
            "level": 0.95,
            "resamples": 1000,
            "top1": [0.376, 0.386],
            "top5": [0.647, 0.657],
            "mean": [0.512, 0.521],
        },
        "clips": {"counted": 33000, "dropped": {"no_label": 12, "no_frames": 0}},
        "model": {"id": "openai/clip-vit-base-patch32", "sha256": "ab" * 32},
        "dataset": {
            "source": "OWNER/NAME",
            "revision": None,
            "manifest_sha256": manifest["self_sha256"],
            "data_sha256": parse_manifest(manifest).data_sha256,
        },
        "seed": 0,
        "parameters": {},
        "per_class": [],
        "confused": [
            {"true": f"class {rank}", "predicted": "yoga", "clips": 40 - rank} for rank in range(12)
        ],
        "versions": {},
    }
    path.write_text(json.dumps({**document, **changes}), encoding="utf-8")
    return path
