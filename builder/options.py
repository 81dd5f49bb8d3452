"""The options of the command line and how their words are read; defaults come from config.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from builder.config import DEFAULT_MODEL, DTYPES, FORMATS, AssembleConfig, EncodeConfig
from clip_kinetics700.schema import SAMPLES_PER_SHARD, normalize_split

Command = TypeVar("Command", bound=Callable[..., Any])


def split_names(_context: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    """Read `train,val` as split names; nothing means all."""
    try:
        return tuple(dict.fromkeys(normalize_split(word) for word in value.split(",") if word))
    except ValueError as error:
        raise click.BadParameter(str(error), param=option) from error


def format_names(_context: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    """Read `parquet,webdataset`, in any order."""
    words = set(value.split(","))
    if not words or words - set(FORMATS):
        raise click.BadParameter(f"{value!r}: allowed are {', '.join(FORMATS)}", param=option)
    return tuple(name for name in FORMATS if name in words)


def device_name(_context: click.Context, option: click.Parameter, value: str) -> str:
    """Read `auto`, `cpu`, `cuda` or `cuda:N`."""
    index = value.removeprefix("cuda:")
    if value in ("auto", "cpu", "cuda") or (value != index and index.isdecimal()):
        return value
    raise click.BadParameter(f"{value!r}: allowed are auto, cpu, cuda, cuda:N", param=option)


def add_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return one decorator that adds several options in the order given."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


PATH = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)
# The defaults stand in builder/config.py and only there.
ENCODE_DEFAULTS = EncodeConfig(annotations=(), videos=Path(), work=Path())
ASSEMBLE_DEFAULTS = AssembleConfig(source=Path(), output=Path())

general_options = add_options(
    click.option("--quiet", is_flag=True, help="Print errors only."),
    click.option("--debug", is_flag=True, help="Print tracebacks and details."),
)

class_list_option = click.option(
    "--class-list",
    default=ENCODE_DEFAULTS.class_list,
    show_default=True,
    help="auto, 400, 600, 700 or a file with a class name a line: numbers the labels.",
)
encode_options = add_options(
    click.option(
        "--annotations",
        type=PATH,
        multiple=True,
        required=True,
        help="CSV, JSON or plain table (path,caption,...), or a directory of them; repeatable.",
    ),
    click.option("--videos", type=PATH, required=True, help="Directory with the video files."),
    click.option(
        "--model",
        default=DEFAULT_MODEL,
        show_default=True,
        help="Hub id or directory of a CLIP.",
    ),
    click.option("--revision", default=None, help="Branch, tag or commit of a Hub model."),
    click.option(
        "--splits",
        default="",
        callback=split_names,
        help="Comma-separated; default: every split of the annotations.",
    ),
    class_list_option,
    click.option(
        "--frames-per-second",
        type=click.FloatRange(min=0, min_open=True),
        default=ENCODE_DEFAULTS.frames_per_second,
        show_default=True,
        help="How many frames are kept of a second of video.",
    ),
    click.option(
        "--rows-per-part",
        type=COUNT,
        default=ENCODE_DEFAULTS.rows_per_part,
        show_default=True,
        help="Clips in a part, the unit that is never done twice.",
    ),
    click.option("--batch-size", type=COUNT, default=None, help="Frames in a call of the model."),
    click.option(
        "--dtype",
        type=click.Choice(DTYPES),
        default=ENCODE_DEFAULTS.dtype,
        show_default=True,
        help="What the model computes in; the dataset is float16 always.",
    ),
    click.option(
        "--device",
        default=ENCODE_DEFAULTS.device,
        show_default=True,
        callback=device_name,
        help="auto, cpu, cuda or cuda:N.",
    ),
    click.option(
        "--decode-workers",
        type=COUNT,
        default=None,
        help="Processes that decode; default: one less than the cores.",
    ),
    click.option(
        "--task-timeout",
        "task_timeout_seconds",
        type=click.FloatRange(min=0, min_open=True),
        default=ENCODE_DEFAULTS.task_timeout_seconds,
        show_default=True,
        help="Seconds after which decoding 64 frames of a clip is given up.",
    ),
    click.option(
        "--rank",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Number of this process among several on one output.",
    ),
    click.option(
        "--world-size",
        type=COUNT,
        default=1,
        show_default=True,
        help="How many processes share the output.",
    ),
    click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing."),
)
seed_option = click.option(
    "--seed",
    type=int,
    default=ENCODE_DEFAULTS.seed,
    show_default=True,
    help="Seed of the order.",
)
assemble_options = add_options(
    click.option(
        "--samples-per-shard",
        type=COUNT,
        default=SAMPLES_PER_SHARD,
        show_default=True,
        help="Samples in a tar and in a Parquet file.",
    ),
    click.option(
        "--formats",
        default=",".join(FORMATS),
        show_default=True,
        callback=format_names,
        help="What is written: parquet, webdataset.",
    ),
    click.option(
        "--max-failures",
        type=click.FloatRange(0, 1),
        default=ASSEMBLE_DEFAULTS.max_failures,
        show_default=True,
        help="Share of failed clips above which the exit code is 1.",
    ),
    click.option("--date", default=None, help="Date for the manifest; none is written otherwise."),
)
