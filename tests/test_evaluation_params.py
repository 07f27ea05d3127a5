"""What an evaluation may ask for, and how its mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from treepo.errors import UserError
from treepo.loading import describe, load
from treepo.params import (
    BenchmarkRunParams,
    DatasetParams,
    EvaluationParams,
    ExperimentParams,
    SamplingParams,
)

FOLDER = Path(__file__).parents[1] / "params/evaluations"
GOOD = {"benchmarks": {"sums": {"source": "sums.jsonl"}}}


def read(tmp_path: Path, *overrides: str, **values: object) -> BenchmarkRunParams:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**GOOD, **values}))
    return load(BenchmarkRunParams, file, overrides)


def refusal(tmp_path: Path, *overrides: str, **values: object) -> str:
    with pytest.raises(UserError) as caught:
        read(tmp_path, *overrides, **values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sequential_by_default() -> None:
    params = EvaluationParams(samples=4, temperature=0.6, max_tokens=100)
    assert params.sampling == SamplingParams.sequential(4, 100, 0.6)


def test_a_tree_takes_width_temperature_and_length_from_the_evaluation(tmp_path: Path) -> None:
    tree = {"branching": 4, "depth": 8, "segment_length": 16}
    given = {"samples": 16, "temperature": 0.5, "max_tokens": 100, "tree": tree}
    sampling = read(tmp_path, evaluation=given).evaluation.sampling
    assert (sampling.width, sampling.temperature, sampling.max_tokens) == (16, 0.5, 100)
    assert (sampling.branching, sampling.depth) == (4, 8)


def test_a_tree_from_the_command_line(tmp_path: Path) -> None:
    params = read(tmp_path, "evaluation.tree.branching=8", "evaluation.samples=32")
    assert params.evaluation.sampling.branching == 8
    assert params.evaluation.sampling.width == 32


def test_written_parameters_read_back_the_same(tmp_path: Path) -> None:
    params = read(tmp_path, "evaluation.tree.branching=8", "evaluation.temperature=0.3")
    dumped = params.model_dump(mode="json")
    assert BenchmarkRunParams.model_validate(dumped) == params


def test_a_tree_of_another_width_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, "evaluation.tree.width=3")
    assert "tree.width must be samples" in message


def test_k_above_n(tmp_path: Path) -> None:
    message = refusal(tmp_path, "evaluation.k=16")
    assert "mine.yaml" in message
    assert "k = 16 needs as many samples, but samples = 8" in message


def test_greedy_wants_one_sample(tmp_path: Path) -> None:
    assert "set samples = 1" in refusal(tmp_path, "evaluation.temperature=0")
    assert read(tmp_path, "evaluation.temperature=0", "evaluation.samples=1")


def test_rollouts_are_never_greedy() -> None:
    with pytest.raises(ValueError, match=r"sampling\.temperature must be above 0"):
        ExperimentParams(sampling=SamplingParams(temperature=0))


def test_no_benchmarks(tmp_path: Path) -> None:
    assert "benchmarks" in refusal(tmp_path, benchmarks={})


def test_names_of_benchmarks(tmp_path: Path) -> None:
    source = {"source": "x.jsonl"}
    assert "choose another" in refusal(tmp_path, benchmarks={"overall": source})
    assert "benchmarks" in refusal(tmp_path, benchmarks={"a b": source})


def test_misspelt_key_of_a_benchmark(tmp_path: Path) -> None:
    message = refusal(tmp_path, "benchmarks.sums.problem_colum=text")
    assert "benchmarks.sums.problem_colum" in message
    assert "problem_column" in message.partition("did you mean")[2]


def test_prompt_without_problem(tmp_path: Path) -> None:
    assert "{problem}" in refusal(tmp_path, "prompts.prompt=hello")


def test_benchmarks_are_described_by_name(tmp_path: Path) -> None:
    values = {entry.key: entry.value for entry in describe(read(tmp_path))}
    assert values["benchmarks.sums.source"] == "sums.jsonl"
    assert all(entry.description for entry in describe(BenchmarkRunParams))


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_evaluations_that_come_along(file: Path) -> None:
    params = load(BenchmarkRunParams, file)
    for name, benchmark in params.benchmarks.items():
        assert isinstance(benchmark.source, DatasetParams) or file.stem == "smoke"
        if isinstance(benchmark.source, DatasetParams):
            assert benchmark.source.name == name
            assert benchmark.source.mirror or benchmark.source.hub


def test_prompts_of_a_recipe_give_way() -> None:
    text = load(BenchmarkRunParams, FOLDER / "gsm8k.yaml").benchmarks["gsm8k_test"].prompts
    assert text.chat
    assert "short steps" in text.prompt
    overrides = ["benchmarks.gsm8k_test.prompts.chat=false"]
    own = load(BenchmarkRunParams, FOLDER / "gsm8k.yaml", overrides).benchmarks["gsm8k_test"]
    assert not own.prompts.chat
