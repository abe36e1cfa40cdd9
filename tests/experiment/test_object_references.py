"""Objects of a module among the arguments of a configuration, and transitions of any environment by its id."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

import physgym
from physgym.code.search import code_of
from physgym.errors import ConfigError
from physgym.experiment.components import make
from physgym.experiment.config import check_config
from physgym.experiment.generation_plan import build_sampler
from physgym.experiment.networks import build_network
from physgym.experiment.runs import generate_samples
from physgym.naming import env_name
from physgym.object_references import with_objects
from physgym.sample import RecordTransition

QUICK = {"num_workers": 0, "progress": False}
HERE = __name__


def doubled(x):
    return 2 * x


class Curve(physgym.Simulation):
    """Applies a function to its action."""

    action_space = spaces.Box(-1, 1, (), np.float32)
    observation_space = spaces.Box(-np.inf, np.inf, (), np.float64)
    sample_space = spaces.Dict(x=observation_space, y=observation_space)
    sample_roles = {"x": "input", "y": "target"}  # noqa: RUF012

    def __init__(self, function, **options):
        super().__init__(**options)
        self.function = function

    def begin(self, options):
        self.x = 0.0

    def advance(self, action):
        self.x = float(action)

    def observation(self):
        return np.array(self.x)

    def sample(self):
        return {"x": self.x, "y": self.function(self.x)}


class Net(torch.nn.Module):
    """A factor and a function behind it."""

    def __init__(self, activation):
        super().__init__()
        self.factor, self.activation = torch.nn.Parameter(torch.ones(())), activation

    def forward(self, x):
        return self.activation(self.factor * x)


def test_references_are_replaced_at_any_depth_and_nothing_else_is():
    given = {"a": [{"$object": "math:cos"}, 1], "b": {"c": {"$object": "os:path.join"}}, "d": "math:cos"}
    found = with_objects(given, "here")
    assert found["a"] == [math.cos, 1]
    assert found["b"]["c"].__name__ == "join"
    assert found["d"] == "math:cos"
    assert given["a"][0] == {"$object": "math:cos"}


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ({"$object": "math"}, "is no reference to an object"),
        ({"$object": "math:cos", "x": 1}, "and nothing else in it"),
        ({"$object": 3}, "is no reference"),
        ({"$object": "math:cosine"}, r"here\.f: math has no 'cosine'"),
        ({"$object": "no_such_module:f"}, r"here\.f: importing 'no_such_module' failed"),
    ],
)
def test_a_wrong_reference_is_named(reference, text):
    with pytest.raises(ConfigError, match=text):
        with_objects({"f": reference}, "here")


def test_a_simulation_gets_the_object_and_the_dataset_the_text(tmp_path):
    reference = {"$object": f"{HERE}:doubled"}
    dataset = physgym.generate(
        Curve, tmp_path / "a", samples=6, max_steps=3, env_kwargs={"function": reference}, **QUICK
    )
    np.testing.assert_array_equal(dataset[:]["y"], 2 * dataset[:]["x"])
    assert dataset.source["env_kwargs"] == {"function": reference}
    env, action = physgym.reopen(dataset, 1, 2)
    assert env.step(action)[-1]["sample"]["y"] == dataset[5]["y"]
    env.close()
    wrong = {"function": {"$object": f"{HERE}:trebled"}}
    with pytest.raises(ConfigError, match=r"env_kwargs\.function: .* has no 'trebled'"):
        physgym.generate(Curve, tmp_path / "b", samples=6, env_kwargs=wrong, **QUICK)
    assert not (tmp_path / "b").exists()


def test_the_code_of_a_function_that_is_referred_to_belongs_to_the_simulation():
    code = code_of(Curve, {"function": {"$object": "tests.support.toys:Line"}})
    assert "tests.support.toys" in code.modules


def test_networks_samplers_and_other_parts_take_references(tmp_path):
    data = {
        "session": str(tmp_path / "session"),
        "environment": {"id": f"{HERE}:Curve", "arguments": {"function": {"$object": f"{HERE}:doubled"}}},
        "network": {"type": f"{HERE}:Net", "arguments": {"activation": {"$object": "torch:tanh"}}},
        "dataset": {"samples": 5, "num_workers": 0, "path": str(tmp_path / "data")},
        "sampler": {
            "actions": {"type": "physgym.samplers:Policy", "arguments": {"function": {"$object": f"{HERE}:one"}}}
        },
    }
    config = check_config(data, "test")
    dataset = generate_samples(config)
    assert dataset[:]["y"].tolist() == [2.0] * 5
    assert build_network(config, dataset.spec).activation is torch.tanh
    assert build_sampler(config.sampler.actions, "actions").describe() == physgym.samplers.Policy(one).describe()
    assert json.loads(json.dumps(config.model_dump()))["network"]["arguments"] == data["network"]["arguments"]
    with pytest.raises(ConfigError, match=r"network\.arguments\.activation: torch has no 'tahn'"):
        make(Net, "network.arguments", activation={"$object": "torch:tahn"})


def one(observation, generator):
    return np.float32(1)


# --- transitions


def test_an_id_with_transitions_gives_samples_of_any_environment(tmp_path):
    data = {
        "session": str(tmp_path / "session"),
        "environment": {"id": "transitions:CartPole-v1"},
        "dataset": {"samples": 30, "num_workers": 0, "path": str(tmp_path / "data")},
    }
    dataset = generate_samples(check_config(data, "test"))
    assert list(dataset.spec) == ["observation", "action", "next_observation", "reward", "terminated", "truncated"]
    assert dataset.source["env"] == "transitions:CartPole-v1"
    same = np.flatnonzero(np.diff(dataset.index("episode")) == 0)
    np.testing.assert_array_equal(dataset[same]["next_observation"], dataset[same + 1]["observation"])
    env, action = physgym.reopen(dataset, 0, 5)
    assert isinstance(env.env, RecordTransition)
    np.testing.assert_array_equal(env.step(action)[-1]["sample"]["next_observation"], dataset[5]["next_observation"])
    env.close()
    more = physgym.generate("transitions:CartPole-v1", tmp_path / "data", samples=40, resume=True, **QUICK)
    assert len(more) == 40


def test_a_time_limit_counts_as_truncated_in_transitions(tmp_path):
    arguments = {"max_episode_steps": 3}
    dataset = physgym.generate(
        "transitions:CartPole-v1", tmp_path / "data", samples=6, env_kwargs=arguments, actions=balanced, **QUICK
    )
    assert dataset[:]["truncated"].tolist() == [0, 0, 1, 0, 0, 1]


def balanced(observation, rng):
    return int(observation[2] > 0)


def test_names_of_transitions():
    assert env_name("transitions:CartPole-v1") == "transitions:CartPole-v1"
    assert env_name(f"transitions:{HERE}:Curve") == f"transitions:{HERE}:Curve"
    with pytest.raises(ConfigError, match="no environment 'NoSuch-v3' is registered"):
        physgym.generate("transitions:NoSuch-v3", "data/never", samples=1, **QUICK)
