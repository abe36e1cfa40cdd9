"""Trainings killed at any instant: what is left can be continued, and ends in the bits of one that nobody disturbed."""

from __future__ import annotations

import ctypes
import errno
import functools
import importlib
import json
import mmap
import os
import random
import re
import shutil
import time
import traceback
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

import physgym
from physgym.errors import CheckpointError, DatasetError
from physgym.generation import stream as generation
from physgym.nn import MLP, Optimization
from physgym.training import (
    Callback,
    Checkpoints,
    Trainer,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
    tensor_file,
)
from tests.support.killing import (
    CHANGES,
    DATA,
    FAIL,
    FAIL_ONCE,
    KILL,
    KILL_TORN,
    MAKE,
    Attempts,
    compile_shim,
    fresh,
    in_processes,
)
from tests.support.memory_samples import linear_samples

SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl: processes whose parent dies become children of this one
BATCH, BATCHES, EPOCHS = 16, 8, 3
KILLS = 30  # of each kind of training, half of them with processes that load samples
PATIENCE = 280.0  # seconds, of a machine that others use too
DEADLINE = 60.0  # seconds that processes without a parent may take to end; loaders look every five


class Jitter(Callback):
    """Draws from the global generators, has a state of its own, and tells another process how far the training is."""

    def __init__(self, board):
        self.board, self.total = board, 0.0

    def batch_begin(self, trainer, batch):
        batch["state"] = batch["state"] * (1 + 0.01 * random.random()) + 0.01 * np.random.normal()  # noqa: NPY002

    def batch_end(self, trainer, values):
        self.total += values["loss"]
        self.board[:8] = (1 + trainer.step).to_bytes(8, "little")

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state):
        self.total = state["total"]


def train(session: Path, board, *, produce: bool, workers: int) -> None:
    """A training with everything that has a state, continued if there is something to continue."""
    torch.manual_seed(0)
    network = MLP(2, 2, hidden=(16, 16), dropout=0.2)
    optimization = Optimization(
        network,
        optimizer=torch.optim.AdamW,
        lr=1e-2,
        scheduler=lambda o: OneCycleLR(o, 1e-2, total_steps=BATCHES * EPOCHS + 1),
        scheduler_every="batch",
    )
    if not produce:
        options: dict = {"dataset": physgym.SampleDataset(session.parent / "data")}
    else:
        made = {"seed": 3, "num_workers": 2, "max_steps": 16, "resume": True}
        options = {"source": generation.SampleStream("physgym/Spring-v0", path=session / "data", **made)}
    Trainer(
        network,
        **options,
        epochs=EPOCHS,
        batch_size=BATCH,
        batches_per_epoch=BATCHES,
        validation=0.2,
        inputs=["state"],
        optimization=optimization,
        session=session,
        seed=7,
        callbacks=[Jitter(board), Checkpoints(session / "networks", steps=3)],
        progress=False,
        resume=True,
        loader_workers=workers,
    ).fit()


def quick() -> None:
    """Processes that start quickly, since they are forked from this one; it must not compute with torch itself."""
    for name in (
        "scipy.linalg",
        "scipy.stats.qmc",
        "torch.utils.tensorboard",
        "torch._dynamo",
        "multiprocessing.queues",
    ):
        importlib.import_module(name)  # else every process does
    generation.SocketVectorEnv = functools.partial(generation.SocketVectorEnv, context="fork")
    assert ctypes.CDLL(None).prctl(SUBREAPER, 1) == 0


def forked(what, *arguments, **options) -> int:
    """Call it in a process of its own, which says on stderr what went wrong."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            what(*arguments, **options)
            status = 0
        except BaseException:  # noqa: BLE001  # nothing of this process may go on in the child
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def ended(child: int) -> bool:
    """Whether a process has ended; it stays there to be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def reap() -> list[str]:
    """Wait until all processes below this one have ended, and say which have not."""
    deadline = time.monotonic() + DEADLINE
    while left := psutil.Process().children(recursive=True):
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    break
            except ChildProcessError:
                break
        if time.monotonic() > deadline:
            names = [
                f"{' '.join(process.cmdline())}: {process.status()}, {_waits_for(process.pid)}" for process in left
            ]
            for process in left:
                process.kill()
            return names
        time.sleep(0.01)
    return []


def _waits_for(pid: int) -> str:
    return Path(f"/proc/{pid}/wchan").read_text()


def result(session: Path) -> dict:
    """All that a training has come to, apart from the times that it took."""
    path = find_checkpoint(session)
    state = json.loads((path / "training.json").read_text())["dict"]
    epochs = [epoch["dict"] for epoch in state["history"]["dict"]["epochs"]]
    losses = [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in epochs]
    del state["history"]
    state["callbacks"] = state["callbacks"]["dict"].get("Jitter-1")  # the others hold names by chance
    tensors = {name: (path / f"{name}.safetensors").read_bytes().hex() for name in ("network", "training")}
    return {"epochs": losses, "state": state, **tensors}


def assert_same(found, wanted, path: str = "") -> None:
    """Raise with the first place at which two results differ."""
    if isinstance(wanted, dict) and isinstance(found, dict) and found.keys() == wanted.keys():
        for name, value in wanted.items():
            assert_same(found[name], value, f"{path}/{name}")
    elif isinstance(wanted, list) and isinstance(found, list) and len(found) == len(wanted):
        for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
            assert_same(one, other, f"{path}/{index}")
    else:
        assert found == wanted, f"{path}: {str(found)[:200]} instead of {str(wanted)[:200]}"


def kill(folder: str, seed: int, kills: int, produce: bool) -> list[dict]:
    """Kill trainings without and with processes that load samples; see `kill_and_continue`."""
    root = Path(folder)
    quick()
    root.mkdir()
    if not produce:
        made = {"samples": 160, "max_steps": 16, "seed": 3, "num_workers": 1, "progress": False}
        assert os.waitpid(forked(physgym.generate, "physgym/Spring-v0", root / "data", **made), 0)[1] == 0
    rng = random.Random(seed)
    reports = [kill_and_continue(root, rng, kills // 2, produce=produce, workers=workers) for workers in (0, 2)]
    return [*reports, {"left": reap()}]


def kill_and_continue(root: Path, rng: random.Random, kills: int, *, produce: bool, workers: int) -> dict:
    """Kill trainings again and again and continue them; each one that ends is compared with one that nobody killed."""
    whole, session, board = root / f"whole{workers}", root / f"killed{workers}", mmap.mmap(-1, 8)

    def begin(session: Path) -> int:
        board[:8] = bytes(8)
        return forked(train, session, board, produce=produce, workers=workers)

    def step() -> int:
        return int.from_bytes(board[:8], "little")

    start = time.monotonic()
    assert os.waitpid(begin(whole), 0)[1] == 0
    duration, last = time.monotonic() - start, step()
    wanted = result(whole)
    done, ends, known, places = 0, 0, 0, []
    while True:
        child = begin(session)
        if done < kills:
            if rng.random() < 0.5:  # at a moment of the run, from its first on
                moment = time.monotonic() + rng.uniform(0, duration)
                while time.monotonic() < moment and not ended(child):
                    time.sleep(1e-3)
            else:  # at a place of the training, and a little later
                target = rng.randrange(min(known, last - 1), last)
                while step() <= target and not ended(child):
                    time.sleep(1e-4)
                time.sleep(rng.uniform(0, 0.02))
            known = step()
            os.kill(child, 9)
        status = os.waitpid(child, 0)[1]
        assert status in (0, 9), f"exit status {status}"
        if status == 9:
            done += 1
            places.append(known)
            continue
        assert_same(result(session), wanted)
        shutil.rmtree(session)
        ends, known = ends + 1, 0
        if done >= kills:
            return {"kills": done, "ends": ends, "places": len(set(places))}


@pytest.mark.sweep
@pytest.mark.alone
@pytest.mark.timeout(PATIENCE + 20)
def test_a_training_that_is_killed_at_random_ends_in_the_same_bits(tmp_path, monkeypatch):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    jobs = [
        {"folder": str(tmp_path / kind), "seed": seed, "kills": KILLS, "produce": kind == "produced"}
        for seed, kind in enumerate(("offline", "produced"))
    ]
    for *reports, after in in_processes("tests.training.test_kill_training:kill", jobs, timeout=PATIENCE):
        assert sum(report["kills"] for report in reports) == KILLS
        assert sum(report["places"] for report in reports) >= 8  # they were killed at many places of the training
        assert after == {"left": []}


# --- the number of threads


class Centred(torch.nn.Module):
    """Takes the mean of so many numbers that several threads add them in another order than one does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = torch.nn.Linear(6, 512), torch.nn.Linear(512, 4)

    def forward(self, force):
        hidden = self.inner(force.flatten(1))
        return self.outer(torch.tanh(hidden - hidden.mean()))


def wide(folder: Path, threads: int, die_at: int = 0) -> None:
    """A training whose bits depend on the number of threads; continued where there is something."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = Centred()

    class Die(Callback):
        def batch_begin(self, trainer, batch):
            if trainer.step == die_at:
                os.kill(os.getpid(), 9)

    callbacks = [Checkpoints(folder, steps=2), *([Die()] if die_at else [])]
    options = {"epochs": 2, "batch_size": 512, "validation": 0, "progress": False, "callbacks": callbacks}
    Trainer(network, linear_samples(2048), resume=True, **options).fit()


def continue_with_fewer(folder: str) -> dict:
    """Train with one thread, with two, and with two until it is killed and one from then on."""
    quick()
    root, weights = Path(folder), {}
    runs = {"one": [(1, 0, 0)], "two": [(2, 0, 0)], "cut": [(2, 5, 9), (1, 0, 0)]}
    for name, parts in runs.items():
        for threads, die_at, status in parts:
            assert os.waitpid(forked(wide, root / name, threads, die_at), 0)[1] == status
        weights[name] = (find_checkpoint(root / name) / "network.safetensors").read_bytes()
    return {"differ": weights["one"] != weights["two"], "same": weights["cut"] == weights["two"]}


@pytest.mark.slow
def test_a_training_goes_on_with_as_many_threads_as_before(tmp_path):
    [found] = in_processes("tests.training.test_kill_training:continue_with_fewer", [{"folder": str(tmp_path)}])
    if not found["differ"]:
        pytest.skip("this machine computes the same bits with one thread and with two")
    assert found["same"]


# --- killed, or refused, at each system call by which checkpoints are written and deleted

SMALL = {"epochs": 2, "batch_size": 32, "validation": 0, "progress": False, "seed": 7}
# at calls of which kinds: at each, or each third one
WAYS = {KILL: (CHANGES, 1), KILL_TORN: (DATA, 1), FAIL: (DATA | MAKE, 3), FAIL_ONCE: (DATA | MAKE, 3)}
SAVES = (2, 4, 6, 8)  # batches after which there is a checkpoint


class Acknowledge(Callback):
    """Tells that whatever was to be saved before this batch has been."""

    def __init__(self, acknowledge):
        self.acknowledge = acknowledge

    def batch_begin(self, trainer, batch):
        self.acknowledge(trainer.step)


def small(folder: Path, acknowledge, again: bool = False) -> None:
    """A training of eight batches with checkpoints in a folder, begun or continued; a refusal is a `DatasetError`."""
    torch.manual_seed(0)
    network = MLP((3, 2), 4, hidden=(8,), dropout=0.2)
    callbacks = [Checkpoints(folder, steps=2), Acknowledge(acknowledge)]
    trainer = Trainer(network, linear_samples(128), callbacks=callbacks, resume=True, **SMALL)
    try:
        trainer.fit()
    except CheckpointError as error:
        acknowledge(trainer.step)
        if not again:
            raise DatasetError(str(error)) from error
        trainer.fit()


def go_on(folder: Path, acknowledge) -> None:
    """Whatever there is can be used, and the training continued; tells from which batch on."""
    for path in list_checkpoints(folder):
        load_checkpoint(path)
    steps: list[int] = []
    small(folder, steps.append)
    acknowledge(steps[0] if steps else SAVES[-1])


def sweep(folder: str, first: int, stride: int) -> dict:
    """Sweep in all ways that matter; see `sweep_way`."""
    quick()
    tensor_file.TOGETHER = 1024  # bytes, so that tensors are written in several pieces, as those of a large network
    Path(folder).mkdir()
    return {way: sweep_way(Path(folder) / str(way), way, first, stride) for way in WAYS}


def sweep_way(root: Path, way: int, first: int, stride: int) -> dict:
    """Let one call of a training fail, each in its turn but for those of other shards; see what is left after it."""
    root.mkdir()
    kinds, each = WAYS[way]
    attempts, networks = Attempts(), root / "networks"
    scenario = functools.partial(small, again=way == FAIL_ONCE)
    whole = attempts.run(small, root / "whole", kinds=kinds)
    calls, wanted, failures = sum(whole.calls.values()), result(root / "whole"), []
    for at in range(1 + each * first, calls + 1, each * stride):
        outcome = attempts.run(scenario, fresh(networks), at, way, errno.ENOSPC, kinds)
        try:
            if way in (KILL, KILL_TORN):
                assert outcome.killed
            elif way == FAIL:
                assert re.match("cannot (write|delete|save) .*No space left", str(outcome.refused))
                assert not list(networks.glob(".*.tmp"))
            else:
                assert outcome.refused is None
            known = max(save for save in (0, *SAVES) if save <= max(0, outcome.acknowledged - (way == FAIL)))
            found = attempts.run(go_on, networks).acknowledged
            assert found >= known, f"step {known} was saved, {found} is left"
            assert_same(result(networks), wanted)
            left = {path.name: sorted(file.name for file in path.iterdir()) for path in networks.iterdir()}
            assert left.keys() <= {"epoch-0001", "epoch-0002"}, left
        except Exception:  # noqa: BLE001  # all points are to be tried
            failures.append((at, traceback.format_exc()[-1500:]))
    return {"calls": calls, "failures": failures}


@pytest.mark.sweep
@pytest.mark.alone
@pytest.mark.timeout(PATIENCE + 20)
def test_a_checkpoint_is_there_as_a_whole_or_not_at_all(tmp_path):
    shim = compile_shim(tmp_path)
    jobs = [{"folder": str(tmp_path / str(i)), "first": i, "stride": 2} for i in range(2)]
    reports = in_processes("tests.training.test_kill_training:sweep", jobs, library=shim, timeout=PATIENCE)
    for way in WAYS:
        assert reports[0][str(way)]["calls"] >= 20
        failures = sorted(failure for report in reports for failure in report[str(way)]["failures"])
        shown = f"{failures[0][0]}:\n{failures[0][1]}" if failures else ""
        assert not failures, f"way {way}: {len(failures)} faults; the first, at call {shown}"
