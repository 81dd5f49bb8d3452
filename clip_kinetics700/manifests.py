"""The text of a `manifest.json` in, what readers want of it out, or why it is no manifest."""

import json
from collections.abc import Mapping
from typing import Any

from .schema import MANIFEST_NAME


def parse_manifest(text: str | None, root: str) -> dict[str, Any]:
    """Return the manifest's object, empty where there is no manifest.

    Raises:
        ValueError: the text is something else.
    """
    try:
        manifest = {} if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{root}/{MANIFEST_NAME} is no JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise ValueError(f"{root}/{MANIFEST_NAME} holds no JSON object")
    return manifest


def describe_data(
    manifest: Mapping[str, Any], root: str
) -> tuple[tuple[str, ...] | None, int | None]:
    """Return class names by label id, and the width of the embeddings; None where it says nothing.

    Raises:
        ValueError: they are no names, or no width.
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
