"""Segments from vLLM servers that somebody else runs: token ids over their OpenAI-compatible API.

Requests that fail are sent again, to the next server in turn, a bounded number of times. Knows
calls and HTTP; knows neither trees nor vLLM's Python.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from treepo.engines.segments import (
    GarbledSegment,
    SampledSegment,
    SegmentCall,
    TokenIds,
    check_segment,
)
from treepo.errors import UserError, WorkError
from treepo.models import Policy
from treepo.params import ServerParams
from treepo.tree import Segment

T = TypeVar("T")

API_KEY = "VLLM_API_KEY"  # environment variable; the same that `vllm serve` reads
BACKOFF = 0.5  # before the second attempt, then twice as long each time [s]
LOAD_DEADLINE = 900.0  # for a server to read a policy [s]
# What may go better another time: no answer, or one that says so.
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


class _Logprobs(BaseModel):
    token_logprobs: list[float]


class _Choice(BaseModel):
    token_ids: list[int]
    logprobs: _Logprobs


class _Details(BaseModel):
    cached_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens_details: _Details | None = None


class _Completion(BaseModel):
    """What is read of the answer of /v1/completions."""

    choices: list[_Choice]
    usage: _Usage = _Usage()


class VLLMServers:
    """A segment sampler: one or more vLLM servers with the same policy.

    Requests are tasks of an event loop in a thread of its own, so that any can be dropped at once,
    and with its connection the server's work on it. Raises UserError where a server does not answer
    or does not serve the model.
    """

    def __init__(self, params: ServerParams, ids: TokenIds) -> None:
        self._params = params
        self._ids = ids
        key = os.environ.get(API_KEY)
        self._client = httpx.AsyncClient(
            timeout=params.deadline,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )
        self._places = asyncio.Semaphore(params.connections)
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="segments", daemon=True)
        self._thread.start()
        self._open: set[Future[SampledSegment]] = set()
        self._failed: Exception | None = None
        try:
            self._models = {url: self._wait(self._model(url)) for url in params.urls}
        except BaseException:
            self.close()
            raise

    @property
    def replicas(self) -> int:
        """Servers."""
        return len(self._params.urls)

    def exchange(self, calls: Sequence[SegmentCall]) -> list[SampledSegment]:
        """Answers of open calls; see `SegmentSampler`.

        A call that failed for good is reported only when no other is open, so that all other trees
        come as far as they can.
        """
        self._open |= {self._started(self._complete(call)) for call in calls}
        answered: list[SampledSegment] = []
        while self._open and not answered:
            done, self._open = wait(self._open, return_when=FIRST_COMPLETED)
            for future in done:
                error = future.exception()
                if error is None:
                    answered.append(future.result())
                elif not isinstance(error, WorkError | UserError):
                    raise error
                else:
                    self._failed = self._failed or error
        if not answered and self._failed is not None:
            raise self._failed
        return answered

    def load(self, folder: Path, policy: Policy) -> None:
        """Make every server take over the weights in `folder` and forget what the old ones gave.

        Does nothing where they keep what they serve. Raises UserError where a server does not
        offer that, WorkError where it fails.
        """
        for url in self._params.urls if self._params.weights == "load" else ():
            load = {"method": "load_policy", "args": [str(folder.resolve())]}
            for path, body in (("/collective_rpc", load), ("/reset_prefix_cache", None)):
                try:
                    posted = self._client.post(url + path, json=body, timeout=LOAD_DEADLINE)
                    answer = self._wait(posted)
                except httpx.HTTPError as error:
                    raise WorkError(f"{url}{path}: {_words(error)}") from None
                if answer.status_code == 404:
                    raise UserError(
                        f"engine.server.weights: {url} has no {path}; start the server as the "
                        "documentation says, or set it to 'served'"
                    )
                if answer.is_error:
                    raise WorkError(f"{url}{path}: {_status(answer)}")

    def cancel(self) -> None:
        """Forget all open calls and end their requests."""
        for future in self._open:
            future.cancel()
        self._wait(_others_ended())
        self._open, self._failed = set(), None

    def rest(self) -> None:
        """Nothing: others may be using the servers."""

    def close(self) -> None:
        """End the connections."""
        self.cancel()
        self._wait(self._client.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _started(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self._started(work).result()

    async def _model(self, url: str) -> str:
        """The name of the model at `url`, which must be the wanted one or the only one."""
        try:
            answer = (await self._client.get(f"{url}/v1/models")).raise_for_status()
            names = [str(entry["id"]) for entry in answer.json()["data"]]
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            raise UserError(f"engine.server.urls: {url}: {_words(error)}") from None
        wanted = self._params.model or (names[0] if len(names) == 1 else None)
        if wanted not in names:
            raise UserError(
                f"engine.server.model: {url} serves {', '.join(names) or 'nothing'}"
                + (f", not '{wanted}'" if wanted else "; name one of them")
            )
        return wanted

    async def _complete(self, call: SegmentCall) -> SampledSegment:
        """Send a call until an answer is whole. Raises WorkError after the last attempt."""
        urls, reason = self._params.urls, ""
        for attempt in range(self._params.retries + 1):
            url = urls[(call.tree + attempt) % len(urls)]
            if attempt:
                await asyncio.sleep(BACKOFF * 2 ** (attempt - 1))
            try:
                async with self._places:
                    return await self._attempt(url, call)
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                reason = f"{url}: {_words(error)}"
            except (ValidationError, GarbledSegment) as error:
                detail = _words(error) if isinstance(error, GarbledSegment) else "no completion"
                reason = f"{url}: garbled answer ({detail})"
        tries = self._params.retries + 1
        raise WorkError(f"engine server: {reason}, attempt {tries} of {tries}")

    async def _attempt(self, url: str, call: SegmentCall) -> SampledSegment:
        body = self._body(self._models[url], call)
        answer = await self._client.post(f"{url}/v1/completions", json=body)
        if answer.status_code in _TRANSIENT:
            answer.raise_for_status()
        if answer.is_error:
            raise UserError(f"engine.server: {url}: {_status(answer)}")
        completion = _Completion.model_validate_json(answer.content)
        if len(completion.choices) != 1:
            raise GarbledSegment(f"{len(completion.choices)} choices")
        choice = completion.choices[0]
        tokens = choice.token_ids
        ended = bool(tokens) and tokens[-1] in self._ids.eos
        segment = Segment(tokens, choice.logprobs.token_logprobs, ended)
        check_segment(call, segment, self._ids)
        details = completion.usage.prompt_tokens_details
        return SampledSegment(call.number, segment, (details and details.cached_tokens) or 0)

    def _body(self, model: str, call: SegmentCall) -> dict[str, Any]:
        """The request; the full support is sampled whatever the server's defaults are."""
        return {
            "model": model,
            "prompt": call.tokens,
            "max_tokens": call.max_tokens,
            "temperature": call.temperature,
            "seed": call.seed,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop_token_ids": sorted(self._ids.eos),
            "logprobs": 0,
            "return_token_ids": True,
        }


async def _others_ended() -> None:
    """Wait for all other tasks of the loop, which were cancelled."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)


def _words(error: Exception) -> str:
    """An error in one line."""
    if isinstance(error, httpx.HTTPStatusError):
        return _status(error.response)
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def _status(answer: httpx.Response) -> str:
    """What a server answered instead of what was asked for."""
    return f"HTTP {answer.status_code}: {' '.join(answer.text.split())}"[:200]
