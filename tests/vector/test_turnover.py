"""Workers that join and leave while episodes run; the samples are the same."""

from __future__ import annotations

import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from physgym import SocketVectorEnv, generate
from physgym.errors import ConfigError, WorkerError
from tests.support.dialling import DialIn, host
from tests.support.toys import Line
from tests.support.vectors import same

LIMITS = {"max_steps": 20, "max_rejects": 5}


class Random(Line):
    """Episodes of different lengths, whose samples follow from their seeds."""

    def step(self, action):
        time.sleep(0.001)
        seen, reward, _, _, info = super().step(action)
        return seen, reward, bool(self.np_random.random() < 0.2), False, info


class Other(Line):
    observation_space = gym.spaces.Box(-1, 1, (7,), np.float32)


def rows(parts):
    found = [
        (episode, step, *(column[row].tobytes() for column in part.samples.values()))
        for _, part in parts
        for row, (episode, step) in enumerate(zip(part.episodes.tolist(), part.steps.tolist(), strict=True))
    ]
    assert len({row[:2] for row in found}) == len(found)
    return sorted(found)


def worker(envs, index):
    return next((worker for worker in envs._pool.workers if worker.index == index), None)


def joined(envs, index):
    """Whether a worker has joined and given samples."""
    return (found := worker(envs, index)) is not None and found.ledger.samples > 0


def undisturbed(number, **kwargs):
    with SocketVectorEnv([Random] * 2, num_workers=2, context="fork", timeout=60) as envs:
        return rows(envs.rollout([(episode, 5 + episode) for episode in range(number)], **LIMITS, **kwargs))


@pytest.mark.slow
def test_workers_come_and_go_while_episodes_run():
    given, state = [], {}

    def episodes(envs):
        end = time.monotonic() + 60
        while time.monotonic() < end and not (state.get("left") and worker(envs, 0).gone and worker(envs, 2) is None):
            yield len(given), 5 + len(given)
            given.append(1)

    with SocketVectorEnv([Random] * 2, num_workers=2, context="fork", timeout=60) as envs:
        parts = []
        for part in envs.rollout(episodes(envs), **LIMITS):
            parts.append(part)
            if len(parts) == 3:
                assert [envs.add_worker([Random]), envs.add_worker([Random] * 2)] == [2, 3]
            if not state and joined(envs, 2) and joined(envs, 3):
                envs.release_worker(0)  # which has an environment of the vector env
                envs.release_worker(2)  # which has joined
                state["left"] = True
        assert [found.index for found in envs._pool.workers] == [0, 1, 3]
        assert rows(parts) == undisturbed(len(given))
        with pytest.raises(WorkerError, match="restart_workers"):
            envs.reset()
        envs.restart_workers()
        assert envs.reset()[0].shape == (2, 3)


@pytest.mark.slow
def test_a_worker_that_leaves_goes_on_where_its_limit_has_stopped_it():
    wanted = 300
    with SocketVectorEnv([Random] * 2, num_workers=2, context="fork", timeout=60) as envs:
        parts = []
        for part in envs.rollout(((n, 5 + n) for n in range(10**6)), **LIMITS, samples=wanted):
            parts.append(part)
            if len(parts) == 2:
                envs.add_worker([Random])
            if len(parts) % 5 == 0 and worker(envs, 0) is not None and not worker(envs, 0).gone:
                envs.release_worker(0)
        found = rows(parts)[:wanted]
    assert found == undisturbed(200)[:wanted]


@pytest.mark.slow
def test_other_calls_do_not_see_who_has_joined():
    reference = SyncVectorEnv([Random] * 2)
    with SocketVectorEnv([Random] * 2, num_workers=2, context="fork", timeout=60) as ours:
        index, given = ours.add_worker([Random] * 3), []

        def episodes():
            while not joined(ours, index):
                yield len(given), len(given)
                given.append(1)

        rows(ours.rollout(episodes(), **LIMITS))
        assert ours.num_workers == 3
        same(reference.reset(seed=3), ours.reset(seed=3))
        for _ in range(5):
            actions = reference.action_space.sample()
            same(reference.step(actions), ours.step(actions))
        assert len(ours.call("make_sample", np.zeros(3, np.float32))) == 2
        assert rows(ours.rollout([(n, 5 + n) for n in range(40)], **LIMITS)) == undisturbed(40)
    reference.close()


@pytest.mark.slow
def test_a_dataset_does_not_notice(tmp_path, monkeypatch):
    generate(Random, tmp_path / "plain", samples=600, num_envs=2, num_workers=2, progress=False)
    original, seen = SocketVectorEnv.rollout, []

    def rollout(self, *args, **kwargs):
        for number, part in enumerate(original(self, *args, **kwargs)):
            yield part
            if number == 2:
                assert self.add_worker([Random]) == 2
                end = time.monotonic() + 60
                while (found := worker(self, 2)) is None or found.ready is None:
                    assert time.monotonic() < end
                    self._turnover.admit()
                    time.sleep(0.01)
            if number == 6:
                self.release_worker(1)
            seen.append(joined(self, 2))

    monkeypatch.setattr(SocketVectorEnv, "rollout", rollout)
    generate(Random, tmp_path / "turnover", samples=600, num_envs=2, num_workers=2, progress=False)
    assert seen[-1], "the worker that joined gave no sample"
    files = [sorted((tmp_path / name).glob("training-*.h5")) for name in ("plain", "turnover")]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]] != []


@pytest.mark.slow
def test_a_worker_that_dials_joins_and_nobody_waits_for_one_that_does_not(tmp_path, monkeypatch):
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    with (
        host(tmp_path) as folder,
        SocketVectorEnv([Random] * 2, num_workers=2, launcher=DialIn(folder), timeout=60) as envs,
    ):
        start, given = DialIn.start, []

        def start_elsewhere(launcher, order):
            return start(DialIn(nowhere) if order.worker_start.worker == 3 else launcher, order)

        monkeypatch.setattr(DialIn, "start", start_elsewhere)
        assert [envs.add_worker([Random]), envs.add_worker([Random])] == [2, 3]

        def episodes():
            while not joined(envs, 2):
                yield len(given), 5 + len(given)
                given.append(1)

        begun = time.monotonic()
        assert rows(envs.rollout(episodes(), **LIMITS)) == undisturbed(len(given))
        assert time.monotonic() - begun < 50, "it was waited for"
        assert list(nowhere.iterdir()) == []
        assert envs.num_workers == 3


@pytest.mark.slow
def test_a_worker_of_other_spaces_does_not_join():
    with SocketVectorEnv([Random] * 2, num_workers=2, context="fork", timeout=60) as envs:
        index, given = envs.add_worker([Other]), []

        def episodes():
            end = time.monotonic() + 60
            while (worker(envs, index) is not None or not given) and time.monotonic() < end:
                yield len(given), 5 + len(given)
                given.append(1)

        with pytest.warns(RuntimeWarning, match="worker 2 does not join: .* other spaces than those of the others"):
            found = rows(envs.rollout(episodes(), **LIMITS))
        assert found == undisturbed(len(given))
        assert envs.num_workers == 2


def test_what_cannot_be_asked_for():
    with SocketVectorEnv([Line], num_workers=1, context="fork", timeout=60) as envs:
        with pytest.raises(ConfigError, match="at least one environment"):
            envs.add_worker([])
        with pytest.raises(ConfigError, match="no worker has index 4; there are 0"):
            envs.release_worker(4)
        index = envs.add_worker([Line])
        envs.release_worker(index)
        assert len(rows(envs.rollout([(0, 0)], **LIMITS))) == 4
        assert envs.num_workers == 1
    with SocketVectorEnv([Line], num_workers=0) as envs, pytest.raises(ConfigError, match="num_workers=0"):
        envs.add_worker([Line])
