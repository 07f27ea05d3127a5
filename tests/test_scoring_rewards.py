"""Rewards: each component, their weighted sum, and an outcome that shaping leaves alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from treepo.errors import UserError
from treepo.params import ScoringParams
from treepo.scoring import COMPONENTS, Response, Verdict, compose

RIGHT = Verdict(True, 1.0, "7", "", 1.0)
WRONG = Verdict(False, 0.0, None, "no boxed answer", 0.0)


def params(**values) -> ScoringParams:
    return ScoringParams.model_validate(values)


def component(name: str, response: Response, verdict: Verdict = RIGHT, **values) -> float:
    return COMPONENTS.get(name)(verdict, response, params(**values))


def test_the_reward_is_the_weighted_sum_and_correct_stays():
    shaped = params(
        weights={"verifier": 1.0, "format": 0.5, "overlong": 2.0},
        max_tokens=100,
        overlong_buffer=50,
    )
    right, wrong = compose([RIGHT, WRONG], [Response("a", 75), Response("b", 10)], shaped)
    assert right.components == {"verifier": 1.0, "format": 1.0, "overlong": -0.5}
    assert right.reward == 1.0 + 0.5 - 1.0
    assert (right.correct, wrong.correct) == (True, False)
    assert wrong.reward == 0.0


def test_by_default_the_reward_is_the_verifiers_score():
    (plain,) = compose([RIGHT], [Response("", 3)], params())
    assert (plain.reward, plain.components) == (1.0, {"verifier": 1.0})


@pytest.mark.parametrize(
    ("tokens", "value"), [(0, 0), (3584, 0), (3585, -1 / 512), (3840, -0.5), (4096, -1), (9999, -1)]
)
def test_overlong_is_daps_soft_punishment(tokens, value):
    limit = {"weights": {"overlong": 1.0}, "max_tokens": 4096}
    assert component("overlong", Response("", tokens), **limit) == value


def test_length():
    assert component("length", Response("", 25), max_tokens=100) == -0.25
    assert component("length", Response("", 250), max_tokens=100) == -1


def test_repetition():
    assert component("repetition", Response("a b", 2)) == 0
    assert component("repetition", Response("a b c d", 4)) == 0
    assert component("repetition", Response("x x x x x", 5)) == pytest.approx(-2 / 3)
    assert component("repetition", Response("a b a b a b", 6), repetition_ngram=2) == 2 / 5 - 1


@given(st.lists(st.sampled_from("ab"), max_size=30), st.integers(1, 5))
def test_repetition_against_a_count(words, ngram):
    grams = [tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)]
    repeated = sum(gram in grams[:i] for i, gram in enumerate(grams))
    wanted = -repeated / len(grams) if grams else 0
    found = component("repetition", Response(" ".join(words), 0), repetition_ngram=ngram)
    assert found == pytest.approx(wanted)


def test_format():
    assert component("format", Response("x", 1), WRONG) == 0
    pattern = {"format_pattern": "^<think>.*</think>"}
    assert component("format", Response("<think>a\nb</think> 7", 1), **pattern) == 1
    assert component("format", Response("7", 1), **pattern) == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weights": {"overlong": 1}}, "needs scoring.max_tokens"),
        ({"weights": {"length": 1}}, "needs scoring.max_tokens"),
        ({"weights": {"overlong": 1}, "max_tokens": 100}, "overlong_buffer must not exceed"),
        ({"format_pattern": "("}, "no regular expression"),
    ],
)
def test_what_does_not_fit_is_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        params(**values)


def test_an_unknown_component_names_the_nearest():
    with pytest.raises(
        UserError, match=r"scoring\.weights: unknown 'overlng'; did you mean 'overl"
    ):
        compose([RIGHT], [Response("", 1)], params(weights={"overlng": 1.0}))
