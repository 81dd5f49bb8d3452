"""Makes the dataset: turns annotations and videos into verified shards.

The command line is `clip-kinetics700`; the same from Python are the functions that are imported by
name from here. Nothing is imported before its name is used; `__init__.pyi` has the types.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

ERRORS = ("BuildError", "InputError")
FUNCTIONS = (
    "assemble",
    "build",
    "convert",
    "download",
    "embed_classes",
    "encode",
    "evaluate_attentive_probe",
    "evaluate_linear_probe",
    "evaluate_zero_shot",
    "push",
    "search",
    "verify",
    "write_card",
)
__all__ = [*ERRORS, *FUNCTIONS, "main"]  # noqa: PLE0604


class _Package(ModuleType):
    """Keeps the names of the API for its functions.

    A room of the same name is reached by `from clip_kinetics700_builder.verify.dataset import …`.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, but not a room where a function belongs."""
        if not (name in FUNCTIONS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    """Import a function of the API when its name is first asked for (PEP 562)."""
    if name not in (*ERRORS, *FUNCTIONS):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = "types" if name in ERRORS else "api"
    return getattr(importlib.import_module(f"{__name__}.{room}"), name)


def __dir__() -> list[str]:
    """Name what can be imported, so that editors and notebooks complete it."""
    return sorted({*globals(), *__all__})


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
