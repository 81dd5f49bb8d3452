"""Makes the dataset: turns annotations and videos into verified shards. Run `clip-kinetics700`."""

import importlib
import sys


def main() -> None:
    """Run the command line, or say in one line which extra it needs."""
    try:
        importlib.import_module(f"{__name__}.cli.app").main()
    except KeyboardInterrupt:
        # While torch is imported; from there on the command line sees to it.
        sys.stderr.write("clip-kinetics700: interrupted before it began\n")
        sys.exit(130)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("clip_kinetics700"):
            raise
        sys.stderr.write(
            f"clip-kinetics700: this needs {error.name}, which is not installed: "
            "pip install 'clip-kinetics700[build]'\n"
        )
        sys.exit(2)
