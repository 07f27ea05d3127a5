"""What a run will cost, before it is run: tokens, device hours, memory. Estimates, not promises.

Everything follows from the parameters and the assumptions in `CostParams`; nothing is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from treepo.params import ExperimentParams, ModelParams, SamplingParams
from treepo.params.ablation import CostParams, StopParams

GIB = 1 << 30
TRAIN_BYTES = 16  # a parameter in float32 with its gradient and Adam's two moments
ACTIVATIONS = 17  # times the hidden size: values that a token of one layer keeps
LOGITS = 12  # bytes a logit: float32, its softmax, its gradient
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Cost:
    """Of one run. Tokens are sampled once each; memory is that of one device."""

    training_tokens: float
    evaluation_tokens: float
    device_hours: float
    trainer_memory: float
    engine_memory: float

    @property
    def tokens(self) -> float:
        """All sampled tokens."""
        return self.training_tokens + self.evaluation_tokens


def estimate(
    params: ExperimentParams, cost: CostParams, stop: Sequence[StopParams], evaluations: int
) -> Cost:
    """The cost of a run that evaluates `evaluations` policies.

    A budget of sampled tokens among the rules that end a run bounds what it trains on.
    """
    rounds = params.rollout.prompts * cost.sampling_rounds * params.iterations
    sampled = rounds * tree_tokens(params.sampling, _length(params.sampling, cost))
    budgets = [rule.value for rule in stop if rule.rule == "tokens_sampled"]
    sampled = min([sampled, *budgets])
    length = min(params.evaluation.max_tokens, cost.response_tokens or params.evaluation.max_tokens)
    responses = tree_tokens(params.evaluation.sampling, length)
    judged = evaluations * params.data.heldout_size * responses
    trained = sampled / cost.sampling_rounds * params.update.epochs
    seconds = (sampled + judged) / cost.decode_rate + trained / cost.train_rate
    return Cost(
        training_tokens=float(sampled),
        evaluation_tokens=float(judged),
        device_hours=seconds / 3600,
        trainer_memory=trainer_bytes(params, cost) / GIB,
        engine_memory=engine_bytes(params, cost) / GIB,
    )


def _length(sampling: SamplingParams, cost: CostParams) -> int:
    return min(sampling.token_limit, cost.response_tokens or sampling.token_limit)


def tree_tokens(sampling: SamplingParams, length: int) -> float:
    """Tokens of a tree whose w trajectories all have `length` tokens, each token once.

    Paths multiply at every segment until they are w; those that are missing at the end fall back
    to the middle of another path.
    """
    low, high = sampling.initial_range
    paths = last = min(sampling.width, (low + high) / 2)
    tokens = 0.0
    for start in range(0, length, sampling.segment_length):
        tokens += paths * min(sampling.segment_length, length - start)
        last = paths
        paths = min(sampling.width, paths * sampling.branching)
    return tokens + (sampling.width - last) * length / 2


def parameter_count(model: ModelParams, vocabulary: int) -> int:
    """Weights of a Llama-like model of this shape; a large one has an output layer of its own."""
    head = model.hidden_size // model.heads
    attention = 2 * model.hidden_size**2 + 2 * model.hidden_size * head * model.kv_heads
    layer = attention + 3 * model.hidden_size * model.intermediate_size
    embeddings = vocabulary * model.hidden_size * (2 if model.source != "small_llama" else 1)
    return model.layers * layer + embeddings


def trainer_bytes(params: ExperimentParams, cost: CostParams) -> float:
    """Memory of a trainer rank: its shard, one layer at work, kept activations, chunked logits."""
    model, update = params.model, params.update
    tokens, size = update.micro_batch_tokens, BYTES[update.precision]
    count = parameter_count(model, cost.vocabulary)
    # What an adapter itself takes is little beside the frozen weights.
    held = TRAIN_BYTES if update.lora is None else BYTES["float32"]
    shard = held * count / cost.devices
    gathered = size * count / model.layers
    layer = ACTIVATIONS * size * model.hidden_size * tokens
    kept = size * model.hidden_size * tokens * model.layers
    activations = kept + layer if update.gradient_checkpointing else layer * model.layers
    return shard + gathered + activations + LOGITS * update.logit_chunk * cost.vocabulary


def engine_bytes(params: ExperimentParams, cost: CostParams) -> float:
    """Memory of an engine on one device: all weights, and what it is given for keys and values."""
    engine = params.engine
    own = {
        "torch": (engine.dtype or "float32", engine.memory),
        "vllm": (engine.vllm.dtype, engine.vllm.cache_gib),
    }
    if engine.name not in own:
        return 0.0  # servers that somebody else runs
    dtype, cache = own[engine.name]
    return BYTES[dtype] * parameter_count(params.model, cost.vocabulary) + cache * GIB
