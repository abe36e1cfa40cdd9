"""The replay: what is drawn of it, what it keeps on the disk, and how it goes on."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from physgym import SampleDataset
from physgym.errors import ConfigError, DatasetError, SampleError
from physgym.rl.replay import Replay
from physgym.rl.replay_files import ReplayDiffers

STATE = spaces.Box(-np.inf, np.inf, (2,), np.float32)
ENVS = 3


class Driver:
    """Environments whose observation is (number of the episode, step), and whose episodes end at known steps."""

    def __init__(self, replay, lengths=(3, 5, 4)):
        self.replay, self.lengths = replay, lengths
        self.episode, self.step = np.arange(ENVS), np.zeros(ENVS, int)
        replay.begin(np.arange(ENVS), self.episode, self.episode + 100)

    def seen(self):
        return {"observation": np.stack([self.episode, self.step], 1).astype(np.float32)}

    def go(self, times):
        for _ in range(times):
            before = self.seen()
            self.step += 1
            over = self.step >= [self.lengths[number % len(self.lengths)] for number in self.episode]
            rewards = (self.episode * 1000 + self.step).astype(float)
            self.replay.add(None, before, self.step % 2, rewards, over & (self.episode % 2 == 0), over & False)
            ended = np.flatnonzero(over)
            if len(ended):
                self.replay.end(ended, {name: value[ended] for name, value in self.seen().items()})
                self.episode[ended] += ENVS
                self.step[ended] = 0
                self.replay.begin(ended, self.episode[ended], self.episode[ended] + 100)
        return self


def replay(path=None, **kwargs):
    options = {"capacity": 100, "every": 10} | kwargs
    return Replay(path, STATE, spaces.Discrete(2), ENVS, **options)


def drawn(made, count=200, seed=0):
    return made.sample(count, np.random.default_rng(seed), 0.9)


def test_transitions_stay_within_their_episode():
    made = replay()
    Driver(made).go(30)
    batch = drawn(made)
    now, later = batch.observation["observation"].numpy(), batch.next_observation["observation"].numpy()
    assert (now[:, 0] == later[:, 0]).all()
    assert (now[:, 1] + 1 == later[:, 1]).all()
    assert (batch.reward.numpy() == now[:, 0] * 1000 + later[:, 1]).all()
    assert (batch.action.numpy() == later[:, 1] % 2).all()
    last = later[:, 1] == np.array([3, 5, 4])[later[:, 0].astype(int) % 3]
    assert (batch.discount.numpy() == np.where(last & (now[:, 0] % 2 == 0), np.float32(0), np.float32(0.9))).all()
    assert last.any()
    assert (later[:, 0] > 4).any()


def test_stacks_begin_anew_at_a_reset():
    made = replay(stack=3)
    Driver(made).go(20)
    batch = drawn(made)
    now, later = batch.observation["observation"].numpy(), batch.next_observation["observation"].numpy()
    assert now.shape == later.shape == (200, 3, 2)
    assert (now[..., 0] == now[:, :1, 0]).all()
    assert (now[:, 1:] == later[:, :-1]).all()
    assert (now[:, :, 1] == np.maximum(now[:, -1:, 1] - [2, 1, 0], 0)).all()


@pytest.mark.parametrize("stack", [1, 3])
def test_a_bounded_replay_draws_no_older_rows(stack):
    made = replay(stack=stack, capacity=40)
    driver = Driver(made)
    for _ in range(20):
        driver.go(3)
        if not len(made):
            continue
        seen = drawn(made).observation["observation"].numpy().reshape(200, -1, 2)
        assert made.rows - made.first <= 40
        assert made.first % 10 == 0
        # what a stack needs is there as well
        assert (seen[:, :, 1] == np.maximum(seen[:, -1:, 1] - np.arange(stack)[::-1], 0)).all()


def test_a_row_without_a_next_one_is_not_drawn():
    made = replay()
    driver = Driver(made)
    with pytest.raises(ConfigError, match="no transition"):
        drawn(made)
    driver.go(1)
    assert not len(made)
    with pytest.raises(ConfigError, match="no complete transition"):
        drawn(made)
    driver.go(1)
    assert len(made) == ENVS


def test_what_is_drawn_does_not_depend_on_commits(tmp_path):
    memory, disk = replay(), replay(tmp_path / "replay")
    Driver(memory).go(13)
    driver = Driver(disk)
    for _ in range(13):
        driver.go(1)
        disk.commit()
    first, second = drawn(memory), drawn(disk)
    assert (first.observation["observation"] == second.observation["observation"]).all()
    assert (first.reward == second.reward).all()
    disk.close()


def test_the_recording_is_one_of_a_recorder(tmp_path):
    made = replay(tmp_path / "replay", capacity=None, most=200)
    Driver(made).go(10)
    made.close()
    data = SampleDataset(tmp_path / "replay")
    episode = data.episode(0)
    assert episode["acted"].tolist() == [True, True, True, False]
    assert episode["observation"].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3]]
    assert episode["terminated"].tolist() == [0, 0, 1, 0]
    assert set(data.index("seed")[data.index("episode") == 4]) == {104}


@pytest.mark.parametrize("further", [0, 7])
def test_it_goes_on_from_a_position(tmp_path, further):
    whole = replay(capacity=40, stack=2)
    Driver(whole).go(30)
    made = replay(tmp_path / "replay", capacity=40, stack=2)
    driver = Driver(made).go(17)
    made.commit()
    position, where = made.position, (driver.episode.copy(), driver.step.copy())
    driver.go(further)
    made.close()
    again = replay(tmp_path / "replay", capacity=40, stack=2, resume=position)
    assert again.rows == position["rows"]
    driver = Driver.__new__(Driver)
    driver.replay, driver.lengths, (driver.episode, driver.step) = again, (3, 5, 4), where
    driver.go(13)
    first, second = drawn(whole), drawn(again)
    assert (first.observation["observation"] == second.observation["observation"]).all()
    assert (first.next_observation["observation"] == second.next_observation["observation"]).all()
    again.close()
    data = SampleDataset(tmp_path / "replay")
    names = set(zip(data.index("episode").tolist(), data.index("step").tolist(), strict=True))
    assert len(names) == len(data)


def test_rows_that_are_others_than_the_recorded_ones_are_noticed(tmp_path):
    made = replay(tmp_path / "replay")
    driver = Driver(made).go(5)
    made.commit()
    position = made.position
    driver.go(5)
    made.close()
    again = replay(tmp_path / "replay", resume=position)
    numbers = np.arange(ENVS)
    other = {"observation": np.full((3, 2), 9, np.float32)}
    with pytest.raises(ReplayDiffers):
        again.add(None, other, numbers % 2, numbers * 1.0, numbers < 0, numbers < 0)
    assert again.take_stored() == 10
    assert again.rows == made.rows
    batch = drawn(again)
    now, later = batch.observation["observation"].numpy(), batch.next_observation["observation"].numpy()
    assert (now[:, 0] == later[:, 0]).all()
    assert (now[:, 1] + 1 == later[:, 1]).all()
    again.close()


def test_what_does_not_fit_is_refused(tmp_path):
    made = replay(tmp_path / "replay")
    driver = Driver(made).go(5)
    made.close()
    with pytest.raises(DatasetError, match="replay of another training"):
        replay(tmp_path / "replay")
    position = made.position
    with pytest.raises(ConfigError, match="capacity 100, now it is 50"):
        replay(tmp_path / "replay", capacity=50, resume=position)
    with pytest.raises(DatasetError, match="ends after"):
        replay(tmp_path / "replay", resume={**position, "rows": position["rows"] + 1})
    with pytest.raises(ConfigError, match="in memory alone"):
        replay(resume=position)
    with pytest.raises(ConfigError, match="capacity"):
        replay(capacity=0)
    del driver


def test_numbers_that_are_not_finite_are_refused():
    made = replay()
    made.begin(np.arange(ENVS), np.arange(ENVS), [0, 0, 0])
    flags = np.zeros(ENVS, bool)
    seen, rewards = {"observation": np.zeros((3, 2), np.float32)}, np.array([0, np.nan, 0])

    def go():
        made.add(None, seen, np.zeros(3, int), rewards, flags, flags)
        made.flush()

    with pytest.raises(SampleError, match="reward is not finite in episode 1, step 0"):
        go()


def files(path):
    return sorted(int(file.stem[-5:]) for file in path.glob("*.h5"))


def test_files_go_once_no_checkpoint_needs_them(tmp_path):
    made = replay(tmp_path / "replay", capacity=40)
    driver = Driver(made).go(15)
    made.commit()
    kept = made.position
    driver.go(25)
    made.commit()
    made._files._writer._partitions.seal_full(until=lambda: False)
    assert made.rows > 150
    made.forget([kept])
    assert files(tmp_path / "replay")[0] == max(0, -(-(kept["rows"] - 40) // 10)) > 0
    made.forget([])
    assert files(tmp_path / "replay")[0] == made.first // 10 > 5
    drawn(made)
    made.commit()
    position = made.position
    made.close()
    assert SampleDataset(tmp_path / "replay").dropped == position["rows"] - len(SampleDataset(tmp_path / "replay"))
    again = replay(tmp_path / "replay", capacity=40, resume=position)
    assert (drawn(made).reward == drawn(again).reward).all()
    again.close()
    with pytest.raises(DatasetError, match="has no rows before"):
        replay(tmp_path / "replay", capacity=40, resume=kept)


def test_a_replay_of_everything_keeps_its_files(tmp_path):
    made = replay(tmp_path / "replay", capacity=None, most=500)
    Driver(made).go(40)
    made.commit()
    made.forget([])
    assert files(tmp_path / "replay")[0] == 0
    assert SampleDataset(tmp_path / "replay").dropped is None
    made.close()


def test_a_replay_that_is_larger_than_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr("physgym.rl.replay_rows.available_memory", lambda: 1000)
    made = replay()
    with pytest.raises(ConfigError, match="lower the capacity"):
        Driver(made).go(1)
