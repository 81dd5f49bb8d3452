"""The options that say which clips of Kinetics and where from; shared by several commands."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from builder.config import DownloadConfig, EncodeConfig
from builder.releases import VERSIONS
from clip_kinetics700.schema import normalize_split

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
