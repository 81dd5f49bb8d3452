"""The command that publishes a dataset: options in, one call, one line and an exit code out."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from builder.clip_options import PATH
from builder.commands import make_config
from builder.config import PushConfig
from builder.options import general_options
from builder.run_options import COUNT

PUSH_DEFAULTS = PushConfig(directory=Path(), repository="")


@click.command("push")
@click.argument("directory", metavar="DIR", type=PATH)
@click.argument("repository", metavar="REPO_ID")
@click.option("--private", is_flag=True, help="If the repository is created: for its members only.")
@click.option("--revision", default=PUSH_DEFAULTS.revision, help="Branch; created from main.")
@click.option("--message", default=PUSH_DEFAULTS.message, help="Of the commit.")
@click.option("--create-pr", is_flag=True, help="Open a pull request instead of committing.")
@click.option(
    "--token-file",
    metavar="FILE",
    type=PATH,
    default=PUSH_DEFAULTS.token_file,
    help="Holds a token of the Hub; default: HF_TOKEN, or that of `hf auth login`.",
)
@click.option(
    "--max-workers",
    type=COUNT,
    default=PUSH_DEFAULTS.max_workers,
    show_default=True,
    help="Files that are sent at a time.",
)
@click.option("--keep-extra", is_flag=True, help="Keep files there that are not of the dataset.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@general_options
def push_command(*, quiet: bool, **options: Any) -> int:
    """Publish the dataset in DIR as REPO_ID on the Hub, in one commit.

    What was sent before is not sent again, so after any interruption the same command goes on.
    """
    from builder.progress import track_progress
    from builder.publish import push

    config = make_config(PushConfig, options)
    published = push(config, track=partial(track_progress, "push", unit="files", quiet=quiet))
    if quiet:
        return 0
    change, commit = published.change, published.commit
    counts = (
        f"{len(change.added)} files of {change.n_bytes / 1e6:,.1f} MB added, "
        f"{len(change.deleted)} deleted, {change.n_same} there already"
    )
    if commit is None:
        click.echo(f"{config.repository}: {counts}, if this were no dry run")
        for name in change.deleted:
            click.echo(f"would delete {name}")
    else:
        click.echo(f"{config.repository}: {counts}; all as the manifest says\n{commit.url}")
    return 0
