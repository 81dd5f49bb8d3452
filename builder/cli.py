"""The command line: words in, one command run, an exit code out.

Exit code 0: done. 1: the run failed, or more clips failed than allowed. 2: misuse or bad
input, in one line. A traceback only with --debug.
"""

import logging
import signal
import sys

import click

from builder import annotation_commands, clip_commands, commands
from builder.ledger import FetchError
from builder.options import spread_values
from builder.types import BuildError, InputError
from clip_kinetics700 import __version__
from clip_kinetics700.damage import DamageError

FAILED = (
    click.ClickException,
    InputError,
    BuildError,
    DamageError,
    FetchError,
    OSError,
    MemoryError,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="clip-kinetics700")
def cli() -> None:
    """Turn labelled videos into a dataset of CLIP embeddings that load_dataset opens."""


for command in (
    commands.build_command,
    commands.encode_command,
    commands.assemble_command,
    commands.verify_command,
    commands.convert_command,
    commands.index_command,
    commands.info_command,
    annotation_commands.annotations_command,
    clip_commands.download_command,
    clip_commands.status_command,
):
    cli.add_command(command)


class TerminatedError(Exception):
    """The process was asked to end by a signal."""


def run(arguments: list[str] | None = None) -> None:
    """Run a command and end the process with its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    debug, quiet = "--debug" in words, "--quiet" in words
    level = logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("builder").setLevel(level)
    # Slurm, systemd and a closed terminal ask so; the workers are stopped on the way out.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, raise_terminated)
    try:
        check_utf8(words)
        words = spread_values(words, "--annotations")
        code = cli.main(args=words, prog_name="clip-kinetics700", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = 2
    except (click.Abort, KeyboardInterrupt):
        code = end_with("interrupted; run it again to go on", 128 + signal.SIGINT)
    except TerminatedError as error:
        code = end_with("asked to end; run it again to go on", 128 + error.args[0])
    except FAILED as error:
        if debug:
            raise
        is_misuse = isinstance(error, (click.UsageError, InputError))
        code = end_with(describe_error(error), 2 if is_misuse else 1)
    sys.exit(code)


def raise_terminated(number: int, _frame: object) -> None:
    """Leave through every `with` and `finally` on the way."""
    raise TerminatedError(number)


def check_utf8(words: list[str]) -> None:
    """Refuse paths that are no UTF-8: neither annotations nor manifest could name them."""
    for word in words:
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            raise InputError(f"{word!r}: is not UTF-8")


def end_with(message: str, code: int) -> int:
    """Print the one line that a failed command ends with; return its exit code."""
    click.echo(f"clip-kinetics700: {message}", err=True)
    return code


def describe_error(error: Exception) -> str:
    """Return one line; the system's own words name the file."""
    if isinstance(error, click.ClickException):
        text = error.format_message()
        context = error.ctx if isinstance(error, click.UsageError) else None
        hint = "" if context is None else f" (see {context.command_path} --help)"
        return " ".join(text.split()) + hint
    return " ".join((str(error) or type(error).__name__).split())
