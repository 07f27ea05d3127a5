"""Parameters of the dataset."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from treepo.params.base import Natural, Params, Positive
from treepo.params.datasets import DatasetParams

# The source of problems that reasoning-gym generates.
GENERATED = "reasoning_gym"


class DataParams(Params):
    """Where problems come from and how a prompt is made of one."""

    source: str | DatasetParams = Field(
        default=GENERATED,
        description="'reasoning_gym' (generated), a recipe of params/datasets, a .parquet or "
        ".jsonl file, or a hub dataset name",
    )
    mirrors: str | None = Field(
        default=None, description="folder with local copies, which recipes read instead of the hub"
    )
    exclude: list[str | DatasetParams] = Field(
        default=[], description="more sets (as `source`) that no train problem may overlap with"
    )
    overlap_ngram: Natural = Field(
        default=13,
        description="train problems that have so many words in a row in common with a held-out or "
        "excluded one are left out; 0: only equal ones; not for generated problems [words]",
    )
    gold: Literal["answer", "entry"] = Field(
        default="answer",
        description="reasoning_gym only: the gold answer, or the whole entry for the verifier "
        "reasoning_gym, which knows tasks with several right answers",
    )
    families: dict[str, Positive] = Field(
        default={"chain_sum": 1},
        description="reasoning_gym only: task families and their weights in the mix",
    )
    train_size: Positive = Field(default=2048, description="problems to train on [rows]")
    heldout_size: Positive = Field(
        default=200, description="problems held out for evaluation [rows]"
    )
    split: str = Field(default="train", description="hub only: split to train on")
    heldout_source: str | DatasetParams | None = Field(
        default=None,
        description="recipe, file or hub name of the held-out problems; null: cut from `source`",
    )
    heldout_split: str = Field(default="test", description="hub only: split of `heldout_source`")
    problem_column: str = Field(default="problem", description="column with the problem text")
    answer_column: str = Field(default="answer", description="column with the gold answer")
    prompt: str = Field(default="{problem}\n", description="prompt text; {problem} is replaced")
    chat: bool = Field(
        default=False, description="wrap the prompt as a user turn of the chat template"
    )
    max_prompt_tokens: Positive = Field(
        default=1024, description="longer prompts are filtered and counted [tokens] (paper: 1,024)"
    )

    @model_validator(mode="after")
    def _prompt_holds_problem(self) -> DataParams:
        if "{problem}" not in self.prompt:
            raise ValueError("data.prompt must contain {problem}")
        return self
