"""What an environment hands in keeps its value, and is taken when it is handed in."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from physgym import SocketVectorEnv
from physgym.errors import PhysGymError

ALL_WORKERS = pytest.mark.parametrize("num_workers", [0, 1, 2])


class Env(gymnasium.Env[Any, Any]):
    """Returns what it is told to."""

    observation_space = spaces.Box(-9, 9, (1,), np.float32)
    action_space = spaces.Discrete(99)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 0.0, False, False, {}


# --- infos


class Refilled(Env):
    """Has one info for all its life and all its like, and one array, as a solver's library has."""

    buffer = np.zeros(1)
    info: dict[str, Any] = {"nested": {}, "list": []}  # noqa: RUF012 - that it is shared is the point

    def step(self, action: Any) -> Any:
        self.buffer[:] = action
        self.info["list"][:] = [int(action)]
        self.info["nested"]["action"] = int(action)
        self.info.update(action=int(action), forces=self.buffer)
        return np.zeros(1, np.float32), 0.0, False, False, self.info


@ALL_WORKERS
@pytest.mark.parametrize("streamed", [False, True])
def test_an_info_is_taken_when_it_is_returned(num_workers, streamed):
    with SocketVectorEnv([Refilled] * 4, num_workers=num_workers) as envs:
        envs.reset()
        if streamed:
            envs.send(np.array([1, 2, 3, 4]))
            *_, info, ids = envs.recv(4)
        else:
            info, ids = envs.step(np.array([1, 2, 3, 4]))[4], np.arange(4)
    sent = (ids + 1).tolist()
    assert info["action"].tolist() == sent
    assert info["nested"]["action"].tolist() == sent
    assert info["forces"].ravel().tolist() == sent
    assert info["list"].tolist() == [[action] for action in sent]


class Ending(Env):
    """Writes into the info of the last step when it is reset."""

    def __init__(self) -> None:
        self.info: dict[str, Any] = {"forces": np.zeros(2), "nested": {}}

    def _write(self, success: bool, count: int) -> None:
        self.count = count
        self.info["forces"][:] = count
        self.info["nested"]["success"] = success
        self.info.update(success=success, count=count)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._write(success=False, count=0)
        return np.zeros(1, np.float32), self.info

    def step(self, action: Any) -> Any:
        self._write(self.count == 2, self.count + 1)
        return np.zeros(1, np.float32), 1.0, self.count == 3, False, self.info


@ALL_WORKERS
def test_the_final_info_is_that_before_the_reset(num_workers):
    with SocketVectorEnv([Ending] * 2, num_workers=num_workers, autoreset_mode=AutoresetMode.SAME_STEP) as envs:
        envs.reset()
        for _ in range(3):
            info = envs.step(np.zeros(2, int))[4]
    assert info["final_info"]["success"].tolist() == [True, True]
    assert info["final_info"]["nested"]["success"].tolist() == [True, True]
    assert info["final_info"]["forces"].tolist() == [[3, 3], [3, 3]]
    assert (info["success"].tolist(), info["forces"].tolist()) == ([False, False], [[0, 0], [0, 0]])


class WithInfo(Env):
    """Has an info with one value."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 0.0, False, False, {"sensors": {"depth": self.value}}


@ALL_WORKERS
def test_what_is_masked_in_an_info_stays_masked(num_workers):
    masked = np.ma.MaskedArray([1, 2, 3], [False, True, False], fill_value=-1)
    with SocketVectorEnv([lambda: WithInfo(masked)] * 2, num_workers=num_workers) as envs:
        envs.reset()
        got = envs.step(np.zeros(2, int))[4]["sensors"]["depth"][1]
    assert isinstance(got, np.ma.MaskedArray)
    assert (got.tolist(), got.dtype, got.fill_value) == ([1, None, 3], masked.dtype, -1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (range(3), r"'sensors/depth.*': a value of type builtins\.range cannot travel"),
        ([1, {"a": range(3)}], r"'sensors/depth.*\[1\]/a': a value of type builtins\.range"),
        (np.zeros(2, [("x", "f4")]), r"'sensors/depth.*': a value of type numpy\.ndarray cannot travel.* structured"),
    ],
)
def test_a_value_that_cannot_travel_is_named_by_its_key(value, text):
    with SocketVectorEnv([lambda: WithInfo(value)], num_workers=1) as envs:
        envs.reset()
        with pytest.raises(PhysGymError, match=text):
            envs.step(np.zeros(1, int))
