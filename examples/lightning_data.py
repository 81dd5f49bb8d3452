"""Feeds a dataset of embeddings to Lightning.

    trainer = lightning.Trainer(max_epochs=10)
    trainer.fit(model, EmbeddingData("OWNER/CLIP-Kinetics700", num_workers=2))

A checkpoint that Lightning saves in the middle of an epoch holds the place in the data as well, and
`trainer.fit(model, data, ckpt_path=...)` goes on at the next batch.
"""

from typing import Any

import lightning
from torchdata.stateful_dataloader import StatefulDataLoader

from clip_kinetics700 import Batches, batches


class EmbeddingData(lightning.LightningDataModule):
    """The batches of `train` and `validation`; every rank reads its own share of both."""

    def __init__(
        self, source: str, *, num_workers: int = 0, batch_size: int = 64, **options: Any
    ) -> None:
        """Take what `batches` takes; nothing is read before training begins."""
        super().__init__()
        self.source = source
        self.num_workers = num_workers
        self.options = {"batch_size": batch_size, **options}

    def train_dataloader(self) -> StatefulDataLoader[Any]:
        """Return the loader of every epoch, each another order."""
        return self.load(batches(self.source, "train", shuffle=True, **self.options))

    def val_dataloader(self) -> StatefulDataLoader[Any]:
        """Return the loader of the validation split, in order."""
        return self.load(batches(self.source, "validation", **self.options))

    def load(self, read: Batches) -> StatefulDataLoader[Any]:
        """Return a loader whose state Lightning keeps in its checkpoints."""
        workers: dict[str, Any] = {}
        if self.num_workers:
            workers = {"persistent_workers": True, "multiprocessing_context": "forkserver"}
        return StatefulDataLoader(read, batch_size=None, num_workers=self.num_workers, **workers)
