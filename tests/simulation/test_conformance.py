from __future__ import annotations

import functools
import os
import random
import tempfile
import unittest
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from physgym.envs.spring import Spring
from physgym.errors import ConfigError
from physgym.scene import field
from physgym.testing import ConformanceNote, EnvConformance, check_env
from physgym.testing.isolation import find_influence
from tests.support import toys
from tests.support.commands import run_program

SHIPPED = [
    "physgym/Spring-v0",
    "physgym/Beam-v0",
    "physgym/BeamFull-v0",
    "physgym/Burgers-v0",
    "physgym/BurgersStep-v0",
    "physgym/Darcy-v0",
    "physgym/Heat-v0",
    "physgym/KuramotoSivashinsky-v0",
    "physgym/NavierStokes2D-v0",
    "physgym/Track-v0",
]


by_default = pytest.mark.usefixtures("fresh_workers")  # workers start as those of a user do


@by_default
class TestSpring(EnvConformance):
    def make_env(self, **kwargs):
        return gym.make("physgym/Spring-v0", **kwargs)


@by_default
class TestBeam(EnvConformance):
    def make_env(self, **kwargs):
        return gym.make("physgym/Beam-v0", **kwargs)


@by_default
class TestBurgers(EnvConformance):
    def make_env(self, **kwargs):
        return gym.make("physgym/Burgers-v0", **kwargs)


@by_default
class TestHeat(EnvConformance):
    def make_env(self, **kwargs):
        return gym.make("physgym/Heat-v0", **kwargs)


class TestBurgersStep(EnvConformance):
    def make_env(self, **kwargs):
        return gym.make("physgym/BurgersStep-v0", size=64, viscosity=(0.05, 0.1), **kwargs)


class TestKuramotoSivashinsky(EnvConformance):
    def make_env(self, **kwargs):
        return gym.make("physgym/KuramotoSivashinsky-v0", size=64, warm_up=5.0, **kwargs)


class TestNavierStokes2D(EnvConformance):
    def make_env(self, **kwargs):
        return gym.make("physgym/NavierStokes2D-v0", size=16, **kwargs)


class TestDarcy(EnvConformance):
    def make_env(self, **kwargs):
        return gym.make("physgym/Darcy-v0", size=17, **kwargs)


class TestTrack(EnvConformance):
    def make_env(self, **kwargs):
        return gym.make("physgym/Track-v0", **kwargs)


class TestNestedParameters(EnvConformance):
    def make_env(self, **kwargs):
        return toys.Tuned(**kwargs)


class Wound(toys.Line):
    """A plain environment with parameters; subclasses break the rules about them."""

    parameter_space = spaces.Dict(
        [("turns", spaces.Box(0, 100, (), np.uint8)), ("ends", spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1)]))]
    )

    def draw(self):
        turns = self.np_random.integers(101, dtype=np.uint8)
        return {"turns": turns, "ends": (self.np_random.integers(3), self.np_random.uniform(-1, 1, 1).astype("f4"))}

    def chosen(self, options):
        drawn = self.draw()
        given = (options or {}).get("parameters", drawn)
        for name, space in self.parameter_space.items():
            value = np.asarray(given[name]) if name == "turns" else given[name]
            if not space.contains(value):
                raise ValueError(f"{name} is out of bounds")
        return given

    def reset(self, *, seed=None, options=None):
        observation, _ = super().reset(seed=seed)
        self.given = self.chosen(options)
        self.factor = np.float32(1 - self.np_random.random())
        return observation, {"parameters": self.given}

    def step(self, action):
        return super().step(np.asarray(action * self.factor, np.float32))


class TestPlainParameters(EnvConformance):
    def make_env(self, **kwargs):
        return Wound(**kwargs)


class Silent(Wound):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed, options=options)[0], {}


class Beyond(Wound):
    def draw(self):
        return {**super().draw(), "ends": (3, np.zeros(1, np.float32))}

    def chosen(self, options):
        return self.draw()


class OtherForm(Wound):
    def chosen(self, options):
        return {**super().chosen(options), "turns": "many"}


class Deaf(Wound):
    def chosen(self, options):
        return super().chosen(None)


class Thrifty(Wound):
    def chosen(self, options):
        return super().chosen(None) if options is None else options["parameters"]


class Credulous(Wound):
    def chosen(self, options):
        return (options or {}).get("parameters", self.draw())


class TestPlainEnv(EnvConformance):
    def make_env(self, **kwargs):
        return toys.Line(**kwargs)


@pytest.mark.parametrize("env_id", SHIPPED)
# advice about policies and scaling, which agents need and samplers do not
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*symmetric and normalized.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*unconventional shape.*:UserWarning")
def test_stable_baselines_accepts_the_shipped_simulations(env_id):
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    env = gym.make(env_id)
    sb3_check_env(env, warn=True, skip_render_check=True)
    env.close()


class Unseeded(toys.Line):
    def step(self, action):
        return super().step(np.clip(action + np.random.default_rng().normal(scale=0.1, size=3), -1, 1).astype("f4"))


class Aliasing(toys.Line):
    def reset(self, *, seed=None, options=None):
        self.state = np.zeros(3, np.float32)
        super().reset(seed=seed)
        return self.state, {}

    def step(self, action):
        self.state += action
        return self.state, *super().step(action)[1:]


class BadSampler(toys.Line):
    def sample_action(self, rng):
        return np.full(3, 2.0, np.float32)


class GlobalSampler(toys.Line):
    def sample_action(self, rng):
        return self.action_space.sample()


class NoRoles(toys.Line):
    sample_roles = {}  # noqa: RUF012


class BadFrame(toys.Line):
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def render(self):
        return np.zeros((4, 4), np.uint8)


class ObjectInfo(toys.Line):
    def step(self, action):
        *results, info = super().step(action)
        return *results, {**info, "mesh": object()}


class Forgetful(Spring):
    def __init__(self, render_mode=None):
        super().__init__(render_mode=render_mode)

    def adopt(self, action, prediction):
        self._before = self._state


class Misfed(Forgetful):
    def inputs(self, action):
        return {**super().inputs(action), "force": 2 * action}


class Unfed(Forgetful):
    def inputs(self, action):
        return {"state": self._state, "force": action}


class ByIndex(toys.Flaky):
    """Each environment has an offset of its own."""

    def __init__(self, render_mode=None):
        super().__init__(reject_above=2.0)
        self.offset = np.float32(self.env_index / 10)

    def sample(self):
        return {"x": self.x, "y": self.offset - self.x / 2}


class ByCount(ByIndex):
    def __init__(self, render_mode=None):
        super().__init__()
        self.offset = np.float32(self.env_count / 10)


class Walk(toys.Line):
    """Moves by what `draw` gives."""

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        self.seed(seed)
        return observation, info

    def seed(self, seed):
        raise NotImplementedError

    def step(self, action):
        return np.full(3, self.draw(), np.float32), *super().step(action)[1:]


class GlobalNumpy(Walk):
    def seed(self, seed):
        np.random.seed(seed)  # noqa: NPY002

    def draw(self):
        return np.random.rand()  # noqa: NPY002


class GlobalPython(Walk):
    def seed(self, seed):
        random.seed(seed)

    def draw(self):
        return random.random()


class GlobalTorch(Walk):
    def seed(self, seed):
        import torch  # not where all of this module's workers would take seconds for it

        torch.manual_seed(seed)

    def draw(self):
        import torch

        return float(torch.rand(()))


class OwnFolder(Walk):
    """Works in a folder of its own, as wrappers of solvers do that write files."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        os.chdir(tempfile.mkdtemp())

    def seed(self, seed):
        Path("state").write_text("0")

    def draw(self):
        state = int(Path("state").read_text()) + 1
        Path("state").write_text(str(state))
        return state


COUNTED = {"steps": 0}


class ModuleVariable(Walk):
    def seed(self, seed):
        COUNTED["steps"] = 0

    def draw(self):
        COUNTED["steps"] += 1
        return COUNTED["steps"]


class ClassVariable(Walk):
    counted = 0

    def seed(self, seed):
        ClassVariable.counted = 0

    def draw(self):
        ClassVariable.counted += 1
        return ClassVariable.counted


class Counter:
    """A solver's library that counts."""

    def __init__(self):
        self.count = 0


class Borrowed(Walk):
    def __init__(self, counter=Counter()):  # noqa: B008 - that is the fault
        super().__init__()
        self.counter = counter

    def seed(self, seed):
        self.counter.count = 0

    def draw(self):
        self.counter.count += 1
        return self.counter.count


def lending(cls=Borrowed):
    """A factory whose closure holds what it gives to all."""
    counter = Counter()
    return lambda: cls(counter)


def counting():
    number = 0

    class Caught(Walk):
        def seed(self, seed):
            nonlocal number
            number = 0

        def draw(self):
            nonlocal number
            number += 1
            return number

    return Caught


class Remembering(Walk):
    def seed(self, seed):
        self.draw(-self.draw(0))

    def draw(self, more=1, known=[0]):  # noqa: B006 - that is the fault
        known[0] += more
        return known[0]


class Unseen(Borrowed):
    """Shares an object that nothing comes of in the first steps."""

    def draw(self):
        self.counter.count += 1
        return 1


class Library:
    """Something that is up for all, until somebody shuts it down."""

    users = 0


class ClosedForAll(Walk):
    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        Library.users = 1

    def seed(self, seed):
        return

    def step(self, action):
        return np.full(3, Library.users, np.float32), 1.0, False, False, {"sample": self.make_sample(action)}

    def close(self):
        Library.users = 0


class Undrawn(toys.Line):
    """Declares a scene that its samples do not fit."""

    def scene(self, scene):
        scene.points("points", field("y"), scalars=field("x"))


class WarmStarted(toys.Line):
    """Begins with what is left of the last episode, which shows from the third step on."""

    guess = 0.0

    def make_sample(self, action):
        self.guess = 0.5 * self.guess + float(action[0])
        return {**super().make_sample(action), "y": np.full(3, self.guess if self.count > 2 else 0.0)}


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (ByIndex, "'y' differs at step 0 with another env_index"),
        (ByCount, "'y' differs at step 0 with another env_count"),
        (WarmStarted, "that has run other episodes sample field 'y' differs at step 2.*clear there what is left"),
        (GlobalNumpy, r"the observation differs at step 0 .* They share numpy's global generator .* self.np_random"),
        (GlobalPython, r"They share Python's global generator \(random\). Draw from self.np_random"),
        (GlobalTorch, r"They share torch's global generator .*. Pass a torch.Generator of the instance's own"),
        (OwnFolder, r"They share the working folder of the process. .*: use absolute paths; or declare metadata"),
        (
            ModuleVariable,
            r"They share the variable COUNTED of module tests.simulation.test_conformance. Keep it in the instance",
        ),
        (ClassVariable, r"They share the attribute counted of class ClassVariable. Keep it in the instance"),
        (
            Borrowed,
            r"the default argument 0 of Borrowed.__init__, the object that both have as counter. Keep it in the",
        ),
        (lending(), r"the object that both have as counter. Keep it in the instance"),
        (counting(), r"the variable number that .*draw has caught"),
        (Remembering, r"the default argument 1 of Remembering.draw"),
        (ClosedForAll, r"differs at step 5 .* They share the attribute users of class Library"),
        (Forgetful, "must lead to its observation; it differs at step 0"),
        (Misfed, "must give the input fields as the sample of the step has them; 'force' differs"),
        (Unfed, "'parameters' is missing"),
        (Unseeded, "equal seeds must give equal episodes"),
        (Aliasing, "must not change after it was returned"),
        (BadSampler, "must return elements of action_space"),
        (GlobalSampler, "must take all randomness from rng"),
        (NoRoles, "at least one field of role 'input'"),
        (BadFrame, "must return uint8 of shape"),
        (Undrawn, "test_renders: Undrawn: object 'points' of the scene: scalars must have a value for each of the 1"),
        (ObjectInfo, "must be such that processes can send them"),
        (toys.WrongShape, r"'y'\] has shape"),
        (lambda render_mode=None: toys.Flaky(reject_above=-2), "at least one of"),
        (toys.NoSamples, "must declare sample_space"),
        (Silent, r"must report the parameters .*: it is not there"),
        (Beyond, r"must report the parameters .*: 'ends/0' = 3 is not in Discrete\(3\)"),
        (OtherForm, r"must report the parameters .*'turns'"),
        (Deaf, r"must set them: asked for 'turns' = \d+, info\[.parameters.\] has \d+. Use them"),
        (Thrifty, r"must give the same episode; .* differs at step 0"),
        (Credulous, r"must refuse options\[.parameters.\] with 'turns' = 201"),
    ],
)
def test_a_broken_rule_is_found_and_said(make, rule):
    seen = {}
    with pytest.raises(AssertionError, match=rule):
        check_env(lambda render_mode=None: make(), lambda name, fault: seen.update({name: fault}))
    assert any(seen.values())
    assert "" in seen.values()  # it goes on after a broken rule


@pytest.mark.parametrize("make", [GlobalNumpy, OwnFolder, ModuleVariable, ClassVariable])
def test_an_environment_that_declares_to_be_single_may_share_things(make, monkeypatch):
    class Single(make):
        metadata = {"physgym.single": "process"}  # noqa: RUF012

    monkeypatch.chdir(Path.cwd())  # back at the end
    numbers = np.random.get_state()  # noqa: NPY002
    suite = EnvConformance()
    suite.make_env = Single
    with pytest.raises(unittest.SkipTest, match="one instance per process"):
        suite.test_instances_do_not_influence_each_other()
    suite.test_equal_through_a_worker()
    np.random.set_state(numbers)  # noqa: NPY002


def test_the_process_is_left_as_it_was():
    home, numbers = Path.cwd(), np.random.get_state()  # noqa: NPY002
    for make in (OwnFolder, GlobalNumpy):
        find_influence(make, (1, 2), 3)
    assert Path.cwd() == home
    np.testing.assert_equal(np.random.get_state(), numbers)  # noqa: NPY002


def test_an_object_that_two_instances_share_is_said_also_where_nothing_comes_of_it():
    with pytest.warns(
        ConformanceNote, match="share the object that both have as counter, and a step of one changed it"
    ):
        assert find_influence(lending(Unseen), (1, 2), 3) is None
    assert find_influence(lambda: Unseen(Counter()), (1, 2), 3) is None
    assert "factory" in find_influence(functools.partial(Borrowed, Counter()), (1, 2), 3).cause


class Nearly(Spring):
    """Takes over a prediction but for an error."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode=render_mode)

    def adopt(self, action, prediction):
        super().adopt(action, {name: 1.02 * value for name, value in prediction.items()})


def test_an_approximate_adopt_is_a_note():
    faults, notes = {}, {}
    check_env(Nearly, lambda *said: faults.update([said]), lambda *said: notes.update([said]))
    assert set(faults.values()) == {""}
    assert list(notes) == ["test_a_network_can_stand_in_for_the_solver"]
    assert "leads near its observation, not to it: at step 0 it is 0.1%" in "".join(notes.values())
    suite = EnvConformance()
    suite.make_env = Nearly
    with pytest.warns(ConformanceNote, match="leads near its observation"):
        suite.test_a_network_can_stand_in_for_the_solver()


def test_an_unknown_id_is_said():
    with pytest.raises(ConfigError, match="no environment"):
        check_env("physgym/Nothing-v0")


PROJECT = """
import gymnasium
from tests.support.toys import Line, WrongShape
gymnasium.register("my/Good-v0", Line)
gymnasium.register("my/Bad-v0", WrongShape)
"""


def run_pytest(folder, *arguments):
    (folder / "my_sims.py").write_text(PROJECT)
    program = folder / "run_pytest.py"
    program.write_text("import sys, pytest\nsys.exit(pytest.main(sys.argv[1:]))\n")
    done = run_program(folder, program, "-q", "-p", "no:cacheprovider", *arguments)
    return done.returncode, done.stdout


@pytest.mark.slow
def test_the_plugin_runs_the_suite(tmp_path, monkeypatch):
    import tests

    monkeypatch.setenv("PYTHONPATH", str(next(iter(tests.__path__)) + "/.."))
    (tmp_path / "test_own.py").write_text("def test_own():\n    assert True\n")
    code, output = run_pytest(tmp_path, "--physgym-env", "my_sims:my/Good-v0")
    assert code == 0, output
    assert "12 passed, 7 skipped" in output  # it renders nothing, and has no parameters, state or hooks
    code, output = run_pytest(tmp_path, "--physgym-env", "my_sims:my/Good-v0", "test_own.py")
    assert "13 passed, 7 skipped" in output, output
    code, output = run_pytest(tmp_path, "--physgym-env", "my_sims:my/Bad-v0", "-k", "samples_fit")
    assert code == 1
    assert "sample_space says (3,)" in output
    code, output = run_pytest(tmp_path)
    assert "1 passed" in output, output


@pytest.mark.slow
def test_a_script_checks_what_it_has_registered_itself(tmp_path):
    # the worker of the rule that compares with one imports nothing of the script, and knows no registration of it
    (tmp_path / "mine.py").write_text(
        "import gymnasium, physgym\n"
        "from physgym.envs.spring import Spring\n"
        "from physgym.testing import check_env\n"
        "gymnasium.register('mine/Spring-v0', Spring)\n"
        "if __name__ == '__main__':\n"
        "    check_env('mine/Spring-v0', arguments={'time_step': 0.05})\n"
    )
    done = run_program(tmp_path, "mine.py")
    assert done.returncode == 0, done.stderr
