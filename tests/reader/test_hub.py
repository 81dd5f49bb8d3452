"""Repositories of the Hub are read like directories: by byte ranges, at one commit, also private.

The Hub is `minihub` on this machine; its clients are processes of their own, because
huggingface_hub reads HF_ENDPOINT when it is imported.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import clip_kinetics700
from clip_kinetics700.hub import find_source
from tests.support.datasets.layouts import (
    make_classes,
    make_sample,
    make_samples,
    write_dataset,
    write_index,
)
from tests.support.hub.hubs import BOB, KEYS, Hub, start_hub

NAMES = tuple(f"class {number:02d}" for number in range(60))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A Hub on this machine."""
    with start_hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture(scope="module")
def large(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 samples of (10, 512) and 60 classes in random order, also in `alice/large`."""
    samples = make_classes(600, NAMES)
    directory = tmp_path_factory.mktemp("large")
    groups = {"train": samples[:500], "validation": samples[500:]}
    write_dataset(directory, groups, samples_per_shard=200, class_names=NAMES, parquet=False)
    hub.publish(write_index(directory), "alice/large")
    return directory


def tar_bytes(directory: Path) -> int:
    """Sum the bytes of a directory's tars."""
    return sum(path.stat().st_size for path in directory.glob("*.tar"))


def test_repository_is_read_by_ranges(hub: Hub, large: Path) -> None:
    """One class of a repository is what the directory holds, for 3 % of its bytes."""
    hub.control("reset", {})
    selected = clip_kinetics700.open(large).select(classes=["class 07"])
    assert hub.keys("alice/large", classes=["class 07"]) == [sample.key for sample in selected]
    assert len(selected) == 10
    requests = hub.requests("/_cdn/")
    assert all(request["range"] for request in requests)
    assert sum(request["bytes_out"] for request in requests) < 0.06 * tar_bytes(large)


def test_whole_repository_is_read_once(hub: Hub, large: Path) -> None:
    """All samples of a repository come in order, each tar's bytes once."""
    hub.control("reset", {})
    assert hub.keys("alice/large") == [sample.key for sample in clip_kinetics700.open(large)]
    nbytes = sum(request["bytes_out"] for request in hub.requests(".tar"))
    assert nbytes < 1.05 * tar_bytes(large)


def test_load_dataset_reads_ranges_of_a_repository(hub: Hub, large: Path) -> None:
    """`load_dataset` with classes reads byte ranges only, prepared or streamed."""
    hub.control("reset", {})
    words: dict[str, Any] = {"classes": ["class 11", "class 12"], "max_samples": 3}
    loads = [("alice/large", {**words, "streaming": streaming}) for streaming in (False, True)]
    expected = [sample.key for sample in clip_kinetics700.open(large).select(**words)]
    assert hub.load(*loads) == [expected] * 2
    assert all(request["range"] for request in hub.requests(".tar"))


@pytest.mark.slow
def test_parquet_of_a_revision_is_loaded(hub: Hub, tmp_path: Path) -> None:
    """With a card, `load_dataset` gives the Parquet files of the revision that is asked for."""
    write_dataset(tmp_path / "old", make_samples({"train": 4}))
    write_dataset(tmp_path / "new", {"train": [make_sample(number) for number in range(50, 53)]})
    hub.publish(tmp_path / "new", "alice/cards")
    hub.publish(tmp_path / "old", "alice/cards", branch="old/ones")
    old, new = (
        [sample.key for sample in clip_kinetics700.open(tmp_path / name)] for name in ("old", "new")
    )
    loads: list[tuple[str, dict[str, Any]]] = [
        ("alice/cards", {"revision": "old/ones"}),
        ("hf://datasets/alice/cards@old%2Fones", {"streaming": True}),
        ("alice/cards", {}),
    ]
    assert hub.load(*loads) == [old, old, new]


def test_revisions_are_branches_or_commits(hub: Hub, tmp_path: Path) -> None:
    """A branch, also one with a slash in its name, or a commit is read, by argument or URL."""
    write_dataset(tmp_path / "old", make_samples({"train": 2}), parquet=False)
    write_dataset(tmp_path / "new", make_samples({"train": 5}), parquet=False)
    hub.publish(tmp_path / "new", "alice/revisions")
    commit = hub.publish(tmp_path / "old", "alice/revisions", branch="a/b")
    found = hub.open(
        ("alice/revisions", None),
        ("alice/revisions", "a/b"),
        ("hf://datasets/alice/revisions@a%2Fb", None),
        ("hf://datasets/alice/revisions/", commit),
        (f"hf://datasets/alice/revisions@{commit}/ds_000000.tar", None),
    )
    assert list(map(len, found)) == [5, 2, 2, 2, 2]


COMMIT_BETWEEN = """
repository, directory = arguments
dataset = clip_kinetics700.open(repository)
HfApi().upload_folder(repo_id=repository, folder_path=directory, repo_type="dataset")
print(json.dumps([[sample.key for sample in dataset], len(clip_kinetics700.open(repository))]))
"""


def test_commits_in_between_change_nothing(hub: Hub, tmp_path: Path) -> None:
    """A dataset that is open stays the commit it was; opened again it is the new one."""
    old, new = make_samples({"train": 3}), {"train": [make_sample(n) for n in range(90, 95)]}
    write_index(write_dataset(tmp_path / "old", old, parquet=False))
    write_index(write_dataset(tmp_path / "new", new, parquet=False))
    hub.publish(tmp_path / "old", "alice/moving")
    keys, n_after = json.loads(hub.run(COMMIT_BETWEEN, "alice/moving", str(tmp_path / "new")))
    assert keys == [sample.key for sample in old["train"]]
    assert n_after == 5


def test_private_repository_needs_its_token(hub: Hub, tmp_path: Path) -> None:
    """With HF_TOKEN of a member a private repository is read; to others it is not there."""
    write_dataset(tmp_path, make_samples({"train": 2}), parquet=False)
    hub.publish(tmp_path, "alice/private", private=True)
    assert len(hub.keys("alice/private")) == 2
    done = hub.try_to_run(KEYS, "alice/private", "{}", "{}", HF_TOKEN=BOB)
    assert "FileNotFoundError: no directory alice/private here, and no dataset" in done.stderr


UNKNOWN = (
    ("alice/nothing", None),
    ("hf://datasets/alice/nothing", None),
    ("alice/large", "nothing"),
    ("alice/--x..y", None),
)


def test_unknown_repositories_are_one_line(hub: Hub, large: Path) -> None:
    """A repository or revision that is not there is one line with what the Hub said."""
    for (source, _), error in zip(UNKNOWN, hub.open(*UNKNOWN), strict=True):
        name = source.removeprefix("hf://datasets/")
        assert isinstance(error, str), source
        assert error.startswith(f"FileNotFoundError: no directory {name}")
        assert "on the Hub (" in error
        assert error.endswith(")")
        assert len(error.splitlines()) == 1


@pytest.mark.slow
def test_faults_of_the_hub_are_overcome(hub: Hub, large: Path) -> None:
    """A request in passing that fails, of asking for the commit or for bytes, costs no sample."""
    faults = [
        "GET /api/datasets/alice/large$;status;code=503",
        "GET .*/resolve/.*/index.parquet;reset;after=0",
        "GET .*/_cdn/.*ds_000001.tar;status;code=503",
    ]
    hub.control("faults", faults)
    assert len(hub.keys("alice/large", classes=["class 07"])) == 10
    assert [fault["hits"] for fault in hub.control("faults")] == [1, 1, 1]


def test_revision_of_what_is_no_repository_is_refused(tmp_path: Path) -> None:
    """A revision of a directory, or another one than the URL names, raises."""
    with pytest.raises(ValueError, match=r"revision 'v1' is asked for, but .* is no repository"):
        clip_kinetics700.open(tmp_path, revision="v1")
    with pytest.raises(ValueError, match="revision 'v1' is asked for, but hf://datasets/a/b@v2"):
        clip_kinetics700.open("hf://datasets/a/b@v2", revision="v1")


@pytest.mark.parametrize(
    ("source", "revision", "url"),
    [
        ("a/b", None, "hf://datasets/a/b"),
        ("a/b", "v1", "hf://datasets/a/b@v1"),
        ("a/b", "x/y", "hf://datasets/a/b@x%2Fy"),
        ("hf://datasets/a/b/", "v1", "hf://datasets/a/b@v1"),
        ("hf://datasets/a/b/data/train", "v1", "hf://datasets/a/b@v1/data/train"),
        ("hf://datasets/a/b@refs/pr/1/data", None, "hf://datasets/a/b@refs/pr/1/data"),
        ("s3://bucket/d/", None, "s3://bucket/d"),
    ],
)
def test_revision_is_part_of_the_url(source: str, revision: str | None, url: str) -> None:
    """The URL of a repository names the revision right behind it, slashes as `%2F`."""
    assert find_source(source, revision) == url
