"""The parameters of one experiment, section by section."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from treepo.params.advantage import AdvantageParams
from treepo.params.base import Natural, WholeParams
from treepo.params.checkpoints import CheckpointParams
from treepo.params.compute import ComputeParams
from treepo.params.data import DataParams
from treepo.params.engine import EngineParams
from treepo.params.evaluation import EvaluationParams
from treepo.params.model import ModelParams, WarmUpParams
from treepo.params.sampling import RolloutParams, SamplingParams
from treepo.params.scoring import ScoringParams
from treepo.params.update import UpdateParams


class ExperimentParams(WholeParams):
    """One experiment."""

    kind: ClassVar = "experiment"
    folder: ClassVar = ""

    seed: Natural = Field(default=0, description="the seed that all others derive from")
    iterations: Natural = Field(default=40, description="N: RL iterations")
    evaluate_every: Natural = Field(
        default=0, description="also evaluate every n-th policy; 0: the first and the last only"
    )
    plugins: list[str] = Field(
        default=[],
        description="modules or .py files to import first, which may register policies",
    )
    data: DataParams = Field(default=DataParams(), description="problems and prompts")
    model: ModelParams = Field(default=ModelParams(), description="policy before training")
    warm_up: WarmUpParams = Field(default=WarmUpParams(), description="supervised start")
    rollout: RolloutParams = Field(default=RolloutParams(), description="trees an iteration")
    sampling: SamplingParams = Field(default=SamplingParams(), description="the tree")
    engine: EngineParams = Field(default=EngineParams(), description="what samples")
    compute: ComputeParams = Field(
        default=ComputeParams(), description="this machine, or a cluster"
    )
    scoring: ScoringParams = Field(default=ScoringParams(), description="verifier")
    advantage: AdvantageParams = Field(default=AdvantageParams(), description="credit assignment")
    update: UpdateParams = Field(default=UpdateParams(), description="objective and optimizer")
    evaluation: EvaluationParams = Field(
        default=EvaluationParams(), description="held-out accuracy"
    )
    checkpoints: CheckpointParams = Field(
        default=CheckpointParams(), description="which policies stay on disk"
    )

    @model_validator(mode="after")
    def _explores(self) -> ExperimentParams:
        if self.sampling.temperature == 0:
            raise ValueError("sampling.temperature must be above 0: greedy rollouts teach nothing")
        return self
