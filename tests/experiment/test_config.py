from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from physgym.errors import ConfigError
from physgym.experiment.component_section import Component
from physgym.experiment.components import (
    CALLBACKS,
    LOSSES,
    NETWORKS,
    OPTIMIZATIONS,
    OPTIMIZERS,
    SCHEDULES,
    TRANSFORMS,
    find,
)
from physgym.experiment.config import Edits, check_config, json_schema, known_keys, load_config
from physgym.experiment.schema import MINI, Config
from physgym.experiment.session import new_session
from physgym.experiment.yaml_text import read_yaml
from physgym.samplers import find_sampler
from physgym.samplers.table import sampler_names

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))

GOOD = {"environment": {"id": "physgym/Spring-v0"}, "training": {"epochs": 2}}


def write(tmp_path, data) -> str:
    file = tmp_path / "config.yaml"
    file.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return str(file)


def test_a_file_and_overrides_become_a_config(tmp_path):
    config = load_config(write(tmp_path, GOOD), ["training.epochs=5", "network.arguments.hidden=[8, 8]", "seed=3"])
    assert config.training.epochs == 5
    assert config.network.arguments == {"hidden": [8, 8]}
    assert config.seed == 3
    assert config.optimization.lr == 1e-3


def test_the_resolved_config_reads_back_as_itself(tmp_path):
    config = load_config(write(tmp_path, GOOD))
    assert Config.model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump()))) == config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "texts"),
    [
        ({**GOOD, "trianing": {}}, ["trianing: unknown key; did you mean 'training'?"]),
        (
            {"environment": {"id": "x"}, "training": {"epoch": 3, "batch_size": 0}},
            ["2 fault", "training.epoch: unknown key; did you mean 'epochs'?", "training.batch_size: .*got 0"],
        ),
        ({**GOOD, "optimization": {"xyzzy": 1}}, ["optimization.xyzzy: unknown key; there are type, loss, optimizer"]),
        ({"training": {}}, ["environment: missing"]),
        ({**GOOD, "dataset": {"produce": "sometimes"}}, ["dataset.produce: .*'sometimes'"]),
        ("- a\n- b\n", ["must hold keys and values, not list"]),
        ("a: [", ["is not YAML"]),
        ("a: " + 5000 * "[", ["is nested too deep"]),
    ],
)
def test_faults_are_named_with_their_key_and_the_nearest(tmp_path, data, texts):
    for text in texts:
        with pytest.raises(ConfigError, match=text):
            load_config(write(tmp_path, data))


@pytest.mark.parametrize("override", ["epochs", "=3", "seed.sub.x=1", "seed=[", "training.epoch=2"])
def test_wrong_overrides_are_named(tmp_path, override):
    with pytest.raises(ConfigError):
        load_config(write(tmp_path, {**GOOD, "seed": 0}), [override])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*none\.yaml"):
        load_config(tmp_path / "none.yaml")


def test_sessions_do_not_overwrite_each_other(tmp_path):
    folders = [new_session(tmp_path / "s" / "beam") for _ in range(3)]
    assert [folder.name for folder in folders] == ["beam", "beam-2", "beam-3"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot make the session folder"):
        new_session(tmp_path / "file")


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("session=2024", "session", "2024"),  # YAML sees a number, a truth value, nothing
        ("description=yes", "description", "yes"),
        ("network.which=3", "network.which", "3"),
        ("dataset.path=null", "dataset.path", None),
        ("optimization.lr=1e-2", "optimization.lr", 0.01),
        ("training.epochs=7", "training.epochs", 7),
        ("inputs=[state, force]", "inputs", ["state", "force"]),
        ("environment.arguments.on=yes", "environment.arguments.on", True),  # free data are what YAML says
        ("validation.rollout.steps=4", "validation.rollout.steps", 4),  # a section that was null
        ("dataset={samples: 5}", "dataset.samples", 5),
        ("optimization.loss=huber", "optimization.loss.type", "huber"),
        ("description=@lab, 100%: a # b", "description", "@lab, 100%: a # b"),
        ("description='quoted'", "description", "quoted"),
        ("optimization.optimizer.arguments.amsgrad=true", "optimization.optimizer.type", "adam"),  # of a default
        ("sampler.actions=lhs:16", "sampler.actions.type", "lhs:16"),
        ("sampler.actions=network:sessions/a", "sampler.actions.type", "network:sessions/a"),
    ],
)
def test_overrides_have_the_type_that_the_schema_says(tmp_path, override, key, value):
    found = load_config(write(tmp_path, GOOD), [override])
    for part in key.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_arguments_of_a_class_that_is_given_by_name_alone(tmp_path):
    file = write(tmp_path, {**GOOD, "optimization": {"loss": "huber"}})
    loss = load_config(file, ["optimization.loss.arguments.delta=0.1"]).optimization.loss
    assert loss == Component(type="huber", arguments={"delta": 0.1})


def test_edits_are_made_in_their_order_and_recorded(tmp_path):
    file = write(tmp_path, {**GOOD, "session": "there/beam", "dataset": {"path": "there/data"}, "seed": 3})
    edits = Edits(
        find_replace=["there", "here", "here/data", "data"],
        delete=["seed", "training.epochs"],
        modify=["training", "{epochs: 5, batch_size: 8}"],
        overrides=["training.epochs=6"],
        cpu=True,
        mini=True,
    )
    config = load_config(file, edits)
    assert (config.session, config.dataset.path, config.seed) == ("here/beam", "data", 0)
    assert (config.training.epochs, config.training.batch_size) == (6, 8)
    assert (config.device, config.dataset.mini) == ("cpu", MINI)
    assert edits.record() == {
        "find_replace": ["there", "here", "here/data", "data"],
        "delete": ["seed", "training.epochs"],
        "modify": ["training", "{epochs: 5, batch_size: 8}"],
        "overrides": ["training.epochs=6"],
        "cpu": True,
        "mini": True,
    }
    assert Edits().record() == {}


@pytest.mark.parametrize(
    ("edits", "text"),
    [
        (Edits(find_replace=["a"]), "--find-replace takes pairs, OLD NEW; 'a' is left alone"),
        (Edits(find_replace=["nowhere", "b"]), "'nowhere' does not occur in"),
        (Edits(delete=["trainig"]), "there is no key 'trainig' in the file; there are environment, training"),
        (Edits(delete=["environment.id.x"]), "there is no key 'environment.id.x'"),
        (Edits(modify=["training"]), "--modify takes pairs"),
        (Edits(modify=["training", "{"]), "the value is not YAML"),
        (Edits(modify=["training", "{epoch: 3}"]), "did you mean 'epochs'?"),
        (Edits(delete=["environment"]), "environment: missing; name a simulation, or a dataset in dataset.path"),
    ],
)
def test_wrong_edits_are_named(tmp_path, edits, text):
    with pytest.raises(ConfigError, match=re.escape(text)):
        load_config(write(tmp_path, GOOD), edits)


def test_all_faults_come_at_once_each_with_its_path(tmp_path):
    data = {
        "dataset": {"actions": "sobol", "samples": 0},
        "network": {"type": "Unet"},
        "optimization": {"loss": "mze", "optimizer": {"type": "adam", "argments": {}}, "lr": "fast"},
        "sampler": {"actions": "lsh:16", "parameters": "os.system"},
        "training": {"device": "cpu", "callbacks": ["LearningRateMonitor", {"tipe": "x"}]},
        "transforms": {"scale": "none"},
    }
    with pytest.raises(ConfigError) as error:
        load_config(write(tmp_path, data))
    for text in (
        "has 13 fault(s)",
        "dataset.actions: unknown key; did you mean 'sampler.actions'?",
        "dataset.samples: ",
        "network.type: unknown name; did you mean 'UNet'? your own as module:attr (got 'Unet')",
        "optimization.loss: unknown name; did you mean 'mse'?",
        "optimization.optimizer.argments: unknown key; did you mean 'arguments'?",
        "optimization.lr: ",
        "sampler.actions: unknown name; did you mean 'lhs'?",
        "sampler.parameters: unknown name; there are uniform",
        "training.device: unknown key; did you mean 'device'?",
        "training.callbacks.1.type: missing",
        "training.callbacks.1.tipe: unknown key; did you mean 'type'?",
        "transforms.scale: ",
        "environment: missing",
    ):
        assert text in str(error.value)


def test_a_key_that_stands_twice_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="'epochs' stands twice"):
        load_config(write(tmp_path, "environment: {id: x}\ntraining:\n  epochs: 3\n  epochs: 4\n"))


def test_anchors_and_merged_sections_are_read(tmp_path):
    text = "environment: &a {id: x, arguments: {b: 1}}\ntraining: {<<: {epochs: 3}, batch_size: 4}\n"
    assert load_config(write(tmp_path, text)).training.epochs == 3


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{table: {1: 2.0}}", "environment.arguments: table.1: keys must be texts"),
        ("{day: 2024-01-01}", "environment.arguments: day: .* is no number, text, list or section"),
        ("{a: [{b: !!binary aGk=}]}", r"environment.arguments: a\.0\.b: "),
        ("{a: !!set {x, y}}", "environment.arguments: a: "),
    ],
)
def test_free_data_are_what_a_session_can_keep(tmp_path, text, fault):
    with pytest.raises(ConfigError, match=fault):
        load_config(write(tmp_path, f"environment: {{id: x, arguments: {text}}}"))


@pytest.mark.slow
def test_a_file_is_read_as_utf_8_whatever_the_locale(tmp_path):
    (tmp_path / "c.yaml").write_bytes("description: größer\nenvironment: {id: x}\n".encode())
    code = f"from physgym.experiment.config import load_config; print(ascii(load_config({str(tmp_path / 'c.yaml')!r})))"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=110)
    assert r"gr\xf6\xdfer" in done.stdout, done.stderr


def test_nothing_in_a_file_is_evaluated(tmp_path):
    with pytest.raises(ConfigError, match="is not YAML"):
        load_config(write(tmp_path, "environment: {id: x}\ndescription: !!python/object/apply:os.getcwd []\n"))


def test_without_an_environment_there_must_be_samples(tmp_path):
    assert load_config(write(tmp_path, {"dataset": {"path": "data"}})).environment is None
    for more in ({"produce": "always"}, {"produce": "online"}):
        with pytest.raises(ConfigError, match="need the simulation"):
            load_config(write(tmp_path, {"dataset": {"path": "data", **more}}))


def test_the_json_schema_tells_what_the_loader_takes(tmp_path):
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for file in EXAMPLES:
        validator.validate(read_yaml(file.read_text()))
    validator.validate(json.loads(load_config(EXAMPLES[0]).model_dump_json()))
    for data in (
        {},
        {**GOOD, "trianing": {}},
        {**GOOD, "optimization": {"loss": "mze"}},
        {**GOOD, "optimization": {"loss": {"type": "mse", "argments": {}}}},
        {**GOOD, "training": {"epochs": 0}},
        {**GOOD, "training": {"callbacks": "LearningRateMonitor"}},
    ):
        assert not validator.is_valid(data), data


def test_every_key_has_a_description_or_says_enough():
    schema = json_schema()
    bare = [
        f"{title}.{name}"
        for title, section in [("Config", schema), *schema["$defs"].items()]
        for name, key in section.get("properties", {}).items()
        if "description" not in key and "$ref" not in key
    ]
    plain = {"optimizer", "weight_decay", "epochs", "batch_size", "direction"}
    assert {name.partition(".")[2] for name in bare} <= plain


def test_registered_names_are_what_they_stand_for(tmp_path):
    for known in (NETWORKS, LOSSES, OPTIMIZERS, SCHEDULES, OPTIMIZATIONS, TRANSFORMS, CALLBACKS):
        for name in known:
            assert callable(find(name, known, "key"))
    for name in sampler_names("actions"):
        find_sampler(f"{name}:{tmp_path}" if name == "network" else name, "actions")
    (tmp_path / "cases.csv").write_text("mass\n1\n")
    for name in sampler_names("parameters"):
        find_sampler(f"{name}:{tmp_path / 'cases.csv'}" if name == "table" else name, "parameters")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nowhere.at.all:X", "key: importing 'nowhere.at.all' failed: ModuleNotFoundError"),
        ("torch.nn:MSELos", "torch.nn has no 'MSELos'; did you mean 'MSELoss'?"),
        ("torch:nn.MSELoss.nothing", "torch has no 'nn.MSELoss.nothing'"),
    ],
)
def test_a_class_that_is_not_there_is_named(name, text):
    with pytest.raises(ConfigError, match=re.escape(text)):
        find(name, {}, "key")


def test_the_documentation_shows_all_keys_with_their_defaults():
    text = (Path(__file__).parents[2] / "docs" / "reference" / "config.md").read_text()
    shown = next(block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "on_nonfinite" in block)
    data = read_yaml(shown)
    assert check_config(data, "docs").model_dump() == check_config(
        {"environment": data["environment"]}, "defaults"
    ).model_dump() | {"session": "sessions/default"}
    # pages of their own have the keys of these sections
    missing = {key for key in known_keys() if not key.startswith(("search.", "agent."))} - set(_dotted(data))
    # sections that are null there stand in the comments
    nullable = ("early_stopping", "rollout", "split", "unroll")
    assert all(key.partition(".")[2].split(".")[0] in nullable for key in missing), missing


def _dotted(data, prefix=""):
    for name, value in data.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{name}.")


# --- lists, several datasets, aliases


@pytest.mark.parametrize("override", ["session=[a,b]", "dataset.load_samples=[a, b]", "session={a: 1}"])
def test_a_list_where_a_text_is_wanted_is_an_error(tmp_path, override):
    file = tmp_path / "c.yaml"
    file.write_text("environment: {id: physgym/Spring-v0}\n")
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        load_config(file, [override])
    key, _, text = override.partition("=")
    quoted = load_config(file, [f"{key}='{text}'"]).model_dump()
    for part in key.split("."):
        quoted = quoted[part]
    assert quoted == text


def test_a_text_in_brackets_that_is_no_list_stays_a_text(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("environment: {id: physgym/Spring-v0}\n")
    assert load_config(file, ["description=[x] first"]).description == "[x] first"


def test_several_datasets_are_a_list(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("dataset: {path: [a, b]}\n")
    config = load_config(file)
    assert config.dataset.path == ["a", "b"]
    with pytest.raises(ConfigError, match=r"validation\.path"):
        load_config(file, ["validation.path=[a,b]"])
    assert load_config(file, ["dataset.path=[x,y]"]).dataset.path == ["x", "y"]
    assert load_config(file, ["dataset.path=z"]).dataset.path == "z"
    for wrong in ("dataset.path=[]", "dataset.samples=10", "dataset.produce=online"):
        with pytest.raises(ConfigError, match="dataset"):
            load_config(file, ["environment.id=physgym/Spring-v0", wrong])


def test_aliases_that_grow_without_bound_are_refused(tmp_path):
    file = tmp_path / "c.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    file.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="aliases"):
        load_config(file)
    file.write_text("a: &a [*a]")
    with pytest.raises(ConfigError, match=r"aliases|holds itself|not YAML"):
        load_config(file)


@pytest.mark.parametrize(
    ("override", "text"),
    [
        (
            "../data",
            "'../data' is not an override; write key.sub=value, or put the option that it belongs to in front, s",
        ),
        (
            "network.arguments={hidden: [8], residual:true}",
            "'residual:true' is a key without a value; write a space after the colon, residual: true",
        ),
        (
            "dataset.split={training:0.8}",
            "'training:0.8' is a key without a value; write a space after the colon, train",
        ),
    ],
)
def test_what_is_written_wrong_in_an_override_is_said(tmp_path, override, text):
    with pytest.raises(ConfigError, match=re.escape(text)):
        load_config(write(tmp_path, GOOD), [override])
