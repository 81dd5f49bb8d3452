"""Makes the dataset: annotations and videos in, verified shards out. Run `clip-kinetics700`."""

import importlib
import sys


def main() -> None:
    """Run the command line, or say in one line which extra it needs."""
    try:
        importlib.import_module("builder.cli").run()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("builder", "clip_kinetics700")):
            raise
        sys.stderr.write(
            f"clip-kinetics700: this needs {error.name}, which is not installed: "
            "pip install 'clip-kinetics700[build]'\n"
        )
        sys.exit(2)
