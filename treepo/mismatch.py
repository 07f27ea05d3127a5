"""Engine against trainer: the same policy's logprobs of the same tokens, computed twice.

They differ by rounding where all is well. A wrong temperature, stale weights or a broken kernel
show here, before anything is learned from them.
"""

from __future__ import annotations

from torch import Tensor

from treepo.errors import WorkError
from treepo.objective.divergence import k3
from treepo.params import UpdateParams
from treepo.tally import Tally


def measure(trainer: Tensor, engine: Tensor, copies: Tensor) -> Tally:
    """|log ratio| (mean and largest) and KL(engine || trainer) of tokens [M], in nats.

    copies: trajectories through each token; means are those of the flat batch.
    """
    difference = (trainer - engine).detach()
    tally = Tally()
    tally.add_mean("mismatch_mean", (difference.abs() * copies).sum(), copies.sum())
    tally.add_mean("mismatch_kl", (k3(-difference) * copies).sum(), copies.sum())
    tally.add_highest("mismatch_max", difference.abs())
    return tally


def refuse(measured: dict[str, float], params: UpdateParams) -> None:
    """Raise WorkError where a limit is passed.

    Numbers that are not finite pass: the loss is not finite either then, and the step is skipped.
    """
    limits = {
        "mismatch_max": ("mismatch_limit", params.mismatch_limit),
        "mismatch_kl": ("mismatch_kl_limit", params.mismatch_kl_limit),
    }
    for name, (key, limit) in limits.items():
        if limit is not None and name in measured and measured[name] > limit:
            raise WorkError(
                f"update: engine and trainer differ, {name} is {measured[name]:.2g} nats before "
                f"the first step (update.{key}: {limit:g})"
            )
