"""Keeps a line for each attempt to get a clip, so that no clip is lost without a reason.

It also says which reasons there are and when another try may help. A ledger is a file of JSON
lines that only grows, and that any kill leaves readable.
"""

import json
import logging
import mmap
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from clip_kinetics700.schema import REASONS, parse_json
from clip_kinetics700_builder.system.files import naming
from clip_kinetics700_builder.types import Clip, InputError

LEDGER_NAME = "ledger.jsonl"
GOT = "got"
FAILED = "failed"
HTTP_REASON = re.compile(r"http_[1-5]\d\d")
FETCH_REASONS = {
    "not_in_directory": "the directory holds no file of this clip",
    "not_in_archive": "none of the archives holds this clip",
    "empty_file": "the file holds 0 bytes",
    "unreadable": "the file is there but cannot be read",
    "truncated": "the data ends before its end",
    "checksum": "the data is not what it was when its checksum was made",
    "refused": "the archive is hostile: see the message",
    "timed_out": "nothing came for too long",
    "connection": "the connection failed",
    "gone": "removed, or its account was closed",
    "private": "private, or for members only",
    "age_restricted": "only for signed-in adults",
    "region_blocked": "not available in this country",
    "bot_wall": "the site asks for a sign-in to prove that this is no bot",
    "rate_limited": "the site asks for fewer requests",
    "unavailable": "not available, for no reason known here",
    "no_format": "no format fits what was asked for",
    "cut_failed": "the segment cannot be cut out of the video",
}
"""Why a clip was not got, beside `http_404` and its like."""
OUTAGES = ("timed_out", "connection", "http_408", "http_429")
"""Reasons that say nothing of what was asked for, with those of servers, `http_5NN`."""
# An archive is lost as a whole, and a server that refuses one may well refuse all.
ARCHIVES_IN_A_ROW = 3
REFUSALS = ("http_401", "http_403", "http_407")
"""Reasons for which who asks may be at fault: a link has expired, or this network is shut out."""
PASSING_REASONS = (*OUTAGES, "truncated", "checksum", "rate_limited")
# Seconds before each further try. Reading a byte range has tries and pauses of its own.
ARCHIVE_PAUSES_SECONDS = (0.0, 0.0)
YOUTUBE_PAUSES_SECONDS = (10.0, 30.0, 90.0)

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class FetchError(Exception):
    """A clip, or an archive of clips, cannot be had: for which reason, and one line about it."""

    def __init__(self, reason: str, message: str) -> None:
        """Take a reason, one of `FETCH_REASONS` or `http_NNN`, and one line that names the file."""
        super().__init__(message)
        self.reason = reason


def try_again(
    fetch: Callable[[], Result], pauses_seconds: Sequence[float], *, also: Collection[str] = ()
) -> Result:
    """Return what a function returns, called again after each pause while that may help.

    It may help where a reason is passing, or `also` says that it may pass here.

    Raises:
        FetchError: the reason will not pass, or the last call failed too.
    """
    for pause in pauses_seconds:
        try:
            return fetch()
        except FetchError as error:
            if not is_passing(error.reason) and error.reason not in also:
                raise
            log.info("%s; another try in %g s", error, pause)
        time.sleep(pause)
    return fetch()


def is_passing(reason: str) -> bool:
    """Tell whether what failed for a reason may go right the next time."""
    return reason in PASSING_REASONS or is_outage(reason)


def is_outage(reason: str) -> bool:
    """Tell whether a network or a server has failed, not what was asked for."""
    return reason in OUTAGES or reason.startswith("http_5")


def check_reasons(reasons: Collection[str]) -> None:
    """Refuse words that are no reason for which anything fails.

    Raises:
        InputError: names the first such word.
    """
    for reason in reasons:
        if reason not in (*REASONS, *FETCH_REASONS) and HTTP_REASON.fullmatch(reason) is None:
            raise InputError(
                f"--retry-errors: {reason!r} is no reason; `clip-kinetics700 status` lists them"
            )


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of trying to get one clip from one source."""

    split: str
    youtube_id: str
    time_start: int
    time_end: int
    label: str | None
    source: str
    """A directory, `cvdf` or `youtube`."""
    outcome: str
    """`got` or `failed`."""
    reason: str | None = None
    """One of `FETCH_REASONS`, or `http_NNN`; None where the clip was got."""
    message: str | None = None
    """One line; None where there is nothing to say."""
    archive: str | None = None
    """The archive that the clip came from, or was to come from."""
    bytes: int | None = None
    """Size of the clip."""
    seconds: float | None = None
    """How long it took; for a clip in an archive, its share of the archive's time."""

    @property
    def identity(self) -> str:
        """The identity of the clip, as `Clip.identity` has it."""
        return f"{self.youtube_id},{self.time_start},{self.time_end}"


def got(clip: Clip, source: str, **facts: Any) -> Attempt:
    """Return the attempt that brought a clip; `facts` are further fields of `Attempt`."""
    return Attempt(*describe_clip(clip), source, GOT, **facts)


def failed(clip: Clip, source: str, error: FetchError, **facts: Any) -> Attempt:
    """Return the attempt that did not bring a clip; `facts` are further fields of `Attempt`."""
    return Attempt(*describe_clip(clip), source, FAILED, error.reason, str(error), **facts)


def describe_clip(clip: Clip) -> tuple[str, str, int, int, str | None]:
    """Return a clip of Kinetics as the first fields of its attempts."""
    if clip.time_start is None or clip.time_end is None:
        raise ValueError(f"{clip.identity}: is no segment of a video on YouTube")
    return clip.split, clip.video_id, clip.time_start, clip.time_end, clip.label


class Ledger:
    """Appends attempts to a file, from any thread of one process at a time."""

    def __init__(self, path: Path) -> None:
        """Create the file if there is none; remove a last line that a kill has cut off."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = Lock()
        with naming(path), path.open("ab+") as file:
            # An empty file cannot be mapped.
            if file.tell():
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    end_of_lines = content.rfind(b"\n") + 1
                file.truncate(end_of_lines)

    def write(self, attempts: Iterable[Attempt]) -> None:
        """Append attempts; when this returns they survive a power cut."""
        lines = "".join(json.dumps(asdict(attempt)) + "\n" for attempt in attempts)
        if not lines:
            return
        with self._lock, naming(self._path), self._path.open("ab") as file:
            file.write(lines.encode("ascii"))
            file.flush()
            os.fsync(file.fileno())


def read_attempts(path: Path) -> Iterator[Attempt]:
    """Yield the attempts of a ledger in the order they ended; none where there is no file.

    Raises:
        InputError: a line is not one of ours.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            # A line without an end is still being written.
            if not line.endswith(b"\n"):
                return
            try:
                yield Attempt(**parse_json(line))
            except (ValueError, TypeError) as error:
                raise InputError(f"{path} line {number}: is not a line of ours") from error
