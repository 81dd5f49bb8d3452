"""Bytes of files come as merged ranges, many at once, as streams, and as maps in bounds."""

import gc
import os
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_kinetics700 import remote
from clip_kinetics700.remote import (
    ByteRange,
    Piece,
    RangeReader,
    is_gzip_name,
    is_passing,
    merge_pieces,
    retry,
)
from tests.support.datasets.layouts import make_samples, write_dataset, write_index
from tests.support.hub.servers import serve
from tests.support.processes.checkout import SOURCE_PATHS

PIECES = st.builds(
    lambda path, begin, nbytes: Piece(path, begin, begin + nbytes),
    st.sampled_from(["a", "b"]),
    st.integers(0, 2000),
    st.integers(0, 300),
)


def merge_within(pieces: list[Piece], max_gap: int, max_range: int) -> list[ByteRange]:
    """Return the requests of pieces under other limits of gaps and ranges."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "MAX_GAP_BYTES", max_gap)
        patch.setattr(remote, "MAX_RANGE_BYTES", max_range)
        return merge_pieces(pieces)


@given(st.lists(PIECES, max_size=30), st.integers(0, 100), st.integers(1, 500))
def test_every_piece_lies_in_exactly_one_range(
    pieces: list[Piece], max_gap: int, max_range: int
) -> None:
    """Each piece is in one range, whole; a range is as long as allowed, or as one piece is."""
    ranges = merge_within(pieces, max_gap, max_range)
    assert sorted(n for r in ranges for n in r.pieces) == list(range(len(pieces)))
    for byte_range in ranges:
        mine = [pieces[number] for number in byte_range.pieces]
        assert {piece.path for piece in mine} == {byte_range.path}
        assert byte_range.begin == min(piece.begin for piece in mine)
        assert byte_range.end == max(piece.end for piece in mine)
        longest = max(piece.end - piece.begin for piece in mine)
        assert byte_range.end - byte_range.begin <= max(max_range, longest)


@given(st.lists(PIECES, max_size=30), st.integers(0, 100))
def test_no_range_holds_a_wider_gap_than_allowed(pieces: list[Piece], max_gap: int) -> None:
    """Within a range no bytes are read for nothing but those of small gaps, and all such are."""
    ranges = merge_within(pieces, max_gap, 10**9)
    for byte_range in ranges:
        mine = sorted(pieces[number] for number in byte_range.pieces)
        end = byte_range.begin
        for piece in mine:
            assert piece.begin - end <= max_gap
            end = max(end, piece.end)
    for one, other in pairwise(ranges):
        assert one.path != other.path or other.begin - one.end > max_gap


def test_near_pieces_are_one_request() -> None:
    """Pieces a little apart are read as one range, those farther apart or too long as several."""
    pieces = [Piece("a", 90, 100), Piece("a", 0, 10), Piece("a", 15, 20), Piece("b", 20, 25)]
    ranges = merge_within(pieces, 5, 50)
    assert [(r.path, r.begin, r.end, r.pieces) for r in ranges] == [
        ("a", 0, 20, [1, 2]),
        ("a", 90, 100, [0]),
        ("b", 20, 25, [3]),
    ]
    assert len(merge_within(pieces, 99, 50)) == 3


def test_ranges_come_as_they_were_asked_for(tmp_path: Path) -> None:
    """Pieces of several files in any order give their bytes; a file that ends before, the place."""
    data = np.random.default_rng(0).bytes(300_000)
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "b").write_bytes(data[::-1])
    with serve(tmp_path) as served:
        a, b = f"{served.url}/a", f"{served.url}/b"
        places = [(b, 7, 90), (a, 200_000, 299_000), (a, 0, 5), (a, 299_999, 300_001), (b, 0, 0)]
        views = RangeReader().start([Piece(*place) for place in places])()
    expected = [data[::-1][7:90], data[200_000:299_000], data[:5], None, b""]
    assert [bytes(v) if isinstance(v, memoryview) else None for v in views] == expected
    assert str(views[3]) == "the file ends at byte 300000"


def test_sixteen_requests_overlap_and_no_more(tmp_path: Path) -> None:
    """Requests that take 50 ms each are made sixteen at a time."""
    (tmp_path / "a").write_bytes(bytes(64 * 200_000))
    with serve(tmp_path, latency_seconds=0.05) as served:
        begins = range(0, 64 * 200_000, 200_000)
        begin = time.perf_counter()
        RangeReader().start([Piece(f"{served.url}/a", place, place + 10) for place in begins])()
        seconds = time.perf_counter() - begin
    assert len(served.requests) == 64
    assert 8 < served.max_at_once <= 16
    assert seconds < 64 * 0.05 / 2


def test_requests_nobody_waits_for_are_not_sent(tmp_path: Path) -> None:
    """When what waits for them is dropped, requests that were not sent yet never are."""
    (tmp_path / "a").write_bytes(bytes(40 * 200_000))
    with serve(tmp_path, latency_seconds=0.05) as served:
        url = f"{served.url}/a"
        reader = RangeReader(2)
        begins = range(0, 40 * 200_000, 200_000)
        wait = reader.start([Piece(url, place, place + 10) for place in begins])
        del wait
        reader.start([Piece(url, 0, 1)])()
        assert len(served.requests) <= 4


def test_threads_end_with_their_reader(tmp_path: Path) -> None:
    """A reader that is gone leaves no threads behind."""
    (tmp_path / "a").write_bytes(b"abc")
    with serve(tmp_path) as served:
        before = set(threading.enumerate())
        reader = RangeReader()
        assert len(reader.start([Piece(f"{served.url}/a", 0, 3)])()) == 1
        # Readers of other tests may still be there, and the server has threads of its own.
        own = [t for t in set(threading.enumerate()) - before if "_answer_requests" in t.name]
        assert own
        del reader
        gc.collect()
        for thread in own:
            thread.join(timeout=5)
    assert not any(thread.is_alive() for thread in own)


STOP_EARLY = """
import sys
import clip_kinetics700
for number, sample in enumerate(clip_kinetics700.open(sys.argv[1])):
    if number == 800:
        raise SystemExit("stopped")
"""


def test_program_ends_although_a_server_hangs(tmp_path: Path) -> None:
    """A program that stops in the middle does not wait for the answers that are still to come."""
    samples = make_samples({"train": 2000})
    write_index(write_dataset(tmp_path, samples, samples_per_shard=1000, parquet=False))
    with serve(tmp_path) as served:
        served.fail("ds_000001", "stall")
        command = [sys.executable, "-c", STOP_EARLY, served.url]
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": SOURCE_PATHS},
            capture_output=True,
            text=True,
            check=False,
            timeout=25,
        )
        assert done.stderr.strip() == "stopped"
        assert served.n_stalled > 0


def test_names_of_compressed_files() -> None:
    """A URL's query is no part of the name; a local name may hold a question mark."""
    assert is_gzip_name("https://host/ds_0.tar.gz?signature=a.b/c")
    assert not is_gzip_name("https://host/ds_0.tar?name=x.gz")
    assert is_gzip_name("/what?.TGZ")


class Flaky:
    """Fails some times, then answers."""

    def __init__(self, *errors: Exception) -> None:
        """Raise these first."""
        self._errors = list(errors)

    def __call__(self) -> bytes:
        """Raise the next error, or answer."""
        if self._errors:
            raise self._errors.pop(0)
        return b"answer"


class StatusError(OSError):
    """An error with a web server's status."""

    def __init__(self, status: int) -> None:
        """Have this status."""
        super().__init__(f"status {status}")
        self.status = status


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again without a pause."""
    monkeypatch.setattr("clip_kinetics700.remote.PAUSE_SECONDS", 0)


@pytest.mark.usefixtures("no_pause")
def test_failures_in_passing_are_tried_again() -> None:
    """A broken connection and an overloaded server are asked again, and answer."""
    assert retry(Flaky(ConnectionResetError(), StatusError(503)), "u") == b"answer"
    assert is_passing(StatusError(429))
    assert is_passing(TimeoutError())


@pytest.mark.parametrize("error", [StatusError(403), PermissionError("no"), FileNotFoundError("u")])
def test_final_failures_are_not(error: Exception) -> None:
    """A read that is refused, or whose file is not there, fails at once."""
    with pytest.raises(OSError, match=r"403|no|u"):
        retry(Flaky(error), "u")


@pytest.mark.usefixtures("no_pause")
def test_last_attempt_says_which_file_and_how_often() -> None:
    """A read that never works is one line with the file, the reason and the number of attempts."""
    errors = [StatusError(500)] * 4
    with pytest.raises(ConnectionError, match=r"^u: status 500 \(attempt 4\)$"):
        retry(Flaky(*errors), "u")
