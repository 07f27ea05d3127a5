"""Every parameter of an experiment: its value, unit, meaning, and place in the paper.

The models are frozen and refuse unknown keys; one file a section. `treepo.loading` reads them
from YAML.
"""

from treepo.params.advantage import AdvantageParams
from treepo.params.base import SECRET, Params, WholeParams, merge
from treepo.params.benchmarks import (
    BenchmarkParams,
    BenchmarkRunParams,
    PolicyRunParams,
    PromptParams,
)
from treepo.params.checkpoints import CheckpointParams
from treepo.params.compute import ComputeParams, RayParams
from treepo.params.data import GENERATED, DataParams
from treepo.params.datasets import DatasetParams
from treepo.params.efficiency import ArmParams, ComparisonParams, EfficiencyParams
from treepo.params.engine import EngineParams
from treepo.params.evaluation import EvaluationParams
from treepo.params.experiment import ExperimentParams
from treepo.params.model import ModelParams, WarmUpParams
from treepo.params.sampling import (
    AllocationParams,
    BudgetParams,
    FallbackParams,
    ForcedAnswerParams,
    RepetitionParams,
    RolloutParams,
    SamplingParams,
)
from treepo.params.scoring import ScoringParams
from treepo.params.serving import ServerParams, ServingParams, VLLMParams
from treepo.params.update import LoraParams, UpdateParams

__all__ = [
    "GENERATED",
    "SECRET",
    "AdvantageParams",
    "AllocationParams",
    "ArmParams",
    "BenchmarkParams",
    "BenchmarkRunParams",
    "BudgetParams",
    "CheckpointParams",
    "ComparisonParams",
    "ComputeParams",
    "DataParams",
    "DatasetParams",
    "EfficiencyParams",
    "EngineParams",
    "EvaluationParams",
    "ExperimentParams",
    "FallbackParams",
    "ForcedAnswerParams",
    "LoraParams",
    "ModelParams",
    "Params",
    "PolicyRunParams",
    "PromptParams",
    "RayParams",
    "RepetitionParams",
    "RolloutParams",
    "SamplingParams",
    "ScoringParams",
    "ServerParams",
    "ServingParams",
    "UpdateParams",
    "VLLMParams",
    "WarmUpParams",
    "WholeParams",
    "merge",
]
