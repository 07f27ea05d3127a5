"""Step `update`: the next policy, and the account of the iteration that led to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tasks.account import advantage_metrics, reward_metrics, rollout_metrics
from tasks.reference import reference_artifact
from tasks.steps import Job, Metrics, Step
from tasks.tables import outcomes, read_advantages, read_forest, read_scores
from tasks.workspace import of_iteration, policy
from treepo.adapters import Adapter
from treepo.advantages import informative, kept_trees
from treepo.batch import Batch
from treepo.forest import Forest
from treepo.logprobs import forest_logprobs
from treepo.models import Policy, load_policy, save_policy
from treepo.params import ExperimentParams, UpdateParams
from treepo.plugins import import_plugins
from treepo.seeds import derive
from treepo.storage import write_text
from treepo.trainer import Trainer

PARTS = ("forest", "scores", "advantages")


def run(job: Job) -> Metrics:
    """Update the policy on the packed trees; write policy/NNNNNN and update.json."""
    k = job.iteration
    forest_file, scores_file, advantages_file = (
        job.inputs[of_iteration(k, f"{part}.parquet")] for part in PARTS
    )
    before = job.inputs[policy(k - 1)]
    forest = read_forest(forest_file)
    scores = read_scores(scores_file, forest)
    kept = kept_trees(forest, outcomes(scores), job.params.advantage)
    trees = np.flatnonzero(kept).tolist()
    batch = Batch(
        forest=forest,
        advantages=read_advantages(advantages_file, forest),
        trees=trees,
        temperature=job.params.sampling.temperature,
        token_limit=job.params.sampling.token_limit,
        reference=reference_logprobs(job, forest, trees),
    )
    update = learn(job, batch, before, job.outputs[policy(k)])
    metrics = {
        "iteration": float(k),
        **rollout_metrics(forest),
        **reward_metrics(scores, informative(forest, outcomes(scores)), kept),
        **advantage_metrics(forest, batch.advantages, trees),
        **{f"update/{name}": value for name, value in update.items()},
    }
    write_text(json.dumps(metrics, indent=1) + "\n", job.outputs[of_iteration(k, "update.json")])
    return metrics


def learn(job: Job, batch: Batch, before: Path, after: Path) -> Metrics:
    """Write the policy that follows the one in `before`; in this process or in several."""
    params, device = job.params.update, job.params.engine.device
    base = job.inputs[policy(0)] if params.lora else None
    with TemporaryDirectory() as folder:
        metrics = Path(folder) / "metrics.json"
        plugins = tuple(job.params.plugins)
        work = Work(batch, params, device, job.seed, before, after, metrics, base, plugins)
        if params.ranks > 1:
            job.resources.launch(params.ranks, work)
            return json.loads(metrics.read_text())
        chosen = job.resources.take_policy(work.start, device)
        found = work.train(chosen)
    job.resources.keep_policy(after, chosen)
    return found


@dataclass(frozen=True)
class Work:
    """What each rank of an update is told.

    metrics: file for what the first rank found. base: the policy whose weights carry the adapter,
    where one is trained. plugins: imported first, as they may register what `params` names.
    """

    batch: Batch
    params: UpdateParams
    device: str
    seed: int
    before: Path
    after: Path
    metrics: Path
    base: Path | None = None
    plugins: tuple[str, ...] = ()

    @property
    def start(self) -> Path:
        """The policy whose weights the update starts from."""
        return self.base or self.before

    @property
    def reads(self) -> Mapping[str, Path]:
        """Folders of policies, by their field."""
        read = {"before": self.before, "base": self.base}
        return {name: path for name, path in read.items() if path is not None}

    @property
    def writes(self) -> Mapping[str, Path]:
        """What the first rank makes, by its field."""
        return {"after": self.after, "metrics": self.metrics}

    def at(self, places: Mapping[str, Path]) -> Work:
        """The same with these folders in the place of its own."""
        return replace(self, **places)

    def do(self) -> None:
        """Train this rank's share of the trees; the first rank writes the policy."""
        import_plugins(self.plugins)
        # Sharded weights go to the device part by part.
        self.train(load_policy(self.start, "cpu" if self.params.sharding else self.device))

    def train(self, chosen: Policy) -> Metrics:
        """The same, on the policy in `start`, which becomes the one in `after`."""
        adapter = self._adapter(chosen)
        trainer = Trainer(chosen.model, self.params, self.device)
        trainer.load_state(self.before)
        found = trainer.update(self.batch, self.seed)
        trainer.save_state(self.after)
        trainer.make_whole()
        if trainer.is_first_rank:
            if adapter:
                adapter.save(self.after)
                adapter.merge()
            save_policy(chosen, self.after)
            self.metrics.write_text(json.dumps(found))
        return found

    def _adapter(self, chosen: Policy) -> Adapter | None:
        """The adapter of the policy before, live; a new one on the policy that RL starts from."""
        if self.params.lora is None:
            return None
        adapter = Adapter(chosen.model, self.params.lora, derive(self.seed, "adapter"))
        if self.before != self.start:
            adapter.load(self.before)
        return adapter


def reference_logprobs(job: Job, forest: Forest, trees: list[int]) -> np.ndarray | None:
    """Logprobs of the forest's tokens under the KL's reference policy; None without a KL."""
    artifact = reference_artifact(job.params.update)
    if artifact is None:
        return None
    reference = load_policy(job.inputs[artifact], job.params.engine.device).model
    params, temperature = job.params.update, job.params.sampling.temperature
    return forest_logprobs(
        reference, forest, trees, temperature, params.micro_batch_tokens, params.logit_chunk
    )


def asked(_: int, params: ExperimentParams) -> tuple[str, ...]:
    """The KL's reference, where there is one, and the policy that carries an adapter."""
    wanted = (reference_artifact(params.update), policy(0) if params.update.lora else None)
    return tuple(dict.fromkeys(filter(None, wanted)))


UPDATE = Step(
    name="update",
    description="train the policy on the packed trees",
    inputs=lambda k: (
        policy(k - 1),
        *(of_iteration(k, f"{part}.parquet") for part in PARTS),
    ),
    outputs=lambda k: (policy(k), of_iteration(k, "update.json")),
    reads=("plugins", "update", "advantage", "sampling", "engine"),
    run=run,
    asked=asked,
)
