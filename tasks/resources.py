"""What is dear to open and is kept open over the steps of a run: policies, engines, verifiers.

Nothing here changes a result: a policy is keyed by the hash of its files.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from tasks.hashing import content_hash
from treepo.compute import COMPUTES, Compute
from treepo.engines.hosts import StoredPolicy
from treepo.engines.orders import TreeSampler, Way
from treepo.launch import Task
from treepo.models import Policy, load_policy
from treepo.params import ComputeParams, EngineParams, SamplingParams, ScoringParams
from treepo.scoring import VerifierPool


class Resources:
    """A context manager that holds one policy, and for each set of parameters what they open.

    where: of sampling and updates; plugins: what samples imports first elsewhere.
    """

    def __init__(self, where: ComputeParams | None = None, plugins: Sequence[str] = ()) -> None:
        self._stack = ExitStack()
        self._policy: tuple[str, Policy] | None = None
        self._pools: dict[str, VerifierPool] = {}
        self.where = where or ComputeParams()
        self._plugins = tuple(plugins)
        made: Compute = COMPUTES.get(self.where.kind)(self.where, self._plugins)
        self._compute: Compute = self._stack.enter_context(closing(made))

    def __enter__(self) -> Resources:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def beside(self) -> Resources:
        """Others for a thread beside this one, to be closed before these.

        Policies and verifiers are their own; compute is the same where threads can share it.
        """
        others = Resources(self.where, self._plugins)
        if self._compute.shared:
            others._compute = self._compute
        return others

    def policy(self, folder: Path, device: str) -> Policy:
        """The policy in `folder`, from memory where it is the one used last."""
        key = content_hash(folder)
        if self._policy is None or self._policy[0] != key:
            self._policy = (key, load_policy(folder, device))
        return self._policy[1]

    def take_policy(self, folder: Path, device: str) -> Policy:
        """The same, for a caller that will change its weights."""
        policy = self.policy(folder, device)
        self._policy = None
        return policy

    def keep_policy(self, folder: Path, policy: Policy) -> None:
        """Remember a policy that was just written to `folder`."""
        self._policy = (content_hash(folder), policy)

    def trees(
        self,
        folder: Path,
        engine: EngineParams,
        sampling: SamplingParams,
        scoring: ScoringParams,
        freshness: str = "",
    ) -> TreeSampler:
        """What samples the policy in `folder`. scoring: of sampling policies by value.

        freshness: where it is not that of the call before, nothing computed earlier is reused.
        """
        policy = self.policy(folder, engine.device)
        stored = StoredPolicy(policy, folder, content_hash(folder) + freshness)
        verifier = partial(self.verifier, scoring)
        return self._compute.trees(stored, engine, Way(sampling, scoring), verifier)

    def launch(self, ranks: int, task: Task) -> None:
        """Do a task in several processes. Raises WorkError where one fails."""
        self._compute.launch(ranks, task)

    def verifier(self, params: ScoringParams) -> VerifierPool:
        """Verifier processes for these parameters."""
        key = params.model_dump_json()
        if key not in self._pools:
            self._pools[key] = self._stack.enter_context(VerifierPool(params))
        return self._pools[key]
