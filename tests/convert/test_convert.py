"""`convert` turns any dialect into our layout, row for row."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import clip_kinetics700
from clip_kinetics700_builder.assemble.assemble import assemble
from clip_kinetics700_builder.config import AssembleConfig, ConvertConfig, SourceConfig
from clip_kinetics700_builder.convert.convert import convert
from clip_kinetics700_builder.types import Clip, EncodedClip, Failure
from clip_kinetics700_builder.verify.dataset import verify_dataset
from tests.support.damage.datasets import SmallRows, make_dataset
from tests.support.datasets.builds import published_hashes
from tests.support.datasets.cards import load_manifest
from tests.support.datasets.conversions import (
    assert_one_line,
    assert_same_rows,
    convert_to,
    run_convert,
)
from tests.support.datasets.dialects import (
    DIALECTS,
    foreign_members,
    write_flat_upstream,
    write_foreign,
    write_one_tar,
    write_own_keys,
    write_split_directories,
    write_tars_only,
)
from tests.support.datasets.layouts import CLASS_NAMES, make_sample, write_index, write_members


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_is_row_exact(dialect: str, tmp_path: Path) -> None:
    """Order, caption, every field and the float16 bits are those of the source, verified."""
    source = DIALECTS[dialect](tmp_path / "source")
    output = convert_to(tmp_path / "out", source)
    assert_same_rows(clip_kinetics700.open(source), output)
    assert verify_dataset(tmp_path / "out") == []
    manifest = load_manifest(tmp_path / "out")
    assert manifest["configuration"]["provenance"] == "unknown"
    assert manifest["totals"]["rows"] == manifest["totals"]["samples"] == len(output)


@pytest.mark.parametrize("formats", [(), ("webdataset",), ("parquet",)])
def test_our_own_layout_comes_out_byte_for_byte(tmp_path: Path, formats: tuple[str, ...]) -> None:
    """A dataset of ours, failures and configuration included, gives the files that it has."""
    source = make_dataset(tmp_path / "source", *formats)
    options = ["--formats", ",".join(formats)] if formats else []
    convert_to(tmp_path / "out", source, *options)
    assert published_hashes(tmp_path / "out") == published_hashes(source)


def test_our_own_layout_takes_other_shards(tmp_path: Path) -> None:
    """Shard size and formats change; configuration, classes and failures are carried over."""
    source = make_dataset(tmp_path / "source")
    options = ("--samples-per-shard", "7", "--formats", "webdataset")
    output = convert_to(tmp_path / "out", source, *options)
    assert_same_rows(clip_kinetics700.open(source), output)
    before, after = load_manifest(source), load_manifest(tmp_path / "out")
    assert after["configuration"] == {
        **before["configuration"], "samples_per_shard": 7, "formats": ["webdataset"]
    }  # fmt: skip
    assert (after["class_names"], after["totals"]) == (before["class_names"], before["totals"])
    name = "failures.parquet"
    assert pq.read_table(tmp_path / "out" / name).equals(pq.read_table(source / name))


def test_upstreams_captions_get_their_class(tmp_path: Path) -> None:
    """Captions that are class names number the labels, with the first list that has them all."""
    output = convert_to(tmp_path / "out", write_flat_upstream(tmp_path / "source"))
    assert len(output.class_names or ()) == 700
    assert all(output.class_names[s.label_id or 0] == s.caption for s in output)  # type: ignore[index]


def test_a_given_class_list_numbers_the_labels(tmp_path: Path) -> None:
    """`--class-list FILE` counts by its lines, and a caption it lacks is named with near ones."""
    source = write_foreign(tmp_path / "source")
    (tmp_path / "classes.txt").write_text("zumba\nyoga\narchery\n", encoding="utf-8")
    output = convert_to(tmp_path / "out", source, "--class-list", tmp_path / "classes.txt")
    assert {(s.caption, s.label_id) for s in output} == {("zumba", 0), ("yoga", 1), ("archery", 2)}
    (tmp_path / "classes.txt").write_text("zumba\nyogi\narchery\n", encoding="utf-8")
    outcome = run_convert(source, tmp_path / "b", "--class-list", tmp_path / "classes.txt")
    assert_one_line(outcome, 2, "label 'yoga' of clip", "near names: yogi")


def test_free_text_gets_no_class(tmp_path: Path) -> None:
    """One caption that is no class's name makes them all free text, without label ids."""
    source = write_foreign(tmp_path / "source")
    members = foreign_members(7)
    write_members(source / "data/ds_000003.tar", [(members[0][0], b"a dog digs"), *members[1:]])
    output = convert_to(tmp_path / "out", source)
    assert output.class_names is None
    assert {sample.label_id for sample in output} == {None}


def test_own_class_list_is_kept(tmp_path: Path) -> None:
    """A source with class names keeps its numbers, and takes no other list."""
    source = write_tars_only(tmp_path / "source")
    assert convert_to(tmp_path / "out", source).class_names == CLASS_NAMES
    outcome = run_convert(source, tmp_path / "b", "--class-list", "700")
    assert_one_line(outcome, 2, "numbers its labels by a list of its own, of 3 classes")


class OwnRows(SmallRows):
    """Own videos, whose captions may be the name of a class that they do not belong to."""

    def results(self, split: str) -> Iterator[tuple[Clip, EncodedClip | Failure]]:
        """Yield the rows of a split without times and labels."""
        for clip, result in super().results(split):
            own = replace(clip, time_start=None, time_end=None, label=None)
            yield replace(own, path=own.video_id, extra='{"path": "a.mp4"}'), result


def test_what_a_manifest_leaves_unlabelled_stays_so(tmp_path: Path) -> None:
    """No label is made up for a dataset of ours, even where a caption is a class's name."""
    source = tmp_path / "source"
    config = AssembleConfig(source=source, output=source, samples_per_shard=5, figures=False)
    assemble(OwnRows(), config)
    output = convert_to(tmp_path / "out", source)
    assert {sample.label_id for sample in output} == {None}
    assert published_hashes(tmp_path / "out") == published_hashes(source)


def test_label_ids_without_names_stay_numbers(tmp_path: Path) -> None:
    """Label ids that are of no list that is known are kept, and get no names."""
    tar = write_one_tar(tmp_path / "source", [make_sample(n) for n in range(3)])
    output = convert_to(tmp_path / "out", tar)
    assert output.class_names is None
    assert [sample.label_id for sample in output] == [0, 1, None]


def test_an_index_elsewhere_is_used(tmp_path: Path) -> None:
    """`--index FILE` finds the samples of a source that holds none itself."""
    source = write_split_directories(tmp_path / "source")
    write_index(source)
    (source / "index.parquet").rename(tmp_path / "elsewhere.parquet")
    output = convert_to(tmp_path / "out", source, "--index", tmp_path / "elsewhere.parquet")
    assert_same_rows(clip_kinetics700.open(source), output)
    (source / "data/test/ds_000001.tar").unlink()
    outcome = run_convert(source, tmp_path / "b", "--index", tmp_path / "elsewhere.parquet")
    assert_one_line(outcome, 2, "names data/test/ds_000001.tar, which is not there")


def test_keys_of_an_earlier_conversion_are_kept(tmp_path: Path) -> None:
    """Converting a converted dataset under new keys loses neither key."""
    output = convert_to(tmp_path / "out", write_own_keys(tmp_path / "source"))
    first = output[0].extra
    shutil.copytree(tmp_path / "out", tmp_path / "cut")
    (tmp_path / "cut/manifest.json").unlink()
    samples = list(output)[1:]
    again = convert_to(tmp_path / "again", write_one_tar(tmp_path / "cut2", samples))
    assert json.loads(first or "")["key"].startswith("a/b.c/")
    expected = {"key": "vid_000000001", "extra": json.loads(samples[0].extra or "")}
    assert json.loads(again[0].extra or "") == expected


def test_a_given_date_is_in_the_manifest(tmp_path: Path) -> None:
    """The manifest holds the date of --date, and none by itself."""
    source = SourceConfig(source=str(write_foreign(tmp_path / "source")))
    for date in (None, "2026-01-02"):
        assembly = AssembleConfig(
            source=tmp_path / "source", output=tmp_path / "out", date=date, figures=False
        )
        config = ConvertConfig(source=source, assembly=assembly)
        assert convert(config)[0].date == date
