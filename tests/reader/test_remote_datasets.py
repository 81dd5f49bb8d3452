"""Remote datasets give the same samples for few bytes, and tell or overcome faults."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clip_kinetics700
from clip_kinetics700 import DamageError, load_dataset
from tests.support.datasets.layouts import (
    SAMPLES,
    make_classes,
    make_sample,
    make_samples,
    npy_bytes,
    write_dataset,
    write_index,
)
from tests.support.datasets.places import assert_same
from tests.support.hub.servers import Served, serve

NAMES = tuple(f"class {number:03d}" for number in range(300))
KEYS = [f"vid_{number:09d}" for number in range(19)]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3,000 samples of (10, 512) and 300 classes in random order, in six tars."""
    samples = make_classes(3000, NAMES)
    directory = tmp_path_factory.mktemp("large")
    groups = {"train": samples[:2500], "validation": samples[2500:]}
    write_dataset(directory, groups, samples_per_shard=500, class_names=NAMES, parquet=False)
    return write_index(directory)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """19 samples in five tars with an index."""
    return write_index(write_dataset(tmp_path / "d", make_samples(SAMPLES), parquet=False))


@pytest.fixture
def served(small: Path) -> Iterator[Served]:
    """The small dataset on a server."""
    with serve(small) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again almost at once."""
    monkeypatch.setattr("clip_kinetics700.remote.PAUSE_SECONDS", 0.01)


def tar_bytes(directory: Path) -> int:
    """Sum the bytes of a directory's tars."""
    return sum(path.stat().st_size for path in directory.glob("*.tar"))


def read_keys(source: Any, **options: Any) -> list[str]:
    """Return the keys of all samples, read from first to last."""
    return [sample.key for sample in iter(clip_kinetics700.open(source, **options))]


def test_remote_rows_are_the_local_ones(large: Path) -> None:
    """Read over HTTP through the index, every sample is bit for bit what the directory holds."""
    with serve(large) as server:
        remote = clip_kinetics700.open(server.url)
        assert_same(remote, clip_kinetics700.open(large))
        rows = [2999, 0, 700, 701, 2400]
        assert_same(remote[rows], clip_kinetics700.open(large)[rows])
        assert server.nbytes(".tar") < 1.1 * tar_bytes(large)


def test_one_class_takes_few_bytes(large: Path) -> None:
    """One class of 300 transfers less than 3 % of the bytes, index and all, sixteen at a time."""
    with serve(large, latency_seconds=0.02) as server:
        selected = clip_kinetics700.open(server.url).select(classes=["class 007"])
        assert_same(selected, clip_kinetics700.open(large).select(classes=["class 007"]))
        assert len(selected) == 10
        assert server.nbytes() < 0.03 * tar_bytes(large)
        assert 4 < server.max_at_once <= 16


@pytest.mark.parametrize("streaming", [False, True])
def test_load_dataset_takes_few_bytes(large: Path, tmp_path: Path, *, streaming: bool) -> None:
    """`load_dataset` of some classes and samples reads just these, prepared or streamed."""
    words: dict[str, Any] = {"classes": ["class 007", "class 123"], "max_samples": 4}
    with serve(large) as server:
        loaded = load_dataset(
            server.url, "train", streaming=streaming, cache_dir=str(tmp_path), **words
        )
        keys = [row["meta"]["key"] for row in loaded]
        assert server.nbytes(".tar") < 0.01 * tar_bytes(large)
    expected = clip_kinetics700.open(large).select("train", **words)
    assert keys == [sample.key for sample in expected]


def test_first_sample_is_cheap(large: Path) -> None:
    """Looking at one sample, with an index or without, does not bring megabytes."""
    with serve(large) as server:
        assert next(iter(clip_kinetics700.open(server.url))).key == KEYS[0]
        assert server.nbytes(".tar") < 0.2 * tar_bytes(large)
        server.forget()
        assert next(iter(clip_kinetics700.open(f"{server.url}/ds_000000.tar"))).key == KEYS[0]
        assert server.nbytes() < 0.05 * tar_bytes(large)


@pytest.mark.parametrize("streaming", [False, True])
def test_without_an_index_bytes_are_read_once(
    small: Path, tmp_path: Path, *, streaming: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Reading all splits from first to last transfers each tar once and makes no index."""
    (small / "index.parquet").unlink()
    with serve(small) as server:
        assert read_keys(server.url) == KEYS
        assert server.nbytes(".tar") == tar_bytes(small)
        server.forget()
        loaded = load_dataset(server.url, streaming=streaming, cache_dir=str(tmp_path / "cache"))
        assert [row["meta"]["key"] for rows in loaded.values() for row in rows] == KEYS
        # `datasets` asks each split whether it has a sample.
        assert server.nbytes(".tar") < 2.5 * tar_bytes(small)
    assert caplog.records == []


@pytest.mark.parametrize("has_index", [False, True])
@pytest.mark.parametrize("fault", ["reset", "cut", 503, 500, 429])
def test_faults_in_passing_are_overcome(
    small: Path, served: Served, fault: Any, *, has_index: bool
) -> None:
    """A reset, a body cut off or an overloaded server, three times on end, costs no sample."""
    if not has_index:
        (small / "index.parquet").unlink()
    expected = list(iter(clip_kinetics700.open(small)))
    served.fail("ds_000001", fault, times=3)
    served.fail("manifest.json", fault, times=2)
    served.fail("index.parquet", fault, times=1)
    assert_same(iter(clip_kinetics700.open(served.url)), expected)


@pytest.mark.parametrize("has_index", [False, True])
@pytest.mark.parametrize(("fault", "reason"), [("reset", "attempt 4"), (503, "503"), (403, "403")])
def test_faults_that_stay_are_errors_not_damage(
    small: Path, served: Served, fault: Any, reason: str, *, has_index: bool
) -> None:
    """A file that cannot be fetched raises with its URL, even where damage is skipped."""
    if not has_index:
        (small / "index.parquet").unlink()
    served.fail("ds_000001", fault)
    with pytest.raises(OSError, match=rf"^{served.url}/ds_000001\.tar: .*{reason}"):
        read_keys(served.url, on_error="skip")


def test_parquet_is_fetched_like_tars(tmp_path: Path) -> None:
    """Reading Parquet alone overcomes faults in passing; those that stay are no damage."""
    directory = write_dataset(tmp_path, make_samples(SAMPLES))
    for tar in directory.glob("*.tar"):
        tar.unlink()
    with serve(directory) as server:
        server.fail("train-00000", "cut", times=2)
        assert read_keys(server.url) == KEYS
        dataset = clip_kinetics700.open(server.url, on_error="skip")
        assert len(dataset) == 19
        server.fail("train-00000", 503)
        with pytest.raises(ConnectionError, match=r"/data/train-00000-of-00001\.parquet: 503"):
            list(dataset)


@pytest.mark.parametrize("has_index", [False, True])
def test_tar_that_is_gone_is_named(
    small: Path, served: Served, caplog: pytest.LogCaptureFixture, *, has_index: bool
) -> None:
    """A tar that is listed but answers 404 raises with its name, or is left out with a warning."""
    if not has_index:
        (small / "index.parquet").unlink()
    served.fail("ds_000001", 404)
    with pytest.raises(DamageError, match=r"/ds_000001\.tar: .*the file is not there"):
        read_keys(served.url)
    assert read_keys(served.url, on_error="skip") == KEYS[:5] + KEYS[10:]
    assert re.search(r"skipped: http.*/ds_000001\.tar: .*the file is not there", caplog.text)


def test_missing_directory_is_named() -> None:
    """A URL where nothing is raises with it, whether its server lists directories or not."""
    with serve(Path("/nonexistent")) as server:
        with pytest.raises(FileNotFoundError, match=rf"no directory {server.url}/d, or its server"):
            clip_kinetics700.open(f"{server.url}/d/")
        with pytest.raises(DamageError, match=r"/ds_0\.tar: the file is not there"):
            next(iter(clip_kinetics700.open(f"{server.url}/ds_0.tar")))


def test_manifest_stands_in_for_a_listing(tmp_path: Path) -> None:
    """A server that lists nothing is enough where a manifest names the files."""
    directory = write_index(write_dataset(tmp_path, make_samples(SAMPLES), parquet=False))
    with serve(directory, lists=False) as server:
        with pytest.raises(FileNotFoundError, match="or its server does not list it"):
            clip_kinetics700.open(server.url)
        names = [path.name for path in directory.iterdir() if path.name != "manifest.json"]
        files = ", ".join(f'"{name}": {{}}' for name in names)
        (directory / "manifest.json").write_text(f'{{"files": {{{files}}}}}')
        assert read_keys(server.url) == KEYS


def test_server_without_ranges_is_read_whole_or_refused(small: Path) -> None:
    """From first to last such a server will do; for a selection the error says what it lacks."""
    with serve(small, knows_ranges=False) as server:
        with pytest.raises(OSError, match=r"/ds_00000\d\.tar: its server knows no byte ranges$"):
            read_keys(server.url)
        (small / "index.parquet").unlink()
        assert read_keys(server.url) == KEYS
        server.fail("ds_000001", "cut")
        with pytest.raises(ConnectionError, match=r"/ds_000001\.tar: "):
            read_keys(server.url)


def test_signed_urls_are_tars(small: Path, served: Served) -> None:
    """A query behind a tar's name is kept; a directory's URL cannot have one, which is said."""
    urls = [f"{served.url}/ds_00000{number}.tar?signature=a/b" for number in range(3)]
    assert read_keys(urls) == KEYS[:12]
    assert clip_kinetics700.open(urls)[7].key == KEYS[7]
    with pytest.raises(ValueError, match="a directory's URL cannot have a query"):
        clip_kinetics700.open(f"{served.url}?signature=a")


def test_directory_urls_may_end_in_slashes(served: Served) -> None:
    """A trailing slash makes no difference to what is found and how it is called."""
    dataset = clip_kinetics700.open(f"{served.url}//")
    assert dataset.layout == clip_kinetics700.open(served.url).layout
    assert dataset.layout.files["test"] == [f"{served.url}/ds_000004.tar"]


def test_names_in_urls_are_those_on_disk(tmp_path: Path) -> None:
    """Blanks and letters beyond ASCII in names of files are no others over HTTP."""
    (tmp_path / "my data/train").mkdir(parents=True)
    for name in ("clip 1", "clip (é)"):
        array = npy_bytes(np.ones((2, 4), np.float32))
        (tmp_path / f"my data/train/{name}.npy").write_bytes(array)
    write_index(tmp_path / "my data")
    local = clip_kinetics700.open(tmp_path / "my data")
    with serve(tmp_path) as server:
        for name in ("my data", "my%20data"):
            assert_same(clip_kinetics700.open(f"{server.url}/{name}"), local)


def test_stopping_early_stops_the_requests(large: Path) -> None:
    """A reader that stops iterating is not sent the rest of what was on its way."""
    with serve(large, latency_seconds=0.01) as server:
        for number, _ in enumerate(clip_kinetics700.open(server.url)):
            if number == 300:
                break
        assert server.nbytes(".tar") < 0.7 * tar_bytes(large)


def test_changed_remote_dataset_is_not_answered_from_the_cache(
    tmp_path: Path, served: Served
) -> None:
    """A tar that was replaced on the server is read anew by `load_dataset`."""
    cache = str(tmp_path / "cache")
    words: dict[str, Any] = {"max_samples": 99, "cache_dir": cache}
    first = load_dataset(served.url, "test", **words)
    other = {"test": [make_sample(50 + number) for number in range(3)]}
    write_index(write_dataset(served.directory, {**make_samples(SAMPLES), **other}, parquet=False))
    second = load_dataset(served.url, "test", **words)
    assert [row["meta"]["key"] for row in first] == KEYS[16:]
    assert [row["meta"]["key"] for row in second] == [sample.key for sample in other["test"]]
