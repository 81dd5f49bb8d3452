"""The test video tells encoders apart: equal bits, near ones, and those that must not be mixed."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from clip_kinetics700_builder.assemble.assemble import assemble_directory
from clip_kinetics700_builder.config import AssembleConfig
from clip_kinetics700_builder.dataset.manifest import parse_manifest
from clip_kinetics700_builder.dataset.problems import DamagedFileError
from clip_kinetics700_builder.parts.canary import (
    Canary,
    Variant,
    compare_canaries,
    describe_canary,
    is_same_encoder,
)
from clip_kinetics700_builder.parts.part import PartReport
from clip_kinetics700_builder.types import BuildError, InputError
from clip_kinetics700_builder.verify.dataset import verify_dataset
from tests.support.datasets.builds import SAMPLES_PER_SHARD, RunBuild, edit_report
from tests.support.datasets.cards import load_manifest

WIDTH = 16


def make_report(name: str, canary: list[float], n_rows: int = 1) -> PartReport:
    """Return the report of a part that an encoder with this canary made."""
    return PartReport(name, list(range(n_rows)), n_rows, 0, n_rows, 0, canary)


def turn(vector: list[float], cosine: float) -> list[float]:
    """Return a vector of that cosine with another one."""
    along = np.asarray(vector) / np.linalg.norm(vector)
    across = np.roll(along, 1)
    across -= (across @ along) * along
    across /= np.linalg.norm(across)
    turned: list[float] = (cosine * along + np.sqrt(1 - cosine**2) * across).tolist()
    return turned


VECTOR = np.random.default_rng(3).standard_normal(WIDTH).tolist()


def test_equal_bits_are_silent() -> None:
    """Parts of one encoder have one canary and no variants."""
    reports = [make_report(f"train-{number}", VECTOR) for number in range(3)]
    assert compare_canaries(reports) == Canary(VECTOR)


def test_near_encoders_are_listed() -> None:
    """Encoders within 0.9999 stand in the manifest with their rows, the nearest first."""
    near, nearer = turn(VECTOR, 0.99991), turn(VECTOR, 0.99999)
    reports = [
        make_report("a", VECTOR, 9),
        make_report("b", near, 2),
        make_report("c", nearer, 3),
        make_report("d", near, 5),
    ]
    variants = compare_canaries(reports).variants
    assert [(v.n_rows, v.vector) for v in variants] == [(3, nearer), (7, near)]
    assert [round(v.cosine, 5) for v in variants] == [0.99999, 0.99991]


@pytest.mark.parametrize(
    "other",
    [turn(VECTOR, 0.99989), VECTOR[::-1], VECTOR[:-1], [0.0] * WIDTH, [float("nan")] * WIDTH],
)
def test_another_encoder_is_no_neighbour(other: list[float]) -> None:
    """Below 0.9999, of another width, of no length or of no numbers: the part is refused."""
    assert not is_same_encoder(VECTOR, other)
    with pytest.raises(BuildError, match=r"^part b: its encoder .* delete b\.json"):
        compare_canaries([make_report("a", VECTOR), make_report("b", other)])


def test_a_manifest_gives_back_what_it_was_given(dataset: Path) -> None:
    """A conversion carries the canary over; one that is no canary of ours is refused."""
    canary = Canary(VECTOR, (Variant(0.99995, 4, turn(VECTOR, 0.99995)),))
    document = load_manifest(dataset)
    written = json.loads(json.dumps(describe_canary(canary)))
    assert parse_manifest({**document, **written}).canary == canary
    assert parse_manifest({**document, **describe_canary(None)}).canary is None
    with pytest.raises(DamagedFileError, match="canary"):
        parse_manifest({**document, "canary": VECTOR, "canary_variants": [{"cosine": 1}]})


@pytest.fixture
def own_dataset(dataset: Path, tmp_path: Path) -> Path:
    """A copy of a finished build that a test may change."""
    return Path(shutil.copytree(dataset, tmp_path / "own"))


def read_canary(dataset: Path) -> list[float]:
    """Return the canary of a finished build."""
    vector: list[float] = json.loads((dataset / "manifest.json").read_text())["canary"]
    return vector


def test_the_manifest_lists_near_encoders(own_dataset: Path, tmp_path: Path) -> None:
    """A build whose part another machine made says so, how many rows, and still verifies."""
    vector = read_canary(own_dataset)
    edit_report(own_dataset, "test-00000", canary=turn(vector, 0.99995))
    config = AssembleConfig(
        source=own_dataset,
        output=tmp_path / "out",
        samples_per_shard=SAMPLES_PER_SHARD,
        figures=False,
    )
    manifest = assemble_directory(config)
    assert manifest.canary is not None
    (variant,) = manifest.canary.variants
    assert round(variant.cosine, 5) == 0.99995
    assert variant.n_rows == manifest.splits["test"].rows
    assert verify_dataset(tmp_path / "out") == []


def test_a_changed_encoder_does_not_go_on(own_dataset: Path, run_build: RunBuild) -> None:
    """A run whose encoder differs from that of the finished parts is refused before it encodes."""
    (own_dataset / ".build/parts/train-00000.json").unlink()
    for name in ("test-00000", "validation-00000"):
        edit_report(own_dataset, name, canary=read_canary(own_dataset)[::-1])
    with pytest.raises(BuildError, match="gives another embedding of the package's test video"):
        run_build(own_dataset)


def test_a_second_assembly_is_refused(own_dataset: Path, tmp_path: Path) -> None:
    """While one process assembles a directory, another one is told so."""
    config = AssembleConfig(source=own_dataset, output=tmp_path / "out")
    (tmp_path / "out/.build").mkdir(parents=True)
    held: Any = FileLock(tmp_path / "out/.build/assemble.lock")
    with held, pytest.raises(InputError, match="another process is assembling"):
        assemble_directory(config)
