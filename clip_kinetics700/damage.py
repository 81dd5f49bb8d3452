"""Names what cannot be read, by file, sample and reason, and raises it or leaves it out.

It imports nothing of ours, so that the `datasets` script can bring it along.
"""

import logging
from collections.abc import Iterable, Iterator
from typing import Literal, TypeVar

logger = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]
Whole = TypeVar("Whole")


class DamageError(ValueError):
    """A sample or a file of samples cannot be read; the text says which one, where and why."""

    def __init__(self, path: str, key: str | None, offset: int | None, reason: str) -> None:
        """Name what is damaged: the file at a path or URL, or the sample of a key in it.

        The offset is the byte of the file where the sample's array begins, where that is known. The
        reason is made one line, and need not name the sample.
        """
        reason = reason.removeprefix(f"{path}: ").removeprefix(f"sample {key}: ")
        reason = " ".join(reason.split())
        where = "" if offset is None else f" (at byte {offset})"
        super().__init__(f"{path}: {reason if key is None else f'sample {key}: {reason}'}{where}")
        self.path, self.key, self.offset, self.reason = path, key, offset, reason

    def __reduce__(self) -> tuple[type["DamageError"], tuple[str, str | None, int | None, str]]:
        """Let the workers of a DataLoader send it to their parent."""
        return DamageError, (self.path, self.key, self.offset, self.reason)


def report_damage(error: DamageError, on_error: OnError) -> None:
    """Raise damage, or log what is left out because of it."""
    if on_error == "raise":
        raise error
    logger.warning("skipped: %s", error)


def keep_whole(results: Iterable["Whole | DamageError"], on_error: OnError) -> Iterator[Whole]:
    """Yield the results that are not damaged; raise damage, or leave it out with a warning."""
    for result in results:
        if isinstance(result, DamageError):
            report_damage(result, on_error)
        else:
            yield result


def check_on_error(on_error: str) -> OnError:
    """Return what is to be done about damage, or raise ValueError for another word."""
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}; allowed are 'raise' and 'skip'")
    return on_error  # type: ignore[return-value]  # mypy does not narrow by `in`
