"""The command of the card: a dataset and results of evaluations in, its README.md out."""

from pathlib import Path

import click

from builder.clip_options import PATH
from builder.options import general_options


@click.command("card")
@click.argument("directory", metavar="DIR", type=PATH)
@click.option(
    "--evaluation",
    "evaluations",
    metavar="FILE",
    type=PATH,
    multiple=True,
    help="Result of `evaluate --json` on this dataset; may be given several times.",
)
@general_options
def card_command(
    directory: Path, evaluations: tuple[Path, ...], *, quiet: bool, debug: bool
) -> int:
    """Write README.md of the dataset in DIR again, with the results of evaluations.

    Everything else on it is of the dataset's manifest.
    """
    from builder.card import write_card

    del debug
    path = write_card(directory, evaluations)
    if not quiet:
        click.echo(f"{path}: {len(evaluations)} evaluations")
    return 0
