"""The character tokenizer: exact round trips, fixed ids, nothing injected, the same bytes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from treepo.tokenizer import BOXED, CHARACTERS, VOCABULARY, character_tokenizer

TOKENIZER = character_tokenizer()


@given(st.text(alphabet=[*CHARACTERS], max_size=60) | st.from_regex(r"\A[ .,'n\\boxed{}]{0,40}\Z"))
def test_ascii_comes_back_unchanged(text: str):
    tokens = TOKENIZER.encode(text)
    assert TOKENIZER.decode(tokens) == text
    assert TOKENIZER.decode(tokens, skip_special_tokens=True) == text
    assert len(tokens) == len(text) - (len(BOXED) - 1) * text.count(BOXED)


def test_ids_are_fixed():
    assert len(TOKENIZER) == len(VOCABULARY) == 100
    assert TOKENIZER.get_vocab() == VOCABULARY
    assert (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id, TOKENIZER.unk_token_id) == (0, 1, 2)
    assert TOKENIZER.encode("\\boxed{7}\n") == [3, 28, 98, 4]


def test_characters_outside_the_vocabulary_are_unknown():
    assert TOKENIZER.encode("é\t\r😀中") == [TOKENIZER.unk_token_id] * 5


@pytest.mark.parametrize("literal", ["<eos>", "<pad>", "<unk>"])
def test_special_tokens_cannot_be_written_out(literal: str, tmp_path: Path):
    character_tokenizer().save_pretrained(tmp_path)
    for tokenizer in (TOKENIZER, AutoTokenizer.from_pretrained(tmp_path)):
        for tokens in (
            tokenizer.encode(f"a{literal}b"),
            tokenizer(f"a{literal}b")["input_ids"],
            tokenizer.encode(f"a{literal}b", add_special_tokens=False),
        ):
            assert not {0, 1, 2} & set(tokens)
            assert tokenizer.decode(tokens) == f"a{literal}b"


def test_a_sampled_end_of_sequence_can_be_left_out():
    assert TOKENIZER.decode([5, 1], skip_special_tokens=True) == " "
    assert TOKENIZER.decode([5, 1]) == " <eos>"


def test_saved_and_loaded_it_is_the_same(tmp_path: Path):
    text = "3+4 = ? \\boxed{7} <eos>\n"
    character_tokenizer().save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    assert loaded.get_vocab() == VOCABULARY
    assert loaded.encode(text) == TOKENIZER.encode(text)
    assert loaded.decode(loaded.encode(text)) == text
    assert (loaded.pad_token, loaded.eos_token, loaded.unk_token) == ("<pad>", "<eos>", "<unk>")


def test_saved_files_are_the_same_bytes_in_every_process(tmp_path: Path):
    code = (
        "import sys; from treepo.tokenizer import character_tokenizer;"
        "character_tokenizer().save_pretrained(sys.argv[1])"
    )
    character_tokenizer().save_pretrained(tmp_path / "here")
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "there")],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        check=True,
    )
    here, there = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        for name in ("here", "there")
    )
    assert here == there
    assert "tokenizer.json" in here
