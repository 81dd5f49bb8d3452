"""The ledger: one line for each clip and attempt to get it, so that nothing is lost unseen.

In: attempts as they end, from any thread. Out: a file of JSON lines that only grows and that any
kill leaves readable, and its attempts back.
"""

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType

from clip_kinetics700.schema import REASONS
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

PASSING_REASONS = (
    "truncated",
    "checksum",
    "timed_out",
    "connection",
    "rate_limited",
    "http_408",
    "http_429",
)


class FetchError(Exception):
    """A clip, or an archive of clips, cannot be had: for which reason, and one line about it."""

    def __init__(self, reason: str, message: str) -> None:
        """Take a reason, one of `FETCH_REASONS` or `http_NNN`, and one line that names the file."""
        super().__init__(message)
        self.reason = reason


def is_reason(word: str) -> bool:
    """Tell whether a word is a reason for which a clip is not got."""
    return word in FETCH_REASONS or HTTP_REASON.fullmatch(word) is not None


def is_passing(error: FetchError) -> bool:
    """Tell whether what went wrong may go right the next time."""
    return error.reason in PASSING_REASONS or error.reason.startswith("http_5")


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of trying to get one clip from one source."""

    split: str
    youtube_id: str
    time_start: int
    time_end: int
    label: str | None
    source: str
    """A directory, `cvdf` or `youtube`; of a build `videos` or `cvdf`."""
    outcome: str
    """`got` or `failed`."""
    reason: str | None = None
    """One of `FETCH_REASONS`, or `http_NNN`; None where it was got."""
    message: str | None = None
    """One line; None where there is nothing to say."""
    archive: str | None = None
    """Of which archive it came."""
    bytes: int | None = None
    """Of the clip."""
    seconds: float | None = None
    """That it took; of a clip in an archive, its share of the archive's."""

    @property
    def identity(self) -> str:
        """The clip's, as `Clip.identity` has it."""
        return f"{self.youtube_id},{self.time_start},{self.time_end}"


def got(
    clip: Clip,
    source: str,
    *,
    n_bytes: int,
    seconds: float | None = None,
    archive: str | None = None,
) -> Attempt:
    """Return the attempt that brought a clip."""
    return Attempt(
        *describe_clip(clip), source, GOT, bytes=n_bytes, seconds=seconds, archive=archive
    )


def failed(
    clip: Clip,
    source: str,
    error: FetchError,
    *,
    seconds: float | None = None,
    archive: str | None = None,
) -> Attempt:
    """Return the attempt that did not bring a clip."""
    return Attempt(
        *describe_clip(clip),
        source,
        FAILED,
        error.reason,
        str(error),
        seconds=seconds,
        archive=archive,
    )


def describe_clip(clip: Clip) -> tuple[str, str, int, int, str | None]:
    """Return a clip of Kinetics as the first fields of its attempts."""
    if clip.time_start is None or clip.time_end is None:
        raise ValueError(f"{clip.identity}: is no segment of a video on YouTube")
    return clip.split, clip.video_id, clip.time_start, clip.time_end, clip.label


class Ledger:
    """Appends attempts to a file; use it in a `with` block, by one process at a time."""

    def __init__(self, path: Path) -> None:
        """Open it, or begin it; a line that a kill has cut off is removed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = path.open("ab+")
        self._lock = Lock()
        cut_torn_line(path)

    def __enter__(self) -> "Ledger":
        """Return the ledger itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        with naming(self._path):
            self._file.close()

    def write(self, attempts: Iterable[Attempt]) -> None:
        """Append attempts; when this returns they survive a power cut."""
        lines = "".join(json.dumps(asdict(attempt)) + "\n" for attempt in attempts)
        if not lines:
            return
        with self._lock, naming(self._path):
            self._file.write(lines.encode("ascii"))
            self._file.flush()
            os.fsync(self._file.fileno())


def cut_torn_line(path: Path) -> None:
    """Remove what follows the last line end of a file."""
    with naming(path), path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            begin = max(0, end - (1 << 16))
            file.seek(begin)
            at = file.read(end - begin).rfind(b"\n")
            end = begin + at + 1 if at >= 0 else begin
            if at >= 0:
                break
        file.truncate(end)


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
                yield Attempt(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise InputError(f"{path} line {number}: is no attempt of ours") from error


def check_reasons(reasons: Collection[str]) -> None:
    """Refuse words that are no reason for which anything fails.

    Raises:
        InputError: names the first such word.
    """
    for reason in reasons:
        if reason not in REASONS and not is_reason(reason):
            raise InputError(
                f"--retry-errors: {reason!r} is no reason; `clip-kinetics700 status` lists them"
            )
