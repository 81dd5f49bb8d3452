"""The card's promises of loading hold: its configuration, and every example on it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import HfApi

from clip_kinetics700_builder.assemble.assemble import assemble
from clip_kinetics700_builder.card.render import REPOSITORY_PLACEHOLDER
from clip_kinetics700_builder.config import AssembleConfig
from tests.support.damage.datasets import SmallRows
from tests.support.datasets.cards import OwnRows, read_card, read_examples, read_tables
from tests.support.processes.checkout import SOURCE_PATHS

HUB = "https://huggingface.co"
HUB_FILES = f"{HUB}/datasets/{REPOSITORY_PLACEHOLDER}/resolve/main"


def test_a_dataset_with_an_empty_split_loads(tmp_path: Path) -> None:
    """A split whose clips all failed is in the tables and in no configuration."""

    class NoTest(SmallRows):
        def result(self, split: str, row: int) -> Any:
            return super().result(split, 1 if split == "test" else row)

    config = AssembleConfig(source=tmp_path, output=tmp_path / "out", figures=False)
    assemble(NoTest(), config)
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 12, "validation": 4}
    (rows,) = read_tables(read_card(tmp_path / "out")[1], "Splits")
    assert [row["clips"] for row in rows] == ["12", "4", "0", "16"]


@pytest.mark.parametrize("kind", [SmallRows, OwnRows])
def test_tars_alone_load(tmp_path: Path, kind: type[SmallRows]) -> None:
    """Without Parquet the configuration names the tars, and plain `load_dataset` reads them."""
    output = tmp_path / "out"
    config = AssembleConfig(
        source=output, output=output, samples_per_shard=5, formats=("webdataset",)
    )
    assemble(kind(), config)
    for streaming in (False, True):
        loaded = datasets.load_dataset(
            str(output), cache_dir=str(tmp_path / "cache"), streaming=streaming
        )
        rows = {split: list(of_split) for split, of_split in loaded.items()}
        counts = {split: len(of_split) for split, of_split in rows.items()}
        assert counts == {"train": 12, "validation": 4, "test": 3}
        assert all(row["json"]["n_frames"] == len(row["npy"]) for row in rows["train"])


def test_one_split_loads(dataset: Path, tmp_path: Path) -> None:
    """`split=` passes the comparison with the sizes on the card, which is of all splits."""
    options = {"cache_dir": str(tmp_path / "cache")}
    assert len(datasets.load_dataset(str(dataset), split="validation", **options)) == 5


def join_examples(dataset: Path, replacements: dict[str, str], *, local: bool) -> str:
    """Return all examples of a card as one program.

    Args:
        dataset: whose card it is.
        replacements: texts for texts.
        local: those that fetch are left out.
    """
    blocks = read_examples((dataset / "README.md").read_text(encoding="utf-8"))
    assert all(len(block.splitlines()) <= 7 for block in blocks)
    code = "\n".join(b for b in blocks if not (local and "snapshot_download" in b))
    for text, other in replacements.items():
        assert text in code
        code = code.replace(text, other)
    return code


@pytest.mark.parametrize(
    ("kind", "formats"),
    [
        (SmallRows, ("parquet", "webdataset")),
        pytest.param(OwnRows, ("webdataset",), marks=pytest.mark.slow),
        pytest.param(OwnRows, ("parquet",), marks=pytest.mark.slow),
    ],
)
def test_examples_run_on_a_directory(
    tmp_path: Path, kind: type[SmallRows], formats: tuple[str, ...]
) -> None:
    """Every example runs with a directory in place of the word, whatever formats it has."""
    output = tmp_path / "out"
    config = AssembleConfig(
        source=output, output=output, samples_per_shard=5, formats=formats, figures=False
    )
    assemble(kind(), config)
    urls = {HUB_FILES: str(output)} if "webdataset" in formats else {}
    code = join_examples(output, {**urls, REPOSITORY_PLACEHOLDER: str(output)}, local=True)
    code += "print(len(dataset.splits['train']), batch['embeddings'].shape[2])\n"
    code += "print(len(list(tars)))\n" if urls else ""
    code += "print(*frames.shape[::2], int(mask.sum()) > 0)\n" if "parquet" in formats else ""
    lines = run_program(code, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "home"))
    expected = ["12 8", *["12"] * bool(urls), *["6 8 True"] * ("parquet" in formats)]
    assert lines == expected


def run_program(code: str, **environment: str) -> list[str]:
    """Run Python in a process of its own; return the lines that it prints."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment, "PYTHONPATH": SOURCE_PATHS},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def publish(dataset: Path, hub: dict[str, str]) -> str:
    """Upload a dataset as it is; return the repository's name."""
    api = HfApi(endpoint=hub["HF_ENDPOINT"], token=hub["HF_TOKEN"])
    repository = "alice/CLIP-Kinetics700"
    api.create_repo(repository, repo_type="dataset")
    api.upload_folder(repo_id=repository, repo_type="dataset", folder_path=str(dataset))
    return repository


@pytest.mark.slow
def test_examples_run_on_a_hub(illustrated: Path, hub: dict[str, str]) -> None:
    """Every example runs as it stands once the word is a repository's name, by its URLs too."""
    words = {HUB: hub["HF_ENDPOINT"], REPOSITORY_PLACEHOLDER: publish(illustrated, hub)}
    code = join_examples(illustrated, words, local=False) + "print(len(list(tars)))\n"
    assert run_program(code, **hub)[-1] == "14"


@pytest.mark.parametrize("name", ["Parquet", "WebDataset"])
def test_one_format_is_fetched(illustrated: Path, hub: dict[str, str], name: str) -> None:
    """The patterns fetch one format, which opens from where it was fetched to."""
    repository = publish(illustrated, hub)
    examples = read_examples((illustrated / "README.md").read_text(encoding="utf-8"))
    (block,) = [block for block in examples if f"# {name}, " in block]
    code = block.replace('snapshot_download("', 'folder = snapshot_download("')
    code = code.replace(REPOSITORY_PLACEHOLDER, repository) + (
        "import clip_kinetics700, pathlib\n"
        "print(*sorted(path.name for path in pathlib.Path(folder).iterdir()))\n"
        "print({k: len(v) for k, v in clip_kinetics700.open(folder).splits.items()})\n"
    )
    code += (
        "try:\n    print({k: len(v) for k, v in load_dataset(folder).items()})\n"
        "except FileNotFoundError:\n    print(FileNotFoundError.__name__)\n"
    )
    names, counts, plain = run_program(f"from datasets import load_dataset\n{code}", **hub)
    tars = [f"ds_{number:06d}.tar" for number in range(5)]
    expected = {
        "Parquet": ["README.md", "data", "manifest.json"],
        "WebDataset": ["README.md", *tars, "index.parquet", "manifest.json", "splits.csv"],
    }
    assert names.split() == expected[name]
    assert counts == "{'train': 14, 'validation': 5, 'test': 4}"
    # Plain `datasets` reads all splits or none.
    assert plain == (counts if name == "Parquet" else "FileNotFoundError")


@pytest.mark.slow
def test_the_tars_of_a_split_are_fetched(illustrated: Path, hub: dict[str, str]) -> None:
    """The example that fetches one split opens it under its name, and no tar of another."""
    repository = publish(illustrated, hub)
    examples = read_examples((illustrated / "README.md").read_text(encoding="utf-8"))
    (block,) = [block for block in examples if "opened = " in block]
    code = block.replace(REPOSITORY_PLACEHOLDER, repository) + (
        "import pathlib\n"
        "print(*sorted(path.name for path in pathlib.Path(folder).iterdir()))\n"
        "print({k: len(v) for k, v in opened.splits.items()})\n"
    )
    assert run_program(code, **hub) == ["README.md ds_000004.tar", "{'test': 4}"]
