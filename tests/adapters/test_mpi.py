"""Programs of several MPI ranks as environments, in Python, C and Fortran; what happens where a rank fails."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import physgym
from physgym.adapters.mpi import MpiSimulation
from physgym.errors import ConfigError, SimulatorError
from physgym.testing import check_env
from tests.support.commands import run_program

pytest.importorskip("mpi4py")
MPIEXEC = Path(sys.executable).with_name("mpiexec")
if not MPIEXEC.exists() and shutil.which("mpiexec") is None:
    pytest.skip("there is no mpiexec here (the package mpich)", allow_module_level=True)
pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
COUNTER = ROOT / "tests" / "support" / "mpi_program.py"
FIELDS = {
    "parameters": {"rate": {"low": 1, "high": 2, "unit": "1/s"}},
    "actions": {"push": {"low": 0, "high": 1}},
    "states": {"total": {"shape": [2], "unit": "m"}},
    "outputs": {"count": {"dtype": "int64"}},
}
ONE = {"push": np.float64(1.0)}


@pytest.fixture(autouse=True)
def ranks_find_physgym(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def made(fault="", **options):
    return MpiSimulation(**{"program": [str(COUNTER), fault], "snapshots": True, **FIELDS, **options})


@contextlib.contextmanager
def simulation(fault="", **options):
    env = made(fault, **options)
    try:
        yield env
    finally:
        env.close()


def ranks_of(env):
    """The processes of its program."""
    return [
        one
        for one in psutil.Process(env._ranks._child.pid).children(recursive=True)
        if COUNTER.name in str(one.cmdline())
    ]


def is_alive(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != "zombie"
    return False


@pytest.mark.sweep
def test_the_rules():
    check_env(lambda **options: made(**options))


def test_an_episode():
    with simulation() as env:
        observation, _ = env.reset(seed=3, options={"parameters": {"rate": 2.0}})
        assert observation["total"][1] == 2.0
        assert observation["count"] == 0
        observation, *_, info = env.step({"push": np.float64(0.25)})
        assert len(ranks_of(env)) == 2
        sample = info["sample"]
        assert sample["count"] == 2
        assert sample["count"].dtype == np.int64
        assert (sample["next_total"] == sample["total"] + 1.0).all()  # 2 ranks, 0.25 each, times the rate
        assert (observation["total"] == sample["next_total"]).all()
        assert env.sample_units == {"rate": "1/s", "total": "m", "next_total": "m"}
        with pytest.raises(Exception, match="push"):
            env.step({"push": np.float64(7.0)})
        again, _ = env.reset(seed=3, options={"parameters": {"rate": 2.0}})
        first = ranks_of(env)
        assert (again["total"] == sample["total"]).all()
        env.close()
        assert not [one for one in first if is_alive(one)]
        env.reset(seed=3)  # starts them again


def test_the_samples_do_not_depend_on_workers(tmp_path):
    options = {"env_kwargs": {"program": [str(COUNTER)], **FIELDS}, "samples": 12, "max_steps": 4, "progress": False}
    data = [physgym.generate("physgym/Mpi-v0", tmp_path / str(count), num_workers=count, **options) for count in (0, 2)]
    assert (data[0][:]["next_total"] == data[1][:]["next_total"]).all()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raise", r"rank 1: Traceback[^$]*ValueError: no such cell"),
        ("kill", r"(?s)have ended.*rank 1"),
        ("exit", r"(?s)have ended.*out of licences"),
        pytest.param("sleep", r"gave no answer to STEP within 6 s", marks=pytest.mark.slow),
        ("shape", r"rank 0: Traceback[^$]*'total' of shape \(3,\), declared is \(2,\)"),
    ],
)
def test_a_rank_that_fails_is_named_and_all_end(fault, said):
    with simulation(fault, timeout=6.0 if fault == "sleep" else 60.0) as env:
        env.reset(seed=0)
        env.step({"push": np.float64(0.5)})
        ranks = ranks_of(env)
        with pytest.raises(SimulatorError, match=said):
            env.step(ONE)
        deadline = time.monotonic() + 60
        while any(map(is_alive, ranks)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        env.reset(seed=1)
        env.step({"push": np.float64(0.5)})


def test_numbers_that_are_no_integers_are_refused():
    with simulation("fraction") as env:
        env.reset(seed=0)
        with pytest.raises(SimulatorError, match=r"'count' = 0\.5"):
            env.step(ONE)


def test_a_step_that_one_rank_rejects_has_no_sample():
    with simulation("reject") as env:
        env.reset(seed=0)
        info = env.step(ONE)[-1]
        assert "rank 1: did not converge" in str(info)
        assert "sample" not in info
        assert "sample" in env.step({"push": np.float64(0.5)})[-1]


def test_ranks_end_with_their_parent():
    code = """
import os, signal
from tests.adapters.test_mpi import made, ranks_of
env = made()
env.reset(seed=0)
print(*[one.pid for one in ranks_of(env)], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [*map(int, done.stdout.split())]
    assert len(pids) == 2
    deadline = time.monotonic() + 60
    while any(psutil.pid_exists(pid) and is_alive(psutil.Process(pid)) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_variables_of_another_launcher_do_not_reach_the_ranks(monkeypatch):
    """As those of an srun that has started the worker."""
    for name, value in {
        "PMI_RANK": "5",
        "PMI_SIZE": "9",
        "PMI_FD": "7",
        "SLURM_JOB_ID": "1",
        "SLURM_NODELIST": "n7",
    }.items():
        monkeypatch.setenv(name, value)
    with simulation() as env:
        env.reset(seed=0)
        assert env.step({"push": np.float64(0.5)})[-1]["sample"]["count"] == 2


def test_what_is_printed_does_not_fill_the_disk(monkeypatch):
    monkeypatch.setattr("physgym.adapters.mpi.LARGEST_OUTPUT", 10)
    with simulation() as env:
        env.reset(seed=0)
        output = env._ranks._folder / "stdout"
        output.write_text("x" * 100)
        env.reset(seed=1)
        assert output.stat().st_size == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"program": ["none.py"]}, "no program"),
        ({"program": "solver"}, "list of words"),
        ({"program": []}, "list of words"),
        ({"ranks": 0}, "ranks"),
        ({"timeout": 0}, "timeout"),
        ({"launcher": ["mpiexec"]}, "list of words"),
        ({"launcher": ["none", "{ranks}"]}, r"physgym\[mpi\]"),
        ({"states": None, "outputs": None}, "computes nothing"),
        ({"outputs": {"rate": {}}}, "'rate' names two"),
        ({"outputs": {"next_total": {}}}, "'next_total' names two"),
        ({"states": {"total": {"low": 0}}}, "'low'"),
        ({"actions": {"push": {"low": 0}}}, "give high"),
        ({"actions": {"push": {"low": 0, "high": 2**60, "dtype": "int64"}}}, "bounds beyond 2"),
        ({"states": ["total"]}, "states must be a mapping of names"),
        ({"variables": ["A=1"]}, "variables must be a mapping of names"),
        ({"launcher": ["mpiexec", 2, "{ranks}"]}, "list of words"),
        ({"snapshots": "no"}, "snapshots must be true or false"),
        ({"time_step": -1}, "time_step must be positive"),
    ],
)
def test_wrong_arguments(options, said):
    with pytest.raises(ConfigError, match=said):
        made(**options)


def test_a_state_named_as_that_of_the_program_is_restored(tmp_path):
    code = """
from physgym.adapters.mpi_ranks import serve
from mpi4py import MPI
import os

class Program:
    def reset(self, seed, parameters):
        self.hidden = 0
        return {"program": 1.0, "time_step": float(os.environ["STEP"])}
    def step(self, action):
        self.hidden += 1
        return {"program": self.hidden ** 2, "time_step": 2.0, "large": 2**53 + (self.hidden == 3)}
    def state(self):
        return [self.hidden]
    def set_state(self, vector):
        self.hidden = int(vector[0])
        return {"program": self.hidden ** 2, "time_step": 2.0}

serve(MPI.COMM_WORLD, Program())
"""
    (tmp_path / "program.py").write_text(code)
    env = MpiSimulation(program=[str(tmp_path / "program.py")], ranks=1, states={"program": {}, "time_step": {}},
                        outputs={"large": {"dtype": "int64"}}, variables={"STEP": 3}, snapshots=True)  # fmt: skip
    try:
        assert env.reset(seed=0)[0]["time_step"] == 3
        env.step(0)
        kept = env.state()
        assert env.step(0)[0]["program"] == 4
        env.set_state(kept)
        assert env.step(0)[0]["program"] == 4
        with pytest.raises(SimulatorError, match=r"9007199254740993"):
            env.step(0)  # which no 64-bit floating-point number is
    finally:
        env.close()


# --- what rank 0 may say, without any MPI

ALONE = ["env", "RANKS={ranks}"]  # starts the program itself
ANSWERS = """
import os, struct, sys
requests, answers = open(os.environ["PHYSGYM_REQUESTS"], "rb"), open(os.environ["PHYSGYM_ANSWERS"], "wb", buffering=0)
while True:
    kind, count = struct.unpack("=ii", requests.read(8))
    if not kind:
        break
    numbers = requests.read(8 * count)
    answers.write({answer})
"""


def answering(folder, answer, **fields):
    """An environment whose program gives this answer to everything."""
    (folder / "program.py").write_text(ANSWERS.format(answer=answer))
    return simulation(program=[str(folder / "program.py")], launcher=ALONE, snapshots=False, **fields)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ('b"hello, all ranks"', "rank 0 sends what is no answer to RESET"),
        ('struct.pack("=ii", 0, -1)', "no answer to RESET"),
        ('struct.pack("=ii", 0, 2) + bytes(16)', "with 2 numbers; states and outputs have 3"),
        ('struct.pack("=ii", 2, 7) + b"no mesh"', "the program: no mesh"),
        ('struct.pack("=ii", 1, 1 << 20)', "a text of 1048576 bytes"),
        ("b'' + sys.exit('out of licences')", "(?s)have ended with status 1.*out of licences"),
    ],
)
def test_wrong_answers(answer, said, tmp_path):
    with answering(tmp_path, answer) as env, pytest.raises(SimulatorError, match=said):
        env.reset(seed=0)


def test_arrays_may_be_larger_than_a_pipe(tmp_path):
    shape = {"shape": [50_000]}
    with answering(
        tmp_path,
        'struct.pack("=ii", 0, 50_000) + (numbers if kind == 2 else bytes(400_000))',
        parameters=None,
        actions={"push": {"low": 0, "high": 1, **shape}},
        states={"total": shape},
        outputs=None,
    ) as env:
        env.reset(seed=0)
        action = np.linspace(0, 1, 50_000)
        assert (env.step({"push": action})[0]["total"] == action).all()


# --- other languages, as the page has them


def listing(language):
    """The program of that language in docs/howto/mpi.md."""
    page = (ROOT / "docs" / "howto" / "mpi.md").read_text()
    return re.search(rf"```{language}\n(.*?)```", page, re.DOTALL)[1]


SPRING = {
    "parameters": {"stiffness": {"low": 1, "high": 2}},
    "actions": {"force": {"low": -1, "high": 1}},
    "states": {"motion": {"shape": [2]}},
}
# for one rank, where there is no MPI for Fortran
STAND_IN = """
module mpi
  integer, parameter :: mpi_comm_world = 0, mpi_integer = 1, mpi_double_precision = 2, mpi_sum = 3
contains
  subroutine mpi_allreduce(mine, sum, count, kind, op, comm, ierr)
    double precision :: mine, sum
    integer :: count, kind, op, comm, ierr
    sum = mine
  end subroutine
  subroutine mpi_comm_rank(comm, rank, ierr)
    integer :: comm, rank, ierr
    rank = 0
  end subroutine
  subroutine mpi_comm_size(comm, ranks, ierr)
    integer :: comm, ranks, ierr
    ranks = 1
  end subroutine
  subroutine mpi_init(ierr)
    integer :: ierr
  end subroutine
  subroutine mpi_finalize(ierr)
    integer :: ierr
  end subroutine
  subroutine mpi_bcast(data, count, kind, root, comm, ierr)
    type(*) :: data(*)
    integer :: count, kind, root, comm, ierr
  end subroutine
end module
"""


def compiled(folder, *words):
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


def spring_of_c(folder):
    """A program, and what starts its ranks."""
    near = Path(sys.executable).with_name("mpicc")
    compiler = str(near) if near.exists() else shutil.which("mpicc")
    if compiler is None or shutil.which("gcc") is None:
        pytest.skip("there is no mpicc here")
    (folder / "spring.c").write_text(listing("c"))
    compiled(folder, compiler, "-Wall", "-Werror", "-o", "spring", "spring.c")
    start = [str(Path(compiler).with_name("mpiexec"))]  # an MPI has its own, next to its compiler
    if "Open" in subprocess.run([*start, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout:
        start += ["--oversubscribe", *(["--allow-run-as-root"] if os.getuid() == 0 else [])]
    return [*start, "-n", "{ranks}"]


def spring_of_fortran(folder):
    """The same, with a single rank."""
    if shutil.which("gfortran") is None:
        pytest.skip("there is no gfortran here")
    for name, text in {"mpi.f90": STAND_IN, "spring.f90": listing("fortran")}.items():
        (folder / name).write_text(text)
    compiled(folder, "gfortran", "-o", "spring", "mpi.f90", "spring.f90")
    return ["env", "RANKS={ranks}"]


@pytest.mark.parametrize("spring", [spring_of_c, spring_of_fortran])
def test_other_languages(spring, tmp_path):
    start = spring(tmp_path)
    with simulation(program=[str(tmp_path / "spring")], launcher=start, snapshots=False, outputs=None, **SPRING) as env:
        x, v = env.reset(seed=0, options={"parameters": {"stiffness": 1.5}})[0]["motion"]
        assert (x, v) == (1.0, 0.0)
        expected = np.array([1.0, 0.0])
        for _ in range(5):
            x, v = env.step({"force": np.float64(0.5)})[0]["motion"]
            expected[1] += 0.01 * (0.5 - 1.5 * expected[0])
            expected[0] += 0.01 * expected[1]
        np.testing.assert_allclose([x, v], expected, rtol=1e-14)


def test_the_example(tmp_path):
    done = run_program(tmp_path, ROOT / "examples" / "mpi_heat.py", "out")
    assert done.returncode == 0, done.stderr
    data = physgym.SampleDataset(tmp_path / "out")[:]
    before, after = data["temperature"], data["next_temperature"]
    change = np.roll(before, 1, 1) + np.roll(before, -1, 1) - 2 * before
    expected = before + data["diffusion"][:, None] * change
    expected[:, 0] += data["heating"]
    np.testing.assert_allclose(after, expected, rtol=1e-12)
