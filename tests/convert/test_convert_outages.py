"""An outage of the source ends a conversion, whatever damage is skipped; the next run goes on."""

import errno
import os
from pathlib import Path

import pytest

from tests.support.datasets.builds import published_hashes, run_cli, run_cli_process
from tests.support.hub.faults import Action
from tests.support.hub.servers import serve
from tests.support.processes.failing_disk import FailingDisk

WORDS = ("--no-figures", "--quiet")


@pytest.fixture(scope="module")
def converted(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of an undisturbed conversion."""
    output = tmp_path_factory.mktemp("converted") / "out"
    outcome = run_cli("convert", dataset, output, *WORDS)
    assert outcome.returncode == 0, outcome.stderr
    return published_hashes(output)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("action", ["reset", 503])
def test_a_server_that_goes_away_costs_no_sample(
    action: Action | int, on_error: str, dataset: Path, converted: dict[str, str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """No sample is left out as damaged, and nothing is complete before all are there."""
    monkeypatch.setattr("clip_kinetics700.remote.PAUSE_SECONDS", 0.001)
    output, words = tmp_path / "out", (*WORDS, "--on-error", on_error)
    with serve(dataset) as served:
        served.fail("ds_000001.tar", action)
        outcome = run_cli("convert", served.url, output, *words)
        assert outcome.returncode == 1, outcome.stderr
        assert not (output / "manifest.json").exists()
        served.end_faults()
        outcome = run_cli("convert", served.url, output, *words)
    assert outcome.returncode == 0, outcome.stderr
    assert published_hashes(output) == converted


@pytest.mark.slow
@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("fault", [("open", errno.ESTALE), ("open", errno.EMFILE)])
def test_an_error_of_the_disk_costs_no_sample(
    fault: tuple[str, int], on_error: str, dataset: Path, converted: dict[str, str],
    failing_disk: FailingDisk, tmp_path: Path,
) -> None:  # fmt: skip
    """The system's own words end the run; they are no damage."""
    call, number = fault
    output, switch = tmp_path / "out", tmp_path / "on"
    words = ("convert", dataset, output, *WORDS, "--on-error", on_error)
    switch.touch()
    fails = failing_disk.environment(call, number, f"{dataset}/ds_000001.tar", switch)
    outcome = run_cli_process(*words, **fails)
    assert outcome.returncode == 1, outcome.stderr
    assert os.strerror(number) in outcome.stderr
    assert not (output / "manifest.json").exists()
    switch.unlink()
    outcome = run_cli_process(*words, **fails)
    assert outcome.returncode == 0, outcome.stderr
    assert published_hashes(output) == converted
