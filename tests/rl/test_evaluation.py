"""An evaluation is of the same episodes however they are run, each to its end."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from physgym.errors import ConfigError, SampleError
from physgym.rl.evaluation import evaluate_agent
from physgym.rl.preprocessing import Preprocessing


class Uneven(gym.Env):
    """Lasts as many steps as its seed says; a step earns the action."""

    def __init__(self, longest: int = 20):
        self.observation_space, self.action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(3)
        self.longest = longest

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.end = 0, int(self.np_random.integers(1, self.longest + 1))
        return np.zeros(1, np.float32), {"parameters": {"end": self.end}}

    def step(self, action):
        self.t += 1
        over = self.t == self.end
        info = {"distance": 2.0 * self.t, "lap_count": self.t // 10, "speed": float(self.t), "hit": "none"}
        info |= {"hit": "grass"} if self.t == 3 else {}
        ends = over and self.end % 2 == 0, over and self.end % 2 == 1
        return np.full(1, self.t / self.longest, np.float32), float(action), *ends, {**info, "heat": -self.t}


def zero(seen):
    return np.zeros(len(seen), int)


class Remembering:
    """Acts by the number of steps since the reset, which it counts itself."""

    def __init__(self):
        self.preprocessing, self.steps = Preprocessing(), np.zeros(0, int)

    def reset(self, mask=None):
        if mask is None:
            self.steps[:] = 0
        else:
            self.steps[mask] = 0

    def act(self, observations):
        if len(self.steps) != len(observations):
            self.steps = np.zeros(len(observations), int)
        np.testing.assert_allclose(observations[:, 0], self.steps / 20, atol=1e-6)
        self.steps += 1
        return np.minimum(self.steps - 1, 2)


@pytest.mark.parametrize("num_envs", [1, 3, 8, 50])
def test_the_figures_do_not_depend_on_the_environments(num_envs):
    found = evaluate_agent(Remembering(), Uneven, episodes=11, seed=4, num_envs=num_envs, infos={"heat": "sum"})
    ends = found.parameters["end"]
    np.testing.assert_array_equal(found.lengths, ends)
    np.testing.assert_array_equal(found.returns, np.maximum(2 * ends - 3, np.where(ends > 1, 1, 0)))
    assert found.endings == tuple("truncated" if end % 2 else "terminated" for end in ends)
    np.testing.assert_array_equal(found.figures["distance"], 2 * ends)
    np.testing.assert_array_equal(found.figures["speed"], (ends + 1) / 2)
    np.testing.assert_array_equal(found.figures["laps"], ends // 10)
    np.testing.assert_array_equal(found.figures["off_track"], ends >= 3)
    np.testing.assert_array_equal(found.figures["heat"], -ends * (ends + 1) / 2)
    assert found.values["lap_share"] == np.mean(ends >= 10)
    assert found.values["return"] == found.returns.mean()
    again = evaluate_agent(zero, Uneven, episodes=11, seed=4, num_envs=2)
    np.testing.assert_array_equal(again.seeds, found.seeds)
    np.testing.assert_array_equal(again.lengths, ends)
    assert json.loads(json.dumps(found.to_json()))["each"]["distance"] == (2.0 * ends).tolist()
    assert "11 episodes of" in str(found)


def test_parts_have_seeds_of_their_own_and_long_episodes_are_cut():
    found = {part: evaluate_agent(zero, Uneven, episodes=5, part=part) for part in ("evaluation", "validation")}
    assert not set(found["evaluation"].seeds) & set(found["validation"].seeds)
    cut = evaluate_agent(zero, Uneven, episodes=5, max_steps=4)
    np.testing.assert_array_equal(cut.lengths, np.minimum(found["evaluation"].lengths, 4))
    assert all((how == "cut") == (long > 4) for how, long in zip(cut.endings, found["evaluation"].lengths, strict=True))


def test_an_environment_ends_its_episodes_itself_where_it_has_a_time_limit():
    def stay(seen):
        return np.zeros((len(seen), 2), np.float32)

    still = {"observation": "state", "stuck_distance": 0, "max_episode_steps": 1010}
    found = evaluate_agent(stay, "physgym/Track-v0", episodes=2, env_kwargs=still)
    assert found.lengths.tolist() == [1010, 1010]
    assert found.endings == ("truncated", "truncated")
    cut = evaluate_agent(zero, lambda: Uneven(10**6), episodes=1)
    assert (cut.lengths[0], cut.endings) == (1000, ("cut",))
    assert str(cut).endswith("; 1 were cut")


def test_a_vector_environment_of_ones_own():
    envs = SyncVectorEnv([Uneven] * 3, autoreset_mode=AutoresetMode.DISABLED)
    found = evaluate_agent(zero, envs, episodes=7)
    np.testing.assert_array_equal(found.lengths, evaluate_agent(zero, Uneven, episodes=7).lengths)
    envs.reset()  # it is open
    envs.close()
    resetting = SyncVectorEnv([Uneven] * 3)
    with pytest.raises(ConfigError, match="DISABLED"):
        evaluate_agent(zero, resetting)
    resetting.close()


def test_wrong_arguments():
    with pytest.raises(ConfigError, match="episodes"):
        evaluate_agent(zero, Uneven, episodes=0)
    with pytest.raises(ConfigError, match="part"):
        evaluate_agent(zero, Uneven, part="else")
    with pytest.raises(ConfigError, match="measured as one of"):
        evaluate_agent(zero, Uneven, infos={"heat": "least"})
    with pytest.raises(SampleError, match=r"no 'cold'; there are \['distance'"):
        evaluate_agent(zero, Uneven, infos={"cold": "mean"})


@pytest.mark.slow
def test_workers_change_nothing_and_tracks_are_named():
    def drive(seen):
        return np.stack([-0.2 * seen[:, 0] - seen[:, 1], np.full(len(seen), 0.4)], 1).clip(-1, 1).astype(np.float32)

    arguments = {"observation": "state", "tracks": (1000, 1020)}
    given = {"episodes": 4, "num_envs": 3, "env_kwargs": arguments, "max_steps": 90}
    found = [evaluate_agent(drive, "physgym/Track-v0", num_workers=workers, **given) for workers in (0, 2)]
    assert found[0].to_json() == found[1].to_json()
    assert set(found[0].figures) == {"distance", "laps", "speed", "off_track"}
    assert ((found[0].parameters["track"] >= 1000) & (found[0].parameters["track"] < 1020)).all()
    assert found[0].values["distance"] > 1
