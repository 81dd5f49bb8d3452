"""The options of the command line and how their words are read; defaults come from config.py."""

from datetime import date
from pathlib import Path

import click

from builder.clip_options import (
    PATH,
    add_options,
    release_options,
    retry_option,
    splits_option,
)
from builder.config import (
    COMPILE_CHOICES,
    DECODE_DEVICES,
    DTYPES,
    FORMATS,
    AssembleConfig,
    ConvertConfig,
    EncodeConfig,
    SourceConfig,
)
from builder.run_options import COUNT, POSITIVE, FiniteRange, run_options


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


# The defaults stand in builder/config.py and only there.
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
