"""Trees over HTTP servers: a small fake one that drops, garbles and refuses; and a real vLLM."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fake_vllm_worker import EOS, scripted
from test_vllm_process import IDS, SAMPLING, expected, growers, shape

from treepo.engines import hosts, vllm_server
from treepo.engines.hosts import ENGINES, StoredPolicy
from treepo.engines.schedule import SCHEDULES, ScheduledEngine
from treepo.engines.segments import SegmentCall
from treepo.engines.vllm_server import VLLMServers
from treepo.errors import UserError, WorkError
from treepo.models import initial_policy
from treepo.params import EngineParams, ModelParams, ServerParams
from treepo.sampling import Prompt, grow_tree
from treepo.tree import Tree


class FakeServer(ThreadingHTTPServer):
    """Scripted segments; `trouble(request number)` may name what goes wrong with a request."""

    daemon_threads = True
    request_queue_size = 64  # a busy machine accepts late

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.trouble: Callable[[int], str] = lambda number: ""
        self.requests: list[dict[str, Any]] = []
        self.log: list[dict[str, Any]] = []  # all posts
        self.posts: list[str] = []
        self.released, self.outlived = threading.Event(), threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


def completion(body: dict[str, Any]) -> dict[str, Any]:
    call = SegmentCall(0, 0, body["prompt"], body["max_tokens"], body["seed"], 1.0)
    segment = scripted(call).segment
    logprobs = {"token_logprobs": segment.logprobs}
    return {"choices": [{"token_ids": segment.tokens, "logprobs": logprobs}]}


OTHERWISE = {
    "busy": (503, "come back later"),
    "proxy": (520, "the server behind is gone"),
    "too long": (400, "the prompt is too long"),
    "no json": (200, "<html>"),
    "text only": (200, json.dumps({"choices": [{"text": "hello"}]})),
}


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self) -> None:
        self.reply(200, json.dumps({"data": [{"id": "tiny"}]}))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path != "/v1/completions":
            self.server.posts.append(self.path)
            self.server.log.append(json.loads(body) if body else {})
            return self.reply(200, "{}")
        request = json.loads(body)
        self.server.requests.append(request)
        self.server.log.append(request)
        trouble = self.server.trouble(len(self.server.requests))
        answer = completion(request)
        if trouble == "drop":
            self.connection.close()
        elif trouble == "hang":
            threading.Event().wait(30)
        elif trouble == "silent":
            assert self.server.released.wait(60), "nobody was waiting any more"
            self.server.outlived.set()
        elif trouble in OTHERWISE:
            self.reply(*OTHERWISE[trouble])
        elif trouble == "no gzip":
            self.reply(200, json.dumps(answer), {"Content-Encoding": "gzip"})
        elif trouble == "trickle":
            self.trickle(json.dumps(answer))
        elif trouble == "short":
            answer["choices"][0]["logprobs"]["token_logprobs"].append(-1.0)
            self.reply(200, json.dumps(answer))
        elif trouble == "nan":
            answer["choices"][0]["logprobs"]["token_logprobs"][0] = float("nan")
            self.reply(200, json.dumps(answer))
        else:
            self.reply(200, json.dumps(answer))
        return None

    def reply(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(text)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def trickle(self, text: str) -> None:
        """A byte at a time, each well before a read's own deadline, until nobody listens."""
        with suppress(OSError):
            self.reply(200, "", {"Content-Length": "1000000"})
            for _ in range(300):
                self.wfile.write(b" ")
                threading.Event().wait(0.1)
            self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setattr(vllm_server, "BACKOFF", 0.01)
    started = FakeServer()
    yield started
    started.shutdown()
    started.server_close()


def servers(*urls: str, **settings: Any) -> VLLMServers:
    return VLLMServers(ServerParams(urls=urls, connections=8, **settings), IDS)


def run(sampler: VLLMServers, schedule: str = "continuous", count: int = 5) -> dict[int, Tree]:
    finished: dict[int, Tree] = {}
    try:
        finished.update(ScheduledEngine(sampler, SCHEDULES[schedule], 1.0, 3).run(growers(count)))
    finally:
        sampler.close()
    return finished


@pytest.mark.parametrize("way", ["cancel", "close"])
def test_requests_in_flight_are_dropped_not_awaited(server: FakeServer, way: str) -> None:
    server.trouble = lambda number: "silent" if number == 1 else ""
    sampler = servers(server.url)
    calls = [SegmentCall(number, number, [5, 6], 4, number, 1.0) for number in (1, 2)]
    (answered,) = sampler.exchange(calls)
    assert answered.number in (1, 2)
    getattr(sampler, way)()
    assert not server.outlived.is_set()
    server.released.set()
    assert server.outlived.wait(60)
    if way == "cancel":
        assert len(sampler.exchange(calls)) > 0
        sampler.close()


TROUBLES = [
    *("drop", "hang", "trickle", "busy", "proxy"),
    *("no gzip", "no json", "text only", "short", "nan"),
]


@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("trouble", ["none", *TROUBLES])
def test_what_goes_wrong_once_costs_nothing(
    server: FakeServer, trouble: str, schedule: str
) -> None:
    server.trouble = lambda number: trouble if number in (2, 7, 20) else ""
    trees = run(servers(server.url, deadline=0.5), schedule)
    assert [shape(trees[index]) for index in range(5)] == expected(5)


def test_requests_say_all_that_matters(server: FakeServer) -> None:
    run(servers(server.url))
    request = server.requests[0]
    assert request["prompt"][:2] == [5, 6]
    assert request["stop_token_ids"] == [EOS]
    assert (request["top_p"], request["top_k"], request["min_p"]) == (1.0, 0, 0.0)
    assert request["return_token_ids"]
    seeds = [entry["seed"] for entry in server.requests]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("drop", "attempt 3 of 3"),
        ("busy", "HTTP 503: come back later, attempt 3 of 3"),
        ("trickle", "no whole answer within 0.5 s"),
        ("no gzip", "DecodingError"),
        ("no json", "garbled answer"),
        ("text only", "garbled answer"),
        ("short", "logprobs for"),
        ("nan", "garbled answer"),
    ],
)
def test_a_bounded_number_of_attempts(server: FakeServer, trouble: str, words: str) -> None:
    server.trouble = lambda number: trouble
    with pytest.raises(WorkError, match=words) as caught:
        run(servers(server.url, deadline=0.5))
    assert server.url in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_trees_are_finished_before_the_error(server: FakeServer) -> None:
    poison = growers(5)[0]
    seeds = {request.seed % 2**63 for request in next(poison)}
    server.trouble = lambda number: (
        "too long" if server.requests[number - 1]["seed"] in seeds else ""
    )
    sampler = servers(server.url)
    finished: dict[int, Tree] = {}
    trees = ScheduledEngine(sampler, SCHEDULES["continuous"], 1.0, 3).run(growers(5))
    with pytest.raises(UserError, match="HTTP 400: the prompt is too long"):
        finished.update(trees)
    sampler.close()
    assert sorted(finished) == [1, 2, 3, 4]


def test_a_server_that_goes_away_is_replaced_by_the_others(server: FakeServer) -> None:
    other = FakeServer()
    sampler = servers(server.url, other.url)
    run_one = dict(ScheduledEngine(sampler, SCHEDULES["continuous"], 1.0, 3).run(growers(3)))
    assert len(run_one) == 3
    assert server.requests
    assert other.requests
    other.shutdown()
    other.server_close()
    trees = run(sampler)
    assert [shape(trees[index]) for index in range(5)] == expected(5)


def test_a_server_that_was_started_anew_is_told_the_policy_again(server: FakeServer) -> None:
    other, port = FakeServer(), server.server_address[1]
    sampler = servers(server.url, other.url)
    sampler.load(Path("x"), initial_policy(ModelParams(), seed=0))
    server.shutdown()
    server.server_close()
    engine = ScheduledEngine(sampler, SCHEDULES["continuous"], 1.0, 3)
    assert len(dict(engine.run(growers(3)))) == 3
    again = FakeServer(port)
    assert len(run(sampler)) == 5
    assert again.requests
    assert again.log[0].get("args") == [str(Path("x").resolve())]
    assert again.posts == other.posts == ["/collective_rpc", "/reset_prefix_cache"]
    for running in (again, other):
        running.shutdown()
        running.server_close()


def test_logprobs_are_checked_at_each_temperature(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checked: list[float] = []
    monkeypatch.setattr(hosts, "verify", lambda *of: checked.append(of[2]))
    policy = initial_policy(ModelParams(), seed=0)
    params = EngineParams(name="server", server=ServerParams(urls=(server.url,)))
    with closing(ENGINES.get("server")(params)) as host:
        for version, temperature in [("a", 1.0), ("a", 0.6), ("a", 1.0), ("b", 0.6)]:
            sampling = SAMPLING.model_copy(update={"temperature": temperature})
            host.engine(StoredPolicy(policy, tmp_path, version), sampling)
    assert checked == [1.0, 0.6, 0.6]
    assert server.posts.count("/collective_rpc") == 2


def test_what_the_user_got_wrong(server: FakeServer) -> None:
    with pytest.raises(UserError, match=r"engine\.server\.model: .* serves tiny, not 'large'"):
        servers(server.url, model="large")
    with pytest.raises(UserError, match=r"engine\.server\.urls: http://127\.0\.0\.1:1: Connect"):
        servers("http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"engine\.server\.urls: nowhere"):
        servers("nowhere")


def test_weights_are_loaded_unless_they_are_the_servers_own(server: FakeServer) -> None:
    policy = initial_policy(ModelParams(), seed=0)
    servers(server.url, weights="served").load(Path("x"), policy)
    assert not server.posts
    servers(server.url).load(Path("x"), policy)
    assert server.posts == ["/collective_rpc", "/reset_prefix_cache"]


def test_threads_that_sample_two_policies_take_turns_at_a_server(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is sampled always follows a load of its own policy, which its prompts name."""
    monkeypatch.setattr(hosts, "verify", lambda *_: None)
    policy = initial_policy(ModelParams(), seed=0)
    policy.model.generation_config.eos_token_id = EOS
    params = EngineParams(name="server", server=ServerParams(urls=(server.url,)))

    def sample_as(number: int) -> None:
        stored = StoredPolicy(policy, tmp_path / str(number), str(number))
        with closing(ENGINES.get("server")(params)) as host:
            for _ in range(4):
                prompts = [Prompt(f"p{at}", [number, 5 + at]) for at in range(4)]
                grown = (grow_tree(prompt, SAMPLING, 1, lambda _: "") for prompt in prompts)
                assert len(dict(host.engine(stored, SAMPLING).run(grown))) == 4

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(sample_as, (50, 60)))
    served = 0
    for post in server.log:
        if "args" in post:
            served = int(Path(post["args"][0]).name)
        elif post:
            assert post["prompt"][0] == served
