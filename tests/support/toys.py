"""Small environments that tests share."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from physgym import RejectSample, Simulation


class Line(gym.Env):
    """Plain Gymnasium environment: target = 2 * input + 1, episodes of 4 steps."""

    observation_space = spaces.Box(-10, 10, (3,), np.float32)
    action_space = spaces.Box(-1, 1, (3,), np.float32)
    sample_space = spaces.Dict(
        {
            "x": spaces.Box(-1, 1, (3,), np.float32),
            "y": spaces.Box(-10, 10, (3,), np.float64),
            "flag": spaces.MultiBinary(2),
        }
    )
    sample_roles = {"x": "input", "y": "target"}  # noqa: RUF012
    sample_units = {"x": "m"}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(3, np.float32), {}

    def make_sample(self, action):
        return {"x": action, "y": 2 * action.astype(np.float64) + 1, "flag": np.array([1, 0], np.int8)}

    def step(self, action):
        self.count += 1
        return np.asarray(action, np.float32), 1.0, False, self.count == 4, {"sample": self.make_sample(action)}


class MissingField(Line):
    def make_sample(self, action):
        return {"x": action, "flag": np.zeros(2, np.int8)}


class WrongShape(Line):
    def make_sample(self, action):
        return {**super().make_sample(action), "y": np.zeros((3, 1))}


class NotANumber(Line):
    def make_sample(self, action):
        return {**super().make_sample(action), "y": np.full(3, np.nan)}


class NoSamples(gym.Env):
    observation_space = spaces.Box(-10, 10, (3,), np.float32)
    action_space = spaces.Box(-1, 1, (3,), np.float32)


class Slow(Line):
    """A step takes a while."""

    def step(self, action):
        time.sleep(0.05)
        return super().step(action)


class RealTime(Line):
    """A simulator in real time: no episode comes twice; dies once in the fifth step, as long as a file is there."""

    metadata = {"render_modes": [], "physgym.real_time": True}  # noqa: RUF012

    def __init__(self, render_mode=None, *, steps=8, dies=""):
        super().__init__(render_mode)
        self.steps, self.dies = steps, dies

    def reset(self, *, seed=None, options=None):
        self.run = int.from_bytes(os.urandom(4), "little") % 10**6  # of which an episode is
        return super().reset(seed=seed, options=options)

    def make_sample(self, action):
        return {**super().make_sample(action), "y": np.full(3, self.run, np.float64)}

    def step(self, action):
        time.sleep(0.02)
        if self.count == 4 and self.dies:
            with contextlib.suppress(FileNotFoundError):
                Path(self.dies).unlink()  # by one of them
                time.sleep(0.2)  # the steps before were sent
                os._exit(7)
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, self.count == self.steps, info


def hold(folder):
    """Write the number of this process into a folder, and wait until the file "go" is there."""
    deadline = time.monotonic() + 120
    while not (folder / "go").exists():
        (folder / str(os.getpid())).touch()
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Held(Line):
    """Is held at each reset until a test lets it go."""

    def __init__(self, render_mode=None, *, folder):
        super().__init__(render_mode)
        self.folder = Path(folder)

    def reset(self, *, seed=None, options=None):
        hold(self.folder)
        return super().reset(seed=seed, options=options)


class TorchSpy(Line):
    """Says in its sample whether torch is imported where it runs."""

    def make_sample(self, action):
        return {**super().make_sample(action), "flag": np.array(["torch" in sys.modules] * 2, np.int8)}


class Flaky(Simulation):
    """Rejects a part of its steps, of which there are 5 per episode, and may kill its worker once."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)
    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    sample_space = spaces.Dict({"x": spaces.Box(-1, 1, (1,), np.float32), "y": spaces.Box(-1, 1, (1,), np.float32)})
    sample_roles = {"x": "input", "y": "target"}  # noqa: RUF012

    def __init__(self, reject_above=0.0, kill_switch=None, render_mode=None):
        super().__init__(render_mode=render_mode)
        self.reject_above, self.kill_switch = reject_above, kill_switch

    def begin(self, options):
        self.x, self.left = np.zeros(1, np.float32), 5
        if self.kill_switch is not None and Path(self.kill_switch).exists():
            Path(self.kill_switch).unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    def advance(self, action):
        self.left -= 1
        if action[0] > self.reject_above:
            raise RejectSample("did not converge")
        self.x = np.asarray(action, np.float32)

    def observation(self):
        return self.x.copy()

    def sample(self):
        return {"x": self.x, "y": -self.x}

    def outcome(self):
        return 0.0, self.left <= 0


class Tuned(Simulation):
    """Has nested parameters, rejects some steps with or without a sample, and has NaN in some of the others."""

    action_space = spaces.Box(-1, 1, (2,), np.float32)
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    sample_space = spaces.Dict({"x": spaces.Box(-1, 1, (2,), np.float32), "y": spaces.Box(-9, 9, (), np.float64)})
    sample_roles = {"x": "input", "y": "target"}  # noqa: RUF012
    parameter_space = spaces.Dict(
        [
            ("gain", spaces.Box(1.0, 2.0, (), np.float64)),
            (
                "shape",
                spaces.Dict([("kind", spaces.Discrete(3, start=1)), ("size", spaces.Box(0, 1, (2,), np.float32))]),
            ),
        ]
    )
    parameter_units = {"gain": "1/s"}  # noqa: RUF012

    def __init__(self, reject_above=0.5, nan_below=-2.0, kill_switch=None, render_mode=None):
        super().__init__(render_mode=render_mode)
        self.reject_above, self.nan_below, self.kill_switch = reject_above, nan_below, kill_switch

    def begin(self, options):
        self.x, self.left = np.zeros(2, np.float32), 2 + int(self.parameters["shape"]["kind"])
        if self.kill_switch is not None and Path(self.kill_switch).exists():
            Path(self.kill_switch).unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    def advance(self, action):
        self.left -= 1
        self.x = np.asarray(action, np.float32)
        if action[0] > self.reject_above:
            raise RejectSample(f"x is {action[0]:.3f}")

    def observation(self):
        return self.x.copy()

    def sample(self):
        if self.x[0] > max(0.9, self.reject_above):
            raise RuntimeError("there is none")
        y = np.nan if self.x[1] < self.nan_below else float(self.parameters["gain"]) * float(self.x[1])
        return {"x": self.x, "y": y}

    def outcome(self):
        return 0.0, self.left <= 0


class Gated(Line):
    """Waits in its n-th step for a file `go`, where there is a file `armed`; a file `waiting` says that it does."""

    def __init__(self, at=20, render_mode=None):
        super().__init__(render_mode)
        self.at, self.steps = at, 0

    def step(self, action):
        self.steps += 1
        if self.steps == self.at:
            wait_at_gate()
        return super().step(action)


def wait_at_gate(folder="."):
    """Wait until a test lets the process go on, if it wants to know when it is here."""
    if Path(folder, "armed").exists():
        Path(folder, "waiting").touch()
        deadline = time.monotonic() + 60
        while not Path(folder, "go").exists() and time.monotonic() < deadline:
            time.sleep(0.01)


class Filed(Line):
    """Counts its steps in a file of its working folder, which it chooses in the constructor, a reset or a step."""

    def __init__(self, at="constructor", ends=True, render_mode=None):
        super().__init__(render_mode)
        self.at, self.ends, self.steps = at, ends, 0
        self.move("constructor")

    def move(self, where):
        if self.at == where:
            os.chdir(tempfile.mkdtemp())

    def reset(self, *, seed=None, options=None):
        self.move("reset")
        Path("state").write_text("0")
        return super().reset(seed=seed)

    def step(self, action):
        self.steps += 1
        if self.steps == self.at:
            text = Path("state").read_text()
            self.move(self.steps)
            Path("state").write_text(text)
        count = int(Path("state").read_text()) + 1
        Path("state").write_text(f"{count}")
        _, *others, info = super().step(np.full(3, 0.1 * count, np.float32))
        others[2] = others[2] and self.ends
        return np.full(3, count, np.float32), *others, info

    def where(self):
        return str(Path.cwd())


class Alone(gym.Env):
    """Counts its steps in a variable of the class: its instances need processes of their own."""

    metadata = {"physgym.single": "process"}  # noqa: RUF012
    observation_space = Line.observation_space
    action_space = Line.action_space
    sample_space = Line.sample_space
    sample_roles = Line.sample_roles
    counted = 0
    opened = 0

    def __init__(self, gain=1.0):
        Alone.opened += 1
        self.gain = gain

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        assert Alone.opened == 1
        Alone.counted = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        Alone.counted += 1
        done = Alone.counted == 3
        sample = {"x": action, "y": np.full(3, self.gain * Alone.counted), "flag": np.zeros(2, np.int8)}
        return np.full(3, Alone.counted, np.float32), 0.0, False, done, {"sample": sample}

    def close(self):
        Alone.opened -= 1
