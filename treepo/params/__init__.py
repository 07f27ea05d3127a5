"""Every parameter of an experiment: its value, unit, meaning, and place in the paper.

The models are frozen and refuse unknown keys; one file a section. `treepo.loading` reads them
from YAML.
"""

from treepo.params.advantage import AdvantageParams
from treepo.params.base import Params
from treepo.params.data import GENERATED, DataParams
from treepo.params.datasets import DatasetParams
from treepo.params.engine import EngineParams
from treepo.params.evaluation import EvaluationParams
from treepo.params.experiment import ExperimentParams
from treepo.params.model import ModelParams, WarmUpParams
from treepo.params.sampling import FallbackParams, RepetitionParams, RolloutParams, SamplingParams
from treepo.params.scoring import ScoringParams
from treepo.params.update import UpdateParams

__all__ = [
    "GENERATED",
    "AdvantageParams",
    "DataParams",
    "DatasetParams",
    "EngineParams",
    "EvaluationParams",
    "ExperimentParams",
    "FallbackParams",
    "ModelParams",
    "Params",
    "RepetitionParams",
    "RolloutParams",
    "SamplingParams",
    "ScoringParams",
    "UpdateParams",
    "WarmUpParams",
]
