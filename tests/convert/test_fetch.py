"""`convert` copies what lies elsewhere once, file by file, and converts the copy."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

import clip_kinetics700
from clip_kinetics700.layout import Layout
from clip_kinetics700_builder.config import SourceConfig
from clip_kinetics700_builder.convert.fetch import fetch_source
from clip_kinetics700_builder.read.rows import list_source, open_source
from clip_kinetics700_builder.system.progress import no_progress
from clip_kinetics700_builder.types import InputError
from tests.support.damage.datasets import make_dataset
from tests.support.datasets.builds import published_hashes, run_cli
from tests.support.datasets.conversions import (
    assert_one_line,
    assert_same_rows,
    convert_to,
    run_convert,
)
from tests.support.datasets.dialects import (
    DIALECTS,
    write_flat_upstream,
    write_foreign,
    write_triples,
)
from tests.support.datasets.layouts import write_index
from tests.support.hub.servers import Served, serve


def count_gets(served: Served) -> Counter[str]:
    """Return how often the content of each file was asked for."""
    whole = [r.path.lstrip("/") for r in served.requests if r.method == "GET" and r.nbytes > 1]
    return Counter(whole)


@pytest.mark.parametrize("dialect", ["flat upstream", "split directories", "processed", "gzip"])
def test_every_dialect_comes_over_the_web(dialect: str, tmp_path: Path) -> None:
    """A source on a web server is row-exact, and its copy goes when all is verified."""
    source = DIALECTS[dialect](tmp_path / "source")
    with serve(source) as served:
        output = convert_to(tmp_path / "out", served.url)
    assert_same_rows(clip_kinetics700.open(source), output)
    assert not (tmp_path / "out/.build/source").exists()


def test_our_own_layout_comes_over_the_web(tmp_path: Path) -> None:
    """A dataset of ours needs no listing, comes byte for byte, and no file that is not read."""
    source = make_dataset(tmp_path / "source")
    with serve(source, lists=False) as served:
        convert_to(tmp_path / "out", served.url)
        asked = {path for path in count_gets(served) if path}
    assert published_hashes(tmp_path / "out") == published_hashes(source)
    assert not [path for path in asked if path.startswith("data/") or path == "README.md"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """One attempt at a file is the last."""
    monkeypatch.setattr("clip_kinetics700.remote.ATTEMPTS", 1)


@pytest.mark.usefixtures("impatient")
def test_a_file_that_arrived_is_not_fetched_again(tmp_path: Path) -> None:
    """After a server that failed in the middle, only what is missing is fetched."""
    source = write_flat_upstream(tmp_path / "source")
    with serve(source) as served:
        served.fail("ds_000002.tar", "cut")
        outcome = run_convert(served.url, tmp_path / "out")
        assert_one_line(outcome, 1, "ds_000002.tar")
        copy = tmp_path / "out/.build/source/data"
        assert sorted(path.name for path in copy.iterdir()) == ["ds_000000.tar", "ds_000001.tar"]
        served.forget()
        served._faults.clear()
        output = convert_to(tmp_path / "out", served.url)
        fetched = {path for path in count_gets(served) if path.endswith(".tar")}
        assert fetched == {f"data/ds_{n:06d}.tar" for n in (2, 3, 4)}
    assert_same_rows(clip_kinetics700.open(source), output)


def test_a_finished_conversion_fetches_nothing(tmp_path: Path) -> None:
    """The same command again looks whether the source is the same, and reads none of it."""
    source = write_foreign(tmp_path / "source")
    with serve(source) as served:
        convert_to(tmp_path / "out", served.url)
        served.forget()
        outcome = run_cli("convert", served.url, tmp_path / "out", "--samples-per-shard", "5")
        assert "is complete, nothing to write" in outcome.stderr
        assert outcome.returncode == 0
        assert not [path for path in count_gets(served) if path.endswith(".tar")]


@pytest.mark.usefixtures("impatient")
def test_a_copy_of_another_state_is_dropped(tmp_path: Path) -> None:
    """What was fetched before the source changed is fetched anew."""
    source = write_foreign(tmp_path / "source")
    with serve(source) as served:
        served.fail("ds_000003.tar", "cut")
        assert run_convert(served.url, tmp_path / "out").returncode == 1
        served._faults.clear()
        other = write_foreign(tmp_path / "other", counts=(30, 3, 2, 2))
        for path in (other / "data").iterdir():
            shutil.move(path, source / "data" / path.name)
        output = convert_to(tmp_path / "out", served.url)
        assert len(output) == 37
    assert_same_rows(clip_kinetics700.open(source), output)


def test_a_named_tar_comes_over_the_web(tmp_path: Path) -> None:
    """One tar by its URL is `train`."""
    source = write_foreign(tmp_path / "source")
    with serve(source) as served:
        output = convert_to(tmp_path / "out", f"{served.url}/data/ds_000001.tar")
    expected = clip_kinetics700.open(source / "data/ds_000001.tar")
    assert_same_rows(expected, output)


def test_an_index_is_used_in_the_copy(tmp_path: Path) -> None:
    """The index of a remote source is copied with it; one that lies elsewhere is read there."""
    source = write_index(write_foreign(tmp_path / "source"))
    with serve(source) as served:
        assert_same_rows(clip_kinetics700.open(source), convert_to(tmp_path / "a", served.url))
        index = tmp_path / "index.parquet"
        (source / "index.parquet").rename(index)
        output = convert_to(tmp_path / "b", served.url, "--index", index)
    assert_same_rows(clip_kinetics700.open(source), output)


def test_other_bytes_than_the_manifests_are_refused(tmp_path: Path) -> None:
    """A file of ours that arrives with another hash is named, and is not kept."""
    source = make_dataset(tmp_path / "source")
    data = bytearray((source / "ds_000001.tar").read_bytes())
    data[700] ^= 1
    (source / "ds_000001.tar").write_bytes(data)
    with serve(source) as served:
        outcome = run_convert(served.url, tmp_path / "out")
    assert_one_line(outcome, 1, "ds_000001.tar: arrived with another sha256")
    assert not (tmp_path / "out/.build/source/ds_000001.tar").exists()


def test_names_that_lead_out_of_the_copy_are_refused(tmp_path: Path) -> None:
    """A manifest cannot make us write beside the copy."""
    source = tmp_path / "source"
    source.mkdir()
    files = {"train/../../../evil.tar": {"bytes": 1}}
    (source / "manifest.json").write_text(json.dumps({"files": files}), encoding="utf-8")
    (source / "splits.csv").write_text("tar_file,split\nevil,train\n", encoding="utf-8")
    with serve(tmp_path) as served:
        outcome = run_convert(f"{served.url}/source", tmp_path / "out")
    assert outcome.returncode == 2, outcome.stderr
    assert not list(tmp_path.rglob("evil.tar"))


def test_an_absolute_name_is_refused(tmp_path: Path) -> None:
    """Names from elsewhere are below the copy's directory, whatever they are."""
    files = {"train": ["http://x//etc/evil.tar"]}
    layout = Layout("http://x", "tars", files, None, None, None)
    with pytest.raises(InputError, match=r"names a file outside of itself"):
        fetch_source(layout, {}, tmp_path, progress=no_progress)


def test_index_and_info_read_the_web(tmp_path: Path) -> None:
    """`index` of a remote source asks where to write; `info` counts it as it lies there."""
    source = write_foreign(tmp_path / "source")
    with serve(source) as served:
        assert_one_line(run_cli("index", served.url), 2, "is no local directory; --output FILE")
        path = tmp_path / "index.parquet"
        assert run_cli("index", served.url, "--output", path).returncode == 0
        assert len(clip_kinetics700.open(served.url, index=path)) == 11
        outcome = run_cli("info", served.url, "--json", "--quiet", "--index", path)
    info = json.loads(outcome.stdout)
    assert (info["samples"], info["n_files"]) == (11, 4)
    assert info["bytes"] == sum(p.stat().st_size for p in (source / "data").iterdir())


def test_sidecars_are_fetched_with_their_arrays(tmp_path: Path) -> None:
    """Texts and json of a processed dataset come along, whatever else lies there does not."""
    source = write_triples(tmp_path / "source")
    (source / "train/notes.md").write_text("mine", encoding="utf-8")
    with serve(source) as served:
        dataset = open_source(SourceConfig(source=served.url))
        listing = list_source(dataset.layout)
        layout = fetch_source(dataset.layout, listing, tmp_path / "copy", progress=no_progress)
    assert layout.root == str(tmp_path / "copy")
    fetched = {p.relative_to(tmp_path / "copy") for p in (tmp_path / "copy").rglob("*.*")}
    there = {p.relative_to(source) for p in source.rglob("*.*") if p.suffix != ".md"}
    assert fetched == there
