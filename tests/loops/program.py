"""Reads a dataset in one kind of training loop, as one of several ranks.

Its arguments are the loop, the dataset and a folder. There it writes a file of JSON, `0.json` of
rank 0: by workers and scenario, the samples of each epoch. A sample's number is its first value.
The scenarios: three epochs `whole`; the first one left after `N_TAKEN` batches (`early`); a run
that ended after so many batches of its second epoch, `resumed`, to the end of the third.
"""

import json
import logging
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

import clip_kinetics700
from clip_kinetics700 import Batches, batches, collate
from clip_kinetics700.training.options import TENSORS

N_TAKEN = 2
N_EPOCHS = 3
WORKERS: dict[str, dict[str, Any]] = {
    "0": {},
    "2": {"num_workers": 2, "multiprocessing_context": "forkserver"},
    "2 persistent": {
        "num_workers": 2,
        "multiprocessing_context": "forkserver",
        "persistent_workers": True,
    },
}
Epochs = list[list[int]]


def make_train(source: str) -> Batches:
    """Return the batches that every loop reads."""
    return batches(source, batch_size=8, shuffle=True, buffer_size=30)


def numbers_of(batch: dict[str, Any]) -> list[int]:
    """Return the numbers of a batch's samples."""
    return [int(number) for number in batch["embeddings"][:, 0, 0].tolist()]


def take(loader: Iterable[dict[str, Any]], n_batches: int | None = None) -> list[int]:
    """Return the samples of an epoch, or of its first batches."""
    return [number for batch in islice(loader, n_batches) for number in numbers_of(batch)]


def read_plain(source: str, workers: dict[str, Any], scenario: str, folder: Path) -> Epochs:
    """Read with a DataLoader; nobody says which epoch it is."""

    def make_loader(train: Batches) -> DataLoader[Any]:
        return DataLoader(train, batch_size=None, **workers)

    train = make_train(source)
    loader = make_loader(train)
    if scenario != "resumed":
        first = N_TAKEN if scenario == "early" else None
        return [take(loader, first), *(take(loader) for _ in range(N_EPOCHS - 1))]
    take(loader)
    take(loader, N_TAKEN)
    state = json.loads(json.dumps(train.state_dict(n_batches=N_TAKEN)))
    train = make_train(source)
    train.load_state_dict(state)
    loader = make_loader(train)
    return [take(loader), take(loader)]


def read_stateful(source: str, workers: dict[str, Any], scenario: str, folder: Path) -> Epochs:
    """Read with the StatefulDataLoader of torchdata, each epoch set."""
    from torchdata.stateful_dataloader import StatefulDataLoader

    def make_loader(train: Batches) -> Any:
        return StatefulDataLoader(train, batch_size=None, **workers)

    train = make_train(source)
    loader = make_loader(train)
    read = []
    for epoch in range(N_EPOCHS):
        train.set_epoch(epoch)
        is_left = (scenario, epoch) in {("early", 0), ("resumed", 1)}
        read.append(take(loader, N_TAKEN if is_left else None))
        if (scenario, epoch) == ("resumed", 1):
            break
    if scenario != "resumed":
        return read
    state = loader.state_dict()
    train = make_train(source)
    loader = make_loader(train)
    loader.load_state_dict(state)
    return [take(loader), take(loader)]


def read_accelerate(source: str, workers: dict[str, Any], scenario: str, folder: Path) -> Epochs:
    """Read with a DataLoader that accelerate has prepared."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    loader = accelerator.prepare(DataLoader(make_train(source), batch_size=None, **workers))
    if scenario == "whole":
        return [take(loader) for _ in range(N_EPOCHS)]
    if scenario == "early":
        read = [take(loader, N_TAKEN)]
        for epoch in range(1, N_EPOCHS):
            # accelerate counts an iteration that was left early as none.
            loader.set_epoch(epoch)
            read.append(take(loader))
        return read
    loader.set_epoch(1)
    rest = take(accelerator.skip_first_batches(loader, N_TAKEN))
    loader.set_epoch(2)
    return [rest, take(loader)]


class Recorder(torch.nn.Module):
    """A model whose loss is a number, and which remembers the samples that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[int] = []

    def forward(
        self, embeddings: torch.Tensor, mask: torch.Tensor, label_ids: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return a loss for (B, T, D) embeddings."""
        self.seen += numbers_of({"embeddings": embeddings})
        return {"loss": (self.weight - label_ids.float().mean()) ** 2 * mask.float().mean()}

    def end_epoch(self) -> list[int]:
        """Return what was seen since it was asked last."""
        seen, self.seen = self.seen, []
        return seen


def read_trainer(source: str, workers: dict[str, Any], scenario: str, folder: Path) -> Epochs:
    """Read with the Trainer of transformers, `batches` as its dataset."""
    return train_with_trainer(lambda: make_train(source), 1, workers, scenario, folder)


def read_trainer_map(source: str, workers: dict[str, Any], scenario: str, folder: Path) -> Epochs:
    """Read with the Trainer of transformers, the samples of `open` as its dataset."""
    return train_with_trainer(
        lambda: clip_kinetics700.open(source).splits["train"], 8, workers, scenario, folder
    )


def train_with_trainer(
    make_dataset: Callable[[], Any],
    batch_size: int,
    workers: dict[str, Any],
    scenario: str,
    folder: Path,
) -> Epochs:
    """Train, and return what the model saw in each epoch."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    read: Epochs = []
    collator: Any = partial(collate, columns=TENSORS)

    class Watch(TrainerCallback):
        """Leaves an epoch, and notes what was seen in each."""

        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if (scenario, state.global_step) == ("early", N_TAKEN):
                control.should_epoch_stop = True
            if scenario == "resumed" and not is_resumed and state.epoch > 1:
                n_steps = state.global_step - state.max_steps // N_EPOCHS
                if n_steps == N_TAKEN:
                    control.should_save = control.should_training_stop = True

        def on_epoch_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            read.append(model.end_epoch())

    def make_trainer() -> Any:
        options = TrainingArguments(
            output_dir=str(folder),
            use_cpu=True,
            num_train_epochs=N_EPOCHS,
            per_device_train_batch_size=batch_size,
            dataloader_num_workers=workers.get("num_workers", 0),
            dataloader_persistent_workers=workers.get("persistent_workers", False),
            dataloader_multiprocessing_context=workers.get("multiprocessing_context"),
            remove_unused_columns=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        return Trainer(
            model,
            options,
            data_collator=collator,
            train_dataset=make_dataset(),
            callbacks=[Watch()],
        )

    is_resumed, model = False, Recorder()
    make_trainer().train()
    if scenario != "resumed":
        return read
    is_resumed, model = True, Recorder()
    read.clear()
    make_trainer().train(resume_from_checkpoint=True)
    return read


def read_lightning(source: str, workers: dict[str, Any], scenario: str, folder: Path) -> Epochs:
    """Read with Lightning, from the data module of the examples."""
    import lightning

    from examples.lightning_data import EmbeddingData

    read: Epochs = []

    class Module(lightning.LightningModule):
        """Records what it is given."""

        def __init__(self) -> None:
            super().__init__()
            self.model = Recorder()

        def training_step(self, batch: dict[str, Any], _: int) -> torch.Tensor:
            loss: torch.Tensor = self.model(**{name: batch[name] for name in TENSORS})["loss"]
            return loss

        def on_train_epoch_end(self) -> None:
            read.append(self.model.end_epoch())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    class Stop(lightning.Callback):
        """Saves and stops in the middle of the second epoch."""

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.current_epoch == 1 and trainer.fit_loop.batch_idx + 1 == N_TAKEN:
                trainer.save_checkpoint(folder / "last.ckpt")
                trainer.should_stop = True

    def fit(checkpoint: Path | None, *callbacks: Any) -> None:
        data = EmbeddingData(
            source, num_workers=workers.get("num_workers", 0), batch_size=8, buffer_size=30
        )
        trainer = lightning.Trainer(
            accelerator="cpu",
            strategy="ddp" if torch.distributed.is_torchelastic_launched() else "auto",
            devices=int(os.environ.get("WORLD_SIZE", "1")),
            max_epochs=N_EPOCHS,
            limit_train_batches=N_TAKEN if scenario == "early" else None,
            limit_val_batches=0,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Module(), data, ckpt_path=checkpoint)

    if scenario != "resumed":
        fit(None)
        return read
    fit(None, Stop())
    read.clear()
    fit(folder / "last.ckpt")
    return read


LOOPS: dict[str, Callable[[str, dict[str, Any], str, Path], Epochs]] = {
    "plain": read_plain,
    "stateful": read_stateful,
    "accelerate": read_accelerate,
    "trainer": read_trainer,
    "trainer_map": read_trainer_map,
    "lightning": read_lightning,
}


def main(loop: str, source: str, folder: str) -> None:
    """Read with every kind of workers in every scenario."""
    # Each worker would import torch anew, for seconds, and what the Trainer starts it with.
    needed = ["transformers.trainer_utils"] if loop.startswith("trainer") else []
    multiprocessing.set_forkserver_preload(["clip_kinetics700.training.batches", *needed])
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if loop in {"plain", "stateful"} and torch.distributed.is_torchelastic_launched():
        torch.distributed.init_process_group("gloo")
    read = {
        f"{workers}, {scenario}": LOOPS[loop](
            source, options, scenario, Path(folder) / f"{workers} {scenario}"
        )
        for workers, options in WORKERS.items()
        for scenario in ("whole", "early", "resumed")
    }
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    Path(folder, f"{rank}.json").write_text(json.dumps(read), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
