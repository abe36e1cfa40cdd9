"""Claims of the machine by environments of which it may hold one alone, whichever process has it.

A claim is a socket of Linux's abstract names, which belong to no file, are seen by all processes of the machine (of a
container with a network of its own, of that), and end with the process that holds one, however it ends.
"""

from __future__ import annotations

import os
import socket
import struct
import time
import weakref
from collections.abc import Callable
from typing import Any

from physgym.batched.row_env import RowEnv
from physgym.errors import SharedMachine
from physgym.placement import Env
from physgym.single import MACHINE, SINGLE, single_of
from physgym.transport.sockets import above

PATIENCE = 1.0  # seconds: a process that is ending may have it still
LOOK = 0.05
ASKING = 128  # processes that may ask who has a claim, of which nobody takes notice
HERE = "this process"

_held: weakref.WeakKeyDictionary[Env, Callable[[], Any]] = weakref.WeakKeyDictionary()  # by what is in all wrappers


def claim_machine(env: Env) -> None:
    """Claim the machine for an environment that wants it alone; nothing happens for others, nor the second time.

    Raises:
        SharedMachine: Another one of its class has it.
        ConfigError: Its declaration is wrong.
    """
    inner = env.unwrapped
    if single_of(env.metadata) != MACHINE or inner in _held:
        return
    kind = type(inner.batch if isinstance(inner, RowEnv) else inner)
    name = f"\0physgym-single/{kind.__module__}:{kind.__qualname__}".encode()[:107]
    deadline, holder = time.monotonic() + PATIENCE, ""
    while True:
        sock = above(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        try:
            sock.bind(name)
            sock.listen(ASKING)
        except OSError as error:
            sock.close()
            holder = holder or _holder(name)
            if holder == HERE or time.monotonic() > deadline:
                raise SharedMachine(
                    f'{kind.__name__} declares {SINGLE} = "{MACHINE}", and {holder} has one already. Close that one '
                    "first; others run in workers of other machines, which connect (physgym worker)"
                ) from error
            time.sleep(LOOK)
        else:
            _held[inner] = weakref.finalize(inner, sock.close)
            return


def claimed(env: Env) -> Env:
    """Return an environment that was just made, after `claim_machine`; it is closed where that raises."""
    try:
        claim_machine(env)
    except BaseException:
        env.close()
        raise
    return env


def release_machine(env: Env) -> None:
    """Give up the claim of an environment that was closed; calling it again does no harm."""
    if (end := _held.pop(env.unwrapped, None)) is not None:
        end()


def _release_all() -> None:
    for env in [*_held]:
        release_machine(env)


os.register_at_fork(after_in_child=_release_all)  # the environment is the parent's


def _holder(name: bytes) -> str:
    """Return in a few words which process has a claim."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(name)
            pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        except OSError:
            return "another process of this machine"
    return HERE if pid == os.getpid() else f"process {pid} of this machine"
