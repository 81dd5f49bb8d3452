"""The builder class and `load_dataset` give what was written, and importing them is cheap."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

import clip_kinetics700
from clip_kinetics700 import ClipKinetics700, load_dataset
from clip_kinetics700.layout import read_layout
from clip_kinetics700.schema import Sample
from tests.support.datasets.layouts import (
    CLASS_NAMES,
    SAMPLES,
    make_sample,
    make_samples,
    npy_bytes,
    write_dataset,
    write_members,
    write_tar,
)
from tests.support.processes.checkout import SOURCE_PATHS


@pytest.fixture
def cache(tmp_path: Path) -> str:
    """A cache of its own for `datasets`."""
    return str(tmp_path / "cache")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A dataset directory of tars alone: 12, 4 and 3 samples, five a tar."""
    return write_dataset(tmp_path / "dataset", make_samples(SAMPLES), parquet=False)


def assert_rows(loaded: Any, samples: dict[str, list[Sample]]) -> None:
    """Compare every row of every split with the samples they were made of."""
    assert list(loaded) == list(samples)
    for split, group in samples.items():
        rows = list(loaded[split])
        assert [row["embeddings"] for row in rows] == [s.embeddings.tolist() for s in group]
        assert [row["caption"] for row in rows] == [s.caption for s in group]
        assert [row["meta"] for row in rows] == [s.meta for s in group]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("parquet", [False, True])
def test_rows_are_the_samples(
    tmp_path: Path, cache: str, *, parquet: bool, streaming: bool
) -> None:
    """Parquet or tars, prepared or streamed: every split, row and field is what was written."""
    samples = make_samples(SAMPLES)
    directory = write_dataset(tmp_path / "dataset", samples, parquet=parquet)
    assert_rows(load_dataset(directory, streaming=streaming, cache_dir=cache), samples)


def test_tars_and_parquet_have_the_same_features(tmp_path: Path, cache: str) -> None:
    """Both ways give one and the same features, class names included."""
    directory = write_dataset(tmp_path / "dataset", make_samples(SAMPLES))
    builder = ClipKinetics700(data_dir=str(directory), cache_dir=cache)
    parquet = datasets.load_dataset(str(directory), split="train", cache_dir=cache)
    assert builder.info.features == parquet.features
    assert tuple(parquet.features["meta"]["label_id"].names) == CLASS_NAMES


def test_numpy_format_is_bit_exact(dataset: Path, cache: str) -> None:
    """With dtype=float16 the arrays equal the tars' bit for bit."""
    rows = load_dataset(dataset, "val", cache_dir=cache).with_format("numpy", dtype=np.float16)
    for row, sample in zip(rows, make_samples(SAMPLES)["validation"], strict=True):
        assert row["embeddings"].dtype == np.float16
        assert row["embeddings"].tobytes() == sample.embeddings.tobytes()


def test_rebuilt_directory_gives_fresh_rows(tmp_path: Path, cache: str) -> None:
    """The cache of `datasets` is not asked for a directory that has changed meanwhile."""
    directory = tmp_path / "dataset"
    for first in (0, 50):
        samples = {"train": [make_sample(first), make_sample(first + 1)]}
        write_dataset(directory, samples, parquet=False)
        assert_rows(load_dataset(directory, cache_dir=cache), samples)


def test_same_directory_is_prepared_once(dataset: Path, cache: str) -> None:
    """A directory that has not changed is answered from the cache."""
    first, second = (ClipKinetics700(data_dir=str(dataset), cache_dir=cache) for _ in range(2))
    assert first.cache_dir == second.cache_dir


@pytest.mark.parametrize(
    ("split", "rows"),
    [("train", 12), ("VAL", 4), ("holdout_test", 3), ("train[:5]+val", 9), ("all", 19)],
)
def test_split_words_and_slices(dataset: Path, cache: str, split: str, rows: int) -> None:
    """Every word for a split works, sliced and added as `datasets` does."""
    assert len(load_dataset(dataset, split, cache_dir=cache)) == rows


@pytest.mark.parametrize("streaming", [False, True])
def test_list_of_splits_gives_a_list(dataset: Path, cache: str, *, streaming: bool) -> None:
    """A list of words gives one dataset for each, in that order."""
    loaded = load_dataset(dataset, ["test", "val"], streaming=streaming, cache_dir=cache)
    assert [len(list(part)) for part in loaded] == [3, 4]


@pytest.mark.parametrize("parquet", [False, True])
def test_unknown_split_names_those_there_are(tmp_path: Path, *, parquet: bool) -> None:
    """A split that is not there raises with the ones that are."""
    directory = write_dataset(tmp_path / "d", {"train": [make_sample(0)]}, parquet=parquet)
    with pytest.raises(ValueError, match=r"no split 'val' in .*; there are train$"):
        load_dataset(directory, "val")


def test_missing_directory_is_one_line(tmp_path: Path) -> None:
    """A directory that is not there raises FileNotFoundError with its path."""
    with pytest.raises(FileNotFoundError, match=r"no directory .*/missing$"):
        load_dataset(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=r"no directory .*/missing$"):
        ClipKinetics700(data_dir=str(tmp_path / "missing"))


def test_directory_of_neither_is_refused(tmp_path: Path) -> None:
    """A directory without Parquet and without tars raises and says what was looked for."""
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"holds neither tars nor files data/SPLIT"):
        load_dataset(tmp_path)


def test_class_needs_a_directory() -> None:
    """The class without data_dir says what it needs."""
    with pytest.raises(ValueError, match="needs data_dir=DIR"):
        ClipKinetics700()


def test_parquet_without_a_card_is_found(tmp_path: Path, cache: str) -> None:
    """Parquet files by their names alone are enough, no card needed."""
    samples = make_samples(SAMPLES)
    directory = write_dataset(tmp_path / "dataset", samples)
    (directory / "README.md").unlink()
    shutil.copy(directory / "data/test-00000-of-00001.parquet", directory / "index.parquet")
    assert_rows(load_dataset(directory, cache_dir=cache), samples)


def test_damaged_tar_is_named(dataset: Path, cache: str) -> None:
    """A tar cut short is an error that names it, not a shorter dataset."""
    tar = dataset / "ds_000001.tar"
    tar.write_bytes(tar.read_bytes()[: 3 * 1536])
    with pytest.raises(ValueError, match=r"ds_000001\.tar: truncated"):
        load_dataset(dataset, cache_dir=cache)
    with pytest.raises(ValueError, match=r"ds_000001\.tar: truncated"):
        list(load_dataset(dataset, "train", streaming=True, cache_dir=cache))


def test_other_width_is_refused(dataset: Path, cache: str) -> None:
    """A sample of another width than the manifest's raises with its key."""
    write_tar(dataset / "ds_000000.tar", [make_sample(0), make_sample(1, width=9)])
    with pytest.raises(ValueError, match=r"ds_000000\.tar: sample vid_000000001: .* width 8"):
        load_dataset(dataset, cache_dir=cache)


@pytest.mark.parametrize("streaming", [False, True])
def test_upstream_directory_loads(tmp_path: Path, cache: str, *, streaming: bool) -> None:
    """Upstream's layout: no manifest, `.cap`, 0 rows, literal names, an empty last tar."""
    tars = [
        [("vid_0.cap", b"yoga"), ("vid_0.npy", npy_bytes(np.ones((2, 3), np.float32)))],
        [("vid_0.npy", npy_bytes(np.ones((0, 3), np.float16)))],
        [],
    ]
    (tmp_path / "data").mkdir()
    for number, members in enumerate(tars):
        write_members(tmp_path / "data" / f"ds_{number:06d}.tar", members)
    rows = "".join(f"ds_{{tar_count+i:06}},{word}\n" for word in ("train", "val", "test"))
    (tmp_path / "splits.csv").write_text(f"tar_file,split\n{rows}")
    loaded = load_dataset(tmp_path, streaming=streaming, cache_dir=cache)
    assert list(loaded) == ["train", "validation"]
    (train,), (validation,) = list(loaded["train"]), list(loaded["validation"])
    assert (train["caption"], train["embeddings"]) == ("yoga", [[1.0] * 3] * 2)
    assert (validation["embeddings"], validation["meta"]["timestamps"]) == ([], None)


def test_split_directory_can_be_given_itself(tmp_path: Path) -> None:
    """A directory named for a split that holds tars and no splits.csv is that split."""
    (tmp_path / "val").mkdir()
    write_tar(tmp_path / "val" / "00000.tar", [make_sample(0, width=3)])
    layout = read_layout(tmp_path / "val")
    assert layout.files == {"validation": [f"{tmp_path}/val/00000.tar"]}
    assert clip_kinetics700.open(tmp_path / "val").width == 3


def test_url_of_a_directory_loads(dataset: Path, cache: str) -> None:
    """An fsspec URL is read like a path, streaming and prepared."""
    for streaming in (True, False):
        loaded = load_dataset(f"file://{dataset}", "test", streaming=streaming, cache_dir=cache)
        assert len(list(loaded)) == 3


def test_tars_are_shared_among_processes(dataset: Path, cache: str) -> None:
    """Preparing with two processes gives the same rows in the same order."""
    loaded = load_dataset(dataset, cache_dir=cache, num_proc=2)
    assert_rows(loaded, make_samples(SAMPLES))


def test_every_export_exists() -> None:
    """Each name of __all__ can be imported, and no other is made up."""
    for name in clip_kinetics700.__all__:
        assert getattr(clip_kinetics700, name) is not None
    assert set(clip_kinetics700.__all__) <= set(dir(clip_kinetics700))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = clip_kinetics700.nothing


def run_python(code: str, *arguments: str, home: Path) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": SOURCE_PATHS, "PYTHONWARNINGS": "ignore"}
    environment["HF_HOME"] = str(home)
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


HEAVY = "sorted({'torch', 'transformers', 'torchcodec'} & set(sys.modules))"


def test_import_is_light(tmp_path: Path) -> None:
    """Importing the package imports nothing heavy, not even `datasets` and numpy."""
    code = f"import sys, clip_kinetics700; print({HEAVY}, 'datasets' in sys.modules)"
    assert run_python(code, home=tmp_path) == "[] False"


def test_importing_every_export_is_light(tmp_path: Path) -> None:
    """Importing every exported name imports none of torch, transformers and torchcodec."""
    code = f"import sys; from clip_kinetics700 import *; print({HEAVY})"
    assert run_python(code, home=tmp_path) == "[]"


@pytest.mark.parametrize("parquet", [False, True])
def test_loading_map_style_is_light(tmp_path: Path, *, parquet: bool) -> None:
    """Map-style loading and reading rows imports none of torch, transformers and torchcodec."""
    directory = write_dataset(tmp_path / "dataset", make_samples(SAMPLES), parquet=parquet)
    code = (
        "import sys, clip_kinetics700 as c; ds = c.load_dataset(sys.argv[1]);"
        f"list(ds['test']); list(ds['test'].with_format('numpy')); print({HEAVY})"
    )
    assert run_python(code, str(directory), home=tmp_path) == "[]"


def test_the_script_brings_all_modules_along() -> None:
    """Whatever module the script's modules import, the script imports itself."""
    folder = Path(clip_kinetics700.__file__).parent

    def list_imported(name: str) -> set[str]:
        text = (folder / f"{name}.py").read_text(encoding="utf-8")
        return set(re.findall(r"^from \.(\w+) import", text, re.MULTILINE))

    brought = list_imported("clip_kinetics700")
    assert set().union(*map(list_imported, brought)) <= brought
