"""The loop of a Python program of several MPI ranks that is an environment: see `physgym.adapters.mpi`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Protocol

import numpy as np

from physgym.adapters.mpi_exchange import ANSWERS, FIELDS, FOLDER, HEADER, REQUESTS, RankAnswer, RankRequest
from physgym.casting import as_dtype
from physgym.errors import ConfigError, RejectSample
from physgym.spaces import Array

SPIN = 0.001  # seconds for which a rank looks for a request without a pause
LONGEST_SLEEP = 0.005  # seconds between two looks of a rank that has waited for long


class RankProgram(Protocol):
    """A simulation whose methods all ranks call at the same time; what rank 0 returns counts.

    It may have ``state()``, which returns a vector of all that the steps to come depend on, and ``set_state(vector)``,
    which takes it in all ranks and returns the states. The vector is that of rank 0.
    """

    def reset(self, seed: int, parameters: Mapping[str, Array]) -> Mapping[str, Any]:
        """Begin an episode; return the states by name."""

    def step(self, action: Mapping[str, Array]) -> Mapping[str, Any]:
        """Make a step; return states and outputs by name. `RejectSample` in any rank, at the end of it, rejects it."""


def serve(comm: Any, program: RankProgram) -> None:
    """RankAnswer the requests of the environment that has started this program, until it ends.

    An exception in any rank ends all of them, and is the error of the environment, with the number of the rank.

    Args:
        comm: The communicator of all ranks, such as ``MPI.COMM_WORLD`` of mpi4py.
        program: The simulation.

    Raises:
        ConfigError: Nobody has started this program as an environment.
    """
    if REQUESTS not in os.environ:
        raise ConfigError(f"{REQUESTS} is not set: this program is started by physgym.adapters.mpi.MpiSimulation")
    Path(os.environ[FOLDER], f"process-{comm.Get_rank()}").write_text(str(os.getpid()))
    own = comm.Dup()  # no message of the program is taken for one of ours
    with contextlib.ExitStack() as stack:
        pipes = None
        if own.Get_rank() == 0:
            requests = stack.enter_context(Path(os.environ[REQUESTS]).open("rb"))
            pipes = requests, stack.enter_context(Path(os.environ[ANSWERS]).open("wb", buffering=0))
        _answer_all(own, program, json.loads(os.environ[FIELDS]), pipes)


def _answer_all(comm: Any, program: RankProgram, fields: Any, pipes: tuple[BinaryIO, Any] | None) -> None:
    """RankAnswer requests until the last one; rank 0 alone has pipes."""
    rank = comm.Get_rank()
    while True:
        kind, numbers = _heard(comm) if pipes is None else _passed_on(comm, _read(pipes[0]))
        if kind == RankRequest.CLOSE:
            return
        try:
            status, values, text = RankAnswer.DONE, _answer(program, RankRequest(kind), numbers, fields, rank), ""
        except RejectSample as rejection:
            status, values, text = RankAnswer.REJECTED, np.zeros(0), str(rejection)
        except Exception:  # noqa: BLE001 - whatever it is, it ends all ranks
            _fail(comm, rank)
        found = comm.gather((int(status), text))
        if pipes is not None:
            rejected = [f"rank {one}: {said}" for one, (was, said) in enumerate(found) if was]
            _write(pipes[1], values, "; ".join(rejected))


def _passed_on(comm: Any, request: tuple[int, Array]) -> tuple[int, Array]:
    """Send a request to the other ranks."""
    for rank in range(1, comm.Get_size()):
        comm.send(request, rank)
    return request


def _heard(comm: Any) -> Any:
    """Wait for a request of rank 0, without the use of a core that a wait of MPI makes."""
    since = time.monotonic()
    while not comm.iprobe(0):
        waited = time.monotonic() - since
        time.sleep(0.0 if waited < SPIN else min(waited / 10, LONGEST_SLEEP))
    return comm.recv(None, 0)


def _answer(program: Any, kind: RankRequest, numbers: Array, fields: Any, rank: int) -> Array:
    if kind is RankRequest.STATE:
        vector = np.asarray(program.state(), np.float64).ravel()
        return vector if rank == 0 else np.zeros(0)
    if kind is RankRequest.SET_STATE:
        found = program.set_state(numbers)
    elif kind is RankRequest.RESET:
        found = program.reset(int(numbers[0]), _split(numbers[1:], fields["parameters"]))
    else:
        found = program.step(_split(numbers, fields["actions"]))
    if rank > 0:
        return np.zeros(0)
    parts = [_flat(found, name, shape) for name, shape in fields["states"].items()]
    for name, shape in fields["outputs"].items():
        parts.append(_flat(found, name, shape) if kind is RankRequest.STEP else np.zeros(int(np.prod(shape))))
    return np.concatenate(parts)


def _split(numbers: Array, shapes: Mapping[str, list[int]]) -> dict[str, Array]:
    found, begin = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        found[name] = numbers[begin : begin + size].reshape(shape)
        begin += size
    return found


def _flat(found: Mapping[str, Any], name: str, shape: list[int]) -> Array:
    if name not in found:
        raise KeyError(f"rank 0 returned no {name!r}")
    array = as_dtype(found[name], np.dtype(np.float64))  # an integer that it cannot hold is an error
    if array.shape != tuple(shape):
        raise ValueError(f"rank 0 returned {name!r} of shape {array.shape}, declared is {tuple(shape)}")
    return array.ravel()


def _read(pipe: BinaryIO) -> tuple[int, Array]:
    header = pipe.read(HEADER.size)
    if len(header) < HEADER.size:  # the environment is gone
        return RankRequest.CLOSE, np.zeros(0)
    kind, count = HEADER.unpack(header)
    return kind, np.frombuffer(pipe.read(8 * count), np.float64)


def _write(pipe: Any, values: Array, rejected: str) -> None:
    status = RankAnswer.REJECTED if rejected else RankAnswer.DONE
    data = rejected.encode()[: 1 << 15] if rejected else values.tobytes()
    view = memoryview(HEADER.pack(status, len(data) if rejected else len(values)) + data)
    while view:
        view = view[pipe.write(view) :]


def _fail(comm: Any, rank: int) -> NoReturn:
    """Note the exception for the environment, and end all ranks."""
    text = traceback.format_exc()
    Path(os.environ[FOLDER], f"error-{rank}").write_text(text)
    sys.stderr.write(f"rank {rank}:\n{text}")
    sys.stderr.flush()
    comm.Abort(1)
    raise AssertionError
