"""The plan that a dry run prints: what differs, what is shared, what it costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.ablation_tables import show_plan
from tasks.ablation_plan import planned
from treepo.ablation.plan import load_plan
from treepo.errors import UserError

ROOT = Path(__file__).parents[1]
START = {"data", "warm-up"}
LOOP = {"rollout", "score", "advantage", "update"}


def study(tmp_path: Path, axes: str) -> Path:
    (tmp_path / "tiny.yaml").write_text("iterations: 5\n")
    (tmp_path / "ablations").mkdir()
    text = f"base: tiny\nseeds: [0, 1]\naxes: {{list: [{{name: plain}}, {axes}]}}\n"
    (tmp_path / "ablations/study.yaml").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("key", "value", "shared"),
    [
        ("data.train_size", 9, set()),
        ("warm_up.steps", 9, {"data"}),
        ("evaluation.samples", 9, START | LOOP),
        ("sampling.width", 9, START | {"evaluation 0"}),
        ("update.epochs", 9, START | {"evaluation 0", "rollout", "score", "advantage"}),
        ("iterations", 9, START | {"evaluation 0"} | LOOP),
        ("engine.threads", 9, set()),
    ],
)
def test_what_is_shared_follows_from_what_steps_read(
    tmp_path: Path, key: str, value: int, shared: set[str]
) -> None:
    place = study(tmp_path, f"{{name: other, set: {{{key}: {value}}}}}")
    plain, other, plain_1, other_1 = planned(load_plan("study", place))
    assert plain.shared == plain_1.shared == {}
    assert other.shared == dict.fromkeys(shared, "plain-s0")
    assert other_1.shared == dict.fromkeys(shared, "plain-s1")
    assert other.differs == {key: value}


def test_what_is_taken_over_costs_nothing(tmp_path: Path) -> None:
    place = study(tmp_path, "{name: other, set: {evaluation.samples: 16}}")
    plain, other, *_ = planned(load_plan("study", place))
    assert plain.cost.training_tokens > 0
    assert other.cost.training_tokens == 0
    assert other.cost.evaluation_tokens == 2 * plain.cost.evaluation_tokens


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params").symlink_to(ROOT / "params")
    show_plan("smoke")
    printed = capsys.readouterr().out
    for part in (
        "grpo-s1",
        'advantage.estimator="grpo"',
        "data, warm-up, evaluation 0 of treepo-s1",
        "2 variants x 2 seeds = 4",
        "device hours",
        "GiB",
    ):
        assert part in printed, part
    assert [path.name for path in tmp_path.iterdir()] == ["params"]


def test_the_papers_size_tells_its_cost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    show_plan("main-paper")
    printed = capsys.readouterr().out
    assert "64 a run" in printed
    assert "fits in 80 GiB" in printed
    with pytest.raises(UserError, match=r"main.yaml: sizes: there is no 'huge'"):
        show_plan("main-huge")
