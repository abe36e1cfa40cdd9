"""A worker: a process that hosts several environments and serves them over a socket.

Its parent starts it and tells it, over a pipe between the two, where to connect and which environments to make (env
factories as cloudpickle; never over a socket). It never imports torch, h5py or a viewer unless an environment does.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cloudpickle
from gymnasium.vector import AutoresetMode

from physgym.errors import ProtocolError
from physgym.vector.arena import Arena
from physgym.vector.host import Env, EnvFactory, Host, RequestFailed, failure
from physgym.vector.process import THREAD_VARIABLES
from physgym.vector.transport import Channel, PeerGone, dial, greet
from physgym.vector.wire import Attach, Attached, Close, Closed, Message, Predict, Prediction, Ready, Role


@dataclass(frozen=True)
class Boot:
    """What a parent tells a worker it starts.

    Attributes:
        address: Where to connect to; None if the connection was inherited.
        token: The secret with which both ends prove themselves, as hexadecimal digits.
        worker: Index of this worker.
        first_env: Index of its first environment among all.
        num_envs: Number of environments of all workers.
        autoreset_mode: Name of the `AutoresetMode`.
        timeout: Seconds to wait for the parent when connecting.
        sys_path: The parent's module search path, so that its modules import here.
        seeds: Where the worker takes the place of one that died: seeds for the next reset of each environment.
    """

    address: tuple[str, int] | None
    token: str
    worker: int
    first_env: int
    num_envs: int
    autoreset_mode: str
    timeout: float
    sys_path: list[str]
    seeds: list[int | None] | None

    def to_line(self) -> bytes:
        """One line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Boot:
        """The inverse of `to_line`."""
        data = json.loads(line)
        if data["address"] is not None:
            data["address"] = (str(data["address"][0]), int(data["address"][1]))
        return cls(**data)


def serve(channel: Channel, boot: Boot, load: Callable[[], Sequence[EnvFactory]], memory: int) -> None:
    """Greet the parent, build the environments, then answer requests until `Close` or the end of the connection.

    Args:
        channel: Connected to the parent.
        boot: What the parent said.
        load: Gives the env factories; may import the user's modules.
        memory: Descriptor of the shared memory, negative if there is none.
    """
    channel.sock.settimeout(boot.timeout)
    greet(channel, bytes.fromhex(boot.token), boot.worker, os.getpid())
    channel.sock.settimeout(None)  # a parent may be idle for hours; its death ends the connection

    def ask(question: Predict) -> Prediction:
        channel.send(question)
        return channel.next_prediction()

    try:
        envs = [_build(factory, boot, i) for i, factory in enumerate(load())]
        host = Host(envs, AutoresetMode[boot.autoreset_mode], ask, boot.seeds)
        channel.send(Ready(len(envs), host.describe()))
    except PeerGone:
        raise
    except RequestFailed as failed:
        channel.send(failure(failed.env, failed.__cause__ or failed, failed.doing))
        return
    except Exception as error:  # noqa: BLE001 - reported to the parent, which raises it
        channel.send(failure(-1, error))
        return
    gc.freeze()  # what importing and building made lives on; the collector need not look at it again
    while True:
        message = channel.next()
        try:
            reply = _answer(message, host, boot, memory, channel.send)
        except RequestFailed as failed:
            reply = failure(failed.env, failed.__cause__ or failed, failed.doing)
        except PeerGone:
            raise
        except Exception as error:  # noqa: BLE001 - such as an info that cannot travel, in a part of an answer
            reply = failure(-1, error)
        try:
            channel.send(reply)
        except ProtocolError as error:
            if isinstance(error, PeerGone):
                raise
            channel.send(failure(-1, error))
        if isinstance(message, Close):
            return


def _answer(message: Message, host: Host, boot: Boot, memory: int, emit: Callable[[Message], None]) -> Message:
    if isinstance(message, Close):
        host.close()
        return Closed()
    if isinstance(message, Attach):
        layouts = host.layouts()
        if message.size != Arena.size(*layouts, message.rows, message.slots):
            raise ProtocolError("parent and worker disagree on the layout of the shared memory")
        host.attach(Arena(*layouts, message.rows, message.slots, memory), message.first, boot.worker)
        return Attached()
    return host.serve(message, emit)


def _build(factory: EnvFactory, boot: Boot, index: int) -> Env:
    try:
        return build(factory, boot.first_env + index, boot.num_envs)
    except Exception as error:
        raise RequestFailed(index, "construction") from error


def build(factory: EnvFactory, env_index: int, num_envs: int) -> Env:
    """Make an environment and tell it its place, which it may want to know, for instance to open a port of its own."""
    env = factory()
    for name, value in (("env_index", env_index), ("num_envs", num_envs)):
        if hasattr(env.unwrapped, name):
            with contextlib.suppress(AttributeError):  # a property of the environment's own
                setattr(env.unwrapped, name, value)
    return env


def end_with_parent(lifeline: int) -> None:
    """End this process when the pipe to its parent closes, also while an environment computes."""
    # the kernel does it where it can, even while an environment holds Python's lock
    if hasattr(fcntl, "F_SETSIG"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)

    def watch() -> None:
        while os.read(lifeline, 4096):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def run(
    boot: Boot, load: Callable[[], Sequence[EnvFactory]], lifeline: int, sock: socket.socket | None, memory: int
) -> None:
    """Be a worker until the parent closes the connection or dies."""
    end_with_parent(lifeline)
    if hasattr(os, "SCHED_BATCH"):
        # a worker that wakes up shall not push the parent off its core before the parent has woken the others
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    if sock is not None:
        channel = Channel(sock, Role.WORKER)
    else:
        assert boot.address is not None
        channel = dial(boot.address, boot.timeout)
    try:
        serve(channel, boot, load, memory)
    except PeerGone:
        pass  # the parent closed or died; there is nobody to tell
    finally:
        channel.close()


def _read_exactly(file: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(file, min(size, 1 << 20))
        if not part:
            os._exit(1)  # the parent is gone
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def main() -> None:
    """Entry point of a spawned worker: descriptors as arguments, everything else through the lifeline."""
    lifeline, sock, memory = (int(argument) for argument in sys.argv[1:4])
    sys.argv[1:] = []
    length = int.from_bytes(_read_exactly(lifeline, 8), "little")
    _main(_read_exactly(lifeline, length), lifeline, sock, memory)


def served(payload: bytes, files: tuple[int, int, int]) -> None:
    """Entry point of a worker that multiprocessing's fork server makes."""
    os.setsid()
    # a daemon of multiprocessing may not have children, but environments may
    import multiprocessing

    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    _main(payload, *files)


def _main(payload: bytes, lifeline: int, sock: int, memory: int) -> None:
    line, _, pickled = payload.partition(b"\n")
    boot = Boot.from_line(line)
    sys.path[:] = boot.sys_path

    def load() -> Any:
        return cloudpickle.loads(pickled)

    run(boot, load, lifeline, None if sock < 0 else socket.socket(fileno=sock), memory)
