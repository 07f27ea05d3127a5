"""The tables of an efficiency experiment: what was measured, the graded responses, the summary."""

from __future__ import annotations

import pyarrow as pa

from treepo.efficiency import MEASURES, SCALING
from treepo.schemas.columns import FILLED, FINITE, NATURAL, Check, Rules
from treepo.schemas.tables import EVALUATION, EVALUATION_SCHEMA

_COUNTS = (
    "problems",
    "trajectories",
    "trajectory_tokens",
    "sampled_tokens",
    "prefill_tokens",
    "context_tokens",
    "forward_calls",
    "peak_bytes",
)
_TIMES = ("wall_seconds", "device_seconds")
_RATIOS = ("ratio", "ratio_low", "ratio_high")
_VALUES = ("median", "low", "high")

# One row an arm: all arms of one round. The columns are those of `treepo.efficiency.Measurement`.
MEASUREMENTS_SCHEMA = pa.schema(
    [
        ("round", pa.int32()),
        ("place", pa.int32()),
        ("arm", pa.string()),
        *((name, pa.int64()) for name in _COUNTS),
        *((name, pa.float64()) for name in _TIMES),
        ("tokens_of_k", pa.list_(pa.float64())),
    ]
)
# One row a response: the arm that it belongs to, then the columns of an evaluation.
ARM_RESPONSES_SCHEMA = pa.schema([pa.field("arm", pa.string()), *EVALUATION_SCHEMA])
# One row an arm and measure; `k` is null but for the points of a scaling curve.
EFFICIENCY_SCHEMA = pa.schema(
    [
        ("arm", pa.string()),
        ("against", pa.string()),
        ("measure", pa.string()),
        ("k", pa.int32()),
        ("rounds", pa.int32()),
        *((name, pa.float64()) for name in (*_VALUES, *_RATIOS)),
    ]
)

_POSITIVE = Check.gt(0, error="must be above 0")
MEASUREMENTS = Rules(
    MEASUREMENTS_SCHEMA,
    checks={
        "round": Check.ge(1, error="must be the number of a round"),
        "place": NATURAL,
        "arm": FILLED,
        **dict.fromkeys(_COUNTS, NATURAL),
        **dict.fromkeys(_TIMES, _POSITIVE),
    },
)
ARM_RESPONSES = Rules(
    ARM_RESPONSES_SCHEMA, checks={"arm": FILLED, **EVALUATION.checks}, nullable=EVALUATION.nullable
)
EFFICIENCY = Rules(
    EFFICIENCY_SCHEMA,
    checks={
        "arm": FILLED,
        "measure": Check.isin([*MEASURES, *SCALING], error="is no measure"),
        "k": Check.ge(1, error="must be a number of trajectories"),
        "rounds": Check.ge(1, error="must be above 0"),
        **dict.fromkeys((*_VALUES, *_RATIOS), FINITE),
    },
    nullable=frozenset(("against", "k", *_RATIOS)),
)


def check_measurements(table: pa.Table, where: str) -> pa.Table:
    """The measurements with the exact schema. Raises UserError naming `where`, column and row."""
    return MEASUREMENTS.conform(table, where)


def check_arm_responses(table: pa.Table, where: str) -> pa.Table:
    """The responses with the exact schema. Raises UserError naming `where`, column and row."""
    return ARM_RESPONSES.conform(table, where)


def check_efficiency(table: pa.Table, where: str) -> pa.Table:
    """The summary with the exact schema. Raises UserError naming `where`, column and row."""
    return EFFICIENCY.conform(table, where)
