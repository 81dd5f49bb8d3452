"""This program checks that every training loop gets each sample once an epoch, and resumes.

Each loop runs with the real library, in an environment of its own: plain and stateful DataLoaders,
accelerate, the Trainer of transformers, Lightning; with no workers, two, and two that persist; as
one process and as two that meet over gloo. It exits with 0 when every claim holds.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
N_SAMPLES = 103
BATCH_SIZE = 8
N_TAKEN = 2 * BATCH_SIZE
# Samples that a loop repeats so that two ranks have as many batches, at most.
MOST_REPEATED = {"trainer_map": 2 * BATCH_SIZE - 1}
LOOPS = ("plain", "stateful", "accelerate", "trainer", "trainer_map", "lightning")
Epochs: TypeAlias = list[list[int]]

logger = logging.getLogger("loops")


def main() -> int:
    """Run each loop as one process and as two; return 1 if one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=LOOPS, action="append", help="one loop")
    loops = parser.parse_args().only or LOOPS
    sys.path[:0] = [str(ROOT), str(ROOT / "builder")]
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logger.setLevel(logging.INFO)
    n_failed = 0
    with tempfile.TemporaryDirectory() as name:
        dataset = make_numbered_dataset(Path(name) / "dataset")
        for loop in loops:
            for n_ranks in (1, 2):
                faults = check(run_loop(loop, n_ranks, dataset, Path(name)), loop)
                n_failed += bool(faults)
                logger.info("%s, %d ranks: %s", loop, n_ranks, "; ".join(faults) or "ok")
    return 1 if n_failed else 0


def make_numbered_dataset(directory: Path) -> Path:
    """Write 103 samples whose first value is their number."""
    from tests.support.datasets.layouts import make_samples, write_dataset, write_index

    samples = make_samples({"train": N_SAMPLES, "validation": 5})
    for split, group in samples.items():
        samples[split] = [number_sample(sample, place) for place, sample in enumerate(group)]
    return write_index(write_dataset(directory, samples, samples_per_shard=30))


def number_sample(sample: Any, number: int) -> Any:
    """Return a sample that begins with its number, and has at least one frame."""
    frames = np.zeros((max(1, len(sample.embeddings)), sample.embeddings.shape[1]), np.float16)
    frames[: len(sample.embeddings)] = sample.embeddings
    frames[0, 0] = number
    return replace(sample, embeddings=frames, timestamps=np.arange(len(frames), dtype=np.float32))


def run_loop(loop: str, n_ranks: int, dataset: Path, scratch: Path) -> list[dict[str, Epochs]]:
    """Return what each rank read, by workers and scenario.

    Raises:
        RuntimeError: the loop failed; it holds what was printed.
    """
    from tests.support.processes.environments import ensure_environment

    python = ensure_environment("loops", HERE / "requirements.txt")
    folder = scratch / f"{loop}-{n_ranks}"
    folder.mkdir()
    words = ["-m", "tests.loops.program", loop, str(dataset), str(folder)]
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_ranks}"]
    if n_ranks > 1:
        words = [*launch, *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    log = folder / "log"
    with log.open("w") as file:
        outcome = subprocess.run(
            [str(python), *words], env=environment, cwd=ROOT, check=False, stdout=file, stderr=file
        )
    if outcome.returncode:
        raise RuntimeError(
            f"{loop}, {n_ranks} ranks, exit code {outcome.returncode}:\n{log.read_text()}"
        )
    return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(n_ranks)]


def check(ranks: list[dict[str, Epochs]], loop: str) -> list[str]:
    """Return what is wrong with what a loop's ranks read."""
    faults = []
    whole = [rank["0, whole"] for rank in ranks]
    most = 0 if len(ranks) == 1 else MOST_REPEATED.get(loop, 1)
    for number, epoch in enumerate(zip(*whole, strict=True)):
        counts = Counter(sample for read in epoch for sample in read)
        if sorted(counts) != list(range(N_SAMPLES)) or counts.total() > N_SAMPLES + most:
            faults.append(f"epoch {number} has {len(counts)} of {N_SAMPLES} samples")
    for rank, read in enumerate(ranks):
        right = whole[rank]
        if len({tuple(epoch) for epoch in right}) != len(right):
            faults.append(f"rank {rank} has an order twice")
        early = [right[0][:N_TAKEN], *right[1:]]
        if loop == "lightning":
            # Its limit is one of every epoch.
            early = [epoch[:N_TAKEN] for epoch in right]
        expected = {"whole": right, "early": early, "resumed": [right[1][N_TAKEN:], right[2]]}
        faults += [
            f"rank {rank} with {name}: {[len(epoch) for epoch in epochs]} samples, others or in "
            "another order than without workers"
            for name, epochs in read.items()
            if epochs != expected[name.rpartition(", ")[2]]
        ]
    return faults


if __name__ == "__main__":
    sys.exit(main())
