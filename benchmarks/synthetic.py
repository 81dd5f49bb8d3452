"""These functions generate datasets to measure reading on, with the builder's own writers.

Keys, captions and meta are like Kinetics-700's; embeddings are ten random frames of 512.
"""

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from clip_kinetics700.classes import class_names
from clip_kinetics700.schema import KEY_NAME, Sample
from clip_kinetics700_builder.assemble.assemble import assemble
from clip_kinetics700_builder.assemble.tables import open_table_file
from clip_kinetics700_builder.config import AssembleConfig
from clip_kinetics700_builder.dataset.totals import Totals
from clip_kinetics700_builder.types import FORMATS

WIDTH = 512
N_FRAMES = 10
# Random numbers in the pool: each of a million samples starts at another one, and 8 GB of them need
# not be drawn.
POOL_SIZE = (1 << 20) + 7
STEP = 977
FRAME_RATES = (23.976, 24.0, 25.0, 29.97, 30.0)
SIZES = ((340, 256), (320, 240), (455, 256), (144, 256))
# Samples of Kinetics-700 by split: 54, 4 and 7 tars of 10,000.
COUNTS = {"train": 536_489, "validation": 33_966, "test": 64_532}


def share_out(n_samples: int) -> dict[str, int]:
    """Return how many of `n_samples` each split has."""
    counts = {split: count * n_samples // sum(COUNTS.values()) for split, count in COUNTS.items()}
    counts["train"] += n_samples - sum(counts.values())
    return counts


class SyntheticRows:
    """Samples for `assemble.assemble`, the same ones whenever they are read."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        """Take how many samples each split has."""
        self.configuration = {"clips": "kinetics", "embedding_width": WIDTH}
        self.class_names = list(class_names("700"))
        self.canary = None
        self.fingerprint = "synthetic"
        self.width = WIDTH
        self.totals = {
            split: Totals(rows=count, samples=count, frames=N_FRAMES * count)
            for split, count in counts.items()
        }
        pool = np.random.default_rng(0).standard_normal(POOL_SIZE, np.float32)
        self._pool = pool.astype(np.float16)
        self._timestamps = np.arange(N_FRAMES, dtype=np.float32)

    def results(self, split: str) -> Iterator[Sample]:
        """Yield the samples of a split, numbered on over the splits."""
        splits = list(self.totals)
        first = sum(self.totals[name].samples for name in splits[: splits.index(split)])
        for number in range(first, first + self.totals[split].samples):
            yield self._make_sample(number)

    def _make_sample(self, number: int) -> Sample:
        noise = hashlib.blake2b(number.to_bytes(8, "little"), digest_size=16).digest()
        begin = number * STEP % (POOL_SIZE - N_FRAMES * WIDTH)
        frames = self._pool[begin : begin + N_FRAMES * WIDTH]
        label_id = int.from_bytes(noise[8:12], "little") % len(self.class_names)
        time_start = noise[12] * 2
        width, height = SIZES[noise[13] % len(SIZES)]
        return Sample(
            key=KEY_NAME.format(number),
            embeddings=frames.reshape(N_FRAMES, WIDTH),
            caption=self.class_names[label_id],
            youtube_id=urlsafe_b64encode(noise[:9]).decode()[:11],
            time_start=time_start,
            time_end=time_start + 10,
            label_id=label_id,
            timestamps=self._timestamps,
            duration=9.5 + noise[14] / 512,
            fps=FRAME_RATES[noise[15] % len(FRAME_RATES)],
            width=width,
            height=height,
            extra=None,
        )


def write_dataset(
    directory: Path,
    counts: Mapping[str, int],
    *,
    formats: tuple[str, ...] = FORMATS,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a dataset with these numbers of samples by split, calling `advance` as it goes."""
    config = AssembleConfig(source=directory, output=directory, formats=formats)
    assemble(SyntheticRows(counts), config, advance=advance)


def link_without_index(directory: Path, copy: Path) -> None:
    """Make the directory that upstream would have made: tars, by hard links, and splits.csv."""
    copy.mkdir()
    for path in [*directory.glob("*.tar"), directory / "splits.csv"]:
        (copy / path.name).hardlink_to(path)


def copy_without_features(directory: Path, copy: Path) -> None:
    """Copy the Parquet files of a dataset without the features of `datasets` in their metadata."""
    copy.mkdir()
    for path in sorted(directory.glob("data/*.parquet")):
        file = pq.ParquetFile(path)
        schema = file.schema_arrow.remove_metadata()
        with open_table_file(copy / path.name, schema, plain=("embeddings",)) as table:
            for group in range(file.num_row_groups):
                table.write(file.read_row_group(group).replace_schema_metadata(None))
