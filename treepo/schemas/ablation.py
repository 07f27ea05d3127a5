"""The tables of an ablation: its runs, the comparison of its variants, its learning curves."""

from __future__ import annotations

import pyarrow as pa

from treepo.ablation.comparison import AXES, FAILED, FINISHED, MEASURES, STOPPED
from treepo.schemas.columns import FILLED, NATURAL, Check, Rules

_INTERVAL = ("mean", "low", "high")
_DIFFERENCE = ("difference_mean", "difference_low", "difference_high", "p_t", "p_holm", "p_sign")
_SHARE = Check.in_range(0, 1, error="must lie between 0 and 1")

# One row a run. `reason`: why it failed or ended early, else "".
RUNS_SCHEMA = pa.schema(
    [
        ("variant", pa.string()),
        ("seed", pa.int64()),
        ("status", pa.string()),
        ("reason", pa.string()),
        *((name, pa.float64()) for name in MEASURES),
    ]
)
# One row a variant and measure. `n`, `difference_n`: seeds; p_holm: p_t adjusted for the variants.
COMPARISON_SCHEMA = pa.schema(
    [
        ("variant", pa.string()),
        ("measure", pa.string()),
        ("n", pa.int32()),
        *((name, pa.float64()) for name in _INTERVAL),
        ("difference_n", pa.int32()),
        *((name, pa.float64()) for name in _DIFFERENCE),
    ]
)
# One row a variant, axis, measure and place `x`.
CURVES_SCHEMA = pa.schema(
    [
        ("variant", pa.string()),
        ("axis", pa.string()),
        ("measure", pa.string()),
        ("x", pa.float64()),
        ("n", pa.int32()),
        *((name, pa.float64()) for name in _INTERVAL),
    ]
)

_STATUS = (FINISHED, STOPPED, FAILED)
RUNS = Rules(
    RUNS_SCHEMA,
    checks={
        "variant": FILLED,
        "seed": NATURAL,
        "status": Check.isin(_STATUS, error=f"must be one of {', '.join(_STATUS)}"),
    },
    nullable=frozenset(MEASURES),
)
COMPARISON = Rules(
    COMPARISON_SCHEMA,
    checks={
        "variant": FILLED,
        "measure": Check.isin(list(MEASURES), error="is no measure"),
        "n": NATURAL,
        **dict.fromkeys(("p_t", "p_holm", "p_sign"), _SHARE),
    },
    nullable=frozenset((*_INTERVAL, *_DIFFERENCE)),
)
CURVES = Rules(
    CURVES_SCHEMA,
    checks={
        "variant": FILLED,
        "axis": Check.isin(AXES, error=f"must be one of {', '.join(AXES)}"),
        "x": NATURAL,
    },
    nullable=frozenset(_INTERVAL),
)


def check_runs(table: pa.Table, where: str) -> pa.Table:
    """The runs with the exact schema. Raises UserError naming `where`, column and row."""
    return RUNS.conform(table, where)


def check_comparison(table: pa.Table, where: str) -> pa.Table:
    """The comparison with the exact schema. Raises UserError naming `where`, column and row."""
    return COMPARISON.conform(table, where)


def check_curves(table: pa.Table, where: str) -> pa.Table:
    """The curves with the exact schema. Raises UserError naming `where`, column and row."""
    return CURVES.conform(table, where)
