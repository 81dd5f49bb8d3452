"""Stops a run in which one clip after the other fails for the same reason."""

from collections import deque
from collections.abc import Sequence

from clip_kinetics700_builder.sources.ledger import ARCHIVES_IN_A_ROW, REFUSALS
from clip_kinetics700_builder.types import Failure, OutageError

# So many clips are looked at together: a directory of a class may well be damaged as a whole.
WINDOW_CLIPS = 200


class Breaker:
    """Counts why the last ones of a run have failed; a plan mixes clips of all classes."""

    def __init__(self, max_share: float) -> None:
        """Take the share of the last clips that may fail for one reason."""
        self._max_share = max_share
        self._last: deque[str | None] = deque(maxlen=WINDOW_CLIPS)

    def note(self, failure: Failure | None) -> None:
        """Count a clip, with its failure where it has failed.

        A clip without a file does not count: how many there are is known before a run begins.

        Raises:
            OutageError: too many of the last ones have failed for the reason of this one.
        """
        if failure is None or failure.reason == "missing":
            self._last.append(None)
            return
        self._last.append(failure.reason)
        count = self._last.count(failure.reason)
        if len(self._last) == WINDOW_CLIPS and count > self._max_share * WINDOW_CLIPS:
            raise OutageError(
                f"{count} of the last {WINDOW_CLIPS} clips failed with {failure.reason} "
                f"({failure.message}), more than --max-failures {self._max_share:g}: is a disk "
                "or this machine at fault? run the same command again to go on"
            )

    def check_archives(self, errors: Sequence[Sequence[str]], *, is_end: bool = False) -> None:
        """Look at why the last archives could not be read, all since one that could.

        Raises:
            OutageError: these are too many, or their server refuses one and no other one is left.
        """
        is_refused = is_end and any(reason in REFUSALS for reason, _ in errors)
        if (is_refused or len(errors) >= ARCHIVES_IN_A_ROW) and self._max_share < 1:
            raise OutageError(
                f"{len(errors)} archives in a row cannot be read, the last one: {errors[-1][1]}; "
                "is their server or their disk at fault? run the same command again to go on, "
                "with --max-failures 1 if they are to fail"
            )
