"""A network that learns from a recording what follows each step, and then stands in for the environment."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import physgym
from physgym.errors import ConfigError, SampleError
from physgym.experiment.config import check_config
from physgym.experiment.evaluate import evaluate
from physgym.experiment.runs import check, train
from physgym.nn import MLP, Changes, Predictor
from physgym.runner import RolloutEvaluation, Runner, SurrogateEnv, SurrogateVectorEnv
from physgym.sample import SampleSpec
from physgym.step_fields import step_fields
from physgym.training import Trainer

OUTPUTS = ["next_observation", "reward", "terminated"]
END = 6


class Walk(gymnasium.Env):
    """x grows by the action; the reward is its first number; an episode ends where the second is above a limit."""

    observation_space = spaces.Box(-99, 99, (2,), np.float64)
    action_space = spaces.Box(0.5, 1.5, (2,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-1, 1, 2)
        return self.x.copy(), {}

    def step(self, action):
        self.x = self.x + action
        return self.x.copy(), float(self.x[0]), bool(self.x[1] > END), False, {}


class Exact(nn.Module):
    """What Walk does, without error."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, observation, action):
        after = observation + action + self.unused
        return after, after[:, 0], (after[:, 1] > END).double()


@pytest.fixture(scope="module", autouse=True)
def registered():
    gymnasium.register("tests/Walk-v0", Walk)
    yield
    del gymnasium.registry["tests/Walk-v0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, registered):
    path = tmp_path_factory.mktemp("walks") / "data"
    env = physgym.Recorder(gymnasium.make("tests/Walk-v0"), path)
    env.action_space.seed(0)
    for episode in range(8):
        env.reset(seed=episode)
        while not env.step(env.action_space.sample())[2]:
            pass
    env.close()
    return path


@pytest.fixture
def recording(folder):
    return physgym.SampleDataset(folder)


def trainer(dataset, network=None, outputs=OUTPUTS, **options):
    torch.manual_seed(0)
    network = network or MLP.from_spec(dataset.spec, inputs=options.get("inputs"), outputs=outputs, hidden=(8,))
    options = {"epochs": 1, "batch_size": 16, "validation": 0.25, "progress": False, **options}
    return Trainer(network, dataset, outputs=outputs, **options)


def exact(recording):
    return trainer(recording, Exact(), normalize=False).predictor


def test_the_target_is_the_observation_of_the_next_row(recording):
    made = trainer(recording, Exact(), normalize=False)
    assert made.evaluate(made.validation)["loss"] < 1e-20
    report = evaluate(made.predictor, recording, worst=0, progress=False)
    assert report["rmse/next_observation"] < 1e-12
    assert report["rmse/terminated"] == report["rmse/reward"] == 0
    assert report.samples == len(recording) - 8  # the rows of the last observations have no next one
    assert not report.remarks


@pytest.mark.parametrize("unroll", [None, 1, 2])
@pytest.mark.parametrize("predict", ["value", "change"])
def test_rewards_and_flags_are_learned_next_to_it(recording, predict, unroll):
    made = trainer(recording, predict=predict, unroll=unroll)
    assert made.predictor.outputs == tuple(OUTPUTS)
    assert (made.predictor.changes is not None) == (predict == "change")
    assert np.isfinite(made.fit()["loss"]).all()
    # the same as from generated transitions, with the rows that hold no action left out of the loss
    unmasked = trainer(recording, outputs=["next_observation", "reward"], predict=predict, unroll=unroll)
    assert np.isfinite(unmasked.fit()["loss"]).all()


def test_rewards_alone_are_learned_without_the_rows_that_have_none(recording):
    made = trainer(recording, Reward(), ["reward"], normalize=False)
    assert made.unroll is None
    assert made.evaluate(made.validation)["loss"] < 1e-20


class Reward(Exact):
    def forward(self, observation, action):
        return super().forward(observation, action)[1]


def test_a_network_that_would_return_its_own_input_is_refused(recording, folder):
    wanted = r"observation'\], which also feeds.*outputs=\['next_observation', 'reward'\]"
    for options in ({}, {"predict": "change"}, {"unroll": 2}, {"inputs": ["action", "observation"]}):
        with pytest.raises(ConfigError, match=wanted):
            trainer(recording, outputs=["observation", "reward"], **options)
    transitions = physgym.RecordTransition(Walk())
    network = MLP.from_spec(SampleSpec.from_env(transitions), outputs=["observation"], hidden=(4,))
    learned = Predictor(network, SampleSpec.from_env(transitions), outputs=["observation"])
    with pytest.raises(ConfigError, match=wanted.replace(", 'reward'", "")):
        Trainer(learned, recording, epochs=1, progress=False)
    # one of before says what it is compared with
    report = evaluate(learned, recording, metrics=["rmse"], worst=0, progress=False)
    assert "observation is an input of the network and an output: it is compared with its own input" in str(report)
    given = {"dataset": {"path": str(folder)}, "network": {"arguments": {"hidden": [4]}}, "training": {"epochs": 1}}
    with pytest.raises(ConfigError, match=wanted):
        check(check_config({**given, "outputs": ["observation", "reward"], "session": "s"}, "test"))


def test_an_autoencoder_names_the_same_fields_twice(recording):
    names = ["observation"]
    made = trainer(recording, outputs=names, inputs=names)
    made.fit()
    assert made.predictor.outputs == made.predictor.inputs == ("observation",)
    assert "its own input" not in str(evaluate(made.predictor, recording, worst=0, progress=False))


@pytest.mark.slow
def test_a_configuration_does_the_same(recording, folder, tmp_path):
    given = {
        "dataset": {"path": str(folder)},
        "outputs": OUTPUTS,
        "network": {"arguments": {"hidden": [4]}},
        "training": {"epochs": 1, "predict": "change", "batch_size": 16},
    }
    done = train(check_config({**given, "session": str(tmp_path / "first")}, "test"))
    assert done.trainer.predictor.outputs == tuple(OUTPUTS)
    further = {**given, "session": str(tmp_path / "second"), "network": {"start_from": str(done.session)}}
    del further["outputs"]
    further["training"] = {"epochs": 1, "batch_size": 16, "predict": "change"}
    again = train(check_config(further, "test"))
    assert again.trainer.predictor.feedback == {"next_observation": "observation"}


def test_the_network_stands_in_for_the_environment(recording):
    predictor, env = exact(recording), gymnasium.make("tests/Walk-v0")
    with SurrogateEnv("transitions:tests/Walk-v0", predictor) as surrogate:
        for one in (env, surrogate):
            one.reset(seed=3)
        env.action_space.seed(1)
        for _ in range(12):
            action = env.action_space.sample()
            (seen, *wanted), (found, *got) = (one.step(action)[:4] for one in (env, surrogate))
            np.testing.assert_array_equal(found, seen)
            assert got == wanted
            if wanted[1]:
                break
        assert wanted[1]
    with SurrogateVectorEnv("transitions:tests/Walk-v0", predictor, num_envs=3) as envs:
        before, _ = envs.reset(seed=3)
        actions = envs.action_space.sample()
        np.testing.assert_allclose(envs.step(actions)[0], before + actions)


class Ending(Exact):
    """Says that each step ends the episode."""

    def forward(self, observation, action):
        after, reward, _ = super().forward(observation, action)
        return after, reward, torch.ones_like(reward)


def test_a_rollout_counts_flags_that_are_wrong(recording):
    predictor = exact(recording)
    report = RolloutEvaluation(recording).measure(predictor, 3)
    assert not any(report.mean(name=name).max() > 1e-12 for name in OUTPUTS)
    assert "relative_l2 of terminated (part of the flags that is wrong)" in str(report)
    made = trainer(recording, Ending(), normalize=False).predictor
    assert RolloutEvaluation(recording).measure(made, 2).mean(name="terminated").tolist() == [1, 1]


@pytest.mark.slow
def test_a_rollout_compares_recorded_names(recording, folder, tmp_path):
    made = trainer(recording)
    made.fit()
    other = physgym.Recorder(gymnasium.make("CartPole-v1"), tmp_path / "poles")
    other.reset(seed=0)
    other.step(1)
    other.close()
    with pytest.raises(ConfigError, match="are those of CartPole-v1, and the network has learned from tests/Walk-v0"):
        RolloutEvaluation(physgym.SampleDataset(tmp_path / "poles")).measure(made.predictor, 1)
    ending = trainer(recording, Ending(), normalize=False).predictor
    values = RolloutEvaluation("transitions:tests/Walk-v0", steps=6, seed=1, horizons=(1, 2))(ending)
    assert values["horizon_1/terminated"] == values["horizon_2/terminated"] == 1
    assert values["horizon_2/next_observation"] < 1e-12
    fresh = RolloutEvaluation("transitions:tests/Walk-v0", seed=1)
    assert len(fresh.measure(made.predictor, 2, episodes=2, progress=False).episodes) == 2


def test_errors_lead_to_it(recording):
    windows = recording.windows(inputs=1, targets=1)
    with pytest.raises(ConfigError, match="windows of a dataset that declares it, train on the dataset itself"):
        trainer(windows, outputs=["next_observation"], predict="change")
    learned = trainer(windows, outputs=["next_observation"]).predictor
    with pytest.raises(ConfigError, match=r"trained on windows.*\(1, 2\).*single steps, \(2,\)\. Train it on"):
        SurrogateEnv("transitions:tests/Walk-v0", learned)
    with pytest.raises(SampleError, match='put "transitions:" before its id'):
        Runner("tests/Walk-v0", exact(recording)).run(1)
    with pytest.raises(ConfigError, match="declare next_observation -> observation; name 'next_observation' as"):
        Changes.of(step_fields(recording.spec), ["observation", "action"], ["reward"])
