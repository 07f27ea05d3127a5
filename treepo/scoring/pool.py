"""Scores many responses: the easy ones at once, the others in processes under a deadline.

It knows boxes, verifiers by name, and processes. Nothing that a response says makes it raise: it
gets reward 0 and a reason.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from concurrent.futures import TimeoutError as Expired
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from types import TracebackType

from pebble import ProcessExpired, ProcessPool

from treepo.errors import WorkError
from treepo.params import ScoringParams
from treepo.scoring import worker
from treepo.scoring.answers import boxed_answer, stated_answer
from treepo.scoring.verifiers import SHORTCUTS, find
from treepo.scoring.worker import Outcome

CHUNK = 16
# In a chunk an answer gets this share of the deadline; what needs more gets all of it, alone.
CHUNK_PATIENCE = 0.4
CACHE_SIZE = 100_000
# The worker's own alarm ends it at the deadline; this much later the pool does so from outside [s].
GRACE = 2.0
START_DEADLINE = 120.0
TRIES = 3

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a response is worth.

    answer: what was judged, None where nothing could be; reason: why there was no ordinary
    verdict, empty where there was one, right or wrong.
    """

    correct: bool
    reward: float
    answer: str | None
    reason: str


class VerifierPool:
    """A verifier, its processes and its cache. Use it as a context manager.

    Raises UserError where `params.verifier` names no verifier.
    """

    def __init__(self, params: ScoringParams) -> None:
        self.params = params
        self._verifier = find(params.verifier)
        self._shortcut = SHORTCUTS.get(params.verifier)
        self._pool: ProcessPool | None = None
        self._cache: dict[Pair, Outcome] = {}

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes. The next call of `score` would start new ones."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None

    def score(self, pairs: Sequence[tuple[str, object]]) -> list[Verdict]:
        """Verdicts of (gold, response) pairs, in their order.

        Raises WorkError where no worker process starts; nothing on account of a response.
        """
        answers = [self._answer(response) for _, response in pairs]
        outcomes = self._outcomes(
            (gold, answer)
            for (gold, _), (answer, _) in zip(pairs, answers, strict=True)
            if answer is not None
        )
        return [
            _verdict(answer, (False, reason) if answer is None else outcomes[gold, answer])
            for (gold, _), (answer, reason) in zip(pairs, answers, strict=True)
        ]

    def same(self, pairs: Sequence[Pair]) -> list[bool]:
        """Whether the answers of each pair are the same, the first in the place of the gold one.

        Raises WorkError where no worker process starts.
        """
        outcomes = self._outcomes(pairs)
        return [outcomes[pair][0] for pair in pairs]

    def _outcomes(self, pairs: Iterable[Pair]) -> dict[Pair, Outcome]:
        """Outcomes of (gold, answer) pairs: the easy ones at once, the others by the workers."""
        outcomes: dict[Pair, Outcome] = {}
        hard: dict[Pair, None] = {}
        for pair in pairs:
            if pair in outcomes:
                continue
            quick = self._quick(*pair)
            if quick is None:
                hard[pair] = None
            else:
                outcomes[pair] = quick
        return outcomes | self._judge(list(hard))

    def _answer(self, response: object) -> tuple[str | None, str]:
        """What to judge of a response, or None and the reason."""
        if not isinstance(response, str):
            return None, "not text"
        if len(response) > self.params.max_characters:
            return None, f"response longer than {self.params.max_characters} characters"
        answer = boxed_answer(response)
        if answer is None and self.params.boxed:
            return None, "no boxed answer"
        if answer is None and "\\boxed{" in response:
            return None, "box not closed"
        if answer is None:
            answer = stated_answer(response) or response.strip()
        return (answer, "") if answer else (None, "empty answer")

    def _quick(self, gold: str, answer: str) -> Outcome | None:
        """The outcome where it needs no process: cached, or decided by the shortcut."""
        known = self._cache.get((gold, answer))
        if known is None and self._shortcut is not None:
            decided = self._shortcut(gold, answer)
            known = None if decided is None else (decided, "")
        return known

    def _judge(self, pairs: list[Pair]) -> dict[Pair, Outcome]:
        """Outcomes of different pairs by the workers: in chunks, then the lost ones alone."""
        outcomes: dict[Pair, Outcome] = {}
        if not pairs:
            return outcomes
        size = max(1, min(CHUNK, len(pairs) // (4 * self.params.workers)))
        chunks = [pairs[start : start + size] for start in range(0, len(pairs), size)]
        patience = self.params.deadline * (CHUNK_PATIENCE if size > 1 else 1.0)
        lost: list[Pair] = []
        for chunk, result in zip(chunks, self._run(chunks, patience), strict=True):
            if isinstance(result, list):
                outcomes.update(zip(chunk, result, strict=True))
            elif size == 1 and result != _BROKEN:
                outcomes[chunk[0]] = (False, result)
            else:
                lost += chunk
        for _ in range(TRIES):
            results = self._run([[pair] for pair in lost], self.params.deadline)
            for pair, result in zip(lost, results, strict=True):
                outcomes[pair] = result[0] if isinstance(result, list) else (False, result)
            lost = [pair for pair in lost if outcomes[pair][1] == _BROKEN]
        self._remember(outcomes)
        return outcomes

    def _remember(self, outcomes: dict[Pair, Outcome]) -> None:
        """Cache the ordinary outcomes; a time-out may go better another time."""
        for pair, outcome in outcomes.items():
            if not outcome[1]:
                self._cache[pair] = outcome
        while len(self._cache) > CACHE_SIZE:
            del self._cache[next(iter(self._cache))]

    def _run(self, chunks: list[list[Pair]], patience: float) -> list[list[Outcome] | str]:
        """Each chunk's outcomes, or why there are none. patience: time for one pair [s]."""
        results: list[list[Outcome] | str] = []
        futures = []
        for chunk in chunks:
            limit = patience * len(chunk) + GRACE
            try:
                args = (self._verifier, chunk, patience)
                futures.append(self._started().schedule(worker.verify, args=args, timeout=limit))
            except RuntimeError:
                # The pool broke under an earlier chunk: its future says so, too.
                futures.append(None)
        for future in futures:
            try:
                results.append(_BROKEN if future is None else future.result())
            except Expired:
                results.append(self._too_long())
            except ProcessExpired as death:
                is_alarm = death.exitcode == -signal.SIGALRM
                results.append(self._too_long() if is_alarm else _died(death.exitcode))
            except (BrokenProcessPool, RuntimeError):
                results.append(_BROKEN)
            except Exception as error:
                results.append(f"verifier failed: {type(error).__name__}: {error}"[:200])
        if _BROKEN in results:
            self.close()
        return results

    def _too_long(self) -> str:
        return f"timeout after {self.params.deadline:g} s"

    def _started(self) -> ProcessPool:
        """The pool with its workers running. Raises WorkError where they do not start."""
        if self._pool is None:
            self._pool = ProcessPool(
                max_workers=self.params.workers,
                initializer=worker.start,
                context=worker.context(),
            )
            try:
                self._pool.schedule(worker.ready).result(timeout=START_DEADLINE)
            except Exception as error:
                self.close()
                raise WorkError(f"the verifier processes do not start: {error!r}") from error
        return self._pool


_BROKEN = "verifier failed: its process died"


def _died(code: int | None) -> str:
    return f"verifier failed: its process ended with exit code {code}"


def _verdict(answer: str | None, outcome: Outcome) -> Verdict:
    correct, reason = outcome
    return Verdict(correct, float(correct), answer, reason)
