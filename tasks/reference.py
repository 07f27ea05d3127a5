"""Step `reference`: the KL's reference policy, where it is not the one that RL starts from."""

from __future__ import annotations

from tasks.steps import Job, Metrics, Step
from tasks.workspace import REFERENCE, policy
from treepo.errors import UserError
from treepo.models import initial_policy, load_tokenizer, save_policy
from treepo.params import ModelParams, UpdateParams


def reference_artifact(params: UpdateParams) -> str | None:
    """The artifact that holds the reference policy; None without a KL."""
    if not params.kl_coefficient:
        return None
    return REFERENCE if params.reference else policy(0)


def run(job: Job) -> Metrics:
    """Write policy/reference, as all policies are written, so that its content is recorded.

    Raises UserError where it is no model, or has other tokens than the policy.
    """
    source = job.params.update.reference
    chosen = initial_policy(ModelParams(source=source), job.seed, "update.reference")
    tokenizer = load_tokenizer(ModelParams(source=str(job.inputs[policy(0)])))
    if tokenizer.get_vocab() != chosen.tokenizer.get_vocab():
        raise UserError(f"update.reference: '{source}' has other tokens than the policy")
    save_policy(chosen, job.output)
    return {}


REFERENCE_STEP = Step(
    name="reference",
    description="the KL's reference policy, where another than the first is asked for",
    inputs=lambda _: (policy(0),),
    outputs=lambda _: (REFERENCE,),
    reads=("update",),
    run=run,
)
