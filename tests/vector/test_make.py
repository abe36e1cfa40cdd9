"""How environments are made: entry points in `__main__`, and the placement that a constructor knows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym import placement
from physgym.errors import ConfigError
from physgym.experiment.config import check_config
from physgym.experiment.runs import check
from physgym.generation.stream import SampleStream
from physgym.runner import Runner, SurrogateVectorEnv
from tests.support import toys
from tests.support.workers import forked_workers  # noqa: F401 - a fixture of all tests here

# what a notebook, a script, stdin or -c defines in __main__
PROGRAM = """
import functools, gymnasium as gym, numpy as np, physgym
from physgym.generation.stream import SampleStream
from gymnasium import spaces
SCALE = np.float32(0.25)
class Wrap(gym.Wrapper, gym.utils.RecordConstructorArgs):
    def __init__(self, env, extra=1):
        gym.utils.RecordConstructorArgs.__init__(self, extra=extra)
        super().__init__(env)
class Sim(physgym.Simulation):
    action_space = observation_space = spaces.Box(-1, 1, (2,), np.float32)
    sample_space = spaces.Dict(x=action_space, y=action_space)
    sample_roles = {"x": "input", "y": "target"}
    def __init__(self, gain=1.0, render_mode=None):
        super().__init__(render_mode=render_mode)
        self.gain = gain
    def begin(self, options):
        self.state, self.count = np.zeros(2, np.float32), 0
    def advance(self, action):
        self.action, self.state, self.count = action, SCALE * np.float32(self.gain) * action, self.count + 1
    def observation(self): return self.state.copy()
    def sample(self): return {"x": self.action, "y": self.state}
    def outcome(self): return 0.0, self.count == 4
def several(**arguments): return physgym.make_vec("Sim-v0", **arguments)
gym.register("Sim-v0", entry_point="__main__:Sim", vector_entry_point="__main__:several")
def main(CONTEXTS):
    wrapped = Wrap(gym.make("Sim-v0"), extra=3).spec
    for arguments in ({"num_workers": 0}, *({"num_workers": 1, "context": context} for context in CONTEXTS)):
        for env in ("Sim-v0", gym.spec("Sim-v0"), wrapped, "__main__:Sim"):
            with physgym.make_vec(env, 2, **arguments) as envs:
                envs.reset(seed=0)
        for make in (Sim, lambda: Sim(gain=0.5), functools.partial(Sim, gain=0.5)):
            with physgym.SocketVectorEnv([make] * 2, **arguments) as envs:
                envs.reset(seed=0)
    with gym.make_vec("Sim-v0", 2, vectorization_mode="vector_entry_point", num_workers=1) as envs:
        envs.reset(seed=0)
    for env in ("Sim-v0", Sim, lambda gain: Sim(gain)):
        stream = SampleStream(env, num_workers=1, env_kwargs={"gain": 2.0})
        with stream:
            sample = stream.draw(4)
            assert np.array_equal(sample["y"], sample["x"] / 2)
    print("all of them")
"""


def run(program, folder, how):
    if how == "script":
        Path(folder, "program.py").write_text(program)
        arguments, text = ["program.py"], None
    else:
        arguments, text = (["-c", program], None) if how == "-c" else (["-"], program)
    return subprocess.run(
        [sys.executable, *arguments], input=text, cwd=folder, capture_output=True, text=True, check=False, timeout=100
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "contexts"), [("script", ["spawn"]), ("-c", ["forkserver"]), ("stdin", ["forkserver", "fork", "spawn"])]
)
def test_what_main_defines_reaches_workers(tmp_path, how, contexts):
    call = f'\nif __name__ == "__main__":\n    main({contexts})\n'
    done = run(PROGRAM + call, tmp_path, how)
    assert done.stdout == "all of them\n", done.stderr


def test_an_id_that_main_registers_needs_more_than_a_callable(tmp_path):
    call = """
try:
    physgym.SocketVectorEnv([lambda: gym.make("Sim-v0")], num_workers=1)
except physgym.errors.WorkerError as error:
    print(str(error).splitlines()[0])
"""
    done = run(PROGRAM + call, tmp_path, "stdin")
    assert "NameNotFound" in done.stdout
    assert "pass the id itself" in done.stdout


def test_a_missing_entry_point_in_main_is_said():
    gym.register("toy/Gone-v0", entry_point="__main__:ThatIsNotThere")
    try:
        with pytest.raises(ConfigError, match="defines no 'ThatIsNotThere'"):
            physgym.make_vec("toy/Gone-v0", 2, num_workers=0)
    finally:
        del gym.registry["toy/Gone-v0"]


class Placed(toys.Flaky):
    """Says in its sample what its constructor knew of its placement."""

    def __init__(self, render_mode=None):
        self.known = (self.env_index, self.env_count)
        super().__init__(reject_above=2.0, render_mode=render_mode)

    def sample(self):
        return {"x": np.float32([self.known[0]]), "y": np.float32([self.known[1]])}


class PlacedPlainly(toys.Line):
    """The same without the base class."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.known = tuple(placement.current())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("make", [Placed, PlacedPlainly])
def test_a_constructor_knows_its_placement(make, workers):
    with physgym.SocketVectorEnv([make] * 3, num_workers=workers) as envs:
        assert [tuple(known) for known in envs.get_attr("known")] == [(0, 3), (1, 3), (2, 3)]
    assert placement.current() == (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_constructor_knows_its_placement_where_samples_are_made(workers):
    with SampleStream(Placed, num_envs=2, num_workers=workers) as stream:
        sample = stream.draw(40)
    assert set(sample["y"][:, 0]) == {2.0}
    assert set(sample["x"][:, 0]) == {0.0, 1.0}


class DiesOnce(Placed):
    """Ends its worker in the first step, once."""

    def __init__(self, switch, render_mode=None):
        super().__init__(render_mode=render_mode)
        self.kill_switch = switch


@pytest.mark.slow
def test_a_constructor_knows_its_placement_after_a_restart(tmp_path):
    switch = tmp_path / "switch"
    with physgym.SocketVectorEnv([Placed, lambda: DiesOnce(str(switch))], num_workers=2, on_error="restart") as envs:
        switch.touch()
        envs.reset(seed=0)
        assert envs.restarts == 1
        assert [tuple(known) for known in envs.get_attr("known")] == [(0, 2), (1, 2)]


def test_surrogates_know_their_placement():
    class Linear(Placed):
        def inputs(self, action):
            return {"x": action}

        def adopt(self, action, prediction):
            self.x = prediction["y"]

    class Network:
        inputs, outputs = ("x",), ("y",)

        def predict(self, sample, *, batched=False):
            return {"y": sample["x"]}

    envs = SurrogateVectorEnv(Linear, Network(), 3)
    assert [one.known for one in envs.envs] == [(0, 3), (1, 3), (2, 3)]
    envs.close()


class Own(gym.Space):
    """A space of a user's own class."""

    def __init__(self):
        super().__init__((), np.dtype(np.float32))

    def sample(self, mask=None, probability=None):
        return "x"

    def contains(self, x):
        return isinstance(x, str)


def test_the_environment_that_shows_its_spaces_takes_no_placement_of_another(tmp_path):
    class Custom(gym.Env):
        action_space = spaces.Discrete(2)

        def __init__(self):
            self.observation_space = Own()
            (tmp_path / f"{placement.current().env_index}").mkdir()  # fails where two have the same

        def reset(self, *, seed=None, options=None):
            return "x", {}

    with physgym.SocketVectorEnv([Custom] * 2, num_workers=1, context="fork") as envs:
        envs.reset(seed=0)
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1", "2"}


class Passing(toys.Flaky):
    """Passes its keyword arguments on."""

    def __init__(self, gain=1.0, **kwargs):
        super().__init__(**kwargs)


gym.register("toy/Passing-v0", Passing)


@pytest.mark.slow
@pytest.mark.parametrize("env", ["toy/Passing-v0", Passing])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_misspelled_argument_that_is_passed_on_is_said(env, workers):
    with pytest.raises(ConfigError, match=r"has no argument 'reject_abov'; did you mean 'reject_above'\?$"):
        SampleStream(env, num_workers=workers, env_kwargs={"gain": 2.0, "reject_abov": 1.0})


def test_a_configuration_says_what_is_wrong_with_arguments():
    data = {"environment": {"id": "toy/Passing-v0", "arguments": {"reject_abov": 1.0}}}
    with pytest.raises(ConfigError, match="environment: toy/Passing-v0 has no argument 'reject_abov'; did you mean"):
        check(check_config(data, "test"))


def test_any_fault_of_a_constructor_is_told_with_the_arguments():
    def broken(depth=1):
        raise RuntimeError("no licence")

    gym.register("toy/Broken-v0", broken)
    try:
        data = {"environment": {"id": "toy/Broken-v0", "arguments": {"depth": 2}}}
        with pytest.raises(ConfigError, match=r"Broken-v0 with \{'depth': 2\} raised RuntimeError: no licence"):
            check(check_config(data, "test"))
    finally:
        del gym.registry["toy/Broken-v0"]


@pytest.mark.parametrize("predictor", [lambda fields: {"y": fields["x"]}, None, 3])
def test_a_runner_says_what_it_takes_for_a_network(predictor):
    with pytest.raises(ConfigError, match=r"a Runner takes a physgym.nn.Predictor or the folder of a session"):
        Runner(toys.Line, predictor)
