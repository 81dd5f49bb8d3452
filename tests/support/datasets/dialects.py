"""These functions write small datasets in every dialect but ours, as other tools leave them."""

import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clip_kinetics700.schema import Sample
from tests.support.datasets.layouts import (
    SAMPLES,
    make_samples,
    npy_bytes,
    write_dataset,
    write_members,
    write_tar,
)

LABELS = ("yoga", "archery", "zumba")
WORDS = {"train": "train", "validation": "val", "test": "test"}

Member = tuple[str, bytes]


def foreign_members(
    number: int, array: npt.NDArray[Any] | None = None, *, key: str | None = None, text: str = "txt"
) -> list[Member]:
    """Return the members of one sample as upstream writes it: a class name, an id and times."""
    key = f"vid_{number:05d}" if key is None else key
    document = {
        "videoID": f"-b_{number:08d}",
        "start_time": f"{number:06d}",
        "end_time": number + 10,
    }
    embeddings = random_array(number) if array is None else array
    return [
        (f"{key}.{text}", LABELS[number % 3].encode()),
        (f"{key}.json", json.dumps(document).encode()),
        (f"{key}.npy", npy_bytes(embeddings)),
    ]


def random_array(number: int, dtype: npt.DTypeLike = np.float16) -> npt.NDArray[Any]:
    """Return a random array of (1 to 4, 8), always the same one for a number."""
    rng = np.random.default_rng(number)
    return rng.standard_normal((1 + number % 4, 8)).astype(dtype)


def write_foreign(
    directory: Path,
    *,
    counts: Sequence[int] = (4, 3, 2, 2),
    tar_format: int = tarfile.USTAR_FORMAT,
    suffix: str = "tar",
    text: str = "txt",
    dtype: npt.DTypeLike = np.float16,
) -> Path:
    """Write tars with these numbers of samples: the first two are train, then val and test."""
    (directory / "data").mkdir(parents=True)
    rows, number = ["tar_file,split"], 0
    for tar, count in enumerate(counts):
        members: list[Member] = []
        for row in range(number, number + count):
            members += foreign_members(row, random_array(row, dtype), text=text)
        write_members(directory / f"data/ds_{tar:06d}.{suffix}", members, tar_format)
        rows.append(f"ds_{tar:06d}.tar,{('train', 'train', 'val', 'test')[tar]}")
        number += count
    (directory / "splits.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return directory


def write_flat_upstream(directory: Path) -> Path:
    """Write the hosted dataset: `.cap`, literal names, the header again, an empty last tar."""
    write_foreign(directory, text="cap")
    write_members(directory / "data/ds_000004.tar", [])
    words = ("train", "train", None, "val", "test", "test")
    rows = ["tar_file,split" if w is None else f"ds_{{tar_count+i:06}},{w}" for w in words]
    (directory / "splits.csv").write_text("\n".join(["tar_file,split", *rows]), encoding="utf-8")
    (directory / "train.csv").write_text("label,youtube_id\n", encoding="utf-8")
    return directory


def write_split_directories(directory: Path) -> Path:
    """Write an old revision: numbering and keys start again in every split's directory."""
    number = 0
    for word in WORDS.values():
        (directory / "data" / word).mkdir(parents=True)
        for tar in range(2):
            members: list[Member] = []
            for row in range(3):
                key = f"vid_{3 * tar + row:05d}"
                members += foreign_members(number, key=key, text="cap")
                number += 1
            write_members(directory / f"data/{word}/ds_{tar:06d}.tar", members)
    return directory


def write_triples(directory: Path) -> Path:
    """Write a processed dataset; one clip has no json and one no text."""
    for number in range(9):
        place = directory / list(WORDS.values())[number // 4]
        place.mkdir(parents=True, exist_ok=True)
        members = foreign_members(number, random_array(number, np.float32), key=f"clip.{number}")
        for name, data in members:
            (place / name).write_bytes(data)
    (directory / "train/clip.1.json").unlink()
    (directory / "train/clip.2.txt").unlink()
    return directory


def write_own_keys(directory: Path) -> Path:
    """Write tars whose names are not ASCII, with directories in the keys and more in the json."""
    (directory / "train").mkdir(parents=True)
    members: list[Member] = []
    for number in range(4):
        key = f"a/b.c/{'ü' * 50}{number}"
        document = json.dumps({"videoID": f"v{number}", "clip": {"n": number}, "extra": '{"x": 1}'})
        npy = npy_bytes(random_array(number))
        members += [(f"{key}.json", document.encode()), (f"{key}.npy", npy)]
    write_members(directory / "train/00000.tar", members, tarfile.PAX_FORMAT)
    return directory


def write_parquet_only(directory: Path) -> Path:
    """Write our Parquet files without tars and manifest."""
    write_dataset(directory, make_samples(SAMPLES))
    for path in [*directory.glob("*.tar"), directory / "splits.csv", directory / "manifest.json"]:
        path.unlink()
    return directory


def write_tars_only(directory: Path) -> Path:
    """Write tars in our format, without an index."""
    return write_dataset(directory, make_samples(SAMPLES), parquet=False)


def write_one_tar(directory: Path, samples: Sequence[Sample]) -> Path:
    """Write a dataset of one tar of `train`; return the tar."""
    (directory / "train").mkdir(parents=True)
    write_tar(directory / "train/00000.tar", samples)
    return directory / "train/00000.tar"


DIALECTS: dict[str, Callable[[Path], Path]] = {
    "tars of ours": write_tars_only,
    "flat upstream": write_flat_upstream,
    "split directories": write_split_directories,
    "own keys": write_own_keys,
    "processed": write_triples,
    "parquet": write_parquet_only,
    "pax": lambda directory: write_foreign(directory, tar_format=tarfile.PAX_FORMAT),
    "gnu": lambda directory: write_foreign(directory, tar_format=tarfile.GNU_FORMAT),
    "gzip": lambda directory: write_foreign(directory, suffix="tar.gz"),
    "float32": lambda directory: write_foreign(directory, dtype=np.float32),
    "float64": lambda directory: write_foreign(directory, dtype=">f8"),
}
