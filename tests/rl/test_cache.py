"""A cache gives the transitions that were recorded, and refuses recordings that are not the agent's."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import physgym
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError
from physgym.rl.cache import TransitionCache
from physgym.rl.preprocessing import Preprocessing
from physgym.rl.recordings import open_recordings
from physgym.spaces import to_json

BOX = spaces.Box(-np.inf, np.inf, (2,), np.float32)
GEARS = spaces.Discrete(3, start=2)


class Numbered(gym.Env):
    """Observes (episode, step); ends after 3 + episode % 3 steps, terminated or truncated in turn."""

    def __init__(self, first: int = 0):
        self.observation_space, self.action_space = BOX, GEARS
        self.episode, self.t, self.bad = first - 1, 0, ()

    def _seen(self):
        bad = (self.episode, self.t) in self.bad
        return np.array([self.episode, np.nan if bad else self.t], np.float32)

    def reset(self, *, seed=None, options=None):
        self.episode, self.t = self.episode + 1, 0
        return self._seen(), {}

    def step(self, action):
        self.t += 1
        over = self.t == 3 + self.episode % 3
        ends = over and self.episode % 2 == 0, over and self.episode % 2 == 1
        return self._seen(), 10.0 * self.episode + self.t, *ends, {"speed": 0.5 * self.t}


def record(path, episodes: int, first: int = 0, *, env=None, whole: bool = True, **kwargs):
    """Record episodes with the gear 2 + step % 3; the last one is left open unless they are whole."""
    inner = Numbered(first) if env is None else env
    recorder = physgym.Recorder(inner, path, **{"infos": ["speed"], **kwargs})
    for number in range(episodes):
        recorder.reset()
        over, step = False, 0
        while not over and (whole or number < episodes - 1 or step < 2):
            *_, terminated, truncated, _ = recorder.step(2 + step % 3)
            over, step = terminated or truncated, step + 1
    recorder.close()
    return path


def cache_of(path, **kwargs) -> TransitionCache:
    return TransitionCache(path, BOX, GEARS, **kwargs)


def check(batch, stack: int = 1) -> list[tuple[int, int]]:
    """Assert that transitions are those of `Numbered`; return (episode, step) of each."""
    seen, behind = (part["observation"].numpy().reshape(len(batch), stack, 2) for part in
                    (batch.observation, batch.next_observation))  # fmt: skip
    episode, step = seen[:, -1, 0].astype(int), seen[:, -1, 1].astype(int)
    for back in range(stack):  # the first frame is repeated after a reset
        np.testing.assert_array_equal(seen[:, -1 - back, 1], np.maximum(step - back, 0))
        np.testing.assert_array_equal(behind[:, -1 - back, 1], np.maximum(step + 1 - back, 0))
    assert (seen[:, :, 0] == episode[:, None]).all()
    assert (behind[:, :, 0] == episode[:, None]).all()
    np.testing.assert_array_equal(batch.action, 2 + step % 3)
    assert batch.action.dtype == torch.int64
    np.testing.assert_array_equal(batch.reward, 10.0 * episode + step + 1)
    terminated = (step == 2 + episode % 3) & (episode % 2 == 0)
    np.testing.assert_array_equal(batch.discount, np.where(terminated, 0, 0.9).astype(np.float32))
    return list(zip(episode.tolist(), step.tolist(), strict=True))


def whole(cache: TransitionCache):
    return cache.transitions(np.arange(len(cache)), 0.9)


ALL = [(episode, step) for episode in range(7) for step in range(3 + episode % 3)]


@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_the_transitions_are_those_that_were_recorded(tmp_path, stack, memory):
    cache = cache_of(record(tmp_path / "a", 7, every=5), stack=stack, memory=memory)
    assert sorted(check(whole(cache), stack)) == ALL
    assert cache.observation_space.shape == ((2,) if stack == 1 else (stack, 2))
    batch = cache.sample(500, np.random.default_rng(0), 0.9)
    assert sorted(set(check(batch, stack))) == ALL


def test_an_episode_that_was_left_gives_its_transitions_and_an_open_one_all_but_its_last(tmp_path):
    cache = cache_of(record(tmp_path / "a", 7, whole=False))
    assert sorted(check(whole(cache))) == ALL[:-1]  # 2 of its 3 steps, then it was left
    recorder = physgym.Recorder(Numbered(), tmp_path / "b", every=1)
    recorder.reset()
    for step in range(3):
        recorder.step(2 + step)
    recorder.reset()
    recorder.step(2)
    recorder.log._writer.commit()  # as far as a killed program got
    assert sorted(check(whole(cache_of(tmp_path / "b")))) == [(0, 0), (0, 1), (0, 2)]
    recorder.close()


def test_one_file_several_folders_and_an_open_dataset(tmp_path):
    first, second = record(tmp_path / "a", 4, every=5), record(tmp_path / "b", 3, 4)
    both = cache_of([first, second])
    assert sorted(check(whole(both), 1)) == ALL
    assert sorted(check(whole(cache_of([first, second], stack=3)), 3)) == ALL  # episodes of both have one number
    one = cache_of(first / "training-00000.h5")
    assert sorted(check(whole(one))) == ALL[:3]  # then comes one whose next row is in the next file
    some = cache_of([first / "training-00001.h5", first / "training-00000.h5", second])
    assert len(both) > len(some) > len(one)
    assert len(cache_of([first / "training-00001.h5", first])) == len(cache_of(first))
    (tmp_path / "link").symlink_to(first)
    twice = [first, tmp_path / "link", tmp_path / "b" / ".." / "a", tmp_path / "link" / "training-00001.h5"]
    assert len(cache_of(twice)) == len(cache_of(first))  # one place by four names
    assert len(cache_of(open_recordings(first).subset(np.arange(5)))) == len(one)
    (tmp_path / "x.h5").write_bytes(b"")
    with pytest.raises(ConfigError, match="is no file of a dataset"):
        cache_of(tmp_path / "x.h5")
    with pytest.raises(DatasetError):
        cache_of(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no recording is given"):
        cache_of([])


def test_a_normalization_of_the_recorded_observations(tmp_path):
    path = record(tmp_path / "a", 7)
    recorded = physgym.SampleDataset(path)[:]["observation"]
    for memory in (0, 1 << 20):
        found = TransitionCache(path, stack=2, memory=memory).normalization()
        moved = found.observations({"observation": recorded})["observation"]
        np.testing.assert_allclose((moved.mean(0), moved.std(0)), ([0, 0], [1, 1]), atol=1e-5)
        assert found.frozen


@pytest.mark.parametrize("stack", [1, 2])
def test_rejected_rows_are_in_no_transition(tmp_path, stack):
    env = Numbered()
    env.bad = ((1, 2), (2, 5), (3, 0))  # in the middle, after a termination, at a reset
    cache = cache_of(record(tmp_path / "a", 5, env=env, nonfinite="reject"), stack=stack)
    gone = {(1, 1), (1, 2), (3, 0)} | ({(1, 3), (3, 1)} if stack == 2 else set())
    batch = whole(cache)
    seen = batch.observation["observation"].numpy().reshape(len(batch), -1, 2)[:, -1].astype(int)
    assert sorted(map(tuple, seen.tolist())) == sorted(set(ALL[:19]) - gone)
    assert all(torch.isfinite(part["observation"]).all() for part in (batch.observation, batch.next_observation))


def test_values_that_are_not_finite_are_left_out_with_a_word(tmp_path, caplog):
    env = Numbered()
    env.bad = ((1, 2), (3, 0))
    allowed = cache_of(record(tmp_path / "a", 5, env=env, nonfinite="allow"))
    assert "2 of 19 steps" in caplog.text
    again = Numbered()
    again.bad = env.bad
    rejected = cache_of(record(tmp_path / "b", 5, env=again, nonfinite="reject"))
    assert sorted(check(whole(allowed))) == sorted(check(whole(rejected)))


def test_recordings_of_transitions_are_read_too(tmp_path):
    env = physgym.RecordTransition(Numbered())
    physgym.generate(lambda: env, tmp_path / "a", samples=15, num_envs=1, num_workers=0, seed=0, progress=False)
    for stack in (1, 2):
        cache = TransitionCache(tmp_path / "a", stack=stack)  # it says its spaces
        assert cache.action_space == GEARS
        assert len(cache) == 15
        batch = whole(cache)
        seen, behind = batch.observation["observation"], batch.next_observation["observation"]
        now, later = (part.reshape(15, stack, 2)[:, -1] for part in (seen, behind))
        np.testing.assert_array_equal(later[:, 1], now[:, 1] + 1)
        np.testing.assert_array_equal(later[:, 0], now[:, 0])
        ends = (now[:, 1] == 2 + now[:, 0] % 3) & (now[:, 0] % 2 == 0)
        np.testing.assert_array_equal(batch.discount == 0, ends)
        if stack == 2:
            np.testing.assert_array_equal(seen[:, 0, 1], (now[:, 1] - 1).clip(min=0))


def test_recordings_of_other_spaces_are_one_clear_error(tmp_path):
    path = record(tmp_path / "a", 3)
    assert TransitionCache(path).action_space == GEARS
    with pytest.raises(ConfigError, match=r"recorded with observations Box\(.*, \(2,\).*agent has .* \(3,\), float32"):
        TransitionCache(path, spaces.Box(-1, 1, (3,)), GEARS)
    with pytest.raises(ConfigError, match=r"actions Discrete\(3, start=2\); .* actions Box"):
        TransitionCache(path, BOX, spaces.Box(-1, 1, (1,)))
    physgym.generate("physgym/Spring-v0", tmp_path / "s", samples=5, num_envs=1, num_workers=0, progress=False)
    with pytest.raises(ConfigError, match="no recording of transitions"):
        cache_of(tmp_path / "s")


class Continuous(Numbered):
    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(0, 255, (6, 4, 3), np.uint8)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)

    def _seen(self):
        return np.full((6, 4, 3), 10 * self.episode + self.t, np.uint8)


BINS = ["GrayscaleObservation", {"type": "DiscretizeAction", "arguments": {"bins": [3, 2]}}]


def drive(env) -> None:
    for _ in range(3):
        env.reset()
        over = False
        while not over:
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            over = terminated or truncated
    env.close()


@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_preprocessing_is_applied_to_what_was_recorded_without_it(tmp_path, memory):
    env = Continuous()
    raw = physgym.Recorder(env, tmp_path / "raw", infos=["speed"])
    drive(physgym.Recorder(Preprocessing(BINS).wrap(raw), tmp_path / "made", infos=["speed"]))
    within = Preprocessing(BINS).spaces(env.observation_space, env.action_space)
    given = {"preprocessing": BINS, "stack": 2, "memory": memory}
    raw, made = (TransitionCache(tmp_path / name, *within, **given) for name in ("raw", "made"))
    assert TransitionCache(tmp_path / "raw", **given).action_space == within[1]
    assert raw.observation_space == made.observation_space
    assert raw.action_space == spaces.Discrete(6)
    for left, right in (
        (raw.sample(50, np.random.default_rng(1), 0.5), made.sample(50, np.random.default_rng(1), 0.5)),
    ):
        assert left.observation["observation"].shape == (50, 2, 6, 4)
        for name in ("observation", "next_observation"):
            torch.testing.assert_close(getattr(left, name), getattr(right, name), rtol=0, atol=0)
        torch.testing.assert_close((left.action, left.reward), (right.action, right.reward), rtol=0, atol=0)
        assert len(set(left.action.tolist())) > 2


def test_a_reward_of_the_infos_takes_the_place_of_the_recorded_one(tmp_path):
    drive(physgym.Recorder(Continuous(), tmp_path / "a", infos=["speed"]))
    steps = [{"type": "InfoReward", "arguments": {"speed": 2.0}}]
    cache = TransitionCache(tmp_path / "a", preprocessing=steps)
    assert set(whole(cache).reward.tolist()) <= {float(t) for t in range(1, 6)}
    steps = [{"type": "InfoReward", "arguments": {"centre": 1.0, "max_cte": 4.0}}]
    with pytest.raises(ConfigError, match="cte"):
        TransitionCache(tmp_path / "a", preprocessing=steps)


def within(*wrappers):
    """The registered track in wrappers, which Gymnasium's description of it has."""
    return Preprocessing(wrappers).wrap(gym.make("physgym/Track-v0", observation="state", max_episode_steps=5))


def test_what_was_recorded_within_other_wrappers_of_the_same_spaces_is_refused(tmp_path):
    bins = BINS[-1]
    rewards = [{"type": "InfoReward", "arguments": {"speed": factor}} for factor in (1.0, 2.0)]
    skips = [{"type": "RepeatAction", "arguments": {"num_repeats": number}} for number in (2, 3)]
    for name, wrappers in (("bins", [bins]), ("reward", [bins, rewards[0]]), ("skip", [skips[0], bins])):
        drive(physgym.Recorder(within(*wrappers), tmp_path / name, infos=["cte", "speed"]))
    spaces_of = within(bins).observation_space, within(bins).action_space
    for name, wrappers in (
        ("bins", [bins, rewards[0]]),
        ("reward", [bins, rewards[1]]),
        ("reward", [bins]),
        ("skip", [skips[1], bins]),
    ):
        with pytest.raises(ConfigError, match=rf"{name} was recorded within other wrappers .* DiscretizeAction"):
            TransitionCache(tmp_path / name, *spaces_of, preprocessing=wrappers)
    for name, wrappers in (("bins", [bins]), ("reward", [bins, rewards[0]]), ("skip", [skips[0], bins]), ("skip", ())):
        cache = TransitionCache(tmp_path / name, *spaces_of, preprocessing=wrappers)
        dataset = physgym.SampleDataset(tmp_path / name)
        assert cache.rewards.tolist() == dataset[:]["reward"].tolist()
    number = {"type": "InfoReward", "arguments": {"speed": 1}}  # 1.0, of which the recording was made
    assert len(TransitionCache(tmp_path / "reward", *spaces_of, preprocessing=[bins, number]))
    # a wrapper that keeps the spaces is applied once
    drive(physgym.Recorder(within(skips[0]), tmp_path / "raw"))
    assert len(TransitionCache(tmp_path / "raw", preprocessing=[skips[0]]))


def copy(dataset, path, **attributes) -> None:
    with SampleWriter(path, dataset.spec, attributes=attributes) as writer:
        writer.append(dataset[:], **{part: dataset.index(part) for part in ("episode", "step", "seed", "env")})


def test_folders_of_different_spaces_are_no_cache(tmp_path):
    dataset = physgym.SampleDataset(record(tmp_path / "a", 2))
    for name, choices in (("b", 3), ("c", 4)):
        said = {"observation_space": to_json(BOX), "action_space": to_json(spaces.Discrete(choices, start=2))}
        copy(dataset, tmp_path / name, spaces=json.dumps(said))
    with pytest.raises(ConfigError, match=r"c has actions Discrete\(4.*b has Discrete\(3"):
        TransitionCache([tmp_path / "b", tmp_path / "c"])


def test_recordings_that_do_not_say_their_spaces_are_compared_by_what_they_hold(tmp_path):
    copy(physgym.SampleDataset(record(tmp_path / "a", 7)), tmp_path / "b")
    assert sorted(check(whole(cache_of(tmp_path / "b")))) == ALL
    with pytest.raises(ConfigError, match="does not say its spaces; give those of the agent"):
        TransitionCache(tmp_path / "b")
    with pytest.raises(ConfigError, match=r"observation \(2,\) float32.*observation \(3,\) float32"):
        TransitionCache(tmp_path / "b", spaces.Box(-1, 1, (3,)), GEARS)
    with pytest.raises(ConfigError, match=r"actions of .* are none of Discrete\(2"):
        TransitionCache(tmp_path / "b", BOX, spaces.Discrete(2, start=2))
