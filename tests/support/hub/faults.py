"""Plans the faults of the tests' web server, by file, by number or at random."""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import Literal

Action = Literal["reset", "cut", "stall", "short", "long", "flip", "trickle"]

RANGE = re.compile(r"bytes=(\d+)-(\d*)")
SHORT_BY_BYTES = 1000
TRICKLE_BYTES = 10


@dataclass(slots=True)
class Fault:
    """A fault of the next requests for some files."""

    pattern: str
    """A text in the path of the URL."""
    action: Action | int
    """One of these, or a status that is the answer:

    - `reset`: the connection is reset, nothing is answered.
    - `stall`: nothing is answered until the server ends.
    - `trickle`: the header and a few bytes of the body, then nothing until the server ends.
    - `cut`: half of the body, then the connection closes.
    - `short`: all but the last 1000 bytes of the body, then the connection closes.
    - `long`: the range asked for is too long: half of it is answered, and nothing else is promised;
      of a whole file the first half, as if that were all.
    - `flip`: one bit in the middle of the body is another.
    """
    times: int = -1
    """How often; -1 is always."""
    retry_after: str | None = None
    """The `Retry-After` of a status."""


@dataclass(frozen=True, slots=True)
class Chance:
    """The faults that any request may have at random."""

    seed: int
    probability: float
    actions: Sequence[Action | int]
    pattern: str
    retry_after: str | None


@dataclass(slots=True)
class Faults:
    """All faults that are planned; several threads must not use it at once."""

    planned: list[Fault] = field(default_factory=list)
    chance: Chance | None = None
    _seen: Counter[str] = field(default_factory=Counter)

    def take(self, path: str, range_asked: str) -> Fault | None:
        """Return the fault of a request, if it has one."""
        for fault in self.planned:
            if fault.pattern in path and fault.times:
                fault.times -= 1
                return fault
        return self._draw(path, range_asked)

    def _draw(self, path: str, range_asked: str) -> Fault | None:
        chance = self.chance
        if chance is None or chance.pattern not in path:
            return None
        # Threads come in any order, so each range of each file has luck of its own.
        key = f"{path} {range_asked}"
        self._seen[key] += 1
        luck = random.Random(f"{chance.seed} {key} {self._seen[key]}")
        if luck.random() >= chance.probability:
            return None
        return Fault(chance.pattern, luck.choice(chance.actions), 0, chance.retry_after)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the server."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    begin: int = 0
    """First byte of the body in the file."""
    size: int | None = None
    """Bytes of the file, where the body is a range of it."""
    is_silent_after: bool = False
    """Whether the connection stays open, in silence, once the body is sent."""

    @property
    def content_range(self) -> str | None:
        """Which range of the file the body is, None for all."""
        if self.size is None:
            return None
        if not self.body:
            return f"bytes */{self.size}"
        return f"bytes {self.begin}-{self.begin + len(self.body) - 1}/{self.size}"


def read_range(path: Path, asked: re.Match[str], headers: Mapping[str, str]) -> Answer:
    """Return the answer to a request for a range of a file."""
    size = path.stat().st_size
    begin, end = int(asked[1]), min(int(asked[2] or size) + 1, size)
    if begin >= end:
        return Answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", headers, begin, size)
    with path.open("rb") as file:
        file.seek(begin)
        body = file.read(end - begin)
    return Answer(HTTPStatus.PARTIAL_CONTENT, body, headers, begin, size)


def damage_answer(answer: Answer, action: Action | int | None) -> tuple[Answer, bytes]:
    """Return an answer as it is said to be, and the bytes that are sent of its body."""
    body = answer.body
    match action:
        case "cut":
            return answer, body[: len(body) // 2]
        case "short":
            return answer, body[: max(0, len(body) - SHORT_BY_BYTES)]
        case "trickle":
            return replace(answer, is_silent_after=True), body[: min(TRICKLE_BYTES, len(body) // 2)]
        case "long":
            half = body[: max(1, len(body) // 2)]
            return replace(answer, body=half), half
        case "flip":
            return answer, flip_bit(body, len(body) // 2)
        case _:
            return answer, body


def flip_bit(data: bytes, at: int) -> bytes:
    """Return data with the lowest bit of one byte changed."""
    return data[:at] + bytes(byte ^ 1 for byte in data[at : at + 1]) + data[at + 1 :]
