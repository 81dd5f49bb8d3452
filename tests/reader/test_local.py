"""Local files are read at random, a few open at a time, and only as long as they are the same."""

import copy
import gzip
import os
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest

from clip_kinetics700 import local
from clip_kinetics700.local import LocalFiles
from clip_kinetics700.remote import Views
from clip_kinetics700.states import ChangedError, FileStates


def read_pieces(files: LocalFiles, places: list[tuple[str, int, int]]) -> Views:
    """Return pieces, given path, begin and end of each."""
    paths = sorted({path for path, _, _ in places})
    numbers = [paths.index(path) for path, _, _ in places]
    begins, ends = ([place[i] for place in places] for i in (1, 2))
    return files.read(paths, *(np.array(some, np.int64) for some in (numbers, begins, ends)))


def read_piece(files: LocalFiles, path: Path | str, begin: int, end: int) -> bytes:
    """Return one piece of a file, or raise what is wrong with it."""
    (view,) = read_pieces(files, [(str(path), begin, end)])
    if isinstance(view, ValueError):
        raise view
    return bytes(view)


def count_open() -> int:
    """Count the descriptors of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_pieces_come_as_they_were_asked_for(tmp_path: Path) -> None:
    """Pieces of several files, near and far, in any order, are the bytes that lie there."""
    data = np.random.default_rng(0).bytes(9 << 20)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    Path(a).write_bytes(data)
    Path(b).write_bytes(data[::-1])
    places = [(a, 0, 10), (a, 12, 20), (a, 20, 20), (a, 5 << 20, 9 << 20), (b, 30, 40), (a, 3, 9)]
    views = read_pieces(LocalFiles(FileStates()), places)
    wanted = [(data if path == a else data[::-1])[begin:end] for path, begin, end in places]
    assert [bytes(view) for view in views if isinstance(view, memoryview)] == wanted
    assert not read_pieces(LocalFiles(FileStates()), [])


def test_what_is_not_there_takes_the_place_of_its_piece(tmp_path: Path) -> None:
    """A missing file and bytes behind the end are errors in place of their pieces alone."""
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    Path(a).write_bytes(b"0123456789")
    places = [(b, 0, 1), (a, 0, 5), (a, 5, 11), (a, 50, 60)]
    missing, whole, *behind = read_pieces(LocalFiles(FileStates()), places)
    assert isinstance(whole, memoryview)
    assert str(missing) == "the file is not there"
    assert list(map(str, behind)) == ["the file ends at byte 10"] * 2


@pytest.mark.parametrize("name", ["a.tar", "memory://packed/a.tar"])
def test_what_gzip_holds_is_read(tmp_path: Path, name: str) -> None:
    """What gzip wrote is unpacked whatever its name and place, and damage of it is named."""
    path = name if "://" in name else str(tmp_path / name)
    with fsspec.open(path, "wb") as file:
        file.write(gzip.compress(b"packed"))
    assert read_piece(LocalFiles(FileStates()), path, 1, 4) == b"ack"
    with fsspec.open(path, "wb") as file:
        file.write(gzip.compress(b"packed")[:-4])
    with pytest.raises(ValueError, match="damaged gzip stream"):
        read_piece(LocalFiles(FileStates()), path, 1, 4)


def test_few_files_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many files are read, few stay open, and none once the reader is gone."""
    monkeypatch.setattr(local, "MAX_OPEN_FILES", 3)
    before, files = count_open(), LocalFiles(FileStates())
    for number in range(10):
        (tmp_path / str(number)).write_bytes(b"x")
        assert read_piece(files, tmp_path / str(number), 0, 1) == b"x"
    assert count_open() == before + 3
    del files
    assert count_open() == before


def cut_short(path: Path) -> None:
    """Take the end of a file away in place."""
    os.truncate(path, 5)


def overwrite(path: Path) -> None:
    """Write other bytes of the same number in place."""
    path.write_bytes(b"y" * path.stat().st_size)


def put_another(path: Path) -> None:
    """Put another file of the same size and time in its place."""
    status = path.stat()
    path.with_suffix(".new").write_bytes(b"y" * status.st_size)
    os.utime(path.with_suffix(".new"), ns=(status.st_atime_ns, status.st_mtime_ns))
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("change", [cut_short, overwrite, put_another])
@pytest.mark.parametrize("is_open", [False, True])
def test_a_file_that_changed_is_an_error(
    tmp_path: Path, change: Callable[[Path], None], *, is_open: bool
) -> None:
    """Size, time and inode tell; a file that was replaced while it is open stays the old one."""
    path, files = tmp_path / "a", LocalFiles(FileStates())
    path.write_bytes(b"x" * 10)
    os.utime(path, ns=(1, 1))
    assert read_piece(files, path, 0, 10) == b"x" * 10
    if not is_open:
        # As a worker gets it: nothing is open there, and what was noted is known.
        files = copy.deepcopy(files)
    change(path)
    if is_open and change is put_another:
        assert read_piece(files, path, 0, 10) == b"x" * 10
        return
    with pytest.raises(ChangedError, match=rf"^{path}: has changed since its dataset was opened"):
        read_piece(files, path, 0, 10)


def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    """What is no regular file is an error, and nobody waits for a writer."""
    os.mkfifo(tmp_path / "a")
    with pytest.raises(ValueError, match="a: is no regular file"):
        read_piece(LocalFiles(FileStates()), tmp_path / "a", 0, 1)
