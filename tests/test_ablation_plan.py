"""From a file to runs: axes, sizes, seeds, and every way to get them wrong."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from treepo.ablation.plan import differences, load_plan, variants
from treepo.errors import UserError
from treepo.params.ablation import AxesParams

PARAMS = Path(__file__).parents[1] / "params"
FILES = sorted(file.stem for file in (PARAMS / "ablations").glob("[!_]*.yaml"))
SHIPPED = [f"{name}-{size}" for name in FILES if name != "smoke" for size in ("small", "paper")]
BASE = "seed: 9\nsampling: {width: 4}\nrollout: {prompts: 3}\n"
GOOD = "base: tiny\naxes: {grid: {sampling.width: [2, 4]}}\nseeds: [0, 1]\n"


def folder(tmp_path: Path, text: str) -> Path:
    (tmp_path / "tiny.yaml").write_text(BASE)
    (tmp_path / "ablations").mkdir()
    (tmp_path / "ablations/study.yaml").write_text(text)
    return tmp_path


def refusal(tmp_path: Path, text: str, name: str = "study") -> str:
    place = folder(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_plan(name, place)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{place}/", "")


def test_runs_are_variants_times_seeds(tmp_path: Path) -> None:
    plan = load_plan("study", folder(tmp_path, GOOD))
    assert [run.name for run in plan.runs] == [
        "width-2-s0",
        "width-4-s0",
        "width-2-s1",
        "width-4-s1",
    ]
    assert [run.params.sampling.width for run in plan.runs] == [2, 4, 2, 4]
    assert [run.params.seed for run in plan.runs] == [0, 0, 1, 1]
    assert {run.params.rollout.prompts for run in plan.runs} == {3}
    assert plan.references == {"width-2": "width-2", "width-4": "width-2"}
    assert differences(plan, plan.runs[1]) == {"sampling.width": 4}
    assert differences(plan, plan.runs[2]) == {}


def test_set_is_for_all_variants(tmp_path: Path) -> None:
    text = "base: tiny\nset: {iterations: 7, sampling.repetition: null}\n"
    text += "axes: {list: [{name: plain}, {name: wide, set: {sampling.width: 8}}]}\nseeds: [3]\n"
    plan = load_plan("study", folder(tmp_path, text))
    assert {run.params.iterations for run in plan.runs} == {7}
    assert {run.params.sampling.repetition for run in plan.runs} == {None}
    assert [run.params.sampling.width for run in plan.runs] == [4, 8]


def test_kinds_of_axes_are_combined() -> None:
    axes = AxesParams.model_validate(
        {
            "grid": {"a": [1, 2], "x.b": ["p", "q"]},
            "zip": {"c": [1, 2, 3], "d": [[4, 5], None, 6.5]},
            "list": [{"name": "one", "set": {"e": 1}}, {"name": "two"}],
        }
    )
    found = variants(axes, "file")
    expected = [
        {"a": a, "x.b": b, "c": c, "d": d, **e}
        for a, b in itertools.product([1, 2], ["p", "q"])
        for c, d in zip([1, 2, 3], [[4, 5], None, 6.5], strict=True)
        for e in ({"e": 1}, {})
    ]
    assert [dict(variant.settings) for variant in found] == expected
    assert found[0].name == "a-1_b-p_c-1_d-4-5_one"
    assert len({variant.name for variant in found}) == len(found)


def test_a_reference_on_one_axis_is_compared_along_it(tmp_path: Path) -> None:
    listed = "list: [{name: a}, {name: b, set: {sampling.width: 8}}]"
    text = f"base: tiny\nseeds: [0]\nreference: b\naxes: {{grid: {{iterations: [1, 2]}}, {listed}}}"
    plan = load_plan("study", folder(tmp_path, text))
    assert plan.references == {
        "iterations-1_a": "iterations-1_b",
        "iterations-1_b": "iterations-1_b",
        "iterations-2_a": "iterations-2_b",
        "iterations-2_b": "iterations-2_b",
    }
    assert differences(plan, plan.runs[2]) == {"sampling.width": 4}


def test_a_size_goes_on_top(tmp_path: Path) -> None:
    text = GOOD + "sizes: {small: {}, big: {seeds: [5], set: {iterations: 2}}}\n"
    place = folder(tmp_path, text)
    assert load_plan("study", place).name == "study-small"
    assert load_plan("study", place).params.seeds == (0, 1)
    big = load_plan("study-big", place)
    assert (big.name, big.params.seeds) == ("study-big", (5,))
    assert {run.params.iterations for run in big.runs} == {2}
    with pytest.raises(UserError, match=r"sizes: there is no 'huge'; there are: small, big"):
        load_plan("study-huge", place)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("axes: {grid: {seed: [1]}}\nseeds: [0]", "base: Field required"),
        ("base: tiny\nseeds: [0]", "axes: Field required"),
        ("base: tiny\naxes: {}\nseeds: [0]", "axes: give at least one of grid, zip, list"),
        ("base: tiny\naxes: {grid: {sampling.width: [1]}}", "seeds: Field required"),
        (
            "base: tiny\naxes: {grid: {sampling.width: [1]}}\nseeds: []",
            "seeds: Tuple should have at least 1 item",
        ),
        (
            "base: tiny\naxes: {grid: {sampling.width: [1]}}\nseeds: [1, 2, 1]",
            "seeds: 1 appears twice",
        ),
        (
            GOOD.replace("tiny", "tinny"),
            "base: tinny.yaml: no such experiment; did you mean 'tiny'?",
        ),
        (
            GOOD.replace("sampling.width", "sampling.widht"),
            "variant 'widht-2': unknown parameter 'sampling.widht'; did you mean 'sampling.width'?",
        ),
        (
            "base: tiny\nset: {samplin.width: 3}\naxes: {list: [{name: a}]}\nseeds: [0]",
            "set, on tiny.yaml: unknown parameter 'samplin'",
        ),
        (
            "base: tiny\naxes: {zip: {sampling.width: [1, 2], sampling.depth: [1]}}\nseeds: [0]",
            "axes.zip: all keys need the same number of values: sampling.width has 2, "
            "sampling.depth has 1",
        ),
        (
            "base: tiny\naxes: {grid: {sampling.width: []}}\nseeds: [0]",
            "axes.grid: sampling.width has no values",
        ),
        (
            "base: tiny\naxes: {list: [{name: a}, {name: a, set: {iterations: 1}}]}\nseeds: [0]",
            "axes: the variant 'a' appears twice",
        ),
        (
            "base: tiny\naxes: {list: [{name: a}, {name: b, set: {sampling.width: 4}}]}\n"
            "seeds: [0]",
            "axes: the variants 'a' and 'b' have the same parameters",
        ),
        (
            "base: tiny\naxes: {list: [{name: a/b}]}\nseeds: [0]",
            "axes.list.name: String should match pattern",
        ),
        (GOOD + "reference: width-3", "reference: there is no variant 'width-3'; there are:"),
        (GOOD + "sede: 3", "unknown parameter 'sede'; did you mean 'seeds'?"),
        (GOOD + "sizes: 3", "sizes: must map a size to the keys that it sets"),
        (GOOD + "stop: [{rule: no_tokens}]", "stop.rule: unknown 'no_tokens'; there are:"),
        (
            GOOD.replace("[2, 4]", "[2, many]"),
            "variant 'width-many': sampling.width: Input should be a valid integer",
        ),
        (
            "base: tiny\naxes: {list: [{name: a, set: {advantage.estimator: trepo}}]}\nseeds: [0]",
            "variant 'a': advantage.estimator: unknown 'trepo'; did you mean 'treepo'?",
        ),
        ("- a", "must hold a mapping of parameters at the top level"),
    ],
)
def test_wrong_files_are_refused_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    message = refusal(tmp_path, text)
    assert message.startswith(f"ablations/study.yaml: {expected}"), message


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    message = refusal(tmp_path, GOOD, "studdy")
    assert message == "ablations/studdy.yaml: no such ablation; did you mean 'study'?"


@pytest.mark.parametrize("name", ["smoke", *SHIPPED])
def test_every_shipped_file_is_sound(name: str) -> None:
    plan = load_plan(name, PARAMS)
    assert plan.name == name
    assert len(plan.runs) == len(plan.variants) * len(plan.params.seeds)
    assert plan.params.description
