"""`load_dataset` fetches what is asked for and no more, and refuses words that nothing takes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clip_kinetics700 import load_dataset
from tests.support.datasets.layouts import (
    make_classes,
    make_samples,
    write_dataset,
    write_index,
)
from tests.support.hub.hubs import Hub, start_hub

COUNT = """
for repository, split, options in json.loads(arguments[0]):
    loaded = clip_kinetics700.load_dataset(f"alice/{repository}", split, **options)
    print(json.dumps([sum(1 for _ in part) for part in loaded]
                     if isinstance(loaded, list) else sum(1 for _ in loaded)))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A Hub with 100 samples of (10, 512), once with Parquet beside the tars and once without."""
    root = tmp_path_factory.mktemp("hub")
    samples = make_classes(100, ("yoga", "zumba"))
    groups = {"train": samples[:80], "validation": samples[80:90], "test": samples[90:]}
    with start_hub(root) as hub:
        for name in ("both", "tars"):
            made = write_dataset(
                root / name, groups, samples_per_shard=10, parquet=name == "both",
                class_names=("yoga", "zumba"),
            )  # fmt: skip
            hub.publish(write_index(made), f"alice/{name}")
        for name in ("manifest.json", "index.parquet"):
            (root / "tars" / name).unlink()
        hub.publish(root / "tars", "alice/bare")
        yield hub


def fetch(hub: Hub, home: Path, *loads: tuple[str, Any, dict[str, Any]]) -> tuple[list[Any], int]:
    """Return how many rows each load gives, and the bytes that the Hub sent for all of them."""
    hub.control("reset", {})
    printed = hub.run(COUNT, json.dumps(loads), HF_HOME=str(home))
    sent = int(hub.control("stats")["bytes_out"])
    return [json.loads(line) for line in printed.splitlines()], sent


def size_of(hub: Hub, *names: str) -> int:
    """Return the bytes of the files of `alice/both` that have one of these names."""
    root = hub.home.parent / "both"
    return sum(path.stat().st_size for name in names for path in root.rglob(name))


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
def test_one_split_takes_the_bytes_of_one(hub: Hub, tmp_path: Path, *, streaming: bool) -> None:
    """A split of Parquet files comes without the others, prepared or streamed."""
    load = ("both", "val", {"streaming": streaming})
    counts, sent = fetch(hub, tmp_path, load)
    assert counts == [10]
    # A stream looks at the end of a file first.
    assert sent < size_of(hub, "validation-*") + (200_000 if streaming else 50_000)


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("options", [{}, {"max_samples": 10**6}])
def test_one_split_of_tars_takes_the_bytes_of_one(
    hub: Hub, tmp_path: Path, options: dict[str, Any], *, streaming: bool
) -> None:
    """Of tars alone, a split comes through the index without those of the others."""
    counts, sent = fetch(hub, tmp_path, ("tars", "val", {"streaming": streaming, **options}))
    assert counts == [10]
    assert sent < size_of(hub, "ds_000008.tar") + 3 * size_of(hub, "index.parquet") + 50_000


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"max_samples": 10**6}])
def test_one_split_without_an_index_takes_the_bytes_of_one(
    hub: Hub, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Of tars that nothing describes only those of the split are read, none of the others'."""
    counts, sent = fetch(hub, tmp_path, ("bare", "val", options))
    assert counts == [10]
    # All of it to learn what is where, a first block that tells how wide it is, and what is wanted.
    assert sent < 3 * size_of(hub, "ds_000008.tar") + 50_000
    assert not hub.requests("ds_000007.tar")


@pytest.mark.slow
def test_splits_are_fetched_once(hub: Hub, tmp_path: Path) -> None:
    """Several splits, added, sliced or in a list, are fetched with none beside them, and once."""
    loads: list[Any] = [("both", words, {}) for words in ("val+test[:5]", ["test", "val"])]
    counts, sent = fetch(hub, tmp_path, *loads)
    assert counts == [15, [10, 10]]
    assert sent < size_of(hub, "validation-*", "test-*") + 100_000


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("words", [{}, {"max_samples": 2}])
def test_misspelt_keywords_are_refused(
    tmp_path: Path, words: dict[str, Any], *, streaming: bool
) -> None:
    """A keyword that nothing takes raises, whole or selected, also when all lies in the cache."""
    directory = write_dataset(tmp_path / "d", make_samples({"train": 4}))
    options: dict[str, Any] = {"streaming": streaming, "cache_dir": str(tmp_path / "c"), **words}
    load_dataset(directory, "train", **options)
    for word, near in (("clases", "classes"), ("strem", "streaming"), ("num_procs", "num_proc")):
        message = rf"takes no '{word}', .*cache_dir.*; did you mean '{near}'"
        with pytest.raises(TypeError, match=message):
            load_dataset(directory, "train", **(options | {word: ["yoga"]}))


def test_keywords_of_datasets_are_taken(tmp_path: Path) -> None:
    """What `datasets` takes for the way that is chosen is handed on."""
    directory = write_dataset(tmp_path / "d", make_samples({"train": 4}))
    cache = str(tmp_path / "cache")
    rows = load_dataset(directory, "train", columns=["caption"], cache_dir=cache)
    assert rows.column_names == ["caption"]
    rows = load_dataset(directory, "train", max_samples=3, cache_dir=cache, num_proc=1)
    assert len(rows) == 3
    with pytest.raises(TypeError, match="takes no 'columns'"):
        load_dataset(directory, "train", max_samples=3, columns=["caption"], cache_dir=cache)
