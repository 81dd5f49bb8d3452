"""`webdataset`, `datasets` and our own readers read the tars of a repository by URL."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub.hubs import Hub, start_hub

READ = """
import os, fsspec, webdataset
from datasets import load_dataset
base, braces = arguments
names = [base + f"ds_{number:06d}.tar" for number in range(3)]
def count(rows):
    return sum(1 for _ in rows)
def web(urls):
    return count(webdataset.WebDataset(urls, shardshuffle=False).decode())
"""
BY_URL = """
found = [web(base + braces)]
for streaming in (False, True):
    loaded = load_dataset("webdataset", data_files={"train": names}, streaming=streaming)
    found.append([count(loaded["train"]), sorted(next(iter(loaded["train"])))])
found.append(count(clip_kinetics700.open(names)))
print(json.dumps(found))
"""
BY_HUB = """
webdataset.gopen_schemes["hf"] = lambda url, mode="rb", bufsize=8192: fsspec.open(url, mode).open()
reader = clip_kinetics700.EmbeddingWebDatasetReader(
    base + braces, standard_seq_len=16, batch_size=4, num_prepro_workers=0, enable_text=False
)
batches = clip_kinetics700.batches("alice/private", "train", batch_size=4)
loaded = load_dataset("webdataset", data_files={"train": names}, streaming=True)["train"]
print(json.dumps([
    web(base + braces),
    sum(len(batch["embeddings"]) for batch in reader),
    sum(len(batch["keys"]) for batch in batches),
    count(loaded),
]))
"""
BRACES = "ds_{000000..000002}.tar"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Iterator[Hub]:
    """A Hub on this machine with the miniature Kinetics, once public and once private."""
    with start_hub(tmp_path_factory.mktemp("hub")) as hub:
        hub.publish(dataset, "alice/built")
        hub.publish(dataset, "alice/private", private=True)
        yield hub


@pytest.mark.slow
def test_public_tars_are_read_by_url(hub: Hub) -> None:
    """`webdataset` through curl, `datasets` and `open` find all 14 rows of train behind URLs."""
    base = f"{hub.endpoint}/datasets/alice/built/resolve/main/"
    found = json.loads(hub.run(READ + BY_URL, base, BRACES, HF_TOKEN=""))
    columns = ["__key__", "__url__", "json", "npy", "txt"]
    assert found == [14, [14, columns], [14, columns], 14]


@pytest.mark.slow
def test_private_tars_are_read_without_a_token_in_an_argument(hub: Hub) -> None:
    """`hf://` and fsspec read private tars as docs/read.md says; no process shows the token."""
    hub.control("faults", ["GET .*/_cdn/.*ds_00000.*;delay;seconds=0.02;times=-1"])
    base = "hf://datasets/alice/private/"
    done, seen = hub.run_watched(READ + BY_HUB, base, BRACES)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [14, 14, 14, 14]
    assert seen
    assert not [words for words in seen if "hf_alice" in words]


@pytest.mark.slow
def test_the_way_of_webdataset_itself_shows_the_token(hub: Hub) -> None:
    """docs/read.md warns rightly: webdataset's own `hf://` gives curl the token as argument."""
    hub.control("faults", ["GET .*/_cdn/.*ds_00000.*;delay;seconds=0.2;times=-1"])
    code = READ + "print(web(base + braces))"
    done, seen = hub.run_watched(code, "hf://datasets/alice/private/", BRACES)
    assert done.stdout.strip() == "14"
    assert [words for words in seen if "hf_alice" in words and words.startswith("curl")]
