"""Rollout speed: trees, sequential sampling, `transformers.generate`, and matrix products alone.

All arms sample the same prompts in one process, in turn, round after round; ratios are taken
within a round, and their medians count. Usage:

    python benchmarks/sampling.py --data gsm8k_test.jsonl --out FILE.json
    python benchmarks/sampling.py --device cuda --dtype bfloat16 --model 1.5b --prompts 64
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
import transformers
from sampling_models import Question, last_number, policy_of, processor, questions

from treepo.engines.layout import LaidOut
from treepo.engines.torch_tree import TorchEngine
from treepo.forest import Forest
from treepo.models import Policy
from treepo.params import EngineParams, SamplingParams
from treepo.sampling import grow_tree

GENERATE_BATCH = 64
# On a machine that others use too, one thread's own time is what can be compared.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Outcome:
    """One arm of one round. tokens: of the trajectories; decoded: of these, sampled."""

    seconds: float
    trajectories: int
    tokens: int
    decoded: int
    prefilled: int = 0
    calls: int = 0
    peak_bytes: int = 0
    responses: list[list[int]] = field(default_factory=list[list[int]], repr=False)
    products: float | None = None  # seconds of the matrix products alone

    @property
    def speed(self) -> float:
        """Trajectories a second."""
        return self.trajectories / self.seconds

    @property
    def saving(self) -> float:
        """Trajectory tokens a decoded token."""
        return self.tokens / self.decoded


class Products:
    """Times the matrix products alone of one forward call in `every` (0: none), right before it.

    seconds: of all calls' products, extrapolated; spent: what the timing itself took.
    """

    def __init__(self, model: Any, every: int, clock: str) -> None:
        self.seconds, self.spent = 0.0, 0.0
        self._head = model.get_output_embeddings()
        layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear | LaidOut)]
        self._body = [m for m in layers if m is not self._head]
        self._like = next(model.parameters())
        self._every, self._clock, self._calls = every, CLOCKS[clock], 0
        self._hook = model.register_forward_pre_hook(self._measure, with_kwargs=True)
        if not every:
            self.close()

    def close(self) -> None:
        """Stop measuring."""
        self._hook.remove()

    def _measure(self, _: Any, __: Any, kwargs: dict[str, Any]) -> None:
        self._calls += 1
        if self._calls % self._every:
            return
        began, like = self._clock(), self._like
        rows, kept = kwargs["input_ids"].shape[1], len(kwargs["logits_to_keep"])
        given = {m.in_features: like.new_ones(rows, m.in_features) for m in self._body}
        last = like.new_ones(kept, self._head.in_features)
        synchronize(like.device)
        started = self._clock()
        for module in self._body:
            module(given[module.in_features])
        self._head(last)
        synchronize(like.device)
        self.seconds += (self._clock() - started) * self._every
        self.spent += self._clock() - began


def synchronize(device: torch.device) -> None:
    """Wait for the device's work, so that the clock counts it."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def engine_arm(
    policy: Policy,
    asked: Sequence[Question],
    sampling: SamplingParams,
    engine: EngineParams,
    every: int,
    clock: str,
    seed: int,
) -> Outcome:
    """Trees (or, with depth 1, independent trajectories) of the TorchEngine."""
    runner = TorchEngine(policy.model, policy.eos, sampling, engine)
    products = Products(runner.model, every, clock)
    growers = [grow_tree(q.prompt, sampling, seed, policy.decode) for q in asked]
    started = CLOCKS[clock]()
    trees = dict(runner.run(growers))
    seconds = CLOCKS[clock]() - started - products.spent
    products.close()
    forest = Forest.from_trees(trees[at] for at in range(len(asked)))
    responses = [list(map(int, response)) for response in forest.responses()]
    stats = runner.stats()
    return Outcome(
        seconds,
        len(responses),
        sum(map(len, responses)),
        stats.decode_tokens,
        stats.prefill_tokens,
        stats.forward_calls,
        stats.peak_bytes,
        responses,
        products.seconds,
    )


@torch.inference_mode()
def generate_arm(
    model: Any,
    policy: Policy,
    asked: Sequence[Question],
    sampling: SamplingParams,
    clock: str,
    seed: int,
) -> Outcome:
    """`transformers.generate`, 64 sequences at a time, padded on the left."""
    torch.manual_seed(seed)
    prompts = [q.prompt.tokens for q in asked for _ in range(sampling.width)]
    eos = sorted(policy.eos)
    responses: list[list[int]] = []
    started = CLOCKS[clock]()
    for at in range(0, len(prompts), GENERATE_BATCH):
        batch = prompts[at : at + GENERATE_BATCH]
        longest = max(map(len, batch))
        ids = torch.tensor([[eos[0]] * (longest - len(p)) + p for p in batch])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in batch])
        out = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            do_sample=True,
            temperature=sampling.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=sampling.token_limit,
            eos_token_id=eos,
            pad_token_id=eos[0],
        )
        responses += [_until_end(row, policy.eos) for row in out[:, longest:].tolist()]
    seconds = CLOCKS[clock]() - started
    tokens = sum(map(len, responses))
    return Outcome(seconds, len(responses), tokens, tokens, responses=responses)


def _until_end(tokens: list[int], eos: frozenset[int]) -> list[int]:
    ends = [at for at, token in enumerate(tokens) if token in eos]
    return tokens[: ends[0] + 1] if ends else tokens


def diversity(outcome: Outcome, policy: Policy, asked: Sequence[Question]) -> dict[str, float]:
    """Distinct answers a prompt, pass@w and mean reward; the answer is the last number."""
    width = outcome.trajectories // len(asked)
    answers = [last_number(policy.decode(response)) for response in outcome.responses]
    groups = [answers[at : at + width] for at in range(0, len(answers), width)]
    right = [[a == q.answer for a in g] for g, q in zip(groups, asked, strict=True)]
    return {
        "distinct answers": fmean(len(set(g) - {None}) for g in groups),
        f"pass@{width}": fmean(any(r) for r in right),
        "mean reward": fmean(fmean(r) for r in right),
        "mean length": outcome.tokens / outcome.trajectories,
    }


def arms(args: argparse.Namespace) -> tuple[Policy, list[Question], dict[str, Any]]:
    """The arms by name: functions from a seed to an outcome."""
    policy = policy_of(args.model, args.device)
    asked = questions(policy, args.prompts, args.data)
    engine = EngineParams(
        device=args.device,
        dtype=args.dtype,
        columns=args.columns,
        memory=args.memory,
        graphs=args.graphs,
    )
    flat = SamplingParams.sequential(args.width, args.max_tokens)
    run = partial(engine_arm, policy, asked)
    chosen: dict[str, Callable[[int], Outcome]] = {
        "sequential": lambda seed: run(flat, engine, args.every, args.clock, seed)
    }
    for name in args.trees:
        length, initial = map(int, name.split(":"))
        tree = SamplingParams(
            width=args.width,
            depth=-(-args.max_tokens // length),
            segment_length=length,
            initial_branching=initial,
            max_tokens=args.max_tokens,
            stops=("eos", "limits"),  # as the flat arms stop
        )
        chosen[f"tree {name}"] = lambda seed, tree=tree: run(
            tree, engine, args.every, args.clock, seed
        )
    if not args.no_generate:
        model = copy.deepcopy(policy.model).to(getattr(torch, args.dtype or "float32"))
        model.set_attn_implementation("sdpa")
        chosen["generate"] = partial(generate_arm, model, policy, asked, flat, args.clock)
    return policy, asked, chosen


def ratios(rounds: list[dict[str, Outcome]]) -> dict[str, dict[str, float]]:
    """For each arm the medians over the rounds of what the targets are about."""
    table: dict[str, dict[str, float]] = {}
    for name in rounds[0]:
        done = [outcome[name] for outcome in rounds]
        base = [outcome["sequential"] for outcome in rounds]
        row = {
            "trajectories/s": median(o.speed for o in done),
            "flat/decoded": median(o.saving for o in done),
            "x sequential": median(o.speed / b.speed for o, b in zip(done, base, strict=True)),
        }
        row["ratio/saving"] = median(
            o.speed / b.speed / o.saving for o, b in zip(done, base, strict=True)
        )
        if "generate" in rounds[0]:
            row["x generate"] = median(r[name].speed / r["generate"].speed for r in rounds)
        products = [o.seconds / o.products for o in done if o.products]
        if products:
            row["x products"] = median(products)
        table[name] = row
    return table


def markdown(table: dict[str, dict[str, float]]) -> str:
    """The table as Markdown, one row an arm."""
    names = list(dict.fromkeys(name for row in table.values() for name in row))
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for arm, row in table.items():
        cells = (f"{row[name]:.2f}" if name in row else "" for name in names)
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("gsm8k_test.jsonl"))
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--model", default="smollm2", help="smollm2, small_llama, 0.5b, 1.5b, 3b or 7b"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default=None, help="of the engine; the model's own if absent")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=192)
    parser.add_argument(
        "--trees", nargs="*", default=["32:2", "64:4"], help="segment length:branches of the root"
    )
    parser.add_argument("--columns", type=int, default=EngineParams().columns)
    parser.add_argument("--memory", type=float, default=EngineParams().memory)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=int, default=8, help="products of one call in so many")
    parser.add_argument("--graphs", action="store_true", help="engine.graphs; wants --every 0")
    parser.add_argument("--no-generate", action="store_true")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run all rounds, print the table, write everything as JSON."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    policy, asked, chosen = arms(args)
    rounds: list[dict[str, Outcome]] = []
    for seed in range(args.rounds):
        done: dict[str, Outcome] = {}
        for name, arm in chosen.items():
            done[name] = arm(seed)
            print(f"round {seed}, {name}: {done[name]}", flush=True)
        rounds.append(done)
        record = {
            "options": {name: str(value) for name, value in vars(args).items()},
            "machine": processor(),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "ratios": ratios(rounds),
            "diversity": {name: diversity(done[name], policy, asked) for name in done},
            "rounds": [
                {name: {**asdict(o), "responses": None} for name, o in outcomes.items()}
                for outcomes in rounds
            ],
        }
        print(markdown(record["ratios"]), markdown(record["diversity"]), sep="\n\n", flush=True)
        if args.out:
            args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
