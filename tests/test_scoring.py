"""Boxes, numbers, the math verifier against the labelled pairs, and the pool under attack."""

import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treepo.errors import UserError
from treepo.params import ScoringParams
from treepo.scoring import VerifierPool, boxed_answer, exact, math, numeric, register
from treepo.scoring.answers import stated_answer
from treepo.scoring.math import shortcut
from treepo.scoring.rational import quantity

PAIRS = Path(__file__).parents[1].parent / "shared" / "data" / "verifier_pairs_dev.jsonl"
HUGE = 1_000_000


@register("test-moody")
def moody(gold: str, answer: str) -> bool:
    """A verifier that does what the answer says."""
    if answer == "hang":
        while True:
            time.sleep(1)
    if answer == "crash":
        os._exit(3)
    if answer == "recurse":
        return moody_recursion(0) > 0
    if answer == "swell":
        return len(bytearray(64 * 2**30)) > 0
    if answer.startswith("killed once:"):
        marker = Path(answer.removeprefix("killed once:"))
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return True
    if answer == "torch":
        return "torch" in sys.modules
    return gold == answer


def moody_recursion(depth: int) -> int:
    return moody_recursion(depth + 1) + 1


def boxes(*contents: str) -> list[tuple[str, object]]:
    return [("right", f"so \\boxed{{{content}}}") for content in contents]


@pytest.fixture(scope="module")
def moody_pool():
    params = ScoringParams(verifier="test-moody", workers=2, deadline=1.0)
    with VerifierPool(params) as pool:
        yield pool


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{5}", "5"),
        (r"\boxed{1} then \boxed{2}.", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{a\}b}", r"a\}b"),
        (r"\boxed{\boxed{-3}}", "-3"),
        (r"\boxed{1 + \boxed{2}}", r"1 + \boxed{2}"),
        (r"\boxed{4} and \boxed{5", "4"),
        (r"\boxed{4 \boxed{5}", "5"),
        (r"\boxed {6}", "6"),
        ("\\boxed{\n64\n}", "64"),
        (r"\boxed{}", ""),
        (r"} \boxed{7} }", "7"),
        (r"\\\boxed{8}", "8"),
        (r"\boxed 5", None),
        (r"\fbox{5}", None),
        (r"\boxed{42", None),
        (r"\boxed{ {3 }", None),
        ("", None),
    ],
)
def test_boxed_answer(text, content):
    assert boxed_answer(text) == content


@given(st.text(alphabet="ab 1\\_^"), st.text(alphabet="xy{}\\ "))
def test_a_closed_box_at_the_end_is_found(content, before):
    flat = content.replace("\\", "")
    assert boxed_answer(f"{before}\n\\boxed{{{flat}}}") == flat.strip()


@pytest.mark.parametrize(
    "text",
    [
        "{" * HUGE,
        "}" * HUGE,
        "\\" * HUGE,
        r"\boxed{" * (HUGE // 7),
        r"\boxed{" * (HUGE // 14) + "}" * (HUGE // 14),
        r"\boxed{ " * (HUGE // 16) + " }" * (HUGE // 16),
        r"\boxed{1}" * (HUGE // 9),
        "\\boxed" + " " * HUGE,
        "answer " * (HUGE // 7),
        "answer" + " " * HUGE,
        "^" + " " * HUGE,
        "^(" * (HUGE // 2),
        "1" * HUGE,
        "1," * (HUGE // 2),
    ],
)
@pytest.mark.timeout(120)  # linear: about a second; with the square of the length: hours
def test_hostile_text_takes_linear_time(text):
    boxed_answer(text)
    stated_answer(text)
    for part in (text, text[:990], text[:19_000]):
        exact("1", part)
        numeric("1", part)
        shortcut("1", part)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-3.50", Fraction(-7, 2)),
        ("−5", -5),
        (".5", Fraction(1, 2)),
        ("1,234,567", 1234567),
        ("12\\,500", 12500),
        ("10{,}000", 10000),
        ("3,\\!250", 3250),
        ("1 000", 1000),
        ("3/4", Fraction(3, 4)),
        (r"\frac{-3}{4}", Fraction(-3, 4)),
        (r"-\dfrac34", Fraction(-3, 4)),
        (r"2\tfrac{3}{4}", Fraction(11, 4)),
        ("2 3/4", Fraction(11, 4)),
        ("1e-7", Fraction(1, 10**7)),
        ("10^{-7}", Fraction(1, 10**7)),
        (r"1.2\times10^{5}", 120000),
        (r"\$1,000.99", Fraction(100099, 100)),
        (r"45^\circ", 45),
        ("5 cm^2", 5),
        (r"120\text{ square units}", 120),
        (r"$7$.", 7),
    ],
)
def test_quantity_reads_numbers(text, value):
    found = quantity(text)
    assert found is not None
    assert found.value == value


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "x",
            "4t",
            "32, 349",
            "1/0",
            r"\frac{1}{0}",
            "1e999999999",
            "9" * 5000,
            "12:00",
            "1,2",
        ),
        *("2^{1000000}", "10^{99999}", r"5\text{ score}", "AZYUK2A", "1 2", "--5", r"1\sqrt{2}"),
    ],
)
def test_quantity_leaves_the_rest(text):
    assert quantity(text) is None


@given(st.fractions(max_denominator=10**6))
def test_numeric_equals_itself_only(value):
    frac = rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    assert numeric(str(value), frac)
    assert not numeric(str(value), str(value + Fraction(1, 10**9)))


@given(st.text(max_size=200))
def test_no_text_makes_the_shortcuts_raise(text):
    for verifier in (exact, numeric, shortcut):
        verifier("1", text)
        verifier(text, "1")


def test_percent_signs_may_be_left_out_once():
    assert numeric("25\\%", "25")
    assert numeric("0.25", "25%")
    assert numeric("25\\%", "25 percent")
    assert not numeric("25%", "0.25%")
    assert not numeric("25%", "2.5%")


def test_exact():
    assert exact(" $a  b$. ", "a b")
    assert not exact("a", "b")
    assert not exact("", "")


def test_math_accepts_no_rounded_number():
    assert not math("\\frac{1}{3}", "0.333333")
    assert math("\\frac{1}{3}", "0.333333333333333")
    assert not math("1", "1.0000000001")
    assert not math("10000000000000000", "10000000000000001")


def pairs(keep) -> list[dict[str, object]]:
    if not PAIRS.exists():
        pytest.skip(f"the labelled pairs are not here: {PAIRS.name}")
    rows = [json.loads(line) for line in PAIRS.read_text().splitlines()]
    return [row for row in rows if keep(row["source"].partition("#")[2])]


def test_agreement_on_the_core_pairs():
    rows = pairs(lambda tag: tag == "")
    with VerifierPool(ScoringParams(max_characters=200_000, deadline=20)) as pool:
        verdicts = pool.score([(row["gold"], row["response"]) for row in rows])
    wrong = [row for row, v in zip(rows, verdicts, strict=True) if v.correct != row["correct"]]
    assert [row["gold"] for row in wrong] == []


def test_agreement_on_the_pairs_without_a_box():
    rows = pairs(lambda tag: tag == "unboxed")
    with VerifierPool(ScoringParams(boxed=False, deadline=20)) as pool:
        verdicts = pool.score([(row["gold"], row["response"]) for row in rows])
    agree = sum(v.correct == row["correct"] for row, v in zip(rows, verdicts, strict=True))
    accepted = [v for row, v in zip(rows, verdicts, strict=True) if v.correct > row["correct"]]
    assert agree >= len(rows) - 2
    assert accepted == []


def test_what_needs_no_process_starts_none():
    with VerifierPool(ScoringParams(verifier="math", max_characters=100)) as pool:
        verdicts = pool.score(
            [
                *(("1", None), ("1", 7), ("1", "\\boxed{1}" + " " * 100), ("1", "one"), ("1", "")),
                *(("1/2", "\\boxed{0.5}"), ("1/2", "\\boxed{0.6}"), ("1", "\\boxed{}")),
                *(("7", "\\boxed{9^{9^{9^{9}}}}"), ("24", "\\boxed{(10^{9})!}")),
            ]
        )
        assert pool._pool is None
    assert [v.correct for v in verdicts] == [False] * 5 + [True] + [False] * 4
    assert [v.reason for v in verdicts[:4]] == [
        "not text",
        "not text",
        "response longer than 100 characters",
        "no boxed answer",
    ]
    assert [v.reward for v in verdicts[5:7]] == [1.0, 0.0]
    assert verdicts[5].answer == "0.5"
    assert verdicts[7].reason == "empty answer"


def test_unknown_verifier_names_the_nearest():
    with pytest.raises(UserError, match=r"scoring\.verifier.*'numerik'.*'numeric'"):
        VerifierPool(ScoringParams(verifier="numerik"))


def test_hanging_answers_hit_the_deadline_and_order_holds(moody_pool):
    contents = [f"wrong {i}" if i % 3 else "right" for i in range(40)]
    contents[7] = contents[30] = "hang"
    verdicts = moody_pool.score(boxes(*contents))
    assert [v.answer for v in verdicts] == contents
    assert [v.correct for v in verdicts] == [content == "right" for content in contents]
    assert [v.reason for v in verdicts if v.reason] == ["timeout after 1 s"] * 2
    assert moody_pool.score(boxes("right", "again"))[0].correct


def test_a_dying_worker_costs_its_answer_alone(moody_pool):
    contents = ["right", "crash", "a", "b", "recurse", "c", "swell", "right", "torch"]
    verdicts = moody_pool.score(boxes(*contents))
    assert [v.correct for v in verdicts] == [content == "right" for content in contents]
    reasons = {v.answer: v.reason for v in verdicts if v.reason}
    assert set(reasons) == {"crash", "recurse", "swell"}
    assert "process" in reasons["crash"]
    assert "RecursionError" in reasons["recurse"]
    assert "MemoryError" in reasons["swell"]


def test_an_answer_whose_process_was_killed_is_judged_again(moody_pool, tmp_path):
    alone, *others = (f"killed once:{tmp_path / str(number)}" for number in range(20))
    assert moody_pool.score(boxes(alone))[0].correct
    assert all(verdict.correct for verdict in moody_pool.score(boxes(*others)))


def test_workers_end_with_the_pool():
    with VerifierPool(ScoringParams(verifier="test-moody")) as pool:
        assert pool.score(boxes("right"))[0].correct
        workers = list(pool._pool._pool_manager.worker_manager.workers)
        assert workers
    assert not any(psutil.pid_exists(pid) for pid in workers)


ORPHANS = r"""
import sys, threading, time
print("main imported", flush=True)
sys.path.insert(0, sys.argv[1])
import psutil, test_scoring
from treepo.params import ScoringParams
from treepo.scoring import VerifierPool
pool = VerifierPool(ScoringParams(verifier="test-moody", deadline=60))
pool.score(test_scoring.boxes("fine"))
threading.Thread(target=pool.score, args=(test_scoring.boxes("hang"),), daemon=True).start()
time.sleep(1.0)
print(*[child.pid for child in psutil.Process().children(recursive=True)], flush=True)
time.sleep(60)
"""


def test_no_orphan_and_no_second_main(tmp_path):
    script = tmp_path / "main.py"
    script.write_text(ORPHANS)
    command = [sys.executable, str(script), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "main imported\n"
            children = [int(pid) for pid in parent.stdout.readline().split()]
        finally:
            parent.send_signal(signal.SIGKILL)
    assert len(children) >= 3
    deadline = time.monotonic() + 10
    while any(map(psutil.pid_exists, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(psutil.pid_exists, children))


def test_scoring_imports_no_torch():
    code = "import sys, treepo.scoring; print({'torch', 'sympy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
