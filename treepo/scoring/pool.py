"""Scores many responses: the easy ones at once, the others in processes under a deadline.

It knows boxes, verifiers by name, and processes. Nothing that a response says makes it raise: it
gets reward 0 and a reason.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import TimeoutError as Expired
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from treepo.errors import WorkError
from treepo.params import ScoringParams
from treepo.scoring import worker
from treepo.scoring.answers import Found
from treepo.scoring.verifiers import Judge, Verifier, alternatives, find
from treepo.scoring.worker import Outcome

log = logging.getLogger(__name__)

CHUNK = 16
# In a chunk an answer gets this share of the deadline; what needs more gets the rest of it, alone.
CHUNK_PATIENCE = 0.2
CACHE_SIZE = 100_000
# The worker's own alarm ends it at the deadline; this much later the pool does so from outside [s].
GRACE = 2.0
START_DEADLINE = 120.0
TRIES = 3

# The score of a right answer.
RIGHT = 1.0

Pair = tuple[str, str]


@dataclass(frozen=True)
class _Reads:
    """Whether a gold answer can be read, as a judge that looks at no answer."""

    reads: Callable[[str], bool]

    def __call__(self, gold: str, answer: str) -> float:
        return float(self.reads(gold))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a response is worth.

    correct: the raw outcome; score: the verifier's, in [0, 1], 1 where correct; reward: the
    weighted sum of `components`, the score alone where nothing else is asked for; answer: what was
    judged, None where nothing could be; reason: why there was no ordinary verdict, empty where
    there was one, right or wrong.
    """

    correct: bool
    score: float
    answer: str | None
    reason: str
    reward: float
    components: Mapping[str, float] = field(default_factory=dict[str, float])


class VerifierPool:
    """A verifier, its processes and its cache. Use it as a context manager.

    Raises UserError where `params.verifier` names no verifier.
    """

    def __init__(self, params: ScoringParams) -> None:
        self.params = params
        self._verifier: Verifier = find(params.verifier)
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

        A gold text that is a JSON list of texts stands for several gold answers. Raises WorkError
        where no worker process starts; nothing on account of a response.
        """
        found = [self._found(response) for _, response in pairs]
        golds = [alternatives(gold) for gold, _ in pairs]
        outcomes = self._outcomes(
            (gold, answer)
            for several, (answer, _) in zip(golds, found, strict=True)
            if answer is not None
            for gold in several
        )
        return [
            _verdict(
                answer,
                (0.0, reason)
                if answer is None
                else max((outcomes[gold, answer] for gold in several), key=_by_score),
            )
            for several, (answer, reason) in zip(golds, found, strict=True)
        ]

    def same(self, pairs: Sequence[Pair]) -> list[bool]:
        """Whether the answers of each pair are the same, the first in the place of the gold one.

        Raises WorkError where no worker process starts.
        """
        outcomes = self._outcomes(pairs)
        return [outcomes[pair][0] >= RIGHT for pair in pairs]

    def readable(self, golds: Sequence[str]) -> list[bool]:
        """Whether the verifier can make sense of each gold answer, of several each of them.

        Raises WorkError where no worker process starts.
        """
        reads = self._verifier.reads
        judge = self._verifier.judge if reads is None else _Reads(reads)
        single = dict.fromkeys(one for gold in golds for one in alternatives(gold))
        outcomes = self._judge([(one, one) for one in single], judge)
        return [all(outcomes[one, one][0] >= RIGHT for one in alternatives(gold)) for gold in golds]

    def _found(self, response: object) -> Found:
        """What to judge of a response, or None and the reason."""
        if not isinstance(response, str):
            return None, "not text"
        if len(response) > self.params.max_characters:
            return None, f"response longer than {self.params.max_characters} characters"
        return self._verifier.extract(response, self.params.boxed)

    def _outcomes(self, pairs: Iterable[Pair]) -> dict[Pair, Outcome]:
        """Outcomes of (gold, answer) pairs: the easy ones here, while workers judge the others."""
        outcomes: dict[Pair, Outcome] = {}

        def hard() -> Iterator[Pair]:
            for pair in dict.fromkeys(pairs):
                quick = self._quick(*pair)
                if quick is None:
                    yield pair
                else:
                    outcomes[pair] = quick

        judged = self._judge(hard(), self._verifier.judge)
        self._remember(judged)
        return outcomes | judged

    def _quick(self, gold: str, answer: str) -> Outcome | None:
        """The outcome where it needs no process: cached, or decided by the shortcut."""
        known = self._cache.get((gold, answer))
        if known is None and self._verifier.shortcut is not None:
            decided = self._verifier.shortcut(gold, answer)
            known = None if decided is None else (float(decided), "")
        return known

    def _judge(self, pairs: Iterable[Pair], judge: Judge) -> dict[Pair, Outcome]:
        """Outcomes of different pairs by the workers: in chunks, then the lost ones alone."""
        outcomes: dict[Pair, Outcome] = {}
        lost: list[Pair] = []
        for chunk, result in self._run(judge, _chunks(pairs, 4 * self.params.workers)):
            if isinstance(result, list):
                outcomes.update(zip(chunk, result, strict=True))
            elif len(chunk) == 1 and result not in _PERHAPS_NOT_ITS_FAULT:
                outcomes[chunk[0]] = (0.0, result)
            else:
                lost += chunk
        for _ in range(TRIES):
            for (pair,), result in self._run(judge, [[pair] for pair in lost]):
                outcomes[pair] = result[0] if isinstance(result, list) else (0.0, result)
            lost = [pair for pair in lost if outcomes[pair][1] in _PERHAPS_NOT_ITS_FAULT]
        return outcomes

    def _remember(self, outcomes: dict[Pair, Outcome]) -> None:
        """Cache the ordinary outcomes; a time-out may go better another time."""
        for pair, outcome in outcomes.items():
            if not outcome[1]:
                self._cache[pair] = outcome
        while len(self._cache) > CACHE_SIZE:
            del self._cache[next(iter(self._cache))]

    def _run(
        self, judge: Judge, chunks: Iterable[list[Pair]]
    ) -> list[tuple[list[Pair], list[Outcome] | str]]:
        """Each chunk and its outcomes, or why there are none. Workers begin with the first."""
        asked: list[tuple[list[Pair], ProcessFuture[list[Outcome]] | None]] = []
        for chunk in chunks:
            share = CHUNK_PATIENCE if len(chunk) > 1 else 1 - CHUNK_PATIENCE
            patience = self.params.deadline * share
            limit = worker.IDLE * patience * len(chunk) + GRACE
            args = (judge, self._verifier.load, chunk, patience)
            try:
                future = self._started().schedule(worker.verify, args=args, timeout=limit)
            except RuntimeError:
                # The pool broke under an earlier chunk: its future says so, too.
                future = None
            asked.append((chunk, future))
        results = [(chunk, self._awaited(future)) for chunk, future in asked]
        if any(result == _BROKEN for _, result in results):
            self.close()
        return results

    def _awaited(self, future: ProcessFuture[list[Outcome]] | None) -> list[Outcome] | str:
        """What came of a chunk, or why nothing did."""
        try:
            return _BROKEN if future is None else future.result()
        except Expired:
            return self._too_long()
        except ProcessExpired as death:
            is_alarm = -(death.exitcode or 0) in worker.ALARMS
            return self._too_long() if is_alarm else _died(death.exitcode)
        except (BrokenProcessPool, RuntimeError):
            return _BROKEN
        except Exception as error:
            return f"verifier failed: {type(error).__name__}: {error}"[:200]

    def _too_long(self) -> str:
        return f"timeout after {self.params.deadline:g} s"

    def _started(self) -> ProcessPool:
        """The pool with its workers running. Raises WorkError where they do not start."""
        if self._pool is None:
            self._pool = ProcessPool(
                max_workers=self.params.workers,
                initializer=worker.start,
                initargs=[self.params.network],
                context=worker.context(),
            )
            try:
                offline = self._pool.schedule(worker.offline).result(timeout=START_DEADLINE)
            except Exception as error:
                self.close()
                raise WorkError(f"the verifier processes do not start: {error!r}") from error
            if not (offline or self.params.network):
                log.warning(
                    "scoring.network: this system cannot keep verifiers from opening connections; "
                    "set it to true if they may"
                )
        return self._pool


def _chunks(pairs: Iterable[Pair], slowly: int) -> Iterator[list[Pair]]:
    """Chunks that grow from one pair to CHUNK, by one for each `slowly` pairs that went before.

    Nobody knows how many will come; a few hard pairs must not end up with one worker.
    """
    rest, taken = iter(pairs), 0
    while chunk := list(islice(rest, min(CHUNK, 1 + taken // slowly))):
        taken += len(chunk)
        yield chunk


_BROKEN = "verifier failed: its process died"


def _died(code: int | None) -> str:
    return f"verifier failed: its process ended with exit code {code}"


# Another answer may have broken the pool, and anybody may have killed a process: tried again.
_PERHAPS_NOT_ITS_FAULT = (_BROKEN, _died(-signal.SIGKILL))


def _by_score(outcome: Outcome) -> float:
    return outcome[0]


def _verdict(answer: str | None, outcome: Outcome) -> Verdict:
    score, reason = outcome
    # Half a surrogate pair is no text that a table can hold.
    shown = None if answer is None else answer.encode("utf-8", "replace").decode("utf-8")
    return Verdict(score >= RIGHT, score, shown, reason, reward=score)
