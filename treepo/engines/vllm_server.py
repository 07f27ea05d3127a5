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
# What may go better another time, besides the errors of a server or of what stands before it.
_TRANSIENT = {408, 425, 429}


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
        self._folder: Path | None = None  # of the policy, where the servers are told
        self._doubtful: set[str] = set()  # may have been started anew since the policy was loaded
        self._turns = {url: asyncio.Lock() for url in params.urls}
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
        if self._params.weights == "served":
            return
        self._folder = folder.resolve()
        for url in self._params.urls:
            try:
                self._wait(self._take_over(url, self._folder))
            except (httpx.RequestError, httpx.HTTPStatusError) as error:
                raise WorkError(f"{url}: no policy loaded: {_words(error)}") from None

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

    async def _take_over(self, url: str, folder: Path) -> None:
        """Make the server at `url` take over the policy in `folder`."""
        load = {"method": "load_policy", "args": [str(folder)]}
        for path, body in (("/collective_rpc", load), ("/reset_prefix_cache", None)):
            answer = await self._post(url + path, body, LOAD_DEADLINE)
            if answer.status_code == 404:
                raise UserError(
                    f"engine.server.weights: {url} has no {path}; start the server as the "
                    "documentation says, or set it to 'served'"
                )
            answer.raise_for_status()
        self._doubtful.discard(url)

    async def _up_to_date(self, url: str) -> None:
        """See to it that the server at `url` holds the policy, also if it was started anew."""
        async with self._turns[url]:
            if self._folder is not None and url in self._doubtful:
                await self._take_over(url, self._folder)

    async def _post(self, address: str, body: object, deadline: float) -> httpx.Response:
        """Bounded as a whole: httpx's own limits hold for each read."""
        try:
            async with asyncio.timeout(deadline):
                return await self._client.post(address, json=body, timeout=None)
        except TimeoutError:
            raise httpx.ReadTimeout(f"no whole answer within {deadline:g} s") from None

    async def _complete(self, call: SegmentCall) -> SampledSegment:
        """Send a call until an answer is whole. Raises WorkError after the last attempt."""
        urls, reason = self._params.urls, ""
        for attempt in range(self._params.retries + 1):
            url = urls[(call.tree + attempt) % len(urls)]
            if attempt:
                await asyncio.sleep(BACKOFF * 2 ** (attempt - 1))
            try:
                await self._up_to_date(url)
                async with self._places:
                    return await self._attempt(url, call)
            except (httpx.RequestError, httpx.HTTPStatusError) as error:
                self._doubtful.add(url)
                reason = f"{url}: {_words(error)}"
            except (ValidationError, GarbledSegment) as error:
                detail = _words(error) if isinstance(error, GarbledSegment) else "no completion"
                reason = f"{url}: garbled answer ({detail})"
        tries = self._params.retries + 1
        raise WorkError(f"engine server: {reason}, attempt {tries} of {tries}")

    async def _attempt(self, url: str, call: SegmentCall) -> SampledSegment:
        body = self._body(self._models[url], call)
        answer = await self._post(f"{url}/v1/completions", body, self._params.deadline)
        if answer.is_server_error or answer.status_code in _TRANSIENT:
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
