"""Ctrl-C to the commands: once, and what they say continues to the result of a run that nobody disturbed; twice, and
they end at once with everything readable.

The commands are interrupted where simulation or training wait for a file, so that it is known what they are doing.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import psutil
import pytest
import yaml

import tests
from physgym import SampleDataset
from physgym.cli import app
from physgym.cli.app import again
from physgym.errors import DatasetError
from physgym.experiment.record import read_config, read_record
from physgym.formats.numpy_arrays import import_numpy
from physgym.generation.stream import SampleStream
from physgym.interrupt import Interrupt
from physgym.nn import MLP
from physgym.progress import Progress
from physgym.runner import SaveFrames
from physgym.training import Callback, Trainer, list_checkpoints
from physgym.vector import closing
from tests.support.commands import Command, run_command
from tests.support.killing import assert_same_files
from tests.support.memory_samples import MemorySource, linear_samples
from tests.support.repositories import ignoring
from tests.support.toys import Gated, Line, wait_at_gate

pytestmark = pytest.mark.alone

MARK = "PHYSGYM_INTERRUPTED"  # environment variable by which processes that outlive their parent are found
PATIENCE = 60.0  # seconds, of a machine that others use too
AT_ONCE = 10.0  # seconds for what takes one, with which a busy machine ends Python
INTERRUPTED = (130, -signal.SIGINT)  # the latter where the second one comes when Python has ended already


class Gate(Callback):
    """Waits at a place of the training."""

    def __init__(self, at=5, event="batch_begin", folder="."):
        self.at, self.event, self.folder = at, event, folder

    def batch_begin(self, trainer, batch):
        if self.event == "batch_begin" and trainer.step == self.at:
            wait_at_gate(self.folder)

    def train_end(self, trainer, history):
        if self.event == "train_end":
            wait_at_gate(self.folder)


@pytest.fixture
def folder(tmp_path, monkeypatch, identity):
    """A folder for commands that are interrupted, in a repository in which nothing is ever a change."""
    ignoring(tmp_path)
    disturbed = tmp_path / "disturbed"
    disturbed.mkdir()
    monkeypatch.chdir(disturbed)
    monkeypatch.setenv("PYTHONPATH", str(Path(next(iter(tests.__path__))).parent))
    monkeypatch.setenv(MARK, secrets.token_hex())
    return disturbed


@contextlib.contextmanager
def undisturbed(folder):
    """The same, for a run that nobody disturbs."""
    other = folder.parent / "undisturbed"
    other.mkdir(exist_ok=True)
    with contextlib.chdir(other):
        yield other


def physgym(*arguments):
    assert not Path("armed").exists()
    assert not app([str(argument) for argument in arguments], standalone_mode=False)


def interrupt(*arguments, times=1, finish=False, number=signal.SIGINT):
    """Run a command up to the gate and press Ctrl-C; returns what it printed.

    Args:
        arguments: Of the command.
        times: How often, with a short pause.
        finish: Let what waits at the gate go on after the first one.
        number: Another signal, which goes to all processes of the command, as a batch system sends it.
    """
    for name in ("waiting", "go"):
        Path(name).unlink(missing_ok=True)
    Path("armed").touch()
    # its environment tells what is left behind, which a fork does not change
    process = Command(Path.cwd(), *arguments, files=[Path("log")] * 2, fresh_workers=True)
    try:
        until(lambda: Path("waiting").exists() or process.poll() is not None)
        assert process.poll() is None, Path("log").read_text()
        begin = time.monotonic()
        for time_ in range(times):
            time.sleep(0.2 * time_)  # two at the same instant are one
            if number != signal.SIGINT:
                for worker in psutil.Process(process.pid).children(recursive=True):
                    worker.send_signal(number)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        if finish:
            Path("go").touch()
        code = process.wait(PATIENCE)
        seconds = time.monotonic() - begin
    finally:
        process.kill()
    text = Path("log").read_text()
    assert code in (INTERRUPTED[:times] if number == signal.SIGINT else (128 + number,)), text
    assert seconds < AT_ONCE or number != signal.SIGINT, text
    assert "Traceback" not in text
    assert "\r" not in text
    until(lambda: not left_behind())
    Path("armed").unlink()
    return text


def until(happened):
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def left_behind() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == os.environ[MARK]:
                found.append(process)
    return found


def said(text) -> list[str]:
    """Arguments of the command that continues, as was said."""
    return shlex.split(re.search(r"[Cc]ontinue with: physgym (.*)$", text, re.MULTILINE)[1])


def config(**changes) -> str:
    data = {
        "session": "sessions/line",
        "environment": {"id": "tests.support.toys:Gated"},
        "dataset": {"samples": 40, "num_workers": 1},
        "network": {"arguments": {"hidden": [8]}},
        "training": {"epochs": 3, "batch_size": 4, "batches_per_epoch": 4},
        **changes,
    }
    Path("line.yaml").write_text(yaml.safe_dump(data))
    return "line.yaml"


def weights(session="sessions/line"):
    run = read_record(Path(session))["runs"][-1]
    assert run["outcome"] == "completed"
    assert run["weights"]
    return run["weights"]


def readable(path, mode="training") -> int:
    """How many samples there are; all that is there can be read."""
    if not Path(path).exists():
        return 0
    try:
        dataset = SampleDataset(path, mode)
    except DatasetError as error:
        assert "no file such as" in str(error)  # noqa: PT017
        return 0
    assert len(dataset[:]["x"]) == len(dataset)
    return len(dataset)


GENERATE = ("generate", "tests.support.toys:Gated", "--samples", "40", "--workers", "1")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["a folder", "a session"])
def test_generate_once(folder, place):
    arguments = (*GENERATE, "--out", "data") if place == "a folder" else (*GENERATE, "session=sessions/line")
    data = Path("data") if place == "a folder" else Path("sessions/line/dataset")
    text = interrupt(*arguments)
    assert "interrupted; complete samples are in " in text
    assert re.search(r"^generate: \d+/40 in \d+ s", text, re.MULTILINE)
    assert 0 < readable(data) < 40
    physgym(*said(text))
    with undisturbed(folder):
        physgym(*arguments)
    assert_same_files(data, folder.parent / "undisturbed" / data)


@pytest.mark.slow
def test_generate_twice(folder):
    text = interrupt(*GENERATE, "--out", "data", times=2)
    assert readable("data") < 40
    physgym(*(said(text) if "ontinue with" in text else (*GENERATE, "--out", "data", "--resume")))
    with undisturbed(folder):
        physgym(*GENERATE, "--out", "data")
    assert_same_files(Path("data"), folder.parent / "undisturbed" / "data")


@pytest.mark.slow
@pytest.mark.parametrize("produce", ["before", "first_epoch", "always"])
def test_train_once_while_samples_are_made(folder, produce):
    changes = {
        "dataset": {"samples": 16, "num_workers": 1, "produce": produce},
        "validation": {"fraction": 0.0 if produce == "always" else 0.2},
        # no step is made beyond the samples that the training needs
        "environment": {"id": "tests.support.toys:Gated", "arguments": {"at": 10}},
    }
    text = interrupt("train", config(**changes))
    assert said(text) == ["resume", "sessions/line"]
    assert "interrupted" in read_record(Path("sessions/line"))["runs"][-1]["outcome"]
    physgym(*said(text))
    with undisturbed(folder):
        physgym("train", config(**changes))
        assert weights(folder / "sessions/line") == weights()


def gated(**arguments):
    """A training that waits, in place of its simulation."""
    callbacks = [{"type": "tests.cli.test_ctrl_c:Gate", "arguments": arguments}]
    training = {"epochs": 3, "batch_size": 4, "batches_per_epoch": 4, "callbacks": callbacks}
    return {"environment": {"id": "tests.support.toys:Line"}, "training": training}


@pytest.mark.slow
def test_train_and_resume_once(folder):
    text = interrupt("train", config(**gated(at=5)), finish=True)
    checkpoint = list(list_checkpoints("sessions/line/networks").values())[-1]
    assert checkpoint["step"] == 6  # the batch was finished
    assert said(text) == ["resume", "sessions/line"]
    again = Path("sessions/line/config.yaml")
    again.write_text(yaml.safe_dump(read_config(Path("sessions/line")) | gated(at=9)))
    text = interrupt(*said(text), finish=True)
    assert said(text) == ["resume", "sessions/line"]
    assert [run["outcome"] for run in read_record(Path("sessions/line"))["runs"]] == ["interrupted"] * 2
    physgym(*said(text))
    with undisturbed(folder):
        physgym("train", config(**gated()))
        assert weights(folder / "sessions/line") == weights()


@pytest.mark.slow
@pytest.mark.parametrize("event", ["batch_begin", "train_end"])
def test_train_twice(folder, event):
    """The second one comes in the middle of a step, or before the network is saved."""
    changes = gated(at=5, event=event)
    if event == "train_end":
        changes["training"]["callbacks"].append({"type": "tests.cli.test_ctrl_c:CtrlC"})
    text = interrupt("train", config(**changes), times=2 if event == "batch_begin" else 1)
    checkpoint = list(list_checkpoints("sessions/line/networks").values())[-1]
    assert checkpoint["step"] == 4  # of the first epoch: nothing of the second one was saved
    assert "interrupted before" not in text
    assert read_record(Path("sessions/line"))["runs"][-1]["outcome"].startswith("interrupted")
    physgym(*said(text))
    with undisturbed(folder):
        physgym("train", config(**gated()))
        assert weights(folder / "sessions/line") == weights()


class CtrlC(Callback):
    """The first one, in the middle of the second epoch."""

    def batch_end(self, trainer, values):
        if trainer.step == 6 and Path("armed").exists():
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_online_training_once_and_twice(folder):
    online = {"capacity": 32, "minimum": 8}
    changes = {
        "dataset": {"num_workers": 1, "produce": "online", "online": online},
        "validation": {"fraction": 0.0},
    }
    text = interrupt("train", config(**changes, **gated(at=5)), finish=True)
    assert readable("sessions/line/dataset") >= 8
    again = Path("sessions/line/config.yaml")
    again.write_text(yaml.safe_dump(read_config(Path("sessions/line")) | gated(at=9)))
    text = interrupt(*said(text), times=2)
    assert readable("sessions/line/dataset") >= 8
    physgym(*said(text))
    assert weights()


@pytest.fixture
def trained(folder):
    """A session whose network can be run, in both folders."""
    physgym("train", config(training={"epochs": 1}))
    with undisturbed(folder) as other:
        shutil.copytree(folder / "sessions", other / "sessions")


RUN = ("run", "sessions/line", "--record", "record", "--steps", "30")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [(), ("--workers", "1")])
def test_run_once(folder, trained, workers):
    text = interrupt(*RUN, *workers)
    done = readable("record", "prediction")
    assert 0 < done < 30
    assert f"{done} steps, 0 rejected" in text
    assert said(text) == [*RUN[:-2], *workers, "--resume", "--steps", str(30 - done)]
    physgym(*said(text))
    with undisturbed(folder) as other:
        physgym(*RUN)
    ours, theirs = (SampleDataset(place / "record", "prediction") for place in (folder, other))
    assert list(ours.spec) == list(theirs.spec)
    for name, value in theirs[:].items():
        assert (ours[:][name] == value).all(), name
    assert (ours.episodes == theirs.episodes).all()


@pytest.mark.slow
def test_run_twice(folder, trained):
    interrupt(*RUN, times=2)
    done = readable("record", "prediction")
    assert done < 30
    physgym(*RUN[:-2], "--resume", "--steps", 30 - done)
    assert readable("record", "prediction") == 30


class Lost:
    """Gets Ctrl-C where Python drops exceptions."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_that_python_drops_is_noted():
    with Interrupt() as interrupt:
        lost = Lost()
        del lost
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
        with pytest.raises(KeyboardInterrupt), interrupt.held():
            raise AssertionError("not reached")
    with Interrupt(patient=True) as interrupt:
        signal.raise_signal(signal.SIGINT)
        with interrupt.held():
            signal.raise_signal(signal.SIGINT)
        assert interrupt.waiting


class Dropping(Line):
    """Gets Ctrl-C, and then a fault, where Python drops exceptions."""

    def step(self, action):
        lost = Lost()
        del lost
        faulty = Faulty()
        del faulty
        return super().step(action)


class Faulty:
    """Has a fault where Python drops exceptions."""

    def __del__(self):
        raise ArithmeticError("of a user")


@pytest.mark.slow
def test_commands_print_no_ctrl_c_that_python_drops(folder):
    done = run_command(folder, "check", "tests.cli.test_ctrl_c:Dropping")
    assert "KeyboardInterrupt" not in done.stderr
    assert "ArithmeticError: of a user" in done.stderr


@pytest.mark.parametrize(
    ("typed", "more", "said"),
    [
        ("generate x --out d", "--resume", "generate x --out d --resume"),
        ("generate x --resume --out d", "--resume", "generate x --out d --resume"),
        ("run s --steps 9 --seed 3", "--resume --steps 4", "run s --seed 3 --resume --steps 4"),
        ("run s --steps=9 'a b'", "--resume --steps 4", "run s 'a b' --resume --steps 4"),
        ("run s", "--resume", "run s --resume"),
    ],
)
def test_the_command_to_continue_with(monkeypatch, typed, more, said):
    monkeypatch.setattr(sys, "argv", ["physgym", *shlex.split(typed)])
    assert again(*more.split()) == f"physgym {said}"


class Broken(Progress):
    """Gets Ctrl-C where something has been done."""

    def update(self, count=1, note=None):
        super().update(count, note)
        signal.raise_signal(signal.SIGINT)


def test_an_interrupted_import_leaves_nothing(folder, monkeypatch):
    x = {"x": np.arange(6.0)}
    import_numpy(x, "data", mode="validation")
    with monkeypatch.context() as patch:
        patch.setattr("physgym.formats.columns.Progress", Broken)
        for path in ("data", "new"):
            with pytest.raises(KeyboardInterrupt):
                import_numpy(x, path)
        with pytest.raises(DatasetError, match="already holds validation samples"):
            import_numpy(x, "data", mode="validation")
    assert not Path("new").exists()
    assert [file.name for file in sorted(Path("data").glob("*.h5"))] == ["validation-00000.h5"]
    assert len(SampleDataset("data", "validation")) == 6
    with pytest.raises(DatasetError):
        SampleDataset("data")
    assert len(import_numpy(x, "data")) == 6


def test_an_interrupted_export_says_what_goes_on_with_it(folder, monkeypatch, capsys):
    import_numpy({"x": np.arange(6.0)}, "data")
    command = ["export", "data", "--compress", "gzip", "--out", "copy"]
    with monkeypatch.context() as patch:
        patch.setattr("physgym.formats.archive.Progress", Broken)
        patch.setattr(sys, "argv", ["physgym", *command])
        assert app(command, standalone_mode=False) == 130
    text = capsys.readouterr().err
    assert said(text) == [*command, "--resume"]
    assert not list(Path("copy").iterdir())
    physgym(*said(text))
    assert len(SampleDataset("copy")) == 6


def test_other_commands_say_that_they_were_interrupted(folder, monkeypatch, capsys):
    import_numpy({"x": np.arange(6.0)}, "data")
    monkeypatch.setattr("physgym.data.opened_folders.Progress", Broken)
    assert app(["info", "data", "--verify"], standalone_mode=False) == 130
    assert capsys.readouterr().err.endswith("\ninterrupted\n")


@pytest.mark.parametrize("command", [["generate", "physgym/Spring-v0", "--out", "new"], ["train", "line.yaml"]])
def test_ctrl_c_while_a_command_loads_says_that_nothing_was_written(folder, monkeypatch, capsys, command):
    class Loading(ModuleType):
        def __getattr__(self, name):
            raise KeyboardInterrupt

    Path("line.yaml").write_text("environment: {id: physgym/Spring-v0}\n")
    monkeypatch.setitem(sys.modules, "physgym.experiment.runs", Loading("physgym.experiment.runs"))
    assert app([*command], standalone_mode=False) == 130
    text = capsys.readouterr().err
    assert "interrupted before anything was written; give the same command again" in text
    assert not Path("new").exists()
    assert not Path("sessions").exists()


@pytest.mark.slow
def test_an_interrupted_stream_does_not_wait_for_a_simulation(folder, monkeypatch):
    def press():
        until(Path("waiting").exists)
        os.kill(os.getpid(), signal.SIGINT)

    for name in ("CLOSE_TIMEOUT", "BUSY_TIMEOUT"):
        monkeypatch.setattr(closing, name, 100.0)
    Path("armed").touch()
    stream = SampleStream(Gated, num_workers=1)
    thread = threading.Thread(target=press)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            stream.draw(40)
        begin = time.monotonic()
        stream.hurry()
    finally:
        stream.close()
        thread.join()
    assert time.monotonic() - begin < 50  # by default it waits for a hundred


def test_a_trainer_hurries_its_source_only_after_ctrl_c():
    class Source(MemorySource):
        calls: ClassVar[list[str]] = []

        def hurry(self):
            self.calls.append("hurry")

        def close(self):
            self.calls.append("close")

    class Press(Callback):
        def batch_end(self, trainer, values):
            if trainer.step == 3:
                signal.raise_signal(signal.SIGINT)

    for callbacks, wanted in (([], ["close"]), ([Press()], ["hurry", "close"])):
        source = Source(linear_samples())
        options = {"source": source, "produce": "always", "batches_per_epoch": 2, "progress": False}
        Trainer(MLP.from_spec(source.spec, hidden=(4,)), epochs=2, callbacks=callbacks, **options).fit()
        assert Source.calls == wanted
        Source.calls.clear()


def test_pictures_of_a_run_that_goes_on_are_numbered_on(folder):
    class Env:
        render_mode = "rgb_array"

        def render(self):
            return np.zeros((4, 4, 3), np.uint8)

    class Run:
        stepping, env = True, Env()

    for resume, wanted in ((False, [0, 1]), (True, [0, 1, 2, 3]), (False, [0, 1, 2, 3])):
        frames = SaveFrames("frames", resume=resume)
        frames.prediction_begin(Run())
        frames.sample_end(Run(), {})
        frames.sample_end(Run(), {})
        assert [file.name for file in sorted(Path("frames").iterdir())] == [f"step-{n:05d}.png" for n in wanted]
