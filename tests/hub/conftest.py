"""These fixtures are a Hub, and a dataset to push there."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub.publishing import PublishingHub, run_hub, write_layout


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[PublishingHub]:
    """A Hub with nothing in it."""
    with run_hub(tmp_path / "server") as hub:
        yield hub


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards of 100 kB; tests that change them copy them first."""
    directory = tmp_path_factory.mktemp("layout") / "dataset"
    return write_layout(directory, n_shards=2, shard_bytes=100_000)


@pytest.fixture
def copy(layout: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    hidden = shutil.ignore_patterns(".build")
    return Path(shutil.copytree(layout, tmp_path / "copy", ignore=hidden))
