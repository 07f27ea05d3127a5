"""Single segments, as they travel to an engine of another process and back.

Plain numbers and lists, so that the process that holds vLLM need not import the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from treepo.tree import Segment

SEEDS = 2**63  # seeds are below it: vLLM's are signed
# Rounding may put a logprob this far above 0 [nats].
ROUNDING = 1e-4


@dataclass(frozen=True, slots=True)
class SegmentCall:
    """Sample up to `max_tokens` tokens after `tokens`, the whole path with its prompt.

    number: names the call; tree: calls of one tree share a prefix; seed: of this segment alone;
    temperature: 0 takes the likeliest token each time.
    """

    number: int
    tree: int
    tokens: list[int]
    max_tokens: int
    seed: int
    temperature: float


@dataclass(frozen=True, slots=True)
class SampledSegment:
    """What came back. cached: tokens of the call whose keys and values were there already."""

    number: int
    segment: Segment
    cached: int


@dataclass(frozen=True)
class TokenIds:
    """size: token ids are below it; eos: those that end a sequence."""

    size: int
    eos: frozenset[int]


class SegmentSampler(Protocol):
    """Anything that answers calls, in an order of its own."""

    @property
    def replicas(self) -> int:
        """Copies of the policy; a call goes to number `tree` modulo replicas."""
        ...

    def exchange(self, calls: Sequence[SegmentCall]) -> list[SampledSegment]:
        """Take on `calls` and wait until one or more of all open calls are done; return those.

        Raises WorkError where no open call can be done.
        """
        ...

    def cancel(self) -> None:
        """Forget all open calls."""
        ...

    def rest(self) -> None:
        """No call is open, and none comes soon: what others could use may be given up."""
        ...


class GarbledSegment(ValueError):
    """An engine's answer that cannot be one."""


def check_segment(call: SegmentCall, segment: Segment, ids: TokenIds) -> None:
    """Raise GarbledSegment where `segment` cannot be the answer to `call`."""
    tokens, logprobs = segment.tokens, segment.logprobs
    if not 0 < len(tokens) <= call.max_tokens:
        raise GarbledSegment(f"{len(tokens)} tokens where 1 to {call.max_tokens} were asked for")
    if len(logprobs) != len(tokens):
        raise GarbledSegment(f"{len(logprobs)} logprobs for {len(tokens)} tokens")
    stray = next((token for token in tokens if not 0 <= token < ids.size), None)
    if stray is not None:
        raise GarbledSegment(f"token {stray}, but the vocabulary has {ids.size}")
    strange = next((x for x in logprobs if not math.isfinite(x) or x > ROUNDING), None)
    if strange is not None:
        raise GarbledSegment(f"a logprob of {strange}")
    if not ids.eos.isdisjoint(tokens[:-1]):
        raise GarbledSegment("tokens after the end of the sequence")
    if len(tokens) < call.max_tokens and tokens[-1] not in ids.eos:
        raise GarbledSegment(f"{len(tokens)} of {call.max_tokens} tokens without an end")
