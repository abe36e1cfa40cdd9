"""What an environment returns has one form, wherever it is stepped."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym.errors import SampleError

SPACE = spaces.Box(-1, 1, (1,), np.float32)
ONE = np.zeros(1, np.float32)
RIGHT = (ONE, 0.0, False, False, {"sample": {"x": ONE}})


class Wrong(gym.Env):
    """Returns what it was given."""

    action_space = observation_space = SPACE
    sample_space = spaces.Dict(x=SPACE)
    sample_roles = {"x": "input"}  # noqa: RUF012

    def __init__(self, reset=(ONE, {}), step=RIGHT):
        self.given = reset, step

    def reset(self, *, seed=None, options=None):
        return self.given[0]

    def step(self, action):
        return self.given[1]


CASES = [
    ({"step": RIGHT[:4]}, r"step must return 5 values, .*; it returned 4 values"),
    ({"step": None}, "step must return 5 values, .*; it returned a NoneType"),
    ({"step": [1, 2, 3]}, "step must return 5 values, .*; it returned 3 values"),
    ({"step": (*RIGHT[:4], [])}, "info must be a dictionary, not a list"),
    ({"step": (*RIGHT[:4], None)}, "info must be a dictionary, not a NoneType"),
    ({"step": (ONE, "1.5", *RIGHT[2:])}, "the reward must be a number, not '1.5'"),
    ({"step": (ONE, None, *RIGHT[2:])}, "the reward must be a number, not None"),
    ({"reset": ONE}, "reset must return 2 values, .*; it returned a ndarray"),
    ({"reset": (ONE, None)}, "info must be a dictionary, not a NoneType"),
]


@pytest.mark.parametrize(("wrong", "text"), CASES, ids=[text[:30] for _, text in CASES])
def test_generation_and_a_step_say_the_same(tmp_path, wrong, text):
    with pytest.raises(SampleError, match=text):
        physgym.generate(lambda: Wrong(**wrong), tmp_path / "d", samples=3, num_workers=0, progress=False)
    with physgym.SocketVectorEnv([lambda: Wrong(**wrong)], num_workers=0) as envs:

        def begin_and_step():
            envs.reset()
            envs.step(np.zeros((1, 1), np.float32))

        with pytest.raises(SampleError, match=text):
            begin_and_step()


def test_a_worker_says_it_too(tmp_path):
    with pytest.raises(SampleError, match="episode 0, step 0: step must return 5 values"):
        physgym.generate(lambda: Wrong(step=RIGHT[:4]), tmp_path / "d", samples=3, num_workers=1, progress=False)
