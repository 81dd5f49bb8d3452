"""Loads a dataset as `datasets` does: from its Parquet files, or by our builder class.

Plain `datasets` loads whole Parquet files best; what it cannot do is select samples by the index.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import datasets

from clip_kinetics700.clip_kinetics700 import ClipKinetics700

from .damage import OnError, check_on_error
from .hub import RepositoryUrl, find_source, keep_in_cache, parse_repository_url
from .layout import PARQUET, Layout, Source, group_by_split, list_files, read_layout, read_text
from .remote import is_remote
from .schema import INDEX_NAME, MANIFEST_NAME, SPLITS_CSV_NAME
from .selection import Selection, resolve_split

# The words of `train[:10%]+val` that name splits.
SPLIT_NAME = re.compile(r"(?:^|(?<=\+))\w+")
CARD_NAME = "README.md"
# With these files in the Hub's cache a repository can be opened without network.
KEPT_NAMES = (CARD_NAME, MANIFEST_NAME, SPLITS_CSV_NAME, INDEX_NAME)


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
            `datasets` does (`train[:10%]+val`); None is all splits, by name; a list gives a list.
        classes: names of classes, as the captions have them, or one; None is all.
        max_samples: at most so many of each split, fewer where there are fewer.
        shuffle: take them in a random order instead of the first ones in the dataset's order.
        seed: changes that order.
        streaming: read while iterating instead of preparing a local copy first.
        index: path or URL of an index that lies elsewhere than in the source.
        on_error: `raise` damage, naming file, key and reason, or `skip` it with a warning.
        revision: branch, tag or commit of a Hub repository.
        kwargs: `cache_dir`; besides, for Parquet, what `datasets.load_dataset` takes, else what
            `download_and_prepare` takes.

    Raises:
        FileNotFoundError: there is no such source.
        DamageError: a sample or a file is damaged, and `on_error` is `raise`.
        ValueError: there are no samples in it, or no such split or class; it gives the nearest
            names.
    """
    check_on_error(on_error)
    if "token" in kwargs:
        raise TypeError("token= is not taken: log in with `hf auth login` or set HF_TOKEN")
    how = Selection(classes=classes, max_samples=max_samples, shuffle=shuffle, seed=seed)
    layout = read_layout(source, revision=revision)
    asked = parse_repository_url(find_source(source, revision)) if isinstance(source, str) else None
    if asked is not None and layout.root == layout.repository and not streaming:
        keep_in_cache(asked, KEPT_NAMES)
    split = resolve_expression(split, tuple(layout.files), layout.root or "the source")
    # In a name with these letters `datasets` sees a pattern.
    if how.is_everything and layout.root and not set(layout.root) & set("*?[]"):
        files = list_files(layout.root)
        parquet = group_by_split(files, PARQUET)
        if parquet:
            options = {"split": split, "streaming": streaming, **kwargs}
            return load_parquet(layout, files, parquet, options)
    config = {
        # A repository's URL even if its files are read from the Hub's cache, so that `datasets`
        # finds what it has prepared.
        "data_dir": layout.repository or layout.root or None,
        "tars": None if layout.root else layout.files,
        "splits": None if split is None else list(split_names(split)),
        "classes": None if how.classes is None else tuple(how.classes),
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
    """Load what the builder class reads; a split is empty if nothing of it was selected."""
    if not streaming and builder.parts:
        try:
            builder.download_and_prepare(**kwargs)
        except datasets.exceptions.DatasetGenerationError as error:
            # The text of `datasets` says nothing; the cause is ours and names file and sample.
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
    # A split is prepared without samples if all of them were damaged and skipped.
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
    url = parse_repository_url(layout.repository or "")
    if has_card(root, files):
        if url is not None and not url.directory:
            return load_repository(layout, url, options)
        if not is_remote(root):
            return datasets.load_dataset(root, **options)
    paths = {split: [f"{root}/{name}" for name in names] for split, names in parquet.items()}
    return datasets.load_dataset("parquet", data_files=paths, **options)


def load_repository(layout: Layout, url: RepositoryUrl, options: Mapping[str, Any]) -> Any:
    """Load all of a repository at a commit with plain `datasets`.

    Where the Hub cannot be asked, `datasets` gives the latest commit that it has prepared. If that
    is another commit, the files in the Hub's cache are prepared anew.
    """
    is_cached = layout.root != layout.repository
    try:
        loaded = datasets.load_dataset(url.repository, revision=url.revision, **options)
    except (OSError, ValueError):
        if not is_cached:
            raise
        loaded = None
    if not is_cached or (loaded is not None and is_prepared_from(loaded, str(url.revision))):
        return loaded
    return datasets.load_dataset(layout.root, **options)


def is_prepared_from(loaded: Any, commit: str) -> bool:
    """Tell whether all that was loaded lies where `datasets` keeps what it makes of a commit."""
    if isinstance(loaded, dict):
        loaded = list(loaded.values())
    parts = loaded if isinstance(loaded, list) else [loaded]
    names = [file["filename"] for part in parts for file in getattr(part, "cache_files", ())]
    return bool(names) and all(f"/{commit}/" in name for name in names)


def has_card(root: str, files: Iterable[str]) -> bool:
    """Tell whether a card names the configuration, so that plain `datasets` finds the files."""
    text = (read_text(root, CARD_NAME) or "") if CARD_NAME in files else ""
    return text.startswith("---") and "\nconfigs:" in text.split("\n---", 1)[0]


def resolve_expression(
    split: str | Sequence[str] | None, splits: Sequence[str], source: str
) -> str | list[str] | None:
    """Return a split expression in the words of `datasets`."""
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
