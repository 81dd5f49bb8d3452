"""`convert` leaves alone what it must not touch, and says what it cannot read."""

import shutil
from pathlib import Path

import numpy as np

import clip_kinetics700
from tests.support.damage.datasets import make_dataset
from tests.support.datasets.builds import published_hashes, run_cli
from tests.support.datasets.conversions import (
    assert_one_line,
    assert_same_rows,
    convert_to,
    read_states,
    run_convert,
)
from tests.support.datasets.dialects import (
    foreign_members,
    write_foreign,
    write_split_directories,
    write_tars_only,
    write_triples,
)
from tests.support.datasets.layouts import write_members


def test_converting_into_the_source_is_refused(tmp_path: Path) -> None:
    """Source and output are two directories, neither within the other."""
    source = write_tars_only(tmp_path / "source")
    before = published_hashes(source)
    assert_one_line(run_convert(source, source), 2, "is the source itself")
    assert_one_line(run_convert(f"file://{source}", source), 2, "is the source itself")
    assert_one_line(run_convert(source, source / "out"), 2, "holds the other")
    assert_one_line(run_convert(source, tmp_path), 2, "holds")
    assert_one_line(run_convert(source / "ds_000000.tar", source), 2, "holds the source")
    assert published_hashes(source) == before


def test_an_output_of_others_is_left_alone(tmp_path: Path) -> None:
    """Files that are no part of a dataset, a foreign dataset and a build's parts are refused."""
    source = write_tars_only(tmp_path / "source")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/notes.txt").write_text("mine", encoding="utf-8")
    assert_one_line(run_convert(source, tmp_path / "notes"), 2, "notes.txt, which is no file of")
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars/ds_000000.tar").write_text("mine", encoding="utf-8")
    assert_one_line(run_convert(source, tmp_path / "tars"), 2, "which was not made here")
    (tmp_path / "build/.build").mkdir(parents=True)
    for name in ("config.json", "plan.parquet"):
        (tmp_path / "build/.build" / name).touch()
    assert_one_line(run_convert(source, tmp_path / "build"), 2, "holds the parts of a build")


def test_a_conversion_is_no_place_for_an_assembly(tmp_path: Path) -> None:
    """What a conversion has begun is not taken over by `assemble`."""
    convert_to(tmp_path / "out", write_tars_only(tmp_path / "source"))
    triples = write_triples(tmp_path / "triples")
    outcome = run_cli("assemble", triples, "--output", tmp_path / "out")
    assert_one_line(outcome, 2, "holds a conversion")


def test_a_second_run_writes_nothing(tmp_path: Path) -> None:
    """A finished conversion is verified again and not written again; damage of it is found."""
    source = write_foreign(tmp_path / "source")
    convert_to(tmp_path / "out", source)
    before = read_states(tmp_path / "out")
    outcome = run_cli("convert", source, tmp_path / "out", "--samples-per-shard", "5")
    assert outcome.returncode == 0
    assert "is complete, nothing to write; it is verified again" in outcome.stderr
    assert read_states(tmp_path / "out") == before
    tar = tmp_path / "out/ds_000000.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    outcome = run_convert(source, tmp_path / "out")
    assert outcome.returncode == 1
    assert "ds_000000.tar: has the sha256" in outcome.stderr


def test_a_source_that_changed_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    """Another dataset is refused by its rows; the same one, repaired, is written again."""
    source = write_foreign(tmp_path / "source")
    convert_to(tmp_path / "out", source)
    good = (source / "data/ds_000000.tar").read_bytes()
    write_members(
        source / "data/ds_000000.tar", [m for n in (3, 2, 1, 0) for m in foreign_members(n)]
    )
    assert_one_line(run_convert(source, tmp_path / "out"), 2, "rows_sha256 was")
    (source / "data/ds_000000.tar").write_bytes(good)
    assert_same_rows(clip_kinetics700.open(source), convert_to(tmp_path / "out", source))


def test_a_finished_output_is_known_by_its_rows(tmp_path: Path) -> None:
    """Moved, touched and with `.build` gone, the same rows are not written a second time."""
    source = write_foreign(tmp_path / "source")
    convert_to(tmp_path / "out", source)
    before = read_states(tmp_path / "out")
    shutil.rmtree(tmp_path / "out/.build")
    convert_to(tmp_path / "out", source.rename(tmp_path / "moved"))
    assert read_states(tmp_path / "out") == before
    (tmp_path / "out/ds_000001.tar").unlink()
    convert_to(tmp_path / "out", tmp_path / "moved")
    assert (tmp_path / "out/ds_000001.tar").exists()


def test_another_shard_size_is_refused(tmp_path: Path) -> None:
    """The same output with other options is an error that names the difference."""
    source = write_foreign(tmp_path / "source")
    convert_to(tmp_path / "out", source)
    outcome = run_convert(source, tmp_path / "out", "--samples-per-shard", "4")
    assert_one_line(outcome, 2, "samples_per_shard was 5, now 4")


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    """`--dry-run` counts the files of each split and leaves no output."""
    source = write_split_directories(tmp_path / "source")
    outcome = run_cli("convert", source, tmp_path / "out", "--dry-run")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.count(" 2 ") == 3
    assert not (tmp_path / "out").exists()


def test_a_source_of_no_samples_is_refused(tmp_path: Path) -> None:
    """Nothing, no samples at all, and samples of no frames alone are each one line."""
    assert_one_line(run_convert(tmp_path / "none", tmp_path / "out"), 2, "no directory")
    (tmp_path / "empty").mkdir()
    assert_one_line(run_convert(tmp_path / "empty", tmp_path / "out"), 2, "holds neither tars")
    (tmp_path / "source/train").mkdir(parents=True)
    write_members(tmp_path / "source/train/0.tar", foreign_members(0, np.empty((0, 8), np.float16)))
    outcome = run_convert(tmp_path / "source", tmp_path / "out")
    assert_one_line(outcome, 2, "none of its 1 rows holds embeddings")


def test_a_manifest_that_was_edited_is_refused(tmp_path: Path) -> None:
    """What a source's manifest says is carried over only if it is what was written."""
    source = make_dataset(tmp_path / "source")
    text = (source / "manifest.json").read_text(encoding="utf-8")
    (source / "manifest.json").write_text(text.replace('"seed": 0', '"seed": 1'), encoding="utf-8")
    assert_one_line(run_convert(source, tmp_path / "out"), 2, "manifest.json: self_sha256 is")


def test_two_conversions_at_once_are_refused(tmp_path: Path) -> None:
    """While one process writes an output another one is told to wait."""
    from filelock import FileLock

    source = write_foreign(tmp_path / "source")
    (tmp_path / "out/.build").mkdir(parents=True)
    with FileLock(tmp_path / "out/.build/assemble.lock"):
        outcome = run_convert(source, tmp_path / "out")
    assert_one_line(outcome, 2, "another process is assembling, converting or publishing it")
