"""Reads CLIP-Kinetics700 and every dataset of its kind, wherever it lies.

`load_dataset` gives what `datasets` gives, `open` gives samples, `batches` what a model trains on.
Nothing is imported here before its name is used: importing the reader must not import torch.
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

_MODULE_OF_NAME = {
    name: module
    for module, names in {
        "classes": ("class_names",),
        "clip_kinetics700": ("ClipKinetics700",),
        "damage": ("DamageError",),
        "dataset": ("EmbeddingDataset", "open"),
        "loading": ("load_dataset",),
        "schema": ("Sample", "decode_sample", "encode_sample"),
        "shards": ("read_shard",),
        "texts": ("ClassTexts", "class_texts", "zero_shot"),
        "training.batches": ("Batches", "batches"),
        "training.collate": ("collate",),
        "training.upstream": ("EmbeddingWebDatasetReader",),
    }.items()
    for name in names
}


def __getattr__(name: str) -> Any:
    """Import the module of an exported name when the name is first asked for (PEP 562)."""
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_MODULE_OF_NAME[name]}")
    return getattr(module, "open_dataset" if name == "open" else name)


def __dir__() -> list[str]:
    """List the exported names, those not imported yet included."""
    return sorted({*globals(), *_MODULE_OF_NAME})
