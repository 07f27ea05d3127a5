"""Ray replicas: `python benchmarks/scale_out.py simulate | replicas | overhead`.

simulate: 64 replicas, 512 prompts x 16 trajectories, in virtual time; the hand-out and the sampler
are the real ones, engines are scripted. replicas: trees a second of two replicas of one core each
against one, on this machine, and of two processes without Ray, for two sizes of models. overhead:
what an iteration costs on Ray beside its work.

Lengths of responses in the simulation: lognormal, as lengths of reasoning traces are to a good
approximation. The median of a prompt is 900 tokens times exp(0.5 z), z its own standard normal
number; a response is that times exp(0.6 z'). Cut at 7 x 512 = 3,584 tokens, which about 4 % reach.

Two kinds of engine. "decode-bound": a decode step takes 20 ms and 0.05 ms more for each path in the
batch, as on a GPU that reads its weights in each step. "product-bound": 1 ms for each path, as on
a CPU, where batching gains nothing.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import NormalDist
from threading import Barrier

import torch

from treepo.cluster.hand_out import HandOut, longest_first
from treepo.compute import COMPUTES
from treepo.engines.hosts import StoredPolicy
from treepo.engines.orders import TreeOrder, Way
from treepo.models import initial_policy, save_policy
from treepo.params import (
    ComputeParams,
    EngineParams,
    ModelParams,
    RayParams,
    SamplingParams,
    ScoringParams,
)
from treepo.sampling import Prompt, Request, grow_tree
from treepo.seeds import derive
from treepo.tree import Segment

REPLICAS, PROMPTS = 64, 512
HOLDS = (1.0, 0.5, 0.25, 0.01)
MEDIAN, PROMPT_SPREAD, RESPONSE_SPREAD = 900.0, 0.5, 0.6
TREE = SamplingParams(
    width=16, depth=7, segment_length=512, repetition=None, stops=("eos", "limits")
)
COLUMNS = 256  # paths up to which an engine asks for the next tree
NORMAL = NormalDist()
# An inference step of a tree: tokens of each of its segments.
Profile = list[list[int]]


@dataclass(frozen=True)
class Speed:
    """Time of a decode step: so much, and so much more for each path [s]."""

    step: float
    path: float


ENGINES = {"decode-bound": Speed(0.020, 0.00005), "product-bound": Speed(0.0, 0.001)}


def profile(number: int, seed: int) -> Profile:
    """What the real sampler asks for in a prompt's tree whose lengths are drawn as documented."""
    rng = random.Random(derive("prompt", number))
    median = math.log(MEDIAN) + PROMPT_SPREAD * rng.gauss()
    grower = grow_tree(Prompt(f"p{number}", [0] * 100), TREE, seed, lambda _: "")
    requests, steps = next(grower), list[list[int]]()
    while True:
        segments = [scripted(request, median) for request in requests]
        steps.append([len(segment.tokens) for segment in segments])
        try:
            requests = grower.send(segments)
        except StopIteration:
            return steps


def scripted(request: Request, median: float) -> Segment:
    """A segment of a path whose whole length is drawn, given that it is longer than so far."""
    so_far = max(1, request.node.end - 100)
    below = NORMAL.cdf((math.log(so_far) - median) / RESPONSE_SPREAD)
    share = below + (1 - below) * random.Random(request.seed).random()
    score = NORMAL.inv_cdf(min(share, 1 - 1e-12))
    left = max(1, round(math.exp(median + RESPONSE_SPREAD * score)) - (request.node.end - 100))
    count = min(left, request.max_tokens)
    return Segment([0] * count, [-1.0] * count, left <= request.max_tokens)


@dataclass
class Simulated:
    """A replica in virtual time. All its paths advance together, a token a decode step.

    steps: decode steps so far; ends: (step, tree) of each path's segment. busy: how long it had
    something [s]. ahead: a tree that it was given before it has room.
    """

    number: int
    speed: Speed
    now: float = 0.0
    busy: float = 0.0
    steps: int = 0
    ends: list[tuple[int, int]] = field(default_factory=list)
    left: dict[int, list[list[int]]] = field(default_factory=dict)
    open: dict[int, int] = field(default_factory=dict)
    ahead: int | None = None

    def begins_ahead(self, profiles: Sequence[Profile], now: float) -> bool:
        """Start the tree that it was given, if there is one and there is room."""
        if self.ahead is None or len(self.ends) >= COLUMNS:
            return False
        self.start(self.ahead, profiles[self.ahead], now)
        self.ahead = None
        return True

    def start(self, tree: int, steps: Profile, now: float) -> None:
        """Take on a tree."""
        if not self.open:
            self.now = now
        self.left[tree] = steps[::-1]
        self._segments(tree)

    def due(self) -> float:
        """When the next segment ends."""
        return self.now + (self.ends[0][0] - self.steps) * self._step_seconds()

    def advance(self) -> int | None:
        """Go on to the end of the next segment; a tree that is finished by it."""
        passed = self.due() - self.now
        self.now += passed
        self.busy += passed
        self.steps, tree = heapq.heappop(self.ends)
        self.open[tree] -= 1
        if self.open[tree]:
            return None
        if self.left[tree]:
            self._segments(tree)
            return None
        del self.open[tree], self.left[tree]
        return tree

    def _segments(self, tree: int) -> None:
        lengths = self.left[tree].pop()
        self.open[tree] = len(lengths)
        for length in lengths:
            heapq.heappush(self.ends, (self.steps + length, tree))

    def _step_seconds(self) -> float:
        return self.speed.step + self.speed.path * len(self.ends)


def simulate(
    profiles: Sequence[Profile],
    order: Sequence[int],
    speed: Speed,
    replicas: int,
    hold: float = 1.0,
) -> tuple[float, float]:
    """Utilisation -- share of the replicas' time in which they decode -- and seconds to the end."""
    hand_out = HandOut(order, range(replicas), hold)
    cluster = [Simulated(number, speed) for number in range(replicas)]
    give(hand_out, cluster, profiles, 0.0)
    events = [(replica.due(), replica.number) for replica in cluster if replica.open]
    heapq.heapify(events)
    now = 0.0
    while events:
        now, number = heapq.heappop(events)
        replica = cluster[number]
        finished = replica.advance()
        if finished is not None:
            hand_out.finish(number, finished)
        if replica.begins_ahead(profiles, now) or len(replica.ends) < COLUMNS:
            give(hand_out, [replica], profiles, now)
        if replica.open:
            heapq.heappush(events, (replica.due(), number))
    assert hand_out.unfinished == 0
    return sum(replica.busy for replica in cluster) / (now * replicas), now


def give(
    hand_out: HandOut, asking: Sequence[Simulated], profiles: Sequence[Profile], now: float
) -> None:
    """Answer replicas, in turns, until they have a tree ahead or are told that there is none."""
    asking = [replica for replica in asking if replica.ahead is None]
    while asking:
        for replica in asking:
            full = len(replica.ends) >= COLUMNS
            replica.ahead = hand_out.take(replica.number, ahead=full)
        asking = [replica for replica in asking if replica.begins_ahead(profiles, now)]


def run_simulation() -> dict[str, float]:
    """Utilisation and seconds for both kinds of engine, by `compute.ray.hold` and by order.

    longest first: as when each prompt had another tree before, whose size is known.
    """
    profiles = [profile(number, seed=number) for number in range(PROMPTS)]
    before = [profile(number, seed=PROMPTS + number) for number in range(PROMPTS)]
    work, known = ([sum(map(sum, steps)) for steps in each] for each in (profiles, before))
    figures = {"tokens": float(sum(work)), "longest tree / mean": max(work) / statistics.mean(work)}
    orders = {"as given": [*range(PROMPTS)], "longest first": longest_first(known)}
    for name, speed in ENGINES.items():
        alone = max(simulate([steps], [0], speed, 1)[1] for steps in profiles)
        figures[f"{name}, the slowest tree alone: seconds"] = alone
        for (order, trees), hold in product(orders.items(), HOLDS):
            used, seconds = simulate(profiles, trees, speed, REPLICAS, hold)
            what = f"{name}, {order}, hold {hold}"
            figures |= {f"{what}: utilisation": used, f"{what}: seconds": seconds}
        used, _ = simulate(profiles, orders["as given"], speed, REPLICAS // 4)
        figures |= {f"{name}, {REPLICAS // 4} replicas: utilisation": used}
    return figures


SMALL = ModelParams(hidden_size=256, layers=4, heads=4, kv_heads=2, intermediate_size=512)
LARGER = ModelParams(hidden_size=512, layers=6, heads=8, kv_heads=4, intermediate_size=1024)
# A model, and how many trees: enough for the end, when replicas run dry, to weigh little.
WORKS = {"small": (SMALL, 192), "larger": (LARGER, 96)}
TREES = SamplingParams(width=16, depth=4, segment_length=32, repetition=None)
NO_WORK = SamplingParams(width=1, depth=1, segment_length=1, initial_branching=1)
SCORING = ScoringParams(verifier="numeric")


def trees_a_second(
    params: ComputeParams, work: str, share: float, ready: Callable[[], object]
) -> float:
    """Of that share of a work's trees, on these replicas of one thread each.

    ready: called when they have started.
    """
    model, whole = WORKS[work]
    count = round(share * whole)
    orders = [TreeOrder(Prompt(f"p{n}", [4 + n % 50] * 40), seed=0) for n in range(count)]
    engine = EngineParams(threads=1, columns=64)
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(COMPUTES.get(params.kind)(params, ())) as compute,
    ):
        stored = stored_in(Path(folder), 0, model)
        sampler = compute.trees(stored, engine, Way(TREES, SCORING), lambda: None)  # type: ignore
        list(sampler.run(orders[:4]))
        ready()
        started = time.perf_counter()
        list(sampler.run(orders))
        return count / (time.perf_counter() - started)


def on_replicas(count: int, work: str) -> float:
    """Trees a second of so many replicas."""
    params = ComputeParams(kind="ray", ray=RayParams(replicas=count))
    return trees_a_second(params, work, 1.0, lambda: None)


def side_by_side(work: str) -> float:
    """Trees a second of two processes that know nothing of each other, half of the trees each."""
    spawn = get_context("spawn")
    with spawn.Manager() as manager, ProcessPoolExecutor(2, mp_context=spawn) as pool:
        return 2 * min(pool.map(alone, [work] * 2, [manager.Barrier(2)] * 2))


def alone(work: str, both: Barrier) -> float:
    """Trees a second of this process, which begins when the other one does."""
    torch.set_num_threads(1)
    return trees_a_second(ComputeParams(), work, 0.5, both.wait)


ARMS = {
    "one replica": partial(on_replicas, 1),
    "two replicas": partial(on_replicas, 2),
    "two processes side by side": side_by_side,
}


def run_replicas(rounds: int = 5) -> dict[str, object]:
    """One replica, two, and what two cores can do without Ray, in turn; medians, and ratios."""
    figures: dict[str, object] = {}
    for work in WORKS:
        found = [{name: arm(work) for name, arm in ARMS.items()} for _ in range(rounds)]
        for name in ARMS:
            figures[f"{work}: {name} [trees/s]"] = statistics.median(each[name] for each in found)
        for name in list(ARMS)[1:]:
            ratios = sorted(each[name] / each["one replica"] for each in found)
            figures[f"{work}: {name} / one"] = statistics.median(ratios)
            figures[f"{work}: {name} / one, all"] = ratios
    return figures


def run_overhead(iterations: int = 20) -> dict[str, float]:
    """Seconds of an iteration on two replicas less those on this machine; every policy is new."""
    seconds = {kind: iteration_seconds(kind, iterations) for kind in ("local", "ray")}
    return {**seconds, "overhead": seconds["ray"] - seconds["local"]}


def iteration_seconds(kind: str, iterations: int) -> float:
    """Median time to load a policy and to sample trees of one token."""
    params = ComputeParams.model_validate({"kind": kind, "ray": {"replicas": 2}})
    orders = [TreeOrder(Prompt(f"p{n}", [5]), seed=0) for n in range(16)]
    times: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(COMPUTES.get(kind)(params, ())) as compute,
    ):
        for number in range(iterations + 2):
            stored = stored_in(Path(folder), number)
            started = time.perf_counter()
            way = Way(NO_WORK, SCORING)
            list(
                compute.trees(stored, EngineParams(threads=1), way, lambda: None).run(orders)  # type: ignore
            )
            times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def stored_in(parent: Path, seed: int, model: ModelParams = SMALL) -> StoredPolicy:
    """A policy with random weights."""
    policy = initial_policy(model, seed)
    save_policy(policy, parent / str(seed))
    return StoredPolicy(policy, parent / str(seed), f"seed {seed}")


RUNS: dict[str, Callable[[], object]] = {
    "simulate": run_simulation,
    "replicas": run_replicas,
    "overhead": run_overhead,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=RUNS)
    torch.set_num_threads(1)
    print(json.dumps(RUNS[parser.parse_args().what](), indent=1))


if __name__ == "__main__":
    main()
