"""A policy of the user's own: ten lines in a file, named in the parameters."""

from __future__ import annotations

import shutil
from io import StringIO
from pathlib import Path

import pytest
from projects import ROOT, refused, treepo
from rich.console import Console

from flows import listing
from treepo.errors import UserError
from treepo.loading import load_experiment
from treepo.registry import REGISTRIES, Registry

OWN = '''
"""Branches for the paths with the most digits."""
from treepo.sampling.allocation import ALLOCATIONS


@ALLOCATIONS.register("{name}")
def most_digits(growth, living):
    """More for paths whose last segment has more digits."""
    return [1.0 + sum(map(str.isdigit, growth.text(node))) for node in living]
'''

TRAINING = '''
"""An objective and a verifier of the user's own."""
from treepo.objective.objectives import OBJECTIVES, dr_grpo
from treepo.scoring.verifiers import exact, register

OBJECTIVES.register("own_objective")(dr_grpo)
register("own_verifier", shortcut=exact)(exact)
'''
EXPERIMENT = """
extends: smoke
plugins: [own.py]
iterations: 1
scoring: {verifier: own_verifier}
update: {objective: own_objective, ranks: 2}
advantage: {query_filter: false}
"""


def write(folder: Path, yaml: str, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "own.yaml").write_text(yaml)
    return folder / "own.yaml"


def test_a_file_registers_a_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "plugins: [digits.py]\nsampling: {allocation: {policy: digits_from_a_file}}\n"
    file = write(tmp_path, text, digits=OWN.format(name="digits_from_a_file"))
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # imported once
        params = load_experiment(file)
    assert params.sampling.allocation.policy == "digits_from_a_file"
    meanings = dict(REGISTRIES["sampling.allocation.policy"].describe())
    assert meanings["digits_from_a_file"].startswith("More for paths whose last segment")


def test_a_module_registers_a_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "plugins: [own_digits]\nsampling: {allocation: {policy: digits_from_a_module}}\n"
    file = write(tmp_path, text, own_digits=OWN.format(name="digits_from_a_module"))
    monkeypatch.syspath_prepend(tmp_path)
    assert load_experiment(file).plugins == ["own_digits"]


@pytest.mark.parametrize(
    ("yaml", "code", "problem"),
    [
        ("plugins: [gone.py]", "", "plugins: gone.py: no such file"),
        ("plugins: [no_such_module]", "", "plugins: no_such_module cannot be imported (ModuleNot"),
        ("plugins: [bad.py]", "1 / 0", "plugins: bad.py cannot be imported (ZeroDivisionError: "),
        ("plugins: [bad.py]", "def (", "plugins: bad.py cannot be imported (SyntaxError: "),
        (
            "plugins: [bad.py]",
            OWN.format(name="even"),
            "sampling.allocation.policy: 'even' is registered already; choose another name",
        ),
        (
            "sampling: {allocation: {policy: low_probabilty}}",
            "",
            "sampling.allocation.policy: unknown 'low_probabilty'; did you mean 'low_probability'?",
        ),
        (
            "sampling: {stops: [eos, anser, limits]}",
            "",
            "sampling.stops: unknown 'anser'; did you mean 'answer'?",
        ),
        (
            "sampling: {budget: {control: step_tokens}}",
            "",
            "sampling.budget.control: 'step_tokens' needs sampling.budget.step_tokens",
        ),
        (
            "sampling: {fallback: {candidates: answered_longer_than}}",
            "",
            "sampling.fallback.candidates: 'answered_longer_than' needs "
            "sampling.fallback.longer_than",
        ),
        (
            "sampling: {fallback: {longer_than: 8}}",
            "",
            "sampling.fallback.longer_than is set, and sampling.fallback.candidates "
            "'answer_or_eos' does not read it; unset it",
        ),
        (
            "evaluation: {tree: {budget: {growth_range: [1, 2]}}}",
            "",
            "evaluation.tree.budget.growth_range is set, and evaluation.tree.budget.control "
            "'factor' does not read it; unset it",
        ),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, yaml: str, code: str, problem: str
) -> None:
    file = write(tmp_path, yaml, bad=code)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        load_experiment(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: {problem}")
    assert "\n" not in message


def test_every_policy_has_a_line() -> None:
    for key, registry in REGISTRIES.items():
        if key.startswith("sampling."):
            for name, meaning in registry.describe():
                assert meaning.endswith((".", ")")) or name.startswith("test"), (key, name)


def test_treepo_params_prints_every_name_of_a_sampling_registry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = StringIO()
    monkeypatch.setattr(listing, "console", Console(file=shown, width=500, markup=False))
    listing.show_params(None)
    rows = [line.strip().split(maxsplit=1) for line in shown.getvalue().splitlines()]
    for key, registry in REGISTRIES.items():
        if key.startswith("sampling."):
            for name, meaning in registry.describe():
                if not name.startswith("test"):
                    assert [name, meaning] in rows, (key, name)


def test_a_name_is_taken_once() -> None:
    registry: Registry[object] = Registry("test.key")
    try:
        registry.register("a", needs="b")(object())
        assert registry.needs("a") == "b"
        with pytest.raises(UserError, match="'a' is registered already"):
            registry.register("a")(object())
    finally:
        del REGISTRIES["test.key"]


@pytest.mark.slow
def test_treepo_params_lists_a_users_policy(tmp_path: Path) -> None:
    (tmp_path / "params").mkdir()
    text = "plugins: [digits.py]\nsampling: {allocation: {policy: digits}}\n"
    write(tmp_path / "params", text)
    refused(treepo(tmp_path, "params", "own"), "plugins: digits.py: no such file")
    (tmp_path / "digits.py").write_text(OWN.format(name="digits"))
    shown = treepo(tmp_path, "params", "own")
    assert shown.returncode == 0, shown.stderr
    assert "More for paths whose last segment has more digits." in " ".join(shown.stdout.split())


@pytest.mark.slow
def test_names_of_plugins_are_known_to_ranks_and_when_made_again(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(TRAINING)
    shutil.copytree(ROOT / "params", tmp_path / "params")
    (tmp_path / "params/own.yaml").write_text(EXPERIMENT)
    for step in ("prepare", "train"):
        made = treepo(tmp_path, "step", step, "own")
        assert made.returncode == 0, made.stderr
    for artifact in ("data", "policy/000001"):
        again = treepo(tmp_path, "reproduce", f"runs/own/{artifact}")
        assert (again.returncode, again.stdout.strip()) == (0, "identical"), again.stderr
