"""The process that holds vLLM: answers one connection until that closes.

A path that goes on keeps its request of vLLM, and with it the keys and values that fill no whole
block yet; only branches, which share whole blocks, begin requests of their own.

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
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
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


# Where a request stands: its temperature and its path.
Place = tuple[float, *tuple[int, ...]]


@dataclass(frozen=True)
class Setup:
    """The first message: what to open."""

    folder: str
    engine: EngineParams
    eos: frozenset[int]


class UnsupportedModel(Exception):
    """The model is none for this engine; the message says why."""


@dataclass(eq=False)
class Running:
    """A request of vLLM and the call that it answers now; it began with an earlier one, or with it.

    name: vLLM's own; cached: tokens of the call whose keys and values were there already.
    """

    name: str
    call: SegmentCall
    cached: int = 0
    tokens: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])

    def sampled(self, eos: frozenset[int]) -> SampledSegment:
        """The answer to the call."""
        segment = Segment(self.tokens, self.logprobs, ended=self.tokens[-1] in eos)
        return SampledSegment(self.call.number, segment, self.cached)

    def goes_on(self, call: SegmentCall) -> Running:
        """The same request for the segment that follows."""
        return Running(self.name, call, cached=len(call.tokens))


class Worker:
    """vLLM behind the calls that its parent makes."""

    def __init__(self, setup: Setup) -> None:
        params, on_cpu = setup.engine.vllm, setup.engine.device == "cpu"
        if params.tensor_parallel > 1:
            # A CPU has too few memory nodes to bind each part's threads to one of its own.
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        from vllm import EngineArgs, LLMEngine

        _check_heads(setup.folder, params.tensor_parallel)
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
                tensor_parallel_size=params.tensor_parallel,
                enforce_eager=on_cpu,
                # A prompt cut in two winds its seeded generator back, which those of a CPU cannot.
                enable_chunked_prefill=not on_cpu,
                # Ahead of its answers, a request would draw past the end of a segment.
                async_scheduling=False if on_cpu else None,
                worker_extension_cls="treepo.engines.vllm_weights.PolicyLoader",
                weight_transfer_config={"backend": "ipc"} if params.transfer == "ipc" else None,  # pyright: ignore[reportArgumentType]
                enable_sleep_mode=params.sleep and not on_cpu,
                seed=0,
            )
        )
        # Elsewhere vLLM draws by means that `reseed` does not know.
        self._can_reseed = on_cpu and not self._engine.vllm_config.use_v2_model_runner
        self._names = count()
        self._running: dict[str, Running] = {}  # by the name that it was given
        self._paused: dict[Place, str] = {}
        self._patience = params.deadline
        self._silence = 0.0  # spent decoding since the last token came [s]

    def advance(self, calls: Sequence[SegmentCall]) -> list[SampledSegment]:
        """Take on `calls` and decode until some call is done; nothing after a HEARTBEAT.

        Raises RuntimeError where no call will be done.
        """
        self._wake()
        for call in self._continued(calls):
            self._begin(call)
        began = time.monotonic()
        done: list[SampledSegment] = []
        while not done and time.monotonic() < began + HEARTBEAT:
            for output in self._engine.step():
                done += self._received(output)
        self._silence += time.monotonic() - began
        if not done:
            self._check_progress()
        return done

    def _check_progress(self) -> None:
        """A heartbeat tells that this process lives, not that vLLM still knows its requests."""
        if self._silence > self._patience or not self._engine.has_unfinished_requests():
            raise RuntimeError(
                f"no token for {self._silence:.0f} s, with {len(self._running)} segments open"
            )

    def _begin(self, call: SegmentCall) -> None:
        """A request of its own for `call`; where requests go on, it is not told where to stop."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        given = str(next(self._names))
        prompt: Any = {"prompt_token_ids": call.tokens}
        sampling = SamplingParams(
            temperature=call.temperature,
            seed=call.seed,
            max_tokens=None if self._can_reseed else call.max_tokens,
            stop_token_ids=sorted(self._eos),
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        self._running[given] = Running(self._engine.add_request(given, prompt, sampling), call)

    def _received(self, output: Any) -> list[SampledSegment]:
        """Take in new tokens of a request; the answer to its call where that is done."""
        running, new = self._running[output.request_id], output.outputs[0]
        self._silence = 0.0
        if not running.tokens and running.cached == 0:
            running.cached = output.num_cached_tokens or 0
        running.tokens += map(int, new.token_ids)
        running.logprobs += (
            float(at[token].logprob) for token, at in zip(new.token_ids, new.logprobs, strict=True)
        )
        if not output.finished and len(running.tokens) < running.call.max_tokens:
            return []
        if output.finished:
            del self._running[output.request_id]
        else:
            self._pause(output.request_id, running)
        return [running.sampled(self._eos)]

    def _pause(self, given: str, running: Running) -> None:
        """Keep a request for the call that may follow; of equal paths only the last."""
        call = running.call
        place = (call.temperature, *call.tokens, *running.tokens)
        if place in self._paused:
            self._abort([self._paused[place]])
        self._paused[place] = given

    def _continued(self, calls: Sequence[SegmentCall]) -> list[SegmentCall]:
        """Let paused requests answer the calls that follow them and end all others.

        Returns the calls that need a request. A request that went on without a call would sample
        what nobody asked for.
        """
        fresh: list[SegmentCall] = []
        seeds: dict[str, int] = {}
        for call in calls:
            given = self._paused.pop((call.temperature, *call.tokens), None)
            if given is None:
                fresh.append(call)
            else:
                self._running[given] = self._running[given].goes_on(call)
                seeds[self._running[given].name] = call.seed
        if seeds:
            self._engine.collective_rpc("reseed", args=(seeds,))
        self._abort(list(self._paused.values()))
        self._paused = {}
        return fresh

    def _abort(self, given: list[str]) -> None:
        for name in given:
            del self._running[name]
        self._engine.abort_request(given, internal=False)

    def load(self, folder: str) -> None:
        """Take over the weights in `folder`; nothing computed with the old ones is kept."""
        self._take_over(("load_policy", (folder,)))

    def receive(self, update: dict[str, Any]) -> None:
        """The same with weights in memory, as vLLM's weight transfer by IPC names them."""
        self._take_over(
            ("start_weight_update", ()),
            ("update_weights", (update,)),
            ("finish_weight_update", ()),
            ("pack_embeddings", ()),
        )

    def _take_over(self, *steps: tuple[str, tuple[Any, ...]]) -> None:
        self._wake()
        self._continued([])
        for method, arguments in steps:
            self._engine.collective_rpc(method, args=arguments)
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("the prefix cache cannot be emptied: requests are open")

    def rest(self, _: None) -> None:
        """Give up the GPU's memory until the next call."""
        self._continued([])
        self._engine.sleep(level=1)

    def _wake(self) -> None:
        if self._engine.is_sleeping():
            self._engine.wake_up()

    def cancel(self, numbers: Sequence[int]) -> None:
        """Forget these calls."""
        wanted = set(numbers)
        self._abort([given for given, at in self._running.items() if at.call.number in wanted])


def _check_heads(folder: str, shared_by: int) -> None:
    from transformers import AutoConfig
    from vllm.platforms import current_platform

    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    heads = int(config.num_attention_heads)
    if heads % shared_by:
        raise UnsupportedModel(
            f"{shared_by} devices cannot share the model's {heads} heads evenly; "
            "change engine.vllm.tensor_parallel"
        )
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
    # The parent is gone, or has what it wanted.
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        kind, worker = _tried(opener, connection.recv())
        connection.send((kind, None if kind == "done" else worker))
        while kind == "done":
            method, argument = connection.recv()
            kind, value = _tried(getattr(worker, method), argument)
            connection.send((kind, value))


def _tried(work: Callable[[Any], Any], argument: Any) -> tuple[str, Any]:
    """("done", what it gives) or what went wrong: pipes that break in it are not the parent's."""
    try:
        return "done", work(argument)
    except UnsupportedModel as error:
        return "refused", str(error)
    except Exception as error:
        traceback.print_exc()
        return "failed", f"{type(error).__name__}: {error}"


def main() -> None:
    """Entry point of the process: the connection is an inherited file descriptor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when this process ends
    os.environ.update(ENVIRONMENT)
    serve(Connection(int(sys.argv[1])), Worker)


if __name__ == "__main__":
    main()
