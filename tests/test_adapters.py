"""Low-rank adapters: live and merged, on disk, and as the one thing that an update changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from policies import forking_forest, plain, sampled, tiny
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from tasks.update import Work, asked
from treepo.adapters import Adapter
from treepo.batch import Batch
from treepo.errors import UserError
from treepo.logprobs import chunked_logprobs
from treepo.models import Policy, load_policy, save_policy
from treepo.packing import pack
from treepo.params import ExperimentParams, LoraParams, UpdateParams
from treepo.tokenizer import character_tokenizer
from treepo.trainer import STATE_FILE, Trainer

LORA = LoraParams(rank=4, alpha=8)
SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-2,
    "warm_up_steps": 0,
    "weight_decay": 0.1,
    "minibatches": 2,
    "mismatch_limit": None,
    "lora": LORA,
}
ROW = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]])


def trained(model: PreTrainedModel, params: LoraParams = LORA) -> tuple[Adapter, Trainer]:
    """An adapter after one update."""
    batch = sampled(model)
    adapter = Adapter(model, params, seed=5)
    trainer = Trainer(model, UpdateParams(**{**SETTINGS, "lora": params}))
    trainer.update(batch, seed=0)
    return adapter, trainer


def logits(model: PreTrainedModel) -> Tensor:
    """Of one row, in PyTorch's own attention."""
    with torch.no_grad():
        return plain(model)(input_ids=ROW, use_cache=False).logits


def test_only_the_adapter_is_trained_and_only_it_has_state(tmp_path: Path) -> None:
    model, before = tiny(), dict(tiny().named_parameters())
    _, trainer = trained(model)
    after = dict(model.named_parameters())
    adapted = {name for name, value in after.items() if value.requires_grad}
    assert len(adapted) == 2 * 7 * 2  # A and B of seven projections in two layers
    assert all(".lora_" in name for name in adapted)
    frozen = {name.replace(".base_layer", ""): after[name] for name in after.keys() - adapted}
    assert frozen.keys() == before.keys()
    assert all(torch.equal(frozen[name], before[name]) for name in before)
    assert all(float(after[name].detach().abs().max()) > 0 for name in adapted)
    trainer.save_state(tmp_path)
    of = {name.rpartition(".")[0] for name in load_file(tmp_path / STATE_FILE)} - {""}
    assert of == adapted


def test_merged_computes_what_live_computes() -> None:
    model = tiny()
    start = logits(model)
    adapter, _ = trained(model)
    live = logits(model)
    adapter.merge()
    merged = logits(model)
    assert float((live - start).abs().max()) > 0.1
    torch.testing.assert_close(merged, live, rtol=0, atol=1e-5)
    assert model.state_dict().keys() == tiny().state_dict().keys()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_merged_is_the_sum_of_base_and_product() -> None:
    model = tiny()
    adapter, _ = trained(model)
    layer = model.model.layers[1].mlp.down_proj
    a, b = layer.lora_A.default.weight.detach(), layer.lora_B.default.weight.detach()
    expected = tiny().model.layers[1].mlp.down_proj.weight.detach() + 8.0 / 4 * (b @ a)
    adapter.merge()
    found = model.model.layers[1].mlp.down_proj.weight.detach()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_frozen_head_changes_no_gradient_below_it() -> None:
    packed = pack(forking_forest(), range(3))
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(len(packed.predictors), 8, generator=generator)
    weight = torch.randn(20, 8, generator=generator)
    found: list[Tensor] = []
    for frozen in (True, False):
        below, head = hidden.clone().requires_grad_(), weight.clone().requires_grad_(not frozen)
        logprobs, entropy = chunked_logprobs(below, head, packed.predictor, packed.target, 4)
        (logprobs.sum() + entropy.sum()).backward()
        assert below.grad is not None
        assert (head.grad is None) == frozen
        found.append(below.grad)
    assert torch.equal(*found)


def base(folder: Path) -> Path:
    save_policy(Policy(tiny(), character_tokenizer()), folder)
    return folder


def work(folder: Path, number: int, batch: Batch, **settings: Any) -> Work:
    """The update to policy `number`."""
    return Work(
        batch=batch,
        params=UpdateParams(**{**SETTINGS, **settings}),
        device="cpu",
        seed=number,
        before=folder / str(number - 1),
        after=folder / str(number),
        metrics=folder / "metrics.json",
        base=folder / "0",
    )


def content(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_going_on_from_disk_changes_no_bit(tmp_path: Path) -> None:
    base(tmp_path / "0")
    batch = sampled(tiny())
    for number in (1, 2):
        work(tmp_path, number, batch).do()
    model = load_policy(tmp_path / "0").model
    adapter = Adapter(model, LORA, seed=0)  # other numbers, which loading replaces
    adapter.load(tmp_path / "1")
    trainer = Trainer(model, UpdateParams(**SETTINGS))
    trainer.load_state(tmp_path / "1")
    trainer.update(batch, seed=2)
    adapter.save(tmp_path / "again")
    trainer.save_state(tmp_path / "again")
    adapter.merge()
    model.save_pretrained(tmp_path / "again")
    again, made = content(tmp_path / "again"), content(tmp_path / "2")
    for name, found in again.items():
        assert found == made[name], name
    assert len(again) >= 6
    repeated = replace(work(tmp_path, 2, batch), after=tmp_path / "repeated")
    repeated.do()
    assert content(tmp_path / "repeated") == made
    assert made["model.safetensors"] != content(tmp_path / "1")["model.safetensors"]


def test_a_policy_is_read_without_and_with_peft(tmp_path: Path) -> None:
    base(tmp_path / "0")
    work(tmp_path, 1, sampled(tiny())).do()
    load: Any = transformers.AutoModelForCausalLM.from_pretrained
    merged = load(tmp_path / "1")
    assert type(merged).__name__ == "LlamaForCausalLM"
    live: Any = PeftModel.from_pretrained(load(tmp_path / "0"), tmp_path / "1" / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(live(ROW).logits, merged(ROW).logits, rtol=0, atol=1e-5)
        assert float((merged(ROW).logits - load(tmp_path / "0")(ROW).logits).abs().max()) > 0.1


def test_the_configuration_does_not_tell_where_it_was_made(tmp_path: Path) -> None:
    base(tmp_path / "0")
    work(tmp_path, 1, sampled(tiny())).do()
    text = (tmp_path / "1/adapter/adapter_config.json").read_text()
    assert str(tmp_path) not in text
    values = json.loads(text)
    assert values["base_model_name_or_path"] is None
    assert values["target_modules"] == sorted(values["target_modules"])
    assert (values["r"], values["lora_alpha"], values["lora_dropout"]) == (4, 8, 0.0)


def test_targets_are_the_layers_that_are_named() -> None:
    model = tiny()
    Adapter(model, LoraParams(rank=2, targets=["v_proj", "q_proj"]), seed=0)
    adapted = {name.split(".")[-4] for name, value in model.named_parameters() if "lora" in name}
    assert adapted == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    ("targets", "what"),
    [(["q_proj", "w1"], "the model has no linear layers 'w1'"), ([], "names no layers")],
)
def test_unknown_targets_are_refused_with_those_there_are(targets: list[str], what: str) -> None:
    with pytest.raises(UserError) as refused:
        Adapter(tiny(), LoraParams(targets=targets), seed=0)
    there = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    assert str(refused.value) == f"update.lora.targets: {what}; there are: {there}"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"rank": 8}, r"r 4, but update\.lora\.rank makes it 8"),
        ({"alpha": 9}, r"lora_alpha 8, but update\.lora\.alpha makes it 9"),
        ({"targets": ["q_proj"]}, r"but update\.lora\.targets makes it \['q_proj'\]"),
    ],
)
def test_an_adapter_of_another_shape_is_refused(
    tmp_path: Path, change: dict[str, Any], what: str
) -> None:
    trained(tiny())[0].save(tmp_path)
    other = Adapter(tiny(), LORA.model_copy(update=change), seed=0)
    with pytest.raises(UserError, match=what):
        other.load(tmp_path)


def test_an_adapter_of_another_model_or_none_is_refused(tmp_path: Path) -> None:
    adapter = Adapter(tiny(kv_heads=4), LORA, seed=0)
    with pytest.raises(UserError, match=r"adapter_config\.json: missing; .* without update\.lora"):
        adapter.load(tmp_path)
    trained(tiny(kv_heads=2))[0].save(tmp_path)
    with pytest.raises(UserError, match=r"adapter_model\.safetensors: the adapter of another mod"):
        adapter.load(tmp_path)


def test_the_first_matrices_are_a_function_of_the_seed() -> None:
    def first(seed: int) -> Tensor:
        model = tiny()
        state = torch.random.get_rng_state()
        Adapter(model, LORA, seed)
        assert torch.equal(torch.random.get_rng_state(), state)
        return model.model.layers[0].mlp.up_proj.lora_A.default.weight.detach()

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


@pytest.mark.parametrize(
    ("change", "alike"), [({"precision": "bfloat16"}, 0.95), ({"gradient_checkpointing": True}, 1)]
)
def test_other_ways_of_computing_move_the_adapter_alike(
    change: dict[str, Any], alike: float
) -> None:
    """The share of B whose first step, the sign of its gradient, is the same."""
    found: list[Tensor] = []
    for settings in ({}, change):
        model = tiny()
        batch = sampled(model)
        Adapter(model, LORA, seed=5)
        params = UpdateParams(**{**SETTINGS, "minibatches": 1, **settings})
        assert Trainer(model, params).update(batch, seed=0)["steps"] == 1
        adapted = [v.detach().flatten() for n, v in model.named_parameters() if "lora_B" in n]
        found.append(torch.cat(adapted).sign())
        assert found[-1].dtype == torch.float32
    assert float((found[0] == found[1]).float().mean()) >= alike


def test_the_first_policy_is_an_input_of_an_update_of_an_adapter() -> None:
    plain_params = ExperimentParams()
    assert asked(2, plain_params) == ()
    update = plain_params.update.model_copy(update={"lora": LORA})
    assert asked(2, plain_params.model_copy(update={"update": update})) == ("policy/000000",)
