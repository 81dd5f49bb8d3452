"""Whether a source has changed, because `datasets` caches by path alone.

In: a `Layout`. Out: a few digits that are others when its place or content are.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .layout import CSV_NAMES, STATE_FIELDS, Layout, describe_file, list_files, read_text
from .ranges import MAX_IN_FLIGHT
from .schema import MANIFEST_NAME


def fingerprint(layout: Layout) -> str:
    """Return 16 hexadecimal digits that change when the source's place or content does."""
    digest = hashlib.sha256(json.dumps([layout.root, layout.files]).encode())
    listing = list_files(layout.root) if layout.root else {}
    paths = [path for group in layout.files.values() for path in group]
    paths += [] if layout.index is None else [layout.index]
    known = {path: state_of(listing.get(layout.relative(path), {})) for path in paths}
    # The listings of web servers hold names alone.
    unknown = [path for path, state in known.items() if not any(state)]
    with ThreadPoolExecutor(MAX_IN_FLIGHT) as pool:
        known |= zip(unknown, map(state_of, pool.map(describe_file, unknown)), strict=True)
    for path, state in known.items():
        digest.update("\0".join([path, *state]).encode("utf-8", "surrogateescape"))
    for name in (MANIFEST_NAME, *CSV_NAMES):
        if name in listing:
            digest.update((read_text(layout.root, name) or "").encode())
    return digest.hexdigest()[:16]


def state_of(info: dict[str, Any]) -> list[str]:
    """Return what of the description of a file differs between two states of it."""
    return [str(info.get(field) or "") for field in STATE_FIELDS]
