"""Whether an engine samples from the policy that it should: a few tokens, computed both ways.

Weights that were loaded wrongly give fluent nonsense and no error; only this comparison tells.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from treepo.engines.orders import TreeOrder
from treepo.engines.segments import SEEDS, SegmentCall, SegmentSampler
from treepo.errors import WorkError
from treepo.forest import Forest
from treepo.logprobs import forest_logprobs
from treepo.models import Policy
from treepo.packing import pack
from treepo.params import SamplingParams
from treepo.sampling import Prompt
from treepo.seeds import derive
from treepo.tree import Segment, Tree

SEED = derive("probe") % SEEDS
PROMPT, RESPONSE = 48, 16  # [tokens]; together whole blocks of the engine's cache


def verify(sampler: SegmentSampler, policy: Policy, temperature: float, tolerance: float) -> None:
    """Compare greedy tokens and logprobs, and sampled logprobs, with the policy's own.

    The second round goes on from the first, so that it reads the engine's prefix cache. Raises
    WorkError where a logprob differs by more than `tolerance` nats, or where a greedy token is
    less likely than the likeliest by more than that.
    """
    prompt = probe_prompt(policy)
    for replica in range(sampler.replicas):
        sampler.cancel()
        first = compare(sampler, policy, replica, prompt, temperature, tolerance)
        compare(sampler, policy, replica, prompt + first, temperature, tolerance)


def probe_prompt(policy: Policy) -> list[int]:
    """Pseudo-random tokens."""
    length = min(PROMPT, policy.max_positions - 2 * RESPONSE)
    vocabulary = int(policy.model.config.vocab_size)
    return [derive("probe", place) % vocabulary for place in range(length)]


def probe_order(policy: Policy) -> TreeOrder:
    """A small tree for an engine that is elsewhere."""
    return TreeOrder(Prompt("probe", probe_prompt(policy)), SEED)


def probe_sampling() -> SamplingParams:
    """How that tree grows: in two steps, so that what is cached of the first is read."""
    return SamplingParams(width=4, depth=2, segment_length=RESPONSE // 2, initial_branching=2)


def verify_tree(probe: Forest, policy: Policy, tolerance: float) -> None:
    """Compare the logprobs of a tree sampled elsewhere, at temperature 1, with the policy's own.

    Raises WorkError where one differs by more than `tolerance` nats.
    """
    wanted = forest_logprobs(policy.model.eval(), probe, range(probe.trees), 1.0, len(probe.tokens))
    sampled = np.repeat(probe.sampled, probe.lengths)
    error = float(np.abs(wanted - probe.logprobs)[sampled].max())
    if not error <= tolerance:
        raise _samples_something_else(f"in a tree its logprobs are {error:.3g}", tolerance)


def _samples_something_else(what: str, tolerance: float) -> WorkError:
    return WorkError(
        f"the engine does not sample the policy: {what} nats from the model's, more than the "
        f"tolerance of {tolerance:g}"
    )


def compare(
    sampler: SegmentSampler,
    policy: Policy,
    replica: int,
    prompt: list[int],
    temperature: float,
    tolerance: float,
) -> list[int]:
    """One greedy and one sampled segment after `prompt`; returns the greedy tokens."""
    calls = [
        SegmentCall(number, replica, prompt, RESPONSE, SEED, chosen)
        for number, chosen in enumerate((0.0, temperature))
    ]
    segments = answers(sampler, calls)
    for call in calls:
        error = deviation(policy, call, segments[call.number])
        if not error <= tolerance:
            what = f"at temperature {call.temperature:g} its logprobs are {error:.3g}"
            raise _samples_something_else(what, tolerance)
    return segments[0].tokens


def answers(sampler: SegmentSampler, calls: list[SegmentCall]) -> dict[int, Segment]:
    """The segments of all calls, by number."""
    segments: dict[int, Segment] = {}
    fresh = calls
    while len(segments) < len(calls):
        done = sampler.exchange(fresh)
        segments |= {sampled.number: sampled.segment for sampled in done}
        fresh = []
    return segments


def deviation(policy: Policy, call: SegmentCall, segment: Segment) -> float:
    """Largest difference of a logprob from the model's [nats].

    For greedy calls also how much less likely a token is than the likeliest.
    """
    logprobs = model_logprobs(policy, call, segment)  # [tokens, vocabulary]
    chosen = logprobs.gather(1, torch.tensor(segment.tokens)[:, None])[:, 0]
    error = float((chosen - torch.tensor(segment.logprobs)).abs().max())
    if call.temperature:
        return error
    return max(error, float((logprobs.max(dim=1).values - chosen).max()))


@torch.inference_mode()
def model_logprobs(policy: Policy, call: SegmentCall, segment: Segment) -> Tensor:
    """Logprobs of every token at each place of the segment, on CPU: [tokens, vocabulary]."""
    tree = Tree("probe", call.tokens, 0)
    tree.grow(tree.root, segment, 0).finish = "max_tokens"
    model = policy.model.eval()
    weight = next(model.parameters())
    packed = pack(Forest.from_trees([tree]), [0]).to(weight.device)
    logits: Tensor = model(
        input_ids=packed.tokens[None],
        position_ids=packed.positions[None],
        logits_to_keep=packed.predictors,
        use_cache=False,
        tree=packed.context(model.config, weight.dtype),
    ).logits[0]
    return (logits.float() / (call.temperature or 1.0)).log_softmax(-1).cpu()
