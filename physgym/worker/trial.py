"""A trial of one environment, for a parent that asks how many workers are worth their messages.

It happens in the process of worker 0, which starts anyway, before that makes its environments. What takes long to make
is worth a worker: it stays, as the first environment of this one. Anything else is an extra environment, which is
stepped for a moment and closed, and this process ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from physgym.errors import SampleError
from physgym.placement import Env, EnvFactory, build, declared_metadata
from physgym.protocol.messages import Predict, Prediction
from physgym.real_time import runs_in_real_time
from physgym.single import single_of, starts_slowly
from physgym.worker.env_group import EnvGroup
from physgym.worker.folders import Folder

TRIAL_SECONDS, TRIAL_STEPS = 0.05, 200
KEEP, TRY = b"k", b"t"  # what the parent decides once the environment is made
STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"})  # audit events


def after_trial(sock: socket.socket, factories: Sequence[EnvFactory], num_envs: int) -> Sequence[EnvFactory]:
    """Make the first environment, and return the factories of a worker that keeps it.

    Args:
        sock: Connected to the parent, which hears in lines of JSON that the environment is being made, that it is made,
            how long its steps take, and that it is closed.
        factories: Of the environments of worker 0.
        num_envs: Number of environments of all workers.

    Raises:
        SystemExit: The environment was an extra one; this process is not needed any more.
    """
    with sock:
        sock.set_inheritable(False)
        started = _Starts()
        with contextlib.suppress(Exception):
            declared_metadata(factories[0])  # imports what makes it
        _tell(sock, making=True)
        first = _Made(factories[0], num_envs)
        _tell(sock, made=first.seconds, alone=first.alone or started.any)
        decision = sock.recv(1)
        if decision == KEEP:
            return [first.again, *factories[1:]]
        with first.folder, contextlib.closing(first.again()) as env:
            if decision == TRY:  # the parent is there
                _tell(sock, **_tried(env, started))
        _tell(sock, closed=True)
    raise SystemExit(0)


class _Made:
    """An environment that was made, or what its constructor raised.

    Args:
        factory: Makes it.
        num_envs: How many there are to be.

    Attributes:
        seconds: How long that took.
        folder: The working folder in which its constructor left the process.
        alone: Whether it wants a process of its own, or could not be made.
    """

    def __init__(self, factory: EnvFactory, num_envs: int) -> None:
        self.folder = Folder()
        self._error: Exception | None = None
        start = time.perf_counter()
        try:
            with self.folder:
                self._env = build(factory, 0, num_envs)
            metadata = self._env.metadata
            self.alone = single_of(metadata) is not None or starts_slowly(metadata) or runs_in_real_time(metadata)
        except Exception as error:  # noqa: BLE001 - raised by `again`, where it is reported to the parent
            self._error = error
            self.alone = True
        self.seconds = time.perf_counter() - start

    def again(self) -> Env:
        """Return the environment, and leave the process in its folder, as its factory does.

        Raises:
            Exception: Of its constructor.
        """
        if self._error is not None:
            raise self._error
        if self.folder.path:
            os.chdir(self.folder.path)
        return self._env


class _Starts:
    """Notices that a process is started from now on.

    Attributes:
        any: Whether one was.
    """

    def __init__(self) -> None:
        self.any = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in STARTS:
            self.any = True


def _tell(sock: socket.socket, **said: Any) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a parent that has decided does not wait
        sock.sendall(json.dumps(said).encode() + b"\n")


def _tried(env: Env, started: _Starts) -> dict[str, Any]:
    """Return what to tell of the steps of an environment."""
    try:
        found = measured(env)
    except Exception as error:  # noqa: BLE001 - the user's own environments will raise it where that is wanted
        return {"error": f"{type(error).__name__} in the trial of one"}
    return {"error": "one starts processes"} if started.any else found


def measured(env: Env) -> dict[str, Any]:
    """Return the mean seconds of a step with random actions, and the part of them in which this process computes.

    Where the first reset takes longer than all steps may, it is what is worth a worker: its own figures are returned.
    """
    EnvGroup([env], AutoresetMode.DISABLED, _unanswered)  # tells it whom to ask
    sample: Callable[[], Any] = env.action_space.sample
    env.action_space.seed(0)
    begin, computed = time.perf_counter(), time.process_time()
    env.reset(seed=0)
    if (seconds := time.perf_counter() - begin) > TRIAL_SECONDS:
        return {"of": "reset", "mean": seconds, "computing": min(seconds, time.process_time() - computed)}
    end = begin + TRIAL_SECONDS
    steps: list[tuple[float, float]] = []
    undisturbed: list[tuple[float, float]] = []
    while not steps or (len(steps) < TRIAL_STEPS and time.perf_counter() < end):
        action, before, computed = sample(), _interruptions(), time.process_time()
        start = time.perf_counter()
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
        seconds = time.perf_counter() - start
        steps.append((seconds, min(seconds, time.process_time() - computed)))
        if _interruptions() == before:
            undisturbed.append(steps[-1])
    kept = undisturbed or steps  # on a busy machine others take this process's core in the middle of a step
    mean, computing = np.array(kept[len(kept) // 4 :]).mean(0).tolist()  # the first steps fill caches
    return {"of": "step", "mean": mean, "computing": computing}


def _interruptions() -> int:
    """Return how often others were given the core of this process while it computed."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _unanswered(question: Predict) -> Prediction:
    raise SampleError("a trial has no network")
