from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from physgym.envs.spring import Spring
from physgym.errors import ConfigError, RejectSample, SampleError, WrongValue
from physgym.simulation import Simulation


class Counter(Simulation[np.ndarray, np.ndarray]):
    """Adds its action to a count, once per sub-step; rejects where the count exceeds ten."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - Env declares it so
    sample_roles: ClassVar = {"action": "input", "count": "target"}
    sample_units: ClassVar = {"count": "1"}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.sample_space = spaces.Dict({"action": self.action_space, "count": self.observation_space})
        self.more: dict[str, Any] = {}

    def begin(self, options: dict[str, Any]) -> None:
        self.options = options
        self.count = np.full(2, options.get("start", 0.0)) + self.np_random.uniform(0, 0.1, 2)
        self.calls = 0

    def advance(self, action: np.ndarray) -> None:
        self.calls += 1
        if self.count.max() + action.max() > 10:
            raise RejectSample("more than ten")
        self.count = self.count + action
        self.action = action

    def observation(self) -> np.ndarray:
        return self.count.astype(np.float32)

    def sample(self) -> Mapping[str, Any]:
        return {"action": self.action, "count": self.count, **self.more}

    def outcome(self) -> tuple[float, bool]:
        return float(self.count.sum()), bool(self.count.max() > 5)

    def info(self) -> dict[str, Any]:
        return {"calls": self.calls}


ONE = np.ones(2, np.float32)


def started(**kwargs: Any) -> Counter:
    env = Counter(**kwargs)
    env.reset(seed=0)
    return env


@pytest.mark.parametrize("substeps", [1, 3])
def test_a_step_advances_by_its_substeps(substeps):
    env = started(simulations_per_step=substeps)
    start = env.count
    observation, reward, terminated, truncated, info = env.step(ONE)
    assert info["calls"] == substeps
    np.testing.assert_allclose(observation, start + substeps, rtol=1e-6)
    assert reward == pytest.approx(env.count.sum())
    assert (terminated, truncated) == (False, False)
    np.testing.assert_array_equal(info["sample"]["count"], observation)
    assert info["sample"]["count"].dtype == np.float32  # computed in float64, declared float32


def test_reset_passes_seed_and_options_on():
    env = Counter()
    observation, info = env.reset(seed=3, options={"start": 2.0})
    assert env.options == {"start": 2.0}
    assert info == {"calls": 0}
    np.testing.assert_array_equal(observation, env.reset(seed=3, options={"start": 2.0})[0])
    assert (observation != env.reset(seed=4, options={"start": 2.0})[0]).all()
    env.reset()
    assert env.options == {}


class Tuned(Counter):
    parameter_space = spaces.Dict(
        [
            ("start", spaces.Box(0.0, 2.0, (), np.float64)),
            ("kind", spaces.Dict({"mode": spaces.Discrete(3), "size": spaces.Box(0, 1, (2,), np.float32)})),
        ]
    )


def test_parameters_are_drawn_from_the_seed_and_reported():
    env = Tuned()
    _, info = env.reset(seed=3)
    assert info["parameters"] is env.parameters
    assert info["calls"] == 0
    drawn = env.parameters
    np.testing.assert_array_equal(env.np_random.random(), np.random.default_rng(3).random(7)[-1])
    env.reset(seed=4)
    assert env.parameters["start"] != drawn["start"]
    for _ in range(50):
        parameters = env.reset()[1]["parameters"]
        assert 0 <= parameters["start"] <= 2
        assert Tuned.parameter_space["kind"].contains(parameters["kind"])
    assert Counter().reset(seed=0)[1] == {"calls": 0}
    assert Counter().parameters == {}


def test_given_parameters_replace_drawn_ones_and_change_nothing_else():
    env = Tuned()
    env.reset(seed=3)
    drawn, count = env.parameters, env.count
    env.reset(seed=3, options={"parameters": {"kind": {"size": [0.25, 1]}}, "other": 1})
    assert env.options == {"other": 1}
    assert env.parameters["start"] == drawn["start"]
    assert env.parameters["kind"]["mode"] == drawn["kind"]["mode"]
    np.testing.assert_array_equal(env.parameters["kind"]["size"], np.array([0.25, 1], np.float32))
    np.testing.assert_array_equal(env.count, count)
    env.reset(options={"parameters": {"start": 1, "kind": {"mode": 2}}})
    assert (env.parameters["start"], env.parameters["kind"]["mode"]) == (1.0, 2)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        (
            {"begin": 1.0},
            r"Tuned: there is no parameter 'begin'; parameter_space has \['start', 'kind/mode', ",
        ),
        ({"start": 2.5}, r"parameter 'start' = 2.5 is not in Box\(0.0, 2.0, \(\), float64\); give a value within it"),
        ({"start": np.nan}, "parameter 'start' = nan is not in Box"),
        ({"kind": {"mode": 3}}, r"parameter 'kind/mode' = 3 is not in Discrete\(3\)"),
        ({"kind": {"mode": 1.5}}, "parameter 'kind/mode' = 1.5 .*give numbers of dtype int64"),
        ({"kind": {"size": [0, 0, 0]}}, "parameter 'kind/size'"),
        ({"start": "much"}, "parameter 'start' = much .*give numbers"),
        (3, "must be a dictionary by name, not 3"),
    ],
)
def test_wrong_parameters_are_named_with_their_bounds(parameters, text):
    with pytest.raises(ConfigError, match=text):
        Tuned().reset(seed=0, options={"parameters": parameters})


def test_a_simulation_without_parameters_takes_none():
    with pytest.raises(ConfigError, match="Counter declares no parameter_space"):
        Counter().reset(options={"parameters": {"start": 1}})


def test_unbounded_parameters_need_a_way_to_be_drawn():
    class Free(Counter):
        parameter_space = spaces.Dict({"start": spaces.Box(-np.inf, np.inf, (), np.float64)})

    with pytest.raises(ConfigError, match=r"parameter_space\['start'\] is a Box without bounds"):
        Free().reset(seed=0)

    class Drawn(Free):
        def draw_parameters(self) -> Mapping[str, Any]:
            return {"start": self.np_random.normal()}

    assert Drawn().reset(seed=0)[1]["parameters"] == {"start": np.random.default_rng(0).normal()}


def test_a_rejected_step_comes_with_its_sample_where_there_is_one():
    env = started()
    env.reset(seed=0, options={"start": 9.5})
    info = env.step(ONE)[4]
    assert "rejected_sample" not in info  # there is no action yet
    env.reset(seed=0, options={"start": 8.5})
    env.step(ONE)
    info = env.step(ONE)[4]
    assert info["rejected"] == "more than ten"
    np.testing.assert_array_equal(info["rejected_sample"]["count"], env.count.astype(np.float32))


def test_whoever_runs_a_simulation_may_take_what_is_not_finite():
    env = started()
    env.more = {"count": np.array([0.0, np.nan])}
    env.nonfinite = "allow"
    assert np.isnan(env.step(ONE)[4]["sample"]["count"][1])


def test_a_terminal_state_ends_the_episode():
    env = started()
    env.reset(seed=0, options={"start": 4.5})
    assert env.step(ONE)[2] is True


def test_a_rejected_step_has_no_sample_but_a_reason_and_the_episode_goes_on():
    env = started(simulations_per_step=3)
    env.reset(seed=0, options={"start": 8.5})
    observation, _, _, _, info = env.step(ONE)
    assert "sample" not in info
    assert info["rejected"] == "more than ten"
    assert info["calls"] == 2  # the sub-step that rejects ends the step
    np.testing.assert_array_equal(observation, env.observation())
    info = env.step(-ONE)[4]
    assert "rejected" not in info
    assert "sample" in info


def test_a_sample_may_be_rejected_too(monkeypatch):
    env = started()

    def reject() -> Mapping[str, Any]:
        raise RejectSample("no")

    monkeypatch.setattr(env, "sample", reject)
    assert env.step(ONE)[4]["rejected"] == "no"


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"speed": 1.0}, "Counter: field 'speed' is not in sample_space"),
        ({"count": np.zeros(3)}, r"Counter: info\[\"sample\"\]\['count'\] has shape \(3,\)"),
        ({"count": np.zeros(2, complex)}, r"\['count'\] has dtype complex128"),
        ({"count": np.array([0.0, np.nan])}, r"\['count'\] holds 1 non-finite values, the first at index \(1,\)"),
    ],
)
def test_a_wrong_sample_is_an_error_that_names_the_field(more, text):
    env = started()
    env.more = more
    with pytest.raises(SampleError, match=text):
        env.step(ONE)


def test_a_missing_field_is_an_error_that_names_it(monkeypatch):
    env = started()
    monkeypatch.setattr(env, "sample", lambda: {"action": ONE})
    with pytest.raises(SampleError, match="Counter: field 'count' is missing"):
        env.step(ONE)


def test_a_simulation_without_a_sample_space_is_told_to_declare_one():
    env = started()
    del env.sample_space
    with pytest.raises(SampleError, match="Counter sets no sample_space"):
        env.step(ONE)


def test_without_a_network_a_prediction_is_an_error_that_says_what_to_do():
    with pytest.raises(SampleError, match="no network"):
        started().predict({"action": ONE})


def test_a_prediction_comes_from_the_network():
    env = started()
    env.predictor = lambda inputs: {"count": 2 * inputs["action"]}
    np.testing.assert_array_equal(env.predict({"action": [1.0, 2.0]})["count"], [2.0, 4.0])


def test_a_prediction_is_ignored_by_default():
    env = started()
    before = env.observation()
    env.apply_prediction({"count": ONE})
    np.testing.assert_array_equal(env.observation(), before)


def test_sampled_actions_are_valid_and_depend_on_the_generator_alone():
    env = started()
    first = env.sample_action(np.random.default_rng(1))
    env.action_space.sample()
    assert env.action_space.contains(first)
    np.testing.assert_array_equal(first, env.sample_action(np.random.default_rng(1)))
    assert (first != env.sample_action(np.random.default_rng(2))).any()


def test_an_environment_is_alone_unless_told_otherwise():
    env = Counter()
    assert (env.env_index, env.env_count) == (0, 1)
    env.env_index, env.env_count = 3, 8
    assert (Counter().env_index, Counter().env_count) == (0, 1)


def test_bad_arguments_are_named():
    with pytest.raises(ConfigError, match="simulations_per_step must be at least 1, not 0"):
        Counter(simulations_per_step=0)
    with pytest.raises(ConfigError, match=r"render_mode 'human' is none of \['rgb_array'\]"):
        Counter(render_mode="human")
    undeclared = type("Blind", (Counter,), {"metadata": {}})
    with pytest.raises(
        ConfigError, match=r"'rgb_array' is none of \[\]; declare metadata = \{.*'rgb_array'.* in Blind"
    ):
        undeclared(render_mode="rgb_array")
    assert Counter(render_mode="rgb_array").render_mode == "rgb_array"


def test_a_step_before_the_first_reset_says_what_is_missing():
    env = Counter()
    with pytest.raises(gymnasium.error.ResetNeeded, match="Counter: there was no reset before this step"):
        env.step(ONE)
    env.reset(seed=0)
    env.count = None
    with pytest.raises(AttributeError, match="max"):  # a fault of the solver is told as it is
        env.step(ONE)


def test_the_parts_of_a_step_must_be_implemented():
    with pytest.raises(TypeError, match="advance"):
        Simulation()


def test_wrappers_of_gymnasium_keep_the_sample():
    env = gymnasium.wrappers.TimeLimit(Counter(), max_episode_steps=1)
    env.reset(seed=0)
    *_, truncated, info = env.step(ONE)
    assert truncated
    assert set(info["sample"]) == {"action", "count"}


@pytest.mark.parametrize(
    ("action", "text"),
    [
        (0.5, "the number 0.5; pass np.array([0.5], np.float32), or another element of action_space"),
        (np.float32(0.5), "the number 0.5; pass np.array([0.5], np.float32), or another element of action_space"),
        (np.array(0.5), "an action of shape (); pass np.zeros((1,), np.float32), or another element of action_space"),
        (np.zeros(2, "f4"), "an action of shape (2,); pass np.zeros((1,), np.float32), or another"),
        ([[0.5]], "an action of shape (1, 1); pass np.zeros((1,), np.float32), or another"),
        ([[0.5], [0.5, 1.0]], "an action of shape unequal rows; pass np.zeros((1,), np.float32), or another"),
        (None, "an action of shape (); pass np.zeros((1,), np.float32), or another"),
    ],
)
def test_an_action_of_another_shape_is_an_error_that_says_which_is_wanted(action, text):
    env = Spring()
    env.reset(seed=0)
    with pytest.raises(WrongValue) as refused:
        env.step(action)
    assert str(refused.value).startswith(f"Spring: step takes an action of shape (1,), and got {text}")
    assert env.step([0.5])[4]["sample"]["force"] == [0.5]  # a list of that shape is an array as well


def test_actions_of_spaces_without_arrays_are_left_alone():
    env = started()
    env.action_space = spaces.Dict({"push": spaces.Box(-1, 1, (2,))})
    env.advance = lambda action: Counter.advance(env, action["push"])
    assert "sample" in env.step({"push": ONE})[4]


def test_a_simulation_that_refuses_an_action_itself_says_so():
    env = started()

    def refuse(action):
        raise SampleError("no")

    env.advance = refuse
    with pytest.raises(SampleError, match="no"):
        env.step(0.5)
    env.advance = lambda action: None  # takes whatever comes
    with pytest.raises(WrongValue, match=r"Counter: step takes an action of shape \(2,\), and got the number 0.5"):
        env.step(0.5)
