"""Trees to grow, as they travel: a grower is a generator and stays where it runs, an order goes.

Knows growers and policies; knows neither engines' insides nor where the orders come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from treepo.engines.base import Engine, EngineStats
from treepo.models import Policy
from treepo.params import SamplingParams, ScoringParams
from treepo.sampling import Grower, Prompt, grow_tree
from treepo.scoring import VerifierPool
from treepo.tree import Tree


@dataclass(frozen=True)
class TreeOrder:
    """A tree to grow; with the policy and the way of sampling, all that it depends on.

    gold: the answer that policies by value judge responses by; None: they have no judge.
    """

    prompt: Prompt
    seed: int
    gold: str | None = None


@dataclass(frozen=True)
class Way:
    """How trees grow, but for what differs among them. scoring: of policies by value."""

    sampling: SamplingParams
    scoring: ScoringParams = field(default_factory=ScoringParams)


class TreeSampler(Protocol):
    """Grows what is ordered, in this process or elsewhere."""

    def run(self, orders: Iterable[TreeOrder]) -> Iterator[tuple[int, Tree]]:
        """Yield (index of the order, its finished tree), in the order of finishing."""
        ...

    def stats(self) -> EngineStats:
        """Counts so far."""
        ...


class OwnTrees:
    """Grows trees with an engine of this process. verifier: opened where a policy asks for values.

    Orders may be None, as an engine's growers may.
    """

    def __init__(
        self,
        engine: Engine,
        policy: Policy,
        way: Way,
        verifier: Callable[[], VerifierPool] | None = None,
    ) -> None:
        self._engine = engine
        self._policy = policy
        self._way = way
        self._verifier = verifier

    def run(self, orders: Iterable[TreeOrder | None]) -> Iterator[tuple[int, Tree]]:
        """As `TreeSampler.run`; raises what the engine raises."""
        return self._engine.run(order and self._grower(order) for order in orders)

    def stats(self) -> EngineStats:
        """The engine's counts."""
        return self._engine.stats()

    def _grower(self, order: TreeOrder) -> Grower:
        policy, gold = self._policy, order.gold
        judge = None if gold is None or self._verifier is None else partial(self._rewards, gold)
        return grow_tree(
            order.prompt,
            self._way.sampling,
            order.seed,
            policy.decode,
            encode=policy.encode,
            judge=judge,
        )

    def _rewards(self, gold: str, responses: list[str]) -> list[float]:
        """Rewards during growth; asked, and so any process started, only by policies by value."""
        assert self._verifier is not None
        pairs: list[tuple[str, object]] = [(gold, text) for text in responses]
        return [verdict.reward for verdict in self._verifier().score(pairs)]
