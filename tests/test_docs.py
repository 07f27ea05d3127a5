"""The documentation says what is: its code runs, its numbers and pictures are those of the code."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from docs.pictures import CONCEPTS, ablations, training
from docs.pictures.ablations import FOLDER, PAGE, Outcome, account, picture, placed
from docs.pictures.estimators import worked
from docs.pictures.example import read_example
from docs.pictures.training import Training
from treepo.advantages import ESTIMATORS
from treepo.engines.scripted import ScriptedEngine
from treepo.errors import UserError
from treepo.loading import describe, load_experiment
from treepo.params import BenchmarkRunParams, DatasetParams, ExperimentParams, ScoringParams
from treepo.params.ablation import AblationParams
from treepo.registry import REGISTRIES
from treepo.sampling import Prompt, Request, grow_tree
from treepo.scoring import VerifierPool
from treepo.tree import Segment

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str, str]]:
    """Language, title and text of each fenced block of a page."""
    found = FENCE.findall((DOCS / page).read_text(encoding="utf-8"))
    return [(language, title, text) for language, title, text in found]


def titled(page: str, title: str) -> str:
    """The one block of a page with this title."""
    (text,) = (text for _, name, text in blocks(page) if name == title)
    return text


def with_output() -> Iterator[Any]:
    """Python blocks that are followed by what they print."""
    for page in PAGES:
        name = str(page.relative_to(DOCS))
        found = blocks(name)
        for (language, title, code), (after, _, output) in itertools.pairwise(found):
            if (language, title, after) == ("python", "", "text"):
                yield pytest.param(code, output, id=name)


@pytest.mark.parametrize(("code", "output"), with_output())
def test_python_on_a_page_prints_what_the_page_says(code: str, output: str) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "page", "exec"), {"__name__": "page"})  # noqa: S102
    assert printed.getvalue() == output


def test_the_pictures_are_those_of_the_example() -> None:
    example = read_example()
    for name, draw in CONCEPTS.items():
        committed = (DOCS / "concepts" / f"{name}.svg").read_text(encoding="utf-8")
        assert draw(example) == committed, f"{name}.svg: run python -m docs.pictures concepts"


def test_results_are_those_of_the_ablations() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in (file.stem for file in FOLDER.glob("*.json")):
        outcome = Outcome.read(name)
        assert placed(page, name, account(outcome, name)) == page
        assert picture(outcome) == (FOLDER / f"{name}.svg").read_text(encoding="utf-8")


def test_results_are_those_of_the_training() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in (file.stem for file in training.FOLDER.glob("*.json")):
        assert placed(page, f"{name} training", training.account(name)) == page
        for file, drawn in Training.read(name).pictures(name).items():
            assert drawn == (training.FOLDER / file).read_text(encoding="utf-8")


def test_a_training_comes_onto_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    course = [
        {training.SAMPLED: x, **dict.fromkeys(training.MEASURES, x / 2000)} for x in (1, 1000)
    ]
    # An iteration without an informative tree.
    course.insert(1, {**course[0], training.SAMPLED: 500, "update/entropy": None})
    nodes = {
        "parent": [-1, 0, 1, 1],
        "start": [0, 5, 9, 9],
        "end": [5, 9, 12, 13],
        "text": ["2 + 2?", "It is", "4, I\nthink", "5"],
        "reward": [None, None, 1.0, 0.0],
        "finish": [None, None, "eos", "max_tokens"],
        "restarted": [False, False, False, True],
    }
    tree = {"iteration": 3, "prompt_id": "p7", "gold": "4", "nodes": nodes}
    found = Training({"one": course, "two": course}, [tree])
    monkeypatch.setattr(training, "FOLDER", tmp_path)
    monkeypatch.setattr(training, "PAGE", tmp_path / "page.md")
    mark = "a training"
    (tmp_path / "page.md").write_text(f"<!-- {mark} -->\n\nNot yet.\n\n<!-- end of {mark} -->\n")
    found.write("a")
    assert Training.read("a") == found
    assert "a-trees.svg" in (tmp_path / "page.md").read_text()
    texts = {
        name: [element.text for element in ElementTree.fromstring(drawn).iter()]
        for name, drawn in found.pictures("a").items()
    }
    assert {"one", "two", *training.MEASURES.values()} <= set(texts["a.svg"])
    assert {"p7, iteration 3, gold answer: 4", "eos: … 4, I think", "max_tokens: … 5"} <= set(
        texts["a-trees.svg"]
    )


def test_an_ablation_comes_onto_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interval = {"n": 2, "mean": 0.5, "low": 0.25, "high": 0.75}
    none = dict.fromkeys(("difference_mean", "difference_low", "difference_high", "p_t", "p_holm"))
    found = {"difference_mean": -0.125, "difference_low": -0.25, "difference_high": 0.0}
    against = {"base": none, "other": {**found, "p_t": 0.04, "p_holm": 0.08}}
    outcome = Outcome(
        [
            {"variant": name, "measure": measure, **interval, **row}
            for measure in ablations.COLUMNS
            for name, row in against.items()
        ],
        [
            {"variant": name, "measure": measure, "x": x, **interval}
            for name in against
            for measure in ablations.PANELS
            for x in (0.0, 1000.0)
        ],
    )
    monkeypatch.setattr(ablations, "FOLDER", tmp_path)
    monkeypatch.setattr(ablations, "PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text("<!-- a -->\n\nNot yet.\n\n<!-- end of a -->\n")
    outcome.write("a")
    assert Outcome.read("a") == outcome
    last = (tmp_path / "page.md").read_text().splitlines()[-5]
    assert last.startswith("| `other` | 0.500 (0.250 to 0.750) |")
    assert last.endswith("| -0.125 (-0.250 to +0.000) | 0.040; 0.080 |")
    root = ElementTree.fromstring((tmp_path / "a.svg").read_text())
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"base", "other", *ablations.PANELS.values()} <= set(texts)
    with pytest.raises(UserError, match="no place for 'b'"):
        outcome.write("b")


def test_the_table_of_estimators() -> None:
    page = (DOCS / "concepts" / "estimators.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|((?: -?[\d./]+ \|){5})$", page, re.MULTILINE)
    assert {name for name, _ in rows} == set(ESTIMATORS)
    for name, cells in rows:
        said = [cell.strip() for cell in cells.strip("|").split("|")]
        for cell, value in zip(said, worked(name), strict=True):
            exact = "." not in cell
            assert float(Fraction(cell)) == pytest.approx(value, abs=1e-12 if exact else 5e-4)


def test_every_estimator_objective_and_policy_is_on_its_page() -> None:
    sampling = (DOCS / "sampling.md").read_text(encoding="utf-8")
    for key, registry in REGISTRIES.items():
        if key.startswith("sampling.") and key != "sampling.stops":
            for name in registry:
                if getattr(registry.get(name), "__module__", "").startswith("treepo."):
                    assert f"`{name}`" in sampling, (key, name)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with the repository's parameters."""
    shutil.copytree(ROOT / "params", tmp_path / "params")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_experiments_on_the_pages_are_valid(project: Path) -> None:
    (project / "digits.py").write_text(
        titled("howto/policy.md", "digits.py").replace("most_digits", "most_digits_here")
    )
    seen: list[str] = []
    for page in PAGES:
        for language, title, text in blocks(str(page.relative_to(DOCS))):
            if language == "yaml" and re.fullmatch(r"params/\w+\.yaml", title):
                file = project / title
                file.write_text(text.replace("most_digits", "most_digits_here"))
                load_experiment(file)
                seen.append(title)
    assert len(seen) >= 5


def test_the_verifier_on_the_page(project: Path) -> None:
    page = "howto/verifier.md"
    (project / "close.py").write_text(titled(page, "close.py"))
    pairs = [json.loads(line) for line in titled(page, "pairs.jsonl").splitlines()]
    judged = [json.loads(line) for line in titled(page, "judged.jsonl").splitlines()]
    with VerifierPool(ScoringParams(verifier="close:close", workers=1)) as pool:
        verdicts = pool.score([(row["gold"], row["response"]) for row in pairs])
    assert [verdict.correct for verdict in verdicts] == [row["verdict"] for row in judged]
    assert [verdict.reason for verdict in verdicts] == [row["reason"] for row in judged]


def test_the_sampling_policy_on_the_page(project: Path) -> None:
    page = "howto/policy.md"
    (project / "digits.py").write_text(titled(page, "digits.py"))
    (project / "params" / "own_policy.yaml").write_text(titled(page, "params/own_policy.yaml"))
    params = load_experiment(project / "params" / "own_policy.yaml").sampling
    params = params.model_copy(update={"segment_length": 4, "width": 6, "depth": 2})

    words = itertools.cycle(["7777", "word"])

    def digits_on_every_second_path(_: Request) -> Segment:
        return Segment(list(map(ord, next(words))), [-1.0] * 4)

    grower = grow_tree(Prompt("p", [1]), params, 0, lambda tokens: "".join(map(chr, tokens)))
    ((_, tree),) = ScriptedEngine(digits_on_every_second_path).run([grower])
    branches = {chr(child.tokens[0]): len(child.children) for child in tree.root.children}
    assert branches["7"] > branches["w"]


def test_the_reference_holds_every_parameter() -> None:
    pytest.importorskip("mkdocs")
    from docs import hooks

    page = hooks._parameters()
    for model in (ExperimentParams, BenchmarkRunParams, AblationParams, DatasetParams):
        for entry in describe(model):
            assert f"| `{entry.key.rpartition('.')[2]}` |" in page
    commands = hooks._commands()
    for name in ("run", "step", "evaluate", "ablate", "reproduce", "params"):
        assert f"## treepo {name}\n" in commands
