"""webdataset reads every sample of our tars."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import webdataset

# webdataset 1.0.2 leaves the files it has read to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_webdataset_decodes_every_sample(dataset: Path) -> None:
    """`WebDataset(tars).decode()` yields the rows of the index with arrays, text and json."""
    tars = sorted(str(path) for path in dataset.glob("ds_*.tar"))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode())
    index = pq.read_table(dataset / "index.parquet").to_pylist()
    assert [sample["__key__"] for sample in samples] == [row["key"] for row in index]
    for sample, row in zip(samples, index, strict=True):
        assert sample["npy"].shape == (row["n_frames"], 512)
        assert sample["npy"].dtype == "float16"
        assert sample["txt"] == row["caption"]
        assert sample["json"]["videoID"] == row["youtube_id"]
        assert sample["json"]["start_time"] == f"{row['time_start']:06d}"


def test_json_members_are_plain_json(dataset: Path) -> None:
    """Without `decode` the json member is a document that any reader takes."""
    (tar, *_) = sorted(str(path) for path in dataset.glob("ds_*.tar"))
    for sample in webdataset.WebDataset(tar, shardshuffle=False):
        assert json.loads(sample["json"])["n_frames"] > 0
