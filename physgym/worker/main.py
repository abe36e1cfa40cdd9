"""A worker: a process that hosts several environments and serves them over a socket.

Its parent starts it and tells it, over a pipe between the two, where to connect and which environments to make (env
factories as cloudpickle; never over a socket). It never imports torch, h5py or a viewer unless an environment does.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import cloudpickle
import gymnasium
from gymnasium.vector import AutoresetMode

from physgym.batched.row_env import row_env
from physgym.code.env_description import identify_env
from physgym.errors import ProtocolError
from physgym.interrupt import outlive_announcements
from physgym.placement import DeclaringFactory, Env, EnvFactory, at, build
from physgym.protocol.buffers import Arena
from physgym.protocol.messages import (
    Attach,
    Attached,
    Close,
    Closed,
    GiveInputs,
    Message,
    Predict,
    Prediction,
    Ready,
    Rollout,
    ScenePart,
    WatchScenes,
)
from physgym.single import refuse_together
from physgym.system import process_tree as tree
from physgym.system.cores import THREAD_VARIABLES, pin
from physgym.system.descriptors import fill_standard
from physgym.transport.auth import greet
from physgym.transport.base import Channel, PeerGone
from physgym.transport.joining import join
from physgym.transport.table import imported
from physgym.worker.batch import RowBatch
from physgym.worker.env_group import EnvGroup
from physgym.worker.failures import RequestFailed, failure
from physgym.worker.folders import Folder
from physgym.worker.machine_claims import claim_machine, release_machine
from physgym.worker.trial import STARTS, after_trial
from physgym.worker.variants import Variants

FAREWELL = 2.0  # seconds to wait for the parent to hang up once the environments are closed


@dataclass(frozen=True)
class WorkerStart:
    """The first words of a parent to a worker that it starts.

    Attributes:
        transport: How it is connected, as an entry of `physgym.transport.table`.
        address: Where to connect to, as JSON data of the transport; None if the connection was inherited.
        token: The secret with which both ends prove themselves, as hexadecimal digits.
        worker: Index of this worker.
        first_env: Index of its first environment among all.
        num_envs: Number of environments of all workers.
        autoreset_mode: Name of the `AutoresetMode`.
        timeout: Seconds to wait for the parent when connecting.
        sys_path: The parent's module search path, so that its modules import here.
        seeds: Where the worker takes the place of one that died: seeds for the next reset of each environment.
        mark: Of its tree of processes; in the environment of all that it starts.
        cores: On which it runs; None for all.
    """

    transport: str
    address: Any
    token: str
    worker: int
    first_env: int
    num_envs: int
    autoreset_mode: str
    timeout: float
    sys_path: list[str]
    seeds: list[int | None] | None
    mark: str
    cores: list[int] | None = None

    def to_line(self) -> bytes:
        """Return one line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> WorkerStart:
        """Return what a line of `to_line` says."""
        return cls(**json.loads(line))


def serve(
    channel: Channel,
    worker_start: WorkerStart,
    load: Callable[[], Sequence[EnvFactory]],
    memory: int,
    check: Callable[[Message], None],
    fixed: Mapping[str, Any] | None,
) -> Close:
    """Build the environments, then answer requests until `Close`, which is returned, or the end of the connection.

    Args:
        channel: Connected to the parent, which was greeted.
        worker_start: What the parent said.
        load: Gives the env factories; may import the user's modules.
        memory: Descriptor of the shared memory, negative if there is none.
        check: Raises where a request is not to be served.
        fixed: Arguments that were given here; None on the machine of the parent.
    """
    outlive_announcements()
    channel.set_timeout(None)  # a parent may be idle for hours; its death ends the connection

    def ask(question: Predict) -> Prediction:
        channel.send(question)
        return channel.next_prediction()

    def offer(part: ScenePart) -> bool:
        if channel.room:
            channel.send(part)
            return True
        return False

    def look() -> bool:
        closing = channel.asked_to_close()
        if (wish := channel.watch_request()) is not None:
            group.watch(wish)
        for given in channel.given_inputs():
            group.give(given)
        return closing

    try:
        envs, folders, batch = build_all(load(), worker_start.first_env, worker_start.num_envs)
        group = EnvGroup(
            envs,
            AutoresetMode[worker_start.autoreset_mode],
            ask,
            worker_start.seeds,
            look,
            offer=offer,
            folders=folders,
            batch=batch,
        )
        description = group.describe()
        if fixed is not None:
            description["code"] |= identify_env(envs[0].present if isinstance(envs[0], Variants) else envs[0], fixed)
        channel.send(Ready(len(envs), description))
    except PeerGone:
        raise
    except RequestFailed as failed:
        channel.send(failed.message())
        return Close()
    except Exception as error:  # noqa: BLE001 - reported to the parent, which raises it
        channel.send(failure(-1, error))
        return Close()
    gc.freeze()  # what importing and building made lives on; the collector need not look at it again
    while True:
        message = channel.next()
        if isinstance(message, WatchScenes):
            group.watch(message)
            continue
        if isinstance(message, GiveInputs):
            group.give(message)
            continue
        try:
            check(message)
            if isinstance(message, Rollout) and memory >= 0 and (agreed := channel.connection.agreement) is not None:
                group.share_samples(memory, worker_start.worker, agreed.samples)
            reply = _answer(message, group, worker_start, memory, channel.send)
        except RequestFailed as failed:
            reply = failed.message()
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
            _await_end(channel)
            return message


def _await_end(channel: Channel) -> None:
    """Wait until the parent hangs up: it looks first at what this process has started."""
    channel.set_timeout(FAREWELL)
    with contextlib.suppress(ProtocolError):
        while True:
            channel.receive()


def _answer(
    message: Message, group: EnvGroup, worker_start: WorkerStart, memory: int, emit: Callable[[Message], None]
) -> Message:
    if isinstance(message, Close):
        group.close()
        return Closed()
    if isinstance(message, Attach):
        layouts = group.layouts()
        if message.size != Arena.size(*layouts, message.rows, message.slots):
            raise ProtocolError("parent and worker disagree on the layout of the shared memory")
        group.attach(Arena(*layouts, message.rows, message.slots, memory), message.first, worker_start.worker)
        return Attached()
    return group.serve(message, emit)


def build_all(
    factories: Sequence[EnvFactory],
    first_env: int,
    num_envs: int,
    *,
    local: bool = False,
) -> tuple[list[Env], list[Folder], RowBatch | None]:
    """Return the environments of a process, the folders in which their constructors left it, and what they are rows of.

    Args:
        factories: One for each.
        first_env: Index of the first one among all.
        num_envs: How many there are in all processes.
        local: Whether this is the process of the caller, and no worker.

    Raises:
        RequestFailed: A constructor raised, or the environments must not share a process.
    """
    if (made := _batch(factories, first_env, num_envs)) is not None:
        return made
    envs: list[Env] = []
    folders = [Folder() for _ in factories]
    for index, factory in enumerate(factories):
        try:
            with folders[index]:
                envs.append(build(factory, first_env + index, num_envs))
            refuse_together(envs[-1].metadata, len(factories), local=local)
            if not isinstance(envs[-1], Variants):  # which claims it for those that it makes
                claim_machine(envs[-1])
        except Exception as error:
            if isinstance(error, gymnasium.error.UnregisteredEnv):
                error.args = (
                    (
                        f"{error} A worker has not run the program that registered it: pass the id itself or its "
                        'EnvSpec in place of a callable, write "module:id", or import the module that registers it '
                        "inside of the callable"
                    ),
                )
            for env, folder in zip(envs, folders, strict=False):
                with contextlib.suppress(Exception), folder:
                    env.close()
                release_machine(env)
            raise RequestFailed(index, "construction") from error
    return envs, folders, None


def _batch(
    factories: Sequence[EnvFactory], first_env: int, num_envs: int
) -> tuple[list[Env], list[Folder], RowBatch] | None:
    """Return the rows of one vector environment as environments; None where each is to be made by itself.

    Raises:
        RequestFailed: The constructor raised.
    """
    first, folder = factories[0], Folder()
    if not isinstance(first, DeclaringFactory):
        return None
    try:
        with folder, at(first_env, num_envs):
            batch = first.batch(factories)
        if batch is None:
            return None
        envs: list[Env] = [row_env(batch.rows, row) for row in range(batch.rows.count)]
        try:
            claim_machine(envs[0])
        except BaseException:
            envs[0].close()
            raise
    except Exception as error:
        raise RequestFailed(0, "construction") from error
    return envs, [folder for _ in envs], batch


def end_with_parent(parent_pipe: int, mark: str) -> None:
    """End this process, with all that it has started, when the pipe to its parent closes.

    The kernel does it as well where it can, even while an environment holds Python's lock: see `ParentPipe.bind`.
    """

    def watch() -> None:
        while os.read(parent_pipe, 4096):
            pass
        _end_all(mark)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def end_with_connection(channel: Channel, mark: str) -> None:
    """End this process, with all that it has started, when the parent at the other end of a connection is gone.

    A worker that the parent did not start on its own machine has nothing else that says so while it computes.
    """

    def watch() -> None:
        poll = select.poll()
        poll.register(channel.fileno(), getattr(select, "POLLRDHUP", 0))
        poll.poll()
        time.sleep(FAREWELL)  # a worker that is idle ends by itself
        _end_all(mark)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def _end_all(mark: str) -> NoReturn:
    """End this process at once, with all that it has started."""
    mine = tree.look(os.getpid())
    with contextlib.suppress(Exception):
        tree.end([tree.Tree(mine, mark)])
    os._exit(1)


def guard_children(parent_pipe: int, mark: str) -> None:
    """Have a guard watch this process from the moment at which an environment starts a process.

    Where the parent is killed, the kernel ends the worker's session alone; the guard ends what has left it.
    """
    mine, guarded = os.getpid(), False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal guarded
        if event in STARTS and not guarded and os.getpid() == mine:
            guarded = True
            with contextlib.suppress(Exception):
                tree.start_guard(parent_pipe, mark)

    sys.addaudithook(hook)


def _keep_from_forks(parent_pipe: int, channel: Channel) -> None:
    """Have processes that are forked from this one let go of its connections: nobody shall take them for this one."""

    def close() -> None:
        channel.close()
        with contextlib.suppress(OSError):
            os.close(parent_pipe)

    os.register_at_fork(after_in_child=close)


def run(
    worker_start: WorkerStart,
    load: Callable[[], Sequence[EnvFactory]],
    parent_pipe: int,
    sock: socket.socket | None,
    memory: int,
    trial: socket.socket | None = None,
) -> None:
    """Serve as a worker until the parent closes the connection or dies.

    Args:
        worker_start: What the parent said.
        load: Gives the env factories.
        parent_pipe: Descriptor of the pipe to the parent, negative for a worker that somebody else has started.
        sock: The end of the connection that it has inherited; None if it connects.
        memory: Descriptor of the shared memory, negative if there is none.
        trial: Where the parent hears of a trial of the first environment; None where it wants none.
    """
    os.environ.update(tree.marked(os.environ, worker_start.mark))
    if parent_pipe >= 0:
        end_with_parent(parent_pipe, worker_start.mark)
    if hasattr(os, "SCHED_BATCH"):
        # a worker that wakes up shall not push the parent off its core before the parent has woken the others
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    pin(worker_start.cores)
    token, transport = bytes.fromhex(worker_start.token), imported(worker_start.transport)
    if sock is not None:
        channel = transport.adopt(sock)
        channel.set_timeout(worker_start.timeout)
        try:
            greet(channel, token, worker_start.worker, os.getpid())
        except PeerGone:
            channel.close()
            return  # the parent has ended this worker before it was needed, as at the end of a rollout
    else:
        channel = join(
            lambda seconds: transport.dial(worker_start.address, seconds),
            worker_start.timeout,
            token,
            worker_start.worker,
            os.getpid(),
        )

    def load_tried() -> Sequence[EnvFactory]:
        return load() if trial is None else after_trial(trial, load(), worker_start.num_envs)

    hold(channel, worker_start, load_tried, parent_pipe, memory)


def hold(
    channel: Channel,
    worker_start: WorkerStart,
    load: Callable[[], Sequence[EnvFactory]],
    parent_pipe: int,
    memory: int,
    check: Callable[[Message], None] = lambda _: None,
    fixed: Mapping[str, Any] | None = None,
) -> Close | None:
    """Serve over a connection whose parent was greeted; return how the parent has closed it, None where it was lost.

    Args:
        channel: The connection.
        worker_start: What the parent said.
        load: Gives the env factories.
        parent_pipe: Descriptor of the pipe to the parent, negative for a worker that somebody else has started.
        memory: Descriptor of the shared memory, negative if there is none.
        check: Raises where a request is not to be served, as one that its owner does not allow.
        fixed: Arguments that its owner has given; None on the machine of the parent.
    """
    _keep_from_forks(parent_pipe, channel)
    if parent_pipe >= 0:
        guard_children(parent_pipe, worker_start.mark)
    else:
        end_with_connection(channel, worker_start.mark)
    try:
        return serve(channel, worker_start, load, memory, check, fixed)
    except PeerGone:
        return None  # the parent died, or has ended this worker; there is nobody to tell
    finally:
        channel.close()


def main() -> None:
    """Run as a spawned worker: descriptors as arguments, everything else in the file of the last one."""
    files = [int(argument) for argument in sys.argv[1:6]]
    sys.argv[1:] = []
    parent_pipe, sock, memory, trial, given = files
    with open(given, "rb") as file:  # noqa: PTH123 - a descriptor
        payload = file.read()
    _main(payload, parent_pipe, sock, memory, trial)


def join_parent(payload: bytes) -> None:
    """Run as a worker that somebody else has started, maybe on another machine; it connects to its parent.

    Args:
        payload: All that it needs to know, as `physgym.launch.pickling.payload` gives it, from where no stranger can
            write.
    """
    fill_standard()
    _main(payload, -1, -1, -1, -1, keep_path=True)


def served(payload: bytes, files: tuple[int, int, int, int]) -> None:
    """Run as a worker that multiprocessing's fork server makes."""
    os.setsid()
    # a daemon of multiprocessing may not have children, but environments may
    import multiprocessing

    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    fill_standard()
    _main(payload, *files)


def _main(payload: bytes, parent_pipe: int, sock: int, memory: int, trial: int, *, keep_path: bool = False) -> None:
    line, _, pickled = payload.partition(b"\n")
    worker_start = WorkerStart.from_line(line)
    own = sys.path if keep_path else []
    sys.path[:] = [*own, *(entry for entry in worker_start.sys_path if entry not in own)]

    def load() -> Any:
        return cloudpickle.loads(pickled)

    sockets = [None if file < 0 else socket.socket(fileno=file) for file in (sock, trial)]
    run(worker_start, load, parent_pipe, sockets[0], memory, sockets[1])
