"""What `push_to_hub` leaves opens: configurations, and splits of any name."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

import clip_kinetics700
from clip_kinetics700 import load_dataset
from clip_kinetics700.schema import SPLITS
from tests.support.datasets.conversions import assert_one_line, run_convert
from tests.support.datasets.layouts import make_samples, write_dataset
from tests.support.datasets.places import assert_same
from tests.support.hub.hubs import start_hub

# Words as they stand in names of files; `dev` is one of ours for `validation`.
COUNTS = {"train": 5, "dev": 3, "holdout": 2}


def write_pushed(directory: Path, counts: dict[str, int], *, folder: str = "data") -> Path:
    """Write a configuration as `push_to_hub` does: Parquet alone, in a folder of its name."""
    samples = make_samples(dict(zip(SPLITS, counts.values(), strict=False)))
    made = write_dataset(directory.parent / f"made {folder}", samples)
    (directory / folder).mkdir(parents=True)
    for split, word in zip(samples, counts, strict=True):
        name = "{}-00000-of-00001.parquet"
        (made / "data" / name.format(split)).rename(directory / folder / name.format(word))
    return directory


def count(loaded: Any) -> dict[str, int]:
    """Return how many samples or rows each split has."""
    return {split: sum(1 for _ in part) for split, part in loaded.items()}


@pytest.fixture
def pushed(tmp_path: Path) -> Path:
    """A directory of splits of other names."""
    return write_pushed(tmp_path / "pushed", COUNTS)


def test_splits_of_other_names_are_there(pushed: Path) -> None:
    """A split that no word of ours means keeps its name, behind ours."""
    dataset = clip_kinetics700.open(pushed)
    assert count(dataset.splits) == {"train": 5, "validation": 3, "holdout": 2}
    assert [sample.time_start for sample in dataset.select("holdout")] == [8, 9]
    assert count(dataset.select(["holdout", "dev"], max_samples=1).splits) == {
        "holdout": 1,
        "validation": 1,
    }
    with pytest.raises(ValueError, match=r"train, validation, holdout; did you mean 'holdout'"):
        dataset.select("holdot")


@pytest.mark.parametrize("words", [{}, {"max_samples": 2}])
@pytest.mark.parametrize("streaming", [False, True])
def test_splits_of_other_names_load(
    pushed: Path, tmp_path: Path, words: dict[str, Any], *, streaming: bool
) -> None:
    """`load_dataset` gives them, all or one, whole or selected."""
    options = {"streaming": streaming, "cache_dir": str(tmp_path / "cache"), **words}
    most = words.get("max_samples", 9)
    expected = {"train": min(5, most), "validation": min(3, most), "holdout": 2}
    assert count(load_dataset(pushed, **options)) == expected
    for word, split in (("holdout", "holdout"), ("dev", "validation")):
        assert count({split: load_dataset(pushed, word, **options)}) == {split: expected[split]}


def test_two_words_for_a_split_are_two_splits(tmp_path: Path) -> None:
    """`dev` beside `validation` is none of its files, and each is found by its own name."""
    dataset = clip_kinetics700.open(write_pushed(tmp_path / "p", {"validation": 4, "dev": 3}))
    assert count(dataset.splits) == {"validation": 4, "dev": 3}
    assert [len(dataset.select(word)) for word in ("dev", "validation", "val")] == [3, 4, 4]


def test_the_only_configuration_is_opened(tmp_path: Path) -> None:
    """Without a name it is the one there is; with one it is that one."""
    directory = write_pushed(tmp_path / "p", {"train": 5}, folder="mini")
    assert [len(clip_kinetics700.open(directory, name=name)) for name in (None, "mini")] == [5, 5]


def test_one_of_several_configurations_is_named(tmp_path: Path) -> None:
    """`default` needs no name; other configurations, and those of a dataset of tars, do."""
    directory = write_pushed(tmp_path / "p", {"train": 5}, folder="mini")
    write_pushed(tmp_path / "p", {"train": 4}, folder="other")
    with pytest.raises(ValueError, match=r"are mini, other; `name=` must say which$"):
        clip_kinetics700.open(directory)
    with pytest.raises(ValueError, match=r"there is no 'moni'; did you mean 'mini'\?$"):
        clip_kinetics700.open(directory, name="moni")
    options: dict[str, Any] = {"cache_dir": str(tmp_path / "cache")}
    for words in ({}, {"max_samples": 9}, {"streaming": True}):
        assert count(load_dataset(directory, name="mini", **words, **options)) == {"train": 5}
    write_dataset(directory, make_samples({"train": 7}))
    assert [len(clip_kinetics700.open(directory, name=n)) for n in (None, "default")] == [7, 7]
    assert count(load_dataset(directory, **options)) == {"train": 7}
    assert len(clip_kinetics700.open(directory, name="other")) == 4
    with pytest.raises(ValueError, match="tars have no configurations, got name = 'mini'"):
        clip_kinetics700.open(directory / "ds_000000.tar", name="mini")


def test_a_dataset_of_ours_has_no_other_splits(pushed: Path, tmp_path: Path) -> None:
    """`convert` refuses a split that our layout has no place for, instead of losing its rows."""
    assert_one_line(run_convert(pushed, tmp_path / "out"), 2, "has a split 'holdout'; a dataset of")


def test_what_was_mapped_opens(tmp_path: Path) -> None:
    """Rows whose type no longer says how wide their vectors are give the same samples."""
    directory = write_pushed(tmp_path / "p", {"train": 5})
    (file,) = (directory / "data").iterdir()
    expected = list(clip_kinetics700.open(directory))
    rows = datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "cache"))
    sequence, value = datasets.Sequence, datasets.Value("float16")
    rows.cast_column("embeddings", sequence(sequence(value))).to_parquet(file)
    assert_same(clip_kinetics700.open(directory), expected)


PUSH = """
from datasets import DatasetDict, load_dataset
built = load_dataset(arguments[0])
built["train"].push_to_hub("alice/pushed", config_name="mini", split="holdout")
DatasetDict({"train": built["train"], "dev": built["test"]}).push_to_hub("alice/pushed")
"""
READ = """
for name in ("mini", None):
    opened = clip_kinetics700.open("alice/pushed", name=name)
    loaded = clip_kinetics700.load_dataset("alice/pushed", name=name)
    print(json.dumps([{k: len(v) for k, v in found.items()} for found in (opened.splits, loaded)]))
print(len(clip_kinetics700.load_dataset("alice/pushed", "holdout", name="mini", max_samples=2)))
"""


@pytest.mark.slow
def test_what_datasets_pushes_opens(tmp_path: Path) -> None:
    """`push_to_hub(config_name=, split=)` of `datasets` itself is found again under its names."""
    directory = write_dataset(tmp_path / "built", make_samples({"train": 5, "test": 3}))
    with start_hub(tmp_path) as hub:
        hub.run(PUSH, str(directory))
        mini, default, few = map(json.loads, hub.run(READ).splitlines())
    assert mini == [{"holdout": 5}] * 2
    assert default[0] == {"train": 5, "validation": 3}
    assert few == 2
    assert default[1] == default[0]
