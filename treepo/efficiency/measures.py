"""What is told of one arm in one round: its counts and times, and the measures made of them."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from treepo.evaluation import summarize

# What each measure means, with its unit, in the order of tables and terminals.
MEASURES = {
    "trajectories_per_second": "TrajPS: trajectories a second of wall time [1/s]",
    "tokens_per_second": "TokenPS: tokens of all trajectories a second of wall time [tokens/s]",
    "sampled_tokens_per_second": "the same, tokens that trajectories share once [tokens/s]",
    "trajectories_per_device_second": "trajectories a second of device time [1/s]",
    "wall_seconds": "wall time of sampling [s]",
    "device_seconds": "device time of sampling [s]",
    "trajectory_tokens": "flat tokens: of all trajectories, as if sampled one by one [tokens]",
    "sampled_tokens": "unique tokens: shared ones counted once [tokens]",
    "tokens_saved": "one less unique over flat tokens [share]",
    "cache_hit_rate": "tokens of prompts and prefixes that were not computed again [share]",
    "prefill_tokens": "tokens of prompts and prefixes that were computed [tokens]",
    "forward_calls": "calls of the model; 0 where the engine does not tell",
    "peak_bytes": "most memory of keys and values; 0 where the engine does not tell [bytes]",
    "accuracy": "mean share of right responses [share]",
    "maj@k": "the vote of k responses is right [share]",
    "pass@k": "one of k responses is right [share]",
    "response_tokens": "mean length of a response [tokens]",
}


@dataclass(frozen=True)
class Measurement:
    """One arm in one round, as it is stored.

    place: when in the round it was its turn, from 0; problems: trees; trajectory_tokens: of all
    responses; sampled_tokens: the same, shared ones once; prefill_tokens, context_tokens,
    forward_calls, peak_bytes: as the engine counts (`treepo.engines.base.EngineStats`);
    wall_seconds, device_seconds: time of sampling alone [s]; tokens_of_k: for k = 1, 2, ... the
    expected sampled tokens of k trajectories a problem (`expected_tokens`).
    """

    round: int
    place: int
    arm: str
    problems: int
    trajectories: int
    trajectory_tokens: int
    sampled_tokens: int
    prefill_tokens: int
    context_tokens: int
    forward_calls: int
    peak_bytes: int
    wall_seconds: float
    device_seconds: float
    tokens_of_k: list[float]


def costs(measured: Measurement) -> dict[str, float]:
    """Rates, times, tokens and cache of one measurement, by the names of MEASURES."""
    wall, flat = measured.wall_seconds, measured.trajectory_tokens
    computed, context = measured.prefill_tokens, measured.context_tokens
    return {
        "trajectories_per_second": measured.trajectories / wall,
        "tokens_per_second": flat / wall,
        "sampled_tokens_per_second": measured.sampled_tokens / wall,
        "trajectories_per_device_second": measured.trajectories / measured.device_seconds,
        "wall_seconds": wall,
        "device_seconds": measured.device_seconds,
        "trajectory_tokens": float(flat),
        "sampled_tokens": float(measured.sampled_tokens),
        "tokens_saved": 1 - measured.sampled_tokens / flat if flat else 0.0,
        "cache_hit_rate": 1 - computed / context if context else 0.0,
        "prefill_tokens": float(computed),
        "forward_calls": float(measured.forward_calls),
        "peak_bytes": float(measured.peak_bytes),
    }


def accuracies(responses: pa.Table, seed: int, k: int | None) -> dict[str, float]:
    """What the graded responses (EVALUATION_SCHEMA) of one arm in one round are worth."""
    figures = summarize(responses, seed, k)
    named = {name: figures[name] for name in ("accuracy", "maj@k", "pass@k")}
    return {**named, "response_tokens": figures["tokens"]}
