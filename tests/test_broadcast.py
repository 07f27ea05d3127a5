"""Weights from one model into others of the same shape, over Gloo."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
from test_torch_engine import tiny
from torch import nn

from treepo.cluster import broadcast
from treepo.cluster.broadcast import Meeting, Sender, receive
from treepo.compute import COMPUTES
from treepo.engines.hosts import StoredPolicy
from treepo.engines.orders import Way
from treepo.errors import UserError
from treepo.params import ComputeParams, EngineParams, RayParams, SamplingParams, ScoringParams


def state(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def test_receivers_hold_the_bits_of_the_sender() -> None:
    sender, *receivers = [tiny(seed=seed) for seed in range(3)]
    before = [weight.clone() for weight in state(sender)]
    open_ = Sender.at("127.0.0.1", len(receivers))
    with ThreadPoolExecutor(2) as threads:
        taken = [
            threads.submit(receive, open_.meeting, member, model)
            for member, model in enumerate(receivers, 1)
        ]
        open_.send(sender)
        for one in taken:
            one.result()
    for model in (sender, *receivers):
        assert all(map(torch.equal, state(model), before))
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        assert head.weight is embedding.weight


def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcast, "PATIENCE", timedelta(seconds=1))
    with pytest.raises(RuntimeError):
        Sender.at("127.0.0.1", 1).send(tiny())
    with pytest.raises(RuntimeError):
        receive(Meeting("127.0.0.1", 9, 2), 1, tiny())


def test_other_engines_read_files() -> None:
    compute = COMPUTES.get("ray")(ComputeParams(kind="ray", ray=RayParams(weights="broadcast")), ())
    way = Way(SamplingParams(), ScoringParams())
    stored: StoredPolicy = None  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"compute\.ray\.weights: .* engine\.name is 'vllm'"):
        compute.trees(stored, EngineParams(name="vllm"), way, lambda: pytest.fail("no verifier"))
