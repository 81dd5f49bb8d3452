"""Trains a small temporal aggregator, masked attention over frames, on streamed embeddings.

Run as `python -m examples.train_aggregator [--data DIR] [--epochs 8] [--json FILE]`. Without a
dataset it makes one whose classes share the same frames in different orders: the mean of the
frames says nothing, attention over them says all.
"""

import argparse
import io
import json
import logging
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader

from clip_kinetics700 import Batches, batches, collate, load_dataset
from clip_kinetics700.training.collate import NO_LABEL, Batch
from clip_kinetics700_builder.assemble.assemble import assemble_directory
from clip_kinetics700_builder.config import AssembleConfig

N_CLASSES = 6
N_SHOTS = 6
WIDTH = 512
CLIPS_PER_CLASS = {"train": 200, "val": 50}
MAX_FRAMES = 2 * N_SHOTS


class MeanPooling(nn.Module):
    """The baseline: the mean of a clip's frames, whatever their order."""

    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(width, 128), nn.GELU(), nn.Linear(128, n_classes))

    def forward(self, embeddings: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return (B, n_classes) logits of (B, T, D) embeddings and their (B, T) mask."""
        logits: torch.Tensor = self.head(mean_over_frames(embeddings, mask))
        return logits


class TemporalAggregator(nn.Module):
    """Attention over a clip's frames, each with its place."""

    def __init__(self, width: int, n_classes: int, *, size: int = 64) -> None:
        super().__init__()
        self.project = nn.Linear(width, size)
        self.place = nn.Embedding(MAX_FRAMES, size)
        self.layers = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(size, 4, 2 * size, dropout=0.0, batch_first=True),
            num_layers=2,
            enable_nested_tensor=False,
        )
        self.head = nn.Linear(size, n_classes)

    def forward(self, embeddings: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return (B, n_classes) logits of (B, T, D) embeddings and their (B, T) mask."""
        places = self.place(torch.arange(mask.shape[1]))
        hidden = self.layers(self.project(embeddings) + places, src_key_padding_mask=~mask)
        logits: torch.Tensor = self.head(mean_over_frames(hidden, mask))
        return logits


def mean_over_frames(frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return (B, D) means of the frames that are there."""
    weights = mask.unsqueeze(-1).to(frames.dtype)
    return (frames * weights).sum(1) / weights.sum(1).clamp(min=1)


@dataclass(slots=True)
class Run:
    """A model in training, all of which a checkpoint holds."""

    model: nn.Module
    read: Batches
    n_classes: int
    n_epochs: int
    losses: list[float] = field(default_factory=list)
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        """Make the optimizer of the model."""
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)

    def save(self) -> bytes:
        """Return a checkpoint: the model, the optimizer, and where the data is."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "batches": self.read.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        return buffer.getvalue()

    def load(self, checkpoint: bytes) -> None:
        """Go on where a checkpoint was taken."""
        state = torch.load(io.BytesIO(checkpoint), weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.read.load_state_dict(state["batches"])

    def steps(self, relabel: Callable[[Batch, int], torch.Tensor]) -> Iterator[int]:
        """Train to the end, yielding the number of each step that is done."""
        self.model.train()
        for epoch in range(self.read.epoch, self.n_epochs):
            self.read.set_epoch(epoch)
            for batch in self.read:
                logits = self.model(batch["embeddings"], batch["mask"])
                labels = relabel(batch, self.n_classes)
                loss = nn.functional.cross_entropy(logits, labels, ignore_index=NO_LABEL)
                self.optimizer.zero_grad()
                torch.autograd.backward(loss)
                self.optimizer.step()
                self.losses.append(loss.item())
                yield len(self.losses)


def true_labels(batch: Batch, n_classes: int) -> torch.Tensor:
    """Return the labels of a batch."""
    del n_classes
    return batch["label_ids"]


def random_labels(batch: Batch, n_classes: int) -> torch.Tensor:
    """Return a label for each sample that its key alone decides."""
    return torch.tensor([zlib.crc32(key.encode()) % n_classes for key in batch["keys"]])


def start_run(directory: str, kind: type[nn.Module], n_epochs: int) -> Run:
    """Return a run that begins: the same weights and the same order every time."""
    torch.manual_seed(0)
    read = batches(directory, "train", batch_size=32, shuffle=True, max_frames=MAX_FRAMES)
    n_classes = len(read.dataset.class_names or ())
    return Run(kind(read.dataset.width, n_classes), read, n_classes, n_epochs)


def train(directory: str, kind: type[nn.Module], n_epochs: int, *, is_random: bool) -> Run:
    """Train a model from start to end."""
    run = start_run(directory, kind, n_epochs)
    for _ in run.steps(random_labels if is_random else true_labels):
        pass
    return run


@torch.no_grad()
def measure_accuracy(run: Run, directory: str) -> float:
    """Return the share of validation clips that are told right, streamed by plain `datasets`."""
    run.model.eval()
    rows = load_dataset(directory, "validation", streaming=True)
    n_right = n_clips = 0
    for batch in DataLoader(rows, batch_size=64, collate_fn=collate):
        logits = run.model(batch["embeddings"][:, :MAX_FRAMES], batch["mask"][:, :MAX_FRAMES])
        n_right += int((logits.argmax(-1) == batch["label_ids"]).sum())
        n_clips += len(batch["keys"])
    return n_right / n_clips


def resume_in_the_middle(directory: str, whole: Run) -> bool:
    """Tell whether a run that is stopped and resumed has the losses of the whole, bit for bit."""
    stop_at = len(whole.losses) * 2 // 5
    first = start_run(directory, TemporalAggregator, whole.n_epochs)
    next(step for step in first.steps(true_labels) if step == stop_at)
    second = start_run(directory, TemporalAggregator, whole.n_epochs)
    second.load(first.save())
    for _ in second.steps(true_labels):
        pass
    return first.losses + second.losses == whole.losses


def make_dataset(directory: Path) -> str:
    """Write clips of classes that are orders of the same shots, and assemble the dataset."""
    rng = np.random.default_rng(0)
    shots = rng.standard_normal((N_SHOTS, WIDTH))
    orders = [rng.permutation(N_SHOTS) for _ in range(N_CLASSES)]
    names = [f"order {' '.join(map(str, order))}" for order in orders]
    processed = directory / "processed"
    for split, n_clips in CLIPS_PER_CLASS.items():
        (processed / split).mkdir(parents=True)
        for number in range(n_clips * N_CLASSES):
            order = orders[number % N_CLASSES]
            # How long a shot is does not depend on the class, or the mean would tell.
            clip = np.repeat(shots[order], rng.integers(1, 3, N_SHOTS), axis=0)
            clip += rng.standard_normal(clip.shape)
            stem = processed / split / f"clip_{number:05d}"
            np.save(stem.with_suffix(".npy"), clip.astype(np.float16))
            stem.with_suffix(".txt").write_text(names[number % N_CLASSES], encoding="utf-8")
    class_list = directory / "classes.txt"
    class_list.write_text("\n".join(names) + "\n", encoding="utf-8")
    output = directory / "dataset"
    config = AssembleConfig(source=processed, output=output, class_list=str(class_list))
    assemble_directory(config)
    return str(output)


def main() -> int:
    """Train, measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="a labelled dataset, local or not; default: one made here")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        directory = arguments.data or make_dataset(Path(name))
        runs = {
            "mean pooling": train(directory, MeanPooling, arguments.epochs, is_random=False),
            "aggregator": train(directory, TemporalAggregator, arguments.epochs, is_random=False),
            "aggregator, random labels": train(
                directory, TemporalAggregator, arguments.epochs, is_random=True
            ),
        }
        figures: dict[str, Any] = {
            name: measure_accuracy(run, directory) for name, run in runs.items()
        }
        is_exact = resume_in_the_middle(directory, runs["aggregator"])
    figures["resumed losses are equal"] = is_exact
    table = Table("validation", "accuracy")
    for name, value in figures.items():
        table.add_row(name, str(value) if isinstance(value, bool) else f"{value:.3f}")
    Console(soft_wrap=True).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
