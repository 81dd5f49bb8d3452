"""Names of shards are derived in one place, and recognised however many there are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_kinetics700.schema import SPLITS
from clip_kinetics700_builder.dataset.shards import SHARD_NAME, plan_shards

FORMATS = ("parquet", "webdataset")


@given(
    st.dictionaries(st.sampled_from(SPLITS), st.integers(0, 40)),
    st.integers(1, 12),
    st.lists(st.sampled_from(FORMATS), unique=True, min_size=1),
)
def test_shards_hold_every_sample_once(
    counts: dict[str, int], samples_per_shard: int, formats: list[str]
) -> None:
    """Shards follow each other without a gap, full but for the last of a split, named by rule."""
    shards = [*plan_shards(counts, samples_per_shard=samples_per_shard, formats=formats)]
    first = 0
    for shard in shards:
        assert shard.first == first
        assert 1 <= shard.n_samples <= samples_per_shard
        assert len(shard.files) == len(formats)
        assert all(map(SHARD_NAME.fullmatch, shard.files))
        first += shard.n_samples
    assert first == sum(counts.values())
    for split, count in counts.items():
        sizes = [shard.n_samples for shard in shards if shard.split == split]
        assert sum(sizes) == count
        assert set(sizes[:-1]) <= {samples_per_shard}
    names = [name for shard in shards for name in shard.files]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "name",
    ["ds_1000000.tar", "data/train-100000-of-536489.parquet", "data/test-00000-of-00001.parquet"],
)
def test_names_beyond_five_digits_are_recognised(name: str) -> None:
    """A dataset of more shards than the format has digits for is still one of ours."""
    assert SHARD_NAME.fullmatch(name)


@pytest.mark.parametrize(
    "name", ["ds_1.tar", "data/all-00000-of-00001.parquet", "ds_000000.tar.gz"]
)
def test_other_names_are_none_of_ours(name: str) -> None:
    """Fewer digits, another split or another ending make no shard."""
    assert not SHARD_NAME.fullmatch(name)
