"""The card's pictures show the counts of a dataset: class balance and frames per clip.

matplotlib would enlarge the process that assembles, so they are drawn in one of their own, which
sends them back: all that is written is written here.
"""

import logging
import multiprocessing
import signal
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from clip_kinetics700_builder.dataset.layout import CLASS_BALANCE, FRAMES_PER_CLIP
from clip_kinetics700_builder.dataset.manifest import FileEntry, describe_file
from clip_kinetics700_builder.dataset.totals import Totals
from clip_kinetics700_builder.system.children import ADVICE, NO_GUARD
from clip_kinetics700_builder.system.files import write_bytes
from clip_kinetics700_builder.system.signals import SIGNALS
from clip_kinetics700_builder.types import BuildError, InputError

Numbers = dict[str, Any]


def require_drawing() -> None:
    """Refuse to begin what cannot be finished: the pictures need matplotlib."""
    if find_spec("matplotlib") is None:
        raise InputError(
            "the card's pictures need matplotlib: install the extra `build`, or give --no-figures"
        )


def write_figures(
    output: Path, totals: Mapping[str, Totals], class_names: list[str] | None
) -> dict[str, FileEntry]:
    """Draw the pictures of a dataset into it; return the manifest's entry of each.

    Raises:
        BuildError: the process that draws was lost.
    """
    numbers = choose_numbers(totals, class_names)
    entries = {}
    for name, content in draw(numbers).items() if numbers else ():
        path = output / name
        path.parent.mkdir(exist_ok=True)
        write_bytes(path, content)
        entries[name] = describe_file(path, 0)
    return entries


def choose_numbers(
    totals: Mapping[str, Totals], class_names: list[str] | None
) -> dict[str, Numbers]:
    """Return by its name what each picture shows; splits without such clips are in none."""
    by_label = {
        split: counts.samples_by_label
        for split, counts in totals.items()
        if counts.samples_by_label and any(counts.samples_by_label)
    }
    by_n_frames = {
        split: counts.samples_by_n_frames
        for split, counts in totals.items()
        if counts.samples_by_n_frames
    }
    numbers: dict[str, Numbers] = {}
    if by_label:
        numbers[CLASS_BALANCE] = {"class_names": class_names, "samples_by_label": by_label}
    if by_n_frames:
        numbers[FRAMES_PER_CLIP] = {"samples_by_n_frames": by_n_frames}
    return numbers


def draw(numbers: Mapping[str, Numbers]) -> dict[str, bytes]:
    """Return the pictures as PNG, drawn in a process of its own.

    Raises:
        BuildError: it ended without them.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send_pictures, args=(sender, numbers), daemon=True)
    # A new process inherits the mask: what Ctrl-C does is decided here.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    sender.close()
    try:
        pictures: dict[str, bytes] = receiver.recv()
    except EOFError:
        process.join()
        if process.exitcode == NO_GUARD:
            raise InputError(ADVICE) from None
        raise BuildError(
            "the process that draws the card's pictures ended with exit code "
            f"{process.exitcode}; run it again to go on, or give --no-figures"
        ) from None
    finally:
        process.kill()
        process.join()
        receiver.close()
    return pictures


def send_pictures(sender: Connection, numbers: Mapping[str, Numbers]) -> None:
    """Draw, and send the pictures; the main function of the process."""
    # matplotlib would print which caches it makes or cannot keep.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from clip_kinetics700_builder.card import drawing

    # Nobody waits for them any more when the pipe is broken.
    with suppress(BrokenPipeError):
        sender.send(drawing.draw_all(numbers))
