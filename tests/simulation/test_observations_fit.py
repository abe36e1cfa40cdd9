"""An observation of another shape or dtype than its space says: one error that names the part, where it comes first."""

from __future__ import annotations

import warnings
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym import episode
from physgym.errors import SampleError
from physgym.generation.reopen import reopen
from physgym.testing import check_env
from physgym.vector import SocketVectorEnv

FLOATS = spaces.Box(-10, 10, (4,), np.float32)
PARTS = spaces.Dict(angle=FLOATS, speed=spaces.Tuple([FLOATS, spaces.Text(5)]))


class Seen(gymnasium.Env):
    """Gives an observation, and from some step on another one."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)
    sample_space = spaces.Dict({"force": action_space, "speed": spaces.Box(-np.inf, np.inf, (1,), np.float32)})
    sample_roles: ClassVar = {"force": "input", "speed": "target"}

    def __init__(self, parts=False, first=None, later=None, render_mode=None):
        self.observation_space, self.first, self.later = PARTS if parts else FLOATS, first, later

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.first, {}

    def step(self, action):
        return self.later, 0.0, False, False, {"sample": {"force": action, "speed": 2 * action}}


GOOD = np.zeros(4, np.float32)
WRONG = [
    (FLOATS, np.zeros(3, np.float32), r"the observation has shape \(3,\); observation_space says \(4,\)"),
    (FLOATS, "left", "the observation has dtype <U4, which does not convert to float32"),
    (PARTS, {"angle": GOOD, "speed": (GOOD[:2], "fast")}, r"observation 'speed/0' has shape \(2,\)"),
    (PARTS, {"speed": (GOOD, "fast")}, r"the observation has \['speed'\] and no part 'angle'"),
    (PARTS, {"angle": GOOD, "speed": (GOOD,)}, "observation 'speed' is a tuple and no part 1"),
    (PARTS, GOOD, "the observation is a ndarray and no part 'angle'"),
]


def step_once(envs):
    envs.reset()
    envs.step(envs.action_space.sample())


@pytest.mark.parametrize(("space", "wrong", "text"), WRONG)
@pytest.mark.parametrize("later", [False, True])
def test_generation_check_and_vector_env_name_it(space, wrong, text, later, tmp_path):
    good = GOOD if space is FLOATS else {"angle": GOOD, "speed": (GOOD, "fast")}
    kwargs = {"parts": space is PARTS, "first": good if later else wrong, "later": wrong}
    options = {"num_workers": 0, "progress": False, "max_steps": 3, "env_kwargs": kwargs}
    where = "episode 0, step 0" if later else "episode 0"
    with pytest.raises(SampleError, match=f"environment 0: {where}: {text}"):
        physgym.generate(Seen, tmp_path / "d", samples=3, **options)
    with (
        SocketVectorEnv([lambda: Seen(**kwargs)], num_workers=0) as envs,
        pytest.raises(SampleError, match=f"environment 0: {text}"),
    ):
        step_once(envs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what Gymnasium says of it at each step
        with pytest.raises(AssertionError, match=f"- test_gymnasium_accepts_it: .*{text}"):
            check_env(Seen, arguments=kwargs, note=lambda *said: None, skip=lambda *said: None)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.zeros(4), "reset: the observation has dtype float64; observation_space says float32"),
        (np.full(4, 11, np.float32), "reset: the observation has the value 11, beyond the bound 10"),
        (np.full(4, np.nan, np.float32), r"reset: the observation is array\(\[nan.*which is not in Box"),
    ],
)
def test_a_check_names_what_other_parts_take(value, text, tmp_path):
    arguments, faults = {"first": value, "later": value}, {}
    physgym.generate(Seen, tmp_path / "d", samples=3, max_steps=3, num_workers=0, progress=False, env_kwargs=arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AssertionError, match=text) as found:
            check_env(Seen, faults.__setitem__, lambda *said: None, arguments=arguments, skip=lambda *said: None)
    assert {name for name, fault in faults.items() if fault} == {
        "test_gymnasium_accepts_it",
        "test_equal_through_a_worker",
    }
    assert str(found.value).count("the observation") == 1


def test_an_observation_that_is_a_list_is_a_note():
    notes = {}
    arguments = {"first": [0.0] * 4, "later": [0.0] * 4}
    check_env(Seen, note=notes.__setitem__, arguments=arguments, skip=lambda *said: None)
    assert "this is a number or a list" in notes["test_results_can_travel"]


def test_two_observations_of_an_environment_are_checked_and_stored_ones_are_reopened(tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(episode, "check_observation", lambda space, observation: looked.append(observation))
    options = {"num_workers": 0, "num_envs": 2, "progress": False, "max_steps": 5}
    dataset = physgym.generate(Seen, tmp_path / "d", samples=50, env_kwargs={"first": GOOD, "later": GOOD}, **options)
    assert len(looked) == 2 * 2
    env, _ = reopen(dataset, 3, 2, env=Seen, env_kwargs={"first": "any", "later": "any"}, allow_changed_code=True)
    env.close()
    assert len(looked) == 2 * 2
