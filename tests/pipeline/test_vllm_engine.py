"""VLLMEngine with the real vLLM on CPU: its numbers against the model's own, loads, seeds, losses.

One engine serves the whole module. Where vLLM is installed and does not work, these tests fail.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from projects import make_project, treepo
from worker_without_gpu import handle

from treepo.engines import vllm_process, weight_handles
from treepo.engines.hosts import ENGINES, StoredPolicy
from treepo.engines.probe import deviation
from treepo.engines.schedule import SCHEDULES, ScheduledEngine
from treepo.engines.segments import SegmentCall
from treepo.engines.vllm_worker import UnsupportedModel, _check_heads
from treepo.errors import UserError, WorkError
from treepo.forest import Forest
from treepo.loading import load_experiment
from treepo.logprobs import target_logprobs
from treepo.models import Policy, initial_policy, load_policy, save_policy
from treepo.packing import pack
from treepo.params import EngineParams, SamplingParams, ServerParams, VLLMParams
from treepo.sampling import Prompt, grow_tree
from treepo.schemas import check_forest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed"),
]
ROOT = Path(__file__).parents[2]
SIZE = load_experiment(ROOT / "params/quickstart.yaml").model
PARAMS = EngineParams(name="vllm", rows=3, threads=1, vllm=VLLMParams(cache_gib=0.25))
TREES = SamplingParams(width=6, depth=4, segment_length=16, initial_branching=2)
PROMPTS = [Prompt(f"p{i}", [(7 * i + j) % 90 + 4 for j in range(20 + 9 * i)]) for i in range(7)]


def stored(folder: Path, seed: int, **sizes: Any) -> StoredPolicy:
    """A policy with weights so large that what a path sees moves its logprobs."""
    policy = initial_policy(SIZE.model_copy(update=sizes), seed)
    with torch.no_grad():
        for weight in policy.model.parameters():
            if weight.ndim > 1:
                weight.mul_(4.0)
    save_policy(policy, folder)
    return StoredPolicy(load_policy(folder), folder, f"{seed}")


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> list[StoredPolicy]:
    return [stored(tmp_path_factory.mktemp(f"policy{seed}"), seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def host() -> Iterator[Any]:
    opened = ENGINES.get("vllm")(PARAMS)
    yield opened
    opened.close()


def sample(
    engine: Any,
    policy: Policy,
    sampling: SamplingParams = TREES,
    prompts: Sequence[Prompt] = PROMPTS,
) -> Forest:
    growers = (grow_tree(prompt, sampling, 1, policy.decode) for prompt in prompts)
    trees = dict(engine.run(growers))
    forest = Forest.from_trees(trees[index] for index in range(len(prompts)))
    check_forest(forest.to_arrow(), "x")
    return forest


@torch.inference_mode()
def worst(forest: Forest, policy: Policy, temperature: float) -> float:
    """Largest difference of a stored logprob from the trainer's [nats]."""
    packed = pack(forest, range(forest.trees))
    logprobs, _ = target_logprobs(policy.model, packed, temperature)
    return float((logprobs - torch.from_numpy(forest.logprobs[packed.target_token])).abs().max())


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_are_the_trainers(
    host: Any, policies: list[StoredPolicy], temperature: float
) -> None:
    policy = policies[0].policy
    engine = host.engine(policies[0], SamplingParams(temperature=temperature))
    forest = sample(engine, policy, TREES.model_copy(update={"temperature": temperature}))
    assert forest.trees == len(PROMPTS)
    assert forest.sampled_tokens < forest.trajectory_tokens
    assert worst(forest, policy, temperature) < 1e-4
    stats = engine.stats()
    assert stats.decode_tokens == forest.sampled_tokens
    assert stats.context_tokens == forest.start[forest.parent >= 0].sum()
    # Paths that go on compute nothing again, branches only the last, not yet full block.
    sampled = forest.parent > 0
    goes_on = {(t, p) for t, p in zip(forest.tree[sampled], forest.parent[sampled], strict=True)}
    branches = int((forest.parent >= 0).sum()) - len(goes_on)
    prompts = sum(len(prompt.tokens) for prompt in PROMPTS)
    assert stats.prefill_tokens <= prompts + branches * PARAMS.vllm.block_size


def test_more_prompts_than_a_step_takes(policies: list[StoredPolicy]) -> None:
    """8,000 tokens wait at once, and vLLM computes 4,096 in a step."""
    rng = random.Random(0)
    prompts = [Prompt(f"p{i}", [rng.randrange(4, 94) for _ in range(200)]) for i in range(40)]
    sampling = SamplingParams.sequential(1, 8)
    host = ENGINES.get("vllm")(PARAMS.model_copy(update={"rows": None}))
    with closing(host):
        forest = sample(host.engine(policies[0], sampling), policies[0].policy, sampling, prompts)
    assert worst(forest, policies[0].policy, 1.0) < 1e-4


def test_siblings_differ_and_runs_do_not(host: Any, policies: list[StoredPolicy]) -> None:
    engine = host.engine(policies[0], TREES)
    first, again = (sample(engine, policies[0].policy) for _ in range(2))
    assert first.to_arrow().equals(again.to_arrow())
    paths = [tuple(tokens) for tokens in first.responses()]
    assert len(set(paths)) == len(paths)


def test_both_schedules_sample_the_same_policy(policies: list[StoredPolicy], host: Any) -> None:
    engine = host.engine(policies[0], TREES)
    free = sample(engine, policies[0].policy)
    locked = ScheduledEngine(host._sampler, SCHEDULES["barrier"], 1.0, 3)
    forest = sample(locked, policies[0].policy)
    assert worst(forest, policies[0].policy, 1.0) < 1e-4
    assert [len(t) for t in forest.responses()] == [len(t) for t in free.responses()]


def test_a_path_that_goes_on_draws_what_a_new_request_would(
    host: Any, policies: list[StoredPolicy]
) -> None:
    host.engine(policies[0], TREES)
    call = SegmentCall(0, 0, PROMPTS[6].tokens, 24, 5, 1.0)
    (first,) = host._sampler.exchange([call])
    path = call.tokens + first.segment.tokens
    twins = [SegmentCall(1, 0, path, 24, 6, 1.0), SegmentCall(2, 0, path, 24, 6, 1.0)]
    answered = host._sampler.exchange(twins)
    while len(answered) < 2:
        answered += host._sampler.exchange([])
    by_number = {sampled.number: sampled for sampled in answered}
    assert by_number[1].segment.tokens == by_number[2].segment.tokens
    assert by_number[1].cached == len(path)
    assert by_number[2].cached < len(path)
    assert deviation(policies[0].policy, twins[0], by_number[1].segment) < 1e-4
    # One that nobody goes on with is ended, and none goes on at another temperature.
    (greedy,) = host._sampler.exchange([SegmentCall(3, 0, path, 24, 7, 0.0)])
    assert greedy.cached < len(path)
    path += greedy.segment.tokens
    call = SegmentCall(4, 0, path, 24, 8, 1.0)
    (other,) = host._sampler.exchange([call])
    assert other.cached < len(path)
    assert deviation(policies[0].policy, call, other.segment) < 1e-4


def test_weights_are_loaded_and_the_cache_forgotten(
    host: Any, policies: list[StoredPolicy]
) -> None:
    for chosen in (policies[0], policies[1], policies[0]):
        engine = host.engine(chosen, TREES)
        call = SegmentCall(0, 0, PROMPTS[6].tokens, 24, 5, 0.0)
        (greedy,) = host._sampler.exchange([call])
        assert deviation(chosen.policy, call, greedy.segment) < 1e-4
        assert worst(sample(engine, chosen.policy), chosen.policy, 1.0) < 1e-4


@pytest.fixture(scope="module")
def sleeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An engine as on a GPU that it shares with the trainer, but for the GPU."""
    folder = tmp_path_factory.mktemp("weights")
    shared = PARAMS.vllm.model_copy(update={"transfer": "ipc", "sleep": True})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm_process, "WORKER", "worker_without_gpu")
        patch.setattr(weight_handles, "_handle", partial(handle, folder=folder))
        patch.setenv("PYTHONPATH", f"{ROOT / 'tests'}:{ROOT}")
        with closing(ENGINES.get("vllm")(PARAMS.model_copy(update={"vllm": shared}))) as opened:
            yield opened


def test_weights_go_from_memory_to_memory_and_vllm_sleeps_between(
    sleeper: Any, policies: list[StoredPolicy], tmp_path: Path
) -> None:
    first = sample(sleeper.engine(policies[0], TREES), policies[0].policy)
    process = sleeper._sampler._process
    assert sleeper._sampler._asleep
    nowhere = replace(policies[1], folder=tmp_path)  # nothing lies there
    assert worst(sample(sleeper.engine(nowhere, TREES), nowhere.policy), nowhere.policy, 1.0) < 1e-4
    again = sample(sleeper.engine(policies[0], TREES), policies[0].policy)
    assert again.to_arrow().equals(first.to_arrow())
    assert sleeper._sampler._process is process


def test_weights_that_were_not_loaded_are_noticed(host: Any, policies: list[StoredPolicy]) -> None:
    wrong = replace(policies[0], policy=policies[1].policy, version="wrong")
    with pytest.raises(WorkError, match="does not sample the policy"):
        host.engine(wrong, TREES)
    host.engine(policies[0], TREES)


def test_a_killed_engine_costs_no_segment(host: Any, policies: list[StoredPolicy]) -> None:
    engine = host.engine(policies[0], TREES)
    whole = sample(engine, policies[0].policy)
    growers = (grow_tree(p, TREES, 1, policies[0].policy.decode) for p in PROMPTS)
    trees = {}
    for index, tree in engine.run(growers):
        if not trees:
            os.kill(host._sampler._process.handle.pid, signal.SIGKILL)
        trees[index] = tree
    again = Forest.from_trees(trees[index] for index in range(len(PROMPTS)))
    assert [list(t) for t in again.responses()] == [list(t) for t in whole.responses()]


def test_heads_that_vllm_lacks_are_the_users_to_change(tmp_path: Path) -> None:
    narrow = stored(tmp_path, 0, heads=6, kv_heads=2)
    with closing(ENGINES.get("vllm")(PARAMS)) as opened, pytest.raises(UserError) as caught:
        opened.engine(narrow, TREES)
    for words in ("engine.name", "heads of 32, 64", "have 16", "model.heads"):
        assert words in str(caught.value)


def test_two_processes_share_each_product(tmp_path: Path) -> None:
    policy = stored(tmp_path, 0, hidden_size=128, heads=4, kv_heads=2)
    params = PARAMS.vllm.model_copy(update={"tensor_parallel": 2})
    with closing(ENGINES.get("vllm")(PARAMS.model_copy(update={"vllm": params}))) as opened:
        forest = sample(opened.engine(policy, TREES), policy.policy)
    assert worst(forest, policy.policy, 1.0) < 1e-4


def test_heads_that_cannot_be_shared_are_the_users_to_change(tmp_path: Path) -> None:
    stored(tmp_path, 0, heads=3, kv_heads=1)
    with pytest.raises(UnsupportedModel, match=r"3 heads evenly; .*tensor_parallel"):
        _check_heads(str(tmp_path), 2)


def test_a_configuration_with_code_is_refused_without_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(own))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    with pytest.raises(ValueError, match="custom code"):
        _check_heads(str(tmp_path), 2)


def test_smoke_from_end_to_end(tmp_path: Path) -> None:
    folder = make_project(tmp_path / "smoke")
    settings = ("engine.name=vllm", "engine.vllm.cache_gib=0.25", "iterations=2")
    flags = [part for setting in settings for part in ("--set", setting)]
    result = treepo(folder, "run", "smoke", *flags, timeout=600)
    assert result.returncode == 0, result.stderr
    forest = folder / "runs/smoke/iterations/000002/forest.parquet"
    again = treepo(folder, "reproduce", str(forest))
    assert again.returncode == 0, again.stdout + again.stderr


@pytest.fixture
def address(policies: list[StoredPolicy], tmp_path: Path) -> Iterator[str]:
    """A real vLLM server with the first policy, started as the documentation says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    flags += ["--block-size", "32", "--kv-cache-memory-bytes", str(2**28)]
    flags += ["--logprobs-mode", "processed_logprobs"]
    flags += ["--worker-extension-cls", "treepo.engines.vllm_weights.PolicyLoader"]
    server = "vllm.entrypoints.openai.api_server"
    variables = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1", "PYTHONPATH": str(ROOT)}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", server, "--model", str(policies[0].folder), *flags],
            env={**os.environ, **variables, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    until = time.monotonic() + 500
    while time.monotonic() < until and process.poll() is None and not answers(url):
        time.sleep(0.5)
    assert answers(url), (tmp_path / "log").read_text()[-2000:]
    yield url
    process.terminate()
    process.wait(60)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v1/models").is_success
    except httpx.TransportError:
        return False


def test_a_running_server_samples_and_takes_over_new_weights(
    address: str, policies: list[StoredPolicy]
) -> None:
    params = EngineParams(name="server", rows=3, server=ServerParams(urls=(address,)))
    sampling = TREES.model_copy(update={"temperature": 0.7})
    with closing(ENGINES.get("server")(params)) as opened:
        for chosen in (policies[1], policies[0]):
            forest = sample(opened.engine(chosen, sampling), chosen.policy, sampling)
            assert worst(forest, chosen.policy, 0.7) < 1e-4
        wrong = replace(policies[0], policy=policies[1].policy, version="wrong")
        with pytest.raises(WorkError, match="does not sample the policy"):
            opened.engine(wrong, sampling)
