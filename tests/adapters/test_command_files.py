"""Files of command-line programs: those of the case, those that a run writes, and what counts as a result of it."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import time

import numpy as np
import pytest

import physgym
from physgym.adapters import held_folder
from physgym.adapters.command import CommandSimulation
from physgym.errors import ChangedCode, ConfigError, SampleError, SimulatorError

PRINTED = {"read": "match", "file": "stdout", "pattern": r"y = (\S+)"}
FORCES = {"f": {"low": 0, "high": 9}}


@pytest.fixture
def case(tmp_path):
    """Return the folder of a case without files."""
    (tmp_path / "case").mkdir()
    return tmp_path / "case"


@pytest.fixture
def made(tmp_path):
    """Return what makes an environment of a script of the shell, after a reset, and closes it."""
    envs = []
    (tmp_path / "runs").mkdir()

    def make(script, **options):
        defaults = {"command": ["sh", "-c", script], "folder": tmp_path / "runs", "outputs": {"y": PRINTED}}
        env = CommandSimulation(**{**defaults, **options})
        envs.append(env)
        env.reset(seed=0)
        return env

    yield make
    for env in envs:
        env.close()


@pytest.mark.parametrize("script", ["true", "touch other"])
def test_what_lies_in_the_case_is_no_result(case, made, script):
    (case / "out.txt").write_text("7\n")
    env = made(script, case=case, outputs={"y": {"read": "table", "file": "out.txt"}})
    with pytest.raises(SimulatorError, match=r"the run did not write out\.txt"):
        env.step(0)
    env = made("echo 7 > out.txt", case=case, outputs={"y": {"read": "table", "file": "out.txt"}})
    assert env.step(0)[0]["y"] == 7  # the same text, written again
    env = made("true", case=case, outputs={"y": {"read": lambda folder: np.loadtxt(folder / "out.txt")}})
    assert env.step(0)[0]["y"] == 7


def test_the_result_of_the_step_before_is_none_of_this_one(case, made):
    (case / "f.j2").write_text("{{ f }}\n")
    env = made("grep -q 9 f || cp f out", case=case, outputs={"y": {"read": "table", "file": "out"}}, actions=FORCES,
               continues=True)  # fmt: skip
    assert [env.step({"f": force})[0]["y"] for force in (1.0, 1.0, 2.0)] == [1, 1, 2]
    with pytest.raises(SimulatorError, match="the run did not write out"):
        env.step({"f": 9.0})


def test_a_program_that_marches_in_time_goes_on_from_its_own_file(case, made):
    (case / "u.txt").write_text("1\n")
    (case / "f.j2").write_text("{{ f }}\n")
    env = made("read u < u.txt; read f < f; echo \"$u $f\" | awk '{ print $1 / 2 + $2 }' > u.txt", case=case,
               outputs={"y": {"read": "table", "file": "u.txt"}}, actions=FORCES, continues=True)  # fmt: skip
    for _ in range(2):
        env.reset(seed=0)
        assert [env.step({"f": force})[0]["y"] for force in (1.0, 2.0, 3.0)] == [1.5, 2.75, 4.375]


STEPS = (
    'read x v f < in; echo "$x $v $f" | awk \'{ printf "%.17g %.17g\\ny = %.17g\\n", $1 + $2, $2 + $3, $1 }\' > out; '
)
STEPS += "sed -n 2p out; grep -q '^9' in && echo diverged; true"
MOTION = {
    "actions": FORCES,
    "parameters": {"start": {"low": -1, "high": 1, "shape": [2]}},
    "outputs": {
        "motion": {"read": "table", "file": "out", "shape": [2], "initial": "start", "unit": "m"},
        "y": PRINTED,
    },
    "reject": "diverged",
}


@pytest.fixture
def stepping(case, made):
    """Return an environment of a program that is given its state."""
    (case / "in.j2").write_text("{{ motion[0] }} {{ motion[1] }} {{ f }}\n")
    return made(STEPS, case=case, **MOTION)


def test_a_state_is_an_input_before_the_step_and_a_target_after_it(stepping):
    env = stepping
    assert env.sample_roles == {"start": "additional", "f": "input", "motion": "input", "next_motion": "target",
                                "y": "target"}  # fmt: skip
    assert env.sample_feedback == {"next_motion": "motion"}
    assert env.sample_units == {"motion": "m", "next_motion": "m"}
    observation, _ = env.reset(seed=0, options={"parameters": {"start": np.array([1 / 3, 0.1])}})
    x, v = observation["motion"].tolist()
    assert (x, v) == (1 / 3, 0.1)
    for force in (1.0, 0.25):
        fed = env.inputs({"f": force})
        observation, _, terminated, _, info = env.step({"f": force})
        sample = info["sample"]
        assert not terminated
        assert {name: value.tolist() for name, value in fed.items()} == {
            name: sample[name].tolist() for name in ("start", "f", "motion")
        }
        assert sample["motion"].tolist() == [x, v]
        x, v = x + v, v + force
        assert sample["next_motion"].tolist() == observation["motion"].tolist() == [x, v]


def test_a_rejected_step_leaves_the_state(case, made):
    (case / "in.j2").write_text("{{ motion[0] }} {{ motion[1] }} {{ f }}\n")
    outputs = {**MOTION["outputs"], "motion": {**MOTION["outputs"]["motion"], "initial": [9, 1]}}
    env = made(STEPS, case=case, **{**MOTION, "outputs": outputs, "parameters": {}})
    for _ in range(2):
        observation, *_, info = env.step({"f": 1.0})
        assert "sample" not in info
        assert observation["motion"].tolist() == [9, 1]


def test_a_state_is_kept_restored_and_adopted(stepping):
    env = stepping
    env.step({"f": 1.0})
    kept = env.state()
    one = env.step({"f": 2.0})
    env.set_state(kept)
    assert env.step({"f": 2.0})[4]["sample"]["next_motion"].tolist() == one[4]["sample"]["next_motion"].tolist()
    env.set_state(kept)
    env.adopt({"f": 2.0}, {"next_motion": np.array([5.0, 6.0]), "y": np.array(0.0)})
    assert env.sample()["motion"].tolist() == one[4]["sample"]["motion"].tolist()
    assert env.step({"f": 0.5})[4]["sample"]["next_motion"].tolist() == [11.0, 6.5]
    action = env.load_sample(one[4]["sample"])
    assert env.step(action)[4]["sample"]["next_motion"].tolist() == one[4]["sample"]["next_motion"].tolist()


def test_a_program_that_keeps_its_files_has_its_state_in_the_samples_too(case, made):
    (case / "u.txt").write_text("1\n")
    (case / "f.j2").write_text("{{ f }}\n")
    outputs = {"u": {"read": "table", "file": "u.txt", "initial": 1}}
    env = made("read u < u.txt; read f < f; echo \"$u $f\" | awk '{ print $1 / 2 + $2 }' > u.txt", case=case,
               outputs=outputs, actions=FORCES, continues=True)  # fmt: skip
    samples = [env.step({"f": force})[4]["sample"] for force in (1.0, 2.0, 3.0)]
    assert [float(sample["u"]) for sample in samples] == [1, 1.5, 2.75]
    assert [float(sample["next_u"]) for sample in samples] == [1.5, 2.75, 4.375]
    with pytest.raises(ConfigError, match="write it by a template, and leave continues out"):
        env.adopt({"f": 1.0}, {"next_u": np.array(1.0)})
    env = made("true", case=case, outputs={"u": {**outputs["u"], "initial": 1.01}}, actions=FORCES, continues=True)
    with pytest.raises(
        ConfigError, match=r"outputs\['u'\]: initial differs by up to 0\.01 from the state in the files"
    ):
        env.step({"f": 1.0})


NO_STATE = {
    "no parameter": ({"initial": "begin"}, "there is no parameter 'begin'"),
    "shape": ({"initial": "start"}, r"the parameter 'start' has shape \(2,\), the output \(\)"),
    "numbers": ({"initial": [1, 2]}, r"outputs\['y'\]: initial"),
    "half": ({"initial": 0.5, "dtype": "int64"}, "has 0.5, which is no whole number"),
    "nothing": ({"initial": None}, r"outputs\['y'\]: initial"),
    "not finite": ({"initial": float("nan")}, r"outputs\['y'\]: initial must be finite, not nan"),
    "taken": ({"initial": 0}, "'next_y' is what the state 'y' is after a step"),
}


@pytest.mark.parametrize(("said", "error"), NO_STATE.values(), ids=NO_STATE)
def test_what_is_no_state_is_named(said, error):
    parameters = MOTION["parameters"] | ({"next_y": {"low": 0, "high": 1}} if said == {"initial": 0} else {})
    with pytest.raises(ConfigError, match=error):
        CommandSimulation(command=["sh"], outputs={"y": {**PRINTED, **said}}, parameters=parameters)


def test_a_state_that_begins_with_a_parameter_needs_a_reset():
    env = CommandSimulation(command=["sh", "-c", "true"], **MOTION)
    with pytest.raises(ConfigError, match="reset the environment before its first step: 'motion' begins with 'start'"):
        env.step({"f": 1.0})
    env.close()


def test_links_are_followed_and_their_files_belong_to_the_code(case, made, tmp_path):
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh" / "nodes.j2").write_text("{{ 2 * 3 }}\n")
    (case / "mesh").symlink_to(tmp_path / "mesh")
    (case / "script").write_bytes(b"\0\xff\xfe")
    env = made('echo "y = $(cat mesh/nodes)"', case=case)
    assert env.step(0)[0]["y"] == 6
    assert {case / "mesh" / "nodes.j2", case / "script"} <= {*env.files_read}


UNFIT = {"nothing": "a link to nothing", "loop": "a link to a folder in which it lies", "pipe": "is no file that can"}


@pytest.mark.parametrize(("what", "error"), UNFIT.items(), ids=UNFIT)
def test_what_cannot_be_copied_is_named_before_anything_runs(case, made, what, error):
    if what == "pipe":
        os.mkfifo(case / "pipe")
    else:
        (case / what).symlink_to(case if what == "loop" else "nowhere")
    with pytest.raises(ConfigError, match=error):
        made("echo y = 1", case=case)


def test_working_folders_do_not_lie_in_the_case(case, made, monkeypatch):
    (case / "runs").mkdir()
    with pytest.raises(ConfigError, match="which is part of the case"):
        made("echo y = 1", case=case, folder=case / "runs")
    monkeypatch.setattr("tempfile.tempdir", str(case))
    with pytest.raises(ConfigError, match="which is part of the case"):
        made("echo y = 1", case=case, folder=None)


def test_a_program_of_the_case_may_be_a_template(case, made):
    (case / "run.sh.j2").write_text("#!/bin/sh\necho y = {{ 4 + 1 }}\n")
    (case / "run.sh.j2").chmod(0o555)
    env = made("", command=["./run.sh"], case=case)
    assert env.step(0)[0]["y"] == 5
    assert env.files_read == [case / "run.sh.j2"]
    with pytest.raises(ConfigError, match=re.escape("no program './other.sh'")):
        made("", command=["./other.sh"], case=case)


def test_scripts_among_the_words_belong_to_the_code(made, tmp_path):
    (tmp_path / "solve.sh").write_text("echo y = 1")
    assert tmp_path / "solve.sh" in [*map(type(tmp_path), made("", command=["sh", f"{tmp_path}/solve.sh"]).files_read)]


def test_files_of_any_name_encoding_and_rights_are_copied(case, made):
    odd = "a b'\"$x\n;.txt"
    (case / f"{odd}.j2").write_bytes("ü {{ 1 }}".encode("latin-1"))
    (case / "x.j2").mkdir()
    (case / "x.j2" / "fixed").write_bytes(b"\0\xff")
    (case / "x.j2" / "fixed").chmod(0o444)
    (case / ".j2").write_text("no template")
    found = {}

    def read(folder):
        found.update({str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()})
        return stat.S_IMODE((folder / "x.j2" / "fixed").stat().st_mode)

    assert made("true", case=case, outputs={"y": {"read": read}}).step(0)[0]["y"] == 0o644
    wanted = {odd: "ü 1".encode("latin-1"), "x.j2/fixed": b"\0\xff", ".j2": b"no template"}
    assert found == {**wanted, "stdout": b"", "stderr": b""}


@pytest.mark.parametrize("text", ["{{ 1 / 0 }}", "{{ '%d' | format('a') }}", "{% include 'other' %}"])
def test_a_template_that_cannot_be_filled_in_is_named(case, made, text):
    (case / "in.j2").write_text(text)
    with pytest.raises(ConfigError, match=r"the template in\.j2: \w+Error: "):
        made("echo y = 1", case=case).step(0)


def test_whole_numbers_stay_whole(made):
    outputs = {
        "n": {**PRINTED, "pattern": r"n = (\S+)", "dtype": "int64"},
        "j": {"read": "json", "file": "j", "key": "a.1.b", "dtype": "int64"},
    }
    largest = 2**62 + 1
    script = 'echo n = $0; echo "{\\"a\\": [0, {\\"b\\": $1}]}" > j'
    env = made("", command=["sh", "-c", script, "{{ k }}", str(largest)], outputs=outputs,
               actions={"k": {"low": 0, "high": 2**60, "dtype": "int64"}})  # fmt: skip
    observation = env.step({"k": 3})[0]
    assert (observation["n"], observation["j"]) == (3, largest)
    assert observation["n"].dtype == np.int64
    with pytest.raises(SimulatorError, match=r"output 'n' is declared as int64; the value has .* no whole number"):
        env.step({"k": 2**53 + 1})  # as the text of a table, read by way of float64
    with pytest.raises(SampleError, match=r"has 2\.7, which is no whole number"):
        env.step({"k": 2.7})


def test_axes_in_another_order_are_an_error(made):
    grid = "echo '[[1, 2, 3], [4, 5, 6]]' > j"
    assert made(grid, outputs={"y": {"read": "json", "file": "j", "shape": [6]}}).step(0)[0]["y"].tolist()[-1] == 6
    with pytest.raises(SimulatorError, match=r"has the shape \(2, 3\).*declared with \(3, 2\)"):
        made(grid, outputs={"y": {"read": "json", "file": "j", "shape": [3, 2]}}).step(0)


def test_an_output_named_as_an_entry_of_the_state_is_restored(made):
    env = made("echo y = 5", outputs={"steps": PRINTED, "time_step": PRINTED}, actions=FORCES)
    env.step({"f": 1.0})
    kept = env.state()
    env.step({"f": 1.0})
    env.set_state(kept)
    assert {name: int(value) for name, value in env.state().items() if "step" in name} == {
        "steps": 1,
        "outputs/steps": 5,
        "outputs/time_step": 5,
    }


def test_a_pattern_is_found_wherever_the_program_printed_it(made):
    flood = "for i in 1 2 3 4 5 6 7 8; do head -c 400000 /dev/zero | tr '\\0' x; echo; done"
    env = made(f"echo no convergence; {flood}; echo y = 1", reject="^no convergence$")
    assert env.step(0)[4]["rejected"] == "sh: no convergence"
    env = made(f"{flood}; echo y = 1", reject="^convergence|x$(?!\\n)")
    assert env.step(0)[0]["y"] == 1


def test_a_program_that_removes_its_files_has_failed_in_its_own_way(made):
    with pytest.raises(SimulatorError, match="ended with status 3; it printed nothing"):
        made('rm -r "$PWD"; exit 3', reject="abc").step(0)


def test_an_error_quotes_no_endless_lines(made):
    with pytest.raises(SimulatorError) as caught:
        made("head -c 5000 /dev/zero; head -c 5000 /dev/zero | tr '\\0' x; echo end; exit 1").step(0)
    assert "\0" not in str(caught.value)
    assert str(caught.value).endswith("xxend")
    assert len(str(caught.value)) < 700


def test_an_interrupted_run_leaves_no_folder(made, tmp_path):
    def interrupt(folder):
        raise KeyboardInterrupt

    env = made("true", outputs={"y": {"read": interrupt}})
    with pytest.raises(KeyboardInterrupt):
        env.step(0)
    env.close()
    assert not [*(tmp_path / "runs").iterdir()]


def test_a_subclass_may_read_by_itself(tmp_path):
    class Own(CommandSimulation):
        def read(self, folder):
            return {"y": 2.5}

    env = Own(command=["true"], outputs={"y": {"unit": "m"}}, folder=tmp_path)
    env.reset(seed=0)
    assert env.step(0)[4]["sample"] == {"y": 2.5}
    env.close()


@pytest.mark.slow
def test_what_a_killed_process_has_left_is_removed_by_the_next_one(made, tmp_path, monkeypatch):
    code = "import sys; from physgym.adapters.command import CommandSimulation as C\n"
    code += "env = C(command=['sh', '-c', 'echo begun >&2; sleep 60'], folder=sys.argv[1], "
    code += "outputs={'y': {'read': 'npy', 'file': 'y'}}); env.reset(seed=0); env.step(0)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "runs")]) as child:
        started = time.monotonic()
        while not any(path.read_text() for path in (tmp_path / "runs").glob("*/000000/stderr")):
            assert time.monotonic() < started + 60
            time.sleep(0.02)
        monkeypatch.setattr(held_folder, "YOUNG", 0.0)
        env = made("echo y = 1; exit $0", command=["sh", "-c", "echo y = 1; exit {{ step }}"], actions=FORCES)
        env.step({"f": 1.0})
        assert len([*(tmp_path / "runs").iterdir()]) == 2  # one is in use
        child.kill()
    env.close()
    with pytest.raises(SimulatorError, match="status 1"):
        env.step({"f": 1.0})
    env.close()
    assert [path.name for path in (tmp_path / "runs").glob("*/*")] == ["000001"]  # of the run that failed
    made("echo y = 1").step(0)
    assert len([*(tmp_path / "runs").iterdir()]) == 2


@pytest.mark.slow
def test_an_environment_that_nobody_closed_ends_in_silence(tmp_path):
    code = "import sys; from physgym.adapters.command import CommandSimulation as C\n"
    code += "env = C(command=['sh', '-c', 'echo 1'], folder=sys.argv[1], "
    code += "outputs={'y': {'read': 'table', 'file': 'stdout'}}); env.reset(seed=0); env.step(0)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, timeout=110, check=True)
    assert done.stderr == b""
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_a_dataset_is_not_continued_with_another_case(case, tmp_path):
    (case / "in.j2").write_text("{{ x }}\n")
    options = {
        "samples": 2,
        "num_workers": 1,
        "env_kwargs": {
            "command": ["sh", "-c", 'echo "y = $(cat in)"'],
            "case": str(case),
            "parameters": {"x": {"low": 0, "high": 1}},
            "outputs": {"y": PRINTED},
        },
    }
    physgym.generate("physgym/Command-v0", tmp_path / "data", **options)
    (case / "in.j2").write_text("{{ x + 1 }}\n")
    with pytest.raises(ChangedCode, match=r"in\.j2"):
        physgym.generate("physgym/Command-v0", tmp_path / "data", resume=True, **{**options, "samples": 4})
