"""The commands of clips: get them, and say what came of them."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from builder.clip_options import PATH, download_options, release_options, retry_option
from builder.commands import make_config
from builder.config import DownloadConfig
from builder.options import general_options


@click.command("download")
@release_options
@download_options
@retry_option
@general_options
def download_command(*, dry_run: bool, quiet: bool, **options: Any) -> int:
    """Get clips of Kinetics into a directory: what is there first, then --source in order."""
    from builder import download, report_clips
    from builder.progress import track_progress

    config = make_config(DownloadConfig, options)
    if dry_run:
        report_clips.print_dry_run(download.plan_download(config), config.output)
        return 0
    track = partial(track_progress, "download", unit="clips", quiet=quiet)
    summary = download.download(config, track)
    if not quiet:
        report_clips.print_download(summary, config.output)
    return 0


@click.command("status")
@click.argument("directory", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, nothing else.")
@general_options
def status_command(directory: Path, *, as_json: bool, **_: Any) -> int:
    """Say what came of the clips in DIRECTORY, a download or a build, and why some are missing."""
    from builder.report_clips import print_status
    from builder.status import read_status

    status = read_status(directory)
    if as_json:
        click.echo(json.dumps(status.document(), indent=2))
    else:
        print_status(status, directory)
    return 0
