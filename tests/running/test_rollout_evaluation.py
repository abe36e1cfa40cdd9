from __future__ import annotations

import random

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from physgym import generate
from physgym.envs.spring import Spring, propagator
from physgym.errors import ConfigError
from physgym.nn import MLP, Predictor
from physgym.runner import RolloutEvaluation, Runner
from physgym.sample import SampleSpec
from physgym.training import Trainer
from tests.support import toys
from tests.support.workers import forked_workers  # noqa: F401 - a fixture of all tests here


class Propagator(nn.Module):
    """The exact next state of a spring of 8 N/m, 1 kg and 0.5 N s/m, times a factor."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.register_buffer("matrix", torch.tensor(propagator(8.0, 1.0, 0.5, 0.1) * factor, dtype=torch.float32))

    def forward(self, force, parameters, state):
        return torch.cat([state, force], 1) @ self.matrix.T


NARROW = {"stiffness": (8.0, 8.0001), "mass": (1.0, 1.0001), "friction": (0.5, 0.5001)}


def propagating(factor=1.0) -> Predictor:
    return Predictor(Propagator(factor), SampleSpec.from_env(Spring()))


def spring_network() -> Predictor:
    torch.manual_seed(0)
    spec = SampleSpec.from_env(Spring())
    return Predictor(MLP.from_spec(spec, hidden=(4,)), spec)


def test_it_gives_the_figures_of_a_run():
    network = spring_network()
    figures = RolloutEvaluation("physgym/Spring-v0", 30, seed=4)(network)
    assert figures.keys() == {"relative_l2/next_state", "latency_ms"}
    with Runner("physgym/Spring-v0", network, seed=4, part="evaluation") as runner:
        errors = runner.run(30, progress=False).errors["next_state"]
    assert figures["relative_l2/next_state"] == errors.relative_l2.mean()
    assert figures["latency_ms"] > 0


def test_it_is_the_same_every_time_and_leaves_no_trace():
    made, closed = [], []

    class Watched(Spring):
        def __init__(self):
            super().__init__()
            made.append(self)
            np.random.seed(3)  # noqa: NPY002 - a simulation that it has to put up with
            random.seed(3)
            torch.manual_seed(3)

        def close(self):
            closed.append(self)

    network = spring_network().train()
    network.network.eval()
    evaluation = RolloutEvaluation(Watched, 12, horizons=(1, 3), parameters="sobol", max_steps=5)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    first, again = evaluation(network), evaluation(network)
    del first["latency_ms"], again["latency_ms"]
    assert first == again
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
    assert sorted(map(id, made)) == sorted(map(id, closed))
    assert len(made) == 4
    assert network.training
    assert not network.network.training


def test_the_error_of_a_trajectory_builds_up():
    options = {"env_kwargs": NARROW, "horizons": (1, 4, 16, 500), "seed": 2}
    exact = RolloutEvaluation("physgym/Spring-v0", 60, **options)(propagating())
    assert list(exact) == [
        "relative_l2/next_state",
        "latency_ms",
        *(f"horizon_{h}/next_state" for h in (1, 4, 16)),  # no episode has 500 steps
    ]
    assert max(exact[f"horizon_{h}/next_state"] for h in (1, 4, 16)) < 1e-3
    growing = RolloutEvaluation("physgym/Spring-v0", 60, **options)(propagating(1.05))
    assert growing["relative_l2/next_state"] == pytest.approx(0.05, rel=1e-3)
    assert growing["horizon_1/next_state"] == pytest.approx(0.05, rel=1e-3)
    assert growing["horizon_1/next_state"] < growing["horizon_4/next_state"] < growing["horizon_16/next_state"]


def test_a_trajectory_ends_where_the_solver_rejects():
    network = Predictor(nn.Identity(), SampleSpec.from_env(toys.Flaky()))
    with pytest.raises(ConfigError, match="lacks inputs, adopt"):
        RolloutEvaluation(toys.Flaky, 10, horizons=(1,))(network)
    assert RolloutEvaluation(toys.Flaky, 10)(network)["relative_l2/y"] == 2  # without a trajectory it needs no hooks

    class Hooked(toys.Flaky):
        def inputs(self, action):
            return {"x": action}

        def adopt(self, action, prediction):
            self.x = -np.asarray(prediction["y"], np.float32)

    figures = RolloutEvaluation(Hooked, 25, horizons=range(1, 6), seed=1)(network)
    reached = [name for name in figures if name.startswith("horizon")]
    assert 0 < len(reached) < 5
    assert {figures[name] for name in reached} == {2.0}


def test_a_trainer_takes_it(tmp_path):
    dataset = generate("physgym/Spring-v0", tmp_path / "d", samples=200, num_workers=0, progress=False)
    torch.manual_seed(0)
    histories = []
    for rollout in (None, RolloutEvaluation("physgym/Spring-v0", 10, seed=1, horizons=(2,))):
        network = MLP.from_spec(dataset.spec, hidden=(8,))
        nn.init.constant_(next(network.parameters()), 0.1)
        torch.manual_seed(1)
        trainer = Trainer(
            network, dataset, epochs=3, batch_size=32, validation=0.5, rollout=rollout, rollout_every=2, progress=False
        )
        histories.append(trainer.fit())
    names = ["rollout_relative_l2/next_state", "rollout_latency_ms", "rollout_horizon_2/next_state"]
    for record, evaluated in zip(histories[1].epochs, (False, True, True), strict=True):
        assert [name for name in record if name.startswith("rollout")] == (names if evaluated else [])


def test_bad_arguments():
    for name, wrong in {"steps": 0, "horizons": (3, 0)}.items():
        with pytest.raises(ConfigError, match=f"{name} must be at least 1, not 0"):
            RolloutEvaluation("physgym/Spring-v0", **{name: wrong})
    with pytest.raises(ConfigError, match="no environment"):
        RolloutEvaluation("physgym/Nothing-v0")
    with pytest.raises(ConfigError, match="the network was trained on field"):
        RolloutEvaluation(toys.Line, 5)(spring_network())
    with pytest.raises(ConfigError, match="got the environment"):
        RolloutEvaluation(gym.make("physgym/Spring-v0"))


def test_fresh_episodes_are_those_of_the_figures_of_a_training():
    """The error by horizon is that of the trajectories that a training compares, episode for episode."""
    evaluation = RolloutEvaluation(
        "physgym/Spring-v0", 60, env_kwargs=NARROW, seed=2, horizons=(1, 4, 16), max_steps=20
    )
    network = propagating(1.05)
    figures = evaluation(network)
    states = random.getstate(), torch.get_rng_state().tolist()
    report = evaluation.measure(network, 20, episodes=3)
    assert states == (random.getstate(), torch.get_rng_state().tolist())
    for h in (1, 4, 16):
        assert report.mean()[h - 1] == pytest.approx(figures[f"horizon_{h}/next_state"], rel=1e-3)
    assert report.counts.tolist() == [3] * 20
    np.testing.assert_allclose(report.seconds, 0.1 * np.arange(1, 21))
    assert report.source["env"] == "physgym/Spring-v0"
    again = evaluation.measure(network, 20, episodes=3, num_workers=1, num_envs=2, batch_size=8)
    np.testing.assert_allclose(again.mean(), report.mean(), rtol=1e-3)
    with pytest.raises(ConfigError, match="say how many fresh episodes are wanted: episodes=10, not"):
        evaluation.measure(network, 5, episodes=[1, 2])
    with pytest.raises(ConfigError, match="no episode has 21 steps to predict: the longest one has 20"):
        evaluation.measure(network, 21, episodes=1)


def test_a_simulation_without_feedback_is_refused_before_it_runs():
    class Unrun(toys.Flaky):
        def reset(self, **kwargs):
            raise AssertionError

    with pytest.raises(ConfigError, match="no feedback is declared"):
        RolloutEvaluation(Unrun, 10).measure(Predictor(nn.Identity(), SampleSpec.from_env(toys.Flaky())), 3)


def test_a_dataset_gives_the_horizons_of_a_training(tmp_path):
    data = generate(
        "physgym/Spring-v0", tmp_path / "d", episodes=3, max_steps=12, num_workers=0, env_kwargs=NARROW, progress=False
    )
    network, evaluation = propagating(1.05), RolloutEvaluation(data, horizons=(1, 10))
    figures = evaluation(network)
    assert list(figures) == evaluation.names(network) == ["horizon_1/next_state", "horizon_10/next_state"]
    report = evaluation.measure(network, 10)
    assert [*figures.values()] == [report.mean()[0], report.mean()[9]]
    assert figures["horizon_1/next_state"] == pytest.approx(0.05, rel=1e-3)
    trained = generate(
        "physgym/Spring-v0", tmp_path / "t", samples=24, num_workers=0, env_kwargs=NARROW, progress=False, seed=7
    )
    rollout = RolloutEvaluation(data, horizons=(1, 10))
    trainer = Trainer(
        MLP.from_spec(data.spec, hidden=(4,)), trained, epochs=1, validation=None, progress=False, rollout=rollout
    )
    trainer.fit()
    assert {"rollout_horizon_1/next_state", "rollout_horizon_10/next_state"} <= set(trainer.history.epochs[-1])
    with pytest.raises(ConfigError, match="needs horizons in a training"):
        RolloutEvaluation(data)(network)


def test_a_network_that_diverges_has_an_infinite_error_from_there_on():
    class Lost(Propagator):
        def forward(self, force, parameters, state):
            self.calls = getattr(self, "calls", 0) + 1
            found = super().forward(force, parameters, state)
            return found * torch.nan if 0 < self.alone <= self.calls else found

    network = propagating()
    network.network = Lost()
    network.network.alone, network.network.calls = 0, 0
    evaluation = RolloutEvaluation("physgym/Spring-v0", 4, env_kwargs=NARROW, seed=2, horizons=(1, 2, 3, 4))
    exact = evaluation(network)
    assert max(exact[f"horizon_{h}/next_state"] for h in (1, 2, 3, 4)) < 1e-3
    network.network.calls, network.network.alone = 0, 4 + 3  # after the steps next to the solver, the third alone
    lost = evaluation(network)
    assert [np.isinf(lost[f"horizon_{h}/next_state"]) for h in (1, 2, 3, 4)] == [False, False, True, True]
