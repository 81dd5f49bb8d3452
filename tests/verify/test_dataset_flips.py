"""Verification names the file of every random change of a byte or two, of whatever dataset."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from clip_kinetics700_builder.assemble.assemble import assemble_directory
from clip_kinetics700_builder.config import AssembleConfig
from clip_kinetics700_builder.dataset.layout import WORK_NAME
from clip_kinetics700_builder.verify.dataset import verify_dataset
from tests.support.damage.datasets import copy_dataset, problems_of
from tests.support.datasets.builds import SAMPLES_PER_SHARD, list_published, run_cli
from tests.support.processes.torture import count_cases, say_count

SINGLE_SEED = 1000
DOUBLE_SEED = 2000
REAL_SEED = 3000
SPELLING_SEED = 4000
CLI_SEED = 5000
MANIFEST = "manifest.json"
# The card is written for people, so the manifest lists no hash of it.
EXEMPT = "README.md"
INDENT = re.compile(rb"\n +")
# One number a line: the manifest's embedding of the test video, whose last digits may not count.
NUMBER_ALONE = re.compile(rb"^ +(-?[0-9][0-9.e-]*),?$", re.MULTILINE)


@dataclass(frozen=True)
class Flips:
    """Some bytes of one file that are changed at once."""

    case: str
    """Seed and number, by which it can be repeated."""
    file: str
    masks: dict[int, int]
    """The number that is XORed to the byte at each offset."""

    def __str__(self) -> str:
        masks = ", ".join(f"{offset} ^ {mask:#04x}" for offset, mask in self.masks.items())
        return f"{self.case}: {self.file}, bytes {masks}"


def list_targets(dataset: Path) -> list[str]:
    """Return the names of the published files but the card."""
    names = [path.relative_to(dataset).as_posix() for path in list_published(dataset)]
    return [name for name in names if name != EXEMPT]


def draw_flips(dataset: Path, seed: int, count: int, *, n_bytes: int = 1) -> Iterator[Flips]:
    """Draw changes: a file, each as likely, then offsets in it, then masks other than zero."""
    names = list_targets(dataset)
    for number in range(count):
        random = Random(f"{seed}/{number}")
        name = random.choice(names)
        offsets = random.sample(range((dataset / name).stat().st_size), n_bytes)
        masks = {offset: random.randrange(1, 256) for offset in offsets}
        yield Flips(f"seed {seed} number {number}", name, masks)


@contextmanager
def flipped(dataset: Path, flips: Flips) -> Iterator[None]:
    """Change the bytes in place, and change them back."""
    path = dataset / flips.file
    data = path.read_bytes()
    changed = bytearray(data)
    for offset, mask in flips.masks.items():
        changed[offset] ^= mask
    path.write_bytes(changed)
    try:
        yield
    finally:
        path.write_bytes(data)


def check_each(dataset: Path, cases: Iterable[Flips], what: str) -> None:
    """Verify with each change alone; all of them must be named, and nothing else."""
    missed: list[str] = []
    files: Counter[str] = Counter()
    assert verify_dataset(dataset) == []
    for flips in cases:
        with flipped(dataset, flips):
            try:
                found = problems_of(dataset)
            except Exception as error:
                raise AssertionError(f"{flips}: {error!r}") from error
        files[flips.file] += 1
        if found.keys() != {flips.file}:
            missed.append(f"{flips}: named {[*found]}")
    assert verify_dataset(dataset) == []
    assert not missed, f"{len(missed)} of {files.total()}: " + "; ".join(missed[:10])
    say_count(f"{files.total()} {what} in {len(files)} files: all named")


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A small dataset in both formats."""
    return copy_dataset(tmp_path / "sound")


@pytest.mark.torture
@pytest.mark.parametrize(
    ("suite", "full"), [(40, 100), pytest.param(300, 1000, marks=pytest.mark.slow)]
)
def test_every_flipped_byte_is_named(sound: Path, suite: int, full: int) -> None:
    """A random byte of a random file changed anyhow is reported with this file's name alone."""
    count = count_cases(suite, full=full)
    check_each(sound, draw_flips(sound, SINGLE_SEED, count), f"flips, seed {SINGLE_SEED},")


@pytest.mark.slow
@pytest.mark.torture
def test_every_two_flipped_bytes_are_named(sound: Path) -> None:
    """Two bytes of one file changed at once do not hide each other."""
    count = count_cases(60, full=1000)
    cases = draw_flips(sound, DOUBLE_SEED, count, n_bytes=2)
    check_each(sound, cases, f"flips of two bytes, seed {DOUBLE_SEED},")


@pytest.mark.torture
@pytest.mark.needs_ffmpeg
@pytest.mark.parametrize("formats", ["parquet,webdataset", "parquet", "webdataset"])
def test_flips_in_real_clips_are_named(dataset: Path, tmp_path: Path, formats: str) -> None:
    """The same holds of a dataset that was built from videos, in both formats and in each alone."""
    output = tmp_path / "real"
    config = AssembleConfig(
        source=dataset,
        output=output,
        samples_per_shard=SAMPLES_PER_SHARD,
        formats=tuple(formats.split(",")),
        figures=False,
    )
    assemble_directory(config)
    cases = draw_flips(output, REAL_SEED, count_cases(30, full=300))
    check_each(output, cases, f"flips, seed {REAL_SEED}, in a build of {formats},")


def list_spellings(data: bytes) -> list[list[tuple[int, int]]]:
    """Return offsets and other bytes after which JSON may say the same: white space, numbers."""
    spaces = [
        (offset, other)
        for match in INDENT.finditer(data)
        for offset in range(*match.span())
        for other in b" \n\t\r"
    ]
    numbers = [
        (offset, other)
        for match in NUMBER_ALONE.finditer(data)
        for offset in range(*match.span(1))
        for other in b"0123456789eE-"
        if is_same_number(match[1], offset - match.start(1), other)
    ]
    return [[place for place in pool if data[place[0]] != place[1]] for pool in (spaces, numbers)]


def is_same_number(number: bytes, at: int, other: int) -> bool:
    """Tell whether a number with another byte at some place is still that number."""
    try:
        return bool(
            json.loads(number[:at] + bytes([other]) + number[at + 1 :]) == json.loads(number)
        )
    except ValueError:
        return False


def draw_spellings(dataset: Path, seed: int, count: int) -> Iterator[Flips]:
    """Draw changes of the manifest after which it is the same JSON document."""
    data = (dataset / MANIFEST).read_bytes()
    document = json.loads(data)
    pools = list_spellings(data)
    for number in range(count):
        offset, other = Random(f"{seed}/{number}").choice(pools[number % 2])
        assert json.loads(data[:offset] + bytes([other]) + data[offset + 1 :]) == document
        yield Flips(f"seed {seed} number {number}", MANIFEST, {offset: data[offset] ^ other})


@pytest.mark.torture
@pytest.mark.needs_ffmpeg
def test_a_manifest_that_is_spelled_otherwise_is_named(dataset: Path, tmp_path: Path) -> None:
    """A flip of the manifest is found even where the JSON still says the same."""
    copy = tmp_path / "real"
    shutil.copytree(dataset, copy, ignore=shutil.ignore_patterns(WORK_NAME))
    cases = draw_spellings(copy, SPELLING_SEED, count_cases(20, full=300))
    check_each(copy, cases, f"other spellings of the manifest, seed {SPELLING_SEED},")


@pytest.mark.torture
def test_the_command_names_the_file_and_exits_with_one(sound: Path) -> None:
    """`verify` prints one line that begins with the file's name and exits 1; undone, it exits 0."""
    for flips in draw_flips(sound, CLI_SEED, count_cases(10, full=100)):
        with flipped(sound, flips):
            outcome = run_cli("verify", sound)
        lines = [line for line in outcome.stderr.splitlines() if line.startswith(f"{flips.file}: ")]
        assert (outcome.returncode, len(lines)) == (1, 1), f"{flips}: {outcome}"
        assert f"{sound}: 1 problems" in outcome.stderr, f"{flips}: {outcome}"
    outcome = run_cli("verify", sound)
    assert outcome.returncode == 0, outcome.stderr
    assert "files are as the manifest says" in outcome.stdout
