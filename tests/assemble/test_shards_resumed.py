"""Assembly goes on where it stopped: it keeps finished shards that were made of the same."""

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_kinetics700_builder.assemble.assemble import assemble
from clip_kinetics700_builder.assemble.rows import Result
from clip_kinetics700_builder.assemble.shards import ROWS_PER_GROUP
from clip_kinetics700_builder.config import AssembleConfig
from clip_kinetics700_builder.dataset.totals import Totals
from clip_kinetics700_builder.parts.canary import Canary
from clip_kinetics700_builder.system.files import write_json
from clip_kinetics700_builder.types import BuildError, Clip, EncodedClip
from clip_kinetics700_builder.verify.dataset import verify_dataset
from tests.support.damage.datasets import ROWS, ChangedRows, SmallRows, flip_byte
from tests.support.datasets.builds import published_hashes
from tests.support.datasets.conversions import list_reports, read_states

STOP_AFTER = 14
OTHER_NAMES = ["a", "b", "c"]


class StoppedError(Exception):
    """The run ends here."""


def stop_at(n_rows: int) -> Callable[[int], None]:
    """Return a progress function that ends the run after so many rows."""
    done = 0

    def advance(steps: int) -> None:
        nonlocal done
        done += steps
        if done > n_rows:
            raise StoppedError

    return advance


def config_of(output: Path, *formats: str) -> AssembleConfig:
    """Return options with five samples a shard."""
    formats = formats or ("parquet", "webdataset")
    return AssembleConfig(
        source=output, output=output, samples_per_shard=5, formats=formats, figures=False
    )


def assemble_part(output: Path, *formats: str, n_rows: int = STOP_AFTER) -> None:
    """Assemble until so many rows are read; what is left is what a killed run leaves."""
    with pytest.raises(StoppedError):
        assemble(SmallRows(), config_of(output, *formats), advance=stop_at(n_rows))
    assert list_reports(output)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hashes of the files of a run that nothing disturbed."""
    output = tmp_path_factory.mktemp("undisturbed")
    assemble(SmallRows(), config_of(output))
    return published_hashes(output)


def test_a_run_goes_on_after_the_last_finished_shard(
    tmp_path: Path, expected: dict[str, str]
) -> None:
    """Finished shards are not written again, and all files are those of an undisturbed run."""
    assemble_part(tmp_path)
    assert list_reports(tmp_path) == ["train-00000.json", "train-00001.json"]
    before = read_states(tmp_path)
    assemble(SmallRows(), config_of(tmp_path))
    after = read_states(tmp_path)
    assert len(before) == 4
    assert {name: after[name] for name in before} == before
    assert published_hashes(tmp_path) == expected
    assert verify_dataset(tmp_path) == []


@pytest.mark.parametrize("n_rows", range(1, sum(ROWS.values())))
def test_wherever_it_ends_the_bytes_are_the_same(
    tmp_path: Path, expected: dict[str, str], n_rows: int
) -> None:
    """A run cut off after any row, twice, ends with the files of an undisturbed one."""
    for n_more in (n_rows, n_rows + 3):
        with suppress(StoppedError):
            assemble(SmallRows(), config_of(tmp_path), advance=stop_at(n_more))
    assemble(SmallRows(), config_of(tmp_path))
    assert published_hashes(tmp_path) == expected


@pytest.mark.parametrize("formats", ["parquet", "webdataset"])
def test_one_format_alone_is_resumed(tmp_path: Path, formats: str) -> None:
    """With tars or Parquet files alone shards are kept as well."""
    assemble(SmallRows(), config_of(tmp_path / "a", formats))
    assemble_part(tmp_path / "b", formats)
    before = read_states(tmp_path / "b")
    assemble(SmallRows(), config_of(tmp_path / "b", formats))
    assert read_states(tmp_path / "b").items() >= before.items()
    assert len(before) == 2
    assert published_hashes(tmp_path / "b") == published_hashes(tmp_path / "a")


def test_reports_go_when_the_dataset_is_complete(tmp_path: Path) -> None:
    """A complete dataset is described by its manifest alone."""
    assemble(SmallRows(), config_of(tmp_path))
    assert list_reports(tmp_path) == []


def test_other_samples_are_written_anew(tmp_path: Path) -> None:
    """Where samples have changed meanwhile no shard is kept."""
    assemble_part(tmp_path / "a", n_rows=20)
    assert len(list_reports(tmp_path / "a")) == 3
    assemble(ChangedRows(), config_of(tmp_path / "a"))
    assemble(ChangedRows(), config_of(tmp_path / "b"))
    assert published_hashes(tmp_path / "a") == published_hashes(tmp_path / "b")


def test_samples_that_change_back_are_written_anew(
    tmp_path: Path, expected: dict[str, str]
) -> None:
    """A run of other samples between two of the same leaves nothing that the last one keeps."""
    assemble_part(tmp_path, n_rows=20)
    with pytest.raises(StoppedError):
        assemble(ChangedRows(), config_of(tmp_path), advance=stop_at(12))
    assemble(SmallRows(), config_of(tmp_path))
    assert published_hashes(tmp_path) == expected


class RenamedRows(SmallRows):
    """The same samples, but the classes are called otherwise."""

    class_names: list[str] | None = OTHER_NAMES


def test_other_class_names_are_written_anew(tmp_path: Path) -> None:
    """Class names are in the Parquet files and in no sample; shards with others are not kept."""
    assemble_part(tmp_path / "a")
    assemble(RenamedRows(), config_of(tmp_path / "a"))
    assemble(RenamedRows(), config_of(tmp_path / "b"))
    assert published_hashes(tmp_path / "a") == published_hashes(tmp_path / "b")


def remove_tar(output: Path) -> None:
    """Remove a finished tar."""
    (output / "ds_000000.tar").unlink()


def cut_parquet(output: Path) -> None:
    """Cut a finished Parquet file."""
    path = output / "data/train-00000-of-00003.parquet"
    path.write_bytes(path.read_bytes()[:-1])


def damage_report(output: Path) -> None:
    """Leave half of a report."""
    path = output / ".build/shards/train-00000.json"
    path.write_text(path.read_text(encoding="utf-8")[:40], encoding="utf-8")


def empty_report(output: Path) -> None:
    """Leave a report that is JSON and says nothing."""
    write_json(output / ".build/shards/train-00000.json", [1])


def flip_report(output: Path) -> None:
    """Change a bit of a hash in a report."""
    path = output / ".build/shards/train-00000.json"
    flip_byte(path, path.read_bytes().index(b"sha256") + 10)


@pytest.mark.parametrize(
    "harm", [remove_tar, cut_parquet, damage_report, empty_report, flip_report]
)
def test_only_the_harmed_shard_is_written_again(
    tmp_path: Path, expected: dict[str, str], harm: Callable[[Path], None]
) -> None:
    """A finished shard whose file or report is harmed is made again, the next one is kept."""
    assemble_part(tmp_path)
    before = read_states(tmp_path)
    harm(tmp_path)
    assemble(SmallRows(), config_of(tmp_path))
    after = read_states(tmp_path)
    second = {"ds_000001.tar", "train-00001-of-00003.parquet"}
    assert {name for name in before if after[name] == before[name]} == second
    assert published_hashes(tmp_path) == expected


def test_another_shard_size_keeps_nothing(tmp_path: Path) -> None:
    """Shards of another size, begun in the same place, give way without a trace."""
    assemble_part(tmp_path / "a")
    for name in ("a", "b"):
        config = AssembleConfig(
            source=tmp_path, output=tmp_path / name, samples_per_shard=4, figures=False
        )
        assemble(SmallRows(), config)
    assert published_hashes(tmp_path / "a") == published_hashes(tmp_path / "b")


class WiderRows(SmallRows):
    """The same rows, which say that they are wider."""

    width = 9


def test_embeddings_of_another_width_are_refused(tmp_path: Path) -> None:
    """One column is not spread over all of them."""
    with pytest.raises(ValueError, match="embeddings are 8 wide, those of the dataset 9"):
        assemble(WiderRows(), config_of(tmp_path))


class FewerRows(SmallRows):
    """The same rows, but the last sample that the totals count is not there."""

    def results(self, split: str) -> Iterator[Any]:
        """Yield the rows of a split."""
        rows = list(super().results(split))
        yield from rows[:-1] if split == "test" else rows


def test_other_samples_than_were_counted_are_an_error(tmp_path: Path) -> None:
    """A source that changed after it was counted gives no dataset with a hole."""
    rows = SmallRows()
    fewer = FewerRows()
    fewer.totals = rows.totals
    with pytest.raises(BuildError, match="test: other samples were read"):
        assemble(fewer, config_of(tmp_path))
    assert not (tmp_path / "manifest.json").exists()


class CountedRows:
    """Many samples of one shard; counts how many of their arrays are alive at a time."""

    configuration: Mapping[str, Any] = {"embedding_width": 4}
    class_names: list[str] | None = None
    canary: Canary | None = None
    fingerprint = "counted"
    width = 4
    n_rows = 9000

    def __init__(self) -> None:
        self.totals = {"train": Totals(rows=self.n_rows, samples=self.n_rows, frames=self.n_rows)}
        self.n_alive = self.most_alive = 0

    def results(self, split: str) -> Iterator[Result]:
        """Yield the samples."""
        for row in range(self.n_rows):
            array = np.full((1, 4), row % 100, np.float16)
            self.n_alive += 1
            self.most_alive = max(self.most_alive, self.n_alive)
            weakref.finalize(array, self._forget)
            yield Clip(split, f"v{row}", None, None, None, ""), EncodedClip(row, array, None, None)

    def _forget(self) -> None:
        self.n_alive -= 1


def test_no_shard_is_held_in_memory(tmp_path: Path) -> None:
    """Of a shard that is written or kept, the arrays of two row groups are alive at a time."""
    config = AssembleConfig(source=tmp_path, output=tmp_path, samples_per_shard=8000, figures=False)
    for n_rows in (8500, 7999):
        rows = CountedRows()
        with pytest.raises(StoppedError):
            assemble(rows, config, advance=stop_at(n_rows))
        assert rows.most_alive <= 2 * ROWS_PER_GROUP + 2
    assert list_reports(tmp_path) == ["train-00000.json"]
