"""Takes from a manifest what the reader needs; whatever else it says is the builder's.

Anybody may have written it: what is not as it must be is a ValueError that says so.
"""

from collections.abc import Mapping
from typing import Any

from .schema import MANIFEST_NAME, parse_json


def parse_manifest(text: str | None, root: str) -> dict[str, Any]:
    """Return the manifest's object, empty where there is none; raise ValueError for other text."""
    try:
        manifest = {} if text is None else parse_json(text)
    except ValueError as error:
        raise ValueError(f"{root}/{MANIFEST_NAME} is no JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise ValueError(f"{root}/{MANIFEST_NAME} holds no JSON object")
    return manifest


def list_stated(manifest: Mapping[str, Any], root: str) -> dict[str, Any]:
    """Return what a manifest says of each file, by name.

    Raises:
        ValueError: a name leads out of the dataset.
    """
    files = manifest.get("files")
    stated = files if isinstance(files, dict) else {}
    for name in stated:
        if not is_inside(name):
            raise ValueError(f"{root}/{MANIFEST_NAME}: names {name!r}, which lies outside of it")
    return stated


def is_inside(name: str) -> bool:
    """Tell whether a relative name of a file stays in its directory, wherever that is."""
    # Two colons chain URLs for fsspec.
    is_plain = not any(part in name for part in ("\0", "\\", "::", "://"))
    return is_plain and not name.startswith("/") and ".." not in name.split("/")


def describe_data(
    manifest: Mapping[str, Any], root: str
) -> tuple[tuple[str, ...] | None, int | None]:
    """Return class names by label id and the width of the embeddings, each None if not given.

    What is given and is something else is a ValueError.
    """
    names = manifest.get("class_names")
    if names is not None and not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
        raise ValueError(f"{root}/{MANIFEST_NAME}: class_names is no list of names")
    configuration = manifest.get("configuration")
    width = configuration.get("embedding_width") if isinstance(configuration, dict) else None
    if width is not None and (type(width) is not int or width < 1):
        raise ValueError(f"{root}/{MANIFEST_NAME}: embedding_width is {width!r}")
    return None if names is None else tuple(names), width
