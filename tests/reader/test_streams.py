"""Files are read as streams and at random."""

import time
from pathlib import Path

import numpy as np
import pytest

from clip_kinetics700.remote import MAX_RANGE_BYTES
from clip_kinetics700.streams import FIRST_RANGE_BYTES, RangeFile, open_stream, read_if_there
from tests.support.hub.faults import Action
from tests.support.hub.servers import serve


@pytest.mark.parametrize("nbytes", [0, 5, FIRST_RANGE_BYTES, 3 * MAX_RANGE_BYTES + 1])
@pytest.mark.parametrize("knows_ranges", [False, True])
def test_remote_stream_is_the_file(tmp_path: Path, nbytes: int, *, knows_ranges: bool) -> None:
    """A stream gives a file whole and once, by ranges or, where a server knows none, without."""
    data = np.random.default_rng(0).bytes(nbytes)
    (tmp_path / "a").write_bytes(data)
    with serve(tmp_path, knows_ranges=knows_ranges) as served:
        with open_stream(f"{served.url}/a") as stream:
            assert stream.read() == data
        if knows_ranges:
            assert served.nbytes() == nbytes


def test_whole_answer_that_is_cut_is_an_error(tmp_path: Path) -> None:
    """Where a server knows no ranges, a file that breaks off is an error, not a shorter file."""
    (tmp_path / "a").write_bytes(bytes(3 << 20))
    with serve(tmp_path, knows_ranges=False) as served:
        served.fail("a", "cut")
        stream = open_stream(f"{served.url}/a")
        with pytest.raises(ConnectionError, match=rf"^{served.url}/a: "):
            stream.read()


def test_looking_at_the_start_reads_little(tmp_path: Path) -> None:
    """Who reads some bytes of a remote file is not sent megabytes."""
    (tmp_path / "a").write_bytes(bytes(8 << 20))
    with serve(tmp_path) as served:
        with open_stream(f"{served.url}/a") as stream:
            assert len(stream.peek(10)) >= 10
        assert served.nbytes() == FIRST_RANGE_BYTES


def test_remote_file_is_read_at_random(tmp_path: Path) -> None:
    """Only the bytes that are read are fetched, long ones in ranges of four megabytes at once."""
    data = np.random.default_rng(0).bytes(20 << 20)
    (tmp_path / "a").write_bytes(data)
    with serve(tmp_path, latency_seconds=0.02) as served:
        file = RangeFile(f"{served.url}/a")
        assert file.seek(-3, 2) == file.tell() == (20 << 20) - 3
        assert (file.read(9), file.read(9)) == (data[-3:], b"")
        assert (file.seek(100), file.read(50), file.seek(-10, 1)) == (100, data[100:150], 140)
        assert served.nbytes() == 1 + 3 + 50
        served.forget()
        file.seek(1)
        assert file.read() == data[1:]
    assert len(served.requests) == 5
    assert served.max_at_once > 1


def test_file_that_is_not_there_is_none(tmp_path: Path) -> None:
    """A file that may be missing is None, wherever it would be."""
    assert read_if_there(str(tmp_path / "a")) is None
    assert read_if_there("memory://nothing/a") is None
    with serve(tmp_path) as served:
        assert read_if_there(f"{served.url}/a") is None


def test_a_server_that_asks_for_a_pause_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 429 with `Retry-After: 1` the next attempt comes a second later, not at once."""
    monkeypatch.setattr("clip_kinetics700.remote.PAUSE_SECONDS", 0.001)
    (tmp_path / "file").write_bytes(b"bytes")
    with serve(tmp_path) as served:
        served.fail("file", 429, times=1, retry_after="1")
        begin = time.monotonic()
        assert read_if_there(f"{served.url}/file") == b"bytes"
    assert time.monotonic() - begin >= 1


@pytest.mark.parametrize("action", ["long", "short", "cut"])
def test_an_answer_that_is_too_short_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: Action
) -> None:
    """A range of which less comes than its header says, or than was asked for, costs no bytes."""
    monkeypatch.setattr("clip_kinetics700.remote.PAUSE_SECONDS", 0.001)
    data = np.random.default_rng(0).bytes(300_000)
    (tmp_path / "a").write_bytes(data)
    with serve(tmp_path) as served:
        served.fail("a", action, times=1)
        file = RangeFile(f"{served.url}/a")
        served.fail("a", action, times=2)
        assert file.read() == data
        served.fail("a", action)
        file.seek(0)
        with pytest.raises(ConnectionError, match=rf"^{served.url}/a: .*attempt 4"):
            file.read()


def test_proxies_of_the_environment_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where HTTP_PROXY names a proxy, it is asked for files of hosts that only it knows."""
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    # A proxy is asked for whole URLs, which are paths of this server's files.
    (tmp_path / "http:/data.invalid").mkdir(parents=True)
    (tmp_path / "http:/data.invalid/a").write_bytes(b"bytes")
    with serve(tmp_path) as served:
        monkeypatch.setenv("http_proxy", served.url)
        assert read_if_there("http://data.invalid/a") == b"bytes"
        assert [request.path for request in served.requests] == ["http://data.invalid/a"]
