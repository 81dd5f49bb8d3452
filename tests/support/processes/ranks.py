"""Reads batches as one of several ranks that step together, and adds up after each batch.

Its arguments are a dataset directory, a file to meet at, rank and world size; it prints JSON of the
keys it read and of the sums that all ranks agreed on, by the way the ranks are made even.
"""

import json
import sys
from typing import Any

import torch
import torch.distributed as dist

from clip_kinetics700 import Batches, batches
from clip_kinetics700.training.ordering import Even

WAYS: tuple[Even, ...] = ("pad", "drop")


def main(directory: str, meeting: str, rank: str, world_size: str) -> None:
    """Read an epoch with each way to be even, of batches that were made before the ranks met."""
    made = {even: batches(directory, batch_size=4, shuffle=True, even=even) for even in WAYS}
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=int(world_size)
    )
    found = {str(even): step(read) for even, read in made.items()}
    dist.destroy_process_group()
    sys.stdout.write(json.dumps(found) + "\n")


def step(read: Batches) -> dict[str, Any]:
    """All-reduce the number of samples of each step."""
    keys: list[str] = []
    sums: list[int] = []
    for batch in read:
        total = torch.tensor(len(batch["keys"]))
        dist.all_reduce(total)
        keys += batch["keys"]
        sums.append(int(total))
    return {"keys": keys, "sums": sums}


if __name__ == "__main__":
    main(*sys.argv[1:])
