"""One random bit in any file of a work directory is refused or repaired, and never published."""

import random
import shutil
from pathlib import Path

import pytest

from clip_kinetics700_builder.types import BuildError, InputError
from tests.support.damage.datasets import flip_byte
from tests.support.datasets.builds import RunBuild, published_hashes
from tests.support.datasets.works import assemble_work, encode_small
from tests.support.processes.torture import say_count

SEED = 720


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished work directory."""
    directory = tmp_path_factory.mktemp("sound") / "work"
    encode_small(directory)
    return directory


@pytest.fixture(scope="module")
def expected(work: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The hashes of the dataset that it is assembled to."""
    output = tmp_path_factory.mktemp("expected")
    assemble_work(work, output)
    return published_hashes(output)


def flip_bit(work: Path, chance: random.Random) -> str:
    """Flip one bit of one file, each file being as likely as another; return which."""
    path = chance.choice(list_files(work))
    data = bytearray(path.read_bytes())
    bit = chance.randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    return f"bit {bit} of {path.relative_to(work)}"


def read_files(work: Path) -> dict[str, bytes]:
    """Return the content of every file."""
    return {str(path.relative_to(work)): path.read_bytes() for path in list_files(work)}


def list_files(work: Path) -> list[Path]:
    """Return every file that holds something; locks are empty."""
    return [path for path in sorted(work.rglob("*")) if path.is_file() and path.stat().st_size]


def encode_again(work: Path) -> None:
    """Run encode again, and delete what it asks to delete."""
    try:
        encode_small(work)
    except InputError as error:
        path, _, message = str(error).partition(": ")
    else:
        return
    assert "delete it and run encode again" in message
    Path(path).unlink()
    encode_small(work)


@pytest.mark.parametrize("n_flips", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_a_flipped_bit_is_never_published(
    work: Path, expected: dict[str, str], tmp_path: Path, n_flips: int
) -> None:
    """Assembly gives the bytes of the sound parts or none; encode leaves the sound files again."""
    chance = random.Random(SEED + n_flips)
    n_refused, sound = 0, read_files(work)
    for number in range(n_flips):
        damaged, output = tmp_path / f"work{number}", tmp_path / f"out{number}"
        shutil.copytree(work, damaged)
        case = flip_bit(damaged, chance)
        try:
            assemble_work(damaged, output)
        except (InputError, BuildError):
            n_refused += 1
        else:
            assert published_hashes(output) == expected, case
        encode_again(damaged)
        assert read_files(damaged) == sound, case
        shutil.rmtree(damaged)
    say_count(f"{n_flips} flipped bits in work directories, seed {SEED}: {n_refused} refused")


def test_a_damaged_part_is_encoded_again(
    dataset: Path, run_build: RunBuild, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A build says which part is damaged, encodes it again and ends with the same dataset."""
    output = Path(shutil.copytree(dataset, tmp_path / "out"))
    part = output / ".build/parts/test-00000.arrow"
    sound = part.read_bytes()
    flip_byte(part, len(sound) // 2)
    with caplog.at_level("WARNING"):
        run_build(output)
    assert "part test-00000: test-00000.arrow is damaged: it has the sha256 " in caplog.text
    assert "; it is encoded again" in caplog.text
    assert part.read_bytes() == sound
    assert published_hashes(output) == published_hashes(dataset)
