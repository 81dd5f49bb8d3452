"""`build_dataset` builds the miniature Kinetics: with the options under test, the others small."""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from clip_kinetics700_builder import build
from clip_kinetics700_builder.cli import app as cli
from clip_kinetics700_builder.system.files import hash_file, seal_json, write_json
from tests.support.kinetics.miniature import MiniKinetics
from tests.support.processes.checkout import SOURCE_PATHS

SAMPLES_PER_SHARD = 5


class RunBuild(Protocol):
    """Builds the miniature Kinetics into a directory."""

    def __call__(self, output: Path, **options: Any) -> dict[str, Any] | None:
        """Return the manifest, or None where parts are left."""
        ...


def build_dataset(
    kinetics: MiniKinetics, model: Path, output: Path, **options: Any
) -> dict[str, Any] | None:
    """Build in this process without pictures; the options are those of `build`."""
    defaults: dict[str, Any] = {
        "annotations": kinetics.annotations,
        "videos": kinetics.videos,
        "dtype": "float32",
        "batch_size": 8,
        "decode_workers": 1,
        "samples_per_shard": SAMPLES_PER_SHARD,
        "figures": False,
    }
    manifest = build(output, model=str(model), **{**defaults, **options}).manifest
    return None if manifest is None else dict(manifest.document)


def build_arguments(kinetics: MiniKinetics, model: Path, output: Path) -> list[str]:
    """Return the command line of the same build."""
    return [
        "build", "--annotations", str(kinetics.annotations), "--videos", str(kinetics.videos),
        "--output", str(output), "--model", str(model), "--dtype", "float32",
        "--batch-size", "8", "--decode-workers", "1",
        "--samples-per-shard", str(SAMPLES_PER_SHARD), "--no-figures",
    ]  # fmt: skip


def command_line(*arguments: str | Path) -> list[str]:
    """Return the command that runs the CLI of this checkout."""
    return [
        sys.executable,
        "-m",
        "clip_kinetics700_builder",
        *map(str, arguments),
    ]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a user sees of a command."""

    returncode: int
    stdout: str
    stderr: str


def run_cli(*arguments: str | Path) -> Outcome:
    """Run the CLI in this process, which spares the seconds that torch takes to load."""
    with redirect_stdout(io.StringIO()) as stdout, redirect_stderr(io.StringIO()) as stderr:
        code = cli.run([str(argument) for argument in arguments])
    return Outcome(code, stdout.getvalue(), stderr.getvalue())


def run_cli_process(*arguments: str | Path, **environment: str) -> Outcome:
    """Run the CLI in a process of its own, with more environment variables."""
    result = subprocess.run(
        command_line(*arguments),
        env={**os.environ, "PYTHONPATH": SOURCE_PATHS, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Outcome(result.returncode, result.stdout, result.stderr)


def edit_report(dataset: Path, name: str, **fields: Any) -> None:
    """Let a part of a build say something else, under a hash of that."""
    path = dataset / f".build/parts/{name}.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, seal_json({**document, **fields}))


def published_hashes(output: Path) -> dict[str, str]:
    """Return the sha256 of every published file, hidden ones left out."""
    return {path.relative_to(output).as_posix(): hash_file(path) for path in list_published(output)}


def list_published(output: Path) -> list[Path]:
    """Return the files of a dataset that are not in or under a hidden name."""
    return [
        path
        for path in sorted(output.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(output).parts)
    ]
