"""These functions put a directory where a reader may find it, and compare what is read there."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from clip_kinetics700 import Sample
from tests.support.datasets.dialects import LABELS, random_array
from tests.support.hub.servers import serve


def assert_same(read: Iterable[Sample], expected: Iterable[Sample]) -> None:
    """Compare samples in order: embeddings bit for bit, caption, and every field of meta."""
    read, expected = list(read), list(expected)
    assert [sample.meta for sample in read] == [sample.meta for sample in expected]
    assert [sample.caption for sample in read] == [sample.caption for sample in expected]
    arrays, others = ([sample.embeddings for sample in group] for group in (read, expected))
    assert [a.dtype for a in arrays] == [a.dtype for a in others]
    assert [a.tobytes() for a in arrays] == [a.tobytes() for a in others]


def bits_of(array: Any) -> tuple[Any, ...]:
    """Return what makes an array itself: type, shape and every bit."""
    return array.dtype.str, array.shape, array.tobytes()


def assert_identical(one: Sample, other: Sample) -> None:
    """Compare two samples bit for bit; 0.0 and -0.0 are two values."""
    assert bits_of(one.embeddings) == bits_of(other.embeddings)
    assert repr((one.caption, one.meta)) == repr((other.caption, other.meta))


@contextmanager
def in_memory(directory: Path) -> Iterator[str]:
    """Copy a directory into fsspec's memory and give its URL."""
    files = fsspec.filesystem("memory")
    name = f"/{directory.parent.name}/{directory.name}"
    for path in directory.rglob("*"):
        if path.is_file():
            files.pipe_file(f"{name}/{path.relative_to(directory)}", path.read_bytes())
    yield f"memory:/{name}"
    files.rm(name, recursive=True)


@contextmanager
def over_http(directory: Path) -> Iterator[str]:
    """Serve a directory and give its URL."""
    with serve(directory) as served:
        yield served.url


def numbers_read(dataset: Iterable[Sample]) -> list[int]:
    """Return the numbers that foreign samples were made of, after looking at all else of them."""
    numbers = []
    for sample in dataset:
        number = int((sample.youtube_id or "")[3:])
        assert (sample.time_start, sample.time_end) == (number, number + 10)
        assert (sample.caption, sample.youtube_id) == (LABELS[number % 3], f"-b_{number:08d}")
        expected = random_array(number, sample.embeddings.dtype)
        assert sample.embeddings.tobytes() == expected.tobytes()
        numbers.append(number)
    return numbers
