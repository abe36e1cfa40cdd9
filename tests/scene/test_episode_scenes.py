"""Scenes of stored episodes that the simulation's own code draws."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym.errors import ConfigError, DatasetError
from physgym.scene.episode_scenes import EpisodeScenes
from physgym.scene.sample_view import SampleView

MADE: list[Walk] = []


class Walk(physgym.Simulation):
    """A point that its code moves: no field says where it is."""

    metadata = {"render_modes": []}  # noqa: RUF012 - as in gymnasium.Env
    sample_roles = {"push": "input", "far": "target"}  # noqa: RUF012

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor, self.closed = factor, False
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.sample_space = spaces.Dict({"push": self.action_space, "far": spaces.Box(0, np.inf, (), np.float32)})
        MADE.append(self)

    def scene(self, scene):
        self.ball = scene.points("ball")

    def update_scene(self, scene):
        self.ball.update(points=np.array([[self.x, 0.0, self.count]]))

    def begin(self, options):
        self.x, self.count = float(self.np_random.normal()), 0

    def advance(self, action):
        if self.count == 2:
            self.count += 1
            raise physgym.RejectSample("the third step never works")
        self.x += self.factor * float(action[0])
        self.push, self.count = action, self.count + 1

    def observation(self):
        return np.array([self.x], np.float32)

    def sample(self):
        return {"push": self.push, "far": np.float32(abs(self.x))}

    def close(self):
        self.closed = True


@pytest.fixture
def dataset(tmp_path):
    made = physgym.generate(
        Walk, tmp_path / "data", samples=8, max_steps=5, num_envs=1, num_workers=0, seed=3, progress=False
    )
    MADE.clear()
    return made


def ball(scenes: EpisodeScenes, episode: int, step: int) -> np.ndarray:
    return scenes.snapshot(episode, step)["objects"]["ball"]["points"][0]


def far(dataset, episode: int, step: int) -> float:
    row = np.flatnonzero((dataset.index("episode") == episode) & (dataset.index("step") == step))[0]
    return float(dataset[int(row)]["far"])


def test_the_simulation_draws_each_step_and_is_closed(dataset):
    with EpisodeScenes(dataset) as scenes:
        for episode, step in ((0, 1), (0, 4), (0, 0), (1, 3)):
            found = ball(scenes, episode, step)
            assert abs(found[0]) == pytest.approx(far(dataset, episode, step), rel=1e-5)
            assert found[2] == step + 1
        assert len([one for one in MADE if not one.closed]) == 1
        with pytest.raises(ConfigError, match="step 9 of episode 1 is after the last one"):
            scenes.snapshot(1, 9)
    assert all(one.closed for one in MADE)


def test_a_simulation_that_gives_something_else_is_an_error(dataset, monkeypatch):
    monkeypatch.setattr(Walk.__init__, "__defaults__", (2.0,))
    with EpisodeScenes(dataset, allow_changed_code=True) as scenes, pytest.raises(DatasetError, match="episode 0"):
        scenes.snapshot(0, 4)
    assert all(one.closed for one in MADE)


def test_a_view_shows_it_only_where_that_is_wanted(dataset):
    timeline = SampleView(dataset).timeline
    with SampleView(dataset, live=True) as view:
        (shown,) = view.scenes.snapshots(timeline, 1)
        assert set(shown["objects"]) == {"ball"}
        assert view.picture(1).shape == (480, 640, 3)
    assert all(one.closed for one in MADE)
    (shown,) = SampleView(dataset).scenes.snapshots(timeline, 1)
    assert "ball" not in shown["objects"]
