"""The buffers of observations: how many take turns, and how long a view of them holds."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from physgym import SocketVectorEnv
from physgym.errors import ConfigError
from physgym.vector.results import count_slots
from tests.support.toys import Line

PLAIN, NESTED = spaces.Box(-1, 1, (2,), np.float32), spaces.Dict({"x": spaces.Box(-1, 1, (2,), np.float32)})


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_single_buffer_is_the_same_array_in_every_step(num_workers):
    options = {"num_workers": num_workers, "context": "fork", "copy": False}
    with (
        SocketVectorEnv([Line] * 4, observation_buffers=1, **options) as envs,
        SocketVectorEnv([Line] * 4, **options) as two,
    ):
        first, before = envs.reset(seed=0)[0], two.reset(seed=0)[0]
        for step in range(1, 7):
            actions = np.full((4, 3), step / 10, np.float32)
            observations, *results = envs.step(actions)
            assert np.shares_memory(observations, first)
            other, *others = two.step(actions)
            assert not np.shares_memory(other, before)
            before = other
            np.testing.assert_array_equal(observations, other)
            for mine, theirs in zip(results[:3], others[:3], strict=True):
                np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("options", [{"copy": True}, {"copy": False, "observation_buffers": 1}])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_rows_that_are_not_reset_stay_as_they_are(num_workers, options):
    mask = np.array([True, False, False, True])
    with (
        SocketVectorEnv(
            [Line] * 4, num_workers=num_workers, context="fork", autoreset_mode="Disabled", **options
        ) as envs,
        contextlib.closing(SyncVectorEnv([Line] * 4, autoreset_mode=AutoresetMode.DISABLED)) as sync,
    ):
        for venv in (envs, sync):
            venv.reset(seed=0)
        actions = np.arange(12, dtype=np.float32).reshape(4, 3) / 12
        found, wanted = (np.array(venv.step(actions)[0]) for venv in (envs, sync))
        np.testing.assert_array_equal(found, wanted)
        found, wanted = (np.array(venv.reset(options={"reset_mask": mask})[0]) for venv in (envs, sync))
        np.testing.assert_array_equal(found, wanted)
        assert not found[0].any()
        assert found[1].any()


def test_copies_stay_as_they_are_though_there_is_one_buffer_here():
    assert count_slots(PLAIN, copy=True, buffers=2, local=True) == 1
    assert count_slots(NESTED, copy=True, buffers=2, local=True) == 2  # of which a part may be written before an error
    assert count_slots(PLAIN, copy=True, buffers=2, local=False) == 2
    with SocketVectorEnv([Line] * 2, num_workers=0) as envs:
        kept = [envs.reset(seed=0)[0], *(envs.step(np.full((2, 3), i / 10, np.float32))[0] for i in range(1, 4))]
    assert [float(observation[0, 0]) for observation in kept] == [0.0, *np.float32([0.1, 0.2, 0.3]).tolist()]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"observation_buffers": 0}, "observation_buffers"),
        ({"observation_buffers": 3, "copy": False}, "must be 1 or 2, not 3"),
        ({"observation_buffers": 1}, "copy=False"),
        ({"observation_buffers": 1, "copy": False, "on_error": "restart"}, "single buffer"),
    ],
)
def test_wrong_numbers_of_buffers(options, what):
    with pytest.raises(ConfigError, match=what):
        SocketVectorEnv([Line] * 2, num_workers=2, **options)
