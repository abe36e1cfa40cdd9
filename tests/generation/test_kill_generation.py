"""Generation whose parent or workers are killed at random: the files are those of a run that nobody disturbed."""

from __future__ import annotations

import functools
import os
import random
import tempfile
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
from gymnasium import spaces

import physgym
from physgym import RejectSample, SampleDataset, Simulation
from physgym.errors import DatasetError
from physgym.generation import stream as generation
from physgym.vector import handshake
from tests.support import toys
from tests.support.killing import assert_same_files, in_processes

ROW = 300  # bytes, about
SIZE = 260_000  # bytes of a file, of which some hundred rows take a half


class Walk(Simulation):
    """Episodes of 3 to 9 steps, some of which are rejected, with a parameter; a step takes `pause` seconds."""

    action_space = spaces.Box(-1, 1, (2,), np.float32)
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    sample_space = spaces.Dict(
        {"x": spaces.Box(-np.inf, np.inf, (32,), np.float64), "count": spaces.Box(0, 100, (), np.int64)}
    )
    sample_roles = {"x": "target", "count": "input"}  # noqa: RUF012
    parameter_space = spaces.Dict({"scale": spaces.Box(0.5, 2, (), np.float64)})
    pause = 0.0

    def begin(self, options):
        self.length, self.count = int(self.np_random.integers(3, 10)), 0
        self.x = self.np_random.normal(size=32)

    def advance(self, action):
        if self.pause:
            time.sleep(self.pause)
        self.count += 1
        if action[0] > 0.7:
            raise RejectSample(f"diverged at {action[0]}")
        self.x = self.x + self.np_random.normal(size=32) * action[1] * self.parameters["scale"]

    def observation(self):
        return self.x[:2].astype(np.float32)

    def sample(self):
        return {"x": self.x.copy(), "count": np.int64(self.count)}

    def outcome(self):
        return 0.0, self.count >= self.length


def run(path: Path, samples: int, seed: int, **options) -> SampleDataset:
    options |= {"keep_rejected": True, "parameters": "sobol", "num_envs": 4, "progress": False}
    return physgym.generate(Walk, path, samples=samples, seed=seed, max_file_size=SIZE, **options)


def hurry() -> None:
    """Small buffers, so that there is a commit every few milliseconds, and processes that start quickly."""
    with tempfile.TemporaryDirectory() as folder:  # imports and looks at the code once, not in each forked process
        run(Path(folder) / "d", 1, 0, num_workers=0)
    generation.SampleWriter = functools.partial(generation.SampleWriter, buffer_size=20 * ROW, commit_interval=0.01)
    generation.SocketVectorEnv = functools.partial(generation.SocketVectorEnv, context="fork", max_restarts=10**6)


def committed(path: Path) -> int:
    """Samples that are there; 0 where none are, or where the files change under the reader."""
    count = 0
    for file in path.glob("training-*.h5"):
        try:
            with h5py.File(file) as part:
                count += int(part["num_samples"][0])
        except (OSError, KeyError):
            return 0
    return count


def kill_parents(folder: str, seed: int, kills: int, samples: int) -> dict:
    """Kill the generating process again and again, resume it, and let it end after so many kills."""
    hurry()
    Walk.pause = 2e-4
    rng, path = random.Random(seed), Path(folder)
    done, known, stages = 0, 0, set()
    while True:
        # from before the workers run until well into the samples that this run adds; and at times that nothing tells
        target = min(samples - 1, known + rng.randrange(2 * samples // kills)) if rng.random() < 0.7 else None
        wait = rng.uniform(0, 0.02 if target is not None else 0.15)
        child = os.fork()
        if child == 0:
            try:
                run(path, samples, seed, num_workers=2, resume=True)
            finally:
                os._exit(0)
        if done < kills:
            ended = False
            while target is not None and committed(path) < target and not ended:
                ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
                time.sleep(1e-3)
            time.sleep(wait)
            os.kill(child, 9)
        status = os.waitpid(child, 0)[1]
        assert status in (0, 9), status
        if status == 9:
            done += 1
        try:
            count = len(SampleDataset(path))
        except DatasetError:
            count = 0
        assert count >= known, f"{known} samples were readable, {count} are left"
        stages.add(count)
        known = count
        if done >= kills and status == 0:
            return {"kills": done, "stages": len(stages), "samples": count}


def kill_workers(folder: str, seed: int, kills: int, samples: int) -> dict:
    """Kill random workers of one generation until it ends, or until there were so many kills."""
    hurry()
    Walk.pause = 2e-3  # so that it does not end before it was disturbed often enough
    rng, ended, done = random.Random(seed), threading.Event(), 0

    def killing() -> None:
        nonlocal done
        while not committed(Path(folder)) and not ended.is_set():  # an env that cannot be started is an error at once
            time.sleep(1e-3)
        while done < kills and not ended.wait(rng.uniform(0.01, 0.06)):
            if workers := psutil.Process().children():
                rng.choice(workers).kill()
                done += 1

    thread = threading.Thread(target=killing)
    thread.start()
    try:
        run(Path(folder), samples, seed, num_workers=2, on_error="restart")
    finally:
        ended.set()
        thread.join()
    return {"kills": done, "samples": len(SampleDataset(folder))}


def undisturbed(tmp_path: Path, seed: int, samples: int) -> Path:
    path = tmp_path / f"undisturbed{seed}"
    run(path, samples, seed, num_workers=1)
    return path


KILLS = 50
SEEDS = (1, 2)


@pytest.mark.alone
@pytest.mark.sweep
@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("what", ["parents", "workers"])
def test_fifty_random_kills_leave_the_dataset_of_an_undisturbed_run(tmp_path, what):
    samples = 3000
    kills = -(-KILLS // len(SEEDS))
    jobs = [
        {"folder": str(tmp_path / f"killed{seed}"), "seed": seed, "kills": kills, "samples": samples} for seed in SEEDS
    ]
    reports = in_processes(f"tests.generation.test_kill_generation:kill_{what}", jobs)
    for seed, report in zip(SEEDS, reports, strict=True):
        assert report["samples"] == samples
        assert_same_files(tmp_path / f"killed{seed}", undisturbed(tmp_path, seed, samples))
        dataset = SampleDataset(tmp_path / f"killed{seed}")
        assert len(dataset.parameter_episodes) == dataset.index("episode").max() + 1
        assert len(dataset.rejected.reasons) > 100
    assert sum(report["kills"] for report in reports) >= KILLS
    if what == "parents":
        assert all(report["stages"] >= 8 for report in reports)  # they were killed at many places of the dataset


@pytest.mark.slow
def test_a_worker_killed_between_its_greeting_and_the_answer_is_started_again(tmp_path, monkeypatch):
    switch, real, greeted = tmp_path / "switch", handshake.admit, []

    def make():
        return toys.Flaky(kill_switch=str(switch))

    def admit(channel, hello, token):
        greeted.append(hello.pid)
        if len(greeted) == 2:  # of the worker that was started in place of the killed one
            process = psutil.Process(hello.pid)
            process.kill()
            while process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(1e-3)
        return real(channel, hello, token)

    monkeypatch.setattr(handshake, "admit", admit)
    options = {"num_workers": 1, "on_error": "restart", "progress": False}
    wanted = physgym.generate(make, tmp_path / "wanted", samples=30, **options)[:]
    greeted.clear()
    switch.touch()
    found = physgym.generate(make, tmp_path / "found", samples=30, **options)[:]
    assert len(greeted) == 3
    np.testing.assert_array_equal(found["x"], wanted["x"])
