"""`make_mutant` gives a small dataset of some dialect in which one file is mutated, by number.

A number is always the same mutant, so any case can be run again by itself.
"""

import gzip
import random
import tarfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeAlias

from tests.support.damage.mutated_content import damage_bytes, mutate_json, mutate_npy, mutate_text
from tests.support.damage.mutated_members import (
    Files,
    change_member,
    change_tar,
    is_tar,
    mutate_members,
)
from tests.support.damage.mutated_parquet import mutate_parquet
from tests.support.damage.mutated_tables import mutate_csv, mutate_index, mutate_manifest
from tests.support.datasets.dialects import (
    write_flat_upstream,
    write_foreign,
    write_own_keys,
    write_parquet_only,
    write_triples,
)
from tests.support.datasets.layouts import make_samples, write_dataset, write_index
from tests.support.kinetics.hostile_archives import BLOCK

SEED = 700
COUNTS = (2, 2, 1, 1)

Mutate: TypeAlias = Callable[[Files, random.Random], str]
"""Changes files in place and returns what was done."""


class Mutant(NamedTuple):
    """A dataset with something wrong in it."""

    number: int
    family: str
    base: str
    """The dialect of the dataset."""
    what: str
    """The file that was mutated, and how."""
    files: Files


def write_ours(directory: Path) -> Path:
    """Write four tars of ours, with `splits.csv` and a manifest."""
    samples = make_samples({"train": 4, "validation": 2, "test": 1})
    return write_dataset(directory, samples, samples_per_shard=2, parquet=False)


BASES: dict[str, Callable[[Path], Path]] = {
    "ours": write_ours,
    "upstream": write_flat_upstream,
    "pax": partial(write_foreign, counts=COUNTS, tar_format=tarfile.PAX_FORMAT),
    "gnu": partial(write_foreign, counts=COUNTS, tar_format=tarfile.GNU_FORMAT),
    "gzip": partial(write_foreign, counts=COUNTS, suffix="tar.gz"),
    "own keys": write_own_keys,
    "loose": write_triples,
    "parquet": write_parquet_only,
}
TARS = ("ours", "ours", "upstream", "pax", "gnu", "own keys")


@cache
def read_base(base: str) -> Files:
    """Return the files of a sound dataset, its index among them where it may have one."""
    with TemporaryDirectory() as place:
        directory = BASES[base](Path(place) / "sound")
        if base != "parquet":
            write_index(directory)
        paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
        files = {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}
    # gzip notes the time, and a mutant must be the same tomorrow.
    return {
        name: gzip.compress(gzip.decompress(data), mtime=0) if name.endswith(".gz") else data
        for name, data in files.items()
    }


def make_mutant(number: int) -> Mutant:
    """Return the mutant of a number; those below zero are the sound bases."""
    if number < 0:
        base = list(BASES)[-number - 1]
        return Mutant(number, "sound", base, "nothing", dict(read_base(base)))
    rng = random.Random(f"{SEED}/{number}")
    family = list(FAMILIES)[number % len(FAMILIES)]
    bases, mutate = FAMILIES[family]
    base = rng.choice(bases)
    files = dict(read_base(base))
    return Mutant(number, family, base, mutate(files, rng), files)


def mutate_bytes(files: Files, rng: random.Random) -> str:
    """Damage the bytes of a tar or of a loose file, whatever they are."""
    suffixes = (".tar", ".gz", ".npy", ".txt", ".json")
    name = rng.choice([name for name in files if name.endswith(suffixes) and files[name].strip()])
    files[name], what = damage_bytes(files[name], rng, unit=rng.choice((1, BLOCK)))
    return f"{name}: {what}"


def mutate_gzip(files: Files, rng: random.Random) -> str:
    """Damage a gzip file or the tar in it, or put something behind it."""
    name = rng.choice([name for name in files if name.endswith(".gz")])
    kind = rng.choice(("bytes", "bytes", "tar", "in two", "twice", "not at all", "zeros behind"))
    data, what = files[name], ""
    if kind == "bytes":
        files[name], what = damage_bytes(data, rng)
    elif kind == "tar":
        plain, what = damage_bytes(gzip.decompress(data), rng, unit=rng.choice((1, BLOCK)))
        change_tar(files, name, lambda _: plain)
    elif kind == "in two":
        plain = gzip.decompress(data)
        middle = rng.randrange(len(plain))
        pieces = [gzip.compress(piece, mtime=0) for piece in (plain[:middle], plain[middle:])]
        files[name] = b"".join(pieces)
    elif kind == "twice":
        files[name] = data + data
    else:
        files[name] = gzip.decompress(data) if kind == "not at all" else data + bytes(512)
    return f"{name}: {kind} {what}"


def mutate_lists(files: Files, rng: random.Random) -> str:
    """Change which tar is of which split, what the manifest says, or which files there are."""
    if rng.random() < 0.1:
        name = rng.choice([name for name in files if is_tar(name)])
        del files[name]
        return f"{name} is gone"
    if "manifest.json" in files and rng.random() < 0.4:
        files["manifest.json"], what = mutate_manifest(files["manifest.json"], rng)
        return f"manifest.json: {what}"
    files["splits.csv"], what = mutate_csv(files["splits.csv"], rng)
    return f"splits.csv: {what}"


FAMILIES: dict[str, tuple[tuple[str, ...], Mutate]] = {
    "bytes": ((*TARS, "loose"), mutate_bytes),
    "gzip": (("gzip",), mutate_gzip),
    "members": ((*TARS, "gzip"), mutate_members),
    "npy": ((*TARS, "gzip", "loose"), partial(change_member, suffixes=(".npy",), edit=mutate_npy)),
    "json": ((*TARS, "loose"), partial(change_member, suffixes=(".json",), edit=mutate_json)),
    "text": (
        ("ours", "upstream", "loose"),
        partial(change_member, suffixes=(".txt", ".cap"), edit=mutate_text),
    ),
    "lists": (("ours", "upstream", "pax"), mutate_lists),
    "index": ((*TARS, "gzip", "loose"), mutate_index),
    "parquet": (("parquet",), mutate_parquet),
    "parquet too": (("parquet",), mutate_parquet),
}
"""The dialects that each family of mutations damages, and the function that does it."""
