"""Which shards a dataset has, what their files are called, and how such a name is recognised.

The layout follows from the number of samples of each split, `samples_per_shard` and the formats
alone, so assembly, card and verification know every name before a file is opened.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from clip_kinetics700.schema import SPLITS, SPLITS_CSV_WORD, TAR_NAME

PARQUET_NAME = "data/{split}-{number:05d}-of-{n_shards:05d}.parquet"
# Numbers have more digits than their format asks for once there are that many shards.
SHARD_NAME = re.compile(
    rf"ds_\d{{6,}}\.tar|data/({'|'.join(SPLITS)})-\d{{5,}}-of-\d{{5,}}\.parquet"
)


@dataclass(frozen=True, slots=True)
class Shard:
    """A run of samples of one split that is written to a tar, to a Parquet file, or to both."""

    split: str
    number: int
    """Counts the shards of the split from 0."""
    first: int
    """Number of its first sample in the whole dataset."""
    n_samples: int
    tar: str | None
    """Name of its tar; None where the dataset has no tars."""
    parquet: str | None
    """Name of its Parquet file; None where the dataset has none."""

    @property
    def files(self) -> list[str]:
        """Names of its files."""
        return [name for name in (self.tar, self.parquet) if name is not None]


def plan_shards(
    n_samples: Mapping[str, int], *, samples_per_shard: int, formats: Collection[str]
) -> Iterator[Shard]:
    """Yield the shards of a dataset in order; every one is full but the last of a split."""
    first = n_tars = 0
    for split in SPLITS:
        left = n_samples.get(split, 0)
        n_shards = -(-left // samples_per_shard)
        for number in range(n_shards):
            parquet = PARQUET_NAME.format(split=split, number=number, n_shards=n_shards)
            yield Shard(
                split=split,
                number=number,
                first=first,
                n_samples=min(left, samples_per_shard),
                tar=TAR_NAME.format(n_tars) if "webdataset" in formats else None,
                parquet=parquet if "parquet" in formats else None,
            )
            n_tars += 1
            first += min(left, samples_per_shard)
            left -= samples_per_shard


def splits_csv(shards: Iterable[Shard]) -> str:
    """Return splits.csv, which names the split of each tar in upstream's words."""
    rows = [
        (shard.tar.removesuffix(".tar"), SPLITS_CSV_WORD[shard.split])
        for shard in shards
        if shard.tar is not None
    ]
    return "".join(f"{tar},{word}\n" for tar, word in [("tar_file", "split"), *rows])
