"""Read CLIP-Kinetics700 and every dataset of its kind; nothing heavy is imported until it is used.

In: a dataset directory or Hub repository. Out: what `datasets` returns, or samples.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clip_kinetics700 import dataset
    from clip_kinetics700.classes import class_names
    from clip_kinetics700.clip_kinetics700 import ClipKinetics700
    from clip_kinetics700.damage import DamageError
    from clip_kinetics700.dataset import EmbeddingDataset
    from clip_kinetics700.loading import load_dataset
    from clip_kinetics700.schema import Sample, decode_sample, encode_sample
    from clip_kinetics700.shards import read_shard
    from clip_kinetics700.texts import ClassTexts, class_texts, zero_shot
    from clip_kinetics700.training.batches import Batches as Batches
    from clip_kinetics700.training.batches import batches as batches
    from clip_kinetics700.training.collate import collate as collate
    from clip_kinetics700.training.upstream import (
        EmbeddingWebDatasetReader as EmbeddingWebDatasetReader,
    )

    open = dataset.open_dataset

__version__ = "0.1.0"

# What `import *` gives: not `open`, which would hide Python's own, nor what needs torch.
__all__ = [
    "ClassTexts",
    "ClipKinetics700",
    "DamageError",
    "EmbeddingDataset",
    "Sample",
    "__version__",
    "class_names",
    "class_texts",
    "decode_sample",
    "encode_sample",
    "load_dataset",
    "read_shard",
    "zero_shot",
]

# Module and name there of each exported name.
_PLACE_OF_NAME = {
    "Batches": ("training.batches", "Batches"),
    "ClassTexts": ("texts", "ClassTexts"),
    "ClipKinetics700": ("clip_kinetics700", "ClipKinetics700"),
    "DamageError": ("damage", "DamageError"),
    "EmbeddingDataset": ("dataset", "EmbeddingDataset"),
    "EmbeddingWebDatasetReader": ("training.upstream", "EmbeddingWebDatasetReader"),
    "Sample": ("schema", "Sample"),
    "batches": ("training.batches", "batches"),
    "class_names": ("classes", "class_names"),
    "class_texts": ("texts", "class_texts"),
    "collate": ("training.collate", "collate"),
    "decode_sample": ("schema", "decode_sample"),
    "encode_sample": ("schema", "encode_sample"),
    "load_dataset": ("loading", "load_dataset"),
    "open": ("dataset", "open_dataset"),
    "read_shard": ("shards", "read_shard"),
    "zero_shot": ("texts", "zero_shot"),
}


def __getattr__(name: str) -> Any:
    """Import the module of an exported name when the name is first asked for (PEP 562)."""
    if name not in _PLACE_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, original = _PLACE_OF_NAME[name]
    return getattr(import_module(f"{__name__}.{module}"), original)


def __dir__() -> list[str]:
    """List the exported names, those not imported yet included."""
    return sorted({*globals(), *_PLACE_OF_NAME})
