"""The process that holds vLLM: answers one connection until that closes.

Nobody imports it but the process itself: its parent needs no vLLM, can kill it, and keeps its own
threads, which vLLM would bind. It decodes only between a call and its answer, so that its batches,
and with them the last bits of its numbers, do not depend on timing.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from treepo.engines.segments import SampledSegment, SegmentCall
from treepo.params import EngineParams
from treepo.tree import Segment

# Answers at least this often, if only to show that it lives [s].
HEARTBEAT = 2.0
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine's core in this process
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Setup:
    """The first message: what to open."""

    folder: str
    engine: EngineParams
    eos: frozenset[int]


class UnsupportedModel(Exception):
    """The model is none for this engine; the message says why."""


class Worker:
    """vLLM behind the four calls that its parent makes."""

    def __init__(self, setup: Setup) -> None:
        from vllm import EngineArgs, LLMEngine

        _check_head_size(setup.folder)
        params, on_cpu = setup.engine.vllm, setup.engine.device == "cpu"
        self._eos = setup.eos
        self._engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=setup.folder,
                skip_tokenizer_init=True,
                dtype=params.dtype,
                block_size=params.block_size,  # pyright: ignore[reportArgumentType]
                enable_prefix_caching=True,
                # Of the distribution that is sampled from, under the temperature.
                logprobs_mode="processed_logprobs",
                kv_cache_memory_bytes=int(params.cache_gib * 2**30),
                max_num_seqs=params.max_sequences,
                enforce_eager=on_cpu,
                # A prompt cut in two winds its seeded generator back, which those of a CPU cannot.
                enable_chunked_prefill=not on_cpu,
                worker_extension_cls="treepo.engines.vllm_weights.PolicyLoader",
                seed=0,
            )
        )

    def advance(self, calls: Sequence[SegmentCall]) -> list[SampledSegment]:
        """Take on `calls` and decode until some call is done; nothing after a HEARTBEAT."""
        for call in calls:
            prompt: Any = {"prompt_token_ids": call.tokens}
            self._engine.add_request(str(call.number), prompt, self._sampling(call))
        until = time.monotonic() + HEARTBEAT
        done: list[SampledSegment] = []
        while not done and time.monotonic() < until:
            done = [_sampled(output, self._eos) for output in self._engine.step()]
        return done

    def _sampling(self, call: SegmentCall) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=call.temperature,
            seed=call.seed,
            max_tokens=call.max_tokens,
            stop_token_ids=sorted(self._eos),
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def load(self, folder: str) -> None:
        """Take over the weights in `folder`; nothing computed with the old ones is kept."""
        self._engine.collective_rpc("load_policy", args=(folder,))
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("the prefix cache cannot be emptied: requests are open")

    def cancel(self, numbers: Sequence[int]) -> None:
        """Forget these calls."""
        self._engine.abort_request([str(number) for number in numbers], internal=False)


def _sampled(output: Any, eos: frozenset[int]) -> SampledSegment:
    completion = output.outputs[0]
    tokens = [int(token) for token in completion.token_ids]
    logprobs = [
        float(at[token].logprob) for token, at in zip(tokens, completion.logprobs, strict=True)
    ]
    segment = Segment(tokens, logprobs, ended=tokens[-1] in eos)
    return SampledSegment(int(output.request_id), segment, output.num_cached_tokens or 0)


def _check_head_size(folder: str) -> None:
    from transformers import AutoConfig
    from vllm.platforms import current_platform

    config: Any = AutoConfig.from_pretrained(folder)
    heads = int(config.num_attention_heads)
    size = getattr(config, "head_dim", None) or int(config.hidden_size) // heads
    if not current_platform.is_cpu():
        return
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    sizes = CPUAttentionBackend.get_supported_head_sizes()
    if size not in sizes:
        raise UnsupportedModel(
            f"vLLM on CPU takes heads of {', '.join(map(str, sizes))} numbers, and the model's "
            f"have {size} (hidden_size / heads); change model.heads or take another engine"
        )


def serve(connection: Connection, opener: Callable[[Setup], Any]) -> None:
    """Open a worker, then answer each (method, argument) by ("done" or "failed", value).

    A failure ends the process: what state it left vLLM in is not known.
    """
    try:
        worker = opener(connection.recv())
        connection.send(("done", None))
        while True:
            method, argument = connection.recv()
            connection.send(("done", getattr(worker, method)(argument)))
    except UnsupportedModel as error:
        connection.send(("refused", str(error)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone, or has what it wanted
    except Exception as error:
        traceback.print_exc()
        connection.send(("failed", f"{type(error).__name__}: {error}"))


def main() -> None:
    """Entry point of the process: the connection is an inherited file descriptor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when this process ends
    os.environ.update(ENVIRONMENT)
    serve(Connection(int(sys.argv[1])), Worker)


if __name__ == "__main__":
    main()
