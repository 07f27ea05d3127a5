"""A worker without vLLM, which misbehaves as told; run as `python -m fake_vllm_worker FD`.

FAKE_TROUBLE names what goes wrong, FAKE_TURN in which of its answers, FAKE_TIMES a file with the
number of times that it still does.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from treepo.engines.segments import SampledSegment, SegmentCall
from treepo.engines.vllm_worker import Setup, UnsupportedModel, serve
from treepo.tree import Segment

EOS = 3


def scripted(call: SegmentCall) -> SampledSegment:
    """A segment that is a function of the seed alone; one in three ends."""
    length = 1 + call.seed % call.max_tokens
    ends = call.seed % 3 == 0 or length < call.max_tokens
    tokens = [10 + (call.seed + place) % 50 for place in range(length)]
    if ends:
        tokens[-1] = EOS
    return SampledSegment(call.number, Segment(tokens, [-0.5] * length, ends), 0)


def die() -> None:
    os._exit(7)


def hang() -> None:
    time.sleep(600)


def fail() -> None:
    raise RuntimeError("out of luck")


def pipe() -> None:
    raise BrokenPipeError("a pipe of its own")


def mute() -> None:
    os.close(int(sys.argv[1]))
    time.sleep(600)


TROUBLES: dict[str, Callable[[], None]] = {
    "die": die,
    "hang": hang,
    "fail": fail,
    "pipe": pipe,
    "mute": mute,
}


class FakeWorker:
    """Answers one open call at a time, the last one first."""

    def __init__(self, setup: Setup) -> None:
        self.trouble = os.environ.get("FAKE_TROUBLE", "")
        if self.trouble == "unsupported":
            raise UnsupportedModel("it is purple")
        self.open: list[SegmentCall] = []
        self.turns = int(os.environ["FAKE_TURN"])

    def advance(self, calls: Sequence[SegmentCall]) -> list[SampledSegment]:
        self.open += calls
        self.turns -= 1
        answer = scripted(self.open.pop())
        if self.turns == 0 and self.still():
            TROUBLES.get(self.trouble, lambda: None)()
            if self.trouble == "nan":
                count = len(answer.segment.tokens)
                segment = Segment(answer.segment.tokens, [float("nan")] * count)
                return [SampledSegment(answer.number, segment, 0)]
        return [answer]

    def rest(self, _: None) -> None:
        assert not self.open

    def still(self) -> bool:
        file = Path(os.environ["FAKE_TIMES"])
        left = int(file.read_text())
        file.write_text(str(left - 1))
        return left > 0

    def cancel(self, numbers: Sequence[int]) -> None:
        self.open = [call for call in self.open if call.number not in numbers]


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), FakeWorker)
