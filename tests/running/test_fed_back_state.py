"""Surrogates of simulations without `adopt`: predictions are the next inputs, by the declared feedback."""

from __future__ import annotations

from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import TimeLimit
from torch import nn

from physgym import SampleDataset, Simulation, SocketVectorEnv, generate
from physgym.errors import ConfigError, SampleError
from physgym.experiment.evaluate import evaluate
from physgym.nn import Optimization, Predictor
from physgym.protocol.messages import Predict
from physgym.runner import RolloutEvaluation, Runner, SurrogateEnv, SurrogateVectorEnv
from physgym.sample import Field, SampleSpec
from physgym.samplers import NetworkPolicy
from physgym.step_fields import step_fields
from physgym.training import Metrics, Trainer
from physgym.vector.predictions import answer
from tests.support.workers import forked_workers  # noqa: F401 - a fixture of all tests here


def box(*shape):
    return spaces.Box(-np.inf, np.inf, shape, np.float32)


class Adder(Simulation):
    """Two numbers, to which an action and a rate of the episode are added; no hook `adopt`."""

    sample_roles: ClassVar = {"state": "input", "push": "input", "rate": "input", "next_state": "target"}
    sample_units: ClassVar = {"state": "m"}
    sample_feedback: ClassVar = {"next_state": "state"}
    observation_space = box(2)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    parameter_space = spaces.Dict({"rate": spaces.Box(0, 1, (), np.float32)})

    def __init__(self) -> None:
        super().__init__()
        self.sample_space = spaces.Dict(
            {"state": box(2), "push": box(1), "rate": box(), "next_state": box(2), "energy": box()}
        )

    def begin(self, options):
        self._state = self.np_random.random(2)
        self._before, self._push = self._state, np.zeros(1)

    def advance(self, action):
        self._before, self._push = self._state, np.asarray(action, np.float64)
        self._state = self._state + self._push + self.parameters["rate"]

    def observation(self):
        return self._state.astype(np.float32)

    def inputs(self, action):
        return {"state": self._state, "push": action, "rate": self.parameters["rate"]}

    def sample(self):
        rest = {"next_state": self._state, "energy": self._state @ self._state}
        return {"state": self._before, "push": self._push, "rate": self.parameters["rate"], **rest}


class Silent(Adder):
    """The same, which declares nothing."""

    sample_feedback: ClassVar = {}


class Once(Adder):
    """Samples that hold the state alone."""

    sample_roles: ClassVar = {"state": "input", "push": "input", "rate": "input"}
    sample_feedback: ClassVar = "state"

    def __init__(self) -> None:
        super().__init__()
        self.sample_space = spaces.Dict({name: self.sample_space[name] for name in ("state", "push", "rate")})

    def sample(self):
        return {name: value for name, value in super().sample().items() if name in self.sample_space.spaces}


class Sum(nn.Module):
    def forward(self, state, push, rate):
        return state + push + rate[:, None]


def network(env=Adder, **declared) -> Predictor:
    spec = SampleSpec.from_env(env())
    return Predictor(Sum(), step_fields(spec.with_feedback(declared["feedback"]) if declared else spec))


def actions(count):
    return np.random.default_rng(0).uniform(-1, 1, (count, 1)).astype(np.float32)


@pytest.mark.parametrize("env", [Adder, Once])
def test_the_prediction_is_the_next_input_and_the_observation(env):
    solver, surrogate = env(), SurrogateEnv(env, network(env))
    first, info = solver.reset(seed=3)
    again, said = surrogate.reset(seed=3)
    np.testing.assert_array_equal(first, again)
    assert info["parameters"] == said["parameters"]
    state = first
    for action in actions(10):
        expected, got = solver.step(action), surrogate.step(action)
        np.testing.assert_allclose(got[0], expected[0], rtol=1e-5)
        assert got[0].dtype == np.float32
        assert got[1:4] == (0.0, False, False)
        sample = got[4]["sample"]
        assert list(sample) == [name for name in expected[4]["sample"] if name != "energy"]  # which nobody predicts
        np.testing.assert_array_equal(sample["state"], state)
        np.testing.assert_array_equal(sample["push"], action)
        np.testing.assert_array_equal(sample.get("next_state", got[0]), surrogate.prediction["next_state"])
        state = got[0]
    spec = SampleSpec.from_env(surrogate)
    assert list(spec) == list(sample)
    assert spec["state"].unit == "m"
    if env is Adder:
        assert spec.feedback == {"next_state": "state"}


def test_a_reset_begins_anew():
    surrogate = SurrogateEnv(Adder(), network())
    trajectories = []
    for _ in range(2):
        first, _ = surrogate.reset(seed=1)
        trajectories.append([first, *(surrogate.step(action)[0] for action in actions(4))])
    np.testing.assert_array_equal(*trajectories)


def test_what_was_declared_for_the_network_or_given_goes_before():
    with pytest.raises(ConfigError, match=r"lacks adopt.*sample_feedback"):
        SurrogateEnv(Silent(), network(Silent))
    for surrogate in (
        SurrogateEnv(Silent(), network(Silent, feedback="next_state -> state")),
        SurrogateEnv(Silent(), network(Silent), feedback="next_state -> state"),
    ):
        first, _ = surrogate.reset(seed=0)
        rate = surrogate.parameters["rate"]
        np.testing.assert_allclose(surrogate.step(np.ones(1, np.float32))[0], first + 1 + rate, rtol=1e-6)
        np.testing.assert_allclose(surrogate.step(np.ones(1, np.float32))[0], first + 2 + 2 * rate, rtol=1e-6)
    with pytest.raises(SampleError, match=r"feedback names \['nxt'\]"):
        SurrogateEnv(Silent(), network(Silent), feedback="nxt -> state")


def test_a_function_is_a_network_and_its_reward_counts():
    def predict(fields):
        return {"next_state": fields["state"] + fields["push"], "reward": np.float32(fields["push"][0])}

    surrogate = SurrogateEnv(
        Adder(), predict, terminated=lambda before, action, after: float(after[0] > before[0] + 0.5)
    )
    first, _ = surrogate.reset(seed=0)
    np.testing.assert_allclose(surrogate.step(np.full(1, 0.25, np.float32))[:3][0], first + 0.25)
    _, reward, terminated, truncated, _ = surrogate.step(np.full(1, 0.75, np.float32))
    assert (reward, terminated, truncated) == (0.75, True, False)


def test_a_prediction_that_is_not_finite_leaves_the_state():
    found = iter([np.full(2, np.nan, np.float32), np.ones(2, np.float32)])
    surrogate = SurrogateEnv(Adder(), lambda fields: {"next_state": next(found)})
    first, _ = surrogate.reset(seed=0)
    observation, _, _, _, info = surrogate.step(np.zeros(1, np.float32))
    np.testing.assert_array_equal(observation, first)
    assert "not finite" in info["rejected"]
    assert "sample" not in info
    np.testing.assert_array_equal(surrogate.step(np.zeros(1, np.float32))[0], 1)


def test_the_vector_form_is_equal():
    predictor = network()
    envs = SurrogateVectorEnv(Adder, predictor, 3, autoreset_mode=AutoresetMode.DISABLED)
    single = [SurrogateEnv(Adder, predictor) for _ in range(3)]
    first, _ = envs.reset(seed=5)
    np.testing.assert_array_equal(first, [env.reset(seed=5 + i)[0] for i, env in enumerate(single)])
    for step in range(4):
        acts = np.full((3, 1), 0.1 * step, np.float32)
        got = envs.step(acts)[0]
        np.testing.assert_allclose(got, [env.step(a)[0] for env, a in zip(single, acts, strict=True)], rtol=1e-6)
    envs.close()


@pytest.mark.parametrize("workers", [{}, {"num_envs": 2, "num_workers": 1}])
@pytest.mark.parametrize("env", [Silent, Once])
def test_a_runner_puts_it_in_place_of_the_solver(env, workers, tmp_path):
    make = lambda: TimeLimit(env(), 5)  # noqa: E731
    feedback = {"feedback": "next_state -> state"} if env is Silent else {}
    predictor = network(env, **feedback)
    with Runner(make, predictor, surrogate=True, record=tmp_path / "run", seed=2, **workers) as runner:
        report = runner.run(10, progress=False)
    assert report.steps == 10
    steps = SampleDataset(tmp_path / "run", mode="prediction")
    for number in range(2):
        episode = steps.episode(number)
        expected = episode["state"] + episode["push"] + episode["rate"][:, None]
        np.testing.assert_allclose(episode["prediction/next_state"], expected, rtol=1e-6)
        np.testing.assert_array_equal(episode["prediction/next_state"][:-1], episode["state"][1:])


def test_a_worker_gets_the_prediction_from_outside():
    predictor = network()
    with SocketVectorEnv([lambda: SurrogateEnv(Adder())] * 2, predictor=predictor, num_workers=1) as envs:
        first, _ = envs.reset(seed=4)
        alone = SurrogateEnv(Adder(), predictor)
        for row in range(2):
            np.testing.assert_array_equal(alone.reset(seed=4 + row)[0], first[row])
        got = envs.step(np.full((2, 1), 0.5, np.float32))[0]
        np.testing.assert_allclose(got[1], alone.step(np.full(1, 0.5, np.float32))[0], rtol=1e-6)


class Scaled(Adder):
    def observation(self):
        return (2 * self._state).astype(np.float32)


class Wide(Adder):
    observation_space = box(3)

    def observation(self):
        return np.zeros(3, np.float32)


class Two(Adder):
    """Two fields that are fed back, one of which is observed by its name."""

    observation_space = spaces.Dict({"state": box(2)})
    sample_feedback: ClassVar = ["next_state -> state", "next_speed -> speed"]
    sample_roles: ClassVar = {**Adder.sample_roles, "speed": "input", "next_speed": "target"}

    def __init__(self) -> None:
        super().__init__()
        self.sample_space = spaces.Dict({**self.sample_space.spaces, "speed": box(), "next_speed": box()})

    def observation(self):
        return {"state": self._state.astype(np.float32)}

    def inputs(self, action):
        return {**super().inputs(action), "speed": np.float32(3)}


def test_a_field_that_is_not_observed_begins_as_the_simulation_says():
    def predict(fields):
        return {"next_state": fields["state"] + fields["speed"], "next_speed": fields["speed"] * 2}

    surrogate = SurrogateEnv(Two(), predict)
    first, _ = surrogate.reset(seed=0)
    for expected in (3, 3 + 6, 3 + 6 + 12):
        observation = surrogate.step(np.zeros(1, np.float32))[0]
        np.testing.assert_allclose(observation["state"], first["state"] + expected, rtol=1e-6)


def test_what_does_not_fit_is_said():
    spec = SampleSpec.from_env(Two())
    half = Predictor(Sum(), spec, inputs=["state", "push", "rate"], outputs=["next_state"])
    with pytest.raises(ConfigError, match=r"must predict \['next_speed'\], which it is fed at the next step"):
        SurrogateEnv(Two(), Predictor(Sum4(), spec, outputs=["next_state"]))
    assert SurrogateEnv(Two(), half)  # which is not fed with the speed
    with pytest.raises(ConfigError, match=r"made of the fields that the network feeds back.*it has shape \(3,\)"):
        SurrogateEnv(Wide(), network())
    scaled = SurrogateEnv(Scaled(), network())
    scaled.reset(seed=0)
    with pytest.raises(ConfigError, match="the observation of Scaled is not the field 'state'"):
        scaled.step(np.zeros(1, np.float32))
    wrong = SurrogateEnv(Adder(), lambda fields: {"next_state": np.zeros(3, np.float32)})
    wrong.reset(seed=0)
    with pytest.raises(SampleError, match=r"has shape \(3,\); 'state' has \(2,\)"):
        wrong.step(np.zeros(1, np.float32))
    lacking = SurrogateEnv(Adder(), lambda fields: {"state": np.zeros(2, np.float32)})
    lacking.reset(seed=0)
    with pytest.raises(ConfigError, match="needs the field 'next_state' of a prediction"):
        lacking.step(np.zeros(1, np.float32))


class Sum4(nn.Module):
    def forward(self, state, push, rate, speed):
        return state + push + (rate + speed)[:, None]


class Rewarded(Adder):
    def outcome(self):
        return 1.0, False


def test_a_reward_that_nobody_knows_is_said():
    with pytest.warns(UserWarning, match=r"is 0: its outcome\(\) speaks of the state of the solver"):
        SurrogateEnv(Rewarded(), network())
    surrogate = SurrogateEnv(Rewarded(), network(), reward=lambda before, action, after: 5.0)
    surrogate.reset(seed=0)
    assert surrogate.step(np.zeros(1, np.float32))[1] == 5


class Plain(gymnasium.Env):
    """No hooks at all: the observation is all that feeds the network."""

    observation_space = action_space = box(2)
    sample_space = spaces.Dict({"state": box(2), "next_state": box(2)})
    sample_roles: ClassVar = {"state": "input", "next_state": "target"}
    sample_feedback = "next_state -> state"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.random(2).astype(np.float32), {}


def test_an_environment_without_hooks_is_observed():
    surrogate = SurrogateEnv(Plain(), lambda fields: {"next_state": fields["state"] * 2})
    first, _ = surrogate.reset(seed=0)
    surrogate.step(first)
    np.testing.assert_array_equal(surrogate.step(first)[0], 4 * first)
    more = Field("push", (1,), "f4", "input")
    spec = SampleSpec([*SampleSpec.from_env(Plain()).values(), more])
    fed = Predictor(Both(), spec, inputs=["state", "push"])
    Plain.sample_space = spaces.Dict({**Plain.sample_space.spaces, "push": box(1)})
    try:
        with pytest.raises(ConfigError, match=r"Plain does not say \['push'\].*implement inputs"):
            SurrogateEnv(Plain(), fed)
    finally:
        Plain.sample_space = spaces.Dict({name: box(2) for name in ("state", "next_state")})


class Both(nn.Module):
    def forward(self, state, push):
        return state + push


class Counting(nn.Module):
    """Adds the number of steps that it remembers."""

    recurrent = True

    def forward(self, state, memory=None):
        steps = torch.zeros(len(state), 1) if memory is None else memory
        return state + steps, steps + 1


def test_what_a_recurrent_network_remembers_lasts_an_episode():
    spec = SampleSpec.from_env(Adder())
    predictor = Predictor(Counting(), spec, inputs=["state"], outputs=["next_state"])
    surrogate = SurrogateEnv(Adder(), predictor)
    for _ in range(2):
        first, _ = surrogate.reset(seed=0)
        for expected in (0, 0 + 1, 0 + 1 + 2):
            np.testing.assert_allclose(surrogate.step(np.zeros(1, np.float32))[0], first + expected, rtol=1e-6)
    first, _ = surrogate.reset(seed=0)
    surrogate.step(np.zeros(1, np.float32))
    state, surrogate.simulation.inputs = surrogate.simulation.inputs, lambda action: {"state": np.full(2, np.nan)}
    surrogate._core._state._now["state"] = np.full(2, np.nan, np.float32)
    said = surrogate.step(np.zeros(1, np.float32))[4]["rejected"]
    assert said == "the network is fed with values of ['state'] that are not finite"
    surrogate._core._state._now["state"], surrogate.simulation.inputs = first, state
    np.testing.assert_allclose(surrogate.step(np.zeros(1, np.float32))[0], first + 1, rtol=1e-6)  # as before that step
    with pytest.raises(ConfigError, match="a batched step asks it for several"):
        SurrogateVectorEnv(Adder, predictor, 2)
    with pytest.raises(ConfigError, match="leave num_envs and num_workers out"):
        Runner(Adder, predictor, surrogate=True, num_workers=1)


@pytest.fixture(scope="module")
def stepped(tmp_path_factory):
    """Three episodes of four steps, those of two environments in turn."""
    folder = tmp_path_factory.mktemp("stepped") / "data"
    generate(Adder, folder, episodes=3, max_steps=4, num_envs=2, num_workers=0, progress=False)
    return SampleDataset(folder)


def test_a_recurrent_network_beside_the_solver_keeps_what_it_remembers(stepped):
    spec = SampleSpec.from_env(Adder())
    predictor = Predictor(Counting(), spec, inputs=["state"], outputs=["next_state"])
    with Runner(Adder, predictor, max_steps=4) as runner:
        for made in (runner.steps(), runner.replay(stepped)):
            for _ in range(12):
                step = next(made)
                expected = step.transition.sample["state"] + step.transition.step
                np.testing.assert_allclose(step.prediction["next_state"], expected, rtol=1e-6)
        with pytest.raises(ConfigError, match="in another order"):
            next(runner.replay(stepped.subset(np.arange(12)[::-1])))
    with pytest.raises(ConfigError, match="leave num_envs and num_workers out"):
        Runner(Adder, predictor, num_workers=1)
    with pytest.raises(ConfigError, match="one after the other; leave batch_size"):
        next(Runner(None, predictor, batch_size=2).replay(stepped))


def test_a_recurrent_network_is_refused_where_it_would_forget():
    predictor = Predictor(Counting(), SampleSpec.from_env(Adder()), inputs=["state"], outputs=["next_state"])
    with pytest.raises(ConfigError, match="would start without its memory at each step"):
        NetworkPolicy(predictor).actions(Adder().action_space, 0)(0)({"state": np.zeros(2)}, np.random.default_rng())
    answers = answer(predictor, [Predict(0, {"state": np.zeros(2)})])
    assert "would start without its memory at each of them" in answers[0].error


def pushed(env):
    return Predictor(Both(), step_fields(SampleSpec.from_env(env)), inputs=["state", "push"], outputs=["next_state"])


def test_a_state_that_is_stored_once_is_evaluated_as_one_that_is_stored_twice():
    figures = {}
    for make in (Once, Adder):
        figures[make] = RolloutEvaluation(make, 8, horizons=(1, 3), max_steps=4)(pushed(make()))
        assert set(RolloutEvaluation(make, 8, horizons=(1, 3)).names(pushed(make()))) == set(figures[make])
    for name in ("horizon_1/next_state", "horizon_3/next_state"):
        assert figures[Once][name] == figures[Adder][name] > 0
    alone = RolloutEvaluation(Once, 8, max_steps=4)(pushed(Once()))
    assert alone["relative_l2/next_state"] == figures[Once]["relative_l2/next_state"] > 0


class Weighted(Both):
    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, state, push):
        return self.one * super().forward(state, push)


class Last(nn.Module):
    """The last of two states."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, state):
        return self.one * state[:, -1:]


@pytest.mark.slow
def test_metrics_take_the_next_state_from_the_next_row(tmp_path):
    generate(Once, tmp_path, episodes=3, max_steps=4, num_workers=0, progress=False)
    dataset = SampleDataset(tmp_path)
    rates = dataset[:]["rate"][dataset.index("step") < 3]  # what the network does not add
    report = evaluate(pushed(Once()), dataset, progress=False)
    assert report.samples == 9
    assert report["rmse/next_state"] == pytest.approx(np.sqrt(np.mean(rates**2)), rel=1e-5)

    def trained(network, samples, inputs, **options):
        made = [Metrics(["rmse"])]
        options |= {"epochs": 1, "validation": samples, "batch_size": 16, "progress": False, "normalize": False}
        optimization = Optimization(network, lr=1e-12)
        with pytest.warns(UserWarning, match="among those of"):
            made = Trainer(network, samples, inputs=inputs, callbacks=made, optimization=optimization, **options)
        return made.fit().epochs[-1]["validation_rmse/next_state"]

    assert trained(Weighted(), dataset, ["state", "push"], unroll=2) == pytest.approx(
        report["rmse/next_state"], rel=1e-5
    )
    windows = dataset.windows(2, 1)
    moved = windows[:]["next_state"][:, 0] - windows[:]["state"][:, 1]
    assert trained(Last(), windows, ["state"]) == pytest.approx(np.sqrt(np.mean(moved**2)), rel=1e-5)


def test_a_recurrent_network_is_evaluated_with_a_remark(stepped):
    predictor = Predictor(Counting(), SampleSpec.from_env(Adder()), inputs=["state"], outputs=["next_state"])
    assert "without what it remembers" in str(evaluate(predictor, stepped, progress=False))
