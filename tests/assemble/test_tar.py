"""Our tars hold the samples in order, in headers that `tarfile` would have written."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clip_kinetics700.schema import (
    Sample,
    encode_npy,
    encode_sample,
)
from clip_kinetics700.shards import scan_shard
from clip_kinetics700_builder.assemble.shards import open_tar
from clip_kinetics700_builder.assemble.tar import make_any_header, make_header, spell_sample
from tests.support.datasets.places import assert_identical
from tests.support.datasets.strategies import samples

# A key that was drawn already is drawn again.
FORTY = settings(max_examples=40, suppress_health_check=[HealthCheck.filter_too_much])
SAMPLE_LISTS = st.lists(samples(), max_size=4, unique_by=lambda sample: sample.key)


def write_tar(path: Path, found: list[Sample]) -> list[tuple[int, int]]:
    """Write samples as assembly does; return where each array lies, and its bytes."""
    places = []
    n_bytes = 0
    with open_tar(path) as write:
        for sample in found:
            data, begin, nbytes = spell_sample(sample)
            write(data)
            places.append((n_bytes + begin, nbytes))
            n_bytes += len(data)
    return places


@FORTY
@given(found=SAMPLE_LISTS)
def test_tars_hold_samples_in_order(
    tmp_path_factory: pytest.TempPathFactory, found: list[Sample]
) -> None:
    """`tarfile` and our reader find the same members; the place of each npy is its place."""
    path: Path = tmp_path_factory.getbasetemp() / "any.tar"
    places = write_tar(path, found)
    expected = [
        (f"{sample.key}.{extension}", content)
        for sample in found
        for extension, content in encode_sample(sample)
    ]
    with tarfile.open(path) as tar:
        infos = tar.getmembers()
        contents = [(info.name, (tar.extractfile(info) or io.BytesIO()).read()) for info in infos]
    assert contents == expected
    assert all((info.mtime, info.uid, info.uname, info.mode) == (0, 0, "", 0o644) for info in infos)
    data = path.read_bytes()
    for sample, (offset, nbytes) in zip(found, places, strict=True):
        assert data[offset : offset + nbytes] == encode_npy(sample.embeddings)
    back = list(scan_shard(path))
    assert [(placed.npy_offset, placed.npy_nbytes) for placed in back] == places
    for placed, sample in zip(back, found, strict=True):
        assert placed.sample.key == sample.key
        assert_identical(placed.sample, sample)


@FORTY
@given(found=SAMPLE_LISTS)
def test_the_same_samples_are_the_same_tar(
    tmp_path_factory: pytest.TempPathFactory, found: list[Sample]
) -> None:
    """A tar that was read and written again has the bytes it had."""
    path: Path = tmp_path_factory.getbasetemp() / "again.tar"
    write_tar(path, found)
    before = path.read_bytes()
    write_tar(path, [placed.sample for placed in scan_shard(path)])
    assert path.read_bytes() == before
    assert len(before) % tarfile.RECORDSIZE == 0


@given(st.text(min_size=1, max_size=120), st.integers(0, 8**11 - 1))
def test_headers_are_those_of_tarfile(key: str, nbytes: int) -> None:
    """A header made in a hurry has the bytes of `tarfile`'s, or is refused as it refuses it."""

    def make(function: Callable[[], bytes]) -> bytes | str:
        try:
            return function()
        except ValueError as error:
            return str(error)

    ours = make(lambda: make_header(key, "json", nbytes))
    assert ours == make(lambda: make_any_header(f"{key}.json", nbytes))


def test_a_size_that_ustar_has_no_room_for_is_refused() -> None:
    """A member of 8 GiB is an error, not a header with another size."""
    with pytest.raises(ValueError, match="overflow"):
        make_header("vid_000000000", "npy", 8**11)
