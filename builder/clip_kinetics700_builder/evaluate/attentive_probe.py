"""An attentive probe trains attention over frozen frames of train, and counts on another split.

Each head weighs the frames of a clip by one learned query, as cross-attention does, and a linear
classifier reads what the heads took. By itself that is blind to the order of frames, so each frame
has its place in the clip added. The embeddings stay as they are: what is trained is small.
"""

import logging
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from clip_kinetics700 import batches
from clip_kinetics700.texts import normalize_rows
from clip_kinetics700.training.collate import NO_LABEL, Batch, BatchRow, cut_frames, make_batch
from clip_kinetics700_builder.config import AttentiveProbeConfig
from clip_kinetics700_builder.evaluate.clips import ClipBatch, EvaluationSource
from clip_kinetics700_builder.evaluate.results import (
    Evaluation,
    Outcomes,
    join_outcomes,
    rank_classes,
    sum_up,
)
from clip_kinetics700_builder.evaluate.train_clips import (
    count_held_out,
    describe_train,
    draw_clips,
    open_probe,
)
from clip_kinetics700_builder.system.progress import Progress, no_progress
from clip_kinetics700_builder.system.threads import keep_one_thread, use_one_thread

log = logging.getLogger(__name__)

N_HEADS = 8
BATCH_SIZE = 128
# Longer clips are cut to so many evenly spaced frames, so that a batch stays small.
MAX_FRAMES = 64
# Half decades around AdamW's default.
LEARNING_RATES = (3e-4, 1e-3, 3e-3, 1e-2)
WEIGHT_DECAY = 0.05
# Share of the steps over which the learning rate rises before it falls as a cosine.
WARM_UP = 0.1
# Half turns of the slowest and of the fastest sine over a clip.
TURNS = (1, 32)

IntArray = npt.NDArray[np.int64]
Labelled: TypeAlias = tuple[Batch, Tensor]
"""A padded batch of clips, and the (B,) int64 numbers of their classes."""


def evaluate_attentive_probe(
    config: AttentiveProbeConfig, *, progress: Progress = no_progress
) -> Evaluation:
    """Return the result of an attentive probe, and what came of each clip.

    The same seed gives the same result on the same machine.

    Raises:
        InputError: the dataset cannot be used, or train has clips of fewer than two classes.
        DamageError: a clip is damaged, and damage is not to be skipped.
    """
    evaluation = config.evaluation
    source = open_probe(evaluation, is_shuffled=True, progress=progress)
    n_classes = len(source.labels.names)
    train = survey_train(source)
    chosen = draw_clips(train.labels, config.train, name=source.name, seed=evaluation.seed)
    prepare = FramePreparation(train.mean, train.scale)
    probe, parameters = find_probe(source, train.places[chosen], prepare, config)
    is_seen = np.isin(np.arange(n_classes), train.labels[chosen])
    scored = source.read(evaluation.split)
    outcomes = join_outcomes([score_batch(batch, probe, prepare, is_seen) for batch in scored])
    return sum_up(
        source,
        outcomes,
        packages=("numpy", "torch"),
        task="attentive-probe",
        protocol="single-query",
        model=f"cross-attention of {N_HEADS} heads, linear classifier",
        model_sha256=None,
        parameters={
            "classes": n_classes,
            "train": describe_train(
                source, config.train, n_clips=len(train.labels), n_used=len(chosen)
            ),
            **parameters,
        },
    )


@dataclass(frozen=True, slots=True, eq=False)
class TrainClips:
    """The clips of train that can be learned from, and what their frames are like."""

    places: IntArray
    """(n_clips,) places among the rows of train."""
    labels: IntArray
    """(n_clips,) numbers of the classes."""
    mean: Tensor
    """(width,) float32 of the normalised frames."""
    scale: Tensor
    """(width,) float32, the standard deviation of each column."""


def survey_train(source: EvaluationSource) -> TrainClips:
    """Read train once; clips without frames, or with values that are not finite, are dropped."""
    places, labels = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    n_frames, total, squares = 0, np.zeros(source.width), np.zeros(source.width)
    for batch in source.read("train"):
        is_usable = find_usable(batch)
        no_frames = int((batch.sizes == 0).sum())
        source.dropped["train"]["no_frames"] += no_frames
        source.dropped["train"]["not_finite"] += int((~is_usable).sum()) - no_frames
        places.append(batch.places[is_usable])
        labels.append(batch.labels[is_usable])
        units = normalize_rows(batch.frames[np.repeat(is_usable, batch.sizes)])
        n_frames += len(units)
        total += units.sum(axis=0)
        squares += np.einsum("ij,ij->j", units, units)
    mean = total / max(1, n_frames)
    # A column that never changes tells nothing, and stays near zero.
    scale = np.sqrt(np.maximum(squares / max(1, n_frames) - mean**2, 1e-12))
    return TrainClips(
        places=np.concatenate(places),
        labels=np.concatenate(labels),
        mean=torch.from_numpy(mean.astype(np.float32)),
        scale=torch.from_numpy(scale.astype(np.float32)),
    )


def find_usable(batch: ClipBatch) -> npt.NDArray[np.bool_]:
    """Return (n_clips,) bool that tells which clips have frames, and only finite ones."""
    owners = np.repeat(np.arange(len(batch.sizes)), batch.sizes)
    is_odd = ~np.isfinite(batch.frames).all(axis=1)
    is_usable = batch.sizes > 0
    is_usable[owners[is_odd]] = False
    return is_usable


@dataclass(frozen=True, slots=True, eq=False)
class FramePreparation:
    """Makes of frames, as stored, what attention reads."""

    mean: Tensor
    """(width,) float32 of the normalised frames of train."""
    scale: Tensor
    """(width,) float32, their standard deviation."""

    def __call__(self, batch: Batch) -> Tensor:
        """Return (B, T, width) float32: normalised, standardised, the place in the clip added.

        Places go from 0 to 1 over the frames of a clip, whatever its length.
        """
        frames = nn.functional.normalize(batch["embeddings"], dim=-1)
        frames.sub_(self.mean).div_(self.scale)
        n_frames = batch["mask"].sum(1, keepdim=True)
        width = len(self.mean)
        places = (torch.arange(frames.shape[1]) + 0.5) / n_frames.clamp(min=1)
        slowest, fastest = map(math.log10, TURNS)
        turns = math.pi * torch.logspace(slowest, fastest, (width + 1) // 2)
        angles = places.unsqueeze(-1) * turns
        return frames.add_(torch.cat([angles.sin(), angles.cos()], -1)[..., :width])


class AttentiveProbe(nn.Module):
    """Cross-attention of one query over the frames of a clip, and a linear classifier.

    With one query only its product with the keys' matrix matters, a vector for each head, and the
    values' matrix can follow the weighting: so no frame is multiplied by a matrix.
    """

    def __init__(self, width: int, n_classes: int) -> None:
        """Draw the weights."""
        super().__init__()
        size = -(-width // N_HEADS)
        # The queries are zero at first, so each head begins with the mean of the frames.
        self.queries = nn.Parameter(torch.zeros(N_HEADS, width))
        self.values = nn.Parameter(torch.randn(N_HEADS, width, size) / math.sqrt(width))
        self.norm = nn.LayerNorm(N_HEADS * size)
        self.classifier = nn.Linear(N_HEADS * size, n_classes)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Return (B, n_classes) logits of prepared (B, T, width) frames and their (B, T) mask."""
        scores = (frames @ self.queries.T).masked_fill(~mask.unsqueeze(-1), -torch.inf)
        taken = scores.softmax(1).transpose(1, 2) @ frames
        values = torch.einsum("bhd,hds->bhs", taken, self.values)
        logits: Tensor = self.classifier(self.norm(values.flatten(1)))
        return logits


def read_train(
    source: EvaluationSource, places: IntArray, *, n_epochs: int | None = None
) -> Iterator[Labelled]:
    """Yield clips of train in batches: once in order, or shuffled for some epochs."""
    dataset = source.rows.dataset.select("train")[np.sort(places)]
    read = batches(
        dataset,
        None,
        batch_size=BATCH_SIZE,
        shuffle=n_epochs is not None,
        seed=source.config.seed,
        max_frames=MAX_FRAMES,
        frame_policy="uniform",
        rank=0,
        world_size=1,
    )
    for epoch in range(n_epochs or 1):
        read.set_epoch(epoch)
        for batch in read:
            pairs = zip(batch["captions"], batch["label_ids"].tolist(), strict=True)
            found = [source.labels.find(name, None if n == NO_LABEL else n) for name, n in pairs]
            yield batch, torch.tensor(found)


def find_probe(
    source: EvaluationSource,
    places: IntArray,
    prepare: FramePreparation,
    config: AttentiveProbeConfig,
) -> tuple[AttentiveProbe, dict[str, Any]]:
    """Return the probe that is best for what is held out of train, and how it was found.

    Args:
        source: what is evaluated.
        places: (n,) places of clips among the rows of train, in random order.
        prepare: makes of frames what attention reads.
        config: how many epochs, and how much is held out.
    """
    n_held_out = count_held_out(len(places), config.train)
    probes = train_probes(source, places[n_held_out:], prepare, n_epochs=config.epochs)
    tops = measure_tops(probes, prepare, read_train(source, places[:n_held_out]))
    best = int(np.argmax(tops))
    steps = zip(LEARNING_RATES, tops, strict=True)
    return probes[best], {
        "learning_rate": LEARNING_RATES[best],
        "sweep": [{"learning_rate": rate, "top1": top} for rate, top in steps],
        "held_out": n_held_out,
        "epochs": config.epochs,
        "batch_size": BATCH_SIZE,
        "weight_decay": WEIGHT_DECAY,
        "feature": "normalised frames, standardised, with their places as sines",
    }


def train_probes(
    source: EvaluationSource, places: IntArray, prepare: FramePreparation, *, n_epochs: int
) -> list[AttentiveProbe]:
    """Return a probe for each learning rate; they learn side by side from one reading."""
    n_steps = n_epochs * math.ceil(len(places) / BATCH_SIZE)
    learners = [Learner(make_probe(source), rate, n_steps) for rate in LEARNING_RATES]
    total = n_epochs * len(places)
    # A thread for each: those within torch's calls would wait for each other at every call.
    threads = ThreadPoolExecutor(len(learners), initializer=use_one_thread)
    with threads, keep_one_thread(), source.progress("training", total, "clips") as advance:
        for batch, labels in read_train(source, places, n_epochs=n_epochs):
            task = (prepare(batch), batch["mask"], labels)
            for learning in [threads.submit(learner.learn, *task) for learner in learners]:
                learning.result()
            advance(len(labels))
    return [learner.probe for learner in learners]


def make_probe(source: EvaluationSource) -> AttentiveProbe:
    """Return a probe to be trained, the same one for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(source.config.seed)
        return AttentiveProbe(source.width, len(source.labels.names))


class Learner:
    """A probe in training."""

    def __init__(self, probe: AttentiveProbe, rate: float, n_steps: int) -> None:
        """Take the probe, and the learning rate that it rises to."""
        self.probe = probe
        self._optimizer = torch.optim.AdamW(
            probe.parameters(), lr=rate, weight_decay=WEIGHT_DECAY, fused=True
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, partial(share_rate, n_steps=n_steps)
        )

    def learn(self, frames: Tensor, mask: Tensor, labels: Tensor) -> None:
        """Learn from prepared (B, T, width) frames, their (B, T) mask and (B,) labels."""
        loss = nn.functional.cross_entropy(self.probe(frames, mask), labels)
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        self._optimizer.step()
        self._schedule.step()


def share_rate(step: int, *, n_steps: int) -> float:
    """Return the share of the learning rate at a step: a rise, then half a cosine down to 0."""
    rise = min(1.0, (step + 1) / max(1.0, WARM_UP * n_steps))
    return rise * (1 + math.cos(math.pi * step / n_steps)) / 2


@torch.no_grad()
def measure_tops(
    probes: list[AttentiveProbe], prepare: FramePreparation, clips: Iterator[Labelled]
) -> list[float]:
    """Return the top-1 of each probe."""
    n_right, n_clips = np.zeros(len(probes)), 0
    for batch, labels in clips:
        frames = prepare(batch)
        found = [probe(frames, batch["mask"]).argmax(1) for probe in probes]
        n_right += [int((numbers == labels).sum()) for numbers in found]
        n_clips += len(labels)
    tops: list[float] = (n_right / n_clips).tolist()
    for rate, top in zip(LEARNING_RATES, tops, strict=True):
        log.info("learning rate %g: top-1 %.4f of what is held out", rate, top)
    return tops


@torch.no_grad()
def score_batch(
    batch: ClipBatch,
    probe: AttentiveProbe,
    prepare: FramePreparation,
    is_seen: npt.NDArray[np.bool_],
) -> Outcomes:
    """Return the outcomes of a batch; a clip without frames, or not finite, is wrong.

    A class that train lacks, where (n_classes,) `is_seen` is False, is never right.
    """
    is_usable = find_usable(batch)
    scores: npt.NDArray[Any] = np.full((len(batch.labels), len(is_seen)), -np.inf, np.float32)
    if is_usable.any():
        padded = pad_clips(batch, is_usable)
        scores[is_usable] = np.asarray(probe(prepare(padded), padded["mask"]))
        scores[:, ~is_seen] = -np.inf
    return rank_classes(scores, batch.labels)


def pad_clips(batch: ClipBatch, is_usable: npt.NDArray[np.bool_]) -> Batch:
    """Return some of the clips of a batch as a padded batch, cut as those of train are."""
    clips = np.split(batch.frames, np.cumsum(batch.sizes)[:-1])
    rng = np.random.default_rng(0)  # evenly spaced frames need none
    frames = [cut_frames(clips[row], MAX_FRAMES, "uniform", rng) for row in is_usable.nonzero()[0]]
    rows = [BatchRow(array, "", NO_LABEL, "") for array in frames]
    return make_batch(rows, dtype="float32")
