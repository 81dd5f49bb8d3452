"""The command line answers a user as documented."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_origin

import pytest

from clip_kinetics700_builder.cli.app import cli
from clip_kinetics700_builder.config import (
    AssembleConfig,
    ConvertConfig,
    DownloadConfig,
    EncodeConfig,
)
from clip_kinetics700_builder.option import list_options
from clip_kinetics700_builder.types import InputError
from tests.support.datasets.builds import (
    Outcome,
    build_arguments,
    command_line,
    list_published,
    run_cli,
    run_cli_process,
)
from tests.support.kinetics.miniature import MiniKinetics
from tests.support.processes.checkout import SOURCE_PATHS

pytestmark = pytest.mark.needs_ffmpeg

ANNOTATION = "label,youtube_id,time_start,time_end,split\nyoga,abcdefghijk,0,10,train\n"


@pytest.fixture
def inputs(tmp_path: Path, random_model: Path) -> dict[str, str]:
    """Options of a build that would work, if without a single sample."""
    (tmp_path / "train.csv").write_text(ANNOTATION, encoding="utf-8")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/abcdefghijk_000000_000010.mp4").touch()
    return {
        "--annotations": str(tmp_path / "train.csv"),
        "--videos": str(tmp_path / "videos"),
        "--output": str(tmp_path / "out"),
        "--model": str(random_model),
    }


def build_words(inputs: dict[str, str]) -> list[str]:
    """Return the command line of a build."""
    return ["build", *(word for pair in inputs.items() for word in pair)]


def assert_refused(inputs: dict[str, str], message: str) -> None:
    """The build ends with exit code 2 and one line, and writes nothing."""
    assert_one_line(run_cli(*build_words(inputs)), message)
    assert not Path(inputs["--output"]).is_dir()


def assert_one_line(outcome: Outcome, message: str) -> None:
    """The command ends with exit code 2 and one line that says what is wrong."""
    assert outcome.returncode == 2, outcome.stderr
    assert re.search(message, outcome.stderr), outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1, outcome.stderr


def test_a_missing_video_directory(inputs: dict[str, str]) -> None:
    """A directory of videos that is not there is named."""
    assert_refused({**inputs, "--videos": "/nowhere/videos"}, "/nowhere/videos")


def test_missing_annotations(inputs: dict[str, str]) -> None:
    """An annotation file that is not there is named."""
    assert_refused({**inputs, "--annotations": "/nowhere/a.csv"}, "/nowhere/a.csv")


def test_an_unreadable_csv(inputs: dict[str, str], tmp_path: Path) -> None:
    """Annotations that are no utf-8 text are named."""
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00label\x80")
    assert_refused({**inputs, "--annotations": str(tmp_path / "binary.csv")}, "binary.csv")


def test_a_wrong_row_is_named_by_its_line(inputs: dict[str, str], tmp_path: Path) -> None:
    """A time that is no number is an error with file and line."""
    bad = ANNOTATION + "yoga,abcdefghijl,zero,10,train\n"
    (tmp_path / "bad.csv").write_text(bad, encoding="utf-8")
    assert_refused({**inputs, "--annotations": str(tmp_path / "bad.csv")}, r"bad\.csv.*3.*zero")


def test_an_output_that_is_a_file(inputs: dict[str, str], tmp_path: Path) -> None:
    """An output path that is a file is refused and left alone."""
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    assert_refused({**inputs, "--output": str(tmp_path / "file")}, "is a file")
    assert_refused({**inputs, "--output": str(tmp_path / "file/below")}, "is a file")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_a_model_without_weights(inputs: dict[str, str], tmp_path: Path) -> None:
    """A model directory without weights, or with pickled ones alone, is refused."""
    model = tmp_path / "model"
    model.mkdir()
    config = (Path(inputs["--model"]) / "config.json").read_bytes()
    (model / "config.json").write_bytes(config)
    assert_refused({**inputs, "--model": str(model)}, "holds no weights")
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    assert_refused({**inputs, "--model": str(model)}, "only pickled weights")


def test_no_ffmpeg(inputs: dict[str, str], tmp_path: Path) -> None:
    """Where torchcodec does not find FFmpeg's libraries, one line says what to install."""
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for number in range(55, 63):
        for name in ("avutil", "avcodec", "avformat", "avdevice", "avfilter"):
            (libraries / f"lib{name}.so.{number}").write_bytes(b"no library")
    words = build_words({**inputs, "--decoder": "torchcodec"})
    outcome = run_cli_process(*words, LD_LIBRARY_PATH=str(libraries))
    assert_one_line(outcome, "FFmpeg")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--splits", "train,nonsense", "unknown split 'nonsense'"),
        ("--formats", "zip", "allowed are parquet, webdataset"),
        ("--device", "gpu", "allowed are auto, cpu, cuda"),
        ("--rows-per-part", "0", "1<=x<="),
        ("--dtype", "int8", "'int8' is not one of"),
        ("--rank", "1", "--world-size 1"),
        ("--splits", "test", "test"),
        ("--splits", ",", "unknown split ''"),
        ("--frames-per-second", "nan", "not a finite number"),
        ("--frames-per-second", "inf", "not in the range"),
        ("--max-failures", "nan", "not a finite number"),
        ("--task-timeout", "inf", "not in the range"),
        ("--samples-per-shard", "99999999999999999999", "1<=x<="),
        ("--date", "yesterday", "a date like 2026-01-31"),
        ("--videos", "v\udcff", "is not UTF-8"),
    ],
)
def test_wrong_options_are_misuse(
    inputs: dict[str, str], option: str, value: str, message: str
) -> None:
    """A value that is not allowed ends with exit code 2 and says what is."""
    outcome = run_cli(*build_words({**inputs, option: value}))
    assert outcome.returncode == 2, outcome.stderr
    assert message in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
    assert not Path(inputs["--output"]).exists()


@pytest.mark.usefixtures("quick_dry_run")
def test_several_annotation_files_after_one_option(
    mini_kinetics: MiniKinetics, random_model: Path, tmp_path: Path
) -> None:
    """`--annotations a.csv b.csv`, as a shell's `*` gives it, is the option repeated."""
    words = build_arguments(mini_kinetics, random_model, tmp_path / "out")
    files = [str(mini_kinetics.annotations / f"{name}.csv") for name in ("train", "test")]
    place = words.index("--annotations") + 1
    outcome = run_cli(*words[:place], *files, *words[place + 1 :], "--dry-run")
    assert outcome.returncode == 0, outcome.stderr
    assert re.search(r"train\W+17\W", outcome.stdout)
    assert re.search(r"test\W+4\W", outcome.stdout)
    assert "validation" not in outcome.stdout


def test_an_output_with_files_of_others_is_left_alone(inputs: dict[str, str]) -> None:
    """A directory with a README or tars that were not made here is refused, not cleaned."""
    output = Path(inputs["--output"])
    output.mkdir()
    for name in ("README.md", "ds_000077.tar"):
        (output / name).write_text("mine", encoding="utf-8")
    assert_one_line(run_cli(*build_words(inputs)), "README.md, which was not made here")
    assert sorted(path.name for path in output.iterdir()) == ["README.md", "ds_000077.tar"]


def test_a_clock_that_is_none(inputs: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """SOURCE_DATE_EPOCH is read before hours of work, and its date reaches the manifest."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    assert_refused(inputs, "SOURCE_DATE_EPOCH is 'yesterday'")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    run_cli(*build_words(inputs))
    manifest = (Path(inputs["--output"]) / "manifest.json").read_text(encoding="utf-8")
    assert '"date": "1970-01-02"' in manifest


def test_a_directory_of_other_clips_is_refused(inputs: dict[str, str]) -> None:
    """Where more clips have no file than may fail, nothing is begun."""
    for file in Path(inputs["--videos"]).iterdir():
        file.rename(file.with_name("others.mp4"))
    message = "holds no file of 1 of 1 clips, more than --max-failures 0.5"
    assert_refused(inputs, message)
    outcome = run_cli(*build_words({**inputs, "--max-failures": "1"}))
    assert outcome.returncode == 0, outcome.stderr


def test_too_many_failures_end_with_code_1(inputs: dict[str, str]) -> None:
    """A build whose only clip is empty writes the reasons of the failure alone, and says so."""
    outcome = run_cli(*build_words(inputs))
    assert outcome.returncode == 1, outcome.stderr
    assert "1 of 1 clips failed (100%), more than --max-failures 0.5" in outcome.stderr
    names = {path.name for path in list_published(Path(inputs["--output"]))}
    assert {"manifest.json", "failures.parquet", "README.md"} <= names


@pytest.mark.usefixtures("quick_dry_run")
def test_a_dry_run_writes_nothing(
    mini_kinetics: MiniKinetics, random_model: Path, tmp_path: Path
) -> None:
    """`--dry-run` counts clips and files and leaves no output directory."""
    arguments = build_arguments(mini_kinetics, random_model, tmp_path / "out")
    result = run_cli(*arguments, "--dry-run")
    assert result.returncode == 0, result.stderr
    assert re.search(r"train\W+17\W+15\W+1\W+1\W+1", result.stdout), result.stdout
    assert not (tmp_path / "out").exists()


def test_build_prints_plain_lines_and_a_table(
    mini_kinetics: MiniKinetics, random_model: Path, tmp_path: Path
) -> None:
    """Away from a terminal progress is plain lines; the table counts rows by split and reason."""
    arguments = build_arguments(mini_kinetics, random_model, tmp_path / "out")
    result = run_cli(*arguments)
    assert result.returncode == 0, result.stderr
    assert re.search(r"encode: 28 of 28 clips, [0-9.]+ clips/s", result.stderr)
    assert re.search(r"all\W+28\W+23\W+5\W+55", result.stdout), result.stdout
    assert "\x1b" not in result.stdout + result.stderr
    assert re.search(r"28 clips in .* clips/s", result.stdout)


def test_quiet_says_nothing(dataset: Path) -> None:
    """`--quiet` prints errors only."""
    result = run_cli("verify", dataset, "--quiet")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_verify_names_the_damaged_file(
    mini_kinetics: MiniKinetics, random_model: Path, tmp_path: Path
) -> None:
    """One flipped byte in a tar is exit code 1 and the tar's name."""
    output = tmp_path / "out"
    run_cli(*build_arguments(mini_kinetics, random_model, output))
    data = bytearray((output / "ds_000001.tar").read_bytes())
    data[700] ^= 1
    (output / "ds_000001.tar").write_bytes(data)
    result = run_cli("verify", output)
    assert result.returncode == 1
    assert "ds_000001.tar" in result.stderr


def test_encode_and_assemble_stand_alone(
    dataset: Path, mini_kinetics: MiniKinetics, random_model: Path, tmp_path: Path
) -> None:
    """The two stages as two commands give the files of `build`."""
    arguments = build_arguments(mini_kinetics, random_model, tmp_path / "parts")[1:-3]
    encoded = run_cli("encode", *arguments)
    assert encoded.returncode == 0, encoded.stderr
    options = ("--output", tmp_path / "out", "--samples-per-shard", "5", "--no-figures")
    assembled = run_cli("assemble", tmp_path / "parts", *options)
    assert assembled.returncode == 0, assembled.stderr
    expected = (dataset / "manifest.json").read_bytes()
    assert (tmp_path / "out/manifest.json").read_bytes() == expected


def test_debug_shows_the_traceback(inputs: dict[str, str]) -> None:
    """With --debug, and only then, the error is left to Python, which prints its traceback."""
    words = build_words({**inputs, "--videos": "/nowhere"})
    with pytest.raises(InputError, match="/nowhere"):
        run_cli(*words, "--debug")
    assert "Traceback" not in run_cli(*words).stderr


def test_no_words_at_all_is_misuse() -> None:
    """Without a command there is the help, and exit code 2."""
    outcome = run_cli()
    assert outcome.returncode == 2
    assert "Usage: clip-kinetics700" in outcome.stderr + outcome.stdout


@pytest.mark.parametrize(
    ("command", "kinds"),
    [
        ("build", (EncodeConfig, AssembleConfig)),
        ("convert", (ConvertConfig,)),
        ("download", (DownloadConfig,)),
    ],
)
def test_the_commands_defaults_are_the_configurations(command: str, kinds: tuple[Any, ...]) -> None:
    """Options take their defaults from config.py, the one place that has them."""
    options = list_options(*kinds)
    for parameter in cli.commands[command].params:
        if parameter.name in options:
            field, hint = options[parameter.name]
            is_read_from_words = get_origin(hint) is tuple and parameter.callback is not None
            default: Any = field.default
            default = ",".join(default) if is_read_from_words else default
            assert parameter.default == default, parameter.name


def test_help_needs_no_heavy_library() -> None:
    """`--help` answers without loading torch, transformers, Arrow or the Hub's client."""
    program = (
        "import sys, clip_kinetics700_builder.cli.app as c\n"
        "c.cli.main(['build', '--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'torchcodec', 'pyarrow', 'huggingface_hub', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": SOURCE_PATHS},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.strip().endswith("[]")


@pytest.mark.parametrize(
    "megabytes",
    [300, pytest.param(600, marks=pytest.mark.slow), pytest.param(1200, marks=pytest.mark.slow)],
)
@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_a_process_that_may_take_little_memory_says_so(
    megabytes: int, inputs: dict[str, str]
) -> None:
    """Libraries do not load then, each in its own words."""
    words = command_line(*build_words(inputs))
    result = subprocess.run(
        ["sh", "-c", f'ulimit -v {megabytes * 1000}; exec "$@"', "sh", *words],
        env={**os.environ, "PYTHONPATH": SOURCE_PATHS},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert re.fullmatch(r"clip-kinetics700: out of memory .*\n", result.stderr), result.stderr
