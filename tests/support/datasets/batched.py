"""Looks at what batches hold."""

from collections.abc import Iterable
from itertools import islice
from typing import Any


def keys_of(read: Iterable[Any], n_batches: int | None = None) -> list[str]:
    """Return the keys of all batches, or of the first ones, in order."""
    return [key for batch in islice(read, n_batches) for key in batch["keys"]]
