"""What batch systems send before they end a job: the commands save what they did and say by their status what came."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from physgym import interrupt as interrupts
from physgym.experiment.record import read_record
from physgym.interrupt import ENDING, BatchSignals, Interrupt
from physgym.nn import MLP
from physgym.training import Callback, Trainer, list_checkpoints, load_checkpoint
from tests.cli.test_ctrl_c import (
    GENERATE,
    RUN,
    assert_same_files,
    config,
    folder,
    gated,
    interrupt,
    physgym,
    readable,
    said,
    trained,
    undisturbed,
    weights,
)
from tests.support.memory_samples import linear_samples

__all__ = ["folder", "trained"]  # fixtures


def name(number):
    return number.name


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR2, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)], ids=name)
def test_generate_commits_what_is_complete(folder, number):
    text = interrupt(*GENERATE, "--out", "data", number=number)
    assert f"{number.name}: what runs is completed and saved" in text
    assert 0 < readable("data") < 40
    physgym(*said(text))
    with undisturbed(folder):
        physgym(*GENERATE, "--out", "data")
    assert_same_files(Path("data"), folder.parent / "undisturbed" / "data")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, pytest.param(signal.SIGXCPU, marks=pytest.mark.slow)], ids=name)
def test_train_saves_the_batch_that_was_begun(folder, number):
    text = interrupt("train", config(**gated(at=5)), finish=True, number=number, times=2)
    checkpoint = list(list_checkpoints("sessions/line/networks").values())[-1]
    assert checkpoint["step"] == 6
    assert said(text) == ["resume", "sessions/line"]
    physgym(*said(text))
    with undisturbed(folder):
        physgym("train", config(**gated()))
        assert weights(folder / "sessions/line") == weights()


@pytest.mark.slow
def test_run_goes_on_where_it_was_told_to_end(folder, trained):
    text = interrupt(*RUN, number=signal.SIGUSR1)
    done = readable("record", "prediction")
    assert 0 < done < 30
    assert said(text)[-2:] == ["--steps", str(30 - done)]


@pytest.mark.slow
def test_search_ends_its_trials_in_order(folder):
    search = {"parameters": {"optimization.lr": {"low": 1e-4, "high": 1e-2, "log": True}}, "trials": 3, "workers": 1}
    text = interrupt("search", config(**gated(at=5), search=search), finish=True, number=signal.SIGUSR2)
    assert said(text) == ["resume", "sessions/line"]
    assert read_record(Path("sessions/line"))["runs"][-1]["outcome"] == "interrupted"
    Path("armed").unlink(missing_ok=True)


# --- while a command imports what it needs

WAITS = """
import pathlib, time
pathlib.Path("importing").touch()
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("module", "number"),
    [
        *(("gymnasium", number) for number in (*ENDING, signal.SIGINT)),
        ("typer", signal.SIGUSR2),
        ("typer", signal.SIGINT),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_a_signal_that_comes_during_imports_is_in_the_status(tmp_path, module, number):
    (tmp_path / f"{module}.py").write_text(WAITS)  # stands before the real one
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = subprocess.Popen(
        [sys.executable, "-m", "physgym", "schema"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # nohup ignores some, and children inherit that
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "importing").exists() and command.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    command.send_signal(number)
    _, said = command.communicate(timeout=60)
    assert (command.returncode, said) == (128 + number, b"")


def test_only_the_command_itself_listens_from_the_beginning(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/physgym", "train"])
    assert interrupts._is_command()
    monkeypatch.setattr(sys, "argv", ["-m", "train"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-W", "ignore", "-m", "physgym", "train"])
    assert interrupts._is_command()
    for arguments in (["python", "-m", "pytest", "physgym"], ["python", "-m", "physgym.worker.main"], []):
        monkeypatch.setattr(sys, "orig_argv", arguments)
        assert not interrupts._is_command()
    monkeypatch.setattr(sys, "argv", ["train.py"])
    assert not interrupts._is_command()


# --- the parts


def test_what_is_ignored_or_handled_stays(capfd):
    def mine(number, frame):
        seen.append(number)

    seen = []
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, mine)
        with BatchSignals() as signals:
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGUSR2)
            assert signals.received is None
            assert seen == [signal.SIGUSR2]
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGXCPU)
            assert signals.received == signal.SIGXCPU
            os.kill(os.getpid(), signal.SIGXCPU)  # it comes every second from then on
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGUSR2) is mine
        assert signal.getsignal(signal.SIGXCPU) is before[signal.SIGXCPU]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert capfd.readouterr().err == "\nSIGXCPU: what runs is completed and saved\n"
    assert not interrupts._listeners


def test_a_training_of_a_program_of_ones_own(tmp_path):
    """Also where Ctrl-C is ignored, as in what a shell runs in the background."""

    class Announce(Callback):
        def batch_begin(self, trainer, batch):
            if trainer.step == 3:
                os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        torch.manual_seed(0)
        network = MLP((3, 2), 4, hidden=(8,))
        trainer = Trainer(
            network,
            linear_samples(64),
            epochs=2,
            batch_size=8,
            session=tmp_path,
            callbacks=[Announce()],
            progress=False,
        )
        with BatchSignals() as signals:
            history = trainer.fit()
    finally:
        signal.signal(signal.SIGINT, before)
    assert signals.received == signal.SIGUSR2
    assert history.interrupted
    assert trainer.step == 4  # the step was completed
    assert list(list_checkpoints(tmp_path / "networks").values())[-1]["step"] == 4
    load_checkpoint(tmp_path)


def test_patience_notes_it_and_raises_nothing(capfd):
    with BatchSignals(), Interrupt(patient=True) as interrupt:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert interrupt.waiting


FORKED = """
import os, signal, sys, time
from physgym.interrupt import BatchSignals
with BatchSignals():
    for number, want in ((signal.SIGUSR1, 0), (signal.SIGTERM, -signal.SIGTERM)):
        end, begin = os.pipe()
        if (pid := os.fork()) == 0:
            os.write(begin, b"x")
            time.sleep(1 if want == 0 else 30)
            os._exit(0)
        os.read(end, 1)
        os.kill(pid, number)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == want
    print("forked", flush=True)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
    except KeyboardInterrupt:
        print("told", flush=True)
    time.sleep(30)
"""


@pytest.mark.slow
def test_forked_children_end_as_ever_and_term_again_ends_at_once():
    with subprocess.Popen(
        [sys.executable, "-c", FORKED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as p:
        assert p.stdout.readline() == "forked\n"
        assert p.stdout.readline() == "told\n"
        time.sleep(interrupts.INSISTING + 0.2)
        p.terminate()
        assert p.wait(30) == -signal.SIGTERM


def test_announcements_are_for_the_parent_alone():
    code = """
        import os, signal, subprocess, sys
        from physgym.interrupt import outlive_announcements
        outlive_announcements()
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU):
            os.kill(os.getpid(), number)
        # what a simulation starts is not to ignore them
        print(subprocess.run(["grep", "SigIgn", "/proc/self/status"], capture_output=True, text=True).stdout)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    ignored = int(done.stdout.split()[-1], 16)
    assert not any(ignored >> (number - 1) & 1 for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU))
