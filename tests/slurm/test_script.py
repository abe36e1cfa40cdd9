"""The text of a script, and what its shell does where SLURM's programs are stand-ins."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time

import psutil
import pytest

from physgym.slurm.script import Alone, Resources, Together, WithWorkers, script_of

RESOURCES = Resources("sim", 4, "4:00:00", 32, 2, "fast", "me", 300, lines=("--mem=8G", "--exclusive"))


def written(folder, *parts, resources=RESOURCES, **options):
    text = script_of(resources, parts, folder=folder, cwd=folder, python="/opt/my python", **options)
    file = folder / "job.sh"
    file.write_text(text)
    assert subprocess.run(["bash", "-n", str(file)], capture_output=True, check=False).stderr == b""
    return text


def test_what_it_asks_for(tmp_path):
    text = written(tmp_path, Alone(("train", "c.yaml")))
    asked = re.findall(r"^#SBATCH (.*)$", text, re.M)
    assert asked == [
        *("--job-name=sim", "--nodes=4", "--ntasks-per-node=1", "--cpus-per-task=32", "--time=4:00:00"),
        *("--signal=B:USR2@300", "--requeue", "--open-mode=append", f"--output={tmp_path}/%j.log"),
        *("--gpus-per-node=2", "--partition=fast", "--account=me", "--mem=8G", "--exclusive"),
    ]
    # SLURM reads options up to the first command
    lines = text.splitlines()
    assert lines.index("#SBATCH --exclusive") < next(i for i, line in enumerate(lines) if not line.startswith("#"))


def test_a_run_with_workers(tmp_path):
    text = written(
        tmp_path, WithWorkers(("train", "a b.yaml", "--resume"), 32, "my:Sim-v0", "$(hostname)-ib"), setup=["module x"]
    )
    joined = text.replace("\\\n", "")
    parent, workers = re.findall(r"^srun .*$", joined, re.M)
    assert "--relative=0 --nodes=1 --ntasks=1" in parent
    assert "train 'a b.yaml' --resume" in parent
    assert '--listen 0.0.0.0:0 --advertise "$(hostname)-ib"' in parent
    assert "--nodes=4 --ntasks=4 --ntasks-per-node=1" in workers
    assert "--workers 32 --env my:Sim-v0 &" in workers
    assert "--plain" not in text
    assert text.index("module x") < text.index("srun")


def test_a_training_by_several_processes(tmp_path):
    text = written(tmp_path, Alone(("generate", "c.yaml")), Together(("train", "c.yaml"), 4, "$(hostname)"))
    joined = text.replace("\\\n", "")
    assert '--nnodes=4 --nproc-per-node=4 --master-addr="$(hostname)" --master-port="$port"' in joined
    assert '--node-rank="$SLURM_NODEID"' in joined
    assert joined.index("generate c.yaml") < joined.index("torch.distributed.run")


# --- the shell, with programs that stand in for SLURM's

SRUN = """#!/bin/bash
echo "srun" >> said
trap 'sleep 0.1; exit 140' USR2
trap 'exit 143' TERM
touch begun
if [ -f fails ]; then exit 2; fi
for _ in $(seq 100); do sleep 0.05; [ -f done ] && exit 0; done
"""
SCONTROL = """#!/bin/bash
echo "$@" >> said
if [ "$1" = show ]; then cat shown; else exit $(cat refusal 2>/dev/null || echo 0); fi
"""


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """A folder with programs in place of SLURM's."""
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "sleep": ""}.items():
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text or '#!/bin/bash\n[ "$1" = 300 ] || exec /bin/sleep "$1"\n')
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    return tmp_path


def run(folder, *parts, number=None, **options):
    """The exit status of a script that gets a signal once it has begun, and what was asked of SLURM."""
    written(folder, *parts, **options)
    with subprocess.Popen(["bash", str(folder / "job.sh")], cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        if number is not None:
            deadline = time.monotonic() + 60
            while not (folder / "begun").exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            # SLURM sends TERM to what a script has started, and to the script
            started = psutil.Process(process.pid).children() if number == signal.SIGTERM else []
            for one in [*started, process]:
                one.send_signal(number)
        _, errors = process.communicate(timeout=60)
    return process.returncode, (folder / "said").read_text().splitlines(), errors


TWO = (Alone(("generate",)), Alone(("train",)))


def test_one_after_the_other(stand_ins):
    (stand_ins / "done").touch()
    assert run(stand_ins, *TWO) == (0, ["srun", "srun"], "")


def test_what_fails_is_not_begun_again(stand_ins):
    (stand_ins / "fails").touch()
    assert run(stand_ins, *TWO) == (2, ["srun"], "")


def test_usr2_puts_it_back_into_the_queue(stand_ins):
    status, said, errors = run(stand_ins, *TWO, number=signal.SIGUSR2)
    assert (status, said) == (140, ["srun", "requeue 7"])
    assert "continues from there" in errors


def test_it_says_where_it_cannot_go_back(stand_ins):
    (stand_ins / "refusal").write_text("1")
    status, said, errors = run(stand_ins, *TWO, number=signal.SIGUSR2)
    assert (status, said) == (140, ["srun", "requeue 7"])
    assert f"continue with: sbatch {stand_ins}/job.sh" in errors


def test_it_goes_back_so_often_and_no_more(stand_ins, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    status, said, errors = run(stand_ins, *TWO, number=signal.SIGUSR2, restarts=3)
    assert (status, said) == (140, ["srun"])
    assert "--restarts" in errors


def test_an_element_of_an_array_speaks_of_itself(stand_ins, monkeypatch):
    """The number of one of them is that of the whole array."""
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    _, said, _ = run(stand_ins, *TWO, number=signal.SIGUSR2)
    assert said == ["srun", "requeue 7_3"]


@pytest.mark.parametrize(("time_of", "last"), [("None", []), ("2026-11-30T10:00:00", ["requeue 7"])])
def test_term_puts_it_back_where_it_is_preempted_alone(stand_ins, time_of, last):
    """Not where a user has cancelled it."""
    (stand_ins / "shown").write_text(f"JobId=7 PreemptTime={time_of} x=y\n")
    status, said, _ = run(stand_ins, *TWO, number=signal.SIGTERM)
    assert (status, said) == (143, ["srun", "show job -o 7", *last])


def test_after_usr2_no_other_part_begins(stand_ins):
    """The first part was done in the instant in which it came."""
    (stand_ins / "bin" / "srun").write_text(SRUN.replace("sleep 0.1; exit 140", "exit 0"))
    status, said, _ = run(stand_ins, *TWO, number=signal.SIGUSR2)
    assert (status, said) == (140, ["srun", "requeue 7"])
