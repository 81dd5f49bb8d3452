"""Reads batches as one of several ranks that step together, and adds up after each batch.

Its arguments are a dataset directory, a file to meet at, rank, world size and `even`; it prints
JSON of the keys it read and of the sums that all ranks agreed on.
"""

import json
import sys

import torch
import torch.distributed as dist

from clip_kinetics700 import batches
from clip_kinetics700.training.batches import Even


def main(directory: str, meeting: str, rank: str, world_size: str, even: str) -> None:
    """All-reduce the number of samples of each step."""
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=int(world_size)
    )
    keys: list[str] = []
    sums: list[int] = []
    how: Even = "pad" if even == "pad" else "drop"
    for batch in batches(directory, batch_size=4, shuffle=True, even=how):
        total = torch.tensor(len(batch["keys"]))
        dist.all_reduce(total)
        keys += batch["keys"]
        sums.append(int(total))
    dist.destroy_process_group()
    sys.stdout.write(json.dumps({"keys": keys, "sums": sums}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
