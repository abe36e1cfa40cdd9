"""`SofaSimulation` against a stand-in for SofaPython3, which is not SOFA; one test runs the real one, where it is."""

from __future__ import annotations

import gc
import importlib.util
import os
import runpy
import signal
from pathlib import Path
from typing import ClassVar
from unittest.mock import MagicMock

import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym.adapters.sofa import SofaSimulation
from physgym.adapters.sofa_import import component_class
from physgym.errors import ConfigError, SharedProcess
from physgym.scene.live import LiveScene
from physgym.testing import check_env
from tests.support import sofa_stand_in as stand_in
from tests.support.workers import forked_workers  # noqa: F401 - a fixture

EXAMPLES = Path(__file__).parents[2] / "examples"
SIDE = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]]


class Plate(SofaSimulation):
    """Four masses of the stand-in."""

    plugins = ("Sofa.Component.StateContainer",)
    data_fields: ClassVar = {"forces": "plate.load.forces", "position": "plate.state.position"}
    sample_roles: ClassVar = {"forces": "input", "position": "target"}
    sample_units: ClassVar = {"forces": "N", "position": "m"}
    action_data = "plate.load.forces"
    action_bounds = (-1.0, 1.0)
    observation_data = "plate.state.position"
    state_data = ("plate.state.position", "plate.state.velocity", "plate.load.forces")
    written_data = ("plate.load.indices",)
    mesh_data: ClassVar = {"plate": ("plate.state.position", "plate.quads.quads")}

    def create_scene(self, root):
        root.dt = 0.1
        plate = root.addChild("plate")
        plate.addObject("MechanicalObject", name="state", position=SIDE)
        plate.addObject("ConstantForceField", name="load", indices=[0, 1, 2, 3], forces=[[0.0, 0.0, 0.0]] * 4)
        plate.addObject("QuadSetTopologyContainer", name="quads", quads=[[0, 1, 2, 3]])


@pytest.fixture
def sofa(monkeypatch):
    handlers = {number: signal.getsignal(number) for number in stand_in.HANDLED}
    finder = stand_in.install(monkeypatch)
    yield finder
    stand_in.uninstall(finder)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    gc.collect()


@pytest.fixture
def plate(sofa):
    env = Plate()
    yield env
    env.close()


PUSH = np.zeros((4, 3))
PUSH[0, 2] = 1.0


def test_a_step_writes_the_action_and_reads_copies(plate, sofa):
    assert sofa.plugins == ["Sofa.Component.StateContainer"]
    assert plate.action_space == spaces.Box(-1.0, 1.0, (4, 3), np.float64)
    assert set(plate.sample_space) == {"forces", "position"}
    assert plate.step_seconds == 0.1
    observation, _ = plate.reset(seed=0)
    np.testing.assert_array_equal(observation, SIDE)
    first = plate.step(PUSH)[-1]["sample"]
    kept = {name: value.copy() for name, value in first.items()}
    np.testing.assert_allclose(first["position"][0], [0.0, 0.0, 0.01])
    plate.step(PUSH)
    np.testing.assert_array_equal(first["position"], kept["position"])  # not SOFA's own memory
    np.testing.assert_array_equal(observation, SIDE)


def test_a_reset_brings_back_what_was_written(plate):
    plate.reset(seed=0)
    plate.step(PUSH)
    plate.write("plate.load.indices", [0, 1], resize=True)
    plate.write("plate.load.forces", PUSH[:2], resize=True)
    plate.reset(seed=0)
    np.testing.assert_array_equal(plate.value("plate.load.forces"), np.zeros((4, 3)))  # which SOFA's reset leaves
    np.testing.assert_array_equal(plate.value("plate.load.indices"), [0, 1, 2, 3])
    with pytest.raises(ConfigError, match="takes no options"):
        plate.reset(options={"speed": 1})


def test_what_does_not_fit_is_an_error_and_nothing_is_written(plate):
    for path, value, text in [
        ("plate.load.forces", [1.0, 2.0, 3.0], r"has shape \(4, 3\), and the value \(3,\)"),  # NumPy would repeat it
        ("plate.load.forces", PUSH + np.nan, "not finite"),
        ("plate.load.forces", [["a"]], "is not written to"),
        ("plate.load.indices", [0.5, 1, 2, 3], "holds int64, which float64 is not written to"),
        ("plate.load.force", PUSH, "the scene has no data 'plate.load.force'"),
        ("plate.name", PUSH, "holds no numbers"),
        ("plate.load", PUSH, "is no data, but a node or a component"),
        ("plate.quads.quads", [[0, 1, 2, 3]], "does not say that it writes 'plate.quads.quads'"),
    ]:
        with pytest.raises(ConfigError, match=text):
            plate.write(path, value)
    with pytest.raises(ConfigError, match="and the value"):
        plate.write("plate.load.forces", np.zeros((2, 2)), resize=True)
    np.testing.assert_array_equal(plate.value("plate.load.forces"), np.zeros((4, 3)))


def test_numbers_that_the_data_cannot_hold_are_errors(sofa):
    class Small(Plate):
        written_data = ("plate.quads.quads", "plate.load.small")

        def create_scene(self, root):
            super().create_scene(root)
            assert root.plate.quads.quads.value.dtype == np.uint32
            root.plate.load.fields["small"] = stand_in.StandInData(np.zeros(2, np.float32))

    env = Small()
    env.write("plate.quads.quads", [[3, 2, 1, 0]])  # of another type of integers, which fit
    np.testing.assert_array_equal(env.value("plate.quads.quads"), [[3, 2, 1, 0]])
    for path, value, text in [
        ("plate.quads.quads", [[3, 2, 1, -1]], "holds uint32, which cannot hold -1"),  # NumPy would wrap it
        ("plate.quads.quads", [[3, 2, 1, 1 << 40]], "cannot hold 1099511627776"),
        ("plate.quads.quads", [[3, 2, 1, 0.5]], "which float64 is not written to"),
        ("plate.load.small", [1.0, 1e300], r"holds float32, which cannot hold 1e\+300"),
        ("plate.load.small", [1, (1 << 24) + 1], "cannot hold 16777217"),
    ]:
        with pytest.raises(ConfigError, match=text):
            env.write(path, value)
    np.testing.assert_array_equal(env.value("plate.quads.quads"), [[3, 2, 1, 0]])
    env.reset(seed=0)
    np.testing.assert_array_equal(env.value("plate.quads.quads"), [[0, 1, 2, 3]])
    env.close()


@pytest.mark.slow
def test_it_keeps_the_rules(sofa, forked_workers):  # noqa: F811
    noted, said, skipped = [], [], []

    def make(**kwargs):
        return Plate(**kwargs)

    check_env(
        make,
        lambda rule, fault: said.append((rule, fault)),
        lambda rule, text: noted.append(rule),
        skip=lambda rule, why: skipped.append(rule),
    )
    assert not any(fault for _, fault in said)
    assert len(said) == 13
    assert set(skipped) == {
        "test_instances_do_not_influence_each_other",
        "test_parameters_are_reported",
        "test_parameters_can_be_set",
        "test_parameters_out_of_bounds_are_refused",
        "test_a_network_can_stand_in_for_the_solver",
        "test_inputs_of_a_person_end_with_their_episode",
    }


def test_a_state_is_restored(plate):
    plate.reset(seed=0)
    plate.step(PUSH)
    kept = plate.state()
    expected = plate.step(PUSH)[0]
    plate.reset(seed=1)
    plate.set_state(kept)
    np.testing.assert_array_equal(plate.step(PUSH)[0], expected)
    assert plate.value("time") == pytest.approx(0.2)
    observation, _ = plate.reset(seed=1)  # as if nothing had been set
    np.testing.assert_array_equal(observation, SIDE)
    np.testing.assert_array_equal(plate.value("plate.load.forces"), np.zeros((4, 3)))
    assert plate.value("time") == 0


def test_a_process_holds_one(plate):
    with pytest.raises(SharedProcess, match="a Plate is open in this process"):
        Plate()
    plate.close()
    plate.close()
    Plate().close()


@pytest.mark.parametrize("component", ["Component", "Controller"])
def test_events_call_methods_and_their_errors_are_raised(monkeypatch, component, capsys):
    finder = stand_in.install(monkeypatch, component)
    calls = []

    class Watched(Plate):
        def animate_begin(self):
            calls.append("begin")

        def animate_end(self):
            calls.append("end")
            if len(calls) > 2:
                raise ValueError("the sensor is broken")

    env = Watched()
    try:
        assert component_class().__name__ == "StandInController"
        env.reset(seed=0)
        env.step(PUSH)
        assert calls == ["begin", "end"]
        with pytest.raises(ValueError, match="the sensor is broken"):
            env.step(PUSH)
    finally:
        env.close()
        stand_in.uninstall(finder)


def test_a_step_without_convergence_is_rejected_and_ends_the_episode(sofa):
    class Solved(Plate):
        converged_data = "plate.solver.converged"

        def create_scene(self, root):
            super().create_scene(root)
            root.plate.addObject("StandInSolver", name="solver")

        def apply(self, action):
            super().apply(action)
            self.data("plate.solver.converged").value = bool(abs(action).max() < 1)

    env = Solved()
    env.reset(seed=0)
    assert "sample" in env.step(PUSH / 2)[-1]
    _, _, terminated, _, info = env.step(PUSH)
    assert terminated
    assert "has not converged" in info["rejected"]
    env.reset(seed=0)
    assert env.step(PUSH / 2)[2] is False
    env.close()


def test_its_scene_has_the_meshes_of_the_topology(plate):
    plate.reset(seed=0)
    plate.step(PUSH)
    live = LiveScene(plate)
    live.frame()
    shown = live.snapshot["objects"]["plate"]
    np.testing.assert_array_equal(shown["faces"], [[0, 1, 2, 3]])
    assert shown["points"][0][2] == pytest.approx(0.01)

    class Bare(Plate):
        data_fields: ClassVar = {"forces": "plate.load.forces"}
        sample_roles: ClassVar = {"forces": "input"}
        sample_units: ClassVar = {}

    plate.close()
    bare = Bare()
    bare.reset(seed=0)
    bare.step(PUSH)
    live = LiveScene(bare)
    live.frame()
    bare.step(PUSH)
    live.frame()
    assert live.snapshot["objects"]["plate"]["points"][0][2] == pytest.approx(0.03)
    bare.close()


def test_handlers_of_signals_are_as_before(monkeypatch, sofa):
    got = []
    signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    Plate().close()
    os.kill(os.getpid(), signal.SIGTERM)
    assert got == [signal.SIGTERM]
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_declarations_that_are_missing_are_named(sofa):
    for name, text in [
        ("action_data", "neither action_data nor the space"),
        ("observation_data", "neither observation_data nor the space"),
        ("action_bounds", "neither action_space nor action_bounds"),
    ]:
        kind = type("Less", (Plate,), {name: None if name == "action_bounds" else ""})
        with pytest.raises(ConfigError, match=text):
            kind()
    with pytest.raises(ConfigError, match="are none of"):
        type("Wrong", (Plate,), {"mesh_data": {"plate": ("plate.state.position", "plate.load.forces")}})()
    Plate().close()  # the ones that failed are not open any more


@pytest.mark.slow
def test_samples_are_generated_by_workers_of_one_each(sofa, tmp_path, forked_workers):  # noqa: F811
    made = physgym.generate(Plate, tmp_path / "data", samples=12, max_steps=3, num_envs=2, progress=False)
    assert len(made) == 12
    assert made[np.arange(12)]["position"].shape == (12, 4, 3)
    np.testing.assert_array_equal(made.constants["plate/cells"], [[0, 1, 2, 3]])


def test_the_example_has_what_it_names(sofa, monkeypatch):
    """Its components are those of SofaCaribou, which the stand-in has not: made here with all that is named."""
    monkeypatch.syspath_prepend(EXAMPLES)
    example = runpy.run_path(str(EXAMPLES / "sofa_beam.py"))
    root = MagicMock()
    example["createScene"](root)
    names = {call.kwargs.get("name") for call in root.addChild.return_value.addObject.mock_calls}
    assert {"ODESolver", "GridMO", "QuadTopo", "CFF"} <= names

    def made(root):
        fem, count = root.addChild("fem"), example["COUNT"]
        grid = np.stack(np.meshgrid(*(np.linspace(0, high, n) for high, n in ((100, 25), (15, 5), (15, 5)))), -1)
        fem.addObject("MechanicalObject", name="GridMO", position=grid.reshape(-1, 3).tolist())
        surface = np.flatnonzero(((grid == 0) | (grid == (100, 15, 15))).any(-1))
        fem.addObject("QuadSetTopologyContainer", name="QuadTopo", quads=np.resize(surface, (110, 4)).tolist())
        fem.addObject("ConstantForceField", name="CFF", forces=[[0.0] * 3] * count, indices=list(range(count)))
        fem.addObject("StandInSolver", name="ODESolver")

    env = type("Beam", (example["Beam"],), {"create_scene": staticmethod(made), "plugins": ()})()
    env.reset(seed=3)
    samples = [env.step(0)[-1]["sample"] for _ in range(5)]
    force = np.abs(samples[0]["forces"]).max(axis=1)
    assert 0 < np.count_nonzero(force) < example["COUNT"]
    np.testing.assert_allclose(samples[4]["forces"], 5 * samples[0]["forces"])
    np.testing.assert_allclose(np.linalg.norm(samples[0]["forces"][force > 0], axis=1), 20)
    assert np.abs(samples[0]["displacement"]).max() > 0
    env.reset(seed=4)
    assert not np.array_equal(env.step(0)[-1]["sample"]["forces"], samples[0]["forces"])
    env.close()


def test_without_sofa_the_error_says_how_to_get_it(monkeypatch):
    if importlib.util.find_spec("Sofa") is not None:
        pytest.skip("SOFA is there")
    with pytest.raises(ConfigError, match=r"needs SOFA with SofaPython3.*SOFA_ROOT"):
        Plate()
    monkeypatch.syspath_prepend(EXAMPLES)
    example = runpy.run_path(str(EXAMPLES / "sofa_beam.py"))
    with pytest.raises(ConfigError, match="needs SOFA with SofaPython3"):
        example["Beam"]()


def test_the_stand_in_raises_on_what_it_was_not_written_for(sofa):
    import Sofa.Core
    import Sofa.Simulation

    for call in (lambda: Sofa.Gui, lambda: Sofa.Core.Node("a").children, lambda: Sofa.Simulation.animateNSteps):
        with pytest.raises(stand_in.NotQuoted, match="stand-in"):
            call()
    with pytest.raises(ValueError, match="no component"):
        Sofa.Core.Node("a").addObject("TetrahedronFEMForceField")


class Fall(SofaSimulation):
    """A mass under gravity, in the real SOFA."""

    plugins = ("Sofa.Component.StateContainer", "Sofa.Component.Mass", "Sofa.Component.ODESolver.Forward")
    data_fields: ClassVar = {"position": "ball.state.position"}
    sample_roles: ClassVar = {"position": "target"}
    action_space = spaces.Discrete(1)
    observation_data = "ball.state.position"

    def create_scene(self, root):
        root.dt, root.gravity = 0.01, [0.0, -10.0, 0.0]
        root.addObject("DefaultAnimationLoop")
        ball = root.addChild("ball")
        ball.addObject("EulerExplicitSolver")
        ball.addObject("MechanicalObject", name="state", template="Vec3d", position=[[0.0, 0.0, 0.0]])
        ball.addObject("UniformMass", totalMass=1.0)

    def apply(self, action):
        pass


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("Sofa") is None, reason="SOFA with SofaPython3 is not installed")
def test_the_real_sofa():
    env = Fall()
    for _ in range(2):
        env.reset(seed=0)
        for _ in range(100):
            observation = env.step(0)[0]
        assert observation[0, 1] == pytest.approx(-5.0, rel=0.02)
    env.close()
