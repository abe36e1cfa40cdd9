"""A stream that Ctrl-C stops while it draws: nobody else would end its workers in a notebook."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import gymnasium
import numpy as np
import psutil
import pytest
from gymnasium import spaces

from physgym.data import Online, SampleStream, SampleWriter
from physgym.errors import ClosedError

BOX = spaces.Box(-1, 1, (2,), np.float32)
PATIENCE = 60.0  # s, for a machine under load


class Waiting(gymnasium.Env):
    """It makes three steps, and in the fourth one waits for ever, after it has said so."""

    observation_space = action_space = BOX
    sample_space = spaces.Dict({"x": BOX, "y": BOX})
    sample_roles = {"x": "input", "y": "target"}  # noqa: RUF012  # as simulations declare it

    def __init__(self, said: str, fault: bool = False) -> None:
        self.said, self.fault, self.steps = Path(said), fault, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.steps > 3:
            if self.fault:
                raise KeyboardInterrupt
            self.said.touch()
            time.sleep(10 * PATIENCE)
        value = np.full(2, self.steps / 10, np.float32)
        return value, 0.0, False, False, {"sample": {"x": value, "y": -value}}


def interrupt_after(file):
    """Press Ctrl-C when a file is there."""

    def press():
        deadline = time.monotonic() + PATIENCE
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()


def test_a_stream_in_this_process_closes_its_dataset(tmp_path):
    arguments = {"said": str(tmp_path / "said"), "fault": True}
    stream = SampleStream(Waiting, env_kwargs=arguments, path=tmp_path / "data", num_workers=0)
    with pytest.raises(KeyboardInterrupt):
        stream.draw(10)
    with pytest.raises(ClosedError):
        stream.draw(1)
    SampleWriter(tmp_path / "data", stream.spec, mode="test").close()  # the lock of the folder is free


@pytest.mark.slow
@pytest.mark.parametrize("online", [False, True])
def test_a_stream_ends_its_workers(tmp_path, online):
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    arguments = {"said": str(tmp_path / "said")}
    source = stream = SampleStream(Waiting, env_kwargs=arguments, path=tmp_path / "data", num_workers=1)
    if online:
        source = Online(stream, capacity=100, minimum=50)
    made = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert made
    interrupt_after(tmp_path / "said")
    with pytest.raises(KeyboardInterrupt):
        source.draw(10)
    _, left = psutil.wait_procs(made, PATIENCE)
    assert not [child for child in left if child.status() != psutil.STATUS_ZOMBIE]
    with pytest.raises(ClosedError):
        source.draw(10)
