"""Loads a dataset as `datasets` does: from its Parquet files, or by our builder class.

Plain `datasets` loads whole Parquet files best; what it cannot do is select samples by the index.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import signature
from typing import Any

import datasets
import pyarrow.parquet as pq
from datasets.packaged_modules.parquet.parquet import ParquetConfig

from clip_kinetics700.clip_kinetics700 import ClipKinetics700

from .damage import OnError, check_on_error
from .hub import fetch_files, find_source, keep_in_cache, parse_repository_url
from .layout import DEFAULT_NAME, Source, find_parquet, list_files, read_layout
from .remote import is_remote
from .schema import INDEX_NAME, MANIFEST_NAME, SPLITS_CSV_NAME, suggest
from .selection import Selection, resolve_split
from .streams import RangeFile

# The words of `train[:10%]+val` that name splits.
SPLIT_NAME = re.compile(r"(?:^|(?<=\+))\w+(?:\.\w+)*")
# With these files in the Hub's cache a repository can be opened without network, and with the index
# selected from.
KEPT_NAMES = ("README.md", MANIFEST_NAME, SPLITS_CSV_NAME)
# What takes keywords that `load_dataset` does not know, and which of its own these are given by it.
PARQUET_TAKERS = (datasets.load_dataset, ParquetConfig)
BUILDER_TAKERS = (ClipKinetics700.download_and_prepare,)
GIVEN = {"self", "path", "name", "data_dir", "data_files", "split", "revision", "streaming"}
GIVEN |= {"token", "version", "description", "config_kwargs", "download_and_prepare_kwargs"}


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
    name: str | None = None,
    **kwargs: Any,
) -> Any:
    """Load a dataset, or a part of it, as `datasets.load_dataset` does.

    Only the splits that are asked for are fetched. A selection is read through the index: of a
    remote source only the bytes it needs. Whole splits come from Parquet files, if there are any.

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
        name: the configuration, where the source has several, as `push_to_hub` calls it.
        kwargs: `cache_dir`; besides, for Parquet, what `datasets.load_dataset` takes, else what
            `download_and_prepare` takes.

    Raises:
        FileNotFoundError: there is no such source.
        DamageError: a sample or a file is damaged, and `on_error` is `raise`.
        TypeError: nothing takes one of the `kwargs`; it gives the nearest names.
        ValueError: there are no samples in it, or no such split, class or configuration; it gives
            the nearest names.
    """
    check_on_error(on_error)
    if "token" in kwargs:
        raise TypeError("token= is not taken: log in with `hf auth login` or set HF_TOKEN")
    how = Selection(classes=classes, max_samples=max_samples, shuffle=shuffle, seed=seed)
    layout = read_layout(source, revision=revision, name=name)
    split = resolve_expression(split, tuple(layout.files), layout.root or "the source")
    wanted = split_names(split)
    parquet: dict[str, list[str]] = {}
    # In a name with these letters `datasets` sees a pattern.
    if how.is_everything and layout.root and not set(layout.root) & set("*?[]"):
        beside_tars = DEFAULT_NAME if layout.kind == "tars" else name
        parquet = find_parquet(layout.root, list_files(layout.root), beside_tars)
    check_keywords(kwargs, PARQUET_TAKERS if parquet else BUILDER_TAKERS)
    asked = parse_repository_url(find_source(source, revision)) if isinstance(source, str) else None
    if asked is not None and layout.root == layout.repository and not streaming:
        keep_in_cache(asked, KEPT_NAMES if parquet else (*KEPT_NAMES, INDEX_NAME))
    if parquet:
        files = {word: parquet[word] for word in parquet if wanted is None or word in wanted}
        return load_parquet(layout.root, files, split=split, streaming=streaming, **kwargs)
    config = {
        # A repository's URL even if its files are read from the Hub's cache, so that `datasets`
        # finds what it has prepared.
        "data_dir": layout.repository or layout.root or None,
        "tars": None if layout.root else layout.files,
        "splits": wanted,
        "classes": None if how.classes is None else tuple(how.classes),
        "max_samples": max_samples,
        "shuffle": shuffle,
        "seed": seed,
        "index": None if index is None else os.fspath(index),
        "on_error": on_error,
    }
    cache_dir = kwargs.pop("cache_dir", None)
    builder = ClipKinetics700(cache_dir=cache_dir, config_name=name, **config)
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
    root: str, files: Mapping[str, Sequence[str]], *, streaming: bool, **options: Any
) -> Any:
    """Load Parquet files, named by split, with plain `datasets`.

    Those of a repository are put into the Hub's cache: there they are found without network, and
    each commit's by itself.
    """
    url = parse_repository_url(root)
    if url is not None and not streaming:
        root = fetch_files(url, [name for group in files.values() for name in group])
    paths = {split: [f"{root}/{name}" for name in group] for split, group in files.items()}
    options.setdefault("features", translate_features(next(iter(paths.values()))[0]))
    return datasets.load_dataset("parquet", data_files=paths, streaming=streaming, **options)


def translate_features(path: str) -> Any:
    """Return the features that a Parquet file states, if it does in words that are too new.

    Versions before 4.0 do not know the lists of later ones, which `push_to_hub` writes.
    """
    if hasattr(datasets, "List"):
        return None
    schema = pq.read_schema(RangeFile(path) if is_remote(path) else path)
    stated = (schema.metadata or {}).get(b"huggingface", b"")
    known = stated.replace(b'"_type": "List"', b'"_type": "Sequence"')
    if known == stated:
        return None
    return datasets.Features.from_dict(json.loads(known)["info"]["features"])


def check_keywords(kwargs: Iterable[str], takers: Sequence[Callable[..., Any]]) -> None:
    """Refuse keywords that nothing takes: `datasets` drops some, and names its cache by others.

    Raises:
        TypeError: there is one; it gives the nearest names.
    """
    own, *theirs = (set(signature(taker).parameters) for taker in (load_dataset, *takers))
    known = {"cache_dir"}.union(*theirs) - GIVEN
    for word in set(kwargs) - known:
        raise TypeError(
            f"load_dataset takes no {word!r}, besides its own keywords only "
            f"{', '.join(sorted(known))}{suggest(word, sorted(own | known))}"
        )


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


def split_names(split: str | list[str] | None) -> list[str] | None:
    """Return the splits that a resolved expression names; None is all of them."""
    expressions = [split] if isinstance(split, str) else split or ["all"]
    names = [name for expression in expressions for name in SPLIT_NAME.findall(expression)]
    return None if "all" in names else list(dict.fromkeys(names))
