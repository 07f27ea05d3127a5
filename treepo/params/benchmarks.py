"""Parameters of `treepo evaluate`: any policy on any list of benchmarks.

What `treepo efficiency` has in common with it, policy and problems, is in `PolicyRunParams`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from treepo.params.base import Natural, Params, Positive, WholeParams
from treepo.params.compute import ComputeParams
from treepo.params.datasets import DatasetParams
from treepo.params.engine import EngineParams
from treepo.params.evaluation import EvaluationParams
from treepo.params.scoring import ScoringParams


class PromptParams(Params):
    """How a prompt is made of a problem."""

    prompt: str = Field(default="{problem}\n", description="prompt text; {problem} is replaced")
    chat: bool = Field(default=False, description="wrap it in the policy's chat template")
    max_prompt_tokens: Positive = Field(
        default=1024, description="longer prompts are left out and counted [tokens]"
    )

    @model_validator(mode="after")
    def _prompt_holds_problem(self) -> PromptParams:
        if "{problem}" not in self.prompt:
            raise ValueError("prompts.prompt must contain {problem}")
        return self


class BenchmarkParams(Params):
    """One set of problems."""

    source: str | DatasetParams = Field(
        description="a recipe of params/datasets (left out: that of the benchmark's name), a "
        ".parquet or .jsonl file, or a hub dataset name"
    )
    split: str = Field(default="test", description="hub name only: split")
    problem_column: str = Field(
        default="problem", description="file or hub name only: column with the problem text"
    )
    answer_column: str = Field(
        default="answer", description="file or hub name only: column with the gold answer"
    )
    rows: Positive | None = Field(
        default=None, description="only the first so many problems; null: all [rows]"
    )
    prompts: PromptParams = Field(
        default=PromptParams(), description="left out: as `prompts`, else as the recipe says"
    )


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
OVERALL = "overall"  # names the figures over all benchmarks


class PolicyRunParams(WholeParams):
    """A policy and the problems that it is asked: what evaluations and speed measurements share."""

    seed: Natural = Field(default=0, description="the seed that all others derive from")
    plugins: list[str] = Field(
        default=[],
        description="modules or .py files to import first, which may register policies",
    )
    policy: str = Field(
        default="smollm2",
        description="RUN@K (iteration K of the experiment in folder RUN, or RUN@last), a folder "
        "with a model, or a hub name",
    )
    benchmarks: dict[Name, BenchmarkParams] = Field(
        default={}, min_length=1, description="problem sets by name"
    )
    mirrors: str | None = Field(
        default=None, description="folder with local copies, which recipes read instead of the hub"
    )
    overlap_ngram: Natural = Field(
        default=13,
        description="for a policy RUN@K: problems that have so many words in a row in common with "
        "one that RUN trained on are listed in data/overlap.json; 0: only equal ones [words]",
    )
    prompts: PromptParams | None = Field(
        default=None, description="from problem to prompt; null: as each benchmark's recipe says"
    )
    engine: EngineParams = Field(default=EngineParams(), description="what samples")
    scoring: ScoringParams = Field(default=ScoringParams(), description="verifier")

    @model_validator(mode="after")
    def _named(self) -> PolicyRunParams:
        if OVERALL in self.benchmarks:
            raise ValueError(f"benchmarks.{OVERALL}: this name is taken; choose another")
        return self


class BenchmarkRunParams(PolicyRunParams):
    """One evaluation: params/evaluations/NAME.yaml."""

    kind: ClassVar = "evaluation"
    folder: ClassVar = "evaluations"

    batch: Positive = Field(
        default=1,
        description="problems sampled together, what a stop loses at most. More is faster on a "
        "GPU; unless engine.deterministic, rounding makes responses depend on it [problems]",
    )
    evaluation: EvaluationParams = Field(
        default=EvaluationParams(), description="responses a problem, and k"
    )
    compute: ComputeParams = Field(
        default=ComputeParams(), description="this machine, or a cluster"
    )
