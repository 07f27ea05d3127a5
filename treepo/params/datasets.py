"""Parameters of one set of problems: a recipe of params/datasets, written out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from treepo.params.base import Params


class DatasetParams(Params):
    """Where one set of problems comes from, and how its rows are read."""

    name: str = Field(default="", description="the recipe's name; rows get it as their family")
    description: str = Field(default="", description="one line for tables and pages")
    hub: str | None = Field(default=None, description="name of the dataset on the hub")
    config: str | None = Field(default=None, description="hub: configuration of the dataset")
    revision: str | None = Field(
        default=None, description="hub: commit of the dataset; null: the newest"
    )
    split: str = Field(default="train", description="hub: split")
    streaming: bool = Field(
        default=False, description="hub: read rows as they come, for sets larger than the disk"
    )
    problem: str = Field(
        default="problem", description="column with the problem; a.0.b looks into nested values"
    )
    answer: str = Field(default="answer", description="column that holds the gold answer")
    extract: Literal["whole", "after_hashes", "last_box"] = Field(
        default="whole", description="the part of the answer column that is the gold answer"
    )
    only: dict[str, list[str | int]] = Field(
        default={}, description="rows are taken where each of these columns has one of the values"
    )
    strip: list[str] = Field(
        default=[], description="texts that are cut off from the start or end of a problem"
    )
    mirror: str | None = Field(
        default=None,
        description="name of its local copy in data.mirrors: columns problem and answer, as is",
    )
    path: str | None = Field(
        default=None, description="a .parquet or .jsonl file with the hub's columns, instead of it"
    )
    checksum: str | None = Field(
        default=None,
        description="sha256 of what the hub or path yields (see treepo.data.files); null: unknown",
    )
    mirror_checksum: str | None = Field(
        default=None, description="the same of what the mirror yields"
    )

    @model_validator(mode="after")
    def _comes_from_somewhere(self) -> DatasetParams:
        if not (self.hub or self.path or self.mirror):
            raise ValueError("a dataset needs one of hub, path and mirror")
        return self
