"""This program checks, without our package installed, that a dataset loads as promised.

It takes a dataset directory, another of tars alone, and a folder that holds a copy of
`clip_kinetics700`, and prints a line for each claim; a claim that fails is an AssertionError. It is
plain Python with `datasets` and its dependencies only.
"""

import argparse
import csv
import importlib.util
import io
import json
import sys
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

COLUMNS = ["embeddings", "caption", "meta"]
SPLIT_OF_WORD = {"train": "train", "val": "validation", "test": "test"}
MAJOR_VERSION = int(datasets.__version__.split(".")[0])
# From pyarrow 16 on; before, plain `datasets` cannot read float16 from tars, and our reader can.
CASTS_TO_FLOAT16 = int(pa.__version__.split(".")[0]) >= 16
PUBLISHED = "alice/published"
PUSHED = ("alice/pushed-xet", "alice/pushed-lfs")
Rows = dict[str, list[dict[str, Any]]]


def main() -> None:
    """Check every way in that this version of `datasets` has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("tars", type=Path, help="the same rows in tars alone")
    parser.add_argument("code", type=Path, help="folder that holds a copy of clip_kinetics700")
    parser.add_argument("--commit", help="of the branch `train-only` of the repository on the Hub")
    arguments = parser.parse_args()
    for package in ("torch", "clip_kinetics700", "builder"):
        assert importlib.util.find_spec(package) is None, f"{package} must not be installed here"
    expected = read_expected(arguments.dataset)
    if arguments.commit is None:
        check_directory(str(arguments.dataset), arguments.code, expected)
        if CASTS_TO_FLOAT16:
            check_tars(str(arguments.tars), expected)
    else:
        check_repositories(arguments.commit, arguments.code, expected)


def check_directory(directory: str, code: Path, expected: Rows) -> None:
    """Check every way into the dataset on disk."""
    script = str(code / "clip_kinetics700")
    check("plain load_dataset", expected, partial(datasets.load_dataset, directory))
    if MAJOR_VERSION < 4:
        check("loading script", expected, partial(load_script, script, directory))
    sys.path.insert(0, str(code))
    check("ClipKinetics700 class", expected, partial(load_class, directory))
    check("clip_kinetics700.load_dataset", expected, partial(load_ours, directory))
    check_opened(directory, expected)
    check_selection("clip_kinetics700.load_dataset", expected, partial(load_ours, directory))
    if MAJOR_VERSION < 4:
        check_selection("loading script", expected, partial(load_script, script, directory))


def check_repositories(commit: str, code: Path, expected: Rows) -> None:
    """Check what was published on the Hub and what `push_to_hub` of datasets 5.2 made."""
    load = partial(datasets.load_dataset, PUBLISHED)
    check("load_dataset(REPO)", expected, load)
    train = {"train": expected["train"]}
    check("load_dataset(REPO, revision=BRANCH)", train, partial(load, revision="train-only"))
    check("load_dataset(REPO, revision=COMMIT)", train, partial(load, revision=commit))
    for name in PUSHED:
        # Card and files say `List`; versions before 4.0 take that for a list of any length.
        pushed = partial(datasets.load_dataset, name)
        check(f"push_to_hub, {name}", expected, pushed, keeps_width=MAJOR_VERSION >= 4)
    sys.path.insert(0, str(code))
    for name in PUSHED:
        check(f"clip_kinetics700.load_dataset, {name}", expected, partial(load_ours, name))
        check_opened(name, expected)
    check_one_split(partial(load_ours, PUBLISHED), expected)
    recipe = {"data_files": {"validation": "data/validation-*.parquet"}}
    check_one_split(partial(load, verification_mode="no_checks", **recipe), expected)
    check("clip_kinetics700.load_dataset(REPO)", expected, partial(load_ours, PUBLISHED))
    check_opened(PUBLISHED, expected)
    check_selection("clip_kinetics700.load_dataset(REPO)", expected, partial(load_ours, PUBLISHED))


def load_script(script: str, directory: str, **options: Any) -> Any:
    """Load the tars by the script, as datasets 2.x and 3.x do."""
    return datasets.load_dataset(script, data_dir=directory, trust_remote_code=True, **options)


def load_class(directory: str, *, streaming: bool = False) -> Any:
    """Load the tars by the imported builder class."""
    from clip_kinetics700 import ClipKinetics700

    builder = ClipKinetics700(data_dir=directory)
    if streaming:
        return builder.as_streaming_dataset()
    builder.download_and_prepare()
    return builder.as_dataset()


def load_ours(directory: str, **options: Any) -> Any:
    """Load by our own front door."""
    from clip_kinetics700 import load_dataset

    return load_dataset(directory, **options)


def read_expected(dataset: Path) -> Rows:
    """Return the rows of each split as the tars have them."""
    expected = {split: list(read_tars(dataset, split)) for split in read_splits(str(dataset))}
    assert all(expected.values()), "a split without rows"
    return expected


def read_splits(directory: str) -> list[str]:
    """Return the splits that splits.csv names, in our words."""
    with (Path(directory) / "splits.csv").open(newline="") as stream:
        return sorted({SPLIT_OF_WORD[row["split"]] for row in csv.DictReader(stream)})


def read_tars(directory: Path, split: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a split straight from the tars."""
    with (directory / "splits.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if SPLIT_OF_WORD[row["split"]] == split]
    for row in rows:
        with tarfile.open(directory / f"{row['tar_file']}.tar") as tar:
            yield from read_tar(tar)


def read_tar(tar: tarfile.TarFile) -> Iterator[dict[str, Any]]:
    """Yield the rows of one tar, whose members come in threes: json, npy, txt."""
    files = tar.getmembers()
    assert len(files) % 3 == 0
    for document, array, text in zip(files[::3], files[1::3], files[2::3], strict=True):
        meta = json.loads(extract(tar, document))
        for name in ("videoID", "start_time", "end_time"):
            del meta[name]
        yield {
            "embeddings": np.load(io.BytesIO(extract(tar, array))),
            "caption": extract(tar, text).decode(),
            "meta": meta,
        }


def extract(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Return the bytes of a member, which must be a file."""
    stream = tar.extractfile(member)
    assert stream is not None, member.name
    return stream.read()


def check(name: str, expected: Rows, load: Callable[..., Any], *, keeps_width: bool = True) -> None:
    """Check one way in, map-style and streaming."""
    for streaming in (False, True):
        loaded = load(streaming=streaming)
        assert set(loaded) == set(expected), f"splits {sorted(loaded)}, not {sorted(expected)}"
        for split, rows in expected.items():
            check_split(loaded[split], rows, keeps_width=keeps_width)
        counts = ", ".join(f"{split} {len(rows)}" for split, rows in expected.items())
        way = "streaming" if streaming else "map-style"
        sys.stdout.write(f"ok: datasets {datasets.__version__}: {name}, {way}: {counts} rows\n")


def check_tars(directory: str, expected: Rows) -> None:
    """Check that plain `load_dataset` finds the tars of a dataset that has nothing else."""
    for streaming in (False, True):
        loaded = datasets.load_dataset(directory, streaming=streaming)
        assert set(loaded) == set(expected), f"splits {sorted(loaded)}, not {sorted(expected)}"
        for split, rows in expected.items():
            for row, right in zip(list(loaded[split]), rows, strict=True):
                check_bits(np.asarray(row["npy"], np.float16), right["embeddings"])
                assert row["txt"] == right["caption"]
                assert row["json"]["label_id"] == right["meta"]["label_id"]
    sys.stdout.write(f"ok: datasets {datasets.__version__}: plain load_dataset of tars alone\n")


def check_opened(directory: str, expected: Rows) -> None:
    """Check that `clip_kinetics700.open` gives the same samples."""
    import clip_kinetics700

    opened = clip_kinetics700.open(directory).splits
    for split, rows in expected.items():
        for sample, right in zip(opened[split], rows, strict=True):
            assert (sample.caption, sample.meta) == (right["caption"], right["meta"])
            check_bits(sample.embeddings, right["embeddings"])
    sys.stdout.write(f"ok: datasets {datasets.__version__}: clip_kinetics700.open\n")


def check_selection(name: str, expected: Rows, load: Callable[..., Any]) -> None:
    """Check that classes and max_samples select the first rows of those classes."""
    classes = sorted({row["caption"] for row in expected["train"]})[:3]
    wanted = [row for row in expected["train"] if row["caption"] in classes][:2]
    for streaming in (False, True):
        loaded = load(streaming=streaming, classes=classes, max_samples=2)
        check_split(loaded["train"], wanted)
    sys.stdout.write(f"ok: datasets {datasets.__version__}: {name}, classes and max_samples\n")


def check_one_split(load: Callable[..., Any], expected: Rows) -> None:
    """Check that a split loads by itself, map-style and streaming."""
    for streaming in (False, True):
        check_split(load(split="validation", streaming=streaming), expected["validation"])
    sys.stdout.write(f"ok: datasets {datasets.__version__}: one split of a repository\n")


def check_split(dataset: Any, expected: list[dict[str, Any]], *, keeps_width: bool = True) -> None:
    """Check columns, features, unformatted rows and rows in numpy format.

    Args:
        dataset: what was loaded.
        expected: its rows as the tars have them.
        keeps_width: the features say how wide the embeddings are.
    """
    assert list(dataset.features) == COLUMNS, dataset.features
    width = expected[0]["embeddings"].shape[1]
    features = str(dataset.features["embeddings"])
    assert (f"length={width}" in features) == keeps_width, features
    assert "float16" in features, features
    rows = list(dataset)
    assert len(rows) == len(expected), f"{len(rows)} rows, not {len(expected)}"
    for row, right in zip(rows, expected, strict=True):
        assert list(row) == COLUMNS, list(row)
        assert row["caption"] == right["caption"]
        assert row["meta"] == right["meta"], (row["meta"], right["meta"])
        assert row["embeddings"] == right["embeddings"].tolist()
    # Only map-style datasets take a dtype; streaming gives a wider type that holds the same values.
    options = {} if isinstance(dataset, datasets.IterableDataset) else {"dtype": np.float16}
    formatted = list(dataset.with_format("numpy", **options))
    assert len(formatted) == len(expected)
    for row, right in zip(formatted, expected, strict=True):
        array = np.asarray(row["embeddings"])
        check_bits(array if options else array.astype(np.float16), right["embeddings"])
        assert row["caption"] == right["caption"]


def check_bits(array: Any, right: Any) -> None:
    """Check that an array is float16 and equal bit for bit."""
    assert array.dtype == np.float16, array.dtype
    assert array.shape == right.shape, (array.shape, right.shape)
    assert array.tobytes() == right.tobytes(), "embeddings differ from the tar's npy"


if __name__ == "__main__":
    main()
