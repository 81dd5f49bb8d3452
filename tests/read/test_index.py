"""`index` reads a source once and writes the index that assembly would have written."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import clip_kinetics700
from clip_kinetics700.features import INDEX_SCHEMA
from clip_kinetics700_builder.verify.dataset import verify_dataset
from tests.support.damage.datasets import make_dataset
from tests.support.datasets.builds import run_cli, run_cli_process
from tests.support.datasets.conversions import assert_one_line
from tests.support.datasets.dialects import (
    DIALECTS,
    foreign_members,
    write_foreign,
    write_own_keys,
    write_split_directories,
    write_tars_only,
)
from tests.support.datasets.layouts import make_sample, write_members, write_tar
from tests.support.processes.checkout import SOURCE_PATHS

INDEXED = sorted(DIALECTS.keys() - {"parquet"})


@pytest.mark.parametrize("dialect", INDEXED)
def test_every_dialect_is_found_again_by_its_index(dialect: str, tmp_path: Path) -> None:
    """With the index that is written, every sample is where reading all of it finds it."""
    source = DIALECTS[dialect](tmp_path / "source")
    before = list(clip_kinetics700.open(source))
    outcome = run_cli("index", source)
    assert outcome.returncode == 0, outcome.stderr
    dataset = clip_kinetics700.open(source)
    assert dataset.needs_index
    for sample, expected in zip(dataset, before, strict=True):
        assert sample.meta == expected.meta
        assert sample.caption == expected.caption
        assert sample.embeddings.tobytes() == expected.embeddings.tobytes()


def test_samples_of_each_split_are_counted(tmp_path: Path) -> None:
    """The command says where the index is and how many samples of each split are in it."""
    source = write_foreign(tmp_path / "source")
    outcome = run_cli("index", source)
    assert outcome.stdout == f"{source}/index.parquet: 7 train, 2 validation, 2 test samples\n"
    assert "index: 4 of 4 files" in outcome.stderr
    outcome = run_cli("index", source, "--quiet")
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "", "")


def test_a_lost_index_comes_back_byte_for_byte(tmp_path: Path) -> None:
    """A dataset of ours that lost its index gets the very file that its manifest lists."""
    source = make_dataset(tmp_path / "source")
    (source / "index.parquet").unlink()
    assert run_cli("index", source).returncode == 0
    assert verify_dataset(source) == []


def test_an_index_of_a_manifest_is_left_alone(tmp_path: Path) -> None:
    """Where a manifest of ours has the hash of an index, no other one is written."""
    source = make_dataset(tmp_path / "source")
    before = (source / "index.parquet").stat()
    assert_one_line(run_cli("index", source), 2, "belongs to its manifest.json")
    assert (source / "index.parquet").stat() == before


def test_an_index_may_lie_elsewhere(tmp_path: Path) -> None:
    """`--output FILE` leaves the source as it is, and `open(index=FILE)` reads with it."""
    source = write_split_directories(tmp_path / "source")
    path = tmp_path / "deep/er/elsewhere.parquet"
    assert run_cli("index", source, "--output", path, "--quiet").returncode == 0
    assert not (source / "index.parquet").exists()
    dataset = clip_kinetics700.open(source, index=path)
    assert len(dataset) == len(list(clip_kinetics700.open(source))) == 18
    assert [path.name for path in path.parent.iterdir()] == ["elsewhere.parquet"]


def test_an_old_index_is_replaced(tmp_path: Path) -> None:
    """A source that has grown gets a new index, which knows of the new tar."""
    source = write_foreign(tmp_path / "source")
    run_cli("index", source)
    write_members(source / "data/ds_000004.tar", foreign_members(99))
    with (source / "splits.csv").open("a", encoding="utf-8") as rows:
        rows.write("ds_000004,test\n")
    with pytest.raises(ValueError, match="knows nothing of data/ds_000004"):
        len(clip_kinetics700.open(source))
    assert run_cli("index", source).returncode == 0
    assert len(clip_kinetics700.open(source)) == 12


def test_where_there_is_no_place_one_is_asked_for(tmp_path: Path) -> None:
    """A tar by itself has no place of its own for an index: `--output` has to say where."""
    tar = write_own_keys(tmp_path / "source") / "train/00000.tar"
    assert_one_line(run_cli("index", tar), 2, "is no local directory; --output FILE says")
    assert run_cli("index", tar, "--output", tmp_path / "x.parquet").returncode == 0
    assert len(clip_kinetics700.open(tar, index=tmp_path / "x.parquet")) == 4


def test_what_needs_no_index_is_refused(tmp_path: Path) -> None:
    """Parquet files are their own index; no samples have none; a directory is no file."""
    source = DIALECTS["parquet"](tmp_path / "parquet")
    assert_one_line(run_cli("index", source), 2, "are read without an index")
    (tmp_path / "empty/train").mkdir(parents=True)
    write_members(tmp_path / "empty/train/0.tar", [])
    assert_one_line(run_cli("index", tmp_path / "empty", "--quiet"), 2, "holds no samples")
    assert not (tmp_path / "empty/index.parquet").exists()
    source = write_tars_only(tmp_path / "tars")
    assert_one_line(run_cli("index", source, "--output", tmp_path), 2, "is a directory")
    assert_one_line(run_cli("index", tmp_path / "nowhere"), 2, "no directory")


def test_damage_ends_the_command_or_is_left_out(tmp_path: Path) -> None:
    """A cut tar is exit code 1 and leaves no index; skipped, the rest is indexed with a warning."""
    source = write_foreign(tmp_path / "source")
    tar = source / "data/ds_000001.tar"
    tar.write_bytes(tar.read_bytes()[:-11_000])
    assert_one_line(run_cli("index", source, "--quiet"), 1, "data/ds_000001.tar: truncated")
    assert not (source / "index.parquet").exists()
    outcome = run_cli_process("index", source, "--on-error", "skip", "--quiet")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr.startswith("skipped: ")
    assert 8 <= len(pq.read_table(source / "index.parquet")) < 11


def test_many_samples_make_many_groups(tmp_path: Path) -> None:
    """Rows are written 10,000 at a time, so memory does not grow with the source."""
    (tmp_path / "train").mkdir()
    samples = [make_sample(number, n_frames=1, width=1) for number in range(10_500)]
    write_tar(tmp_path / "train/0.tar", samples)
    assert run_cli("index", tmp_path).returncode == 0
    with pq.ParquetFile(tmp_path / "index.parquet") as index:
        groups = [index.metadata.row_group(n).num_rows for n in range(index.num_row_groups)]
        assert groups == [10_000, 500]
        assert index.schema_arrow.equals(INDEX_SCHEMA)


@pytest.mark.parametrize(
    "words", [("index",), ("info",), pytest.param(("convert", "out"), marks=pytest.mark.slow)]
)
def test_what_only_reads_needs_no_torch(tmp_path: Path, words: tuple[str, ...]) -> None:
    """`index`, `info` and `convert` start and end without torch and transformers."""
    write_tars_only(tmp_path / "source")
    code = (
        "import sys, clip_kinetics700_builder.cli.app as c\n"
        "c.cli.main(sys.argv[1:], standalone_mode=False)\n"
        "print(sorted({'torch', 'transformers', 'torchcodec'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, words[0], "source", *words[1:]],
        env={**os.environ, "PYTHONPATH": SOURCE_PATHS},
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"
