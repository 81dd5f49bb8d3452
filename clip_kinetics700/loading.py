"""`load_dataset` for people: the Parquet files where there are any, else the tars.

In: a local directory, a Hub repository or an fsspec URL. Out: what `datasets` returns.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub.errors import HfHubHTTPError

from clip_kinetics700.clip_kinetics700 import ClipKinetics700
from clip_kinetics700.layout import find_tars, list_files, read_text, resolve_source
from clip_kinetics700.schema import SPLIT_OF_WORD
from clip_kinetics700.shards import is_tar
from clip_kinetics700.tars import is_remote

REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
HUB_PREFIX = "hf://datasets/"
PARQUET = re.compile(rf"data/({'|'.join(SPLIT_OF_WORD)})-\d+-of-\d+\.parquet")
# The words of `train[:10%]+val` that name splits.
SPLIT_NAME = re.compile(r"(?:^|(?<=\+))\w+")
# What connecting to the Hub raises: of requests or httpx, whichever huggingface_hub is built on.
HUB_ERRORS: tuple[type[BaseException], ...] = (OSError, *HfHubHTTPError.__bases__)


def load_dataset(
    source: str | os.PathLike[str],
    split: str | Sequence[str] | None = None,
    *,
    streaming: bool = False,
    **kwargs: Any,
) -> Any:
    """Load a dataset as `datasets.load_dataset` does, from its Parquet files or from its tars.

    Args:
        source: a local directory, the id of a Hub repository, or an fsspec URL of a directory.
        split: `train`, `validation`, `test` or another word for one, also sliced or added as
            `datasets` does (`train[:10%]+val`); None is all of them, by name; a list gives a list.
        streaming: read while iterating instead of preparing a local copy first.
        kwargs: `revision` and `cache_dir`; besides, for Parquet, what `datasets.load_dataset`
            takes, and for tars, what `download_and_prepare` takes.

    Raises:
        FileNotFoundError: there is no such directory or repository.
        ValueError: it holds neither Parquet nor tars, has no such split, or is damaged.
    """
    root = _find_source(source, kwargs.get("revision"))
    files = _list_files(root)
    parquet = _group_parquet(root, files)
    if parquet and _has_card(root, files):
        options = {"split": _resolve_split(split, parquet, root), "streaming": streaming, **kwargs}
        return datasets.load_dataset(_plain_name(root), **options)
    kwargs.pop("revision", None)
    if parquet:
        options = {"split": _resolve_split(split, parquet, root), "streaming": streaming, **kwargs}
        return datasets.load_dataset("parquet", data_files=parquet, **options)
    if not any(map(is_tar, files)):
        raise ValueError(f"{root} holds neither tars nor files data/SPLIT-NNNNN-of-NNNNN.parquet")
    split = _resolve_split(split, find_tars(root, files), root)
    return _load_tars(root, split, streaming=streaming, **kwargs)


def _load_tars(root: str, split: str | list[str] | None, *, streaming: bool, **kwargs: Any) -> Any:
    """Load the tars of a directory through the builder."""
    builder = ClipKinetics700(data_dir=root, cache_dir=kwargs.pop("cache_dir", None))
    if streaming and not isinstance(split, list):
        return builder.as_streaming_dataset(split=split)
    if streaming:
        return [builder.as_streaming_dataset(split=word) for word in split or []]
    try:
        builder.download_and_prepare(**kwargs)
    except datasets.exceptions.DatasetGenerationError as error:
        # Its own text says nothing; the reason is ours and names tar and sample.
        raise ValueError(str(error.__cause__ or error)) from error
    return builder.as_dataset(split=split)


def _find_source(source: str | os.PathLike[str], revision: str | None) -> str:
    """Return the absolute path or the URL of a source."""
    text = os.fspath(source)
    if is_remote(text) or not REPOSITORY.fullmatch(text) or Path(text).exists():
        return resolve_source(text)
    return f"{HUB_PREFIX}{text}" + ("" if revision is None else f"@{revision}")


def _list_files(root: str) -> dict[str, dict[str, Any]]:
    """Return the files of a source, or say where it was looked for."""
    if not root.startswith(HUB_PREFIX):
        return list_files(root)
    try:
        return list_files(root)
    except HUB_ERRORS as error:
        name = root.removeprefix(HUB_PREFIX)
        reason = str(error).strip().split("\n")[0]
        raise FileNotFoundError(
            f"no directory {name} here, and no dataset {name} on the Hub ({reason})"
        ) from error


def _group_parquet(root: str, files: Iterable[str]) -> dict[str, list[str]]:
    """Return the paths or URLs of the Parquet files by split, splits in the usual order."""
    groups: dict[str, list[str]] = {}
    matches = [match for name in files if (match := PARQUET.fullmatch(name))]
    for word, split in SPLIT_OF_WORD.items():
        names = [f"{root.rstrip('/')}/{match[0]}" for match in matches if match[1] == word]
        if names:
            groups.setdefault(split, []).extend(names)
    return groups


def _has_card(root: str, files: Mapping[str, Any]) -> bool:
    """Tell whether a card names the configuration, so that plain `datasets` finds the files."""
    if "README.md" not in files or (is_remote(root) and not root.startswith(HUB_PREFIX)):
        return False
    text = read_text(root, "README.md") or ""
    return text.startswith("---") and "\nconfigs:" in text.split("\n---", 1)[0]


def _plain_name(root: str) -> str:
    """Return the name that `datasets.load_dataset` knows a source by."""
    return root.removeprefix(HUB_PREFIX).partition("@")[0] if is_remote(root) else root


def _resolve_split(
    split: str | Sequence[str] | None, splits: Mapping[str, Any], root: str
) -> str | list[str] | None:
    """Return a split expression in the words of `datasets`.

    Raises:
        ValueError: it names a split that is not there.
    """
    if split is None:
        return None
    if not isinstance(split, str):
        return [str(_resolve_split(word, splits, root)) for word in split]

    def resolve(match: re.Match[str]) -> str:
        word = match[0].lower()
        resolved = SPLIT_OF_WORD.get(word, word)
        if resolved not in splits and resolved != "all":
            raise ValueError(f"no split {match[0]!r} in {root}; there are {', '.join(splits)}")
        return resolved

    return SPLIT_NAME.sub(resolve, re.sub(r"\s", "", str(split)))
