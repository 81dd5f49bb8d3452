"""The `datasets` builder of the embedding tars, and the loading script of datasets 2.x and 3.x.

In: `data_dir`, a dataset directory. Out: train / validation / test with `embeddings`, `caption`,
`meta`. A 2.x script brings along only the modules that it imports itself, at column 0.
"""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from .features import data_schema, features_dict
from .layout import Layout, fingerprint, read_layout
from .schema import Sample
from .shards import read_shard
from .tars import is_remote

DESCRIPTION = "CLIP embeddings of the Kinetics clips, one frame per second."
# Rows are handed over as Arrow tables of about 5 MB: encoding them one by one as Python objects
# takes 28 times as long in datasets 2.21.
FRAMES_PER_TABLE = 5000


class ClipKinetics700Config(datasets.BuilderConfig):  # type: ignore[misc]
    """A configuration whose cache also depends on what the directory holds."""

    def create_config_id(self, config_kwargs: dict[str, Any], *args: Any, **kwargs: Any) -> str:
        """Add the state of the directory: a rebuilt one must not be answered from the cache."""
        config_id = super().create_config_id(config_kwargs, *args, **kwargs)
        return f"{config_id}-{fingerprint(_require_data_dir(self.data_dir))}"


class ClipKinetics700(datasets.ArrowBasedBuilder):  # type: ignore[misc]
    """Reads the tars of a dataset directory: `ClipKinetics700(data_dir=DIR)`."""

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = ClipKinetics700Config

    def _info(self) -> datasets.DatasetInfo:
        """Return the features; their width and class names are the directory's."""
        self.layout: Layout = read_layout(_require_data_dir(self.config.data_dir))
        features = features_dict(self.layout.width, self.layout.class_names)
        return datasets.DatasetInfo(
            description=DESCRIPTION, features=datasets.Features.from_dict(features)
        )

    def _split_generators(
        self, dl_manager: "datasets.DownloadManager | datasets.StreamingDownloadManager"
    ) -> list[datasets.SplitGenerator]:
        """Return one generator for each split that exists; its tars are what workers share."""
        generators = []
        for split, tars in self.layout.tars.items():
            paths = dl_manager.download(tars) if is_remote(tars[0]) else tars
            generators.append(datasets.SplitGenerator(name=split, gen_kwargs={"tars": paths}))
        return generators

    def _generate_tables(self, tars: list[str]) -> Iterator[tuple[str, pa.Table]]:
        """Yield the rows in order as tables; the key is the table's place."""
        schema = data_schema(self.layout.width, self.layout.class_names)
        for tar in tars:
            for number, samples in enumerate(_batch_samples(read_shard(tar))):
                yield f"{tar}#{number}", _make_table(samples, schema, tar)


def _batch_samples(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Group samples in order into lists of about FRAMES_PER_TABLE frames, never empty."""
    batch: list[Sample] = []
    n_frames = 0
    for sample in samples:
        batch.append(sample)
        n_frames += len(sample.embeddings) + 1
        if n_frames >= FRAMES_PER_TABLE:
            yield batch
            batch, n_frames = [], 0
    if batch:
        yield batch


def _make_table(samples: list[Sample], schema: pa.Schema, tar: str) -> pa.Table:
    """Return samples as one table of the dataset's schema.

    Raises:
        ValueError: a sample is not as wide as the first one was.
    """
    embeddings_type = schema.field("embeddings").type
    width = embeddings_type.value_type.list_size
    for sample in samples:
        if sample.embeddings.shape[1] != width:
            raise ValueError(
                f"{tar}: sample {sample.key}: embeddings of shape {sample.embeddings.shape} "
                f"in a dataset of width {width}"
            )
    frames = np.concatenate([sample.embeddings for sample in samples]).astype(np.float16)
    offsets = np.cumsum([0, *(len(sample.embeddings) for sample in samples)], dtype=np.int32)
    rows = pa.FixedSizeListArray.from_arrays(pa.array(frames.reshape(-1)), width)
    columns = [
        pa.ListArray.from_arrays(offsets, rows).cast(embeddings_type),
        pa.array([sample.caption for sample in samples], pa.string()),
        pa.array([sample.meta for sample in samples], schema.field("meta").type),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _require_data_dir(data_dir: str | os.PathLike[str] | None) -> str | os.PathLike[str]:
    """Return the directory that was asked for.

    Raises:
        ValueError: none was.
    """
    if data_dir is None:
        raise ValueError("ClipKinetics700 needs data_dir=DIR, the directory of the tars")
    return data_dir
