"""`load_dataset` for people: the Parquet files where all is wanted, else the builder class.

In: any source, and what is wanted of it. Out: what `datasets` returns.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import datasets

from clip_kinetics700.clip_kinetics700 import ClipKinetics700
from clip_kinetics700.damage import OnError, check_on_error
from clip_kinetics700.files import is_remote
from clip_kinetics700.layout import (
    HUB_PATH,
    HUB_PREFIX,
    PARQUET,
    Layout,
    Source,
    group_by_split,
    list_files,
    read_layout,
    read_text,
)
from clip_kinetics700.selection import Selection, resolve_split

# The words of `train[:10%]+val` that name splits.
SPLIT_NAME = re.compile(r"(?:^|(?<=\+))\w+")


def load_dataset(
    source: Source,
    split: str | Sequence[str] | None = None,
    *,
    classes: Sequence[str] | None = None,
    max_samples: int | None = None,
    shuffle: bool = False,
    seed: int = 0,
    streaming: bool = False,
    index: str | os.PathLike[str] | None = None,
    on_error: OnError = "raise",
    revision: str | None = None,
    **kwargs: Any,
) -> Any:
    """Load a dataset, or a part of it, as `datasets.load_dataset` does.

    A selection is read through the index: of a remote source only the bytes it needs. All of a
    dataset comes from its Parquet files, where there are any.

    Args:
        source: a local directory, the id of a Hub repository, an fsspec URL of a directory, or
            tars: one, several (they are `train`), or several by split.
        split: `train`, `validation`, `test` or another word for one, also sliced or added as
            `datasets` does (`train[:10%]+val`); None is all of them, by name; a list gives a list.
        classes: names of classes, as the captions have them; None is all.
        max_samples: at most so many of each split, fewer where there are fewer.
        shuffle: take them in a random order instead of the first ones in the dataset's order.
        seed: of that order.
        streaming: read while iterating instead of preparing a local copy first.
        index: path or URL of an index that lies elsewhere than in the source.
        on_error: `raise` damage, naming file, key and reason, or `skip` it with a warning.
        revision: branch, tag or commit of a Hub repository.
        kwargs: `cache_dir`; besides, for Parquet, what `datasets.load_dataset` takes, and else
            what `download_and_prepare` takes.

    Raises:
        FileNotFoundError: there is no such source.
        DamageError: a sample or a file is damaged, and `on_error` is `raise`.
        ValueError: there are no samples in it, or no such split or class; the nearest names are
            told.
    """
    check_on_error(on_error)
    how = Selection(classes=classes, max_samples=max_samples, shuffle=shuffle, seed=seed)
    layout = read_layout(source, revision=revision)
    split = resolve_expression(split, tuple(layout.files), layout.root or "the source")
    # In a name with these letters `datasets` sees a pattern.
    if how.is_everything and layout.root and not set(layout.root) & set("*?[]"):
        files = list_files(layout.root)
        parquet = group_by_split(files, PARQUET)
        if parquet:
            options = {"split": split, "streaming": streaming, **kwargs}
            return load_parquet(layout, files, parquet, options)
    config = {
        "data_dir": layout.root or None,
        "tars": None if layout.root else layout.files,
        "splits": None if split is None else list(split_names(split)),
        "classes": None if classes is None else tuple(classes),
        "max_samples": max_samples,
        "shuffle": shuffle,
        "seed": seed,
        "index": None if index is None else os.fspath(index),
        "on_error": on_error,
    }
    builder = ClipKinetics700(cache_dir=kwargs.pop("cache_dir", None), **config)
    return load_built(builder, split, streaming=streaming, **kwargs)


def load_built(
    builder: ClipKinetics700, split: str | list[str] | None, *, streaming: bool, **kwargs: Any
) -> Any:
    """Load what the builder class reads; splits of which nothing was selected are empty."""
    if not streaming and builder.parts:
        try:
            builder.download_and_prepare(**kwargs)
        except datasets.exceptions.DatasetGenerationError as error:
            # Its own text says nothing; the reason is ours and names file and sample.
            raise error.__cause__ or error from None
    if isinstance(split, list):
        return [load_split(builder, word, streaming=streaming) for word in split]
    if split is not None:
        return load_split(builder, split, streaming=streaming)
    wanted = builder.config.splits or builder.dataset.splits
    splits = builder.parts if builder.config.is_everything else wanted
    kind = datasets.IterableDatasetDict if streaming else datasets.DatasetDict
    return kind({name: load_split(builder, name, streaming=streaming) for name in splits})


def load_split(builder: ClipKinetics700, split: str, *, streaming: bool) -> Any:
    """Load one split expression."""
    # Nothing may have come out of a part but damage that was skipped.
    prepared = {} if streaming or not builder.parts else builder.info.splits
    empty = {name for name, info in prepared.items() if not info.num_examples}
    there = {*builder.parts, "all"} - empty
    terms = [term for term in split.split("+") if SPLIT_NAME.findall(term)[0] in there]
    if terms and builder.parts:
        load = builder.as_streaming_dataset if streaming else builder.as_dataset
        return load(split="+".join(terms))
    features = builder.info.features
    if streaming:
        return datasets.IterableDataset.from_generator(yield_nothing, features=features)
    return datasets.Dataset.from_dict({name: [] for name in features}, features=features)


def yield_nothing() -> Iterator[dict[str, Any]]:
    """Yield no rows, from a function that other processes find by its name."""
    yield from ()


def load_parquet(
    layout: Layout,
    files: Iterable[str],
    parquet: Mapping[str, list[str]],
    options: Mapping[str, Any],
) -> Any:
    """Load all of the Parquet files with plain `datasets`."""
    root = layout.root
    is_remote_root = is_remote(root)
    repository = HUB_PATH.fullmatch(root.removeprefix(HUB_PREFIX)) if is_remote_root else None
    if not is_remote_root and has_card(root, files):
        return datasets.load_dataset(root, **options)
    if repository is not None and not repository[3] and has_card(root, files):
        return datasets.load_dataset(repository[1], revision=repository[2], **options)
    paths = {split: [f"{root}/{name}" for name in names] for split, names in parquet.items()}
    return datasets.load_dataset("parquet", data_files=paths, **options)


def has_card(root: str, files: Iterable[str]) -> bool:
    """Tell whether a card names the configuration, so that plain `datasets` finds the files."""
    text = (read_text(root, "README.md") or "") if "README.md" in files else ""
    return text.startswith("---") and "\nconfigs:" in text.split("\n---", 1)[0]


def resolve_expression(
    split: str | Sequence[str] | None, splits: Sequence[str], source: str
) -> str | list[str] | None:
    """Return a split expression in the words of `datasets`.

    Raises:
        ValueError: it names a split that is not there; the nearest names are told.
    """
    if split is None:
        return None
    if not isinstance(split, str):
        return [str(resolve_expression(word, splits, source)) for word in split]

    def resolve(match: re.Match[str]) -> str:
        return "all" if match[0] == "all" else resolve_split(match[0], splits, source)

    return SPLIT_NAME.sub(resolve, re.sub(r"\s", "", str(split)))


def split_names(split: str | list[str]) -> list[str]:
    """Return the splits that a resolved expression names."""
    expressions = [split] if isinstance(split, str) else split
    names = [name for expression in expressions for name in SPLIT_NAME.findall(expression)]
    return ["all"] if "all" in names else list(dict.fromkeys(names))
