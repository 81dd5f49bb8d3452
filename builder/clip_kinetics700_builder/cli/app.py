"""The command line runs one command and turns every error into one line and an exit code.

Exit code 0: done. 1: the run failed, or more clips failed than allowed. 2: misuse or bad
input. A traceback only with --debug.
"""

import errno
import logging
import os
import signal
import sys

import click

from clip_kinetics700 import __version__
from clip_kinetics700.damage import DamageError
from clip_kinetics700_builder.cli import clips, datasets, evaluate
from clip_kinetics700_builder.cli.options import spread_values
from clip_kinetics700_builder.cli.terminal import clean_record, open_streams, say
from clip_kinetics700_builder.sources.ledger import FetchError
from clip_kinetics700_builder.system.machine import is_out_of_memory
from clip_kinetics700_builder.system.signals import TerminatedError, catch_signals, leave
from clip_kinetics700_builder.types import BuildError, InputError

FAILED = (
    click.ClickException,
    InputError,
    BuildError,
    DamageError,
    FetchError,
    OSError,
    MemoryError,
)
MEMORY_LIMITS = "ulimit -v, or the limit of a container or a job"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="clip-kinetics700")
def cli() -> None:
    """Turn labelled videos into a dataset of CLIP embeddings that load_dataset opens."""


for command in (
    datasets.build_command,
    datasets.encode_command,
    datasets.assemble_command,
    datasets.verify_command,
    datasets.convert_command,
    datasets.index_command,
    datasets.info_command,
    datasets.card_command,
    clips.annotations_command,
    clips.download_command,
    clips.status_command,
    datasets.push_command,
    evaluate.evaluate_command,
    evaluate.embed_classes_command,
    evaluate.search_command,
):
    cli.add_command(command)


def main() -> None:
    """Run the command that the process was started with, and end the process."""
    leave(run(sys.argv[1:]))


def run(words: list[str]) -> int:
    """Run a command; return its exit code."""
    debug, quiet = "--debug" in words, "--quiet" in words
    level = logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO
    open_streams()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    for handler in logging.getLogger().handlers:
        handler.addFilter(clean_record)
    logging.getLogger("clip_kinetics700_builder").setLevel(level)
    try:
        with catch_signals():
            # Neither annotations nor manifest could name such a path.
            for word in words:
                if any("\ud800" <= letter <= "\udfff" for letter in word):
                    raise InputError(f"{word!r}: is not UTF-8")
            words = spread_values(words, "--annotations")
            return cli.main(args=words, prog_name="clip-kinetics700", standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        return end_with("interrupted; run it again to go on", 128 + signal.SIGINT)
    except TerminatedError as error:
        return end_with("asked to end; run it again to go on", 128 + error.args[0])
    except (*FAILED, RuntimeError, ImportError) as error:
        is_known = isinstance(error, FAILED)
        if debug or not (is_known or is_out_of_memory(error)):
            raise
        is_misuse = isinstance(error, (click.UsageError, InputError))
        return end_with(describe_error(error), 2 if is_misuse else 1)


def end_with(message: str, code: int) -> int:
    """Print the one line that a failed command ends with; return its exit code."""
    say(f"clip-kinetics700: {message}", err=True)
    return code


def describe_error(error: Exception) -> str:
    """Return one line; the system's own words name the file."""
    if isinstance(error, click.ClickException):
        text = error.format_message()
        context = error.ctx if isinstance(error, click.UsageError) else None
        hint = "" if context is None else f" (see {context.command_path} --help)"
        return " ".join(text.split()) + hint
    text = str(error) or type(error).__name__
    if is_out_of_memory(error) and not isinstance(error, BuildError | InputError):
        return f"out of memory ({text}): this process may take too little: {MEMORY_LIMITS}"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{os.fsdecode(error.filename)}: {error.strerror}"
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        text += "; make room, then run it again to go on"
    return " ".join(text.split())
