"""Make an artifact again from its lineage, in a folder of its own, and compare.

The stored artifact is never touched; it and its inputs are fetched from DVC where they are missing
here, as in a new clone. With `chain`, its inputs are made again too, from the data on; else they
are the stored ones, whose hashes must be those recorded. A policy that retention removed is made
again in any case. What a GPU made is compared within a tolerance, all else by its bytes.
"""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

from tasks.lineage import FILE, Record, locate
from tasks.provenance import package_versions
from tasks.remote import fetch
from tasks.replay import Replay, comparison_of
from tasks.resources import Resources
from tasks.run import EXPERIMENT
from tasks.run_efficiency import EFFICIENCY
from tasks.run_evaluation import EVALUATION
from treepo.errors import UserError, WorkError

log = logging.getLogger(__name__)


def reproduce(path: Path, chain: bool) -> str:
    """Make an artifact again; says "identical", or within which tolerance it is equal.

    Raises WorkError with the first difference, or where a missing input cannot be fetched;
    UserError where the path belongs to no experiment, or an input is missing or changed.
    """
    places = [folder / FILE for folder in path.absolute().parents]
    if not any(place.is_file() for place in places):
        fetch(places)
    lineage, artifact = locate(path)
    root = lineage.file.parent
    fetch([root / artifact])
    if not path.exists():
        raise UserError(f"{path}: no such artifact")
    with TemporaryDirectory(prefix="treepo-") as folder, Resources() as resources:
        scratch = Path(folder) / root.name
        steps = {**EXPERIMENT.steps, **EFFICIENCY.steps, **EVALUATION.steps}
        replay = Replay(root, lineage, scratch, resources, steps, chain, fetch)
        record = replay.record(artifact)
        _name_other_versions(record)
        _name_timing(record)
        comparison = comparison_of(record)
        difference = comparison.first_difference(root / artifact, replay.make(artifact))
    if difference:
        raise WorkError(f"differs: {difference}")
    if not comparison.largest:
        return "identical"
    within = f"{comparison.tolerance:g} ({comparison.largest:.1e} at most)"
    return f"equal within {within}, made on {record.device['kind']}"


def _name_other_versions(record: Record) -> None:
    """Warn of every package whose version is not the one that the artifact was made with."""
    now = package_versions()
    for name, before in record.packages.items():
        if now.get(name) != before:
            log.warning("%s: made with %s, here is %s", name, before, now.get(name, "none"))


def _name_timing(record: Record) -> None:
    """Warn where rounding was left to chance: which trees share a batch on Ray is one of timing."""
    engine = record.params.get("engine", {"deterministic": True})
    if record.device.get("compute") == "ray" and not engine["deterministic"]:
        log.warning("sampled on Ray without engine.deterministic: bytes depend on timing there")
