"""Our tars hold the samples in order, in headers that `tarfile` would have written."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_kinetics700.schema import (
    Sample,
    encode_npy,
    encode_sample,
)
from clip_kinetics700.shards import scan_shard
from clip_kinetics700_builder.assemble.shard_files import open_tar_shard, open_unwritten_tar
from clip_kinetics700_builder.assemble.tar import make_any_header, make_header
from clip_kinetics700_builder.system.files import hash_file
from clip_kinetics700_builder.system.threads import open_background
from tests.support.datasets.places import assert_identical
from tests.support.datasets.strategies import samples

SAMPLE_LISTS = st.lists(samples(), max_size=4, unique_by=lambda sample: sample.key)


@settings(max_examples=40)
@given(found=SAMPLE_LISTS)
def test_tars_hold_samples_in_order(
    tmp_path_factory: pytest.TempPathFactory, found: list[Sample]
) -> None:
    """`tarfile` and our reader find the same members; the place of each npy is its place."""
    path: Path = tmp_path_factory.getbasetemp() / "any.tar"
    with open_background() as thread:
        with open_tar_shard(path, thread) as shard:
            places = [shard.add(sample) for sample in found]
        with open_unwritten_tar(thread) as unwritten:
            assert [unwritten.add(sample) for sample in found] == places
    assert (unwritten.samples_sha256, unwritten.sha256) == (shard.samples_sha256, shard.sha256)
    assert shard.sha256 == hash_file(path)
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


@settings(max_examples=40)
@given(found=SAMPLE_LISTS)
def test_the_same_samples_are_the_same_tar(
    tmp_path_factory: pytest.TempPathFactory, found: list[Sample]
) -> None:
    """A tar that was read and written again has the bytes it had."""
    path: Path = tmp_path_factory.getbasetemp() / "again.tar"

    def write(members: list[Sample]) -> bytes:
        with open_background() as thread, open_tar_shard(path, thread) as shard:
            for sample in members:
                shard.add(sample)
        return path.read_bytes()

    before = write(found)
    assert write([placed.sample for placed in scan_shard(path)]) == before
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
