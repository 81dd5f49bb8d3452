"""These fixtures are shared by several test modules; videos are made once a session.

The process that hands tests to the workers of pytest-xdist loads this module as well, and runs
none: what takes seconds to load is imported by the fixture that needs it.
"""

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from clip_kinetics700_builder.clips.releases import RELEASES
from clip_kinetics700_builder.config import AssembleConfig
from tests.support.datasets.builds import SAMPLES_PER_SHARD, RunBuild, build_dataset
from tests.support.kinetics.cvdf import CvdfTree, make_cvdf_tree
from tests.support.kinetics.miniature import MiniKinetics, make_mini_kinetics
from tests.support.processes import torture
from tests.support.processes.checkout import SOURCE_PATHS
from tests.support.processes.failing_disk import FailingDisk, compile_failing_disk

if TYPE_CHECKING:
    from tests.support.media.videos import CodedVideo

# Machines that run tests stall now and then, so there is no deadline; a red run is repeatable.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")
# The server that decode workers are forked from imports them before it knows this process's path.
os.environ["PYTHONPATH"] = SOURCE_PATHS


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage while torch and all tests are loaded, and not among them later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let a worker of pytest-xdist hand over what its hostile cases were."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["torture"] = torture.lines


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a worker of pytest-xdist hands over."""
    torture.lines.extend(getattr(node, "workeroutput", {}).get("torture", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many hostile cases were run."""
    for line in torture.lines:
        terminalreporter.write_line(f"torture: {line}")


@pytest.fixture(scope="session")
def video_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the session's videos; tests that change one copy it first."""
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="session")
def plain_video(video_directory: Path) -> "CodedVideo":
    """10.08 seconds of H.264 in mp4 at 25 frames a second, 64 x 48, with B-frames."""
    from tests.support.media.videos import encode_coded

    options = ("-c:v", "libx264", "-g", "48")
    return encode_coded(video_directory / "plain.mp4", options=options, n_frames=252)


@pytest.fixture(scope="session")
def mini_kinetics(tmp_path_factory: pytest.TempPathFactory) -> MiniKinetics:
    """28 annotation rows and 26 files; tests that change one copy it first."""
    return make_mini_kinetics(tmp_path_factory.mktemp("mini_kinetics") / "kinetics")


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a tiny CLIP vision model with random weights."""
    from clip_kinetics700_builder.encode.vision import save_random_model

    directory = tmp_path_factory.mktemp("model") / "random_clip"
    save_random_model(directory)
    return directory


@pytest.fixture(scope="session")
def whole_clip(tmp_path_factory: pytest.TempPathFactory, random_model: Path) -> Path:
    """Directory of a whole CLIP whose vision tower is that of `random_model`."""
    from tests.support.datasets.models import save_whole_clip

    return save_whole_clip(tmp_path_factory.mktemp("model") / "whole_clip", random_model)


@pytest.fixture(scope="session")
def run_build(mini_kinetics: MiniKinetics, random_model: Path) -> RunBuild:
    """Return the function that builds the miniature Kinetics in this process."""

    def run(output: Path, **options: Any) -> dict[str, Any] | None:
        return build_dataset(mini_kinetics, random_model, output, **options)

    return run


@pytest.fixture(scope="session")
def dataset(run_build: RunBuild, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature Kinetics, built with five samples a shard; tests only read it."""
    output = tmp_path_factory.mktemp("built") / "dataset"
    assert run_build(output) is not None
    return output


@pytest.fixture(scope="session")
def failing_disk(tmp_path_factory: pytest.TempPathFactory) -> FailingDisk:
    """What lets calls of other processes fail."""
    disk = compile_failing_disk(tmp_path_factory.mktemp("failing"))
    if disk is None:
        pytest.skip("needs Linux and a C compiler")
    return disk


@pytest.fixture
def quick_dry_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run keeps all cores encoding for a moment instead of two seconds."""
    monkeypatch.setattr("clip_kinetics700_builder.engines.cost.ENCODE_SECONDS", 0.01)


@pytest.fixture(scope="session")
def illustrated(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same dataset with its pictures, which take two seconds; tests only read it."""
    from clip_kinetics700_builder.assemble.assemble import assemble_directory

    output = tmp_path_factory.mktemp("illustrated") / "dataset"
    config = AssembleConfig(source=dataset, output=output, samples_per_shard=SAMPLES_PER_SHARD)
    assemble_directory(config)
    return output


@pytest.fixture(scope="session")
def trees(
    mini_kinetics: MiniKinetics, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, CvdfTree]:
    """Trees like CVDF's bucket, one a release; tests that change one copy it or put it back."""
    top = tmp_path_factory.mktemp("trees")
    return {version: make_cvdf_tree(top / version, mini_kinetics, version) for version in RELEASES}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment for a Hub that runs on this machine as long as the test."""
    from tests.support.hub.hubs import ALICE, start_hub

    with start_hub(tmp_path) as hub:
        yield {
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": ALICE,
            "HF_HOME": str(hub.home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "PYTHONPATH": SOURCE_PATHS,
        }
