"""A stand-in for Ray, with what physgym uses of it: actors are processes of this machine, killed as machines are.

It is no Ray: it places everything at once, pickles nothing and asks for no token. `tests/machines/test_ray.py` runs the
same with Ray itself where that is installed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

FORK = multiprocessing.get_context("fork")


class RayError(Exception):
    pass


class RayActorError(RayError):
    pass


class RayTaskError(RayError):
    pass


def _serve(pipe: Any, kind: type, arguments: tuple[Any, ...]) -> None:
    actor = kind(*arguments)
    while True:
        name, given = pipe.recv()
        try:
            pipe.send((getattr(actor, name)(*given), None))
        except Exception as error:  # noqa: BLE001 - whatever it is
            pipe.send((None, repr(error)))


class Answer:
    """What an actor is to answer."""

    def __init__(self, actor: Actor) -> None:
        self.actor, self.value = actor, None


class Actor:
    """A process that makes an object and calls its methods, one after the other."""

    def __init__(self, kind: type, arguments: tuple[Any, ...]) -> None:
        self.pipe, theirs = FORK.Pipe()
        self.process = FORK.Process(target=_serve, args=(theirs, kind, arguments))
        self.process.start()
        theirs.close()

    def __getattr__(self, name: str) -> Any:
        def remote(*given: Any) -> Answer:
            with contextlib.suppress(OSError):  # it is dead, which its answer says
                self.pipe.send((name, given))
            return Answer(self)

        return SimpleNamespace(remote=remote)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class StandInRay(ModuleType):
    """The module."""

    def __init__(self, nodes: list[dict[str, float]]) -> None:
        super().__init__("ray")
        self.resources, self.actors, self.options = nodes, [], []
        self.exceptions = SimpleNamespace(RayError=RayError, RayActorError=RayActorError, RayTaskError=RayTaskError)
        self.util = SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1")
        self.running = False

    def is_initialized(self) -> bool:
        return self.running

    def init(self, **_: Any) -> None:
        self.running = True

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": resources} for resources in self.resources]

    def remote(self, kind: type) -> Any:
        def options(**given: Any) -> Any:
            self.options.append(given)

            def place(*arguments: Any) -> Actor:
                self.actors.append(Actor(kind, arguments))
                return self.actors[-1]

            return SimpleNamespace(remote=place)

        return SimpleNamespace(options=options)

    def wait(self, answers: list[Answer], num_returns: int, timeout: float) -> tuple[list[Answer], list[Answer]]:
        deadline = time.monotonic() + timeout
        while True:
            ready = [one for one in answers if one.actor.pipe.closed or one.actor.pipe.poll()][:num_returns]
            if ready or time.monotonic() > deadline:
                return ready, [one for one in answers if one not in ready]
            time.sleep(0.01)

    def get(self, answer: Answer) -> Any:
        try:
            value, error = answer.actor.pipe.recv()
        except (EOFError, OSError) as gone:
            raise RayActorError("The actor died.\nIts machine is gone.") from gone
        if error is not None:
            raise RayTaskError(error)
        return value

    def kill(self, actor: Actor) -> None:
        actor.end()

    def shutdown(self) -> None:
        for actor in self.actors:
            actor.end()
        self.running = False


@contextmanager
def stand_in(monkeypatch: Any, *nodes: dict[str, float]) -> Iterator[StandInRay]:
    """Have `import ray` give the stand-in, of machines with these resources."""
    found = StandInRay(list(nodes))
    monkeypatch.setitem(__import__("sys").modules, "ray", found)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_TMPDIR", "/dev/null")  # no cluster of this machine is noted
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    try:
        yield found
    finally:
        found.shutdown()
