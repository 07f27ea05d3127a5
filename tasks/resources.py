"""What is dear to open and is kept open over the steps of a run: policies, engines, verifiers.

Nothing here changes a result: a policy is keyed by the hash of its files.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

from tasks.hashing import content_hash
from treepo.engines.base import Engine
from treepo.engines.hosts import ENGINES, EngineHost, StoredPolicy
from treepo.models import Policy, load_policy
from treepo.params import EngineParams, SamplingParams, ScoringParams
from treepo.scoring import VerifierPool


class Resources:
    """A context manager that holds one policy, and for each set of parameters what they open."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._policy: tuple[str, Policy] | None = None
        self._pools: dict[str, VerifierPool] = {}
        self._hosts: dict[EngineParams, EngineHost] = {}

    def __enter__(self) -> Resources:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

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

    def engine(
        self, folder: Path, params: EngineParams, sampling: SamplingParams, freshness: str = ""
    ) -> Engine:
        """What samples the policy in `folder`.

        freshness: where it is not that of the call before, nothing computed earlier is reused.
        """
        policy = self.policy(folder, params.device)
        if params not in self._hosts:
            host = ENGINES.get(params.name)(params)
            self._hosts[params] = self._stack.enter_context(closing(host))
        stored = StoredPolicy(policy, folder, content_hash(folder) + freshness)
        return self._hosts[params].engine(stored, sampling)

    def verifier(self, params: ScoringParams) -> VerifierPool:
        """Verifier processes for these parameters."""
        key = params.model_dump_json()
        if key not in self._pools:
            self._pools[key] = self._stack.enter_context(VerifierPool(params))
        return self._pools[key]
