"""Scenes of running environments: asked when somebody looks, of simulation and wrappers alike."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym.errors import SceneError
from physgym.scene import constant, draw, field, prediction
from physgym.scene.changes import apply, difference, is_empty
from physgym.scene.live import LiveScene, SceneSource


class Moving(physgym.Simulation):
    """Moves a point by its action; its own scene is asked for by an argument."""

    action_space = observation_space = spaces.Box(-1, 1, (3,), np.float32)
    sample_space = spaces.Dict(x=action_space)
    sample_roles = {"x": "input"}  # noqa: RUF012
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def begin(self, options):
        self.state = np.zeros(3, np.float32)

    def constants(self):
        return {"corner": np.zeros((1, 3))}

    def advance(self, action):
        self.state = action

    def observation(self):
        return self.state

    def sample(self):
        return {"x": self.state}

    def apply_prediction(self, prediction):
        self.shown_prediction = prediction


class Declared(Moving):
    asked = 0

    def scene(self, scene):
        self.asked += 1
        scene.points("x", field("x"))
        scene.points("corner", constant("corner"))
        scene.points("ghost", prediction("x"), ghost=True)
        self.trace = scene.lines("trace")

    def update_scene(self, scene):
        self.trace.update(points=np.stack([self.state, -self.state]))


class Marked(gym.Wrapper):
    def scene(self, scene):
        self.goal = scene.markers("goal", [[0, 0, 1]])

    def update_scene(self, scene):
        self.goal.update(points=[[0, 0, self.unwrapped.state[0]]])


def test_simulation_and_wrappers_declare_objects_once_and_move_them():
    env = Marked(Declared())
    live = LiveScene(env, "Declared, environment 0")
    assert env.unwrapped.asked == 0  # nobody has looked
    env.reset(seed=0)
    first = live.frame()
    assert first["full"]
    assert list(first["objects"]) == ["x", "corner", "trace", "goal"]
    env.step(np.array([0.5, 0, 0], np.float32))
    second = live.frame()
    assert not second["full"]
    assert {name: set(item) for name, item in second["objects"].items()} == {
        "x": {"points"},
        "trace": {"points"},
        "goal": {"points"},
    }
    assert env.unwrapped.asked == 1
    assert is_empty(live.frame())
    whole = live.frame(whole=True)
    assert is_empty(difference(apply(None, whole), apply(apply(None, first), second)))


def test_a_sample_that_is_given_and_what_is_predicted_are_shown():
    env = Declared()
    env.reset(seed=0)
    live = LiveScene(env)
    live.frame({"x": np.array([1.0, 2.0, 3.0])})
    np.testing.assert_array_equal(live.snapshot["objects"]["x"]["points"], [[1, 2, 3]])
    env.apply_prediction({"x": np.array([4.0, 5.0, 6.0])})
    assert live.frame()["new"] == ["ghost"]
    env.reset()
    assert live.frame()["removed"] == ["ghost"]


def test_without_a_scene_it_is_the_default_one():
    env = Moving()
    live = LiveScene(env)
    env.reset(seed=0)
    assert live.frame()["objects"]["x"]["kind"] == "text"
    plain = Marked(physgym.RecordTransition(gym.make("CartPole-v1")))
    plain.unwrapped.state = [3.0]
    _, info = plain.reset(seed=0)
    live = LiveScene(plain)
    assert list(live.frame()["objects"]) == ["goal"]
    plain.reset(seed=0)
    *_, info = plain.step(0)
    assert {"next_observation", "goal"} <= set(live.frame(info["sample"])["new"]) | {"goal"}


class Foreign(gym.Wrapper):
    """Has something of another library under the same name."""

    @property
    def scene(self):
        raise AssertionError("nobody asks for it")

    def update_scene(self):
        raise AssertionError("nobody asks for it")


def test_attributes_of_others_are_no_scenes():
    env = Foreign(Declared())
    env.reset(seed=0)
    assert list(LiveScene(env).frame()["objects"]) == ["x", "corner", "trace"]
    cart = gym.make("CartPole-v1")
    cart.unwrapped.scene = lambda scene: None
    assert LiveScene(Foreign(cart)).frame()["objects"] == {}


class Failing(Moving):
    def __init__(self, wrong):
        super().__init__()
        self.wrong = wrong

    def scene(self, scene):
        scene.points("x", field("x"))
        if self.wrong == "scene":
            raise RuntimeError("no mesh")

    def update_scene(self, scene):
        if self.wrong == "update_scene":
            raise RuntimeError("no mesh")


@pytest.mark.parametrize("wrong", ["scene", "update_scene"])
def test_a_method_that_fails_is_an_error_of_the_scene(wrong):
    live = LiveScene(Failing(wrong), "Failing, environment 7")
    with pytest.raises(SceneError, match=f"Failing, environment 7: Failing.{wrong} failed, RuntimeError: no mesh"):
        live.frame()


def test_after_an_error_the_next_frame_is_whole():
    live = LiveScene(Failing(""), "Failing, environment 7")
    live.frame({"x": np.zeros(3)})
    with pytest.raises(
        SceneError, match=r"environment 7: object 'x' of the scene: points has 1 rows that are not finite"
    ):
        live.frame({"x": np.full(3, np.nan)})
    assert live.frame({"x": np.ones(3)})["full"]


def test_samples_without_an_environment_have_frames_too():
    env = Declared()
    source = SceneSource(LiveScene(env).source.scene, {"corner": np.zeros((1, 3))})
    assert list(source.frame({"x": np.zeros(3)})["objects"]) == ["x", "corner"]
    assert is_empty(source.frame({"x": np.zeros(3)}))


def test_render_draws_the_scene():
    env = Moving(render_mode="rgb_array")
    env.reset(seed=0)
    env.step(np.array([0.5, 0, -0.5], np.float32))
    live = LiveScene(env)
    live.frame()
    np.testing.assert_array_equal(env.render(), draw([live.snapshot]))
    assert Moving().render() is None


def test_looking_changes_no_sample():
    found = []
    for looks in (False, True):
        env = gym.make("physgym/Spring-v0")
        live = LiveScene(env)
        env.reset(seed=3)
        for step in range(3):
            if looks:
                live.frame()
            *_, info = env.step(env.unwrapped.sample_action(np.random.default_rng(step)))
        found.append(info["sample"])
    for name, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][name])


def test_scenes_import_no_viewer():
    code = (
        "import sys, physgym.scene, physgym.scene.live, physgym.scene.default;"
        "print([m for m in ('matplotlib', 'vedo', 'vtkmodules', 'torch', 'h5py') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


class Noisy(Moving):
    """Draws random numbers for its sample and its picture."""

    def begin(self, options):
        self.state = self.np_random.random(3).astype(np.float32)

    def advance(self, action):
        self.state = self.np_random.random(3).astype(np.float32)

    def sample(self):
        return {"x": self.state * np.float32(self.np_random.random())}

    def update_scene(self, scene):
        scene.title(f"{self.np_random.random():.3f}")


@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.MT19937])
def test_looking_gives_back_the_random_numbers_that_it_draws(bits):
    """Nobody else asks for the sample after a reset, or a rejected step: its noise would be missed by later steps."""
    seen, unseen = Marked(Noisy()), Noisy()
    live = LiveScene(seen, "Noisy, environment 0")
    for env in (seen, unseen):
        env.reset(seed=3)
        env.unwrapped.np_random = np.random.Generator(bits(3))
    for _ in range(3):
        live.frame()
        for env in (seen, unseen):
            env.step(np.zeros(3, np.float32))
    assert live.snapshot["title"].startswith("0.")
    np.testing.assert_array_equal(seen.unwrapped.state, unseen.state)


def test_a_picture_that_ends_the_program_ends_the_picture_alone():
    class Leaving(Moving):
        def update_scene(self, scene):
            sys.exit(3)

    env = Leaving()
    env.reset(seed=0)
    with pytest.raises(SceneError, match="update_scene failed, SystemExit: 3"):
        LiveScene(env, "Leaving").frame()
