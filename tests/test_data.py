"""Prompts: text, tokens, filters, disjoint splits, the same in every process."""

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from problems import TOKENIZER, jsonl, params, reasons, sums

from treepo.data import FAMILIES, check_disjoint, prepare
from treepo.errors import UserError
from treepo.schemas import PROBLEMS_SCHEMA
from treepo.tokenizer import character_tokenizer


def test_prepared_tables(tmp_path: Path):
    prepared = prepare(params(prompt="Q: {problem} {x}\nA:"), TOKENIZER, 0)
    assert prepared.train.schema == prepared.heldout.schema == PROBLEMS_SCHEMA
    assert prepared.filtered == []
    for split, table in (("train", prepared.train), ("heldout", prepared.heldout)):
        for row in table.to_pylist():
            digest = hashlib.blake2b(row["problem"].encode()).hexdigest()[:12]
            assert row["prompt_id"] == f"{split}-{digest}"
            assert row["prompt"] == f"Q: {row['problem']} {{x}}\nA:"
            assert row["prompt_tokens"] == TOKENIZER.encode(row["prompt"])
    names = prepared.train["prompt_id"].to_pylist() + prepared.heldout["prompt_id"].to_pylist()
    assert len(set(names)) == 25


def test_braces_in_a_problem_are_text(tmp_path: Path):
    rows = [{"problem": f"{{problem}} {{0}} \\frac{{{n}}}{{2}}", "answer": "1"} for n in (1, 2)]
    source = jsonl(tmp_path / "a.jsonl", rows)
    table = prepare(params(source=source, heldout_size=1), TOKENIZER, 0).train
    assert table["prompt"][0].as_py() == table["problem"][0].as_py() + "\n"


def test_long_prompts_are_filtered_and_counted(tmp_path: Path):
    long = {"problem": "9" * 30, "answer": "1"}
    train = jsonl(tmp_path / "train.jsonl", [*sums(5), long])
    heldout = jsonl(tmp_path / "heldout.jsonl", [*sums(5, 50), {**long, "problem": "8" * 30}])
    both = {"source": train, "heldout_source": heldout, "heldout_size": 9}
    prepared = prepare(params(**both, max_prompt_tokens=30), TOKENIZER, 0)
    assert (len(prepared.train), len(prepared.heldout)) == (5, 5)
    assert {(row["split"], row["tokens"], row["reason"]) for row in prepared.filtered} == {
        ("train", 31, "longer than max_prompt_tokens"),
        ("heldout", 31, "longer than max_prompt_tokens"),
    }
    assert all(row["prompt_id"].startswith(row["split"]) for row in prepared.filtered)
    assert prepare(params(**both, max_prompt_tokens=31), TOKENIZER, 0).filtered == []
    with pytest.raises(UserError, match=r"no heldout prompt is left .*max_prompt_tokens is 3"):
        prepare(params(**both, max_prompt_tokens=3), TOKENIZER, 0)


def test_overlap_is_an_error_that_names_the_first_row():
    prepared = prepare(params(), TOKENIZER, 0)
    check_disjoint(prepared.train, prepared.heldout)
    row = prepared.heldout.slice(2, 1)
    loud = row.set_column(1, "problem", pa.array([f"  {row['problem'][0].as_py().upper()} "]))
    with pytest.raises(UserError, match=r"^train row 20 \(heldout-.*is also held out, row 2 \("):
        check_disjoint(pa.concat_tables([prepared.train, loud]), prepared.heldout)


def test_a_chat_template_is_used_or_missed():
    with pytest.raises(UserError, match=r"data\.chat: .*no chat template"):
        prepare(params(chat=True), TOKENIZER, 0)
    tokenizer = character_tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages %}[{{ message['content'] }}]{% endfor %}"
        "{% if add_generation_prompt %}{{ date_string }}>{% endif %}"
    )
    row = prepare(params(chat=True, prompt="{problem}!"), tokenizer, 0).train.to_pylist()[0]
    assert row["prompt"] == f"[{row['problem']}!]26 Jul 2024>"
    assert row["prompt_tokens"] == tokenizer.encode(row["prompt"])
    tokenizer.chat_template = "{{ raise_exception('no user turns') }}"
    with pytest.raises(UserError, match=r"data\.chat: .*no user turns"):
        prepare(params(chat=True), tokenizer, 0)


def test_a_beginning_of_sequence_is_added_where_the_tokenizer_does():
    from tokenizers.processors import TemplateProcessing

    tokenizer = character_tokenizer()
    tokenizer.bos_token = "<pad>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<pad> $A <eos>", special_tokens=[("<pad>", 0), ("<eos>", 1)]
    )
    row = prepare(params(), tokenizer, 0).train.to_pylist()[0]
    assert row["prompt_tokens"] == [0, *TOKENIZER.encode(row["prompt"])]


def test_a_problem_that_spells_a_special_token_is_left_out(tmp_path: Path):
    rows = [*sums(4), {"problem": "what is <eos>?", "answer": "1"}, {"problem": "é", "answer": "1"}]
    source = jsonl(tmp_path / "a.jsonl", rows)
    heldout = jsonl(tmp_path / "b.jsonl", sums(2, 50))
    apart = params(source=source, heldout_source=heldout)
    assert prepare(apart, TOKENIZER, 0).filtered == []  # plain characters to this tokenizer
    careless = character_tokenizer()
    careless.split_special_tokens = False
    prepared = prepare(apart, careless, 0)
    assert reasons(prepared) == {("train", "holds a special token"): 1}
    assert len(prepared.train) == 5


# Determinism


def digest(seed: int) -> str:
    everything = params(families=dict.fromkeys(FAMILIES, 1), train_size=70, heldout_size=21)
    prepared = prepare(everything, character_tokenizer(), seed)
    text = repr((prepared.train.to_pylist(), prepared.heldout.to_pylist(), prepared.filtered))
    return hashlib.sha256(text.encode()).hexdigest()


def test_every_process_prepares_the_same_and_needs_no_home():
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "12345" if os.environ.get("PYTHONHASHSEED") != "12345" else "1",
        "HOME": "/dev/null",
        "HF_HOME": "/dev/null/cache",
    }
    command = [sys.executable, "-c", "import test_data; print(test_data.digest(5))"]
    folder = Path(__file__).parent
    elsewhere = subprocess.run(
        command, cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    assert elsewhere.stdout.strip() == digest(5)


def test_the_seed_decides():
    tables = [prepare(params(), TOKENIZER, seed).train for seed in (5, 5, 6)]
    random.seed(99)
    assert tables[0] == tables[1] == prepare(params(), TOKENIZER, 5).train
    assert tables[0] != tables[2]
