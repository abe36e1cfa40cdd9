"""Large samples, which stay in shared memory from the worker to the file."""

import os
import signal
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym.generation.stream import SampleStream
from physgym.protocol.sample_slots import SlotReader
from physgym.system.shared_memory import is_shareable
from tests.support.killing import assert_same_files

pytestmark = pytest.mark.skipif(not is_shareable(), reason="no memory is shared in this way here")

SIDE = 64  # 16 KB a sample


class Plate(gym.Env):
    """A field of random numbers at each step; every fifth step of an episode is rejected, some hold NaN."""

    observation_space = action_space = spaces.Box(-1, 1, (2,), np.float32)
    sample_roles = {"field": "target", "step": "input"}  # noqa: RUF012

    def __init__(self, side=SIDE, dies="", nan=0):
        self.sample_space = spaces.Dict(
            {"field": spaces.Box(-np.inf, np.inf, (side, side)), "step": spaces.Box(0, 99, (), np.int64)}
        )
        self.side, self.dies, self.nan = side, dies, nan

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(2, "f4"), {}

    def step(self, action):
        self.count += 1
        if self.dies and self.count == 17:
            try:
                Path(self.dies).mkdir()  # once for all processes
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        field = self.np_random.random((self.side, self.side), "f4")
        if self.count == self.nan:
            field[0, 0] = np.nan
        sample = {"field": field, "step": np.int64(self.count)}
        info = {"rejected": "every fifth", "rejected_sample": sample} if self.count % 5 == 0 else {"sample": sample}
        return np.zeros(2, "f4"), 0.0, False, self.count == 40, info


@pytest.fixture
def held(monkeypatch):
    """The numbers of samples that were read in slots."""
    found, hold = [], SlotReader.hold

    def noted(self, number, rows):
        found.append(rows)
        return hold(self, number, rows)

    monkeypatch.setattr(SlotReader, "hold", noted)
    return found


def made(path, workers, **options):
    options = {"samples": 200, "keep_rejected": True, "max_file_size": 1 << 21, "seed": 3, "progress": False} | options
    return physgym.generate(Plate, path, num_workers=workers, num_envs=2, **options)


@pytest.mark.parametrize("reject", [False, True])
def test_datasets_are_the_same_wherever_samples_are(tmp_path, held, reject):
    options = {"nonfinite": "reject", "env_kwargs": {"nan": 7}} if reject else {}
    made(tmp_path / "wanted", 0, **options)
    assert not held
    made(tmp_path / "found", 2, **options)
    assert held
    assert_same_files(tmp_path / "found", tmp_path / "wanted")


def test_a_killed_worker_loses_and_repeats_nothing(tmp_path, held):
    made(tmp_path / "wanted", 0)
    made(tmp_path / "d", 2, env_kwargs={"dies": str(tmp_path / "died")}, on_error="restart")
    assert (tmp_path / "died").is_dir()
    assert held
    found, wanted = (physgym.SampleDataset(tmp_path / name) for name in ("d", "wanted"))
    for name in ("field", "step"):
        assert np.array_equal(found.read(0, 200)[name], wanted.read(0, 200)[name])


def test_a_value_that_is_not_finite_is_found(tmp_path, held):
    with pytest.raises(physgym.errors.SampleError, match="step 6"):
        made(tmp_path / "d", 1, env_kwargs={"nan": 7})
    assert len(physgym.SampleDataset(tmp_path / "d")) == 5  # those before it, of which one was rejected
    assert sum(held) == 5


def test_samples_that_are_kept_stay_as_they_are_and_others_travel(held):
    def drawn(workers):
        with SampleStream(Plate, num_workers=workers, num_envs=1, env_kwargs={"side": 512}) as stream:
            stream.expect(90)
            parts = []
            while sum(map(len, parts)) < 90:
                parts.append(stream.take(90))
            return parts

    parts = drawn(1)  # 90 MB, of which the slots hold half
    assert 0 < sum(held) < 90
    found, wanted = (np.concatenate([part.samples["field"] for part in some]) for some in (parts, drawn(0)))
    assert np.array_equal(found, wanted)


def test_samples_travel_where_memory_cannot_be_had(tmp_path, held, monkeypatch):
    made(tmp_path / "wanted", 0)

    def refuse(*_):
        raise OSError(27, "File too large")

    monkeypatch.setattr(SlotReader, "_make_room", refuse)
    made(tmp_path / "found", 2)
    assert not held
    assert_same_files(tmp_path / "found", tmp_path / "wanted")
