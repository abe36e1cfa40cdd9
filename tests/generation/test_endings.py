"""How episodes ended: in the flag of the last sample, and beside the samples."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

import physgym
from physgym.data.writer import SampleWriter
from physgym.episode import require_spec, run_episode
from physgym.errors import ConfigError
from physgym.formats.archive import archive
from physgym.sample import Field, SampleSpec


class Ending(gym.Env):
    """Ends by itself after as many steps as its seed says: even ones by a terminal state, odd ones by truncation."""

    observation_space = spaces.Box(-99, 99, (), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.length = 0, int(self.np_random.integers(2, 9))
        return np.float32(0), {}

    def step(self, action):
        self.t += 1
        over = self.t == self.length
        return np.float32(self.t), 0.0, over and self.length % 2 == 0, over and self.length % 2 == 1, {}


def recorded():
    return physgym.RecordTransition(Ending())


def lengths(dataset):
    return dict(zip(*(column.tolist() for column in np.unique(dataset.episodes, return_counts=True)), strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_flag_and_the_index_say_how_each_episode_ended(tmp_path, workers):
    dataset = physgym.generate(recorded, tmp_path / "d", samples=59, max_steps=4, num_workers=workers, progress=False)
    found, data = dataset.endings, dataset[:]
    rows = np.flatnonzero(np.diff(dataset.episodes, append=-1))
    assert set(found.values()) == {"terminated", "truncated", "cut", "unfinished"}
    assert list(found.values()).index("unfinished") == len(found) - 1
    for row in rows[:-1]:
        episode, length = int(dataset.episodes[row]), lengths(dataset)[int(dataset.episodes[row])]
        terminated, truncated = int(data["terminated"][row]), int(data["truncated"][row])
        assert found[episode] == ("terminated" if terminated else "cut" if length == 4 and truncated else "truncated")
        assert terminated + truncated == 1
    others = np.delete(np.arange(len(dataset)), rows)
    assert not data["truncated"][others].any()
    assert not data["terminated"][others].any()


@pytest.mark.slow
def test_a_dataset_made_in_parts_has_the_same_bytes(tmp_path):
    options = {"max_steps": 5, "progress": False}
    for samples, workers in ((7, 0), (8, 1), (21, 2), (22, 0), (40, 1)):
        parts = physgym.generate(
            recorded, tmp_path / "parts", samples=samples, num_workers=workers, resume=samples > 7, **options
        )
    whole = physgym.generate(recorded, tmp_path / "whole", samples=40, num_workers=0, **options)
    files = [sorted((tmp_path / name).glob("*.h5")) for name in ("parts", "whole")]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
    assert parts.endings == whole.endings


def test_a_limit_outside_of_what_makes_the_sample_sets_its_flag():
    env = TimeLimit(recorded(), 3)
    for seed in range(9):
        *_, last = run_episode(env, require_spec(env), seed=seed)
        assert last.sample["terminated"] + last.sample["truncated"] == 1
        assert last.ending == ("terminated" if last.sample["terminated"] else "truncated")


def test_an_episode_that_ends_by_itself_at_the_limit_is_not_cut():
    env = recorded()
    for seed in range(9):
        length = len(list(run_episode(env, require_spec(env), seed=seed)))
        *_, last = run_episode(env, require_spec(env), seed=seed, max_steps=length)
        assert last.ending == ("terminated" if length % 2 == 0 else "truncated")


def test_a_sample_without_the_flag_stays_as_it_is(tmp_path):
    dataset = physgym.generate(
        "physgym/Spring-v0", tmp_path / "d", episodes=3, max_steps=4, num_workers=0, progress=False
    )
    assert dataset.endings == {0: "cut", 1: "cut", 2: "cut"}
    assert len(dataset) == 12


@pytest.mark.slow
def test_a_whole_episode_is_not_run_again_by_a_resume(tmp_path):
    steps = tmp_path / "steps"  # a list that the class had caught would be code that has changed

    class Seen(Ending):
        def step(self, action):
            with steps.open("a") as file:
                file.write("x")
            return super().step(action)

    def factory():
        return physgym.RecordTransition(Seen())

    for episodes in (2, 3):
        physgym.generate(
            factory, tmp_path / "d", episodes=episodes, max_steps=2, num_workers=0, resume=episodes > 2, progress=False
        )
    assert len(steps.read_text()) == 6


def test_a_dataset_without_endings_is_read_and_continued(tmp_path):
    env = recorded()
    spec = require_spec(env)
    one = {name: np.zeros((2, *field.shape), field.dtype) for name, field in spec.items()}
    names = {"episode": np.zeros(2, int), "seed": np.zeros(2, np.uint64)}
    with SampleWriter(tmp_path / "d", spec) as writer:
        writer.append(one, step=np.arange(2), **names)
    assert physgym.SampleDataset(tmp_path / "d").endings is None
    with SampleWriter(tmp_path / "d", spec, resume=True, endings=True) as writer:
        writer.append(one, step=np.arange(2, 4), **names)
        writer.add_endings(episode=np.zeros(1, int), steps=np.array([4]), how=["cut"])
    dataset = physgym.SampleDataset(tmp_path / "d")
    assert (len(dataset), dataset.endings) == (4, None)


def test_joined_folders_have_one_ending_for_each_episode(tmp_path):
    spec = SampleSpec([Field("x", (), np.dtype("f4"), "input")])
    for name, episodes in (("a", (0, 1)), ("b", (1, 2)), ("c", (2, 3))):
        with SampleWriter(tmp_path / name, spec, endings=True) as writer:
            writer.append({"x": np.zeros(2)}, episode=episodes, step=[0, 0], seed=episodes)
            writer.add_endings(episode=np.array(episodes[:1]), steps=np.array([1]), how=["cut"])
    apart = physgym.SampleDataset([tmp_path / "a", tmp_path / "c"])
    assert apart.endings == {0: "cut", 1: "unfinished", 2: "cut", 3: "unfinished"}
    assert apart.lengths == {0: 1, 2: 1}
    both = physgym.SampleDataset([tmp_path / "a", tmp_path / "b"])
    for name in ("endings", "lengths"):
        with pytest.raises(ConfigError, match="several folders have an episode 1; open them one by one"):
            getattr(both, name)


def test_a_compressed_copy_has_them_too(tmp_path):
    dataset = physgym.generate(recorded, tmp_path / "d", episodes=6, max_steps=5, num_workers=0, progress=False)
    archive(tmp_path / "d", tmp_path / "copy", compression="gzip")
    assert physgym.SampleDataset(tmp_path / "copy").endings == dataset.endings
