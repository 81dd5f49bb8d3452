"""Read CLIP-Kinetics700 and every dataset of its kind; nothing heavy is imported until it is used.

In: a dataset directory or Hub repository. Out: what `datasets` returns, or samples.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clip_kinetics700.classes import class_names
    from clip_kinetics700.clip_kinetics700 import ClipKinetics700
    from clip_kinetics700.loading import load_dataset
    from clip_kinetics700.schema import Sample, decode_sample, encode_sample
    from clip_kinetics700.shards import read_shard

__version__ = "0.1.0"

__all__ = [
    "ClipKinetics700",
    "Sample",
    "__version__",
    "class_names",
    "decode_sample",
    "encode_sample",
    "load_dataset",
    "read_shard",
]

_MODULE_OF_NAME = {
    "ClipKinetics700": "clip_kinetics700",
    "Sample": "schema",
    "class_names": "classes",
    "decode_sample": "schema",
    "encode_sample": "schema",
    "load_dataset": "loading",
    "read_shard": "shards",
}


def __getattr__(name: str) -> Any:
    """Import the module of an exported name when the name is first asked for (PEP 562)."""
    module = _MODULE_OF_NAME.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    """List the exported names, those not imported yet included."""
    return sorted({*globals(), *__all__})
