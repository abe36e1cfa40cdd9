"""The section ``agent`` of a configuration: its keys, and what it refuses in other sections."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import pytest

from physgym.errors import ConfigError
from physgym.experiment.agent_section import INSTEAD, AgentSection
from physgym.experiment.config import Edits, check_config, json_schema, known_keys, load_config
from physgym.experiment.runs import generate_samples, located
from physgym.experiment.schema import MINI_AGENT, Config
from physgym.experiment.yaml_text import read_yaml

DOCS = Path(__file__).parents[2] / "docs" / "howto" / "agents.md"
GOOD = {"environment": {"id": "CartPole-v1"}, "agent": {"type": "dqn"}}


def fault(**more) -> str:
    """Return the error of a configuration of an agent with other sections."""
    with pytest.raises(ConfigError) as error:
        check_config(GOOD | more, "here")
    assert "1 fault" in str(error.value)
    return str(error.value)


def test_a_configuration_of_an_agent_reads_back_as_itself():
    preprocessing = [{"type": "Crop", "arguments": {"rows": [40, 120]}}, "GrayscaleObservation"]
    agent = {"type": "dqn", "preprocessing": preprocessing, "max_episode_steps": {"first": 1, "last": 9, "episodes": 5}}
    config = check_config(GOOD | {"agent": agent}, "here")
    data = config.model_dump()
    assert check_config(data, "there") == config
    assert data["agent"]["preprocessing"] == preprocessing


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ({"sampler": {"actions": "uniform"}}, "sampler.actions (an agent chooses its actions itself"),
        ({"dataset": {"path": "data", "samples": 5}}, "dataset.path, dataset.samples (an agent learns from"),
        ({"inputs": ["a"]}, "inputs (an agent gets all observations"),
        ({"outputs": ["a"]}, "outputs ("),
        ({"loss_fields": ["a"]}, "loss_fields ("),
        ({"network": {"type": "UNet"}}, "network.type (set agent.arguments.network)"),
        ({"transforms": {"normalize": False}}, "transforms.normalize (set agent.preprocessing"),
        ({"optimization": {"lr": 0.1}}, "optimization.lr (set agent.arguments, such as agent.arguments.lr)"),
        ({"training": {"epochs": 3, "unroll": 2}}, "training.epochs, training.unroll (set agent.steps"),
        ({"validation": {"fraction": 0.2}}, "validation.fraction (set agent.evaluate_every"),
        ({"stats": {"histograms": True, "weights": 2}}, "stats.histograms, stats.weights (an agent's curves have no"),
    ],
)
def test_a_key_that_counts_for_nothing_with_an_agent_says_what_stands_in_its_place(section, text):
    assert text in fault(**section)
    assert set(section) <= {*INSTEAD, "stats"}
    without = {"environment": GOOD["environment"]} | section
    assert check_config(without, "without the agent").agent is None


def test_all_keys_that_count_for_nothing_are_named_at_once():
    text = fault(optimization={"lr": 0.1}, training={"epochs": 3})
    assert "optimization.lr" in text
    assert "training.epochs" in text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"type": "dnq"}, "agent.type: unknown name; did you mean 'dqn'? your own as module:attr"),
        ({"type": "dqn", "stesp": 5}, "agent.stesp: unknown key; did you mean 'steps'?"),
        ({}, "agent.type: missing"),
        ({"type": "dqn", "cache_share": 0.5}, "agent: cache_share: 0.5 is the share of the recordings in cache"),
        ({"type": "dqn", "cache": []}, "agent.cache"),
        ({"type": "dqn", "max_episode_steps": {"first": 1}}, "agent.max_episode_steps"),
        ({"type": "dqn", "preprocessing": "Crop"}, "agent.preprocessing"),
    ],
)
def test_a_fault_of_the_section_is_named(data, text):
    with pytest.raises(ConfigError, match=re.escape(text)):
        check_config(GOOD | {"agent": data}, "here")


def test_an_agent_has_an_environment_or_recordings():
    agent = {"type": "dqn", "cache": "data/poles"}
    assert check_config({"agent": agent}, "here").environment is None
    with pytest.raises(ConfigError, match=r"environment: missing; name what the agent acts in, or recordings"):
        check_config({"agent": {"type": "dqn"}}, "here")
    with pytest.raises(
        ConfigError, match=r"agent\.num_envs, agent\.evaluate_every: an agent that learns from recordin"
    ):
        check_config({"agent": agent | {"num_envs": 3, "evaluate_every": 5}}, "here")


def test_the_environments_of_an_agent_are_alike():
    assert "environment.arguments: a list" in fault(environment={"id": "x", "arguments": [{"a": 1}, {"a": 2}]})


def test_the_json_schema_takes_what_the_loader_takes():
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.validate(GOOD)
    validator.validate({"agent": {"type": "my:Agent", "cache": "data"}})
    validator.validate(check_config(GOOD, "here").model_dump(mode="json"))
    assert not validator.is_valid({"environment": {"id": "x"}, "agent": {}})


def test_a_quick_try_has_few_steps_and_keeps_what_is_less(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("environment: {id: CartPole-v1}\nagent: {type: dqn, learning_starts: 5}\n")
    agent = load_config(file, Edits(mini=True)).agent
    assert {name: getattr(agent, name) for name in MINI_AGENT} == MINI_AGENT | {"learning_starts": 5}


def test_paths_of_recordings_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = check_config(GOOD | {"agent": {"type": "dqn", "cache": ["a", "s3://bucket/c"]}}, "here")
    assert located(config).agent.cache == [str(tmp_path / "a"), "s3://bucket/c"]


def test_generating_samples_is_not_for_agents(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"agent: what an agent does is recorded while it learns"):
        generate_samples(check_config(GOOD, "here"))
    assert not list(tmp_path.iterdir())


def test_the_documentation_shows_all_keys_with_their_defaults():
    shown = next(
        block for block in re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL) if "cache_share" in block
    )
    agent = read_yaml(shown)["agent"]
    assert set(agent) == set(AgentSection.model_fields)
    assert check_config(GOOD | {"agent": agent}, "docs") == check_config(GOOD, "defaults")
    assert {f"agent.{name}" for name in agent} <= set(known_keys())
    assert all(name in Config.model_fields for name in INSTEAD)
