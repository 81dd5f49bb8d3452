"""Class lists: the position of a class name in its list is the `label_id` that is published."""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

from clip_kinetics700.classes import VERSIONS, class_names
from clip_kinetics700_builder.clips.annotations import read_lines
from clip_kinetics700_builder.types import Clip, InputError


def resolve_class_list(clips: Sequence[Clip], class_list: str) -> tuple[str, ...] | None:
    """Return the class names whose positions are the label ids, or None without labels.

    Args:
        clips: all clips of the build.
        class_list: `400`, `600`, `700`, a text file with one class a line, or `auto`: the first
            of 700, 600 and 400 that holds every label of Kinetics rows, or else the sorted
            labels of one's own videos.

    Raises:
        InputError: the list cannot be read, or does not hold a label.
    """
    first_of_label = {clip.label: clip for clip in reversed(clips) if clip.label is not None}
    if class_list == "auto":
        if any(clip.path is None for clip in clips):
            return choose_version(first_of_label.keys())
        return tuple(sorted(first_of_label)) or None
    names = read_classes(class_list)
    for label in sorted(first_of_label.keys() - set(names)):
        near = difflib.get_close_matches(label, names, n=3)
        raise InputError(
            f"label {label!r} of clip {first_of_label[label].identity!r:.120} is not among the "
            f"{len(names)} of class list {class_list}; near names: {', '.join(near) or 'none'}"
        )
    return names


def choose_version(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the first of the 700, 600 and 400 lists that holds every label."""
    lists = [class_names(version) for version in reversed(VERSIONS)]
    for names in lists:
        if set(labels) <= set(names):
            return names
    strangers = min((sorted(set(labels) - set(names)) for names in lists), key=len)
    raise InputError(
        f"the labels are of no one Kinetics version: the closest lacks {strangers!r:.120}; "
        "name the right list with --class-list (400, 600, 700 or a text file)"
    )


def read_classes(class_list: str) -> tuple[str, ...]:
    """Return the class names of a Kinetics version, or of a text file with one class a line.

    Raises:
        InputError: the file cannot be read, or a line of it is empty or there twice.
    """
    if class_list in VERSIONS:
        return class_names(class_list)
    names: dict[str, None] = {}
    for number, line in enumerate(read_lines(Path(class_list)), 1):
        name = line.strip()
        if not name or name in names:
            raise InputError(f"{class_list} line {number}: class {name!r} is empty or there twice")
        names[name] = None
    if not names:
        raise InputError(f"class list {class_list} is empty; expected one class a line")
    return tuple(names)
