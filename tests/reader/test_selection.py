"""Splits, classes, numbers and order select the same samples, whatever is read."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import clip_kinetics700
from clip_kinetics700 import ClipKinetics700, Sample, load_dataset
from clip_kinetics700.selection import Selection, resolve_splits
from tests.support.datasets.layouts import CLASS_NAMES, make_samples, write_dataset, write_index
from tests.support.hub.servers import serve

# One in three samples has the first class, one the second, and one has no label.
COUNTS = {"train": 40, "validation": 14, "test": 6}
FIRST, SECOND = CLASS_NAMES[:2]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with tars, Parquet and index; tests only read it."""
    root = tmp_path_factory.mktemp("selection")
    return write_index(write_dataset(root / "dataset", make_samples(COUNTS), samples_per_shard=9))


@contextmanager
def on_disk(directory: Path, copy: Path) -> Iterator[Any]:
    """Give the directory itself."""
    yield directory


@contextmanager
def without_index(directory: Path, copy: Path) -> Iterator[Any]:
    """Give a copy of which all must be read to find anything."""
    shutil.copytree(directory, copy)
    (copy / "index.parquet").unlink()
    yield copy


@contextmanager
def of_parquet(directory: Path, copy: Path) -> Iterator[Any]:
    """Give a copy without tars, as `allow_patterns="data/*"` leaves it."""
    shutil.copytree(directory, copy, ignore=shutil.ignore_patterns("*.tar", "splits.csv"))
    yield copy


@contextmanager
def over_http(directory: Path, copy: Path) -> Iterator[Any]:
    """Give the URL of a server."""
    with serve(directory) as served:
        yield served.url


@contextmanager
def parquet_over_http(directory: Path, copy: Path) -> Iterator[Any]:
    """Give the URL of a server that has no tars."""
    with of_parquet(directory, copy), serve(copy) as served:
        yield served.url


SOURCES = [on_disk, without_index, of_parquet, over_http, parquet_over_http]
WORDS: list[dict[str, Any]] = [
    {"split": "val"},
    {"classes": [FIRST]},
    {"split": "train", "max_samples": 7},
    {"classes": [SECOND, FIRST], "max_samples": 3},
    {"split": ["test", "dev"], "max_samples": 4, "shuffle": True, "seed": 5},
    {"classes": [SECOND], "shuffle": True, "seed": 1},
]


def keys_of(rows: Any) -> list[str]:
    """Return the keys of samples, or of rows that `datasets` gives, split after split."""
    if isinstance(rows, Sample):
        return [rows.key]
    if isinstance(rows, dict) and "meta" in rows:
        return [rows["meta"]["key"]]
    parts = rows.values() if isinstance(rows, dict) else rows
    return [key for part in parts for key in keys_of(part)]


@pytest.mark.parametrize("words", WORDS, ids=str)
@pytest.mark.parametrize("source", SOURCES)
def test_same_words_give_the_same_rows(
    directory: Path, tmp_path: Path, source: Callable[..., Any], words: dict[str, Any]
) -> None:
    """On disk, over HTTP, of Parquet alone, without an index; opened, prepared or streamed."""
    expected = keys_of(clip_kinetics700.open(directory).select(**words))
    assert expected
    cache = str(tmp_path / "cache")
    with source(directory, tmp_path / "copy") as place:
        assert keys_of(clip_kinetics700.open(place).select(**words)) == expected
        for streaming in (False, True):
            loaded = load_dataset(place, streaming=streaming, cache_dir=cache, **words)
            assert keys_of(loaded) == expected


def test_most_samples_are_of_each_split(directory: Path) -> None:
    """`max_samples` counts in each split, takes the first ones, and fewer where there are fewer."""
    selected = clip_kinetics700.open(directory).select(max_samples=10)
    everything = make_samples(COUNTS)
    assert {split: keys_of(part) for split, part in selected.splits.items()} == {
        split: keys_of(group[:10]) for split, group in everything.items()
    }
    assert [len(part) for part in selected.splits.values()] == [10, 10, 6]


def test_classes_are_counted_before_the_most(directory: Path) -> None:
    """With classes, `max_samples` counts samples of these, in the dataset's order."""
    selected = clip_kinetics700.open(directory).select("train", classes=[SECOND], max_samples=5)
    assert [sample.caption for sample in selected] == [SECOND] * 5
    assert [sample.time_start for sample in selected] == [1, 4, 7, 10, 13]


def test_shuffle_is_of_all_before_the_most_are_taken(directory: Path) -> None:
    """Shuffled, the samples are drawn from the whole split, the same for a seed, else others."""
    train = clip_kinetics700.open(directory).splits["train"]
    drawn = [keys_of(train.select(max_samples=12, shuffle=True, seed=seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 12
    assert set(drawn[0]) != set(keys_of(train)[:12])
    assert sorted(keys_of(train.select(shuffle=True))) == keys_of(train)


def test_selections_are_selected_from(directory: Path) -> None:
    """A selection of a selection selects from what is left, in its order."""
    dataset = clip_kinetics700.open(directory)
    shuffled = dataset.select(shuffle=True, seed=3)
    assert keys_of(shuffled.select("val")) == keys_of(shuffled.splits["validation"])
    once = dataset.select(["train", "val"], classes=[FIRST], max_samples=4)
    assert keys_of(dataset.select(["train", "val"]).select(classes=[FIRST]).select(max_samples=4))
    twice = dataset.select(classes=[FIRST]).select(["train", "val"]).select(max_samples=4)
    assert keys_of(once) == keys_of(twice)


def test_splits_come_in_the_order_asked_for_and_once(directory: Path, tmp_path: Path) -> None:
    """Two words for a split are one split, and their order is the rows', with and without index."""
    expected = {split: keys_of(group) for split, group in make_samples(COUNTS).items()}
    with without_index(directory, tmp_path / "copy") as copy:
        for place in (directory, copy):
            selected = clip_kinetics700.open(place).select(["dev", "train", "val", "test"])
            order = ("validation", "train", "test")
            assert keys_of(iter(selected)) == [key for split in order for key in expected[split]]
            assert keys_of(list(selected)) == keys_of(iter(selected))


def open_and_select(directory: Path, **words: Any) -> Any:
    """Select as `load_dataset` does."""
    return clip_kinetics700.open(directory).select(**words)


def prepare(directory: Path, **words: Any) -> Any:
    """Select by the builder class of `datasets`."""
    builder = ClipKinetics700(data_dir=str(directory), **words)
    builder.download_and_prepare()
    return builder.as_dataset()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `datasets` prepare what it loads in the test's own directory."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "default_cache")


@pytest.mark.parametrize("load", [open_and_select, load_dataset])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"classes": ["yoha"]}, r"no class 'yoha' among the 3 there are; did you mean 'yoga'\?$"),
        ({"classes": ["zzzzzz"]}, r"no class 'zzzzzz' among the 3 there are$"),
        ({"split": "trian"}, r"no split 'trian' in .*; there are train, validation, test; did you"),
        ({"max_samples": 0}, r"max_samples must be at least 1, got 0"),
        ({"classes": "yogi"}, r"no class 'yogi' among the 3 there are; did you mean 'yoga'\?$"),
    ],
    ids=str,
)
def test_wrong_words_are_refused(
    directory: Path, load: Callable[..., Any], words: dict[str, Any], message: str
) -> None:
    """A word that selects nothing raises and names what is near."""
    with pytest.raises(ValueError, match=message):
        load(directory, **words)


@pytest.mark.parametrize("load", [open_and_select, load_dataset, prepare])
def test_one_class_needs_no_list(directory: Path, load: Callable[..., Any]) -> None:
    """The name of a class alone selects what a list of it does."""
    expected = keys_of(clip_kinetics700.open(directory).select(classes=[SECOND]))
    assert keys_of(load(directory, classes=SECOND)) == expected


def test_classes_without_a_list_are_the_captions(tmp_path: Path) -> None:
    """Where no manifest lists the classes, those of the captions are known and no others."""
    samples = make_samples({"train": 9})
    directory = write_dataset(tmp_path / "d", samples, class_names=None, parquet=False)
    dataset = clip_kinetics700.open(directory)
    assert {sample.caption for sample in dataset.select(classes=[SECOND])} == {SECOND}
    with pytest.raises(ValueError, match="no class 'yoga' among the 2 there are"):
        dataset.select(classes=["yoga"])


@pytest.mark.parametrize("streaming", [False, True])
def test_a_selection_of_nothing_is_empty(
    directory: Path, tmp_path: Path, *, streaming: bool
) -> None:
    """A class without samples gives empty splits with all their columns, not an error."""
    loaded = load_dataset(directory, classes=["yoga"], streaming=streaming, cache_dir=str(tmp_path))
    assert list(loaded) == list(COUNTS)
    assert keys_of(loaded) == []
    assert set(loaded["test"].features) == {"embeddings", "caption", "meta"}


def test_every_word_for_a_split_is_understood() -> None:
    """Each split is named in full, by every other word in use, and by `all`."""
    splits = ("train", "validation", "test")
    for word in ("val", "VALID", " validate ", "dev", "validation"):
        assert resolve_splits(word, splits, "d") == ["validation"]
    assert resolve_splits(["holdout_test"], splits, "d") == ["test"]
    assert resolve_splits("all", splits, "d") == resolve_splits(None, splits, "d") == list(splits)


def test_selection_knows_whether_it_is_everything() -> None:
    """Only no class, no number and no order is everything; a seed alone changes nothing."""
    assert Selection(seed=3).is_everything
    assert not Selection(shuffle=True).is_everything
    assert not Selection(max_samples=1).is_everything
    assert not Selection(classes=[]).is_everything
