"""Records and JSON entries become clips, and say what is wrong with them."""

from typing import Any

import pytest

from clip_kinetics700_builder.clips.records import (
    check_columns,
    find_split_word,
    parse_entry,
    parse_record,
)
from clip_kinetics700_builder.types import Clip

COLUMNS = ["label", "youtube_id", "time_start", "time_end", "split"]


def entry(start: object, end: object, label: object = None, **others: Any) -> dict[str, Any]:
    """Return an entry of DeepMind's JSON."""
    return {"annotations": {"segment": [start, end], "label": label}, **others}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("yoga,abcdefghijk,0,10,trian", "unknown split 'trian'; known words: train"),
        ("yoga,abcdefghijk,0,10,", "unknown split ''"),
        ("yoga,abcdefghijk,zero,10,train", "time_start must be whole seconds .* got 'zero'"),
        ("yoga,abcdefghijk,-1,10,train", "time_start must be whole seconds .* got '-1'"),
        ("yoga,abcdefghijk,0,nan,train", "time_end must be whole seconds .* got 'nan'"),
        ("yoga,abcdefghijk,1,1_0,train", "time_end must be whole seconds .* got '1_0'"),
        ("yoga,abcdefghijk,0,10000000,train", "time_end must be whole seconds from 0 to 999999"),
        ("yoga,abcdefghijk,10,10,train", "time_end 10 is not after time_start 10"),
        ("yoga,abcdefghijk,11,10,train", "time_end 10 is not after time_start 11"),
        ("yoga,abcdefghij,0,10,train", "'abcdefghij' is no YouTube id"),
        ("yoga,abcdefghijkl,0,10,train", "'abcdefghijkl' is no YouTube id"),
        ("yoga,abcdefgh/jk,0,10,train", "'abcdefgh/jk' is no YouTube id"),
        ("yoga,abcdefghijk,0,10", "4 fields where the header has 5"),
        ("a, b,abcdefghijk,0,10,train", "6 fields where the header has 5"),
    ],
)
def test_a_wrong_record_says_what_came_and_what_is_allowed(record: str, message: str) -> None:
    """Split words, times, ids and the number of fields are checked."""
    with pytest.raises(ValueError, match=message):
        parse_record(COLUMNS, record.split(","), None)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (entry(84.5, 94.0, subset="train"), "time_start must be whole seconds .* got 84.5"),
        (entry(0, float("nan"), subset="train"), "time_end must be whole seconds"),
        (entry(0, None, subset="train"), "time_end must be whole seconds .* got None"),
        (entry(0, 1e9, subset="train"), "time_end must be whole seconds"),
        (entry(0, 10), "no split is given"),
        (entry(0, 10, subset="tset"), "unknown split 'tset'"),
        (entry(0, 10, label=3, subset="test"), "label must be a string, got 3"),
        (entry(0, 10, label="\ud800", subset="test"), "surrogates"),
        ("riding a bike", "expected .*segment.* got 'riding a bike'"),
        ({"annotations": {"segment": [1]}}, "expected .*segment"),
        ({"annotations": "none"}, "expected .*segment"),
    ],
)
def test_a_wrong_entry_says_what_came_and_what_is_allowed(value: object, message: str) -> None:
    """Entries of other shapes and with other times are refused."""
    with pytest.raises(ValueError, match=message):
        parse_entry("abcdefghijk", value, "list.json")


def test_a_plain_table_keeps_its_other_columns() -> None:
    """Columns that are not ours, and the path as written, are in `extra` with sorted keys."""
    columns = ["zoom", "path", "caption", "label", "split"]
    clip, word = parse_record(columns, ["2é", "./in/a clip.mov", "a cat", "cats", "dev"], None)
    assert word == "dev"
    assert clip == Clip(
        split="validation",
        video_id="a clip",
        time_start=None,
        time_end=None,
        label="cats",
        caption="a cat",
        path="in/a clip.mov",
        extra='{"path": "./in/a clip.mov", "zoom": "2é"}',
    )


@pytest.mark.parametrize(
    ("columns", "fields", "label", "caption"),
    [
        (["path"], ["a.mp4"], None, ""),
        (["path", "label"], ["a.mp4", "cats"], "cats", "cats"),
        (["label", "path"], ["", "a.mp4"], None, ""),
        (["path", "caption"], ["a.mp4", "a cat"], None, "a cat"),
    ],
)
def test_a_plain_table_needs_only_paths(
    columns: list[str], fields: list[str], label: str | None, caption: str
) -> None:
    """Split is the default, caption the label or nothing, where the table does not say."""
    clip, _ = parse_record(columns, fields, "train")
    assert (clip.split, clip.label, clip.caption) == ("train", label, caption)


@pytest.mark.parametrize("path", ["", ".", "/", "a\0.mp4"])
def test_a_path_must_name_a_file(path: str) -> None:
    """An empty path, a directory's and one that no system takes are refused."""
    with pytest.raises(ValueError, match="names no file"):
        parse_record(["path"], [path], "train")


@pytest.mark.parametrize("missing", ["youtube_id", "time_start", "time_end"])
def test_a_kinetics_header_needs_id_and_times(missing: str) -> None:
    """The columns that make a clip must be there, and the error says which they are."""
    check_columns(COLUMNS)
    with pytest.raises(ValueError, match=r"unknown header .*has youtube_id, time_start, time_end"):
        check_columns([column for column in COLUMNS if column != missing])


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("train.csv", "train"),
        ("validate.csv", "validate"),
        ("kinetics700_test.csv.gz", "test"),
        ("kinetics-400_val.json", "val"),
        ("600_kinetics_600_Holdout_Test.csv", "holdout_test"),
    ],
)
def test_a_file_name_holds_its_split_word(name: str, word: str) -> None:
    """The word is found between digits, dashes, underscores and dots."""
    assert find_split_word(name) == word


@pytest.mark.parametrize("name", ["kinetics.csv", "train_and_test.csv", "latest.csv"])
def test_a_file_name_of_no_or_two_splits_is_refused(name: str) -> None:
    """A split is never guessed from part of a word, nor from two words."""
    with pytest.raises(ValueError, match="no split is given"):
        find_split_word(name)
