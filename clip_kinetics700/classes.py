"""Gives the class names of Kinetics 400, 600 and 700, which say what a `label_id` means."""

from functools import cache
from importlib.resources import files

VERSIONS = ("400", "600", "700")


@cache
def class_names(version: str) -> tuple[str, ...]:
    """Return the class names of Kinetics `400`, `600` or `700`; the position is the `label_id`.

    Raises:
        ValueError: there is no such version.
    """
    if version not in VERSIONS:
        raise ValueError(f"unknown Kinetics version {version!r}; known: {', '.join(VERSIONS)}")
    text = (files(__package__) / "class_lists" / f"{version}.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())
