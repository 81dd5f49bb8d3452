"""Trains a temporal aggregator, a masked transformer over a clip's frames, against texts.

Run as `python -m examples.contrastive_aggregator --data DIR_OR_REPOSITORY --output RUN`; under
`torchrun --nproc-per-node 2 -m` processes share the clips and the gradients. The loss is
contrastive, InfoNCE with a learned temperature, against the class texts of the dataset or the
texts of a file. After each epoch the zero-shot protocol counts with the aggregator's embedding of
a clip, and with the mean of its frames. `--resume` goes on behind the last checkpoint with the
losses of a run that never stopped. Without `--data` it makes clips that only the order of their
frames tells apart.
"""

import argparse
import logging
import math
import os
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import cross_entropy, normalize
from torchdata.stateful_dataloader import StatefulDataLoader

import clip_kinetics700
from clip_kinetics700 import Batches, EmbeddingDataset, batches
from clip_kinetics700.classes import class_names
from clip_kinetics700.schema import MANIFEST_NAME
from clip_kinetics700.texts import ClassTexts, classify, decode_class_texts, pool_clips
from clip_kinetics700.training.collate import Batch
from clip_kinetics700_builder.config import TextConfig
from clip_kinetics700_builder.evaluate.class_texts import TextTarget, find_class_texts
from clip_kinetics700_builder.evaluate.results import TOP, rank_classes
from clip_kinetics700_builder.read.rows import read_own_manifest
from clip_kinetics700_builder.system.files import atomic_path, write_json
from clip_kinetics700_builder.system.progress import no_progress
from clip_kinetics700_builder.system.threads import keep_one_thread
from clip_kinetics700_builder.types import InputError
from examples.ordered_clips import write_ordered_clips

log = logging.getLogger("contrastive_aggregator")

# CLIP's own beginning and limit of the temperature.
FIRST_SCALE, LAST_SCALE = 1 / 0.07, 100.0
# If there are more texts than this, a batch is compared with its own texts alone.
MAX_TEXTS = 4096
NO_TEXT = -1
CHECKPOINT_NAME, REPORTS_NAME = "checkpoint.pt", "reports.json"
# The options that a run which is resumed must have had before.
FIXED = ("data", "texts", "aggregator", "batch_size", "max_frames", "rate", "random_labels", "seed")


class Transformer(nn.Module):
    """Masked attention over the frames of a clip, each with its place."""

    def __init__(self, width: int, max_frames: int, *, size: int = 128) -> None:
        super().__init__()
        self.project = nn.Linear(width, size)
        self.place = nn.Embedding(max_frames, size)
        self.layers = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(size, 4, 2 * size, dropout=0.0, batch_first=True),
            num_layers=2,
            enable_nested_tensor=False,
        )
        self.head = nn.Linear(size, width)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Return (B, width) of (B, T, width) frames of length 1 and their (B, T) mask."""
        hidden = self.project(frames * math.sqrt(frames.shape[-1]))
        hidden = hidden + self.place(torch.arange(mask.shape[1]))
        hidden = self.layers(hidden, src_key_padding_mask=~mask)
        found: Tensor = self.head(average(hidden, mask))
        return found


class Perceptron(nn.Module):
    """What training makes of the mean alone: the baseline that is blind to order."""

    def __init__(self, width: int, *, size: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, size), nn.GELU(), nn.Linear(size, width))

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Return (B, width) of (B, T, width) frames of length 1 and their (B, T) mask."""
        mean = normalize(average(frames, mask), dim=-1)
        found: Tensor = self.layers(mean * math.sqrt(mean.shape[-1]))
        return found


class Aggregator(nn.Module):
    """The mean of a clip's frames, moved by what a network makes of them, as in CLIP4Clip."""

    def __init__(self, width: int, kind: str, max_frames: int) -> None:
        super().__init__()
        is_mean = kind == "mean"
        self.move: nn.Module = Perceptron(width) if is_mean else Transformer(width, max_frames)
        self.log_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))

    def embed(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Return (B, width) rows of length 1 of (B, T, width) embeddings and their (B, T) mask."""
        frames = normalize(embeddings, dim=-1)
        return normalize(average(frames, mask) + self.move(frames, mask), dim=-1)

    def forward(self, embeddings: Tensor, mask: Tensor, texts: Tensor) -> Tensor:
        """Return (B, n_texts) logits: scaled cosines with (n_texts, width) rows of length 1."""
        scale = self.log_scale.exp().clamp(max=LAST_SCALE)
        return scale * self.embed(embeddings, mask) @ texts.T


def average(frames: Tensor, mask: Tensor) -> Tensor:
    """Return (B, D) means of the frames that are there."""
    weights = mask.unsqueeze(-1).to(frames.dtype)
    return (frames * weights).sum(1) / weights.sum(1).clamp(min=1)


def is_usable(batch: Batch) -> Tensor:
    """Return (B,) bool that tells which clips have frames, and only finite ones."""
    return batch["mask"].any(1) & batch["embeddings"].isfinite().flatten(1).all(1)


class Texts:
    """The texts that clips are compared with, by name: of classes, or of captions."""

    def __init__(self, texts: ClassTexts, *, is_random: bool) -> None:
        self.rows = texts.embeddings
        self._tensor = torch.from_numpy(texts.embeddings)
        self._places = {name: place for place, name in enumerate(texts.names)}
        self._is_random = is_random

    def find(self, batch: Batch) -> Tensor:
        """Return (B,) int64 places of the clips' texts, `NO_TEXT` for a clip that has none."""
        return torch.tensor([self._places.get(name, NO_TEXT) for name in batch["captions"]])

    def choose(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return (n_texts, width) texts to compare a batch with, and (B,) the clips' among them.

        Clips that cannot be used have none. Random labels are decided by the clips' keys alone.
        """
        places = self.find(batch)
        if self._is_random:
            keys = (key.encode() for key in batch["keys"])
            places = torch.tensor([zlib.crc32(key) % len(self.rows) for key in keys])
        places = places.masked_fill(~is_usable(batch), NO_TEXT)
        if len(self.rows) <= MAX_TEXTS:
            return self._tensor, places
        chosen, found = np.unique(places.clamp(min=0), return_inverse=True)
        among = torch.from_numpy(found).masked_fill(places == NO_TEXT, NO_TEXT)
        return self._tensor[torch.from_numpy(chosen)], among


def find_texts(dataset: EmbeddingDataset, arguments: argparse.Namespace) -> ClassTexts:
    """Return the texts of a file, those published beside the data, or what a model makes of them.

    Raises:
        InputError: the model cannot be used, or does not belong to the frames.
        ValueError: the file holds something else, or texts of another width.
    """
    if arguments.texts is None:
        root = dataset.layout.root or arguments.data
        manifest = read_own_manifest(dataset.layout)
        target = TextTarget(arguments.data, root, manifest, dataset.width)
        names, config = dataset.class_names or class_names("700"), TextConfig(model=arguments.model)
        return find_class_texts(target, names, config, progress=no_progress)[0]
    texts = decode_class_texts(arguments.texts.read_bytes())
    width = texts.embeddings.shape[1]
    if width != dataset.width:
        raise ValueError(f"{arguments.texts}: {width} columns, the data has {dataset.width}")
    return texts


@dataclass(slots=True)
class Run:
    """A training, all of which a checkpoint holds."""

    arguments: argparse.Namespace
    train: Batches
    validation: Batches
    texts: Texts
    model: Aggregator
    loader: Any = field(init=False)
    trained: nn.Module = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    epoch: int = 0
    losses: list[float] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make loader and optimizer, and let ranks share their gradients."""
        n_workers = self.arguments.workers
        self.loader = StatefulDataLoader(
            self.train,
            batch_size=None,
            num_workers=n_workers,
            multiprocessing_context="forkserver" if n_workers else None,
        )
        is_alone = count_ranks() == 1
        self.trained = self.model if is_alone else nn.parallel.DistributedDataParallel(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.arguments.rate)

    def learn(self) -> None:
        """Train to the end, or to the last step that is wanted."""
        while self.epoch < self.arguments.epochs and len(self.losses) != self.arguments.steps:
            self.learn_epoch()

    def learn_epoch(self) -> None:
        """Train to the end of the epoch or to the last step; save on the way and at the end."""
        every, last = self.arguments.save_every, self.arguments.steps
        self.train.set_epoch(self.epoch)
        for batch in self.loader:
            self.step(batch)
            step = len(self.losses)
            # What stands behind the last batch of an epoch is saved below, with its report.
            is_within = step % len(self.train) > 0
            if is_within and (step == last or (every and step % every == 0)):
                self.save(self.loader.state_dict())
            if is_within and step == last:
                return
        self.epoch += 1
        self.report()
        self.save(None)

    def step(self, batch: Batch) -> None:
        """Learn from one batch."""
        texts, places = self.texts.choose(batch)
        # Attention over no frame is not a number: a clip without frames has one of zeros.
        mask = batch["mask"] | (torch.arange(batch["mask"].shape[1]) == 0)
        embeddings = batch["embeddings"].masked_fill((places == NO_TEXT)[:, None, None], 0)
        logits = self.trained(embeddings, mask, texts)
        loss = cross_entropy(logits, places, ignore_index=NO_TEXT, reduction="sum")
        loss = loss / (places != NO_TEXT).sum().clamp(min=1)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.losses.append(loss.item())

    @torch.no_grad()
    def report(self) -> None:
        """Count in validation with the aggregator and with the mean, by the zero-shot protocol.

        That takes the text nearest to a clip's embedding of length 1. A clip without frames is
        wrong, one without a text does not count, and ranks share the clips.
        """
        counts = torch.zeros(5, dtype=torch.float64)
        for batch in self.validation:
            labels = self.texts.find(batch)
            counts[0] += (labels != NO_TEXT).sum()
            counted = (labels != NO_TEXT) & is_usable(batch)
            if counted.any():
                embeddings, mask = batch["embeddings"][counted], batch["mask"][counted]
                means = pool_clips(embeddings[mask].numpy(), mask.sum(1).numpy())
                for place, rows in ((1, self.model.embed(embeddings, mask).numpy()), (3, means)):
                    scores = classify(rows, self.texts.rows)
                    places = rank_classes(scores, labels[counted].numpy()).places
                    counts[place] += int((places < 1).sum())
                    counts[place + 1] += int((places < TOP).sum())
        if count_ranks() > 1:
            distributed.all_reduce(counts)
        n_clips, *n_right = counts.tolist()
        names = ("top1", "top5", "mean_pooling_top1", "mean_pooling_top5")
        found: dict[str, float] = {
            "epoch": self.epoch,
            "loss": float(np.mean(self.losses[-len(self.train) :])),
            "clips": int(n_clips),
            **{name: n / max(1, n_clips) for name, n in zip(names, n_right, strict=True)},
        }
        self.reports.append(found)
        if get_rank() == 0:
            log.info("%s", ", ".join(f"{name} {value:.4g}" for name, value in found.items()))
            write_json(self.arguments.output / REPORTS_NAME, self.reports)

    def save(self, loader: dict[str, Any] | None) -> None:
        """Write the checkpoint of all ranks; `loader` is where this one is within the epoch."""
        loaders = [loader] * count_ranks()
        if count_ranks() > 1:
            distributed.all_gather_object(loaders, loader)
        state = {
            "options": {name: str(getattr(self.arguments, name)) for name in FIXED},
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "losses": self.losses,
            "reports": self.reports,
            "loaders": loaders,
        }
        if get_rank() == 0:
            with atomic_path(self.arguments.output / CHECKPOINT_NAME) as partial:
                torch.save(state, partial)

    def load(self) -> None:
        """Go on where the checkpoint was taken.

        Raises:
            ValueError: it is of a run with other options, or of other ranks within an epoch.
        """
        path = self.arguments.output / CHECKPOINT_NAME
        state = torch.load(path, weights_only=True)
        for name, value in state["options"].items():
            if value != (given := str(getattr(self.arguments, name))):
                raise ValueError(f"{path}: its run had {name} {value}, this one has {given}")
        loaders = state["loaders"]
        if loaders[0] is not None and len(loaders) != count_ranks():
            raise ValueError(f"{path}: is of {len(loaders)} ranks, these are {count_ranks()}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.losses, self.reports = state["epoch"], state["losses"], state["reports"]
        if loaders[0] is not None:
            self.loader.load_state_dict(loaders[get_rank()])


def count_ranks() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def get_rank() -> int:
    """Return the number of this process among them; 0 writes what all have found."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def open_run(arguments: argparse.Namespace) -> Run:
    """Open data and texts, and make the model or load it: always the same weights and order."""
    path = arguments.output / CHECKPOINT_NAME
    if path.is_file() != arguments.resume:
        what = "holds a run; --resume goes on" if path.is_file() else "holds no run to resume"
        raise ValueError(f"{arguments.output}: {what}, another --output begins anew")
    if arguments.data is None:
        arguments.data = str(arguments.output / "dataset")
        if get_rank() == 0 and not Path(arguments.data, MANIFEST_NAME).is_file():
            write_ordered_clips(arguments.output)
    if count_ranks() > 1:
        distributed.barrier()
    dataset = clip_kinetics700.open(arguments.data)
    how = {"batch_size": arguments.batch_size, "max_frames": arguments.max_frames}
    # Ranks step together, so each has as many batches as the others.
    train = batches(
        dataset, shuffle=True, seed=arguments.seed, even="pad", frame_policy="uniform", **how
    )
    # Here they need not, and each clip counts once.
    validation = batches(dataset, "validation", even=None, frame_policy="uniform", **how)
    texts = Texts(find_texts(dataset, arguments), is_random=arguments.random_labels)
    torch.manual_seed(arguments.seed)
    model = Aggregator(dataset.width, arguments.aggregator, arguments.max_frames)
    run = Run(arguments, train, validation, texts, model)
    if arguments.resume:
        run.load()
    return run


def make_parser() -> argparse.ArgumentParser:
    """Return what reads the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--data", help="a dataset with train and validation, local or not; default: made here")
    add("--output", type=Path, required=True, help="checkpoint and reports are written here")
    add("--texts", type=Path, help="an .npz of texts by caption; default: of the classes")
    add("--model", help="CLIP of the class texts, where none are published")
    add("--aggregator", choices=("transformer", "mean"), default="transformer")
    add("--epochs", type=int, default=8)
    add("--batch-size", type=int, default=64, help="clips, of each process")
    add("--max-frames", type=int, default=32, help="evenly spaced, of longer clips")
    add("--rate", type=float, default=1e-3, help="learning rate of AdamW")
    add("--workers", type=int, default=0, help="processes that read, of each process")
    add("--seed", type=int, default=0)
    add("--save-every", type=int, default=0, metavar="STEPS", help="also within an epoch")
    add("--steps", type=int, help="stop there, with a checkpoint")
    add("--random-labels", action="store_true", help="learn nothing: the result must be chance")
    add("--resume", action="store_true", help="go on with the run in --output")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Train, report and save; return the exit code."""
    parser = make_parser()
    arguments = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments.output.mkdir(parents=True, exist_ok=True)
    # torchrun says so.
    if "RANK" in os.environ:
        distributed.init_process_group("gloo")
    try:
        run = open_run(arguments)
    except (InputError, ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    # One core a process: threads would wait for each other, torchrun makes use of all cores.
    with keep_one_thread():
        run.learn()
    if distributed.is_initialized():
        distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
