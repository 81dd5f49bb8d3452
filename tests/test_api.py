"""The Python API is the command line's equal: the same options, the same bytes, no output."""

import inspect
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

import clip_kinetics700_builder
from clip_kinetics700_builder import (
    BuildError,
    InputError,
    assemble,
    build,
    convert,
    encode,
    push,
    search,
    verify,
    write_card,
)
from clip_kinetics700_builder.cli.app import cli
from clip_kinetics700_builder.config import AssembleConfig, EncodeConfig
from clip_kinetics700_builder.option import list_options, read_value
from tests.support.datasets.builds import SAMPLES_PER_SHARD, published_hashes
from tests.support.kinetics.miniature import MiniKinetics
from tests.support.processes.checkout import SOURCE_PATHS

# What the command line has and Python says otherwise: by what is returned, raised or passed on.
NOT_FOR_PYTHON = {"quiet", "debug", "as_json", "result_file", "figure"}
# Commands of one function each; the other commands print, and their functions are in their rooms.
SHARE_IS_RETURNED = ("assemble", "convert")
"""Commands whose option `--max-failures` decides their exit code and nothing else."""
COMMAND_OF_FUNCTION = {
    "assemble": "assemble",
    "build": "build",
    "convert": "convert",
    "download": "download",
    "embed_classes": "embed-classes",
    "encode": "encode",
    "evaluate_attentive_probe": "evaluate attentive-probe",
    "evaluate_linear_probe": "evaluate linear-probe",
    "evaluate_zero_shot": "evaluate zero-shot",
    "push": "push",
    "search": "search",
    "verify": "verify",
    "write_card": "card",
}
PROGRAM = """
from clip_kinetics700_builder import build
build("{output}", annotations="{annotations}", videos="{videos}", model="{model}",
      dtype="float32", batch_size=8, decode_workers=1, figures=False)
"""


def build_options(kinetics: MiniKinetics, model: Path) -> dict[str, Any]:
    """Return the options that the dataset of the tests is built with."""
    return {
        "annotations": kinetics.annotations,
        "videos": str(kinetics.videos),
        "model": str(model),
        "dtype": "float32",
        "batch_size": 8,
        "decode_workers": 1,
    }


def list_parameters(command: str) -> set[str]:
    """Return the names of a command's parameters as Python has them."""
    found: click.Command = cli
    for word in command.split():
        assert isinstance(found, click.Group)
        found = found.commands[word]
    names = set()
    for parameter in found.params:
        flags = [flag for flag in parameter.opts if flag.startswith("--")]
        name = flags[0].removeprefix("--") if flags else str(parameter.name)
        if parameter.name not in NOT_FOR_PYTHON:
            names.add(name.replace("-", "_"))
    if command in SHARE_IS_RETURNED:
        names.remove("max_failures")
    # A dry run prints what it finds; `push` alone returns it.
    return names if command == "push" else names - {"dry_run"}


@pytest.mark.parametrize("function", COMMAND_OF_FUNCTION)
def test_a_function_takes_what_its_command_takes(function: str) -> None:
    """Every option of the command is one of the function, and no other is."""
    call = getattr(clip_kinetics700_builder, function)
    taken = set(inspect.signature(call).parameters) - {"progress"}
    renamed = {"evaluation": "evaluations"}
    assert taken == {
        renamed.get(name, name) for name in list_parameters(COMMAND_OF_FUNCTION[function])
    }
    with pytest.raises(TypeError, match="has no option 'nonsense'; it has "):
        call(nonsense=1)


def test_help_names_every_option() -> None:
    """`help(build)` says what each option is for, in the words of the command line."""
    text = inspect.getdoc(build) or ""
    assert "    batch_size: Frames in a call of the model; default: 16 on a CPU" in text


def test_every_function_is_exported() -> None:
    """`__all__` names the functions, the errors and the command line, and each can be imported."""
    names = {*COMMAND_OF_FUNCTION, "BuildError", "InputError", "main"}
    assert set(clip_kinetics700_builder.__all__) == names
    for name in names:
        assert callable(getattr(clip_kinetics700_builder, name))


def test_a_room_does_not_hide_its_function() -> None:
    """Importing a module of the function's name leaves the function where it is."""
    import clip_kinetics700_builder.build
    import clip_kinetics700_builder.verify.dataset

    for name in ("build", "verify", "convert", "download", "encode", "assemble"):
        assert inspect.isfunction(getattr(clip_kinetics700_builder, name)), name


def test_importing_the_api_is_cheap() -> None:
    """No heavy library is loaded before a function is called."""
    program = (
        "import sys\nfrom clip_kinetics700_builder import build, convert, push, search\n"
        "print(sorted({'torch', 'transformers', 'huggingface_hub', 'pyarrow', 'click', 'rich'}"
        " & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": SOURCE_PATHS}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_bytes_are_those_of_the_command(
    mini_kinetics: MiniKinetics,
    random_model: Path,
    dataset: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A dataset built from Python is the same, file by file; nothing is printed on the way."""
    options = build_options(mini_kinetics, random_model)
    output = tmp_path / "out"
    built = build(output, **options, samples_per_shard=SAMPLES_PER_SHARD, figures=False)
    assert published_hashes(output) == published_hashes(dataset)
    assert built.encoded.n_clips == 28
    assert repr(built.manifest).startswith("Manifest(23 samples, 5 failures, ")
    assert verify(output) == []
    parts = encode(tmp_path / "parts", **options)
    assert parts.n_parts_left == 0
    manifest = assemble(
        tmp_path / "parts", tmp_path / "again", samples_per_shard=SAMPLES_PER_SHARD, figures=False
    )
    assert manifest == built.manifest
    converted = convert(output, str(tmp_path / "converted"), formats="parquet", figures=False)
    assert converted.formats == ("parquet",)
    assert write_card(output) == output / "README.md"
    assert capfd.readouterr() == ("", "")


def test_progress_is_shown_by_what_is_given(dataset: Path) -> None:
    """A `Progress` of the caller's own is told what is done, how much of it, and in which unit."""
    told: list[tuple[str, int, str]] = []

    def progress(description: str, total: int, unit: str) -> Any:
        told.append((description, total, unit))
        from contextlib import nullcontext

        return nullcontext(lambda _: None)

    assert verify(dataset, progress=progress) == []
    assert told == [("verify", 23, "samples")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: 0; a whole number from 1 up to 1e+09 is needed"),
        ({"frames_per_second": 0}, "frames_per_second: 0; a number over 0 up to 1e+06"),
        ({"frames_per_second": "fast"}, "frames_per_second: 'fast'; a number"),
        ({"batch_size": 1.5}, "batch_size: 1.5; a whole number"),
        ({"figures": "no"}, "figures: 'no'; True or False is needed"),
        ({"model": 7}, "model: 7; text is needed"),
        ({"model": b"m"}, "model: b'm'; text is needed"),
        ({"videos": ""}, "videos: ''; text is needed"),
        ({"formats": ["parquet", "bogus"]}, "formats: 'parquet,bogus': allowed are"),
        ({"seed": False}, "seed: False; a whole number"),
        ({"batch_size": 10**10}, "batch_size: 10000000000; a whole number"),
        ({"dtype": "int8"}, "dtype: 'int8'; allowed are auto, float32, bfloat16, float16"),
        ({"splits": "train,nonsense"}, "splits: unknown split 'nonsense'"),
        ({"device": "tpu"}, "device: 'tpu': allowed are auto, cpu, cuda, cuda:N"),
        ({"annotations": "/nowhere.csv"}, "/nowhere.csv"),
    ],
)
def test_a_wrong_value_is_one_clear_error(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    """Values are refused as on the command line, before anything is written."""
    given: dict[str, Any] = {"annotations": tmp_path / "none.csv", "videos": tmp_path, **options}
    with pytest.raises(InputError) as caught:
        build(tmp_path / "out", **given)
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_values_may_be_spelled_as_python_has_them() -> None:
    """Lists, numpy's numbers and paths become what the command line's words become."""
    options = list_options(EncodeConfig, AssembleConfig)
    values = {
        "splits": (["val", "train"], ("validation", "train")),
        "formats": (["webdataset", "parquet"], ("parquet", "webdataset")),
        "annotations": ("a.csv", (Path("a.csv"),)),
        "retry_errors": ((), ()),
        "batch_size": (np.int64(8), 8),
        "frames_per_second": (2, 2.0),
        "model": (Path("clip"), "clip"),
        "date": (None, None),
    }
    for name, (given, wanted) in values.items():
        found = read_value(*options[name], given)
        assert (found, type(found)) == (wanted, type(wanted)), name


def test_one_text_is_not_taken_for_its_letters(dataset: Path, tmp_path: Path) -> None:
    """One result of an evaluation may be given as it is, without a list around it."""
    with pytest.raises(FileNotFoundError, match=r"probe\.json"):
        write_card(dataset, evaluations=tmp_path / "probe.json")
    with pytest.raises(InputError, match="source: None; a path is needed"):
        verify(None)  # type: ignore[arg-type]


def test_names_are_completed() -> None:
    """`dir` names the functions before the first of them is used."""
    assert {"build", "search", "InputError"} <= set(dir(clip_kinetics700_builder))


def test_errors_are_those_of_the_rooms(tmp_path: Path, dataset: Path) -> None:
    """What cannot be used is an InputError, and a BuildError is no InputError."""
    with pytest.raises(InputError, match="REPO_ID 'x': must be NAMESPACE/NAME"):
        push(dataset, "x")
    with pytest.raises(InputError, match="no directory"):
        search(tmp_path / "nowhere", ["a dog"], model="nobody")
    assert not issubclass(BuildError, InputError)


@pytest.mark.needs_ffmpeg
def test_a_script_without_a_guard_is_told_of_it(
    mini_kinetics: MiniKinetics, random_model: Path, tmp_path: Path
) -> None:
    """Called at the top of a script, `build` says in one line what the script lacks."""
    script = tmp_path / "script.py"
    script.write_text(
        PROGRAM.format(
            output=tmp_path / "out",
            annotations=mini_kinetics.annotations,
            videos=mini_kinetics.videos,
            model=random_model,
        )
    )
    # As Python runs a script, but for the seconds that another process would load torch for: the
    # processes that decode import the script all the same.
    with pytest.raises(InputError) as caught:
        runpy.run_path(str(script), run_name="__main__")
    message = str(caught.value)
    assert 'the script needs `if __name__ == "__main__":` around what it calls' in message
    assert len(message.splitlines()) == 1
    assert "memory" not in message
