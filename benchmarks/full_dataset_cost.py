"""This program computes what all of Kinetics-700 would take from what `make bench` measured.

Run as `python -m benchmarks.full_dataset_cost BENCH.json`, the file of `make bench`'s `--json`; it
prints the table of docs/performance.md. Only the rates of this machine are measured: the table
assumes that cores are as fast elsewhere and that a GPU encodes as fast as its cores decode, and
says so.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.generated_clips import FRAMES_PER_CLIP
from clip_kinetics700_builder.engines.cost import CostModel, predict_cost
from clip_kinetics700_builder.types import FORMATS

N_CLIPS = 650_000
CLIP_BYTES = 1_100_000
WIDTH = 512


class Box(NamedTuple):
    """A set of machines."""

    name: str
    n_cores: int
    n_gpus: int
    note: str


BOXES = (
    Box("the measured CPU box, {cores} cores", 0, 0, "measured rates"),
    Box("a CPU box, 64 cores", 64, 0, "not measured: so many such cores"),
    Box("one GPU, 16 cores", 16, 1, "not measured: the cores decide, the GPU must keep up"),
    Box("eight GPUs, 128 cores", 128, 8, "not measured: as eight of those"),
)


def main(file: str) -> None:
    """Print the table as Markdown."""
    turns = json.loads(Path(file).read_text(encoding="utf-8"))["building"]
    sys.stdout.write("| | hours | clips/s | read | frames/s of each GPU | |\n")
    sys.stdout.write("|---|---|---|---|---|---|\n")
    for row in list_rows(turns):
        sys.stdout.write(f"| {' | '.join(row)} |\n")


def list_rows(turns: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each row."""
    decode = median(turn["decode"] for turn in turns)
    encoders = [name for name in turns[0] if name.startswith("encode ")]
    rates = {name: median(turn[name] for turn in turns) for name in encoders}
    n_measured = int(turns[0]["cores"])
    for box in BOXES:
        n_cores = box.n_cores or n_measured
        model = CostModel(
            decode_seconds=decode,
            n_frames=FRAMES_PER_CLIP,
            frame_seconds=0.0 if box.n_gpus else n_measured / n_cores / max(rates.values()),
            n_cores=n_cores,
            on_gpu=box.n_gpus > 0,
            width=WIDTH,
            n_decoded=1,
        )
        seconds = predict_cost(model, N_CLIPS, FORMATS).seconds
        rate = N_CLIPS / seconds
        needed = f"{rate * FRAMES_PER_CLIP / box.n_gpus:,.0f}" if box.n_gpus else ""
        yield (
            box.name.format(cores=n_measured),
            f"{seconds / 3600:.1f}",
            f"{rate:,.1f}",
            f"{rate * CLIP_BYTES / 1e6:,.0f} MB/s",
            needed,
            box.note,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
