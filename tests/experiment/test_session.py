"""Session folders and their records: what is written, when, and what a reader makes of it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

import physgym
from physgym.code.record import recorded_code
from physgym.data.writer import SampleWriter
from physgym.errors import ChangedCode, ConfigError
from physgym.experiment import provenance, session
from physgym.experiment.provenance import Origin, dataset_hash, import_folders
from physgym.experiment.record import read_config, read_record, state
from physgym.experiment.references import SAMPLES, weights_digest
from physgym.experiment.report_text import record_text
from physgym.experiment.repository import find_repository
from physgym.experiment.run import Run
from physgym.experiment.session import new_session
from physgym.formats.archive import archive
from physgym.nn import Predictor
from physgym.sample import Field, SampleSpec
from physgym.training import save_checkpoint
from tests.support.repositories import git

CONFIGURATION = {
    "session": "s",
    "seed": 7,
    "description": "to see",
    "arguments": {"a": 1e-3, "b": "1e-3", "c": math.inf},
}


def info(folder):
    return (folder / "info.txt").read_text()


# --- folders


def test_a_taken_name_gets_a_suffix_and_it_is_said(tmp_path, capsys):
    assert new_session(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert capsys.readouterr().err == ""
    assert new_session(tmp_path / "a" / "b") == tmp_path / "a" / "b-2"
    assert f"{tmp_path}/a/b is taken; this session is {tmp_path}/a/b-2" in capsys.readouterr().err
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="a file of this name exists"):
        new_session(tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot make the session folder"):
        new_session(tmp_path / "file" / "below")


@pytest.mark.parametrize("path", ["", ".", "/", "..", "a/..", "a\0b", Path()])
def test_a_session_needs_a_name(tmp_path, monkeypatch, path):
    (tmp_path / "current").mkdir()
    monkeypatch.chdir(tmp_path / "current")
    with pytest.raises(ConfigError, match="write a path that ends in a name, such as sessions/mine"):
        new_session(path)
    assert [entry.name for entry in tmp_path.rglob("*")] == ["current"]


def test_sessions_started_together_get_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda _: new_session(tmp_path / "s"), range(40)))
    assert len(set(folders)) == 40
    assert {folder.name for folder in folders} == {"s", *(f"s-{number}" for number in range(2, 41))}


def test_sessions_do_not_make_a_repository_dirty(repository):
    with Run(new_session(repository / "sessions" / "one"), "train", CONFIGURATION):
        assert not find_repository(repository).dirty
    assert not find_repository(repository).dirty
    commit_count = git(repository, "rev-list", "--count", "HEAD")
    git(repository, "add", "-A")
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "rev-list", "--count", "HEAD") == commit_count


# --- the record


def test_a_record_stands_before_the_first_step_and_is_completed(repository, monkeypatch):
    monkeypatch.chdir(repository)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/physgym", "train", "a file.yaml", "seed=7"])
    folder = new_session("sessions/one")
    with Run(folder, "train", CONFIGURATION, Origin.here("a file.yaml", {"overrides": ["seed=7"]})) as run:
        assert read_config(folder) == CONFIGURATION
        run.note_device("cpu")
        before = read_record(folder)
        assert state(folder) == "running"
        assert "outcome: running, or killed" in info(folder)
        run.results |= {"loss": np.float32(0.5), "epoch": 3, "validation_loss": math.nan}
    assert before["runs"][0]["device"] == "cpu"
    record = read_record(folder)
    assert (record["session"], record["description"], record["seed"]) == ("one", "to see", 7)
    (done,) = record["runs"]
    assert before["runs"] == [{**done, "end": None, "outcome": None, "results": {}}]
    assert done["command"] == ["physgym", "train", "a file.yaml", "seed=7"]
    assert (done["kind"], done["config_file"], done["edits"]) == ("train", "a file.yaml", {"overrides": ["seed=7"]})
    assert (done["folder"], done["pid"], done["patch"]) == (str(repository), os.getpid(), None)
    assert done["git"]["commit"] == git(repository, "rev-parse", "HEAD")
    assert (done["git"]["branch"], done["git"]["dirty"], done["git"]["folder"]) == ("main", False, ".")
    assert done["packages"]["torch"].split("+")[0] == physgym_torch_version()
    assert done["python"] == ".".join(map(str, sys.version_info[:3]))
    assert done["hardware"]["cores"] >= 1
    assert done["hardware"]["memory"] > 1e8
    assert done["environment"]["OMP_NUM_THREADS"] == "3"
    assert done["physgym"]["version"] == physgym.__version__
    assert done["results"] == {"loss": 0.5, "epoch": 3, "validation_loss": "nan"}
    assert done["outcome"] == state(folder) == "completed"
    assert before["runs"][0]["start"] == done["start"] < done["end"]
    text = info(folder)
    lines = ["physgym session one: train", "to see", "outcome: completed", "seed:    7", "loss: 0.5"]
    lines.append("command: physgym train 'a file.yaml' seed=7")
    lines.append(f"code:    commit {done['git']['commit'][:12]} on main")
    for line in lines:
        assert line in text.splitlines()
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]


def physgym_torch_version():
    import torch

    return torch.__version__.split("+")[0]


def test_changes_are_kept_with_the_session(repository, monkeypatch):
    monkeypatch.chdir(repository)
    (repository / "new.py").write_text("x = 1\n")
    folder = new_session("sessions/one")
    with Run(folder, "train", CONFIGURATION, Origin.here(save_diff=True)):
        pass
    (repository / "README").unlink()
    with Run(folder, "train", CONFIGURATION, Origin.here(save_diff=True)):
        pass
    with Run(folder, "train", CONFIGURATION, Origin.here()):
        pass
    runs = read_record(folder)["runs"]
    assert [run["patch"] for run in runs] == ["changes-1.patch", "changes-2.patch", None]
    assert [run["git"]["changed"] for run in runs] == [[], ["README"], ["README"]]
    assert all(run["git"]["untracked"] == ["new.py"] for run in runs)
    assert b"+x = 1" in (folder / "changes-1.patch").read_bytes()
    assert b"README" not in (folder / "changes-1.patch").read_bytes()
    assert b"README" in (folder / "changes-2.patch").read_bytes()
    assert "with changes that are not kept" in info(folder)
    assert "3 runs" in info(folder)


def ended_by(folder, error, outcome="completed", before=lambda: None):
    with Run(folder, "train", CONFIGURATION) as run:
        run.outcome = outcome
        before()
        if error is not None:
            raise error


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (RuntimeError("no licence"), "RuntimeError: no licence"),
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(3), "SystemExit: 3"),
    ],
    ids=str,
)
def test_the_outcome_of_what_fails_is_recorded(tmp_path, error, outcome):
    (tmp_path / "stats").mkdir()
    (tmp_path / "stats" / "curve").touch()  # else a run that was interrupted leaves nothing
    with pytest.raises(type(error)):
        ended_by(tmp_path, error)
    assert state(tmp_path) == outcome
    assert f"outcome: {outcome}" in info(tmp_path)


def test_the_outcome_can_be_set(tmp_path):
    with Run(tmp_path, "train", CONFIGURATION) as run:
        run.outcome = "stopped: long enough"
    assert state(tmp_path) == "stopped: long enough"
    with pytest.raises(KeyboardInterrupt):
        ended_by(tmp_path, KeyboardInterrupt(), outcome="interrupted before the training")
    assert state(tmp_path) == "interrupted before the training"
    assert len(read_record(tmp_path)["runs"]) == 2


def test_only_one_works_in_a_session(tmp_path):
    with Run(tmp_path, "train", CONFIGURATION):
        with pytest.raises(ConfigError, match="another process works in"):
            Run(tmp_path, "train", CONFIGURATION)
        assert len(read_record(tmp_path)["runs"]) == 1
    with Run(tmp_path, "train", CONFIGURATION):
        pass
    with pytest.raises(ConfigError, match="no such folder"):
        Run(tmp_path / "none", "train", CONFIGURATION)


def test_who_looks_is_not_in_the_way(tmp_path, monkeypatch):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == session.ATTEMPTS - 1:
            os.close(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(session, "time", SimpleNamespace(sleep=wait))
        run = Run(tmp_path, "train", CONFIGURATION)
    with run:
        assert len(waits) == session.ATTEMPTS - 1
        assert sum(waits) >= 0.2


TERMINATED = """
import os, signal, sys, time
from pathlib import Path
from physgym.experiment.run import Run
end, begin = os.pipe()
with Run(Path(sys.argv[1]), "train", {}) as run:
    if (pid := os.fork()) == 0:
        os.write(begin, b"x")
        time.sleep(30)
        os._exit(0)
    os.read(end, 1)
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
    try:
        print("ready", flush=True)
        time.sleep(30)
    finally:
        run.results["loss"] = 0.5
        if sys.argv[2] == "twice":
            print("once", flush=True)
            time.sleep(30)
"""


@pytest.mark.slow
@pytest.mark.parametrize("times", ["once", "twice"])
def test_the_end_of_a_job_is_recorded(tmp_path, times):
    command = [sys.executable, "-c", TERMINATED, tmp_path, times]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in ("ready", "once")[: 1 + (times == "twice")]:
            assert process.stdout.readline().strip() == line
            process.terminate()
        assert process.wait(timeout=60) == (-signal.SIGTERM if times == "twice" else 128 + signal.SIGTERM)
    run = read_record(tmp_path)["runs"][0]
    assert (run["outcome"], run["results"]) == ((None, {}) if times == "twice" else ("terminated", {"loss": 0.5}))
    assert state(tmp_path) == ("died" if times == "twice" else "terminated")


def test_signals_are_as_before_afterwards(tmp_path):
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with Run(tmp_path, "train", CONFIGURATION):
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    mine = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with Run(tmp_path, "train", CONFIGURATION):
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    assert signal.signal(signal.SIGTERM, mine) is signal.SIG_IGN
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: Run(tmp_path, "train", CONFIGURATION).__enter__().__exit__(None, None, None)).result()


KILLED = """
import os, signal, sys
from pathlib import Path
from physgym.experiment.run import Run
with Run(Path(sys.argv[1]), "train", {}) as run:
    if (pid := os.fork()) == 0:  # does not hold the session when its parent is gone
        import time
        time.sleep(30)
        os._exit(0)
    print(pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_killed_run_died(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    child = int(process.stdout.readline())
    try:
        assert state(tmp_path) == "running"
        process.kill()
        process.wait(timeout=60)
        assert state(tmp_path) == "died"
        with Run(tmp_path, "train", CONFIGURATION):
            pass
        assert [run["outcome"] for run in read_record(tmp_path)["runs"]] == [None, "completed"]
        text = record_text(read_record(tmp_path), state(tmp_path), details=True)
        assert "run 1 of 2: died" in text
        assert "run 2 of 2: completed" in text
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdin.close()
        process.stdout.close()


def test_an_end_between_two_looks_is_no_death(tmp_path, monkeypatch):
    with Run(tmp_path, "train", CONFIGURATION):
        pass
    ended = (tmp_path / "record.json").read_text()
    unfinished = json.loads(ended)
    unfinished["runs"][0]["outcome"] = None
    (tmp_path / "record.json").write_text(json.dumps(unfinished))

    def end(folder):
        (tmp_path / "record.json").write_text(ended)
        return False

    monkeypatch.setattr("physgym.experiment.record.is_locked", end)
    assert state(tmp_path) == "completed"


# --- a session that is resumed


OTHERS = {**CONFIGURATION, "seed": 8, "description": "otherwise"}


def test_a_resume_that_is_refused_leaves_the_session_as_it_was(tmp_path):
    with Run(tmp_path, "train", CONFIGURATION):
        pass
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(files) >= 3
    origin = Origin(("physgym", "resume"), "/", None, {"overrides": ["seed=8"]}, patch=b"patch")

    def fail(*, accepted):
        with Run(tmp_path, "train", OTHERS, origin) as run:
            assert len(read_record(tmp_path)["runs"]) == 2
            if accepted:
                run.accepted()
            raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        fail(accepted=False)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    with pytest.raises(ConfigError, match="no"):
        fail(accepted=True)
    assert [run["outcome"] for run in read_record(tmp_path)["runs"]] == ["completed", "ConfigError: no"]


def test_a_resume_on_other_samples_in_the_same_place_is_refused(tmp_path):
    spec = SampleSpec([Field("x", (2,), np.dtype("f4"), "input")])

    def samples(value, count=4):
        shutil.rmtree(tmp_path / "d", ignore_errors=True)
        with SampleWriter(tmp_path / "d", spec) as writer:
            names = {"episode": np.arange(count), "step": np.zeros(count, int), "seed": np.zeros(count, "u8")}
            writer.append({"x": np.full((count, 2), value, "f4")}, **names)
        return physgym.SampleDataset(tmp_path / "d")

    def run(dataset, kind="train"):
        with Run(tmp_path / "s", kind, CONFIGURATION) as run:
            run.describe_dataset(dataset)

    (tmp_path / "s").mkdir()
    run(samples(1.0))
    before = (tmp_path / "s" / "record.json").read_bytes()
    with pytest.raises(ConfigError, match=r"the 4 samples in .*d \(dataset\) are not those with which"):
        run(samples(2.0))
    assert (tmp_path / "s" / "record.json").read_bytes() == before
    run(samples(1.0))
    before = (tmp_path / "s" / "record.json").read_bytes()
    with pytest.raises(ConfigError, match=r"d \(dataset\) has grown .* from 4 samples to 6\. .* dataset\.mini=4"):
        run(samples(1.0, 6))
    assert (tmp_path / "s" / "record.json").read_bytes() == before
    run(physgym.SampleDataset(tmp_path / "d", mini=4))  # which are those of before
    samples(2.0, 6)
    with pytest.raises(ConfigError, match=r"the 4 samples in .*d \(dataset\) are not those with which"):
        run(physgym.SampleDataset(tmp_path / "d", mini=4))
    run(samples(2.0), "run")  # no training


def test_more_samples_to_validate_are_said_when_a_training_is_resumed(tmp_path, capsys):
    spec = SampleSpec([Field("x", (2,), np.dtype("f4"), "input")])
    (tmp_path / "s").mkdir()
    for begin, end in ((0, 4), (4, 6)):
        with SampleWriter(tmp_path / "d", spec, resume=True) as writer:
            count = end - begin
            names = {"episode": np.arange(begin, end), "step": np.zeros(count, int), "seed": np.zeros(count, "u8")}
            writer.append({"x": np.zeros((count, 2), "f4")}, **names)
        with Run(tmp_path / "s", "train", CONFIGURATION) as run:
            run.describe_dataset(physgym.SampleDataset(tmp_path / "d"), "validation")
    said = capsys.readouterr().err
    assert said.count("has grown") == 1
    assert "(validation) has grown since this session began, from 4 samples; all 6 are taken from now on" in said


def test_a_resume_that_is_accepted_changes_the_configuration(tmp_path, monkeypatch):
    with Run(tmp_path, "train", CONFIGURATION) as run:
        before = (tmp_path / "config.yaml").stat().st_mtime_ns
        run.accepted()
        assert (tmp_path / "config.yaml").stat().st_mtime_ns == before
    run = Run(tmp_path, "train", OTHERS)
    assert read_config(tmp_path) == CONFIGURATION
    with monkeypatch.context() as patch:
        fill_disk(patch)
        with pytest.raises(ConfigError, match=r"cannot write .*config\.yaml: No space left"):
            run.accepted()
    assert read_config(tmp_path) == CONFIGURATION
    run.accepted()
    assert read_config(tmp_path) == OTHERS
    assert (read_record(tmp_path)["seed"], read_record(tmp_path)["description"]) == (8, "otherwise")
    run.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert (read_config(tmp_path), state(tmp_path)) == (OTHERS, "interrupted")
    with Run(tmp_path, "train", CONFIGURATION):
        assert read_config(tmp_path) == OTHERS
    assert read_config(tmp_path) == CONFIGURATION  # what was completed was accepted
    assert read_record(tmp_path)["seed"] == 7


def test_a_simulation_that_cannot_be_imported_opens_no_door_for_another_one(tmp_path, monkeypatch):
    folder = tmp_path / "session"
    folder.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    config = {**CONFIGURATION, "environment": {"id": "gone_physics:Sim"}}
    text = "import gymnasium\nclass Sim(gymnasium.Env):\n    gain = {}\n"

    def run(body, *, allow=False):
        (tmp_path / "gone_physics.py").write_text(body)
        sys.modules.pop("gone_physics", None)
        importlib.invalidate_caches()
        origin = Origin(("physgym", "resume"), "/", None, {}, allow_changed_code=allow)
        try:
            with Run(folder, "train", config, origin):
                pass
            return [str((run["code"] or {}).get("hash")) for run in read_record(folder)["runs"]]
        finally:
            sys.modules.pop("gone_physics", None)

    (first,) = run(text.format(1))
    with pytest.raises(ChangedCode, match=r"unknown \(importing 'gone_physics' .* failed: ImportError: no"):
        run("raise ImportError('no')")
    assert run("raise ImportError('no')", allow=True) == [first, "unknown"]
    with pytest.raises(ChangedCode, match="module gone_physics has changed"):
        run(text.format(2))
    assert recorded_code(folder)["hash"] == first
    assert run(text.format(1)) == [first, "unknown", first]
    assert run(text.format(2), allow=True)[:3] == [first, "unknown", first]
    with pytest.raises(ChangedCode, match="module gone_physics has changed"):
        run(text.format(1))


# --- configurations as text


DATA = {
    "texts": ["1e3", "1", "null", "yes", "2020-01-01", "", " a", "é\n\u2028\x85", "b\udce9", "~", "a: b", "0x1", "1_0"],
    "numbers": [1e3, 1, -0.0, math.inf, 1e-300, 2**70, True, None],
    "of NumPy": [np.float32(0.5), np.int8(3), np.bool_(True), np.str_("7"), (1, 2)],
    "1": {"deep": [{"er": []}, {}]},
}


def test_a_configuration_is_read_as_it_was_written(tmp_path):
    with Run(tmp_path, "train", DATA):
        found = read_config(tmp_path)
    assert found == {**DATA, "of NumPy": [0.5, 3, True, "7", [1, 2]]}
    for name in ("texts", "numbers"):
        assert list(map(type, found[name])) == list(map(type, DATA[name]))
    assert list(map(type, found["of NumPy"])) == [float, int, bool, str, list]


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"a": {3: 1}}, "a: the key 3, which is no text, cannot be kept .* put it in quotes"),
        ({None: 1}, "the configuration: the key None"),
        ({"a": {"b": [0, date(2020, 1, 1)]}}, r"a\.b\.1: datetime\.date\(2020, 1, 1\), which is of the type date"),
        ({"a": b"x"}, "a: b'x'"),
        ({"a": {1, 2}}, "a: {1, 2}"),
        ({"a": Path("x")}, "a: PosixPath"),
        ({"a": np.zeros(3)}, "a: array"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(tmp_path, value, key):
    with pytest.raises(ConfigError, match=key):
        Run(tmp_path, "train", value)
    assert list(tmp_path.iterdir()) == []
    with Run(tmp_path, "train", {}):  # it let go of the folder
        pass


NOT_UTF_8 = """
import locale, sys
from pathlib import Path
from physgym.experiment.record import read_config, read_record
from physgym.experiment.report_text import record_text
from physgym.experiment.run import Run
assert locale.getencoding().lower() not in ("utf-8", "utf8"), locale.getencoding()
folder = Path(sys.argv[1])
with Run(folder, "train", {"description": "Gr\\xf6\\xdfe"}):
    assert read_config(folder) == {"description": "Gr\\xf6\\xdfe"}
    assert "Gr\\xf6\\xdfe" in record_text(read_record(folder), "")
"""


@pytest.mark.slow
def test_files_are_utf_8_whatever_the_locale(tmp_path):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    subprocess.run([sys.executable, "-c", NOT_UTF_8, tmp_path], env=environment, check=True, timeout=100)
    for name in ("config.yaml", "info.txt", "record.json"):
        assert "Größe" in (tmp_path / name).read_text(encoding="utf-8")


# --- disks and damage


def fill_disk(monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(session.os, "fsync", fsync)


def test_a_full_disk_at_the_beginning(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        fill_disk(patch)
        with pytest.raises(ConfigError, match=r"cannot write .*record\.json: No space left"):
            Run(tmp_path, "train", CONFIGURATION)
        with pytest.raises(ConfigError, match=r"cannot make the session folder .*: No space left"):
            new_session(tmp_path / "s")
    assert not list(tmp_path.glob("*.tmp"))
    with Run(tmp_path, "train", CONFIGURATION):  # it let go of the folder
        pass


def test_a_full_disk_at_the_end_hides_nothing(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="the true reason"):
        ended_by(tmp_path, RuntimeError("the true reason"), before=lambda: fill_disk(patch))
    assert "cannot write" in capsys.readouterr().err
    assert read_record(tmp_path)["runs"][-1]["outcome"] is None
    with monkeypatch.context() as patch, pytest.raises(ConfigError, match=r"No space left.* itself ended: completed"):
        ended_by(tmp_path, None, before=lambda: fill_disk(patch))
    assert not list(tmp_path.glob(".*.tmp"))
    assert state(tmp_path) == "died"  # nobody knows better


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is damaged: "),
        ("[" * 100_000, "is damaged: "),
        ("\x00\xff", "is damaged: "),
        ("[]", "is damaged: it: "),
        ('{"format": 2}', "has the format 2; this version of physgym reads 1"),
        ('{"format": 1, "session": "a"}', "is damaged: description: Field required"),
        ('{"format": 1, "session": "a", "description": "", "seed": 0, "runs": []}', "it has no run"),
        ('{"format": 1, "session": "a", "description": "", "seed": 0, "runs": [7]}', r"is damaged: runs\.0: "),
    ],
)
def test_a_damaged_record_is_named(tmp_path, text, message):
    (tmp_path / "record.json").write_text(text, encoding="latin-1")
    for use in (read_record, state, lambda folder: Run(folder, "train", {})):
        with pytest.raises(ConfigError, match=message) as raised:
            use(tmp_path)
        assert str(tmp_path / "record.json") in str(raised.value)
    assert (tmp_path / "record.json").read_text(encoding="latin-1") == text


def test_any_byte_of_a_record_may_be_wrong(tmp_path):
    with Run(tmp_path, "train", CONFIGURATION):
        pass
    good = (tmp_path / "record.json").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        bad = bytearray(good)
        bad[rng.integers(len(bad))] = rng.integers(256)
        (tmp_path / "record.json").write_bytes(bytes(bad[: rng.integers(len(bad))] if rng.random() < 0.3 else bad))
        with contextlib.suppress(ConfigError):
            record_text(read_record(tmp_path), state(tmp_path), details=True)


def test_a_folder_that_is_no_session_is_named(tmp_path):
    for read in (read_record, read_config):
        with pytest.raises(ConfigError, match=rf"{tmp_path} is not a session: "):
            read(tmp_path)


def test_names_that_are_no_text_are_recorded(repository, monkeypatch):
    monkeypatch.chdir(repository)
    Path(os.fsdecode(b"b\xe9ton.py")).touch()
    with Run(new_session("s"), "train", CONFIGURATION):
        pass
    assert read_record(Path("s"))["runs"][0]["git"]["untracked"] == ["b\\xe9ton.py"]


# --- where it comes from


def test_folders_of_modules_below_the_root(tmp_path, monkeypatch):
    for name in ("lib", "venv/lib/site-packages", "project/src"):
        (tmp_path / name).mkdir(parents=True)
    entries = ["lib", str(tmp_path / "venv" / "lib" / "site-packages"), str(tmp_path), "/", str(tmp_path / "none")]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", entries)
    monkeypatch.setattr(provenance, "_distributions", lambda: ({}, [tmp_path / "project", Path("/elsewhere")]))
    assert import_folders(tmp_path) == ["lib", ".", "project/src", "project"]


def test_graphics_processors_are_named_without_cuda(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "DRIVER", tmp_path / "driver")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance._gpus() == []
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Some GPU'\necho 'Another GPU'\n")
    program.chmod(0o755)
    assert provenance._gpus() == ["Some GPU", "Another GPU"]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert provenance._gpus() == []
    for name in ("0000:02", "0000:01"):
        (tmp_path / "driver" / "gpus" / name).mkdir(parents=True)
        (tmp_path / "driver" / "gpus" / name / "information").write_text(f"Model: \t GPU {name}\nIRQ: 1\n")
    assert provenance._gpus() == ["GPU 0000:01", "GPU 0000:02"]


def test_a_deleted_folder_is_named(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert find_repository() is None
    with pytest.raises(ConfigError, match="the current folder was deleted"):
        Origin.here()


def test_the_last_weights_are_recorded_wherever_they_are(tmp_path):
    spec = SampleSpec([Field("x", (1,), np.dtype("f4"), "input"), Field("y", (1,), np.dtype("f4"), "target")])
    predictor = Predictor(nn.Linear(1, 1), spec)
    for folder in (tmp_path / "networks", tmp_path / "kept"):
        for epoch in (1, 2):
            nn.init.constant_(predictor.network.weight, epoch + len(folder.name))
            save_checkpoint(folder / f"epoch-{epoch}", predictor, epoch=epoch, step=epoch)
    found = {}
    for path in (None, str(tmp_path / "kept"), str(tmp_path / "none")):
        with Run(tmp_path, "train", {"training": {"checkpoints": {"path": path}}}):
            pass
        found[path] = read_record(tmp_path)["runs"][-1]["weights"]
    assert list(found.values()) == [weights_digest(tmp_path), weights_digest(tmp_path / "kept"), None]
    (tmp_path / "networks" / "epoch-2" / "manifest.json").write_text("{")
    with Run(tmp_path, "train", {}):
        pass
    assert read_record(tmp_path)["runs"][-1]["weights"] is None


# --- samples


def spring(folder, **options):
    options = {"samples": 300, "num_workers": 1, "seed": 3, "progress": False} | options
    return physgym.generate("physgym/Spring-v0", folder, **options)


@pytest.mark.slow
def test_the_hash_of_a_dataset_is_that_of_its_samples(tmp_path):
    dataset = spring(tmp_path / "a")
    found = dataset_hash(dataset)
    (tmp_path / "moved").mkdir()
    (tmp_path / "a").rename(tmp_path / "moved" / "b")
    moved = tmp_path / "moved" / "b"
    assert dataset_hash(physgym.SampleDataset(moved)) == found
    assert dataset_hash(spring(tmp_path / "again", num_envs=3)) == found
    assert dataset_hash(spring(tmp_path / "other", seed=4)) != found
    assert dataset_hash(spring(tmp_path / "other", samples=301, resume=True, seed=4)) != found
    archive(moved, tmp_path / "packed", compression="gzip")
    assert dataset_hash(physgym.SampleDataset(tmp_path / "packed")) == found
    few = dataset_hash(physgym.SampleDataset(moved, mini=100))
    assert few != found
    assert dataset_hash(physgym.SampleDataset(moved).subset(np.arange(100))) == few
    assert dataset_hash(physgym.SampleDataset(moved, mini=1000)) == found


@pytest.mark.slow
def test_a_dataset_is_described_with_its_run(tmp_path):
    spring(tmp_path / "data", samples=100)
    folder = new_session(tmp_path / "s")
    with Run(folder, "train", {"dataset": {"path": str(tmp_path / "data")}}) as run:
        run.describe_dataset(physgym.SampleDataset(tmp_path / "data"))
        first = read_record(folder)["runs"][0]["dataset"]
        assert (first["path"], first["samples"]) == (str(tmp_path / "data"), 100)
        run.describe_dataset(spring(tmp_path / "data", samples=150, resume=True))
    last = read_record(folder)["runs"][0]["dataset"]
    assert last["samples"] == 150
    assert last["hash"] != first["hash"]
    assert f"dataset: 150 samples in {tmp_path}/data, sha256 {last['hash'][:16]}" in info(folder)


@pytest.mark.slow
def test_all_samples_of_a_run_are_described(tmp_path):
    config = {"dataset": {"load_samples": "loaded"}, "validation": {"path": "s3://bucket/x"}}
    data = {what: spring(tmp_path / what, samples=20, seed=seed) for seed, what in enumerate(SAMPLES)}
    folder = new_session(tmp_path / "s")
    with Run(folder, "train", config) as run:
        for what, dataset in data.items():
            run.describe_dataset(dataset, what)
            run.describe_dataset(dataset, what=what)
    found = read_record(folder)["runs"][0]
    assert found["dataset"]["hash"] == dataset_hash(data["dataset"])
    paths = {"validation": "s3://bucket/x", "load_samples": "loaded", "cache": str(tmp_path / "cache")}
    assert all("physgym.envs.spring" in notes.pop("code")["modules"] for notes in found["others"].values())
    assert found["others"] == {
        what: {"path": path, "samples": 20, "hash": dataset_hash(data[what])} for what, path in paths.items()
    }
    text = record_text(read_record(folder), "", details=True)
    assert f"validation: s3://bucket/x, sha256 {found['others']['validation']['hash']}" in text


def test_an_open_partition_is_read(tmp_path):
    with SampleWriter(tmp_path, SampleSpec([Field("x", (3,), np.dtype("f4"), "input")])) as writer:
        name = {key: np.arange(5) for key in ("episode", "step")}
        writer.append({"x": np.ones((5, 3), np.float32)}, seed=np.zeros(5, np.uint64), **name)
        writer.commit()
        dataset = physgym.SampleDataset(tmp_path)
        assert not dataset.partitions[0].sealed
        found = dataset_hash(dataset)
    assert physgym.SampleDataset(tmp_path).partitions[0].sealed
    assert dataset_hash(physgym.SampleDataset(tmp_path)) == found


def test_a_full_disk_leaves_no_folder_that_takes_the_name(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        fill_disk(patch)
        with pytest.raises(ConfigError, match=r"cannot make the session folder .*No space left"):
            new_session(tmp_path / "mine")
    assert new_session(tmp_path / "mine").name == "mine"


def test_what_others_wrote_does_not_steer_a_terminal(tmp_path):
    with Run(tmp_path, "train", {**CONFIGURATION, "description": "\x1b[31mrød\x07"}):
        pass
    told = record_text(read_record(tmp_path), "completed", details=True)
    assert "\\x1b[31mrød\\x07" in told
    assert "\x1b" not in told
