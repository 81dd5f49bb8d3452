"""A part that is read back is the part that was written; its report alone says that it is done."""

import json
from concurrent.futures import ProcessPoolExecutor
from copy import copy
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from clip_kinetics700_builder.parts.part import (
    DamagedPartError,
    PartReport,
    finish_part,
    is_done,
    write_results,
)
from clip_kinetics700_builder.parts.part_reader import make_results, read_part
from clip_kinetics700_builder.types import BuildError, EncodedClip, Failure, Part, VideoInfo

WIDTH = 4
CANARY = np.arange(WIDTH, dtype=np.float32)


def make_clip(row: int, n_frames: int) -> EncodedClip:
    """Return an encoded clip of random rows."""
    generator = np.random.default_rng(row)
    embeddings = generator.standard_normal((n_frames, WIDTH)).astype(np.float16)
    timestamps = np.arange(n_frames, dtype=np.float32)
    return EncodedClip(row, embeddings, timestamps, VideoInfo(n_frames, 2.5, 29.97, 340, 256))


RESULTS: list[EncodedClip | Failure] = [
    Failure(3, "source", "missing", "no file"),
    make_clip(4, 3),
    make_clip(9, 1),
    Failure(10, "decode", "unreadable", "does not open"),
]
PART = Part("train-00001", [3, 4, 9, 10])


def write(directory: Path, part: Part = PART) -> PartReport:
    """Write the results under the name of a part."""
    report = write_results(directory, part, RESULTS, width=WIDTH, canary=CANARY)
    return finish_part(directory, report)


def read_results(directory: Path) -> list[EncodedClip | Failure]:
    """Return the results of the part."""
    part = read_part(directory, PART.name)
    return list(make_results(part.rows, [directory / f"{PART.name}.arrow"], part.width))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """Samples keep every bit and field, failures theirs, in the order of the rows."""
    write(tmp_path)
    for result, expected in zip(read_results(tmp_path), RESULTS, strict=True):
        if isinstance(expected, Failure):
            assert result == expected
            continue
        assert isinstance(result, EncodedClip)
        assert result.embeddings.tobytes() == expected.embeddings.tobytes()
        assert result.embeddings.shape == expected.embeddings.shape
        assert (result.row, result.info) == (expected.row, expected.info)


def test_the_report_counts(tmp_path: Path) -> None:
    """Rows, samples, failures and frames of the report are those of the results."""
    report = write(tmp_path)
    assert (report.rows, report.n_samples, report.n_failures) == ([3, 4, 9, 10], 2, 2)
    assert report.n_frames == 4
    assert report.canary == CANARY.tolist()
    reasons = read_part(tmp_path, PART.name).rows["reason"].to_pylist()
    assert reasons == ["missing", None, None, "unreadable"]


def test_many_record_batches_read_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of long videos is written in pieces and read by row all the same."""
    monkeypatch.setattr("clip_kinetics700_builder.parts.part.BATCH_BYTES", 1)
    write(tmp_path)
    assert [result.row for result in read_results(tmp_path)] == [3, 4, 9, 10]


def test_without_its_report_a_part_is_not_done(tmp_path: Path) -> None:
    """The Arrow file alone, as a kill between the two writes leaves it, does not count."""
    write(tmp_path)
    assert is_done(tmp_path, PART.name)
    (tmp_path / f"{PART.name}.json").unlink()
    assert not is_done(tmp_path, PART.name)


def test_results_must_be_those_of_the_rows(tmp_path: Path) -> None:
    """One result too few or too many raises, and no report says that the part is done."""
    other = Part(PART.name, [3, 4, 9, 10, 11])
    with pytest.raises(BuildError, match="4 results for 5 rows"):
        write(tmp_path, other)
    assert not is_done(tmp_path, other.name)
    assert list(tmp_path.iterdir()) == []


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    """A report whose Arrow file has another size is an error that says what to do."""
    write(tmp_path)
    arrow = tmp_path / f"{PART.name}.arrow"
    arrow.write_bytes(arrow.read_bytes()[:-1])
    with pytest.raises(DamagedPartError, match=r"train-00001: .* bytes, its report says"):
        read_part(tmp_path, PART.name)


def test_the_error_of_a_damaged_part_crosses_processes() -> None:
    """Processes of a cluster hand it to the one that started them, with the same line."""
    error = DamagedPartError("train-00001", "train-00001.arrow", "it is short")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        received = processes.submit(copy, error).result()
    assert str(received) == str(error)
    assert str(error).startswith("part train-00001: train-00001.arrow is damaged: it is short; run")


def test_the_report_is_plain_json(tmp_path: Path) -> None:
    """Anything can read what a part says of itself."""
    write(tmp_path)
    document = json.loads((tmp_path / f"{PART.name}.json").read_text(encoding="utf-8"))
    assert document["name"] == PART.name


def test_a_file_that_is_cut_while_it_is_read_is_named(tmp_path: Path) -> None:
    """Embeddings that are gone since the part was opened are an error with the part's name."""
    write(tmp_path)
    part = read_part(tmp_path, PART.name)
    path = tmp_path / f"{PART.name}.arrow"
    path.write_bytes(b"ARROW1")
    with pytest.raises(BuildError, match=r"part train-00001: train-00001\.arrow is damaged"):
        list(make_results(part.rows, [path], WIDTH))
