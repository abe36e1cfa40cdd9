from __future__ import annotations

import pytest
import yaml

from physgym.errors import ConfigError
from physgym.experiment.config import Config, load_config
from physgym.experiment.session import new_session

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
