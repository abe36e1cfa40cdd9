"""The libraries' own loops run on a shipped simulation and on a network in its place, with a Recorder under them.

Whether they learn is for the other tests of this folder: here each makes some steps, and what the Recorder wrote is
compared with what the library's own buffer holds.
"""

from __future__ import annotations

import contextlib
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import DiscretizeAction

import physgym
from physgym.adapters.sb3 import SB3VecEnv
from physgym.nn import MLP, Predictor
from physgym.runner import SurrogateEnv
from physgym.sample import SampleSpec
from physgym.training import save_checkpoint
from tests.support.workers import kept_start_method

TRACK, SURROGATE = "physgym/Track-v0", "toy/TrackNetwork-v0"
STATE = {"observation": "state", "tracks": (0, 3)}
IDS = {TRACK: STATE, SURROGATE: {}}


def forward(before, action, after):
    return float(after[2])


@pytest.fixture(scope="module", autouse=True)
def surrogate(tmp_path_factory):
    """A registered network in place of the track; it has learned nothing."""
    path = tmp_path_factory.mktemp("drop_in") / "network"
    spec = SampleSpec.from_env(gym.make(TRACK, **STATE).unwrapped)
    torch.manual_seed(0)
    save_checkpoint(path, Predictor(MLP.from_spec(spec, hidden=(8,)), spec))
    gym.register(
        SURROGATE,
        "physgym.runner:SurrogateEnv",
        max_episode_steps=30,
        kwargs={"env": TRACK, "env_kwargs": STATE, "predictor": str(path), "reward": forward},
    )
    yield
    del gym.registry[SURROGATE]


def make(env_id):
    """An environment with fourteen actions, whose episodes are short."""
    return DiscretizeAction(gym.make(env_id, max_episode_steps=20, **IDS[env_id]), bins=(7, 2))


def vector(env_id, kind, count=2, mode=AutoresetMode.SAME_STEP):
    if kind == "gymnasium":
        return gym.make_vec(
            env_id,
            num_envs=count,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": mode},
            max_episode_steps=20,
            wrappers=[lambda env: DiscretizeAction(env, bins=(7, 2))],
            **IDS[env_id],
        )
    return physgym.SocketVectorEnv([lambda: make(env_id)] * count, num_workers=0, autoreset_mode=mode)


def stored(path):
    """Transitions of a recording in their order."""
    dataset = physgym.SampleDataset(path)
    windows = dataset.windows(1, 1)
    found = windows.gather(np.arange(len(windows)))
    return {name: value[:, 0] if name == "observation" else value for name, value in found.items()}


def assert_same_transitions(path, observations, actions, followers):
    """Each transition of a library's buffer is in the recording, as often as there."""

    def rows(*columns):
        joined = np.concatenate([np.asarray(column, np.float64).reshape(len(columns[0]), -1) for column in columns], 1)
        return sorted(map(tuple, joined.tolist()))

    recorded = stored(path)
    assert len(recorded["action"]) > 20
    after = recorded["next_observation"]
    assert rows(recorded["observation"], recorded["action"], after) == rows(observations, actions, followers)


# --- all three ways to make environments give the same


@pytest.mark.parametrize("env_id", IDS)
def test_one_or_several_environments_give_the_same_steps(env_id):
    single = make(env_id)
    observation, _ = single.reset(seed=4)
    rng = np.random.default_rng(0)
    actions = rng.integers(14, size=30)
    expected = [observation]
    for action in actions[:20]:
        observation, _, terminated, truncated, _ = single.step(action)
        expected.append(observation)
        if terminated or truncated:
            break
    for kind in ("gymnasium", "physgym"):
        envs = vector(env_id, kind, mode=AutoresetMode.NEXT_STEP)
        seen = [envs.reset(seed=[4, 5])[0][0]]
        for action in actions[: len(expected) - 1]:
            seen.append(envs.step(np.full(2, action))[0][0])
        envs.close()
        np.testing.assert_array_equal(np.stack(seen), np.stack(expected))


# --- Stable-Baselines3

DQN = {"learning_starts": 20, "buffer_size": 200, "batch_size": 16, "train_freq": 2, "seed": 0, "device": "cpu"}
SB3 = pytest.importorskip("stable_baselines3")


@pytest.mark.slow
@pytest.mark.parametrize("env_id", IDS)
def test_stable_baselines_acts_and_learns_in_one_environment(tmp_path, env_id):
    env = physgym.Recorder(make(env_id), tmp_path / "a")
    model = SB3.DQN("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, **DQN)
    before = [weight.clone() for weight in model.q_net.parameters()]
    model.learn(60)
    env.close()
    assert any(not torch.equal(a, b) for a, b in zip(before, model.q_net.parameters(), strict=True))
    buffer, count = model.replay_buffer, 60
    parts = (buffer.observations, buffer.actions, buffer.next_observations)
    assert_same_transitions(tmp_path / "a", *(part[:count, 0] for part in parts))


@pytest.mark.parametrize("env_id", IDS)
def test_stable_baselines_acts_and_learns_in_several(tmp_path, env_id):
    envs = vector(env_id, "physgym", 3)
    recorder = physgym.Recorder(envs, tmp_path / "a")
    with contextlib.closing(SB3VecEnv(recorder)) as view:
        model = SB3.DQN("MlpPolicy", view, policy_kwargs={"net_arch": [8]}, **DQN)
        model.learn(90)
    buffer = model.replay_buffer
    parts = (buffer.observations, buffer.actions, buffer.next_observations)
    assert_same_transitions(tmp_path / "a", *(part[:30].reshape(90, -1) for part in parts))


def test_stable_baselines_takes_continuous_actions():
    env = gym.make(TRACK, max_episode_steps=20, **STATE)
    settings = {"learning_starts": 10, "buffer_size": 100, "batch_size": 8, "seed": 0, "device": "cpu"}
    model = SB3.SAC("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, **settings)
    model.learn(15)
    action, _ = model.predict(env.reset(seed=0)[0], deterministic=True)
    assert env.action_space.contains(action)


# --- a loop in the manner of CleanRL: all in one function, on a vector environment


def q_learning(envs, steps, seed=0):
    """Learn from every step but those that only reset; return what was learned from."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    size, count = envs.single_observation_space.shape[0], int(envs.single_action_space.n)
    network = torch.nn.Sequential(torch.nn.Linear(size, 8), torch.nn.ReLU(), torch.nn.Linear(8, count))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    same_step = envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    over, learned = np.zeros(envs.num_envs, bool), []
    observations, _ = envs.reset(seed=seed)
    for _ in range(steps):
        with torch.no_grad():
            best = network(torch.as_tensor(observations)).argmax(1).numpy()
        actions = np.where(rng.random(envs.num_envs) < 0.5, rng.integers(count, size=envs.num_envs), best)
        following, rewards, terminated, truncated, infos = envs.step(actions)
        ended = terminated | truncated
        after = following.copy()
        for i in np.flatnonzero(ended) if same_step else ():
            after[i] = infos["final_obs"][i]
        known = ~over
        learned.append((observations[known].copy(), actions[known], after[known]))
        with torch.no_grad():
            next_value = network(torch.as_tensor(after[known])).max(1).values
        wanted = torch.as_tensor(rewards[known], dtype=torch.float32) + 0.99 * next_value * ~torch.as_tensor(
            terminated[known]
        )
        value = network(torch.as_tensor(observations[known])).gather(1, torch.as_tensor(actions[known])[:, None])
        loss = (value.squeeze(1) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        observations, over = following, np.zeros_like(ended) if same_step else ended
    return [np.concatenate(column) for column in zip(*learned, strict=True)]


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("kind", ["gymnasium", "physgym"])
@pytest.mark.parametrize("env_id", IDS)
def test_a_loop_in_one_file_acts_and_learns(tmp_path, env_id, kind, mode):
    envs = physgym.Recorder(vector(env_id, kind, mode=mode), tmp_path / "a")
    learned = q_learning(envs, 30)
    envs.close()
    assert_same_transitions(tmp_path / "a", *learned)


# --- Tianshou


@pytest.mark.slow
@pytest.mark.parametrize("env_id", IDS)
def test_tianshou_acts_and_learns(tmp_path, env_id):
    pytest.importorskip("tianshou")
    from tianshou.algorithm import DQN as Learner
    from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.trainer import OffPolicyTrainerParams
    from tianshou.utils.net.common import Net

    from physgym.adapters.tianshou import TianshouVectorEnv

    single = make(env_id)
    policy = DiscreteQLearningPolicy(
        model=Net(state_shape=(5,), action_shape=14, hidden_sizes=[8]),
        action_space=single.action_space,
        observation_space=single.observation_space,
        eps_training=0.5,
    )
    learner = Learner(policy=policy, optim=AdamOptimizerFactory(lr=1e-3), gamma=0.98, target_update_freq=20)
    folders = iter([tmp_path / "0", tmp_path / "1"])
    ours = TianshouVectorEnv(vector(env_id, "physgym", mode=AutoresetMode.NEXT_STEP))
    its = DummyVectorEnv([lambda: physgym.Recorder(make(env_id), next(folders))] * 2)
    for envs in (ours, its):
        buffer = VectorReplayBuffer(200, 2)
        collector = Collector(learner, envs, buffer, exploration_noise=True)
        collector.reset()
        learner.run_training(
            OffPolicyTrainerParams(
                training_collector=collector,
                max_epochs=1,
                epoch_num_steps=60,
                collection_step_num_env_steps=10,
                update_step_num_gradient_steps_per_sample=0.1,
                batch_size=16,
                test_step_num_episodes=0,
                show_progress=False,
                verbose=False,
            )
        )
        envs.close()
        assert len(buffer) >= 60
    for number, part in enumerate(buffer.buffers):
        assert_same_transitions(tmp_path / str(number), *(part[: len(part)][n] for n in ("obs", "act", "obs_next")))


# --- TorchRL


@pytest.mark.slow
@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("kind", ["one", "gymnasium", "physgym"])
def test_torchrl_acts_and_learns(env_id, kind):
    with warnings.catch_warnings(), kept_start_method():
        warnings.simplefilter("ignore", DeprecationWarning)
        pytest.importorskip("torchrl.collectors")
        from torchrl.collectors import Collector
        from torchrl.data import LazyTensorStorage, ReplayBuffer
        from torchrl.envs import GymWrapper
        from torchrl.modules import QValueActor
        from torchrl.objectives import DQNLoss

    inner = make(env_id) if kind == "one" else vector(env_id, kind, mode=AutoresetMode.DISABLED)
    env = GymWrapper(inner, categorical_action_encoding=True)
    env.set_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 14))
    actor = QValueActor(network, in_keys=["observation"], spec=env.action_spec_unbatched, action_space="categorical")
    loss = DQNLoss(actor, action_space="categorical", delay_value=False)
    buffer = ReplayBuffer(storage=LazyTensorStorage(200), batch_size=16)
    optimizer = torch.optim.Adam(loss.parameters(), 1e-3)
    before = [weight.detach().clone() for weight in network.parameters()]
    collector = Collector(env, actor, frames_per_batch=40, total_frames=80, auto_register_policy_transforms=False)
    for batch in collector:
        buffer.extend(batch.reshape(-1))
        optimizer.zero_grad()
        loss(buffer.sample())["loss"].backward()
        optimizer.step()
    collector.shutdown()
    assert len(buffer) == 80
    assert buffer.sample()["next", "observation"].shape == (16, 5)
    after = [weight.detach() for weight in loss.parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_surrogate_is_what_is_tested(tmp_path):
    assert isinstance(gym.make(SURROGATE).unwrapped, SurrogateEnv)
