"""This benchmark compares how many samples a second each way of reading gives on this machine.

Run as `python -m benchmarks.reading [--samples 20000] [--repeats 3] [--json FILE]`. The dataset
is generated in our published layout: tars of 10,000 samples of ten frames, the same rows in
Parquet. All ways run in turns in one process, from a warm cache, opening included.
"""

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets

import clip_kinetics700
from benchmarks.peers import (
    read_datasets,
    read_datasets_padded,
    read_tarfile,
    read_upstream,
    read_webdataset,
    stream_parquet,
    touch,
)
from benchmarks.server import serve
from benchmarks.synthetic import (
    N_FRAMES,
    copy_without_features,
    link_without_index,
    write_dataset,
)
from benchmarks.timing import Way, measure, print_measured, write_json

BATCH_SIZE = 64
FORMATS = ("arrow", "numpy", "torch", "python")
# Rows as Python lists of numbers take so long that a tenth of them says enough.
SHARE_OF_PYTHON = 0.1
DECODED = "webdataset .decode()"
UPSTREAM = "upstream's reader"
BATCHED = "datasets .iter(64)"
BY_ROW = "datasets by row"


@dataclass(frozen=True, slots=True)
class Inputs:
    """The datasets that are read."""

    n_samples: int
    """Number of samples in each of them."""
    dataset: Path
    """A dataset in the published layout."""
    without_index: Path
    """Its tars and splits.csv alone."""
    without_features: Path
    """Its Parquet files without the metadata that names our features."""
    cache: Path
    """Cache of `datasets`."""

    @property
    def tars(self) -> list[str]:
        """Names of the tars, in order."""
        return sorted(path.name for path in self.dataset.glob("*.tar"))


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    datasets.disable_progress_bars()
    document: dict[str, Any] = {"samples": arguments.samples, "repeats": arguments.repeats}
    print(f"medians of {arguments.repeats} runs over {arguments.samples:,} samples of", end=" ")
    print(f"({N_FRAMES}, 512) float16; {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as name:
        inputs = make_inputs(Path(name), arguments.samples)
        for title, ways in list_groups(inputs):
            measured = measure(ways, arguments.samples, repeats=arguments.repeats)
            print_measured(title, measured)
            document[title] = measured
    write_json(arguments.json, document)
    return 0


def make_inputs(directory: Path, n_samples: int) -> Inputs:
    """Generate the dataset and its variants."""
    inputs = Inputs(
        n_samples,
        directory / "dataset",
        directory / "without_index",
        directory / "without_features",
        directory / "cache",
    )
    write_dataset(inputs.dataset, {"train": n_samples})
    link_without_index(inputs.dataset, inputs.without_index)
    copy_without_features(inputs.dataset, inputs.without_features)
    return inputs


def list_groups(inputs: Inputs) -> Iterator[tuple[str, list[Way]]]:
    """Yield titles and the ways that are compared with each other."""
    yield "tars on disk, sample by sample", list_local_ways(inputs)
    with serve(inputs.dataset) as served:
        yield "tars over HTTP, sample by sample", list_remote_ways(inputs, served.url)
    yield f"padded batches of {BATCH_SIZE} from disk", list_batch_ways(inputs)
    yield "Parquet streamed through datasets", list_streaming_ways(inputs)
    yield "Parquet prepared by datasets", list_prepared_ways(inputs)


def list_local_ways(inputs: Inputs) -> list[Way]:
    """Return the ways to read tars on disk, with arrays, caption and meta."""
    paths = [str(inputs.dataset / name) for name in inputs.tars]
    peers = (DECODED,)
    return [
        Way(DECODED, partial(read_webdataset, paths, decode=True)),
        Way("webdataset, bytes", partial(read_webdataset, paths, decode=False)),
        Way("tarfile, decoded", partial(read_tarfile, paths)),
        Way("ours", partial(read_ours, inputs.dataset), peers, 12),
        Way("ours, arrays copied", partial(read_ours, inputs.dataset, copy=True), peers),
        Way("ours, no index", partial(read_ours, inputs.without_index), peers),
    ]


def list_remote_ways(inputs: Inputs, url: str) -> list[Way]:
    """Return the ways to read tars from a web server; webdataset reads it through curl."""
    urls = [f"{url}/{name}" for name in inputs.tars]
    peers = (DECODED,)
    return [
        Way(DECODED, partial(read_webdataset, urls, decode=True)),
        Way("webdataset, bytes", partial(read_webdataset, urls, decode=False)),
        Way("ours", partial(read_ours, url), peers, 3),
        Way("ours, no index, streamed", partial(read_ours, urls), peers, 3),
    ]


def read_ours(source: str | Path | list[str], *, copy: bool = False) -> int:
    """Read all samples with their meta; a copy has every number of the array in memory."""
    count = 0
    for sample in clip_kinetics700.open(source):
        touch(sample.embeddings.copy() if copy else sample.embeddings)
        touch(sample.caption, sample.meta)
        count += 1
    return count


def list_batch_ways(inputs: Inputs) -> list[Way]:
    """Return the ways to read padded batches with mask and labels; only ours are shuffled."""
    urls = str(inputs.dataset / "ds_{000000..%06d}.tar") % (len(inputs.tars) - 1)
    parquet = stream_parquet(list_parquet(inputs.dataset / "data"), str(inputs.cache))
    padded = partial(read_datasets_padded, parquet, batch_size=BATCH_SIZE)
    peers = (UPSTREAM, BATCHED, BY_ROW)
    return [
        Way(UPSTREAM, partial(read_upstream, urls, n_frames=N_FRAMES, batch_size=BATCH_SIZE)),
        Way(BATCHED, partial(padded, by_row=False)),
        Way(BY_ROW, partial(padded, by_row=True)),
        Way("batches, shuffled, float16", partial(read_batches, inputs, "float16"), peers, 10),
        Way("batches, shuffled, float32", partial(read_batches, inputs, "float32"), peers, 10),
        Way("EmbeddingWebDatasetReader", partial(read_drop_in, urls), (UPSTREAM,)),
    ]


def list_parquet(directory: Path) -> list[str]:
    """Return the Parquet files of a directory, in order."""
    return sorted(map(str, directory.glob("*.parquet")))


def read_batches(inputs: Inputs, dtype: Any) -> int:
    """Read shuffled batches with our reader."""
    batches = clip_kinetics700.batches(
        inputs.dataset, "train", batch_size=BATCH_SIZE, shuffle=True, dtype=dtype
    )
    return sum(len(batch["keys"]) for batch in batches)


def read_drop_in(urls: str) -> int:
    """Read batches with our reader that has upstream's signature."""
    reader = clip_kinetics700.EmbeddingWebDatasetReader(
        urls, N_FRAMES, BATCH_SIZE, num_prepro_workers=1, tokenizer=None
    )
    return sum(len(batch["text"]) for batch in reader)


def list_streaming_ways(inputs: Inputs) -> list[Way]:
    """Return the formats of streaming, with our features and without."""
    plain = stream_parquet(list_parquet(inputs.without_features), str(inputs.cache))
    ours = stream_parquet(list_parquet(inputs.dataset / "data"), str(inputs.cache))
    ways = []
    for kind in FORMATS:
        share = SHARE_OF_PYTHON if kind == "python" else 1.0
        for batch_size, how in ((BATCH_SIZE, f".iter({BATCH_SIZE})"), (None, "by row")):
            peer = f"{kind} {how} plain"
            for name, stream, peers in ((peer, plain, ()), (f"{kind} {how}", ours, (peer,))):
                few = stream.take(int(inputs.n_samples * share)) if share < 1 else stream
                read = partial(read_datasets, few, kind=kind, batch_size=batch_size)
                ways.append(Way(name, read, peers, 1 if peers else None, share))
    return ways


def list_prepared_ways(inputs: Inputs) -> list[Way]:
    """Return ways to read what `load_dataset` has prepared on disk."""
    prepared = clip_kinetics700.load_dataset(
        inputs.dataset, split="train", cache_dir=str(inputs.cache)
    )
    return [
        Way(name, partial(read_datasets, prepared, kind=kind, batch_size=batch_size))
        for name, kind, batch_size in (
            (f"arrow .iter({BATCH_SIZE})", "arrow", BATCH_SIZE),
            (f"numpy .iter({BATCH_SIZE})", "numpy", BATCH_SIZE),
            ("numpy by row", "numpy", None),
            (f"torch .iter({BATCH_SIZE})", "torch", BATCH_SIZE),
        )
    ]


if __name__ == "__main__":
    sys.exit(main())
