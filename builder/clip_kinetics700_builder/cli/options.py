"""The options that say which clips of Kinetics and where from; shared by several commands."""

import math
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import click

from clip_kinetics700.schema import normalize_split
from clip_kinetics700_builder.clips.releases import VERSIONS
from clip_kinetics700_builder.config import (
    COMPILE_CHOICES,
    DECODE_DEVICES,
    DTYPES,
    ENGINES,
    FORMATS,
    MIN_WORKER_MEMORY_MIB,
    AssembleConfig,
    ConvertConfig,
    DownloadConfig,
    EncodeConfig,
    SourceConfig,
)

Command = TypeVar("Command", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)
DEFAULTS = EncodeConfig(work=Path())


def reason_names(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> tuple[str, ...] | None:
    """Read `timed_out,http_503`; nothing behind the option means all."""
    return None if value is None else tuple(word for word in value.split(",") if word)


def split_names(_context: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    """Read `train,val` as split names; nothing means all."""
    words = value.split(",") if value else []
    try:
        return tuple(dict.fromkeys(normalize_split(word) for word in words))
    except ValueError as error:
        raise click.BadParameter(str(error), param=option) from error


def add_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return one decorator that adds several options in the order given."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


splits_option = click.option(
    "--splits",
    default="",
    callback=split_names,
    help="Comma-separated; default: every split of the annotations.",
)
source_of_annotations = add_options(
    click.option(
        "--base-url",
        metavar="URL_OR_DIR",
        default=DEFAULTS.base_url,
        show_default=True,
        help="Where CVDF's lists, archives and annotations are: a mirror or a directory.",
    ),
    click.option(
        "--annotations-url",
        metavar="URL_OR_DIR",
        default=DEFAULTS.annotations_url,
        show_default=True,
        help="Where DeepMind's annotations are.",
    ),
    click.option(
        "--cache",
        type=PATH,
        default=DEFAULTS.cache,
        help="Directory of fetched annotations; default: clip-kinetics700 in the user's cache.",
    ),
)
release_options = add_options(
    click.option(
        "--version",
        type=click.Choice(VERSIONS),
        default=DEFAULTS.version,
        help="Release of Kinetics; its annotations are fetched where none are given.",
    ),
    source_of_annotations,
)
retry_option = click.option(
    "--retry-errors",
    metavar="[REASON,...]",
    is_flag=False,
    flag_value="",
    default=None,
    callback=reason_names,
    help="Try again what failed, for all reasons or for some.",
)


def class_names(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, ...]:
    """Read `yoga,clean and jerk`: no class of Kinetics has a comma in its name."""
    return tuple(word.strip() for word in value.split(",") if word.strip())


DOWNLOAD_DEFAULTS = DownloadConfig(output=Path())
download_options = add_options(
    click.option(
        "--annotations",
        type=PATH,
        multiple=True,
        help="CSV or JSON of Kinetics, or directories of them, instead of those of --version.",
    ),
    splits_option,
    click.option(
        "--classes", default="", callback=class_names, help="Comma-separated; default: all."
    ),
    click.option(
        "--max-samples",
        type=click.IntRange(min=1),
        default=DOWNLOAD_DEFAULTS.max_samples,
        help="Clips of each split; those that are there count first.",
    ),
    click.option(
        "--shuffle",
        is_flag=True,
        default=DOWNLOAD_DEFAULTS.shuffle,
        help="Random clips instead of those that cost least to get.",
    ),
    click.option("--seed", type=int, default=DOWNLOAD_DEFAULTS.seed, show_default=True),
    click.option(
        "--num-workers",
        type=click.IntRange(min=1, max=64),
        default=DOWNLOAD_DEFAULTS.num_workers,
        show_default=True,
        help="Clips or archives at a time.",
    ),
    click.option(
        "--source",
        metavar="DIR,cvdf,youtube",
        default=",".join(DOWNLOAD_DEFAULTS.source),
        show_default=True,
        callback=class_names,
        help="Where to look for a clip, one after the other.",
    ),
    click.option("--output", type=PATH, required=True, help="Directory of the clips."),
    click.option(
        "--cookies",
        type=PATH,
        default=DOWNLOAD_DEFAULTS.cookies,
        help="For YouTube: cookies of a browser that is signed in, a Netscape file.",
    ),
    click.option(
        "--youtube-interval",
        type=click.FloatRange(min=0, max=3600),
        default=DOWNLOAD_DEFAULTS.youtube_interval,
        show_default=True,
        help="Seconds between the begins of two downloads from YouTube.",
    ),
    click.option("--dry-run", is_flag=True, help="Say what would be got; write nothing."),
)


class FiniteRange(click.FloatRange):
    """A range of numbers that are numbers: `nan` and `inf` are refused."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


# More than anything counted here; beyond it, numbers stop fitting where they are used.
COUNT = click.IntRange(min=1, max=10**9)
POSITIVE = FiniteRange(min=0, max=10**6, min_open=True)

run_options = add_options(
    click.option(
        "--encode-lanes",
        type=COUNT,
        default=DEFAULTS.encode_lanes,
        help="Batches in the encoder at a time; default: one a core, two on a GPU.",
    ),
    click.option(
        "--decode-workers",
        type=COUNT,
        default=DEFAULTS.decode_workers,
        help="Processes that decode; default: one a core.",
    ),
    click.option(
        "--task-timeout",
        "task_timeout_seconds",
        type=POSITIVE,
        default=DEFAULTS.task_timeout_seconds,
        show_default=True,
        help="Seconds after which decoding 64 frames of a clip is given up.",
    ),
    click.option(
        "--worker-memory",
        "worker_memory_mib",
        type=click.IntRange(min=MIN_WORKER_MEMORY_MIB),
        default=DEFAULTS.worker_memory_mib,
        show_default=True,
        help="MiB at which a process that decodes is stopped and its clip given up.",
    ),
    click.option(
        "--rank",
        type=click.IntRange(min=0),
        default=DEFAULTS.rank,
        help="Number of this process among several on one output; default: Slurm's, else 0.",
    ),
    click.option(
        "--world-size",
        type=COUNT,
        default=DEFAULTS.world_size,
        help="How many processes share the output; default: Slurm's, else 1.",
    ),
    click.option(
        "--engine",
        type=click.Choice(ENGINES),
        default=DEFAULTS.engine,
        show_default=True,
        help="local: this machine, or this rank of several; ray: a Ray cluster.",
    ),
    click.option(
        "--ray-address",
        metavar="HOST:PORT",
        default=DEFAULTS.ray_address,
        help="Or auto, or local; default: RAY_ADDRESS, else a cluster on this machine.",
    ),
    click.option(
        "--ray-cpus",
        type=COUNT,
        default=DEFAULTS.ray_cpus,
        help="CPUs of one task; default: those of the smallest node, shared among its GPUs.",
    ),
)


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


def iso_date(_context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Read a date like 2026-01-31."""
    try:
        return value if value is None else date.fromisoformat(value).isoformat()
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: a date like 2026-01-31", param=option) from error


def spread_values(words: list[str], option: str) -> list[str]:
    """Repeat an option before each of its values: `--annotations a b` as a shell's `*` gives."""
    spread: list[str] = []
    is_value = False
    for word in words:
        if word.startswith("-") and word != "-":
            is_value = word == option
            spread += [] if is_value else [word]
        else:
            spread += [option, word] if is_value else [word]
    # An option without a value is left for click to complain about.
    return spread if option in spread or option not in words else words


# The defaults stand in config.py and only there.
ENCODE_DEFAULTS = EncodeConfig(work=Path())
ASSEMBLE_DEFAULTS = AssembleConfig(source=Path(), output=Path())
SOURCE_DEFAULTS = SourceConfig(source="")
CONVERT_DEFAULTS = ConvertConfig(source=SOURCE_DEFAULTS, output=Path())

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
        help="CSV, JSON or plain tables (path,caption,...), or directories of them; one or more.",
    ),
    click.option(
        "--videos",
        type=PATH,
        default=ENCODE_DEFAULTS.videos,
        help="Directory with the video files.",
    ),
    click.option(
        "--source",
        "clip_source",
        type=click.Choice(("cvdf",)),
        default=ENCODE_DEFAULTS.clip_source,
        help="Where clips are that --videos has not: cvdf streams its archives.",
    ),
    release_options,
    retry_option,
    click.option(
        "--model",
        default=ENCODE_DEFAULTS.model,
        show_default=True,
        help="Hub id or directory of a CLIP.",
    ),
    click.option(
        "--revision", default=ENCODE_DEFAULTS.revision, help="Branch, tag or commit of a Hub model."
    ),
    splits_option,
    class_list_option,
    click.option(
        "--frames-per-second",
        type=POSITIVE,
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
    click.option(
        "--batch-size",
        type=COUNT,
        default=ENCODE_DEFAULTS.batch_size,
        help="Frames in a call of the model; default: 16 on a CPU, 256 on a GPU.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(DTYPES),
        default=ENCODE_DEFAULTS.dtype,
        show_default=True,
        help="What the model computes in; the dataset is float16 always.",
    ),
    click.option(
        "--compile",
        type=click.Choice(COMPILE_CHOICES),
        default=ENCODE_DEFAULTS.compile,
        show_default=True,
        help="Whether torch.compile makes the model faster; auto: where that pays for itself.",
    ),
    click.option(
        "--device",
        default=ENCODE_DEFAULTS.device,
        show_default=True,
        callback=device_name,
        help="auto, cpu, cuda or cuda:N.",
    ),
    click.option(
        "--decode-device",
        type=click.Choice(DECODE_DEVICES),
        default=ENCODE_DEFAULTS.decode_device,
        show_default=True,
        help="cuda decodes with NVDEC, where torchcodec was built with it.",
    ),
    run_options,
    click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing."),
)
processed_options = add_options(
    click.option("--seed", type=int, default=None, help="Seed of the order; default: 0."),
    click.option("--class-list", default=None, help="auto, 400, 600, 700 or a file."),
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
        default=ASSEMBLE_DEFAULTS.samples_per_shard,
        show_default=True,
        help="Samples in a tar and in a Parquet file.",
    ),
    click.option(
        "--formats",
        default=",".join(ASSEMBLE_DEFAULTS.formats),
        show_default=True,
        callback=format_names,
        help="What is written: parquet, webdataset.",
    ),
    click.option(
        "--max-failures",
        type=FiniteRange(0, 1),
        default=ASSEMBLE_DEFAULTS.max_failures,
        show_default=True,
        help="Share of failed clips above which the exit code is 1.",
    ),
    click.option(
        "--date",
        default=ASSEMBLE_DEFAULTS.date,
        callback=iso_date,
        help="Date for the manifest; none is written otherwise.",
    ),
    click.option(
        "--figures/--no-figures",
        default=ASSEMBLE_DEFAULTS.figures,
        show_default=True,
        help="Draw the card's pictures, which takes matplotlib and two seconds.",
    ),
)
revision_option = click.option(
    "--revision",
    default=SOURCE_DEFAULTS.revision,
    help="Branch, tag or commit of a Hub repository.",
)
source_options = add_options(
    click.option(
        "--on-error",
        type=click.Choice(("raise", "skip")),
        default=SOURCE_DEFAULTS.on_error,
        show_default=True,
        help="Whether damage ends the run, or costs the damaged samples alone.",
    ),
    revision_option,
)
index_option = click.option(
    "--index",
    metavar="FILE",
    default=SOURCE_DEFAULTS.index,
    help="Index of SOURCE that lies elsewhere than in it; path or URL.",
)
convert_options = add_options(
    click.option(
        "--class-list",
        default=CONVERT_DEFAULTS.class_list,
        show_default=True,
        help="auto, 400, 600, 700 or a file: numbers the labels, where SOURCE does not.",
    ),
    click.option("--dry-run", is_flag=True, help="Say what would be read; write nothing."),
)
