"""The README's examples of reading run as they stand there."""

import re
import runpy
from pathlib import Path

import pytest

from tests.support.datasets.layouts import make_samples, write_dataset, write_index

README = Path(__file__).parent.parent / "README.md"
NAMES = ("yoga", "zumba", "abseiling", "air drumming", "alligator wrestling", "answering questions")


def test_reading_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block of the section on reading runs, one after the other."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    samples = make_samples({"train": 30, "validation": 4, "test": 2})
    directory = write_index(write_dataset(tmp_path / "dataset", samples, class_names=NAMES))
    section = README.read_text().partition("## Read a dataset")[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(blocks) >= 6
    code = "\n".join(blocks).replace("OWNER/CLIP-Kinetics700", str(directory))
    script = tmp_path / "readme.py"
    script.write_text(code.replace("DIRECTORY", str(directory)))
    names = runpy.run_path(str(script))
    assert {"embeddings", "mask"} <= set(names["batch"])
    assert list(next(iter(names["reader"]))) == ["zero_mask", "embeddings"]
