"""Command-line programs as environments: small scripts of the shell, and real solvers where they are installed."""

from __future__ import annotations

import hashlib
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import psutil
import pytest

import physgym
from physgym.adapters.command import CommandSimulation
from physgym.adapters.command_outputs import output_reader
from physgym.envs.elasticity import Block, BlockMesh, Solver
from physgym.errors import ConfigError, SampleError, SimulatorError
from physgym.simulation import lacking_state_hooks
from physgym.testing import check_env

EXAMPLES = Path(__file__).parents[2] / "examples"
DOUBLED = {"read": "match", "file": "stdout", "pattern": r"y = (\S+)"}
SCRIPT = 'read x < in.txt; echo "y = $x"'


@pytest.fixture
def made(tmp_path):
    """Return what makes an environment of a script of the shell, whose folders lie in one of the test."""
    envs = []
    (tmp_path / "runs").mkdir()

    def make(script=SCRIPT, files=None, **options):
        case = tmp_path / f"case{len(envs)}"
        for name, text in (files or {"in.txt.j2": "{{ x }}\n"}).items():
            (case / name).parent.mkdir(parents=True, exist_ok=True)
            (case / name).write_text(text)
        defaults = {"parameters": {"x": {"low": 0, "high": 1, "unit": "m"}}, "outputs": {"y": DOUBLED}}
        env = CommandSimulation(
            command=["sh", "-c", script], case=case, folder=tmp_path / "runs", **{**defaults, **options}
        )
        envs.append(env)
        return env

    yield make
    for env in envs:
        env.close()


def running(pattern):
    """Return whether a process has a command line in which a pattern is found."""
    return any(
        re.search(pattern, " ".join(process.info["cmdline"] or [])) for process in psutil.process_iter(["cmdline"])
    )


def test_values_reach_the_program_to_the_last_digit_and_come_back(made):
    env = made(actions={"f": {"low": -1, "high": 1, "shape": [2, 2]}}, files={"in.txt.j2": "{{ x }}\n{{ f[1][0] }}\n"},
               script='{ read x; read f; } < in.txt; echo "y = $x f = $f"',
               outputs={"y": DOUBLED, "g": {**DOUBLED, "pattern": r"f = (\S+)", "unit": "N"}})  # fmt: skip
    _, info = env.reset(seed=3)
    action = env.action_space.sample()
    observation, reward, terminated, truncated, after = env.step(action)
    sample = after["sample"]
    assert sample["y"] == info["parameters"]["x"] == sample["x"] == observation["y"]
    assert sample["g"] == action["f"][1, 0]
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert env.sample_roles == {"x": "input", "f": "input", "y": "target", "g": "target"}
    assert env.sample_units == {"x": "m", "g": "N"}
    assert env.parameter_units == {"x": "m"}


def test_seed_step_and_words_of_the_command_are_templates():
    env = CommandSimulation(
        command=["sh", "-c", "echo y = $0 $1 $2", "{{ seed }}", "{{ step }}", "{{ v * 2 }}"],
        actions={"v": {"low": 0, "high": 9, "dtype": "int64"}},
        outputs={"y": {"read": "match", "file": "stdout", "pattern": r"y = (\d+) (\d+) (\d+)", "shape": [3]}},
    )
    rows = []
    for seed in (1, 1, 2):
        env.reset(seed=seed)
        rows.append([env.step({"v": value})[0]["y"].tolist() for value in (3, 4)])
    env.close()
    assert rows[0] == rows[1]
    assert rows[0][0][0] == rows[0][1][0] != rows[2][0][0]
    assert [row[1:] for row in rows[0]] == [[0, 6], [1, 8]]


def test_an_episode_without_actions_has_one_step(made, tmp_path):
    env = made()
    assert env.action_space == gymnasium.spaces.Discrete(1)
    observation, _ = env.reset(seed=0)
    assert observation["y"] == 0
    assert env.step(0)[2]
    env.close()
    assert not list((tmp_path / "runs").iterdir())


READ = {
    "stops at text": ("1 2\n3 4\nend 5\n6 7\n", {}, [[1, 2], [3, 4]]),
    "columns": ("1 2 3\n4 5 6\n", {"columns": [2, 0]}, [[3, 1], [6, 4]]),
    "after the last": ("U\n1\n\nU\n\n2\n3\n", {"after": "U"}, [[2], [3]]),
    "skip and commas": ("a,b\n1, 2\n", {"skip": 1, "delimiter": ","}, [[1, 2]]),
    "fortran": ("1.5D+01 -2.5d-1 1.0-101\n", {}, [[15, -0.25, 1e-101]]),
    "not finite": ("nan inf\n", {}, [[np.nan, np.inf]]),
}


@pytest.mark.parametrize(("text", "options", "wanted"), READ.values(), ids=READ)
def test_tables(tmp_path, text, options, wanted):
    (tmp_path / "t").write_text(text)
    np.testing.assert_array_equal(output_reader("y", {"read": "table", "file": "t", **options})(tmp_path), wanted)


def test_matches_json_and_numpy(tmp_path):
    (tmp_path / "t").write_text("e = 1 of 2\ne = 3 of 4\n")
    (tmp_path / "j").write_text('{"a": {"b": [[1, 2.5]]}}')
    np.save(tmp_path / "n.npy", np.eye(2))
    for which, wanted in (("first", [[1, 2]]), ("last", [[3, 4]]), ("all", [[1, 2], [3, 4]])):
        read = output_reader("y", {"read": "match", "file": "t", "pattern": r"e = (\d) of (\d)", "which": which})
        np.testing.assert_array_equal(read(tmp_path), wanted)
    np.testing.assert_array_equal(output_reader("y", {"read": "json", "file": "j", "key": "a.b"})(tmp_path), [[1, 2.5]])
    np.testing.assert_array_equal(output_reader("y", {"read": "npy", "file": "n.npy"})(tmp_path), np.eye(2))
    assert output_reader("y", {"read": lambda folder: len(list(folder.iterdir()))})(tmp_path) == 3


UNREADABLE = {
    "missing": ("-", {"file": "no"}, "no cannot be read"),
    "ragged": ("1 2\n3\n", {}, "has 1 values, the line before 2"),
    "column": ("1 2\n", {"columns": [2]}, "no column 2"),
    "word": ("1 x\n", {}, "'x' where a number"),
    "after": ("1 2\n", {"after": "U"}, "no line of t has 'U'"),
    "match": ("1 2\n", {"read": "match", "pattern": "z(.)"}, "nothing in t matches"),
    "group": ("z-\n", {"read": "match", "pattern": "z(.)"}, "'-' where a number"),
    "json": ("{}", {"read": "json", "key": "a"}, "no numbers at 'a'"),
    "text": ('{"a": "1.5"}', {"read": "json", "key": "a"}, "it is a text"),
    "place": ('{"a": [1]}', {"read": "json", "key": "a.1"}, "no numbers at 'a.1'"),
    "digits": ("1 1_0\n", {}, "'1_0' where a number"),
    "npy": ("{}", {"read": "npy"}, "cannot be read as an array"),
}


@pytest.mark.parametrize(("text", "options", "error"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_is_named(tmp_path, text, options, error):
    (tmp_path / "t").write_text(text)
    with pytest.raises(SimulatorError, match=error):
        output_reader("y", {"read": "table", "file": "t", **options})(tmp_path)


def test_an_array_of_objects_is_not_unpickled(tmp_path):
    np.save(tmp_path / "n.npy", np.array([{}], object))
    with pytest.raises(SimulatorError, match="cannot be read as an array"):
        output_reader("y", {"read": "npy", "file": "n.npy"})(tmp_path)


def test_an_output_of_another_size_is_no_sample(made):
    env = made(outputs={"y": {**DOUBLED, "shape": [2]}})
    env.reset(seed=0)
    with pytest.raises(SimulatorError, match=r"'y' has the shape \(1, 1\)"):
        env.step(0)
    env = made(outputs={"y": {**DOUBLED, "dtype": "int32"}})
    env.reset(seed=0)
    with pytest.raises(SimulatorError, match="declared as int32"):
        env.step(0)


def test_a_run_that_does_not_converge_is_a_rejected_step(made):
    env = made('read x < in.txt; case $x in 0.[5-9]*) echo "no convergence: $x"; exit 9;; esac; echo "y = $x"',
               reject="no convergence.*")  # fmt: skip
    env.reset(seed=0, options={"parameters": {"x": 0.75}})
    observation, _, _, _, info = env.step(0)
    assert info["rejected"] == "sh: no convergence: 0.75"
    assert not {"sample", "rejected_sample"} & info.keys()
    assert observation["y"] == 0
    env.reset(seed=0, options={"parameters": {"x": 0.25}})
    assert env.step(0)[4]["sample"]["y"] == 0.25


def test_a_run_that_fails_says_what_it_printed_and_leaves_its_files(made, tmp_path):
    env = made("echo hello; echo 'no licence' >&2; exit 3")
    env.reset(seed=0)
    with pytest.raises(SimulatorError, match="sh ended with status 3") as caught:
        env.step(0)
    assert re.search("(?s)hello.*no licence", str(caught.value))
    folder = Path(caught.value.__notes__[0].rpartition(" ")[2])
    env.close()
    assert sorted(path.name for path in folder.iterdir()) == ["in.txt", "stderr", "stdout"]
    killed = made("kill -9 $$", keep="none")
    killed.reset(seed=0)
    with pytest.raises(SimulatorError, match=r"was ended by signal 9 \(Killed\); it printed nothing"):
        killed.step(0)
    killed.close()
    assert [*(tmp_path / "runs").iterdir()] == [folder.parent]


def test_a_run_that_takes_too_long_is_ended_with_its_children(made):
    env = made("sleep 61.25 & sleep 61.25", timeout=0.2)
    env.reset(seed=0)
    said = (
        r"took more than 0.2 s and was ended; it printed nothing\nIf the program needs more time, give the simulation"
    )
    with pytest.raises(SimulatorError, match=said):
        env.step(0)
    assert not running("sleep 61.25")
    env = made("sleep 61.25", timeout=0.2, reject_timeout=True)
    env.reset(seed=0)
    assert "took more than" in env.step(0)[4]["rejected"]


def test_no_run_reads_the_files_of_another(made):
    env = made("test -e out.txt && echo y = 1; touch out.txt", actions={"f": {"low": 0, "high": 1}})
    env.reset(seed=0)
    with pytest.raises(SimulatorError, match="nothing in stdout matches"):
        env.step({"f": 0.5})
    with pytest.raises(SimulatorError, match="nothing in stdout matches"):
        env.step({"f": 0.5})


def test_steps_that_continue_have_the_files_of_the_last_that_worked(made, tmp_path):
    script = "cat in.txt >> log; wc -l < log | sed 's/^/y = /'; grep -q 9.0 in.txt && echo diverged; cp log kept"
    env = made(script, files={"in.txt.j2": "{{ f }}\n"}, actions={"f": {"low": 0, "high": 9}}, continues=True,
               reject="diverged", statuses=(0, 1))  # fmt: skip
    for _ in range(2):
        env.reset(seed=0)
        found = [env.step({"f": force})[4].get("sample", {}).get("y") for force in (1.0, 9.0, 2.0, 3.0)]
        assert found == [1, None, 2, 3]  # a rejected step leaves everything as it was
    assert len(list((tmp_path / "runs").glob("*/[0-9]*"))) == 1
    assert lacking_state_hooks(env) == ["state", "set_state"]
    with pytest.raises(ConfigError, match="continues=True"):
        env.state()


@pytest.mark.parametrize(("keep", "folders"), [("all", 2), ("failed", 0), ("none", 0)])
def test_which_folders_stay(made, tmp_path, keep, folders):
    env = made(keep=keep, actions={"f": {"low": 0, "high": 1}})
    env.reset(seed=0)
    for _ in range(2):
        env.step({"f": 0.5})
    env.close()
    env.close()
    assert len(list((tmp_path / "runs").glob("*/*"))) == folders
    env.reset(seed=0)  # a closed one may go on, as others of Gymnasium
    env.step({"f": 0.5})


WRONG = {
    "text": ({"command": "solver -i job"}, "command is a list of words"),
    "list": ({"outputs": ["y"]}, "outputs must be a mapping of names"),
    "word": ({"parameters": {"true": {"low": 0, "high": 1}}}, "'true' cannot be the name"),
    "half": ({"parameters": {"x": {"low": 0.5, "high": 2, "dtype": "int64"}}}, r"parameters\['x'\]: has 0.5, which"),
    "shape": ({"outputs": {"y": {**DOUBLED, "shape": [2.5]}}}, r"outputs\['y'\]: shape must be an integer"),
    "bound": ({"outputs": {"y": {**DOUBLED, "low": 0}}}, r"outputs\['y'\].* 'low'"),
    "column": ({"outputs": {"y": {"read": "table", "file": "t", "columns": [-1]}}}, "columns must not be negative"),
    "elsewhere": ({"outputs": {"y": {"read": "npy", "file": "/tmp/y.npy"}}}, "file must be a name in the working"),
    "above": ({"outputs": {"y": {"read": "npy", "file": "../y.npy"}}}, "file must be a name in the working"),
    "nameless": ({"outputs": {"y": {"read": "npy"}}}, "file must be a name in the working folder, not None"),
    "variables": ({"variables": ["A=1"]}, "variables must be a mapping"),
    "statuses": ({"statuses": ["0"]}, "statuses must be an integer"),
    "no flag": ({"continues": "no"}, "continues must be true or false"),
    "time step": ({"time_step": -1}, "time_step must be positive"),
    "program": ({"command": ["no-such-solver"]}, "no program 'no-such-solver'"),
    "outputs": ({"outputs": {}}, "outputs is empty"),
    "twice": ({"parameters": {"y": {"low": 0, "high": 1}}}, "'y' cannot be the name"),
    "reserved": ({"parameters": {"seed": {"low": 0, "high": 1}}}, "'seed' cannot be the name"),
    "bounds": ({"parameters": {"x": {"low": 0}}}, r"parameters\['x'\]: give high"),
    "empty": ({"parameters": {"x": {"low": 2, "high": 1}}}, r"parameters\['x'\]: give finite bounds"),
    "key": ({"parameters": {"x": {"low": 0, "hihg": 1}}}, r"parameters\['x'\] has no 'hihg'"),
    "dtype": ({"outputs": {"y": {**DOUBLED, "dtype": "U3"}}}, "one of numbers"),
    "reader": ({"outputs": {"y": {"read": "csv"}}}, "read must be one of table, match, json, npy"),
    "argument": ({"outputs": {"y": {**DOUBLED, "colums": [1]}}}, "colums"),
    "pattern": ({"outputs": {"y": {**DOUBLED, "pattern": "("}}}, r"outputs\['y'\]"),
    "group": ({"outputs": {"y": {**DOUBLED, "pattern": "x"}}}, "has no group"),
    "reject": ({"reject": "("}, "no regular expression"),
    "timeout": ({"timeout": 0}, "timeout"),
    "case": ({"case": "/no/such/folder"}, "is no folder"),
    "keep": ({"keep": "some"}, "keep"),
    "folder": ({"folder": "/no/such/folder"}, "is no folder"),
}


@pytest.mark.parametrize(("wrong", "error"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_named(wrong, error):
    with pytest.raises(ConfigError, match=error):
        CommandSimulation(**{"command": ["sh"], "outputs": {"y": DOUBLED}, **wrong})


def test_arguments_that_are_missing_are_named():
    with pytest.raises(ConfigError, match=r"physgym/Command-v0 needs command, outputs; .*--arg NAME=VALUE"):
        physgym.make_vec("physgym/Command-v0", 1, num_workers=0)
    with pytest.raises(ConfigError, match=r"CommandSimulation needs outputs;"):
        physgym.make_vec(CommandSimulation, 1, num_workers=0, env_kwargs={"command": ["sh"]})


def test_wrong_templates_are_named(made):
    with pytest.raises(ConfigError, match=r"the template in\.txt\.j2, line 2"):
        made(files={"in.txt.j2": "\n{{ x"})
    env = made(files={"in.txt.j2": "{{ z }}"})
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=r"the template in\.txt\.j2: 'z' is undefined; there are x, step"):
        env.step(0)


def test_wrong_actions_are_named(made):
    env = made(actions={"f": {"low": 0, "high": 1}})
    env.reset(seed=0)
    for action in ({"f": 2.0}, {"g": 0.5}, {"f": [0.5, 0.5]}, 0.5, {"f": np.nan}, {"f": 0.5, "g": 1}):
        with pytest.raises(SampleError, match="an action of CommandSimulation"):
            env.step(action)


def test_it_keeps_the_rules_of_environments(made):
    check_env(lambda **options: made(actions={"f": {"low": 0, "high": 1}}, **options))


def test_a_network_can_stand_in(made):
    env = made(actions={"f": {"low": 0, "high": 1}})
    env.reset(seed=0)
    env.step({"f": 0.5})
    kept = env.state()
    assert env.inputs({"f": 0.25}) == {"x": env.parameters["x"], "f": 0.25}
    env.adopt({"f": 0.25}, {"y": np.array(0.125)})
    assert env.sample() == {"x": env.parameters["x"], "f": 0.25, "y": 0.125}
    env.set_state(kept)
    assert env.state() == kept
    assert env.load_sample({"x": 0.75, "f": 0.5, "y": 1.0}) == {"f": 0.5}
    assert env.step({"f": 0.5})[4]["sample"]["y"] == 0.75


@pytest.mark.slow
def test_a_program_ends_with_the_process_that_runs_it(tmp_path):
    code = (
        "from physgym.adapters.command import CommandSimulation as C\n"
        "env = C(command=['sh', '-c', 'sleep 62.5 & sleep 62.5'], outputs={'y': {'read': 'npy', 'file': 'y'}})\n"
        "env.reset(seed=0); print('ready', flush=True); env.step(0)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        started = time.monotonic()
        while not running("^sleep 62.5"):
            assert time.monotonic() < started + 60
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
    started = time.monotonic()
    while running("^sleep 62.5"):
        assert time.monotonic() < started + 60
        time.sleep(0.1)


@pytest.mark.slow
def test_data_do_not_depend_on_the_workers(tmp_path):
    (tmp_path / "in.txt.j2").write_text("{{ x }}\n")
    options = {"command": ["sh", "-c", SCRIPT], "case": str(tmp_path), "outputs": {"y": DOUBLED},
               "parameters": {"x": {"low": 0, "high": 1}}}  # fmt: skip
    sums = set()
    for workers in (1, 2):
        data = physgym.generate(
            "physgym/Command-v0",
            tmp_path / f"data{workers}",
            samples=8,
            seed=5,
            num_workers=workers,
            env_kwargs=options,
        )
        assert [sample["y"] for sample in data] == [sample["x"] for sample in data]
        sums.add(hashlib.sha256(next((tmp_path / f"data{workers}").glob("*.h5")).read_bytes()).hexdigest())
    assert len(sums) == 1


# --- real solvers

needs_ccx = pytest.mark.skipif(shutil.which("ccx") is None, reason="CalculiX (ccx) is not installed")
YOUNG = 2000.0  # MPa
MESH = BlockMesh((100.0, 15.0, 15.0), (13, 4, 4), 1)


class CalculixCase(CommandSimulation):
    """The beam of the example with another material or step."""

    def __init__(self, folder, material, step="*STEP, NLGEOM\n*STATIC\n0.2, 1.", bound=2e4):
        text = (EXAMPLES / "calculix_beam" / "job.inp.j2").read_text()
        begin, end = text.index("*ELASTIC"), text.index("*SOLID SECTION")
        text = text[:begin] + material + text[end:]
        begin, end = text.index("*STEP"), text.index("*CLOAD")
        (folder / "job.inp.j2").write_text((text[:begin] + f"{step}\n" + text[end:]).replace("RUBBER", "CIARLET_EL"))
        shutil.copy(EXAMPLES / "calculix_beam" / "mesh.inp", folder)
        super().__init__(
            command=["ccx", "-i", "job"],
            case=folder,
            actions={"force": {"low": -bound, "high": bound, "shape": [2]}},
            outputs={
                "u": {"read": "table", "file": "job.dat", "after": "displacements", "columns": [1, 2, 3],
                      "shape": [208, 3]}
            },
            reject="increment size smaller than minimum|too many cutbacks",
        )  # fmt: skip


def of_calculix(env, force):
    """Return the displacement that CalculiX finds, and the info of the step."""
    env.reset(seed=0)
    observation, _, _, _, info = env.step({"force": np.array(force, float)})
    env.close()
    return observation["u"], info


def of_beam(force, poisson_ratio):
    """Return the displacement of the shipped elements."""
    forces = np.zeros_like(MESH.positions)
    forces[-16:, 1:] = np.array(force) / 16
    return (
        Solver(Block(MESH, YOUNG, poisson_ratio), tolerance=1e-10, max_iterations=200).solve(forces, None).displacement
    )


@needs_ccx
@pytest.mark.parametrize("poisson_ratio", [0.0, 0.3, 0.45])
def test_small_displacements_are_those_of_calculix(tmp_path, poisson_ratio):
    force = (1e-3, -5e-4)  # N; strains of 1e-7
    material = f"*ELASTIC\n{YOUNG}, {poisson_ratio}\n"
    u, _ = of_calculix(CalculixCase(tmp_path, material, "*STEP\n*STATIC"), force)
    wanted = of_beam(force, poisson_ratio)
    assert np.abs(u - wanted).max() < 1e-6 * np.abs(wanted).max()  # of which ccx prints seven digits


@needs_ccx
def test_large_displacements_are_those_of_calculix_with_ciarlets_material(tmp_path):
    # mu/2 (I1 - 3) - (lambda/2 + mu) ln J + lambda/4 (J^2 - 1): ours, where lambda is 0
    force = (-150.0, 80.0)  # N; the tip moves by 5.9 mm
    u, _ = of_calculix(CalculixCase(tmp_path, f"*USER MATERIAL, CONSTANTS=2\n{YOUNG}, 0.\n"), force)
    wanted = of_beam(force, 0.0)
    assert np.abs(wanted).max() > 5
    assert np.abs(u - wanted).max() < 1e-6 * np.abs(wanted).max()


@needs_ccx
def test_the_numbers_of_the_template_fit_into_the_fields_of_calculix(tmp_path):
    material = f"*ELASTIC\n{YOUNG}, 0.3\n"
    for force in (-16 * 5.123456789012345e-05, 16 * 5.123456789012345e-05):  # 22 and 21 characters; it reads 20
        u, _ = of_calculix(CalculixCase(tmp_path, material, "*STEP\n*STATIC"), (force, 0.0))
        wanted = of_beam((force, 0.0), 0.3)
        assert np.abs(u - wanted).max() < 1e-6 * np.abs(wanted).max()


@needs_ccx
def test_a_load_under_which_calculix_does_not_converge_is_rejected(tmp_path):
    env = CalculixCase(tmp_path, f"*ELASTIC\n{YOUNG}, 0.3\n", "*STEP, NLGEOM\n*STATIC\n1., 1., 1.", bound=1e5)
    _, info = of_calculix(env, (-4e4, 0))
    assert info["rejected"] == "ccx: increment size smaller than minimum"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("icoFoam") is None, reason="OpenFOAM is not installed")
def test_a_cavity_of_openfoam():
    env = CommandSimulation(
        command=["sh", "-c", "blockMesh && icoFoam"],
        case=EXAMPLES / "openfoam_cavity",
        variables={"WM_PROJECT_DIR": os.environ.get("WM_PROJECT_DIR", "/usr/share/openfoam")},
        parameters={"lid_speed": {"low": 0.5, "high": 2}, "viscosity": {"low": 0.01, "high": 0.04}},
        outputs={
            "velocity": {"read": "table", "file": "postProcessing/line/0.5/middle_U.xy", "columns": [1, 2],
                         "shape": [32, 2]}
        },
    )  # fmt: skip
    found = []
    for scale in (1, 2):  # the same Reynolds number, but for the time that it takes to get there
        env.reset(seed=0, options={"parameters": {"lid_speed": scale, "viscosity": 0.02 * scale}})
        found.append(env.step(0)[0]["velocity"] / scale)
    env.close()
    assert found[0][-1, 0] > 0.9 > 0 > found[0][:, 0].min()
    np.testing.assert_allclose(found[0], found[1], atol=0.01)


@pytest.mark.slow
@needs_ccx
def test_the_example_with_calculix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generate = physgym.generate
    monkeypatch.setattr(physgym, "generate", lambda *args, **options: generate(*args, **{**options, "samples": 10}))
    runpy.run_path(str(EXAMPLES / "calculix_beam.py"), run_name="__main__")
    assert np.ptp([sample["displacement"][-1, 1] for sample in physgym.SampleDataset("calculix_data")]) > 0.1  # mm
