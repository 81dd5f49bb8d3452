"""All text leaves for a terminal here, cleaned: names in files of others can hold anything."""

import logging
import os
import re
import sys

import click

# A user with a password, and what signs a link, of an address; a path has one slash of two.
PASSWORD = re.compile(r"(:/{1,2})[^/\s]+@")
SIGNATURE = re.compile(
    r"([?&][^=&\s]*(?:sig|token|key|credential|password|secret)[^=&\s]*=)[^&\s]+", re.IGNORECASE
)


def clean(text: str, *, kept: str = "\n\t") -> str:
    """Return text that cannot drive a terminal, nor shows a password that is part of an address.

    Letters that are not printable are escaped, but for those that are kept.
    """
    text = SIGNATURE.sub(r"\1***", PASSWORD.sub(r"\1***@", text))
    return "".join(c if c.isprintable() or c in kept else ascii(c)[1:-1] for c in text)


def say(text: str, *, err: bool = False) -> None:
    """Print a line, to the terminal's stream of errors if it is one."""
    click.echo(clean(text), err=err)


def clean_record(record: logging.LogRecord) -> bool:
    """Make the message of a record one clean line; a filter of a handler, which lets all pass."""
    record.msg, record.args = clean(record.getMessage(), kept=""), ()
    return True


def open_streams() -> None:
    """Give a process that was started without a stream one that swallows what is written."""
    closed = [name for name in ("stdout", "stderr") if getattr(sys, name) is None]
    for name in closed:
        # It takes the number of the stream: what libraries write to that may reach no other file.
        setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "w", encoding="utf-8"))
