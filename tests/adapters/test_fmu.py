"""FMUs of versions 2 and 3 as simulations: two damped springs, compiled from C."""

from __future__ import annotations

import gc
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import physgym
from physgym import cli
from physgym.adapters import fmu_folder, held_folder
from physgym.adapters.fmu import FmuSimulation
from physgym.envs import FMU
from physgym.errors import ConfigError, SampleError, SharedProcess, SimulatorError
from physgym.machines.permissions import HARMLESS, Permissions
from physgym.runner import SurrogateEnv
from physgym.testing import check_env
from tests.support.fmus import (
    DISCARDS,
    ENDS,
    ENDS_EARLY,
    FAILS,
    FAILS_AT_START,
    GIVES_NAN,
    IS_FATAL,
    RETURNS_EARLY,
    make_fmu,
)

PUSH = np.array([1.0, -0.5])
BOTH = pytest.mark.parametrize("version", [2, 3])


def springs(version, tmp_path, changes=None, **arguments):
    """An environment of a new FMU, and of nothing else."""
    return FmuSimulation(make_fmu(tmp_path / f"springs{version}.fmu", version, changes), **arguments)


def reference(steps, stiffness=10.0, mass=1.0, friction=0.5, position=0.0, gain=1, push=PUSH):
    """The same by NumPy: x, v after some steps of 0.1 s, each of ten of the FMU's own."""
    x, v = np.full(2, position), np.zeros(2)
    for _ in range(10 * steps):
        v = v + 0.01 * (gain * push - stiffness * x - friction * v) / mass
        x = x + 0.01 * v
    return x, v


def left_folders():
    return list(Path(tempfile.gettempdir()).glob(f"{fmu_folder.PREFIX}*"))


@BOTH
def test_it_computes_what_the_equations_say(version, tmp_path):
    with_all = {"position": [-1, 1], "stiffness": None, "body.mass": [0.5, 2]}
    env = springs(version, tmp_path, outputs=["x", "v"], parameters=with_all, start={"gain": 2})
    _, info = env.reset(seed=3)
    drawn = info["parameters"]
    assert 1 <= drawn["stiffness"] <= 100  # the bounds of the model description
    for _ in range(4):
        observation, *_, info = env.step(PUSH)
    x, v = reference(4, drawn["stiffness"], drawn["body.mass"], 0.5, drawn["position"], gain=2)
    np.testing.assert_allclose(observation, [*x, *v], rtol=1e-12)
    assert info["time"] == pytest.approx(0.4)
    assert env.parameter_units == {"position": "m", "stiffness": "N/m", "body.mass": "kg"}
    assert env.sample_units["next_outputs/v"] == "m/s"
    assert env.time_step == 0.1
    env.close()


@BOTH
@pytest.mark.slow
def test_it_keeps_the_rules_of_environments(version, tmp_path):
    path = str(make_fmu(tmp_path / "springs.fmu", version))
    arguments = {
        "path": path,
        "parameters": {
            "stiffness": {"low": 5, "high": 20, "unit": "N/m"},
            "law": None,
            "gain": None,
            "position": [0.1, 1],
        },
    }
    check_env(lambda **more: gymnasium.make("physgym/Fmu-v0", **arguments, **more))


@BOTH
def test_types_are_those_of_the_model(version, tmp_path):
    computed = ["x", "energy", "steps", "moving"]
    env = springs(version, tmp_path, inputs=["force", "blocked"], outputs=computed, parameters=["law", "gain"])
    assert env.action_space["blocked"] == gymnasium.spaces.Discrete(2, dtype=np.int8)
    assert env.action_space["force"].shape == (2,)
    assert env.parameter_space["law"] == gymnasium.spaces.Discrete(
        2, start=1, dtype=np.int32 if version == 2 else np.int64
    )
    observation, info = env.reset(seed=1)
    assert info["parameters"]["law"] in (1, 2)
    assert info["parameters"]["gain"] in (1, 2, 3)
    observation, *_, info = env.step({"force": PUSH, "blocked": 0})
    assert observation["moving"] == 1
    assert observation["steps"] == 1
    assert info["sample"]["next_outputs/energy"].dtype == (np.float64 if version == 2 else np.float32)
    assert info["sample"]["next_outputs/steps"].dtype == (np.int32 if version == 2 else np.uint8)
    moved = observation["x"]
    observation, *_ = env.step({"force": PUSH, "blocked": 1})
    np.testing.assert_array_equal(observation["x"], moved)
    env.close()
    env = springs(version, tmp_path, inputs="blocked")
    assert env.action_space == gymnasium.spaces.Discrete(2, dtype=np.int8)
    env.reset(seed=1)
    env.step(1)
    env.close()


@pytest.mark.parametrize("argument", ["start", "units"])
def test_values_by_name_are_a_mapping(argument, tmp_path):
    with pytest.raises(ConfigError, match=f"{argument} must be a mapping of names"):
        springs(2, tmp_path, **{argument: ["gain"]})


def test_actions_of_another_form_are_refused(tmp_path):
    env = springs(2, tmp_path)
    env.reset(seed=1)
    for action in ([1.0], [1.0, 2.0, 3.0], 1.0):
        with pytest.raises(SampleError, match=r"values in a row \(force\[1\], force\[2\]|values in a row \(force\)"):
            env.step(np.array(action))
    env.close()
    env = springs(2, tmp_path, inputs=["force", "blocked"])
    env.reset(seed=1)
    for action in ({"force": PUSH}, {"force": PUSH, "blocked": 0.5}, {"force": PUSH[:1], "blocked": 0}):
        with pytest.raises(SampleError, match="an action of an FMU"):
            env.step(action)
    env.close()


def test_an_element_of_an_array_and_a_second_name_are_variables_too(tmp_path):
    env = springs(2, tmp_path, inputs=["force[2]"], outputs=["x[2]", "x"])
    assert env.action_space.shape == (1,)
    env.reset()
    observation = env.step(np.array([2.0]))[0]
    assert observation[0] == observation[2] != 0
    assert observation[1] == 0
    env.close()
    changes = {'"4" causality="parameter" variability="tunable"': '"4" causality="input" variability="discrete"'}
    env = springs(2, tmp_path, changes)  # a number of a truth value, which is that of a real one as well
    assert list(env.action_space) == ["force", "blocked"]
    env.close()
    assert springs(3, tmp_path).observation_space.shape == (3,)  # energy, whose other name is total, once
    for changes in ({"inputs": ["force", "force[1]"]}, {"start": {"v": 1, "v[2]": 2}}):
        with pytest.raises(ConfigError, match="is named twice among `inputs`, `parameters` and `start`"):
            springs(2, tmp_path, **changes)


@BOTH
def test_a_state_goes_to_another_environment(version, tmp_path):
    env = springs(version, tmp_path, parameters={"stiffness": [5, 20]})
    env.reset(seed=1)
    env.step(PUSH)
    state = env.state()
    after = [env.step(PUSH)[0] for _ in range(3)]
    other = FmuSimulation(env.about.path, parameters={"stiffness": [5, 20]})
    other.reset(seed=9)
    other.set_state(state)
    assert other.parameters["stiffness"] == env.parameters["stiffness"]
    for wanted in after:
        np.testing.assert_array_equal(other.step(PUSH)[0], wanted)
    with pytest.raises(ConfigError, match="another FMU"):
        other.set_state({**state, "token": "{0}"})
    with pytest.raises(ConfigError, match="bytes, not float64"):
        other.set_state({**state, "fmu": np.zeros(3)})
    with pytest.raises(SimulatorError, match=r"a state has .* bytes, not 7"):
        other.set_state({**state, "fmu": np.zeros(7, np.uint8)})
    other.reset(seed=9)  # with a new instance
    with pytest.raises(ConfigError, match="does not show after a restored state"):
        other.set_state({**state, "outputs/x": state["outputs/x"] + 1})
    env.close()
    other.close()


@BOTH
def test_a_network_can_make_the_steps(version, tmp_path):
    env = SurrogateEnv(
        springs(version, tmp_path, outputs=["x", "v"]),
        lambda fed: {"next_outputs/x": fed["outputs/x"] + fed["inputs/force"], "next_outputs/v": fed["outputs/v"] + 1},
    )
    env.reset(seed=1)
    env.step(PUSH)
    np.testing.assert_array_equal(env.step(PUSH)[0], [*(2 * PUSH), 2, 2])
    env.close()
    inner = springs(version, tmp_path)
    with pytest.raises(ConfigError, match="reset the environment before"):
        inner.set_state({})
    inner.reset()
    inner.step(PUSH)
    state = inner.state()
    inner.adopt(PUSH, {"next_outputs/x": np.zeros(2), "next_outputs/energy": np.zeros(())})
    for call in (lambda: inner.step(PUSH), inner.state):
        with pytest.raises(SimulatorError, match="a network has made steps in place of springs"):
            call()
    inner.set_state(state)
    np.testing.assert_allclose(inner.step(PUSH)[0][:2], reference(2)[0])
    inner.close()


@BOTH
@pytest.mark.slow
def test_a_state_goes_to_another_process(version, tmp_path):
    env = springs(version, tmp_path)
    env.reset(seed=1)
    env.step(PUSH)
    np.savez(tmp_path / "state.npz", **env.state())
    wanted = env.step(PUSH)[0]
    env.close()
    code = f"""
import numpy as np
from physgym.adapters.fmu import FmuSimulation
env = FmuSimulation({str(env.about.path)!r})
env.reset(seed=2)
env.set_state(dict(np.load({str(tmp_path / "state.npz")!r})))
print(env.step(np.array({PUSH.tolist()}))[0].tolist())
env.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=110, check=True)
    assert json.loads(done.stdout) == wanted.tolist()


@BOTH
@pytest.mark.slow
def test_an_fmu_without_states_says_so_and_works(version, tmp_path):
    word = "canSerializeFMUstate" if version == 2 else "canSerializeFMUState"
    changes = {f'{word}="true"': f'{word}="false"'}
    env = springs(version, tmp_path, changes)
    env.reset()
    with pytest.raises(ConfigError, match="neither kept nor restored"):
        env.state()
    env.close()
    envs = physgym.make_vec("physgym/Fmu-v0", 1, path=str(tmp_path / f"springs{version}.fmu"), num_workers=0)
    envs.close()
    data = physgym.generate(
        *("physgym/Fmu-v0", tmp_path / "data"),
        env_kwargs={"path": str(tmp_path / f"springs{version}.fmu")},
        samples=6,
        max_steps=3,
        num_workers=0,
        progress=False,
    )
    assert len(data) == 6


@BOTH
@pytest.mark.parametrize(
    ("fault", "text"),
    [(DISCARDS, "discard.*no convergence at 0.2 s"), (FAILS, "error.*the matrix is singular")],
    ids=["discard", "error"],
)
def test_a_step_that_fails_is_rejected_with_what_the_fmu_says(version, fault, text, tmp_path):
    env = springs(version, tmp_path, start={"fault": fault})
    for _ in range(2):  # an instance that has failed is made anew
        env.reset()
        assert "sample" in env.step(PUSH)[-1]
        before = env.step(PUSH)[0]
        observation, _, terminated, truncated, info = env.step(PUSH)
        assert terminated
        assert not truncated
        assert "sample" not in info
        assert re.search(text, info["rejected"])
        np.testing.assert_array_equal(observation, before)
        assert "has ended this episode" in env.step(PUSH)[-1]["rejected"]
    env.close()


@BOTH
def test_a_fatal_failure_ends_the_environment(version, tmp_path):
    env = springs(version, tmp_path, start={"fault": IS_FATAL})
    env.reset()
    env.step(PUSH)
    env.step(PUSH)
    with pytest.raises(SimulatorError, match=r"fatal.*out of memory"):
        env.step(PUSH)
    with pytest.raises(SimulatorError, match=r"has failed fatally.*on_error"):
        env.reset()
    env.close()
    assert left_folders() == []


@BOTH
def test_other_ends_of_a_step(version, tmp_path):
    env = springs(version, tmp_path, start={"fault": ENDS})
    env.reset()
    steps = [env.step(PUSH) for _ in range(3)]
    assert [step[2] for step in steps] == [False, False, True]
    np.testing.assert_allclose(steps[-1][-1]["sample"]["next_outputs/x"], reference(3)[0])
    state = env.state()  # of an episode without steps to come
    env.close()
    env = springs(version, tmp_path, start={"fault": ENDS_EARLY})
    env.reset()
    env.set_state(state)
    np.testing.assert_array_equal(env.observation(), steps[-1][0])
    assert "has ended this episode" in env.step(PUSH)[-1]["rejected"]
    env.reset()
    steps = [env.step(PUSH) for _ in range(3)]
    assert [step[2] for step in steps] == [False, False, True]
    text = (
        "at 0.2 s; it asks for the end of the simulation" if version == 2 else "returned early from a step, at 0.25 s"
    )
    assert text in steps[-1][-1]["rejected"]
    env.close()
    env = springs(version, tmp_path, start={"fault": RETURNS_EARLY})
    env.reset()
    steps = [env.step(PUSH) for _ in range(3)]
    text = "computes on while others wait" if version == 2 else "returned early from a step, at 0.25 s, unasked"
    assert text in steps[-1][-1]["rejected"]
    env.close()
    env = springs(version, tmp_path, start={"fault": GIVES_NAN})
    env.reset()
    env.step(PUSH)
    env.step(PUSH)
    with pytest.raises(physgym.errors.SampleError, match=r"next_outputs/x.*non-finite"):
        env.step(PUSH)
    env.close()


@BOTH
def test_an_initialization_that_fails_says_why_and_the_next_one_works(version, tmp_path):
    env = springs(version, tmp_path, parameters={"fault": [0, 7]})
    with pytest.raises(SimulatorError, match=r"failed to initialize.*no initial state with fault = 7"):
        env.reset(options={"parameters": {"fault": FAILS_AT_START}})
    env.reset(options={"parameters": {"fault": 0}})
    np.testing.assert_allclose(env.step(PUSH)[0][:2], reference(1)[0])
    env.close()
    env = springs(version, tmp_path, start={"label": "refuse me"})
    with pytest.raises(SimulatorError, match="the label 'refuse me' is refused"):
        env.reset()
    env.close()
    with pytest.raises(SimulatorError, match=r"cannot be instantiated: the (guid|token) is"):
        springs(version, tmp_path, {"{8c4e": "{9c4e"})
    assert left_folders() == []


@BOTH
def test_arguments_that_do_not_fit_are_refused_by_name(version, tmp_path):
    for arguments, text in (
        ({"inputs": ["forze"]}, "inputs: .* no variable 'forze'; did you mean 'force'"),
        ({"outputs": "label"}, "outputs: 'label' is of type String.*start="),
        ({"outputs": []}, "no outputs"),
        ({"inputs": ["x"]}, "inputs: 'x' .output, continuous. cannot change while"),
        ({"inputs": ["position"]}, "Make it one of `parameters`"),
        ({"parameters": ["friction"]}, r"'friction' has no bounds.*parameters=\{'friction': \[0, 1\]\}, in N.s/m"),
        ({"parameters": {"friction": [2, 1]}}, "the lower one comes first"),
        ({"parameters": {"friction": 2}}, "its lowest and its highest value"),
        ({"parameters": {"stiffness": [0, 10]}}, "beyond the bounds of the FMU, 1.0 to 100.0 N/m"),
        ({"parameters": {"energy": [0, 1]}}, "'energy' .* is computed by the FMU"),
        ({"parameters": {"friction": [0, 1]}, "start": {"friction": 1}}, "'friction' is named twice"),
        ({"parameters": {"stiffness": [5, 6]}, "inputs": {"stiffness": None}}, "'stiffness' is named twice"),
        ({"parameters": {"friction": {"low": 0}}}, "needs both low and high"),
        ({"parameters": {"friction": {"low": 0, "high": 1, "unit": "g"}}}, "is in N.s/m, not in g"),
        ({"parameters": {"friction": {"low": 0, "high": 1, "shape": 2}}}, "takes low, high and unit, not .'shape'."),
        ({"start": {"law": "square"}}, "one of .'linear', 'cubic'."),
        ({"start": {"law": 3}}, "'law' is one of"),
        ({"start": {"blocked": 2}}, "'blocked' is one of .'false': 0, 'true': 1., not 2"),
        ({"start": {"gain": 1e12}}, "does not hold it"),
        ({"start": {"gain": 1.5}}, "Int(eger|32) does not hold it"),
        ({"start": {"friction": float("nan")}}, "not nan"),
        ({"start": {"label": 3}}, "takes a text"),
        ({"start": {"v": [1, 2, 3]}}, "'v' takes .* of shape .2,."),
        ({"units": {"x": "mm"}}, "'x' of springs.*.fmu is in m, not in mm; values are not converted"),
        ({"time_step": 0}, "time_step must be positive"),
        ({"start_time": float("inf")}, "start_time must be a finite number"),
        ({"tolerance": -1}, "tolerance must be positive"),
        ({"renew": "no"}, "renew must be true or false"),
        ({"path": str(tmp_path / "none.fmu")}, "there is no FMU"),
        ({"path": __file__}, "is no FMU"),
    ):
        with pytest.raises(ConfigError, match=text):
            FmuSimulation(**{"path": make_fmu(tmp_path / f"springs{version}.fmu", version), **arguments})
    env = springs(version, tmp_path, start={"law": "cubic", "v": [1, 2], "label": "Fédération"}, units={"x": "m"})
    with pytest.raises(ConfigError, match="takes no options"):
        env.reset(options={"speed": 1})
    env.close()
    assert left_folders() == []


def test_what_version_3_has_and_is_not_supported_is_refused_by_name(tmp_path):
    for arguments, text in (
        ({"inputs": ["picture"]}, "'picture' is of type Binary"),
        ({"inputs": ["tick"]}, "'tick' is of type Clock"),
        ({"outputs": ["sampled"]}, "'sampled' belongs to a clock"),
        ({"start": {"count": 3}}, "'count' is a structural parameter"),
        ({"start": {"picture": 3}}, "of type Binary"),
        ({"time_step": 0.015}, "no multiple of the own step of springs3.fmu, 0.01 s"),
    ):
        with pytest.raises(ConfigError, match=text):
            springs(3, tmp_path, **arguments)


@BOTH
def test_an_fmu_that_cannot_be_used_says_why(version, tmp_path):
    file = make_fmu(tmp_path / "other.fmu", version, platform="win64" if version == 2 else "x86_64-windows")
    with pytest.raises(ConfigError, match="has libraries for win64, and this is linux64"):
        FmuSimulation(file)
    changes = {"CoSimulation ": "ModelExchange ", 'canHandleVariableCommunicationStepSize="true"': ""}
    with pytest.raises(ConfigError, match="no FMU for co-simulation"):
        springs(version, tmp_path, {**changes, **({} if version == 2 else {' fixedInternalStepSize="0.01"': ""})})
    with pytest.raises(ConfigError, match="validate=False takes it as it is"):
        springs(version, tmp_path, {'modelName="Springs"': 'modelName="Springs" colour="red"'})
    springs(version, tmp_path, {'modelName="Springs"': 'modelName="Springs" colour="red"'}, validate=False).close()
    changes = {' stepSize="0.1"': "", **({} if version == 2 else {' fixedInternalStepSize="0.01"': ""})}
    with pytest.raises(ConfigError, match="proposes no step; give time_step"):
        springs(version, tmp_path, changes)
    here = Path.cwd()
    damaged = make_fmu(tmp_path / "damaged.fmu", version)
    damaged.write_bytes(damaged.read_bytes().replace(b"\x7fELF", b"\x7fFLE"))  # stored as it is
    with pytest.raises(ConfigError, match=r"cannot be (loaded|unpacked)"):
        FmuSimulation(damaged)
    assert Path.cwd() == here  # FMPy has gone elsewhere
    assert left_folders() == []


@BOTH
def test_one_per_process_is_respected(version, tmp_path):
    changes = {"<CoSimulation ": '<CoSimulation canBeInstantiatedOnlyOncePerProcess="true" '}
    env = springs(version, tmp_path, changes)
    assert env.metadata["physgym.single"] == "process"
    with pytest.raises(SharedProcess, match="only once per process"):
        FmuSimulation(env.about.path)
    env.close()
    env = FmuSimulation(env.about.path)
    path = env.about.path
    del env  # without closing it
    gc.collect()
    FmuSimulation(path).close()
    assert "physgym.single" not in FmuSimulation.metadata


@pytest.mark.slow
def test_one_per_process_gives_each_environment_a_worker(tmp_path):
    changes = {"<CoSimulation ": '<CoSimulation canBeInstantiatedOnlyOncePerProcess="true" '}
    path = make_fmu(tmp_path / "once.fmu", 3, changes)
    check_env(lambda **more: gymnasium.make("physgym/Fmu-v0", path=str(path), **more), note=lambda *_: None)
    with physgym.make_vec("physgym/Fmu-v0", 2, path=str(path), num_workers=2) as envs:
        envs.reset(seed=1)
        assert envs.step(np.tile(PUSH, (2, 1)))[0].shape == (2, 3)


@BOTH
def test_resets_and_new_instances_leave_nothing(version, tmp_path):
    env = springs(version, tmp_path, renew=True)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(30):
        env.reset()
        env.step(PUSH)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert len(left_folders()) == 1
    env.close()
    env.close()
    assert left_folders() == []
    env = springs(version, tmp_path)
    del env
    gc.collect()
    assert left_folders() == []


@pytest.mark.slow
def test_what_a_killed_process_has_unpacked_is_removed_by_the_next_one(tmp_path, monkeypatch):
    path = make_fmu(tmp_path / "springs.fmu", 2)
    code = "from physgym.adapters.fmu import FmuSimulation as F; import time"
    code += f"; env = F({str(path)!r}); print(1, flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child.stdout.readline()
    assert len(left_folders()) == 1
    monkeypatch.setattr(held_folder, "YOUNG", 0.0)
    FmuSimulation(path).close()
    assert len(left_folders()) == 1  # it is in use
    os.kill(child.pid, signal.SIGKILL)
    child.communicate(timeout=60)
    time.sleep(0.01)
    FmuSimulation(path).close()
    assert left_folders() == []


@BOTH
@pytest.mark.slow
def test_a_dataset_does_not_depend_on_the_workers(version, tmp_path):
    arguments = {"path": str(make_fmu(tmp_path / "springs.fmu", version)), "parameters": {"stiffness": [5, 20]}}
    found = [
        physgym.generate(
            *("physgym/Fmu-v0", tmp_path / f"data{workers}"),
            env_kwargs=arguments,
            samples=12,
            max_steps=4,
            num_envs=2,
            num_workers=workers,
            seed=3,
            progress=False,
        )
        for workers in (0, 1)
    ]
    for name in found[0].spec:
        np.testing.assert_array_equal(found[0].read(0, 12)[name], found[1].read(0, 12)[name])
    assert found[0].spec["next_outputs/x"].unit == "m"
    assert found[0].time_step == 0.1
    json.dumps(found[0].source)


def test_info_lists_the_variables(tmp_path, capsys):
    path = make_fmu(tmp_path / "springs.fmu", 2)
    cli.app(["info", str(path)], standalone_mode=False)
    text = capsys.readouterr().out
    assert "stiffness: parameter, tunable, Real [N/m]; from 1.0 to 100.0; start 10.0 (of both springs)" in text
    assert "law: parameter, fixed, Enumeration; linear=1, cubic=2; start 1" in text
    with pytest.raises(ConfigError, match="are for datasets"):
        cli.app(["info", str(path), "--verify"], standalone_mode=False)


def test_messages_belong_to_the_instance_that_says_them(tmp_path):
    good, bad = springs(2, tmp_path), springs(2, tmp_path, start={"fault": FAILS})
    for env in (good, bad):
        env.reset()
    for _ in range(3):
        good.step(PUSH)
        *_, info = bad.step(PUSH)
    assert "the matrix is singular" in info["rejected"]
    assert "sample" in good.step(PUSH)[-1]
    good.close()
    bad.close()


def test_a_worker_for_others_makes_none_unasked():
    assert FMU not in HARMLESS
    with pytest.raises(ConfigError, match="does not make 'physgym/Fmu-v0'"):
        Permissions().factory({"make": "env", "env": FMU, "arguments": {"path": "model.fmu"}})


def test_without_fmpy_the_error_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fmpy", None)
    (tmp_path / "a.fmu").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"an FMU needs fmpy: pip install 'physgym\[fmu\]'"):
        FmuSimulation(tmp_path / "a.fmu")


@pytest.mark.slow
def test_the_example_generates_samples(tmp_path, capsys):
    main = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "fmu.py"))["main"]
    data = main(make_fmu(tmp_path / "springs.fmu", 3), tmp_path / "data", 6)
    assert len(data) == 6
    assert set(data.parameters) == {"stiffness", "body.mass", "gain"}
    assert "next_outputs/x: target, (2,) float64 [m]" in capsys.readouterr().out
