from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RescaleAction, TimeLimit
from torch import nn

from physgym import RejectSample, Simulation, SocketVectorEnv, generate
from physgym.envs.spring import Spring, propagator
from physgym.errors import ConfigError, SampleError
from physgym.nn import MLP, Predictor
from physgym.runner import SurrogateEnv, SurrogateVectorEnv
from physgym.sample import RecordTransition, SampleSpec
from physgym.spaces import flatten
from physgym.training.checkpoint_files import save_checkpoint
from tests.support.workers import forked_workers  # noqa: F401 - a fixture of all tests here

SHIPPED = {
    "physgym/Spring-v0": {},
    "physgym/Heat-v0": {"size": 8},
    "physgym/Burgers-v0": {"size": 32, "viscosity": (0.05, 0.1)},
    "physgym/BurgersStep-v0": {"size": 32, "viscosity": (0.05, 0.1)},
    "physgym/KuramotoSivashinsky-v0": {"size": 64, "warm_up": 5.0},
    "physgym/NavierStokes2D-v0": {"size": 8},
    "physgym/Darcy-v0": {"size": 9},
    "physgym/Beam-v0": {"nodes": (4, 4, 4)},
}


def untrained(env, hidden=(8,)) -> Predictor:
    torch.manual_seed(0)
    spec = SampleSpec.from_env(env)
    return Predictor(MLP.from_spec(spec, hidden=hidden), spec)


def spring_solver(fields):
    """The exact next state of a `Spring` with a time step of 0.1 s, as a network would predict it."""
    stiffness, mass, friction = fields["parameters"].astype(np.float64)
    after = propagator(stiffness, mass, friction, 0.1) @ np.array([*fields["state"], *fields["force"]])
    return {"next_state": after.astype(np.float32)}


def actions_of(env, count, seed=3):
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(count)]


# --- the hooks of the shipped simulations


@pytest.mark.parametrize(("env_id", "arguments"), SHIPPED.items())
def test_an_exact_prediction_gives_what_the_solver_gives(env_id, arguments):
    solver, other = (gym.make(env_id, **arguments).unwrapped for _ in range(2))
    spec = SampleSpec.from_env(solver)
    for env in (solver, other):
        env.reset(seed=2)
    rng = np.random.default_rng(5)
    kept = 0
    for _ in range(6):
        action = solver.sample_action(rng) if "Spring" not in env_id else solver.action_space.sample()
        fed = other.inputs(action)
        observation, reward, terminated, _, info = solver.step(action)
        if "sample" not in info:
            continue
        kept += 1
        for name in spec.names("input"):
            np.testing.assert_allclose(np.asarray(fed[name], np.float32), info["sample"][name], rtol=1e-5, atol=1e-5)
        other.adopt(action, {name: info["sample"][name] for name in spec.names("target")})
        np.testing.assert_array_equal(other.observation(), observation)
        assert other.observation().dtype == observation.dtype
        np.testing.assert_allclose(other.outcome()[0], reward, rtol=1e-5)
        assert other.outcome()[1] == terminated
        again = spec.check(dict(other.sample()))
        for name, value in info["sample"].items():
            np.testing.assert_allclose(again[name], value, rtol=1e-5, atol=1e-5)
        assert other.info().keys() == solver.info().keys()
    assert kept >= 3


def test_the_prediction_is_copied_into_the_state():
    for env_id, arguments in SHIPPED.items():
        env = gym.make(env_id, **arguments).unwrapped
        env.reset(seed=1)
        spec = SampleSpec.from_env(env)
        prediction = {name: np.ones(spec[name].shape, np.float32) for name in spec.names("target")}
        env.adopt(env.action_space.sample() * 0, prediction)
        before = env.observation()
        for value in prediction.values():
            value += 1
        np.testing.assert_array_equal(env.observation(), before)


@pytest.mark.slow
@pytest.mark.parametrize(("env_id", "arguments"), SHIPPED.items())
def test_checkers_accept_a_surrogate_of_each_simulation(env_id, arguments):
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    solver = gym.make(env_id, render_mode="rgb_array", **arguments)
    with SurrogateEnv(solver, untrained(solver)) as env, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unbounded observations, no spec to make it again
        assert env.observation_space == solver.observation_space
        assert env.action_space == solver.action_space
        check_env(env.unwrapped)
        sb3_check_env(env.unwrapped)
        assert env.unwrapped.unwrapped is env.unwrapped


# --- episodes


def test_a_perfect_network_makes_the_episodes_of_the_solver():
    solver, surrogate = gym.make("physgym/Spring-v0"), SurrogateEnv("physgym/Spring-v0", spring_solver)
    options = {"parameters": {"stiffness": 7.0}}
    first, info = solver.reset(seed=4, options=options)
    again, told = surrogate.reset(seed=4, options=options)
    np.testing.assert_array_equal(first, again)
    assert told["parameters"] == info["parameters"] == surrogate.parameters
    assert surrogate.np_random_seed == 4
    for step, action in enumerate(actions_of(solver, 100), start=1):
        expected, got = solver.step(action), surrogate.step(action)
        np.testing.assert_allclose(got[0], expected[0], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(got[1], expected[1], rtol=1e-3, atol=1e-4)
        assert got[2:4] == expected[2:4] == (False, step == 100)  # the time limit holds
        np.testing.assert_array_equal(got[4]["sample"]["next_state"], surrogate.prediction["next_state"])
    assert surrogate.network_seconds > 0
    with pytest.raises(ConfigError, match="no parameter 'stifness'"):
        surrogate.reset(options={"parameters": {"stifness": 7.0}})


def test_the_given_environment_stays_what_it_is():
    solver = gym.make("physgym/Spring-v0")
    surrogate = SurrogateEnv(solver, lambda fields: {"next_state": np.full(2, 9, np.float32)})
    surrogate.reset(seed=0)
    assert surrogate.step(np.zeros(1, np.float32))[0][0] == 9
    solver.reset(seed=0)
    assert solver.step(np.zeros(1, np.float32))[0][0] != 9


@pytest.mark.slow
def test_a_surrogate_is_drawn_by_its_simulation():
    with SurrogateEnv("physgym/Heat-v0", untrained(gym.make("physgym/Heat-v0")), render_mode="rgb_array") as env:
        env.reset(seed=0)
        before = env.render()
        env.step(env.action_space.sample())
        assert before.shape == env.render().shape == (480, 640, 3)
        assert (before != env.render()).any()


def test_gymnasium_makes_a_registered_surrogate(tmp_path):
    save_checkpoint(tmp_path / "network", untrained(gym.make("physgym/Spring-v0")))
    gym.register(
        "toy/SpringNetwork-v0",
        "physgym.running.surrogate:SurrogateEnv",
        max_episode_steps=5,
        kwargs={"env": "physgym/Spring-v0", "predictor": str(tmp_path / "network")},
    )
    try:
        env = gym.make("toy/SpringNetwork-v0", render_mode="rgb_array")
        env.reset(seed=1)
        ends = [env.step(action)[3] for action in actions_of(env, 5)]
        assert ends == [False] * 4 + [True]
        assert env.render().dtype == np.uint8
        env.close()
    finally:
        del gym.registry["toy/SpringNetwork-v0"]


class Counter(Simulation):
    """Adds the action to a state in [0, 10]; the observation has a bounded and a counting part."""

    action_space = spaces.Box(-5, 5, (1,), np.float32)
    observation_space = spaces.Dict({"level": spaces.Box(0, 10, (1,), np.float32), "steps": spaces.Discrete(4)})
    sample_space = spaces.Dict({"x": spaces.Box(-99, 99, (2,), np.float32), "y": spaces.Box(-99, 99, (1,), np.float32)})
    sample_roles = {"x": "input", "y": "target"}  # noqa: RUF012

    def begin(self, options):
        self.state, self.steps = np.full(1, 5, np.float32), 0

    def advance(self, action):
        self.adopt(action, {"y": np.clip(self.state + action, 0, 10)})

    def observation(self):
        return {"level": self.state.copy(), "steps": np.int64(min(self.steps, 3))}

    def sample(self):
        return {"x": np.array([self.state[0], 0]), "y": self.state}

    def outcome(self):
        return float(self.state[0]), bool(self.steps > 5)

    def info(self):
        return {"steps": self.steps}

    def inputs(self, action):
        if action[0] == 5:
            raise RejectSample("the network was never fed with that")
        return {"x": np.array([self.state[0], action[0]])}  # float64, of which the network gets float32

    def adopt(self, action, prediction):
        self.state, self.steps = np.array(prediction["y"], np.float32), self.steps + 1


def act(value):
    return np.full(1, value, np.float32)


def test_observations_stay_within_their_space():
    env = SurrogateEnv(Counter, lambda fields: {"y": fields["x"].sum(keepdims=True) * 3})
    env.reset(seed=0)
    for value in (1, -3, 2):
        observation, reward, *_ = env.step(act(value))
        assert env.observation_space.contains(observation)
    assert observation["level"] == 10
    assert reward > 10  # the state itself is what the network says


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_prediction_that_is_not_finite_is_a_rejected_step(value):
    answers = iter([7.0, value, 8.0])
    env = SurrogateEnv(Counter, lambda fields: {"y": np.full(1, next(answers), np.float32)})
    env.reset(seed=0)
    env.step(act(1))
    observation, reward, terminated, truncated, info = env.step(act(1))
    assert (observation["level"], reward, terminated, truncated) == (7, 7, False, False)
    assert info == {"steps": 1, "rejected": "the network predicted values of ['y'] that are not finite"}
    assert env.step(act(1))[0]["level"] == 8
    assert env.step(act(5))[4]["rejected"] == "the network was never fed with that"


def test_what_does_not_fit_is_said(tmp_path):
    class NoHooks(Counter):
        inputs = Simulation.inputs

    class NoInput(Counter):
        def inputs(self, action):
            return {"z": action}

    spec = SampleSpec.from_env(Counter())
    network = Predictor(nn.Linear(2, 1), spec)
    for env, text in (
        (NoHooks, "lacks inputs. Implement inputs"),
        (gym.make("CartPole-v1"), "RecordTransition and use"),
    ):
        with pytest.raises(ConfigError, match=text):
            SurrogateEnv(env, network)
    with pytest.raises(ConfigError, match="does not implement inputs"):
        NoHooks().inputs(act(0))
    with pytest.raises(ConfigError, match=r"trained on field 'x' as float32 \(2,\), the simulation has none"):
        SurrogateEnv("physgym/Spring-v0", network)
    with pytest.raises(ConfigError, match=r"trained on field 'x'"):
        SurrogateEnv("physgym/Spring-v0").predictor = network
    env = SurrogateEnv(NoInput, network)
    env.reset()
    with pytest.raises(ConfigError, match=r"NoInput: inputs\(action\) gives \['z'\], but the network is fed with 'x'"):
        env.step(act(0))
    env = SurrogateEnv(Counter, Predictor(nn.Identity(), spec, outputs=["x"]))
    env.reset()
    with pytest.raises(ConfigError, match=r"Counter needs the field 'y' of a prediction, the network predicts \['x'\]"):
        env.step(act(0))
    env = SurrogateEnv(Counter)
    env.reset()
    with pytest.raises(SampleError, match="the surrogate has no network"):
        env.step(act(0))
    with pytest.raises(ConfigError, match="made already"):
        SurrogateEnv(Counter(), network, env_kwargs={"a": 1})
    with pytest.raises(ConfigError, match="in outcome"):
        SurrogateEnv(Counter, network, reward=lambda *_: 1.0)
    with pytest.raises(ConfigError, match="num_envs must be at least 1"):
        SurrogateVectorEnv(Counter, network, 0)
    with pytest.raises(ConfigError, match="a batched step needs"):
        SurrogateVectorEnv(Counter, lambda fields: fields, 2)
    with pytest.raises(AttributeError, match="no attribute '_nothing'"):
        getattr(SurrogateEnv(Counter, network), "_nothing")  # noqa: B009


def test_a_reinforcement_learner_trains_on_it():
    from stable_baselines3 import PPO

    env = SurrogateEnv("physgym/Spring-v0", untrained(gym.make("physgym/Spring-v0")))
    model = PPO("MlpPolicy", env, n_steps=128, batch_size=64, n_epochs=1, seed=0, device="cpu").learn(256)
    assert model.num_timesteps == 256
    assert len(model.ep_info_buffer) == 2  # episodes of 100 steps: the time limit holds
    env.close()


# --- vector environments


class Noisy(gym.Wrapper):
    """Changes actions in its step, with random numbers of its own."""

    def __init__(self, env):
        super().__init__(env)
        self.rng = np.random.default_rng(0)

    def step(self, action):
        return self.env.step(action * np.float32(self.rng.uniform(0.5, 1)))


def short_spring():
    return TimeLimit(RescaleAction(Spring(), np.float32(-1), np.float32(1)), 4)


def noisy_spring():
    return TimeLimit(Noisy(Spring()), 3)


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("make", [short_spring, noisy_spring, Counter])
def test_the_vector_env_equals_gymnasiums(make, mode):
    network = untrained(make())
    ours = SurrogateVectorEnv(make, network, 3, autoreset_mode=mode)
    theirs = SyncVectorEnv([lambda: SurrogateEnv(make, network)] * 3, autoreset_mode=mode)
    both = (ours, theirs)
    space = ours.single_observation_space

    def equal(got, expected):
        for a, b in zip(flatten(space, got[0]), flatten(space, expected[0]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        for a, b in zip(got[1:-1], expected[1:-1], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        assert got[-1].keys() == expected[-1].keys()
        for name, value in got[-1].get("sample", {}).items():
            np.testing.assert_allclose(value, expected[-1]["sample"][name], rtol=1e-4, atol=1e-5)

    equal(*(envs.reset(seed=7) for envs in both))
    for actions in actions_of(theirs, 12):
        got, expected = (envs.step(actions) for envs in both)
        equal(got, expected)
        ended = got[2] | got[3]
        if mode == AutoresetMode.DISABLED and ended.any():
            equal(*(envs.reset(seed=[1, 2, 3], options={"reset_mask": ended.copy()}) for envs in both))
    for envs in both:
        envs.close()


def test_a_step_of_the_vector_env_is_one_prediction():
    network, sizes = untrained(short_spring()), []
    network.network.register_forward_hook(lambda module, fed, out: sizes.append(len(out)))
    with_limits = SurrogateVectorEnv(short_spring, network, 5)
    with_limits.reset(seed=0)
    for actions in actions_of(with_limits, 6):
        with_limits.step(actions)
    assert sizes == [5, 5, 5, 5, 5]  # the fifth step resets all of them
    with_limits.close()


def test_an_error_of_one_environment_leaves_the_others_usable():
    envs = SurrogateVectorEnv("physgym/Beam-v0", untrained(gym.make("physgym/Beam-v0")), 2)
    envs.reset(seed=0)
    wrong = np.zeros(envs.action_space.shape, np.float32)
    wrong[1, 0, 0] = 1e9
    with pytest.raises(SampleError, match="the action must hold finite nodal forces"):
        envs.step(wrong)
    envs.reset(seed=0)
    assert np.isfinite(envs.step(wrong * 0)[0]).all()
    envs.close()


def test_surrogates_in_workers_ask_the_network_of_the_parent():
    network = untrained(short_spring())
    with SocketVectorEnv([lambda: SurrogateEnv(short_spring)] * 2, num_workers=1, predictor=network) as envs:
        here = SurrogateVectorEnv(short_spring, network, 2)
        np.testing.assert_array_equal(envs.reset(seed=3)[0], here.reset(seed=3)[0])
        for actions in actions_of(here, 6):
            np.testing.assert_allclose(envs.step(actions)[0], here.step(actions)[0], rtol=1e-4, atol=1e-5)
        here.close()


# --- transitions


class Walk(gym.Env):
    """A walk on 0 .. 9 with a bounded height; it ends at 9."""

    observation_space = spaces.Dict({"height": spaces.Box(-1, 1, (2,), np.float32), "place": spaces.Discrete(10)})
    action_space = spaces.Discrete(3, start=-1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = np.int64(self.np_random.integers(5))
        return self.observe(), {}

    def observe(self):
        return {"height": np.full(2, self.place / 9, np.float32), "place": self.place}

    def step(self, action):
        self.place = np.int64(np.clip(self.place + action, 0, 9))
        return self.observe(), -1.0, bool(self.place == 9), False, {}


class ExactWalk(nn.Module):
    """Predicts next height, next place and, if asked for it, reward and end; not bounded, as networks are not."""

    def __init__(self, *, judges=False):
        super().__init__()
        self.judges = judges

    def forward(self, height, place, action):
        after = torch.clamp(place + action, 0, 9)
        found = [after[:, None].expand(-1, 2) / 9 + 0.0, after + 0.2]
        return tuple(found + ([0.0 * after - 1, (after >= 9).float() - 0.1] if self.judges else []))


def walk(limit=6):
    return RecordTransition(TimeLimit(Walk(), limit))


NEXT = ["next_observation/height", "next_observation/place"]


@pytest.mark.parametrize("judges", [True, False])
def test_any_environment_can_be_stood_in_for_by_its_transitions(judges):
    solver = walk()
    outputs = [*NEXT, *(["reward", "terminated"] if judges else [])]
    network = Predictor(ExactWalk(judges=judges), SampleSpec.from_env(solver), outputs=outputs)
    functions = {}
    if not judges:
        functions = {
            "reward": lambda before, action, after: -1.0 + 0 * action,
            "terminated": lambda before, action, after: before["place"] < after["place"] == 9,
        }
    surrogate = SurrogateEnv(walk(), network, **functions)
    ends = set()
    for seed in range(8):
        first, again = solver.reset(seed=seed)[0], surrogate.reset(seed=seed)[0]
        assert first["place"] == again["place"]
        for action in [1, 1, 1, 1, 1, 1] if seed % 2 else [-1, -1, -1, 1, -1, 1]:
            expected, got = solver.step(np.int64(action)), surrogate.step(np.int64(action))
            assert surrogate.observation_space.contains(got[0])
            assert got[0]["place"] == expected[0]["place"]
            np.testing.assert_allclose(got[0]["height"], expected[0]["height"], atol=1e-6)
            assert got[1:4] == expected[1:4]
            for name, value in expected[4]["sample"].items():
                assert np.asarray(got[4]["sample"][name]["place"] if isinstance(value, dict) else value).shape == ()
            if got[2] or got[3]:
                ends.add(got[2:4])
                break
    assert ends >= {(True, False), (False, True)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(surrogate.unwrapped)
    assert surrogate.render() is None


def test_transitions_of_several_environments_are_predicted_at_once():
    network = Predictor(ExactWalk(), SampleSpec.from_env(walk()), outputs=NEXT)
    envs = SurrogateVectorEnv(walk, network, 3, reward=lambda *_: 2.0)
    envs.reset(seed=1)
    _, rewards, *_ = envs.step(np.array([1, 0, -1]))
    assert rewards.tolist() == [2, 2, 2]
    envs.close()
    short = Predictor(nn.Identity(), SampleSpec.from_env(walk()), inputs=NEXT[:1], outputs=NEXT[:1])
    with pytest.raises(ConfigError, match=r"must predict \['next_observation/place'\]; it predicts"):
        SurrogateEnv(walk(), short)


@pytest.mark.slow
def test_a_network_trained_on_transitions_stands_in(tmp_path):
    from physgym.training import Trainer

    def spring():
        return RecordTransition(gym.make("physgym/Spring-v0"))

    dataset = generate(spring, tmp_path / "d", samples=200, num_workers=0, progress=False)
    torch.manual_seed(0)
    network = MLP.from_spec(dataset.spec, hidden=(16,))
    trainer = Trainer(network, dataset, epochs=2, batch_size=32, progress=False)
    trainer.fit()
    env = SurrogateEnv(spring(), trainer.predictor)
    observation, _ = env.reset(seed=0)
    for action in actions_of(env, 100):
        observation, _, _, truncated, info = env.step(action)
        assert env.observation_space.contains(observation)  # the parameters in it keep their bounds
    assert truncated
    assert info["sample"].keys() == dataset.spec.keys()
