"""A rank of updates that torchrun started: `torchrun --nproc-per-node 2 THIS FOLDER`.

Makes FOLDER/two-SHARDING of the policy in FOLDER/first, with sharded weights and without; prints
its rank and how many there are.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from test_ranks import SHARDINGS, update


def main(folder: str) -> None:
    torch.set_num_threads(1)
    for sharding in SHARDINGS:
        update(Path(folder), "first", f"two-{sharding}", ranks=2, sharding=sharding).do()
    group = torch.distributed
    # One write, as both ranks share the stream.
    sys.stdout.write(f"{group.get_rank()}:{group.get_world_size()}\n")
    group.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
