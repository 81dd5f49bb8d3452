"""`annotations` counts over releases what a build would refuse: duplicates and leakage."""

import json
import os
from itertools import permutations
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clip_kinetics700_builder.clips.compare import (
    SCHEMA,
    describe_table,
    find_version,
    list_release_files,
    read_release_files,
)
from clip_kinetics700_builder.types import InputError
from tests.support.datasets.builds import run_cli

HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"
A, B, C = "aaaaaaaaaaa", "bbbbbbbbbbb", "ccccccccccc"


@pytest.fixture
def lists(tmp_path: Path) -> list[Path]:
    """Lists of two releases: a clip in both, a clip that overlaps another, one that is twice."""
    texts = {
        "kinetics400_val.csv": f"yoga,{A},0,10,val,0\nyoga,{B},5,15,val,1\nyoga,{C},0,9,val,\n",
        "kinetics700_train.csv": f"yoga,{A},0,10,train,\nzumba,{B},0,10,train,\n",
        "kinetics700_train_b.csv": f"zumba,{B},0,10,train,\nzumba,{B},40,50,train,\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(HEADER + text)
    return [tmp_path / name for name in texts]


@pytest.mark.parametrize(
    ("path", "version"),
    [
        ("kinetics700_2020/train.csv", "700-2020"),
        ("700_2020/annotations/val.csv", "700-2020"),
        ("k400/train.csv", "400"),
        ("a/kinetics-600_val.csv", "600"),
        ("kinetics700/kinetics600_test.csv.gz", "600"),
        ("kinetics700_test.csv", "700"),
        ("my/list_17000.csv", None),
    ],
)
def test_a_path_tells_the_release(path: str, version: str | None) -> None:
    """The file's name first, then the nearest directory."""
    assert find_version(Path("/x") / path) == version


def test_counts_are_those_by_hand(lists: list[Path]) -> None:
    """Rows, classes, lengths, licences, duplicates and leakage of the two lists."""
    table = read_release_files(list_release_files([(path, None) for path in lists]))
    description = describe_table(table)
    assert description["releases"][0] == {
        "version": "400", "split": "validation", "rows": 3, "classes": 1, "without_label": 0,
        "other_length": 1, "is_cc": 1, "is_cc_unknown": 1,
    }  # fmt: skip
    assert description["duplicates"]["700"] == {
        "segments": 1, "rows_too_many": 1, "ids_with_several_segments": 1
    }  # fmt: skip
    (leak,) = description["leakage"]
    assert (leak["in_train_of"], leak["same_segment"], leak["overlapping"]) == ("700", 1, 2)
    assert leak["share"] == pytest.approx(2 / 3)


def test_the_order_of_files_changes_no_count(lists: list[Path]) -> None:
    """Counts are those of the set of files."""
    descriptions = [
        describe_table(read_release_files(list_release_files([(path, None) for path in order])))
        for order in permutations(lists)
    ]
    assert all(description == descriptions[0] for description in descriptions)


def test_one_list_in_two_formats_counts_once(tmp_path: Path) -> None:
    """A directory with train.csv and train.json gives the table alone."""
    (tmp_path / "train.csv").write_text(HEADER + f"yoga,{A},0,10,train,\n")
    (tmp_path / "train.json").write_text("{}")
    assert [file.name for file in list_release_files([(tmp_path, "700")])] == ["train.csv"]


def test_the_command_writes_parquet_and_json(lists: list[Path], tmp_path: Path) -> None:
    """`--output` holds the typed table, `--json` the counts; VERSION=FILE names a release."""
    output = tmp_path / "table.parquet"
    words = [f"600={lists[0]}", *map(str, lists[1:]), "--output", str(output), "--json"]
    outcome = run_cli("annotations", *words)
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads(outcome.stdout)["rows"] == 7
    table = pq.read_table(output)
    assert table.schema.equals(SCHEMA)
    assert table["version"].to_pylist() == ["600"] * 3 + ["700"] * 4
    assert table["is_cc"].to_pylist()[:3] == [False, True, None]


def test_what_a_list_cannot_say_is_refused(tmp_path: Path) -> None:
    """A licence that is neither yes nor no is named with file and line."""
    (tmp_path / "train.csv").write_text(HEADER + f"yoga,{A},0,10,train,maybe\n")
    with pytest.raises(InputError, match=r"train\.csv line 2: is_cc must be 0, 1"):
        read_release_files(list_release_files([(tmp_path / "train.csv", None)]))


@pytest.mark.skipif(
    "CLIP_KINETICS700_ANNOTATIONS" not in os.environ, reason="needs the real annotation files"
)
def test_the_real_files_parse_completely() -> None:
    """Every row of the published lists is read, with labels, classes and licences."""
    directory = Path(os.environ["CLIP_KINETICS700_ANNOTATIONS"])
    description = describe_table(read_release_files(list_release_files([(directory, None)])))
    names = ("version", "split", "rows", "classes", "is_cc_unknown")
    assert [tuple(release[name] for name in names) for release in description["releases"]] == [
        ("400", "train", 20_000, 400, 0),
        ("400", "validation", 19_906, 400, 0),
        ("600", "validation", 28_267, 600, 28_267),
        ("600", "test", 72_924, 0, 72_924),
        ("700", "validation", 33_909, 700, 33_909),
        ("700", "test", 67_009, 0, 67_009),
    ]
    assert description["duplicates"]["700"]["ids_with_several_segments"] == 53 + 284 + 107
