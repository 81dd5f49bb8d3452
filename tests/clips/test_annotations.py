"""Annotation files of every dialect become clips, and wrong ones name file and line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from clip_kinetics700_builder.clips.annotations import read_annotations
from clip_kinetics700_builder.types import Clip, InputError

HEADER = "label,youtube_id,time_start,time_end,split\n"
HURDLES = Clip("train", "-hurdles_01", 48, 58, "hurdling", "hurdling")


def write(path: Path, text: str | bytes) -> Path:
    """Write bytes, gzipped where the name says so, and return the path."""
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def entry(start: float, end: object, **others: Any) -> dict[str, Any]:
    """Return an entry of DeepMind's JSON."""
    label = {"label": others.pop("label")} if "label" in others else {}
    return {"annotations": {"segment": [start, end], **label}, **others}


@pytest.mark.parametrize(
    "text",
    [
        HEADER + "hurdling,-hurdles_01,48,58,train\n",
        HEADER + '"hurdling",-hurdles_01,48.0,58.0,train',
        "\ufeff" + (HEADER + "hurdling,-hurdles_01,48,58,train\n").replace("\n", "\r\n"),
        "split,is_cc,time_end,time_start,youtube_id,label\ntrain,0,58,48,-hurdles_01,hurdling\n",
        '"label","youtube_id","time_start","time_end","split"\n"hurdling","-hurdles_01",48,58,"train"\n\n',
    ],
    ids=["deepmind", "quoted-label", "bom-crlf", "other-order", "all-quoted"],
)
def test_every_csv_dialect_gives_the_same_clip(tmp_path: Path, text: str) -> None:
    """Quotes, line ends, a byte order mark and the order of columns do not matter."""
    assert read_annotations([write(tmp_path / "list.csv", text)]) == [HURDLES]


def test_labels_keep_their_spelling(tmp_path: Path) -> None:
    """Parentheses, capitals and an apostrophe come through as label and caption."""
    labels = ["massaging person's head", "passing American football (in game)"]
    rows = "".join(f"{label},ididididid{i},0,10,val\n" for i, label in enumerate(labels))
    clips = read_annotations([write(tmp_path / "list.csv", HEADER + rows)])
    assert [(clip.label, clip.caption) for clip in clips] == [(label, label) for label in labels]


@pytest.mark.parametrize(
    "text",
    [
        "youtube_id,time_start,time_end,split\nabcdefghijk,0,10,test\n",
        HEADER + ",abcdefghijk,0,10,test\n",
    ],
)
def test_no_label_is_none_and_an_empty_caption(tmp_path: Path, text: str) -> None:
    """An absent label column and an empty label are the same."""
    (clip,) = read_annotations([write(tmp_path / "list.csv", text)])
    assert clip == Clip("test", "abcdefghijk", 0, 10, None, "")


def test_json_entries_become_clips(tmp_path: Path) -> None:
    """DeepMind's JSON gives label or none, whole seconds, and the split of entry or file."""
    document = {
        "-hurdles_01": entry(48.0, 58.0, label="hurdling", subset="validate", url="x"),
        "abcdefghijk": entry(0, 10, label=""),
        "lmnopqrstuv": entry(0, 10, subset="test"),
    }
    assert read_annotations([write(tmp_path / "validate.json", json.dumps(document))]) == [
        Clip("validation", "-hurdles_01", 48, 58, "hurdling", "hurdling"),
        Clip("validation", "abcdefghijk", 0, 10, None, ""),
        Clip("test", "lmnopqrstuv", 0, 10, None, ""),
    ]


def test_a_wrong_json_entry_names_file_and_id(tmp_path: Path) -> None:
    """The error of a wrong entry names its file and its YouTube id."""
    file = write(tmp_path / "list.json", json.dumps({"abcdefghijk": entry(0, 10, subset="tset")}))
    with pytest.raises(InputError, match=r"list.json entry 'abcdefghijk': unknown split 'tset'"):
        read_annotations([file])


def test_the_file_name_gives_the_split_where_no_column_does(tmp_path: Path) -> None:
    """A list without a split column belongs to the split in its name, or is refused."""
    text = "youtube_id,time_start,time_end\nabcdefghijk,0,10\n"
    (clip,) = read_annotations([write(tmp_path / "kinetics-400_val.csv.gz", text)])
    assert clip.split == "validation"
    with pytest.raises(InputError, match=r"kinetics.csv line 1: no split is given"):
        read_annotations([write(tmp_path / "kinetics.csv", text)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "list.json is empty"),
        ("{}", "list.json holds no rows"),
        ("[]", "list.json: expected a JSON object"),
        ('{"a": 1,}', "list.json: not a usable JSON document .*line 1"),
        ('{"a": 1, "a": 2}', "list.json: not a usable JSON document .*'a' occurs twice"),
        ("[" * 100_000, "list.json: not a usable JSON document"),
    ],
)
def test_a_broken_json_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    """Nothing of an unusable JSON document is taken, not even in part."""
    with pytest.raises(InputError, match=message):
        read_annotations([write(tmp_path / "list.json", text)])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("yoga,abcdefghijk,0,10,trian", "unknown split 'trian'; known words: train"),
        ("yoga,abcdefghijk,zero,10,train", "time_start must be whole seconds .* got 'zero'"),
        ("yoga,abcdefghij,0,10,train", "'abcdefghij' is no YouTube id"),
        ("yoga,abcdefghijk,0,10", "4 fields where the header has 5"),
        ('"yoga"s,abcdefghijk,0,10,train', "not a record of a CSV file"),
        (b"yog\xe4,abcdefghijk,0,10,train", "not utf-8"),
        ("hurdling,-hurdles_01,48,58,train", "'-hurdles_01,48,58' is in .*list.csv line 2 already"),
    ],
)
def test_a_wrong_row_names_file_and_line(tmp_path: Path, row: str | bytes, message: str) -> None:
    """The error of a wrong row names its file and its line."""
    good = (HEADER + "hurdling,-hurdles_01,48,58,train\n").encode()
    file = write(tmp_path / "list.csv", good + (row if isinstance(row, bytes) else row.encode()))
    with pytest.raises(InputError, match=rf"list.csv line 3: .*{message}") as caught:
        read_annotations([file])
    assert "\n" not in str(caught.value)


def test_a_line_number_counts_lines_and_not_records(tmp_path: Path) -> None:
    """A caption of two lines and a blank line do not shift the line that is named."""
    file = write(tmp_path / "own.csv", 'path,caption\na.mp4,"two\nlines"\n\n,nothing\n')
    with pytest.raises(InputError, match=r"own.csv line 5: path '' names no file"):
        read_annotations([file])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "list.csv is empty"),
        (HEADER, "list.csv holds no rows"),
        ("a.mp4,3\n", r"line 1: unknown header \['a.mp4', '3'\]; a Kinetics list has youtube_id"),
        ("path,path\na,b\n", "line 1: a column occurs twice"),
    ],
)
def test_a_table_without_header_or_rows_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """The header must be known, and there must be rows below it."""
    with pytest.raises(InputError, match=message):
        read_annotations([write(tmp_path / "list.csv", text)])


def test_one_path_under_two_spellings_is_one_row(tmp_path: Path) -> None:
    """`a.mp4` and `./a.mp4` are a duplicate, and rows without a split are of train."""
    (clip,) = read_annotations([write(tmp_path / "own.csv", "path\n./a.mp4\n")])
    assert (clip.split, clip.path) == ("train", "a.mp4")
    with pytest.raises(InputError, match=r"own.csv line 3: 'a.mp4' is in .* line 2 already"):
        read_annotations([write(tmp_path / "own.csv", "path\na.mp4\n./a.mp4\n")])


def test_a_row_in_two_splits_is_a_duplicate(tmp_path: Path) -> None:
    """Duplicates are found across files and splits, and both places are named."""
    row = "youtube_id,time_start,time_end,split\nabcdefghijk,0,10,"
    files = [write(tmp_path / f"{split}.csv", row + split) for split in ("train", "test")]
    with pytest.raises(InputError, match=r"test.csv line 2: .* is in .*train.csv line 2 already"):
        read_annotations(files)


def test_one_id_may_have_two_segments(tmp_path: Path) -> None:
    """A YouTube id is no key."""
    rows = "yoga,abcdefghijk,0,10,train\nyoga,abcdefghijk,5,15,train\n"
    assert len(read_annotations([write(tmp_path / "list.csv", HEADER + rows)])) == 2


@pytest.mark.parametrize(("name", "label"), [("other", "hurdling"), ("train", "yoga")])
def test_a_list_beside_itself_in_json_is_read_once(tmp_path: Path, name: str, label: str) -> None:
    """DeepMind's archives hold a list as CSV and JSON; other names or contents are an error."""
    write(tmp_path / "train.csv", HEADER + "hurdling,-hurdles_01,48,58,train\n")
    for stem, word in (("train", "hurdling"), (name, label)):
        assert read_annotations([tmp_path]) == [HURDLES]
        entries = {"-hurdles_01": entry(48.0, 58.0, label=word, subset="train")}
        write(tmp_path / f"{stem}.json", json.dumps(entries))
    with pytest.raises(InputError, match=r"(line 2|entry .-hurdles_01.): .* is in .* already"):
        read_annotations([tmp_path])


def test_two_words_for_one_split_are_refused(tmp_path: Path) -> None:
    """`val` and `validate` in one build name both files."""
    row = "youtube_id,time_start,time_end,split\nabcdefghijk,{},10,{}\n"
    write(tmp_path / "a.csv", row.format(0, "val"))
    write(tmp_path / "b.csv", row.format(1, "validate"))
    with pytest.raises(InputError, match=r"b.csv line 2: split 'validate'.* 'val' in .*a.csv line"):
        read_annotations([tmp_path])


def test_a_directory_gives_its_lists_in_sorted_order(tmp_path: Path) -> None:
    """Other files, hidden ones included, are not read."""
    for name, video_id in (("b.csv", "bbbbbbbbbbb"), ("a.csv.gz", "aaaaaaaaaaa")):
        write(tmp_path / name, HEADER + f"yoga,{video_id},0,10,train\n")
    for name in ("README.md", "._a.csv", "a.csv.partial"):
        write(tmp_path / name, "not a list")
    assert [clip.video_id[0] for clip in read_annotations([tmp_path])] == ["a", "b"]


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    """Missing files, empty directories, a directory among files and bad gzip are errors."""
    with pytest.raises(InputError, match=r"annotation file .*no.csv does not exist"):
        read_annotations([tmp_path / "no.csv"])
    with pytest.raises(InputError, match=r"directory .* holds no .csv"):
        read_annotations([tmp_path])
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(InputError, match=r"cannot read .*d.csv: Is a directory"):
        read_annotations([tmp_path])
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(HEADER.encode())[:-9])
    with pytest.raises(InputError, match=r"cannot read .*x.csv.gz: damaged gzip"):
        read_annotations([tmp_path / "x.csv.gz"])


def test_the_same_file_twice_is_refused(tmp_path: Path) -> None:
    """A directory and a file in it do not give that file twice."""
    file = write(tmp_path / "a.csv", HEADER + "yoga,abcdefghijk,0,10,train\n")
    with pytest.raises(InputError, match=r"a.csv is given twice"):
        read_annotations([tmp_path, file])


def test_splits_are_selected(tmp_path: Path) -> None:
    """Only the splits asked for come back; one that is not there is an error."""
    rows = "yoga,abcdefghijk,0,10,train\nyoga,abcdefghijk,5,15,validate\n"
    file = write(tmp_path / "list.csv", HEADER + rows)
    assert [clip.split for clip in read_annotations([file], splits=["validation"])] == [
        "validation"
    ]
    with pytest.raises(InputError, match=r"split 'test'; there are: train, validation"):
        read_annotations([file], splits=["train", "test"])
