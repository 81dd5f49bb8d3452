"""Open means a snapshot: a file that has changed since is an error that says so."""

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import clip_kinetics700
from clip_kinetics700 import DamageError
from clip_kinetics700.dataset import EmbeddingDataset
from tests.support.datasets.dialects import DIALECTS
from tests.support.datasets.layouts import (
    SAMPLES,
    make_sample,
    make_samples,
    npy_bytes,
    write_dataset,
    write_index,
)
from tests.support.hub.servers import serve
from tests.support.processes.checkout import SOURCE_PATHS

CHANGED = "has changed since its dataset was opened"


def overwrite(path: Path) -> None:
    """Flip the last bit of a file in place, as a writer that gets it wrong does."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))


@pytest.fixture(params=[name for name in DIALECTS if name != "gzip"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A dataset of some dialect, without an index where it comes without."""
    return DIALECTS[request.param](tmp_path / "source")


def change_samples(directory: Path) -> None:
    """Change every file that holds samples."""
    for pattern in ("*.tar", "*.parquet", "*.npy"):
        for path in directory.rglob(pattern):
            if path.name != "index.parquet":
                overwrite(path)


@pytest.mark.parametrize("in_worker", [False, True])
def test_files_are_those_that_were_there_at_open(source: Path, *, in_worker: bool) -> None:
    """What changes between opening and the first touch is an error, in a worker as well."""
    dataset = clip_kinetics700.open(source)
    if in_worker:
        dataset = copy.deepcopy(dataset)
    change_samples(source)
    with pytest.raises(DamageError, match=CHANGED):
        next(iter(dataset))


def test_samples_of_two_states_are_not_mixed(tmp_path: Path) -> None:
    """A dataset that is replaced while it is read by its index gives an error, or is left out."""
    directory = write_index(write_dataset(tmp_path / "d", make_samples(SAMPLES), parquet=False))
    dataset = clip_kinetics700.open(directory)
    skipping = clip_kinetics700.open(directory, on_error="skip")
    assert dataset[0].key == skipping[0].key == "vid_000000000"
    for path in directory.glob("ds_*.tar"):
        shutil.copy(path, tmp_path / "new")
        (tmp_path / "new").replace(path)
    last = len(dataset) - 1
    with pytest.raises(DamageError, match=rf"ds_\d+\.tar: sample \w+: {CHANGED} .*: open the"):
        dataset[last]
    assert [sample.key for sample in skipping] == [f"vid_{n:09d}" for n in range(5)]


def test_index_is_the_one_that_was_there_at_open(tmp_path: Path) -> None:
    """An index that is written anew after opening is not taken for that of the old tars."""
    directory = write_index(write_dataset(tmp_path / "d", make_samples(SAMPLES), parquet=False))
    dataset = clip_kinetics700.open(directory)
    overwrite(directory / "index.parquet")
    with pytest.raises(DamageError, match=f"index.parquet: {CHANGED}"):
        len(dataset)


def read_by_place(dataset: EmbeddingDataset) -> None:
    """Read the last sample."""
    assert dataset[len(dataset) - 1].key


def read_all(dataset: EmbeddingDataset) -> None:
    """Read all samples."""
    assert list(dataset)


@pytest.mark.parametrize("read", [read_by_place, read_all])
def test_etags_are_those_of_the_first_answer(
    tmp_path: Path, read: Callable[[EmbeddingDataset], None]
) -> None:
    """A web server's file whose ETag is another one than before is an error."""
    directory = write_index(write_dataset(tmp_path / "d", make_samples(SAMPLES), parquet=False))
    with serve(directory) as served:
        dataset = clip_kinetics700.open(served.url)
        read(dataset)
        served.etag_of = {path.name: '"new"' for path in directory.glob("*.tar")}
        with pytest.raises(DamageError, match=rf"^{served.url}/ds_.*{CHANGED}.*\"new\" now"):
            read(copy.deepcopy(dataset))


def test_servers_that_name_no_state_are_read(tmp_path: Path) -> None:
    """Without ETag and time there is nothing to compare but sizes."""
    directory = write_index(write_dataset(tmp_path / "d", make_samples(SAMPLES), parquet=False))
    with serve(directory) as served:
        served.etag_of = {path.name: None for path in directory.iterdir()}
        dataset = clip_kinetics700.open(served.url)
        assert len(list(dataset)) == len(list(dataset)) == 19


READ = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
import clip_kinetics700
dataset = clip_kinetics700.open(sys.argv[1])
kept = list(dataset)
assert len(kept) == len(dataset)
by_place = [dataset[place].key for place in range(0, len(dataset), 7)]
assert by_place == [sample.key for sample in kept[::7]]
print(len(kept))
"""


@pytest.mark.parametrize("has_index", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["loose", "tars", "parquet"])
def test_descriptors_are_few(tmp_path: Path, kind: str, *, has_index: bool) -> None:
    """More files than a process may open are read, all samples being kept."""
    n_files = 100
    if kind == "loose":
        (tmp_path / "d" / "train").mkdir(parents=True)
        for number in range(n_files):
            path = tmp_path / "d" / "train" / f"{number:04}.npy"
            path.write_bytes(npy_bytes(make_sample(number).embeddings))
    else:
        samples = make_samples({"train": n_files})
        write_dataset(tmp_path / "d", samples, samples_per_shard=1, parquet=kind == "parquet")
        for path in (tmp_path / "d").glob("*.tar" if kind == "parquet" else "data/*"):
            path.unlink()
    if has_index and kind != "parquet":
        write_index(tmp_path / "d")
    command = [sys.executable, "-c", READ, str(tmp_path / "d")]
    environment = {**os.environ, "PYTHONPATH": SOURCE_PATHS}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == (str(n_files), 0), done.stderr


READ_SMALL = """
import re, resource, sys
import clip_kinetics700
dataset = clip_kinetics700.open(sys.argv[1])
len(dataset)
used = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)
print(len(list(dataset)), dataset[7].key)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_address_space_may_be_small(tmp_path: Path) -> None:
    """Under `ulimit -v` tars are read that are larger than what a process may map."""
    directory = write_index(write_dataset(tmp_path / "d", make_samples(SAMPLES), parquet=False))
    for path in directory.glob("ds_*.tar"):
        os.truncate(path, 2 << 30)
    command = [sys.executable, "-c", READ_SMALL, str(directory)]
    environment = {**os.environ, "PYTHONPATH": SOURCE_PATHS}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["19", "vid_000000007"], done.stderr


@pytest.mark.parametrize("is_empty", [False, True])
def test_a_directory_that_is_gone_is_no_damage(source: Path, *, is_empty: bool) -> None:
    """Where a disk is unmounted nothing is left out without a word, whatever is skipped."""
    dataset = clip_kinetics700.open(source, on_error="skip")
    source.rename(source.with_name("elsewhere"))
    if is_empty:
        for path in source.with_name("elsewhere").rglob("*"):
            (source / path.relative_to(source.with_name("elsewhere"))).parent.mkdir(
                parents=True, exist_ok=True
            )
    with pytest.raises(OSError, match="is a disk not mounted"):
        list(dataset)
