"""`run_cases` decodes files in worker processes and checks the outcome of each."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clip_kinetics700.schema import REASONS
from clip_kinetics700_builder.decode.pool import DecodePool
from clip_kinetics700_builder.decode.video import DecodeTask, Decoding
from clip_kinetics700_builder.types import Failure, Frames
from tests.support.media.mutants import Mutant
from tests.support.media.videos import UNCHANGED
from tests.support.media.watching import WatchedDecode

# Reasons that end a worker before it can report what it took.
DEADLY = {"timed_out", "crashed", "out_of_memory"}


@dataclass(slots=True)
class Outcome:
    """How decoding one case ended."""

    reason: str = ""
    """The reason of the failure; empty where frames came."""
    n_frames: int = 0
    digest: str = ""
    seconds: list[float] = field(default_factory=list)
    peak_mib: int = 0


def write_cases(cases: Sequence[Mutant], directory: Path) -> Iterator[DecodeTask]:
    """Yield the task of each case, writing its file just before."""
    for row, case in enumerate(cases):
        path = directory / f"case{row}{case.suffix}"
        path.write_bytes(case.data)
        yield DecodeTask(row, str(path), 0, Decoding(1.0, UNCHANGED))


def check_failure(failure: Failure, directory: Path) -> None:
    """Check that a failure says why, in a line of ours."""
    assert failure.reason in REASONS
    assert failure.stage in {"source", "decode"}
    assert failure.message
    assert failure.message.isprintable()
    assert str(directory) not in failure.message


def check_frames(pieces: Sequence[Frames]) -> None:
    """Check that consecutive pieces cover a clip."""
    info = pieces[0].info
    assert all(piece.info == info for piece in pieces)
    assert all(0 < len(piece.pixels) == len(piece.timestamps) for piece in pieces)
    starts = np.cumsum([0, *(len(piece.pixels) for piece in pieces)]).tolist()
    assert starts == [*(piece.first for piece in pieces), info.n_frames]
    assert {piece.pixels.shape[1:] for piece in pieces} == {(48, 64, 3)}
    assert {piece.pixels.dtype for piece in pieces} == {np.dtype(np.uint8)}
    times = np.concatenate([piece.timestamps for piece in pieces])
    assert np.isfinite(times).all()
    assert times[0] == 0
    assert (np.diff(times) > 0).all()
    numbers = [info.duration_seconds, info.frames_per_second, info.width, info.height]
    assert np.isfinite(numbers).all()
    assert min(numbers) >= 0


def run_cases(cases: Sequence[Mutant], directory: Path, limit_seconds: float) -> list[Outcome]:
    """Decode all cases in one pool, checking each outcome as it comes; files are removed."""
    directory.mkdir()
    log = directory.with_suffix(".log")
    outcomes: list[Outcome] = []
    pieces: list[Frames] = []
    with DecodePool(2, limit_seconds, decode=WatchedDecode(log)) as pool:
        for result in pool.decode(write_cases(cases, directory)):
            row = len(outcomes)
            assert result.row == row, cases[row].what
            if isinstance(result, Frames):
                pieces.append(result)
                if result.first + len(result.pixels) < result.info.n_frames:
                    continue
            try:
                outcomes.append(close_case(result, pieces, directory))
            except AssertionError as error:
                raise AssertionError(f"{cases[row].what}: {error}") from error
            pieces = []
            (directory / f"case{row}{cases[row].suffix}").unlink()
    assert len(outcomes) == len(cases)
    for line in log.read_text().splitlines():
        number, seconds, peak = line.split()
        outcome = outcomes[int(number)]
        outcome.seconds.append(float(seconds))
        outcome.peak_mib = max(outcome.peak_mib, int(peak))
    return outcomes


def close_case(result: Frames | Failure, pieces: Sequence[Frames], directory: Path) -> Outcome:
    """Check the outcome of one case."""
    if isinstance(result, Failure):
        check_failure(result, directory)
        return Outcome(result.reason)
    check_frames(pieces)
    digest = hashlib.sha256(b"".join(piece.pixels.tobytes() for piece in pieces))
    return Outcome("", result.info.n_frames, digest.hexdigest())


def describe(outcomes: Sequence[Outcome]) -> str:
    """Count outcomes by their reason."""
    counts = Counter(outcome.reason or "decoded" for outcome in outcomes)
    return ", ".join(f"{n} {reason}" for reason, n in counts.most_common())
