"""From problems to prompts: what the policy reads, in text and in tokens.

It knows the prompt's form, the length limit and that train and held-out share no problem; it knows
nothing about where problems come from or where the tables go.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import transformers
from jinja2 import TemplateError

from treepo.data.files import BadRows
from treepo.data.mix import Row, normalised
from treepo.data.overlap import EQUAL, NEAR, Overlap
from treepo.data.sources import excluded, load
from treepo.errors import UserError
from treepo.params import GENERATED, DataParams
from treepo.schemas import PROBLEMS_SCHEMA

TOO_LONG = "longer than max_prompt_tokens"
SHARED = {
    EQUAL: "also held out",
    NEAR: "shares a run of words with a held-out problem (data.overlap_ngram)",
}
DUPLICATE = "duplicate"
SPECIAL = "holds a special token"
UNREADABLE = "the verifier cannot read the gold answer"

# For each gold answer whether the verifier that will judge by it can make sense of it.
Readable = Callable[[Sequence[str]], Sequence[bool]]

# Chat templates that print today's date take it from here: a prompt must not change overnight.
CHAT_DATE = "26 Jul 2024"


@dataclass(frozen=True)
class Prepared:
    """Prompts to train on and held out (PROBLEMS_SCHEMA), and the rows left out.

    filtered: prompt_id, split, tokens (length of the prompt) and reason of each row left out; a row
    that is no problem has its place in the source for a prompt_id, and no split.
    """

    train: pa.Table
    heldout: pa.Table
    filtered: list[dict[str, Any]]


@dataclass(frozen=True)
class _Prompt:
    """One problem as a prompt. `specials` counts the special tokens in `tokens`."""

    prompt_id: str
    row: Row
    text: str
    tokens: list[int]
    specials: int


def prepare(
    params: DataParams,
    tokenizer: transformers.PreTrainedTokenizerBase,
    seed: int,
    readable: Readable = lambda golds: [True] * len(golds),
) -> Prepared:
    """Load, render, tokenise and filter: a function of its arguments alone.

    A row is left out, and counted, where it has no problem or answer in text, its prompt is too
    long, its problem came before, or is nearly or wholly one of those held out or excluded (train
    only), where its text would be read as a special token, or where no verdict by its gold answer
    is possible.

    Raises UserError for input that is wrong, or where nothing is left of a split.
    """
    render = _renderer(params, tokenizer)
    bad: BadRows = []
    train_rows, heldout_rows = load(params, seed, bad)
    train = [render("train", row) for row in train_rows.to_list()]
    heldout = [render("heldout", row) for row in heldout_rows.to_list()]
    usual = render("usual", Row(problem="")).specials
    # Generated problems are templates; that they have words in common is what they are for.
    ngram = 0 if params.source == GENERATED else params.overlap_ngram
    held_out = Overlap([*(p.row["problem"] for p in heldout), *excluded(params)], ngram)
    unreadable = _unreadable(_written_golds(params, train, heldout), readable)
    choose = _Choice(params.max_prompt_tokens, usual, unreadable)
    choose.filtered += unusable(bad, "")
    kept_heldout = choose("heldout", heldout, Overlap([], 0))
    kept_train = choose("train", train, held_out)
    prepared = Prepared(_table(kept_train), _table(kept_heldout), choose.filtered)
    check_disjoint(prepared.train, prepared.heldout)
    return prepared


def prepare_rows(
    params: DataParams,
    rows: Sequence[Row],
    split: str,
    tokenizer: transformers.PreTrainedTokenizerBase,
    readable: Readable,
) -> tuple[pa.Table, list[dict[str, Any]]]:
    """One set of rows on its own: its prompts (PROBLEMS_SCHEMA), and the rows left out.

    Reads only the form of the prompt and its longest length from `params`. Raises UserError as
    `prepare` does.
    """
    render = _renderer(params, tokenizer)
    usual = render("usual", Row(problem="")).specials
    unreadable = _unreadable([row["answer"] for row in rows], readable)
    choose = _Choice(params.max_prompt_tokens, usual, unreadable)
    kept = choose(split, [render(split, row) for row in rows], Overlap([], 0))
    return _table(kept), choose.filtered


def unusable(bad: BadRows, split: str) -> list[dict[str, Any]]:
    """Rows that are no problems, as entries of the account of what was left out."""
    return [
        {"prompt_id": where, "split": split, "tokens": 0, "reason": reason} for where, reason in bad
    ]


def _written_golds(
    params: DataParams, train: list[_Prompt], heldout: list[_Prompt]
) -> Iterable[str]:
    """Gold answers that somebody wrote; generated ones are their verifier's own."""
    sources = {"train": params.source, "heldout": params.heldout_source or params.source}
    for split, prompts in (("train", train), ("heldout", heldout)):
        if sources[split] != GENERATED:
            yield from (prompt.row["answer"] for prompt in prompts)


def _unreadable(golds: Iterable[str], readable: Readable) -> set[str]:
    """The gold answers that the verifier cannot read."""
    different = list(dict.fromkeys(golds))
    return {gold for gold, fine in zip(different, readable(different), strict=True) if not fine}


def check_disjoint(train: pa.Table, heldout: pa.Table) -> None:
    """Raise UserError at the first train problem that is also held out (case and space aside)."""
    held_out = {normalised(text): row for row, text in enumerate(_problems(heldout))}
    for row, text in enumerate(_problems(train)):
        if normalised(text) in held_out:
            other = held_out[normalised(text)]
            raise UserError(
                f"train row {row} ({train.column('prompt_id')[row]}) is also held out,"
                f" row {other} ({heldout.column('prompt_id')[other]}): {text!r:.80}"
            )


def _problems(table: pa.Table) -> list[str]:
    return [str(text) for text in table.column("problem").to_pylist()]


class _Choice:
    """Decides which prompts stay, and keeps the account of the others."""

    def __init__(self, max_tokens: int, usual_specials: int, unreadable: set[str]) -> None:
        self.max_tokens = max_tokens
        self.usual_specials = usual_specials
        self.unreadable = unreadable
        self.filtered: list[dict[str, Any]] = []

    def __call__(self, split: str, prompts: list[_Prompt], elsewhere: Overlap) -> list[_Prompt]:
        """The prompts of one split that stay. `elsewhere`: problems that it must not share."""
        kept: list[_Prompt] = []
        seen: set[str] = set()
        reasons: Counter[str] = Counter()
        for prompt in prompts:
            problem = normalised(prompt.row["problem"])
            reason = DUPLICATE if problem in seen else None
            shared = elsewhere.kind(prompt.row["problem"])
            reason = SHARED.get(shared or "") or reason or self._against(prompt)
            seen.add(problem)
            if reason is None:
                kept.append(prompt)
                continue
            reasons[reason] += 1
            self.filtered.append(
                {
                    "prompt_id": prompt.prompt_id,
                    "split": split,
                    "tokens": len(prompt.tokens),
                    "reason": reason,
                }
            )
        if not kept:
            counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
            limit = f"data.max_prompt_tokens is {self.max_tokens}"
            raise UserError(f"data: no {split} prompt is left ({counts}; {limit})")
        return kept

    def _against(self, prompt: _Prompt) -> str | None:
        """What speaks against a prompt by itself."""
        if prompt.specials != self.usual_specials:
            return SPECIAL
        if prompt.row["answer"] in self.unreadable:
            return UNREADABLE
        return TOO_LONG if len(prompt.tokens) > self.max_tokens else None


def _renderer(
    params: DataParams, tokenizer: transformers.PreTrainedTokenizerBase
) -> Callable[[str, Row], _Prompt]:
    """What makes a prompt of a row. Raises UserError where the chat template is wanting."""
    if params.chat and not tokenizer.chat_template:
        raise UserError("data.chat: this model's tokenizer has no chat template; set it to false")
    special = {
        number
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special and number != tokenizer.unk_token_id  # unknown characters are harmless
    }
    start = _start_tokens(tokenizer)

    def render(split: str, row: Row) -> _Prompt:
        problem = row["problem"]
        # Not str.format: a problem or prompt may hold braces of its own.
        text = params.prompt.replace("{problem}", problem)
        if params.chat:
            text = _as_chat(text, tokenizer)
        tokens = tokenizer.encode(text, add_special_tokens=False)
        if not params.chat:  # a chat template writes its own first token
            tokens = start + tokens
        digest = hashlib.blake2b(problem.encode()).hexdigest()[:12]
        return _Prompt(f"{split}-{digest}", row, text, tokens, sum(t in special for t in tokens))

    return render


def _as_chat(text: str, tokenizer: transformers.PreTrainedTokenizerBase) -> str:
    turn = [{"role": "user", "content": text}]
    try:
        prompt = tokenizer.apply_chat_template(
            turn, tokenize=False, add_generation_prompt=True, date_string=CHAT_DATE
        )
    except TemplateError as error:
        raise UserError(f"data.chat: the chat template fails on a user turn ({error})") from None
    return str(prompt)


def _start_tokens(tokenizer: transformers.PreTrainedTokenizerBase) -> list[int]:
    """The beginning-of-sequence token where the tokenizer adds one; never an end of sequence."""
    added = tokenizer.encode("")
    return added[:1] if added and added[0] == tokenizer.bos_token_id else []


def _table(prompts: Iterable[_Prompt]) -> pa.Table:
    rows = [
        {
            "prompt_id": prompt.prompt_id,
            **prompt.row,
            "prompt": prompt.text,
            "prompt_tokens": prompt.tokens,
        }
        for prompt in prompts
    ]
    names = Counter(row["prompt_id"] for row in rows)
    name, count = names.most_common(1)[0]
    if count > 1:  # 48 bits of hash: one chance in 10^5 with a hundred thousand problems
        raise UserError(f"data: {count} different problems share the prompt_id {name}; drop one")
    return pa.Table.from_pylist(rows, PROBLEMS_SCHEMA)
