from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from treepo.errors import UserError
from treepo.loading import describe, load_experiment, load_section, read_values
from treepo.params import ExperimentParams, RepetitionParams, SamplingParams, UpdateParams


def write(folder: Path, **files: str) -> Path:
    """Files NAME.yaml; returns the first."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder / f"{next(iter(files))}.yaml"


def refusal(file: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_experiment(file, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{file.parent}/", "")


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load_experiment(write(tmp_path, a="")) == ExperimentParams()
    assert load_experiment(write(tmp_path, a="# nothing\n")) == ExperimentParams()


def test_extends_is_a_chain_that_merges_key_by_key(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        child="extends: middle\nsampling: {width: 4}\nseed: 3\n",
        middle="extends: base\nsampling: {depth: 5, repetition: {count: 3}}\n",
        base="seed: 1\ndescription: base\nsampling: {width: 8, depth: 9, repetition: {length: 7}}\n"
        "data: {families: {a: 1, b: 2}, train_size: 5}\n",
    )
    loaded = load_experiment(file)
    assert (loaded.seed, loaded.description) == (3, "base")
    assert (loaded.sampling.width, loaded.sampling.depth) == (4, 5)
    assert loaded.sampling.repetition == RepetitionParams(length=7, count=3)
    assert loaded.data.families == {"a": 1, "b": 2}
    write(tmp_path, child="extends: base\ndata: {families: {c: 3}}\nsampling: {repetition: null}\n")
    loaded = load_experiment(file)
    assert loaded.data.families == {"c": 3}  # a mix is taken as a whole
    assert loaded.data.train_size == 5
    assert loaded.sampling.repetition is None


@pytest.mark.parametrize(
    "files", [{"a": "extends: a"}, {"a": "extends: b", "b": "extends: c", "c": "extends: a"}]
)
def test_extends_in_a_circle(tmp_path: Path, files: dict[str, str]) -> None:
    assert refusal(write(tmp_path, **files)) == "a.yaml: 'extends' leads back to itself"


@pytest.mark.parametrize("name", ["../../x", "../base", "below/x", "{folder}/base", "[base, x]"])
def test_extends_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "params"
    (folder / "below").mkdir(parents=True)
    for place in (tmp_path.parent, tmp_path, folder, folder / "below"):
        write(place, x="", base="")
    file = write(folder, child=f"extends: {name.format(folder=folder)}")
    assert refusal(file).startswith("child.yaml: extends: must name one file of the same folder")


def test_missing_files_name_the_nearest(tmp_path: Path) -> None:
    file = write(tmp_path, child="extends: bas", base="")
    assert (
        refusal(file) == "child.yaml: extends: bas.yaml: no such experiment; did you mean 'base'?"
    )
    assert refusal(tmp_path / "chidl.yaml").endswith("did you mean 'child'?")
    assert refusal(tmp_path / "zzzzz.yaml").endswith("; there are: base, child")
    assert refusal(tmp_path / "none" / "a.yaml").endswith("; there are: none")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "sampling: {widht: 3}",
            "unknown parameter 'sampling.widht'; did you mean 'sampling.width'?",
        ),
        ("widht: 3", "unknown parameter 'widht'; did you mean 'sampling.width'?"),
        ("width: 3", "unknown parameter 'width'; did you mean 'sampling.width'?"),
        (
            "sampling: {repetition: {lenght: 3}}",
            "unknown parameter 'sampling.repetition.lenght'; "
            "did you mean 'sampling.repetition.length'?",
        ),
        ("zzz: 1", "unknown parameter 'zzz'; 'treepo params' lists all"),
        ("1: 2", "unknown parameter '1'; 'treepo params' lists all"),
        ("sampling: 5", "sampling: Input should be a valid dictionary"),
        ("sampling: {width: many}", "sampling.width: Input should be a valid integer"),
        ("sampling: {width: 1.5}", "sampling.width: Input should be a valid integer"),
        ("sampling: {width: 0}", "sampling.width: Input should be greater than or equal to 1"),
        ("sampling: {width: null}", "sampling.width: Input should be a valid integer (got None)"),
        ("description: 5", "description: Input should be a valid string (got 5)"),
        ("update: {learning_rate: .nan}", "update.learning_rate: Input should be a finite number"),
        (
            "update: {clip_high: .inf}",
            "update.clip_high: Input should be a finite number (got inf)",
        ),
        (
            "update: {learning_rate: true}",
            "update.learning_rate: Input should not be true or false",
        ),
        ("update: {dual_clip: false}", "update.dual_clip: Input should not be true or false"),
        ("seed: true", "seed: Input should not be true or false (got True)"),
        ("seed: '16'", "seed: Input should be a valid integer (got '16')"),
        ("sampling: {width: 16.0}", "sampling.width: Input should be a valid integer (got 16.0)"),
        ("sampling: {branching: '2'}", "sampling.branching: Input should be a valid integer"),
        (
            "sampling: {initial_branching: [true, 2]}",
            "sampling.initial_branching: Input should be ",
        ),
        ("data: {families: {chain_sum: '1'}}", "data.families.chain_sum: Input should be a valid"),
        ("update: {objective: true}", "update.objective: Input should not be true or false"),
        ("update: {objective: dap}", "update.objective: unknown 'dap'; did you mean 'dapo'?"),
        ("update: {kl_estimator: k4}", "update.kl_estimator: unknown 'k4'; there are: k1, k2, k3"),
        ("update: {schedule: cosin}", "update.schedule: unknown 'cosin'; did you mean 'cosine'?"),
        ("update: {schedule: linear}", "update.schedule: 'linear' needs update.schedule_steps"),
        (
            "advantage: {estimator: trepo}",
            "advantage.estimator: unknown 'trepo'; did you mean 'tree",
        ),
        ("advantage: {eta: 2}", "advantage.eta: Input should be less than or equal to 1"),
        ("update: {clip_low: 1}", "update.clip_low: Input should be less than 1 (got 1)"),
        ("update: {dual_clip: 1.0}", "update.dual_clip: Input should be greater than 1"),
        ("seed: -1", "seed: Input should be greater than or equal to 0 (got -1)"),
        ("engine: {name: vlm}", "engine.name: Input should be "),
        ("data: {families: {chain_sum: 0}}", "data.families.chain_sum: Input should be greater"),
        ("data: {prompt: no place}", "data: data.prompt must contain {problem}"),
        ("sampling: {initial_branching: 0}", "sampling.initial_branching: Input should be greater"),
        ("sampling: {initial_branching: [3, 2]}", "sampling: sampling.initial_branching must be"),
        ("extends: [b]", "extends: must name one file of the same folder"),
        ("- a\n- b", "must hold a mapping of parameters at the top level"),
        ("5", "must hold a mapping of parameters at the top level"),
        ("sampling: {\nwidth: 3", "not valid YAML ("),
        ("a: b: c", "not valid YAML ("),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML ("),
        (
            "iterations: 1\nseed: 2020-13-45",
            "not valid YAML (line 2: '2020-13-45' is no timestamp)",
        ),
        ("description: !!int abc", "not valid YAML (line 1: 'abc' is no int)"),
        ("sampling: {width: !!int ''}", "not valid YAML (line 1: '' is no int)"),
        ("description: !!bool abc", "not valid YAML (line 1: 'abc' is no bool)"),
        ("description: !!timestamp abc", "not valid YAML (line 1: 'abc' is no timestamp)"),
    ],
)
def test_wrong_files_are_refused_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    message = refusal(write(tmp_path, a=text))
    assert message.startswith(f"a.yaml: {expected}"), message


def test_an_anchor_is_merged_and_what_stands_beside_it_wins(tmp_path: Path) -> None:
    text = (
        "sampling: &tree {segment_length: 3, depth: 4}\nevaluation:\n  tree: {<<: *tree, depth: 5}"
    )
    params = load_experiment(write(tmp_path, a=text))
    assert params.evaluation.tree is not None
    assert (params.evaluation.tree.segment_length, params.evaluation.tree.depth) == (3, 5)
    chain = "data: {families: &x {<<: &y {chain_sum: 2}, chain_sum: 3}}\nprompts: {<<: *x}"
    assert read_values(write(tmp_path, a=chain))["prompts"] == {"chain_sum": 3}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(b"description: \xff\xfe\n")
    assert refusal(file).startswith("a.yaml: cannot be read ('utf-8' codec")
    (tmp_path / "folder.yaml").mkdir()
    assert refusal(tmp_path / "folder.yaml").startswith("folder.yaml: cannot be read (")


def test_overrides_reach_every_depth(tmp_path: Path) -> None:
    file = write(tmp_path, a="sampling: {width: 4, depth: 3}\n")
    loaded = load_experiment(
        file,
        [
            "seed=7",
            "sampling.width=6",
            " sampling.segment_length = 9",
            "sampling.initial_branching=[2, 8]",
            "sampling.repetition.count=5",
            "sampling.fallback.position=none",
            "update.learning_rate=1e-5",  # a text for YAML 1.1
            "data.families={chain_sum: 2, gcd: 1}",
            "data.chat=true",
            "description=one = two",
            "seed=8",
        ],
    )
    sampling = loaded.sampling
    assert (sampling.width, sampling.depth, sampling.segment_length) == (6, 3, 9)
    assert sampling.initial_range == (2, 8)
    assert sampling.repetition == RepetitionParams(count=5)
    assert sampling.fallback.position == "none"
    assert loaded.update.learning_rate == 1e-5
    assert loaded.data.families == {"chain_sum": 2, "gcd": 1}
    assert loaded.data.chat
    assert (loaded.seed, loaded.description) == (8, "one = two")


def test_overrides_with_null(tmp_path: Path) -> None:
    file = write(tmp_path, a="sampling: {repetition: {length: 9}, max_tokens: 5}\n")
    for null in ("null", ""):
        sampling = load_experiment(
            file, [f"sampling.repetition={null}", f"sampling.max_tokens={null}"]
        ).sampling
        assert sampling.repetition is None
        assert sampling.token_limit == 14 * 512


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sampling.width", "--set sampling.width: must be key=value"),
        ("=3", "--set =3: must be key=value"),
        ("seed=[", "--set seed=[: the value is not valid YAML"),
        (
            "description=2024-13-01",
            "--set description=2024-13-01: the value is not valid YAML",
        ),
        ("sampling.widht=3", "a.yaml with --set: unknown parameter 'sampling.widht'; did you mean"),
        ("sampling..width=3", "a.yaml with --set: unknown parameter 'sampling.'"),
        ("sampling.width.x=3", "a.yaml with --set: sampling.width: Input should be a valid"),
        ("extends=b", "a.yaml with --set: unknown parameter 'extends'"),
        ('sampling.width="a\\nb"', "a.yaml with --set: sampling.width: "),
    ],
)
def test_wrong_overrides_are_refused_in_one_line(
    tmp_path: Path, override: str, expected: str
) -> None:
    message = refusal(write(tmp_path, a=""), override)
    assert message.startswith(expected), message


def test_a_section_alone() -> None:
    assert load_section(UpdateParams, []) == UpdateParams()
    assert load_section(UpdateParams, ["epochs=3"]).epochs == 3
    with pytest.raises(UserError, match=r"^--set: unknown parameter 'epoch'; did you .*'epochs'\?"):
        load_section(UpdateParams, ["epoch=3"])


def leaves(values: dict[str, Any], prefix: str = "") -> set[str]:
    """Dotted keys of a nested mapping; the mix of families is one value, and so are the weights."""
    found: set[str] = set()
    for key, value in values.items():
        nested = isinstance(value, dict) and key not in ("families", "weights")
        found |= leaves(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}"}
    return found


def test_every_parameter_is_described() -> None:
    described = list(describe(ExperimentParams))
    assert all(entry.description for entry in described)
    keys = [entry.key for entry in described]
    assert len(keys) == len(set(keys))
    # Of a section that is null, what it could hold is described too.
    below_null = tuple(f"{entry.key}." for entry in described if entry.value is None)
    shown = {key for key in keys if not key.startswith(below_null)}
    assert shown == leaves(ExperimentParams().model_dump())


def test_described_values_are_those_of_the_instance(tmp_path: Path) -> None:
    file = write(tmp_path, a="sampling: {width: 3, repetition: null}\nseed: 5\n")
    values = {entry.key: entry.value for entry in describe(load_experiment(file))}
    assert (values["sampling.width"], values["seed"], values["sampling.depth"]) == (3, 5, 14)
    assert values["sampling.repetition"] is None


def test_nothing_can_be_assigned() -> None:
    params = ExperimentParams()
    sections: list[BaseModel] = [params, *dict(params).values()]
    for section in filter(lambda value: isinstance(value, BaseModel), sections):
        name = next(iter(type(section).model_fields))
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, name, getattr(section, name))


def test_defaults_are_not_shared() -> None:
    ExperimentParams().data.families["x"] = 1
    assert ExperimentParams().data.families == {"chain_sum": 1}


def test_sampling_limits() -> None:
    assert SamplingParams(depth=3, segment_length=4).token_limit == 12
    assert SamplingParams(depth=3, segment_length=4, max_tokens=5).token_limit == 5
    assert SamplingParams(depth=3, segment_length=4, max_tokens=50).token_limit == 12
    flat = SamplingParams.sequential(width=6, max_tokens=40, temperature=0.5)
    assert (flat.depth, flat.initial_range, flat.token_limit) == (1, (6, 6), 40)
    assert flat.temperature == 0.5


def test_weights_are_sharded_over_several_ranks_only(tmp_path: Path) -> None:
    file = write(tmp_path, a="update: {sharding: fsdp}")
    assert refusal(file).startswith("a.yaml: update: sharding needs ranks of 2 or more")
    assert load_experiment(file, ["update.ranks=2"]).update.sharding == "fsdp"


def test_a_gpus_memory_is_shared_on_one_gpu_only(tmp_path: Path) -> None:
    file = write(tmp_path, a="engine: {name: vllm, vllm: {transfer: ipc, tensor_parallel: 2}}")
    assert refusal(file).startswith("a.yaml: engine: vllm.transfer: 'ipc' shares a GPU's memory")
    elsewhere = "engine.device=cuda:1"
    with pytest.raises(UserError, match="ipc' reaches one GPU, not the 2"):
        load_experiment(file, [elsewhere])
    one = load_experiment(file, [elsewhere, "engine.vllm.tensor_parallel=1"])
    assert one.engine.vllm.transfer == "ipc"
    load_experiment(file, ["engine.name=torch"])
