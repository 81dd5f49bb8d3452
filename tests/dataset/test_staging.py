"""A dataset that replaces another does so at once: a reader finds the old or the new one."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from clip_kinetics700_builder.assemble.assemble import assemble
from clip_kinetics700_builder.config import AssembleConfig
from clip_kinetics700_builder.dataset.staging import lock_dataset
from clip_kinetics700_builder.types import InputError
from clip_kinetics700_builder.verify.dataset import verify_dataset
from tests.support.damage.datasets import SmallRows, flip_byte, make_dataset
from tests.support.datasets.builds import published_hashes

STAGE = ".build/next"


class NewRows(SmallRows):
    """The rows of two of the splits: the third one's shard is of no use any more."""

    fingerprint = "new"

    def __init__(self) -> None:
        super().__init__()
        self.totals = {split: self.totals[split] for split in ("train", "test")}


class StoppedError(Exception):
    """The run ends here."""


def assemble_new(output: Path, *, stop_after: int = 1000) -> None:
    """Assemble the other rows, or begin to."""
    n_done = 0

    def advance(steps: int) -> None:
        nonlocal n_done
        n_done += steps
        if n_done > stop_after:
            raise StoppedError

    config = AssembleConfig(source=output, output=output, samples_per_shard=5, figures=False)
    assemble(NewRows(), config, advance=advance)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset that is replaced; tests copy it."""
    return make_dataset(tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset that replaces it, assembled by itself."""
    output = tmp_path_factory.mktemp("new")
    assemble_new(output)
    return output


@pytest.fixture
def output(old: Path, tmp_path: Path) -> Path:
    """A directory that holds the old dataset, and a file of the user's."""
    directory = Path(shutil.copytree(old, tmp_path / "out"))
    (directory / "notes.txt").write_text("mine", encoding="utf-8")
    return directory


def assert_is_new(output: Path, new: Path) -> None:
    """Check that the directory holds the new dataset and what is the user's, nothing else."""
    hashes = published_hashes(output)
    assert hashes.pop("notes.txt")
    assert hashes == published_hashes(new)


def test_the_old_dataset_stays_until_the_new_one_is_whole(output: Path, new: Path) -> None:
    """A run that is cut off leaves the old dataset as it was; the next one goes on and replaces."""
    before = published_hashes(output)
    with pytest.raises(StoppedError):
        assemble_new(output, stop_after=14)
    assert published_hashes(output) == before
    first = output / STAGE / "ds_000000.tar"
    inode = first.stat().st_ino
    assemble_new(output)
    assert_is_new(output, new)
    assert (output / "ds_000000.tar").stat().st_ino == inode
    assert not (output / STAGE).exists()


def stage(output: Path, new: Path) -> list[str]:
    """Put the new dataset where it is staged; return the names of its files but the manifest."""
    shutil.copytree(new, output / STAGE)
    return sorted({*published_hashes(new)} - {"manifest.json"})


def test_renames_that_were_cut_off_are_finished(output: Path, new: Path) -> None:
    """Whoever takes the lock next finishes them, wherever a kill has stopped them."""
    n_files = len(published_hashes(new)) - 1
    for n_moved in range(n_files + 1):
        directory = Path(shutil.copytree(output, output.with_name(f"killed{n_moved}")))
        names = stage(directory, new)
        (directory / "manifest.json").unlink()
        for name in names[:n_moved]:
            (directory / STAGE / name).replace(directory / name)
        with lock_dataset(directory):
            assert_is_new(directory, new)
    assert verify_dataset(directory) != []  # the user's file
    (directory / "notes.txt").unlink()
    assert verify_dataset(directory) == []


@pytest.mark.skipif(sys.platform != "linux", reason="a second file system is needed")
def test_a_link_to_another_disk_is_followed(output: Path, new: Path) -> None:
    """Where `.build` lies on another file system the files are copied, which takes longer."""
    with TemporaryDirectory(dir="/dev/shm") as other:
        if Path(other).stat().st_dev == output.stat().st_dev:
            pytest.skip("no second file system here")
        shutil.rmtree(output / ".build", ignore_errors=True)
        (output / ".build").symlink_to(other)
        assemble_new(output)
        assert_is_new(output, new)
        assert not (output / STAGE).exists()


def flip_manifest(stage: Path) -> None:
    """Change a byte of the staged manifest."""
    flip_byte(stage / "manifest.json", 300)


def remove_manifest(stage: Path) -> None:
    """Leave a stage that is not whole."""
    (stage / "manifest.json").unlink()


@pytest.mark.parametrize("harm", [flip_manifest, remove_manifest])
def test_what_is_not_whole_replaces_nothing(
    output: Path, new: Path, harm: Callable[[Path], None]
) -> None:
    """A stage without a manifest, or with a damaged one, leaves the old dataset where it is."""
    before = published_hashes(output)
    stage(output, new)
    harm(output / STAGE)
    with lock_dataset(output):
        assert published_hashes(output) == before
    assemble_new(output)
    assert_is_new(output, new)


def test_the_lock_is_refused_while_it_is_held(output: Path) -> None:
    """Who assembles, converts or publishes at the same time is told so."""
    taken = "another process is assembling, converting or publishing it; wait"
    with lock_dataset(output), pytest.raises(InputError, match=taken), lock_dataset(output):
        pass
