"""A rank of an update that torchrun started: `torchrun --nproc-per-node 2 THIS FOLDER [SHARDING]`.

Makes FOLDER/two of the policy in FOLDER/first; prints its rank and how many there are.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from test_ranks import update


def main(folder: str, sharding: str | None = None) -> None:
    torch.set_num_threads(1)
    update(Path(folder), "first", "two", ranks=2, sharding=sharding).do()
    group = torch.distributed
    # One write, as both ranks share the stream.
    sys.stdout.write(f"{group.get_rank()}:{group.get_world_size()}\n")
    group.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
