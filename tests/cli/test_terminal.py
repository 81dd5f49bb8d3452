"""No text of others drives the terminal, whatever file it comes from."""

import csv
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from clip_kinetics700_builder.cli.terminal import clean
from tests.support.datasets.builds import command_line, run_cli, run_cli_process
from tests.support.processes.checkout import SOURCE_PATHS

ESCAPE = "\x1b]0;PWNED\x07\x1b[31m\u202e"


def has_controls(text: str) -> bool:
    """Tell whether a text holds letters that a terminal obeys."""
    return any(not letter.isprintable() and letter not in "\n\t" for letter in text)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A dataset whose only sample is damaged, and called as no sample should be."""
    place = tmp_path / f"da{ESCAPE}ta" / "train"
    place.mkdir(parents=True)
    with tarfile.open(place / "00000.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name in (f"key{ESCAPE}.npy", f"key{ESCAPE}.txt"):
            member = tarfile.TarInfo(name)
            member.size = 8
            tar.addfile(member, io.BytesIO(b"nonsense"))
    return place.parent


@pytest.mark.parametrize("words", [(), ("--on-error", "skip")])
@pytest.mark.parametrize("command", ["info", "index", "convert"])
def test_names_of_samples_are_escaped(
    command: str, words: tuple[str, ...], hostile: Path, tmp_path: Path
) -> None:
    """In an error, in a warning, in a table."""
    output = (tmp_path / "out",) if command == "convert" else ()
    outcome = run_cli_process(command, hostile, *output, *words)
    assert not has_controls(outcome.stdout + outcome.stderr)
    assert "PWNED" in outcome.stdout + outcome.stderr


def test_names_of_classes_are_escaped(tmp_path: Path) -> None:
    """A label of a table comes by `status`."""
    with (tmp_path / "list.csv").open("w", newline="", encoding="utf-8") as file:
        header = ("label", "youtube_id", "time_start", "time_end", "split")
        csv.writer(file).writerows([header, (f"yo{ESCAPE}ga", "abcdefghijk", 1, 11, "train")])
    (tmp_path / "source").mkdir()
    (tmp_path / "source/other.mp4").touch()
    words = ("--annotations", tmp_path / "list.csv", "--source", tmp_path / "source")
    run_cli("download", *words, "--output", tmp_path / "got")
    outcome = run_cli("status", tmp_path / "got")
    assert "PWNED" in outcome.stdout
    assert not has_controls(outcome.stdout)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:secret@host/a: 404", "https://***@host/a: 404"),
        ("https://me:sec@ret@host/a: 404", "https://***@host/a: 404"),
        ("file https:/me:secret@host/a", "file https:/***@host/a"),
        ("https://h/a?X-Amz-Signature=abc&b=1", "https://h/a?X-Amz-Signature=***&b=1"),
        ("https://www.youtube.com/watch?v=abc&t=3", "https://www.youtube.com/watch?v=abc&t=3"),
        ("hf://datasets/me/it@main/a", "hf://datasets/me/it@main/a"),
        ("Überraschung \u7684 \U0001f600\tb", "Überraschung \u7684 \U0001f600\tb"),
    ],
)
def test_passwords_in_addresses_are_hidden(text: str, shown: str) -> None:
    """What is no secret stays as it is."""
    assert clean(text) == shown


@pytest.mark.parametrize("command", ["info", "verify"])
@pytest.mark.parametrize("closed", ["1", "2"])
def test_a_process_without_streams_works(command: str, closed: str, dataset: Path) -> None:
    """Services are started so."""
    words = ["sh", "-c", f'exec "$@" {closed}>&-', "sh", *command_line(command, dataset)]
    environment = {**os.environ, "PYTHONPATH": SOURCE_PATHS}
    assert subprocess.run(words, env=environment, check=False).returncode == 0
