"""The last lines of a run: what was learned, what the tree saved, where to look."""

from __future__ import annotations

import json
import os

from prefect.settings import get_current_settings

from flows.progress import console
from tasks.addresses import without_password
from tasks.workspace import METRICS, REPORT, Workspace


def show_summary(workspace: Workspace) -> None:
    """Print accuracy before and after, token savings, and the pages."""
    metrics = json.loads(workspace.path(METRICS).read_text())
    before, after = metrics["initial"]["accuracy"], metrics["final"]["accuracy"]
    sampled, flat = metrics["sampled_tokens"], metrics["trajectory_tokens"]
    saved = (
        f"{1 - sampled / flat:.0%} ({sampled:,} sampled for {flat:,})" if flat else "none sampled"
    )
    lines = {
        "accuracy": f"{before:.3f} -> {after:.3f} ({after - before:+.3f}, mean@{metrics['k']} on "
        f"{metrics['heldout_problems']} held-out problems)",
        "tokens saved": saved,
        "time": f"{metrics['wall_seconds']:.0f} s in steps",
        "report": str(workspace.path(REPORT)),
        "MLflow": _mlflow_page(workspace),
        "Prefect": _prefect_page(),
    }
    for label, text in lines.items():
        console.print(f"{label:<13} {text}", soft_wrap=True)


def _mlflow_page(workspace: Workspace) -> str:
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    return without_password(uri) if uri else f"treepo dashboard --runs-dir {workspace.runs}"


def _prefect_page() -> str:
    url = get_current_settings().api.url
    return without_password(url).removesuffix("/api") + "/runs" if url else "treepo dashboard"
