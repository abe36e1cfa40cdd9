"""Steps of a run, made and read in one process."""

import math

import numpy as np

from physgym.generation.stream import SampleStream
from physgym.running.surrogate import SurrogateEnv
from physgym.running.worker_report import SURROGATE, ReportStepsWrapper, read_reported_steps, without_predictions
from physgym.sample import SampleSpec
from physgym.worker.reported_steps import SECONDS
from tests.running.test_runner import Adopting, mlp, predictor, spring_predictor
from tests.support import toys


class Rejecting(toys.Line):
    """Rejects every second step."""

    steps = 0

    def step(self, action):
        self.steps += 1
        observation, reward, terminated, truncated, info = super().step(action)
        if self.steps % 2 == 0:
            info = {"rejected": f"step {self.steps} is even"}
        return observation, reward, terminated, truncated, info


def wrapped(env=Rejecting, network=None, *, apply=True) -> ReportStepsWrapper:
    network = network or predictor()
    outputs = [network.spec[name] for name in network.outputs]
    return ReportStepsWrapper(env(), network.inputs, outputs, apply)


def test_what_is_read_is_what_happened():
    with SampleStream(wrapped, num_workers=0, seed=3, reports=True, nonfinite="allow") as stream:
        assert not stream.metadata[SURROGATE]
        assert without_predictions(stream.spec) == SampleSpec.from_env(Rejecting())
        steps = []
        while len(steps) < 6:
            steps += read_reported_steps(stream.take(6 - len(steps)))
        seeds = [stream.episode_seed(0)] * 4 + [stream.episode_seed(1)] * 2
    assert [(step.episode, step.transition.step) for step in steps] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]
    assert [step.seed for step in steps] == seeds
    assert [step.transition.rejected for step in steps] == [
        "",
        "step 2 is even",
        "",
        "step 4 is even",
        "",
        "step 6 is even",
    ]
    assert [step.transition.sample is None for step in steps] == [False, True] * 3
    assert [step.transition.reward for step in steps] == [1.0] * 6
    assert [step.transition.ending for step in steps] == ["", "", "", "truncated", "", ""]
    assert [step.transition.last for step in steps] == [False, False, False, True, False, False]
    assert [step.prediction for step in steps] == [None] * 6
    assert all(step.solver_seconds > 0 for step in steps)
    assert all(math.isnan(step.network_seconds) for step in steps)
    found = steps[2].transition.sample
    np.testing.assert_array_equal(found["y"], 2 * found["x"].astype(np.float64) + 1)


def test_steps_have_the_fields_of_their_samples_and_no_others():
    env = wrapped()
    assert SampleSpec.from_env(env) == SampleSpec.from_env(Rejecting())
    env.reset(seed=0)
    infos = [env.step(env.action_space.sample())[4] for _ in range(2)]
    assert [set(info) for info in infos] == [{"sample", SECONDS}, {"rejected", SECONDS}]
    assert set(infos[0]["sample"]) == {"x", "y", "flag"}


def test_a_prediction_that_the_simulation_gets_is_a_field():
    network, own = mlp(Adopting), list(SampleSpec.from_env(Adopting()))
    env = wrapped(Adopting, network)
    assert list(SampleSpec.from_env(env)) == [*own, "prediction/y"]
    assert list(SampleSpec.from_env(wrapped(Adopting, network, apply=False))) == own
    env.unwrapped.predictor = network.predict
    env.reset(seed=0)
    info = env.step(env.action_space.sample())[4]
    sample = info["sample"]
    np.testing.assert_array_equal(sample["prediction/y"], network.predict({"x": sample["x"]})["y"])
    assert all(seconds > 0 for seconds in info[SECONDS])


def test_a_network_in_place_of_the_solver_predicts_and_has_no_solver_time():
    network = spring_predictor()
    env = wrapped(lambda: SurrogateEnv("physgym/Spring-v0", network), network)
    assert env.metadata[SURROGATE]
    assert set(SampleSpec.from_env(env)) == {"state", "parameters", "force", "prediction/next_state"}
    env.reset(seed=0)
    solver, seconds = env.step(env.action_space.sample())[4][SECONDS]
    assert math.isnan(solver)
    assert seconds > 0
