"""The training of agents: it is a function of its arguments, can be continued, and ends where it should."""

from __future__ import annotations

import gc
import os
import signal

import gymnasium
import numpy as np
import pytest
import torch

import physgym
from physgym import SampleDataset
from physgym.episode import episode_seed
from physgym.errors import CheckpointError, ConfigError, DatasetError, DivergedError
from physgym.events import Callback
from physgym.rl import AgentTrainer, load_agent
from physgym.training import load_checkpoint

SMALL = {"type": "MLP", "arguments": {"hidden": [8]}}


def trainer(agent="dqn", env="CartPole-v1", **kwargs):
    options = {"steps": 120, "num_envs": 2, "num_workers": 0, "learning_starts": 20, "batch_size": 8, "capacity": 100}
    options |= {"report_every": 50, "save_every": 50, "progress": False, "record": False}
    return AgentTrainer(agent, env, **options | {"agent_kwargs": {"network": SMALL}} | kwargs)


def weights(made):
    return {f"{i}": tensor.clone() for i, tensor in enumerate(tensors(made.agent.state_dict()))}


def tensors(tree):
    if isinstance(tree, dict):
        return [found for name in sorted(tree) for found in tensors(tree[name])]
    if isinstance(tree, (list, tuple)):
        return [found for part in tree for found in tensors(part)]
    return [tree] if isinstance(tree, torch.Tensor) else []


def same(first, second):
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one) and len(one) > 3


def test_it_acts_learns_and_records(tmp_path):
    made = trainer(session=tmp_path / "s")
    history = made.fit()
    assert [epoch["step"] for epoch in history.epochs] == [50, 100, 120]
    assert history.epochs[0]["return"] == history.epochs[0]["length"] > 5
    assert {"loss", "exploration", "samples", "seconds", "steps_per_second", "episodes"} <= set(history.epochs[1])
    assert sorted(path.name for path in (tmp_path / "s" / "networks").iterdir()) == ["step-000000100", "step-000000120"]
    data = SampleDataset(tmp_path / "s" / "replay")
    seeds, episodes = data.index("seed"), data.index("episode")
    assert all(
        seed == episode_seed(0, episode) for seed, episode in zip(seeds.tolist(), episodes.tolist(), strict=True)
    )
    policy = load_agent(tmp_path / "s")
    env = policy.wrap(gymnasium.make("CartPole-v1"))
    observation, _ = env.reset(seed=3)
    assert policy.act_preprocessed(observation) == made.policy.act_preprocessed(observation)
    env.close()
    with pytest.raises(CheckpointError, match="agent"):
        load_checkpoint(tmp_path / "s")


def test_an_episode_of_the_replay_is_that_of_its_seed(tmp_path):
    trainer(session=tmp_path / "s", capacity=None).fit()
    episode = SampleDataset(tmp_path / "s" / "replay").episode(3)
    env = gymnasium.make("CartPole-v1")
    seen, _ = env.reset(seed=episode_seed(0, 3))
    for row in range(len(episode["acted"]) - 1):
        assert (seen == episode["observation"][row]).all()
        seen, *_ = env.step(episode["action"][row])
    assert (seen == episode["observation"][-1]).all()
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "agent", "kwargs"),
    [
        ("CartPole-v1", "dqn", {"stack": 2, "normalize_observations": True, "normalize_rewards": True}),
        ("physgym/Track-v0", "sac", {"env_kwargs": {"observation": "state"}}),
    ],
    ids=["replayed", "restored"],
)
def test_it_goes_on_to_the_same_weights(tmp_path, env, agent, kwargs):
    whole = trainer(agent, env, **kwargs)
    whole.fit()
    trainer(agent, env, session=tmp_path / "s", steps=70, **kwargs).fit()
    again = trainer(agent, env, session=tmp_path / "s", resume=True, **kwargs)
    assert again.step == 70
    again.fit()
    assert again.step == whole.step == 120
    assert same(whole, again)


@pytest.mark.slow
def test_a_training_that_was_killed_makes_the_same_rows_again(tmp_path):
    class Killed(Exception):
        pass

    class Kill(Callback):
        def epoch_end(self, trainer, values):
            if trainer.step >= 100:
                trainer._parts.acting.replay.commit()
                raise Killed

    whole = trainer()
    whole.fit()
    with pytest.raises(Killed):
        trainer(session=tmp_path / "s", callbacks=[Kill()]).fit()
    again = trainer(session=tmp_path / "s", resume=True)
    assert again.step == 50
    again.fit()
    assert same(whole, again)


class Drifting(gymnasium.Env):
    """An environment that never does the same again."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    generator = np.random.default_rng()

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return self.generator.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.steps += 1
        return self.generator.uniform(-1, 1, 2).astype(np.float32), 1.0, False, self.steps == 9, {}


@pytest.mark.slow
def test_an_environment_that_does_something_else_goes_on_with_new_episodes(tmp_path, caplog):
    trainer(env=Drifting, session=tmp_path / "s", steps=70).fit()
    again = trainer(env=Drifting, session=tmp_path / "s", resume=True)
    again.fit()
    assert "do not do again" in caplog.text
    data = SampleDataset(tmp_path / "s" / "replay")
    assert again.step == 120
    names = set(zip(data.index("episode").tolist(), data.index("step").tolist(), strict=True))
    assert len(names) == len(data)


def test_settings_must_be_as_they_were(tmp_path):
    trainer(session=tmp_path / "s", steps=60).fit()
    with pytest.raises(CheckpointError, match="batch_size was 8, now it is 16"):
        trainer(session=tmp_path / "s", resume=True, batch_size=16)
    with pytest.raises(DatasetError, match="another training"):
        trainer(session=tmp_path / "s")


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"env": None}, "needs an environment"),
        ({"resume": True}, "give a session"),
        ({"agent": "sac"}, "continuous"),
        ({"agent": "ppo"}, "there is no agent"),
        ({"agent": {"kind": "dqn"}}, "an agent is a name"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"infos": "speed"}, "a list of names"),
        ({"max_episode_steps": {"first": 3}}, "first, last and episodes"),
        ({"evaluate_every": 10, "env_kwargs": [{}, {}]}, "evaluations need one environment"),
    ],
)
def test_arguments_that_are_wrong(kwargs, text):
    with pytest.raises(ConfigError, match=text):
        trainer(**kwargs)


def test_the_limit_of_steps_grows_with_the_episodes(tmp_path):
    limit = {"first": 2, "last": 6, "episodes": 8}
    trainer(session=tmp_path / "s", max_episode_steps=limit, capacity=None).fit()
    data = SampleDataset(tmp_path / "s" / "replay")
    lengths = {number: int(data.episode(number)["acted"].sum()) for number in range(12)}
    assert lengths[0] == lengths[1] == 2
    assert lengths[4] == 4
    assert lengths[9] == 6
    assert data.episode(0)["truncated"].tolist() == [0, 1, 0]


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_a_vector_environment_of_ones_own(mode):
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    envs = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2, autoreset_mode=AutoresetMode(mode))
    made = trainer(env=envs, max_episode_steps=None)
    made.fit()
    replay = made._parts.acting.replay
    batch = replay.sample(200, np.random.default_rng(0), 1.0)
    now, later = batch.observation["observation"].numpy(), batch.next_observation["observation"].numpy()
    assert np.allclose(later[:, 0], now[:, 0] + 0.02 * now[:, 1], atol=1e-6)  # the next one is of the same episode
    assert 120 <= made.step < 122


class Short(gymnasium.Env):
    """Episodes of three steps that earn 1, 2 and 3."""

    observation_space = gymnasium.spaces.Box(0, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.count += 1
        return np.full(1, self.count, np.float32), float(self.count), self.count == 3, False, {}


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_the_moments_of_returns_are_those_of_steps_alone(mode):
    # in the mode NEXT_STEP every fourth step is a reset, which earns nothing and is no step
    envs = gymnasium.vector.SyncVectorEnv([Short] * 2, autoreset_mode=gymnasium.vector.AutoresetMode(mode))
    made = trainer(env=envs, steps=24, normalize_rewards=True, learning_starts=100)
    made.fit()
    moments = made.policy.normalization.state_dict()["return"]
    returns = [1, 1 * 0.99 + 2, (1 * 0.99 + 2) * 0.99 + 3]
    assert moments["count"] == 24
    np.testing.assert_allclose([moments["mean"], moments["std"]], [np.mean(returns), np.std(returns)], rtol=1e-12)


def test_returns_begin_anew_where_episodes_do():
    made = trainer(env=Short, normalize_rewards=True)
    acting = made._parts.acting
    acting.begin()
    acting.send()
    acting.receive()
    assert made.policy.normalization.state_dict()["returns"].tolist() == [1, 1]
    acting.begin_anew()
    assert made.policy.normalization.state_dict()["returns"].tolist() == [0, 0]
    made.close()


def test_a_training_that_keeps_all_rows_goes_on_for_longer(tmp_path):
    options = {"env": Short, "capacity": None, "num_envs": 4}
    first = trainer(session=tmp_path / "s", steps=40, **options)
    first.fit()
    longer = trainer(session=tmp_path / "s", steps=120, resume=True, **options)
    assert longer._parts.acting.replay.every == first._parts.acting.replay.every == 22
    longer.fit()
    whole = trainer(steps=120, **options)
    whole.fit()
    assert same(longer, whole)
    assert len(SampleDataset(tmp_path / "s" / "replay")) == whole._parts.acting.replay.rows


@pytest.mark.parametrize("num_envs", [1, 3])
def test_it_may_learn_as_soon_as_there_is_a_transition(num_envs):
    made = trainer(env=Short, steps=24, num_envs=num_envs, learning_starts=0)
    assert made.fit().epochs[-1]["loss"] > 0
    assert made._parts.learning.steps == 24 // num_envs - 2  # none after the first step, nor after the last


def test_what_fails_while_the_environments_step_is_the_one_error(monkeypatch):
    def fail(batch):
        raise DivergedError("no")

    made = trainer(env=Short, learning_starts=4)  # a warning is an error here
    monkeypatch.setattr(made.agent, "learn", fail)
    with pytest.raises(DivergedError, match="no"):
        made.fit()


@pytest.mark.slow
def test_evaluations_enter_the_record(tmp_path):
    made = trainer(evaluate_every=60, evaluate_episodes=3, session=tmp_path / "s")
    history = made.fit()
    assert [epoch["step"] for epoch in history.epochs if "evaluation_return" in epoch] == [60, 120]
    assert load_agent(tmp_path / "s", "best").agent.steps in (60, 120)


def test_a_second_fit_says_how_to_go_on():
    made = trainer(steps=30)
    made.fit()
    assert not gc.get_freeze_count()
    with pytest.raises(ConfigError, match="resume=True"):
        made.fit()


class Texts(physgym.Simulation):
    """A simulation whose state holds a text and complex numbers."""

    sample_space = gymnasium.spaces.Dict({"x": gymnasium.spaces.Box(-9, 9, (1,), np.float32)})
    sample_roles = {"x": "input"}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-9, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def begin(self, options):
        self.x, self.word = 0.5 + 0.1j, "begun"

    def advance(self, action):
        self.x, self.word = self.x * (0.9 + 0.1j * int(action)), f"stepped {action}"

    def observation(self):
        return np.array([self.x.real + len(self.word) / 100], np.float32)

    def sample(self):
        return {"x": self.observation()}

    def outcome(self):
        return 1.0, False

    def state(self):
        return {"x": np.array(self.x), "word": np.array(self.word)}

    def set_state(self, state):
        self.x, self.word = complex(state["x"]), str(state["word"])


@pytest.mark.slow
def test_states_of_all_kinds_are_kept(tmp_path, caplog):
    whole = trainer(env=Texts, max_episode_steps=30)
    whole.fit()
    trainer(env=Texts, session=tmp_path / "s", steps=70, max_episode_steps=30).fit()
    again = trainer(env=Texts, session=tmp_path / "s", resume=True, max_episode_steps=30)
    again.fit()
    assert "do not do again" not in caplog.text
    assert same(whole, again)


def test_what_runs_in_real_time_begins_anew(tmp_path, caplog):
    class RealTime(Drifting):
        metadata = {"physgym.real_time": True}  # noqa: RUF012

        def step(self, action):
            RealTime.steps_made += 1
            return super().step(action)

    RealTime.steps_made = 0
    trainer(env=RealTime, session=tmp_path / "s", steps=70).fit()
    before = RealTime.steps_made
    again = trainer(env=RealTime, session=tmp_path / "s", resume=True, steps=72)
    again.fit()
    assert RealTime.steps_made == before + 2  # nothing is driven again
    assert "they run in real time" in caplog.text


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, capfd):
    class Interrupting(Callback):
        def epoch_end(self, trainer, values):
            if trainer.step == 50:
                os.kill(os.getpid(), signal.SIGINT)

    made = trainer(session=tmp_path / "s", callbacks=[Interrupting()], save_every=1000)
    history = made.fit()
    assert history.interrupted
    assert made.step == 50
    assert "interrupted at step 50; continue with resume=True" in capfd.readouterr().err
    again = trainer(session=tmp_path / "s", resume=True, save_every=1000)
    assert again.step == 50
    again.fit()
    whole = trainer()
    whole.fit()
    assert same(whole, again)


class Dying(gymnasium.Env):
    """An environment whose process dies once; it observes the number of its seed and the step."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, folder):
        self.folder = folder

    def _seen(self):
        return np.array([self.number, self.steps], np.float32)

    def reset(self, *, seed=None, options=None):
        self.number, self.steps = seed % 1000, 0
        return self._seen(), {}

    def step(self, action):
        self.steps += 1
        mark = self.folder / "died"
        if self.steps == 5 and self.number == episode_seed(0, 4) % 1000 and not mark.exists():
            mark.touch()
            os._exit(1)
        return self._seen(), 1.0, False, self.steps == 7, {}


@pytest.mark.slow
def test_a_worker_that_died_goes_on_with_the_next_episodes(tmp_path):
    options = {"env_kwargs": {"folder": tmp_path}, "num_workers": 1, "on_error": "restart", "capacity": None}
    made = trainer(env=Dying, session=tmp_path / "s", **options)
    made.fit()
    assert (tmp_path / "died").exists()
    data = SampleDataset(tmp_path / "s" / "replay")
    cut = data.episode(4)
    assert cut["acted"].tolist() == [True] * 4 + [False]  # what the last action did nobody knows
    assert data.episode(6)["observation"][:, 0].tolist() == [episode_seed(0, 6) % 1000] * 8
    for number in (0, 1, 2, 6, 7, 8):
        assert data.episode(number)["observation"][:, 1].tolist() == list(range(8))
