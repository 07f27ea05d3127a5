"""What a person sees of an ablation on the terminal: its plan before, its comparison after."""

from __future__ import annotations

import json

from rich.table import Table

from flows.progress import console
from tasks.ablation import COMPARISON, PAGE, Study
from tasks.ablation_plan import PlannedRun, planned
from treepo.ablation.plan import Plan, load_plan
from treepo.schemas.ablation import check_comparison
from treepo.storage import read_table

SHOWN = ("accuracy", "maj@k", "sampled_tokens")


def show_plan(name: str) -> None:
    """Print runs, what differs, what is shared, tokens, hours and memory; writes nothing."""
    plan = load_plan(name)
    rows = planned(plan)
    table = Table("run", "differs from the reference", "takes over", box=None, pad_edge=False)
    for heading in ("tokens", "device hours"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.run.name,
            ", ".join(f"{key}={json.dumps(value)}" for key, value in row.differs.items())
            or "(reference)",
            _shared(row),
            f"{row.cost.tokens:,.0f}",
            f"{row.cost.device_hours:,.2f}",
        )
    console.print(table)
    for label, text in _totals(plan, rows).items():
        console.print(f"{label:<13} {text}", soft_wrap=True)


def _shared(row: PlannedRun) -> str:
    """Parts by the run that makes them."""
    by_maker: dict[str, list[str]] = {}
    for part, maker in row.shared.items():
        by_maker.setdefault(maker, []).append(part)
    return "; ".join(f"{', '.join(parts)} of {maker}" for maker, parts in by_maker.items())


def _totals(plan: Plan, rows: list[PlannedRun]) -> dict[str, str]:
    cost = plan.params.cost
    hours = sum(row.cost.device_hours for row in rows)
    trainer = max(row.cost.trainer_memory for row in rows)
    engine = max(row.cost.engine_memory for row in rows)
    verdict = "fits" if trainer + engine <= cost.memory else "does not fit at once"
    stops = [f"{rule.rule} {rule.model_dump(exclude={'rule'})}" for rule in plan.params.stop]
    return {
        "ablation": f"{plan.name}: {plan.params.description}",
        "runs": f"{len(plan.variants)} variants x {len(plan.params.seeds)} seeds = {len(rows)}",
        "reference": ", ".join(dict.fromkeys(plan.references.values())),
        "ends early": "; ".join(stops) or "never",
        "tokens": f"{sum(row.cost.tokens for row in rows):,.0f} sampled (estimate)",
        "device hours": f"{hours:,.2f} of {cost.device}, {cost.devices} a run: "
        f"{hours / cost.devices:,.2f} hours of wall time, runs one after another (estimate)",
        "memory": f"trainer {trainer:,.2f} GiB + engine {engine:,.2f} GiB a device, "
        f"{verdict} in {cost.memory:g} GiB (estimate)",
    }


def show_results(study: Study) -> None:
    """Print mean, interval and paired difference of each variant, and where the page is."""
    rows = read_table(study.workspace.path(COMPARISON), check_comparison).to_pylist()
    for measure in SHOWN:
        table = Table(measure, box=None, pad_edge=False)
        for heading in ("seeds", "mean", "95 % interval", "difference", "p (t)", "p (sign flip)"):
            table.add_column(heading, justify="right")
        for row in rows:
            if row["measure"] == measure:
                table.add_row(row["variant"], str(row["n"]), *_cells(row))
        console.print(table)
    console.print(f"report        {study.workspace.path(PAGE)}", soft_wrap=True)


def _cells(row: dict[str, float | None]) -> list[str]:
    interval = f"{_number(row['low'])} to {_number(row['high'])}"
    keys = ("difference_mean", "p_t", "p_sign")
    return [_number(row["mean"]), interval, *(_number(row[key]) for key in keys)]


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
