"""What all sections of the parameters share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

SECRET = "secret"  # type of an error whose input is not to be repeated


class Params(BaseModel):
    """Base of all sections: frozen, nothing unknown, no silent conversion of one type to another.

    Real numbers must be finite. They may come as text, as YAML 1.1 reads 1e-5 so.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        wanted: Any = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and not {bool, Any} & {wanted, *get_args(wanted)}:
            raise ValueError("Input should not be true or false")
        return value


class WholeParams(Params):
    """Base of what one file describes: params/NAME.yaml, or params/FOLDER/NAME.yaml.

    kind: what messages call it. folder: below params/ and below the runs; empty for experiments.
    """

    kind: ClassVar[str]
    folder: ClassVar[str]

    description: str = Field(default="", description="one line for tables and pages")


def _whole(low: int) -> Any:
    """An integer of at least `low`: no text, no truth value, no real number."""
    return Field(ge=low, strict=True)


Natural = Annotated[int, _whole(0)]
Positive = Annotated[int, _whole(1)]
Several = Annotated[int, _whole(2)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`; mappings merge key by key, but data.families is taken as a whole."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, Mapping) and key != "families":
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged
