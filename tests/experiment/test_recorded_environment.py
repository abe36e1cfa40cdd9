"""A simulation that is named beside stored samples is the one that made them, with the same arguments."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest

import physgym
from physgym.data.dataset import SampleDataset
from physgym.errors import ConfigError
from physgym.experiment.config import check_config, load_config
from physgym.experiment.dataset_plan import check_environment, note_unused_count
from physgym.experiment.recorded_environment import check_recorded_arguments, check_recordings
from physgym.experiment.runs import train

CONFIG = "environment: {id: physgym/Spring-v0}\ndataset: {path: soft}\ntraining: {epochs: 1}\nsession: sessions/x\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    options = {"samples": 12, "num_workers": 0, "progress": False, "max_steps": 3}
    physgym.generate("physgym/Spring-v0", folder / "soft", env_kwargs={"max_force": np.float64(2)}, **options)
    physgym.generate("physgym/Spring-v0", folder / "plain", **options)
    (folder / "config.yaml").write_text(CONFIG)
    return folder


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["environment.id=springs:physgym/Spring-v0"], "environment: importing 'springs'"),
        (["environment.id=physgym/Sprung-v0"], "Did you mean 'physgym/Spring-v0'?"),
        (["environment.arguments.max_forse=2"], "has no argument 'max_forse'; did you mean 'max_force'?"),
        (["environment.arguments.max_force=3"], "max_force was 2.0, the configuration says 3"),
        ([], "max_force was 2.0, the configuration says "),
        (["dataset.path=plain", "environment.arguments.max_force=3"], ", the configuration says 3"),
        (["environment.arguments=[{max_force: 2}, {max_force: 4}]"], "max_force was 2.0, the configuration says 4"),
    ],
)
def test_another_simulation_than_that_of_the_samples_is_an_error(folder, monkeypatch, overrides, text):
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError) as caught:
        train(load_config("config.yaml", overrides))
    assert text in str(caught.value)
    assert "environment=null" in str(caught.value)
    assert not (folder / "sessions").exists()


@pytest.mark.parametrize(
    "overrides",
    [
        ["environment.arguments.max_force=2"],
        ["environment=null"],
        ["dataset.path=plain", "environment.arguments.render_mode=rgb_array"],
        ["dataset.path=[soft, plain]"],
        ["dataset.path=nothing", "dataset.samples=10", "environment.arguments.max_force=3"],
    ],
)
def test_the_simulation_of_the_samples_passes(folder, monkeypatch, overrides):
    monkeypatch.chdir(folder)
    check_environment(load_config("config.yaml", overrides))


def test_an_argument_that_is_the_default_need_not_be_named(folder, monkeypatch):
    monkeypatch.chdir(folder)
    max_force = SampleDataset("plain").provenance["runs"][-1]["defaults"]["max_force"]
    check_environment(
        load_config("config.yaml", ["dataset.path=plain", f"environment.arguments.max_force={max_force}"])
    )


def test_objects_are_not_compared(tmp_path, folder, monkeypatch):
    monkeypatch.chdir(folder)
    dataset = SampleDataset("soft")
    source = {**dataset.source, "env_kwargs": {"max_force": {"function": "my_sims:soft"}}}
    monkeypatch.setattr(SampleDataset, "origins", lambda self: ([(source, {})], None))
    check_recorded_arguments(load_config("config.yaml", ["environment.arguments.max_force=3"]), dataset)


def test_a_number_of_samples_that_limits_nothing_is_said(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    dataset = SampleDataset("soft")
    for overrides in (["dataset.samples=12"], ["dataset.mini=5", "dataset.samples=5"], []):
        note_unused_count(load_config("config.yaml", overrides), dataset)
    assert capsys.readouterr().err == ""
    arguments = ["environment.arguments.max_force=2", "dataset.samples=5", "stats.loggers=[csv]"]
    train(load_config("config.yaml", arguments), log=False)
    said = capsys.readouterr().err
    assert said.count("it has 12, and all are taken. dataset.mini=5 takes the first 5") == 1


def record_pole(folder, **arguments):
    """Record an episode of an environment with its arguments."""
    with physgym.Recorder(gymnasium.make("CartPole-v1", **arguments), folder) as env:
        env.reset(seed=0)
        while not any(env.step(0)[2:4]):
            pass


def generate_pole(folder, **arguments):
    """Generate transitions of an environment with its arguments."""
    options = {"samples": 30, "num_workers": 0, "progress": False, "actions": "uniform"}
    physgym.generate("transitions:CartPole-v1", folder, env_kwargs=arguments, **options)


@pytest.mark.parametrize("make", [record_pole, generate_pole])
def test_an_agent_acts_in_the_environment_of_its_recordings(tmp_path, make):
    folder = str(tmp_path / "recorded")
    make(folder, sutton_barto_reward=True)

    def check(env="CartPole-v1", **arguments):
        section = {"id": env, "arguments": arguments}
        check_recordings(check_config({"environment": section, "agent": {"type": "dqn", "cache": [folder]}}, "here"))

    check(sutton_barto_reward=True)
    with pytest.raises(ConfigError, match=r"sutton_barto_reward was true, the configuration says false"):
        check()
    with pytest.raises(ConfigError, match=r"recorded holds steps of CartPole-v1, the agent acts in Acrobot-v1"):
        check("Acrobot-v1")
    check_recordings(check_config({"agent": {"type": "dqn", "cache": folder}}, "here"))
