"""Workers that are renewed after so many episodes; the samples are the same."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import subprocess
import sys
import time
from collections import defaultdict
from multiprocessing import forkserver
from pathlib import Path

import pytest

from physgym import SocketVectorEnv, generate
from physgym.data import Online, SampleStream
from physgym.errors import ConfigError, WorkerError
from tests.support.machines import ROOT, listening, settings_for
from tests.support.toys import Line
from tests.support.watching import until
from tests.support.workers import forked_workers  # noqa: F401 - a fixture of all tests here
from tests.vector.test_turnover import Random, rows, undisturbed

LIMITS = {"max_steps": 20, "max_rejects": 5}
MEGABYTE = 1 << 20
WORKED = 60  # episodes, more than a worker has been given already
SUPERVISOR = """import sys
from physgym.machines.dialled_worker import DialIn
from physgym.machines.supervisor import Supervisor
sys.exit(Supervisor(DialIn.from_line(sys.stdin.buffer.readline()), 2, stay=False).run())
"""
NOTES = "PHYSGYM_TEST_NOTES"  # the folder in which the environments below say what they do


def note(text):
    if NOTES in os.environ:
        with (Path(os.environ[NOTES]) / str(os.getpid())).open("a") as file:
            file.write(f"{text}\n")


def notes(folder):
    """What each process has said."""
    return {int(file.name): file.read_text().split() for file in folder.iterdir()}


class Leaky(Random):
    """Keeps two megabytes of each episode."""

    kept: list[bytearray] = []  # noqa: RUF012

    def reset(self, *, seed=None, options=None):
        self.kept.append(bytearray(2 * MEGABYTE))
        note(sum(map(len, self.kept)))  # not the resident set: some kernels count it late, or not at all
        return super().reset(seed=seed, options=options)


class Slow(Random):
    """Says when it begins an episode; what comes in another's place is built as soon as those who stay went on."""

    def __init__(self):
        super().__init__()
        folder = Path(os.environ[NOTES])
        note("built")
        if len([*folder.iterdir()]) > 2:
            begun = sum(map(len, notes(folder).values()))
            until(lambda: sum(map(len, notes(folder).values())) >= begun + WORKED)

    def reset(self, *, seed=None, options=None):
        note("episode")
        time.sleep(0.01)
        return super().reset(seed=seed, options=options)


class Once(Line):
    """Can be built by so many processes, and by no other one."""

    def __init__(self):
        super().__init__()
        note("built")
        if len(list(Path(os.environ[NOTES]).iterdir())) > 2:
            raise OSError("the licence is used up")


class Dying(Leaky):
    """Dies once in its fourth episode, as long as a file is there."""

    def reset(self, *, seed=None, options=None):
        if len(self.kept) == 3:
            with contextlib.suppress(FileNotFoundError):
                Path(os.environ[NOTES]).with_name("dies").unlink()
                os.kill(os.getpid(), 9)
        return super().reset(seed=seed, options=options)


class Ill(Random):
    """Dies when it is closed, or raises there."""

    def close(self):
        if os.getpid() % 2:
            os._exit(3)
        raise ValueError("its files are gone")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    found = tmp_path / "notes"
    found.mkdir()
    monkeypatch.setenv(NOTES, str(found))
    forkserver._forkserver._stop()  # one that runs has the environment variables of the test that began it
    yield found
    forkserver._forkserver._stop()


def digests(folder):
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("training-*.h5"))]


@pytest.mark.parametrize(
    "context", ["fork", *(pytest.param(name, marks=pytest.mark.slow) for name in ("forkserver", "spawn"))]
)
def test_no_process_runs_more_episodes_than_that_and_none_is_lost(context, folder):
    with SocketVectorEnv([Leaky] * 4, num_workers=2, context=context, timeout=60, recycle=6) as envs:
        rounds = 2 if context == "fork" else 1  # the second time with those that were ended at the end of the first
        for _ in range(rounds):
            found = rows(envs.rollout([(episode, 5 + episode) for episode in range(20)], **LIMITS))
            assert found == undisturbed(20)
        counts = [len(lines) for lines in notes(folder).values()]
        assert (sum(counts), max(counts)) == (20 * rounds, 6)
        assert envs.reset(seed=3)[0].shape == (4, 3)  # they are all there
        assert envs.step(envs.action_space.sample())[1].shape == (4,)


@pytest.mark.slow
def test_a_dataset_has_the_same_bytes_and_what_leaks_stays_bounded(tmp_path, folder):
    options = {"samples": 250, "num_workers": 2, "progress": False}
    generate(Leaky, tmp_path / "plain", **options)
    grown = [int(lines[-1]) - int(lines[0]) for lines in notes(folder).values()]
    assert max(grown) > 40 * MEGABYTE  # it does leak
    for file in folder.iterdir():
        file.unlink()
    generate(Leaky, tmp_path / "renewed", recycle=5, **options)
    said = notes(folder)
    assert len(said) >= 6
    assert max(int(lines[-1]) - int(lines[0]) for lines in said.values()) < 20 * MEGABYTE  # 10 of them kept
    assert digests(tmp_path / "plain") == digests(tmp_path / "renewed") != []


@pytest.mark.slow
def test_the_others_go_on_meanwhile(folder):
    given = []

    def episodes():  # until one that came in the place of another has begun some
        while len(notes(folder)) < 3 or min(map(len, notes(folder).values())) < 3:
            yield len(given), 5 + len(given)
            given.append(1)

    with SocketVectorEnv([Slow] * 2, num_workers=2, context="fork", timeout=100, recycle=20) as envs:
        envs._pool.workers[1].episodes = -(10**6)  # it stays
        assert rows(envs.rollout(episodes(), **LIMITS)) == undisturbed(len(given))


@pytest.mark.slow
def test_workers_that_dial_in_are_let_go_and_dial_again(tmp_path):
    options = {"samples": 600, "progress": False}
    generate("physgym/Spring-v0", tmp_path / "here", num_workers=1, max_steps=10, **options)
    with listening(tmp_path) as reception:
        settings = settings_for(reception, tmp_path, count=2, patience=60.0)
        with subprocess.Popen([sys.executable, "-c", SUPERVISOR], stdin=subprocess.PIPE, cwd=ROOT) as process:
            try:
                process.stdin.write(settings.to_line())
                process.stdin.flush()
                taken, callers = reception.take, []

                def take(count):
                    if (caller := taken(count)) is not None:
                        callers.append(caller)
                    return caller

                reception.take = take
                generate(
                    "physgym/Spring-v0", tmp_path / "there", max_steps=10, recycle=10, launcher=reception, **options
                )
                reception.close()
                assert process.wait(60) == 0  # before its patience is over: those that come again hear of the end
            finally:
                process.kill()
    assert len(callers) >= 4
    assert digests(tmp_path / "here") == digests(tmp_path / "there") != []


def test_what_was_ended_and_does_not_come_up_is_an_error(folder):
    with (
        SocketVectorEnv([Once] * 2, num_workers=2, context="fork", timeout=60, recycle=2) as envs,
        pytest.raises(WorkerError, match="the licence is used up"),
    ):
        rows(envs.rollout([(episode, episode) for episode in range(20)], **LIMITS))


def test_one_that_fails_to_close_is_renewed_all_the_same():
    with (
        pytest.warns(RuntimeWarning) as caught,
        SocketVectorEnv([Ill] * 2, num_workers=2, context="fork", timeout=60, recycle=3) as envs,
    ):
        found = rows(envs.rollout([(episode, 5 + episode) for episode in range(26)], **LIMITS))
    assert found == undisturbed(26)
    said = [str(warning.message) for warning in caught]
    assert any("It was to be renewed, which continues" in text for text in said), said


@pytest.mark.filterwarnings(r"ignore:(.|\n)*It was to be renewed, which continues:RuntimeWarning")
@pytest.mark.slow
def test_a_worker_that_dies_is_started_again_and_counts_anew(folder, monkeypatch):
    episodes = [(episode, 5 + episode) for episode in range(60)]
    folder.with_name("dies").touch()  # those that are killed below may have been about to end
    with SocketVectorEnv([Dying] * 2, num_workers=2, context="fork", timeout=60, recycle=7, on_error="restart") as envs:
        parts = []
        for part in envs.rollout(episodes, **LIMITS):
            parts.append(part)
            if len(parts) in (5, 12):
                worker = next(worker for worker in envs._pool.workers if not worker.gone)
                os.kill(worker.handle.pid, 9)
        assert rows(parts) == undisturbed(60)
        assert envs.restarts >= 1
    assert max(map(len, notes(folder).values())) <= 7


@pytest.mark.slow
def test_a_training_that_runs_along_gets_the_same_samples():
    def drawn(**options):
        stream = SampleStream(Random, num_workers=2, seed=3, **options)
        with Online(stream, capacity=400, minimum=200, rule="fifo", samples=200) as online:
            return [{name: column.tolist() for name, column in online.draw(20).items()} for _ in range(10)]

    assert drawn(recycle=5) == drawn()


def test_a_rollout_that_is_left_leaves_no_process_behind(folder):
    pids = defaultdict(int)
    with SocketVectorEnv([Leaky] * 2, num_workers=2, context="fork", timeout=60, recycle=2) as envs:
        for number, _ in enumerate(envs.rollout([(episode, episode) for episode in range(40)], **LIMITS)):
            for worker in envs._pool.workers:
                if worker.handle is not None:
                    pids[worker.handle.pid] += 1
            if number == 9:
                break
        gc.collect()
        assert envs.reset()[0].shape == (2, 3)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"recycle": 0}, "recycle must be at least 1"),
        ({"recycle": 2.5}, "recycle must be an integer"),
        ({"recycle": 3, "num_workers": 0}, "recycle=3 renews worker processes, and num_workers=0 has none"),
    ],
)
def test_what_cannot_be_asked_for(options, said):
    with pytest.raises(ConfigError, match=said):
        SocketVectorEnv([Line], **options)


def test_where_the_number_of_workers_is_chosen_there_is_one():
    with SocketVectorEnv([Line], num_workers="auto", context="fork", recycle=2) as envs:
        assert envs.num_workers == 1
