"""These functions convert small datasets as a user does, and look at what that left."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import clip_kinetics700
from clip_kinetics700.dataset import EmbeddingDataset
from clip_kinetics700.schema import Sample
from tests.support.datasets.builds import Outcome, run_cli


def run_convert(source: Path | str, output: Path, *options: str | Path) -> Outcome:
    """Convert with five samples a shard; pictures take seconds and are drawn elsewhere."""
    words = ("--samples-per-shard", "5", "--quiet", "--no-figures", *options)
    return run_cli("convert", source, output, *words)


def convert_to(output: Path, source: Path | str, *options: str | Path) -> EmbeddingDataset:
    """Convert, which must succeed; open what that wrote."""
    outcome = run_convert(source, output, *options)
    assert (outcome.returncode, outcome.stdout) == (0, ""), outcome.stderr
    return clip_kinetics700.open(output)


def assert_one_line(outcome: Outcome, code: int, *messages: str) -> None:
    """Check that the command ended with this exit code and one line that says all of this."""
    assert outcome.returncode == code, outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1, outcome.stderr
    for message in messages:
        assert message in outcome.stderr, outcome.stderr


def assert_same_rows(source: EmbeddingDataset, output: EmbeddingDataset) -> None:
    """Check that both hold the same samples in the same order by split, but for the keys."""
    assert list(source.splits) == list(output.splits)
    number = 0
    for split, samples in source.splits.items():
        for before, after in zip(samples, output.splits[split], strict=True):
            assert after.key == f"vid_{number:09d}"
            assert_same_sample(before, after)
            number += 1


def assert_same_sample(before: Sample, after: Sample) -> None:
    """Check that captions, fields and bits are the same; `extra` keeps another key."""
    assert after.embeddings.dtype == np.float16
    assert after.embeddings.tobytes() == before.embeddings.astype(np.float16).tobytes()
    assert after.caption == before.caption
    expected = {**before.meta, "key": after.key}
    if before.label_id is None and before.caption:
        expected["label_id"] = after.label_id
    if before.key != after.key:
        expected["extra"] = json.dumps(
            {"key": before.key, **json.loads(before.extra or "{}")}, ensure_ascii=False
        )
    assert after.meta == expected


def read_failures(output: Path) -> list[dict[str, Any]]:
    """Return the rows of failures.parquet."""
    rows: list[dict[str, Any]] = pq.read_table(output / "failures.parquet").to_pylist()
    return rows


def list_reports(output: Path) -> list[str]:
    """Return the names of the reports of finished shards."""
    return sorted(path.name for path in (output / ".build/shards").glob("*.json"))


def read_states(output: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of every shard; a file that is written again has others."""
    paths = [*output.glob("*.tar"), *output.glob("data/*.parquet")]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}
