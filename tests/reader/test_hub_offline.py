"""What was loaded from the Hub loads again without it; anything else is one clear error."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.datasets.layouts import (
    CLASS_NAMES,
    make_sample,
    make_samples,
    write_dataset,
    write_index,
)
from tests.support.hub.hubs import Hub, start_hub

OFFLINE = {"HF_HUB_OFFLINE": "1"}
# An address at which nothing listens.
STOPPED = {"HF_ENDPOINT": "http://127.0.0.1:9"}
EVALUATE = """
import datasets
def keys(loaded):
    return {split: [row["meta"]["key"] for row in loaded[split]] for split in loaded}
for words in arguments:
    try:
        found = eval(words)
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    print(json.dumps(found))
"""
PLAIN = "keys(datasets.load_dataset('alice/built'))"
WHOLE = "keys(clip_kinetics700.load_dataset('alice/built'))"
SELECTED = f"keys(clip_kinetics700.load_dataset('alice/built', classes={CLASS_NAMES[:1]}))"
OPENED = "[sample.key for sample in clip_kinetics700.open('alice/built')]"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A Hub on this machine with `alice/built`, which has tars, Parquet, index and manifest."""
    root = tmp_path_factory.mktemp("hub")
    directory = write_dataset(root / "built", make_samples({"train": 12, "validation": 4}))
    write_index(directory)
    manifest = json.loads((directory / "manifest.json").read_text())
    names = [path.relative_to(directory).as_posix() for path in directory.rglob("*.*")]
    manifest["files"] = {name: {} for name in names if name not in ("manifest.json", "README.md")}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    with start_hub(root) as hub:
        hub.publish(directory, "alice/built")
        yield hub


def evaluate(hub: Hub, home: Path, *expressions: str, **environment: str) -> list[Any]:
    """Return what each expression gives in a process with a cache of its own."""
    printed = hub.run(EVALUATE, *expressions, HF_HOME=str(home), **environment)
    return [json.loads(line) for line in printed.splitlines()]


@pytest.mark.parametrize("without", [OFFLINE, pytest.param(STOPPED, marks=pytest.mark.slow)])
def test_what_was_loaded_loads_again(hub: Hub, tmp_path: Path, without: dict[str, str]) -> None:
    """Plain, whole and selected datasets come again from the cache, and `open` reads them there."""
    online = evaluate(hub, tmp_path, PLAIN, WHOLE, SELECTED, OPENED)
    assert online[0] == online[1]
    assert online[0]["train"] + online[0]["validation"] == online[3]
    assert online[2]["train"] == [f"vid_{number:09d}" for number in (0, 3, 6, 9)]
    hub.control("reset", {})
    # `datasets` asks the Hub six times before it looks into its cache; once is enough.
    again = evaluate(
        hub, tmp_path, *(PLAIN, WHOLE, SELECTED, OPENED)[without is STOPPED :], **without
    )
    assert again == online[-len(again) :]
    assert not hub.requests("alice")


@pytest.mark.slow
def test_a_selection_alone_loads_again(hub: Hub, tmp_path: Path) -> None:
    """A selection that was prepared by ranges loads again; what was never fetched is an error."""
    online = evaluate(hub, tmp_path, SELECTED)
    other = f"keys(clip_kinetics700.load_dataset('alice/built', classes={CLASS_NAMES[1:2]}))"
    count = "len(clip_kinetics700.open('alice/built'))"
    offline = evaluate(hub, tmp_path, SELECTED, count, other, OPENED, **OFFLINE)
    assert offline[0] == online[0]
    assert offline[1] == 16
    assert all("ds_000000.tar" in error for error in offline[2:]), offline


@pytest.mark.parametrize("without", [OFFLINE, pytest.param(STOPPED, marks=pytest.mark.slow)])
def test_nothing_in_the_cache_is_one_error(
    hub: Hub, tmp_path: Path, without: dict[str, str]
) -> None:
    """A dataset that was never loaded is one line that says so, also for another revision."""
    for error in evaluate(hub, tmp_path, OPENED, WHOLE, SELECTED, **without):
        assert error.startswith("FileNotFoundError: no directory alice/built here, and no dataset")
        assert error.endswith("; nothing of it is in the Hub's cache)")


@pytest.mark.slow
def test_commits_are_not_mistaken_for_each_other(hub: Hub, tmp_path: Path) -> None:
    """Each revision gives its own rows, though `datasets` alone would give the latest prepared."""
    write_dataset(tmp_path / "old", make_samples({"train": 4}))
    write_dataset(tmp_path / "new", {"train": [make_sample(number) for number in range(50, 53)]})
    hub.publish(tmp_path / "new", "alice/moved")
    hub.publish(tmp_path / "old", "alice/moved", branch="old")
    load = "keys(clip_kinetics700.load_dataset('alice/moved', revision='{}'))"
    loads = [load.format(revision) for revision in ("old", "main")]
    online = evaluate(hub, tmp_path / "home", *loads)
    assert [len(found["train"]) for found in online] == [4, 3]
    never = load.format("never")
    offline = evaluate(hub, tmp_path / "home", *loads, never, **OFFLINE)
    assert offline[:2] == online
    assert "nothing of it is in the Hub's cache" in offline[2]


@pytest.mark.slow
def test_a_verified_repository_is_open_without_the_hub(
    hub: Hub, dataset: Path, tmp_path: Path
) -> None:
    """After `verify` all of a repository is read from the Hub's cache, the tars too."""
    hub.publish(dataset, "alice/verified")
    outcome = hub.run_command("verify", "alice/verified", HF_HOME=str(tmp_path))
    assert outcome.returncode == 0, outcome.stderr
    opened = OPENED.replace("built", "verified")
    kind = "clip_kinetics700.open('alice/verified').layout.kind"
    found = evaluate(hub, tmp_path, opened, kind, **OFFLINE)
    assert found == [[f"vid_{number:09d}" for number in range(23)], "tars"]
    outcome = hub.run_command("info", "alice/verified", HF_HOME=str(tmp_path), **OFFLINE)
    assert outcome.returncode == 0, outcome.stderr
