"""The contract of a launcher, as tests: subclass `LauncherContract`, and say how to make yours.

Example::

    class TestSpawn(LauncherContract):
        def launcher(self):
            return SpawnLauncher()

Where workers are no children of this process, `ended` says how to find out that one has ended.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import select
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from physgym.errors import ConfigError
from physgym.launch.base import Launcher, Order, WorkerHandle
from physgym.launch.processes import ProcessHandle
from physgym.protocol.messages import Call, CallResult, Close, Closed, Failure, Hello, Message, Ready
from physgym.system import process_tree as tree
from physgym.system.children import ParentPipe
from physgym.transport.auth import admit, challenge
from physgym.transport.base import Channel, PeerGone
from physgym.transport.table import entry_of, transport_of
from physgym.worker.main import WorkerStart

ANYWAY = contextlib.nullcontext()
PATIENCE = 60.0  # seconds for what takes a moment on a machine that is not busy


class Still(gymnasium.Env[Any, Any]):
    """An environment in which nothing happens.

    Args:
        seconds: How long its construction takes.
        unfit: Whether it cannot be made.
        lock: Something that cannot be pickled.
    """

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, seconds: float = 0.0, *, unfit: bool = False, lock: Any = None) -> None:
        if unfit:
            raise ValueError("it cannot be made")
        time.sleep(seconds)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Do nothing."""
        return np.zeros(2, np.float32), 0.0, False, False, {}

    def process(self) -> int:
        """Return the number of the process in which it lives."""
        return os.getpid()


class Started:
    """A worker that was started, and this end of its connection.

    Args:
        launcher: What starts it.
        make: Makes its environment.
        index: Which worker it is.
    """

    def __init__(self, launcher: Launcher[Any], make: Any, index: int = 0) -> None:
        self.launcher, self._token, self.index = launcher, secrets.token_bytes(32), index
        self.parent_pipe = ParentPipe() if launcher.inherits else None
        path = [str(Path(entry).resolve()) for entry in sys.path]
        mode, mark = AutoresetMode.NEXT_STEP.name, tree.new_mark()
        transport = transport_of(None, 0, inherit=launcher.inherits)
        self._listener = transport.listen(0)
        address = None if self._listener is None else self._listener.address
        worker_start = WorkerStart(
            entry_of(transport), address, self._token.hex(), index, index, index + 1, mode, PATIENCE, path, None, mark
        )
        self._channel, theirs = transport.pair()
        try:
            with theirs or ANYWAY:
                self.handle: WorkerHandle = launcher.start(Order(worker_start, [make], self.parent_pipe, theirs))
        except BaseException:
            self.close()
            raise

    @property
    def channel(self) -> Channel:
        """Return the parent's end of its connection, for which a worker that connects is waited for."""
        end = time.monotonic() + PATIENCE
        while self._channel is None and time.monotonic() < end:
            assert self._listener is not None
            self._channel = self._listener.accept()
            time.sleep(0.01)
        assert self._channel is not None, "the worker does not connect"
        return self._channel

    def greet(self) -> Message:
        """Shake hands; return what the worker says of its environments."""
        challenge(self.channel)
        hello = self.next()
        assert isinstance(hello, Hello)
        assert hello.worker == self.index
        assert admit(self.channel, hello, self._token)
        return self.next()

    def ask(self, message: Message) -> Message:
        """Return the answer to a request."""
        self.channel.send(message)
        return self.next()

    def next(self) -> Message:
        """Return the worker's next message."""
        poll = select.poll()
        poll.register(self.channel.fileno(), select.POLLIN)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if poll.poll(100) and (messages := self.channel.receive()):
                return messages[0]
        raise TimeoutError("the worker says nothing")

    def end(self) -> None:
        """End the worker at once."""
        self.launcher.end([self.handle], 0.0)
        self.close()

    def close(self) -> None:
        """Let go of the worker."""
        if self._channel is not None:
            self._channel.close()
        if self._listener is not None:
            self._listener.close()
        if self.parent_pipe is not None:
            self.parent_pipe.close()


class LauncherContract:
    """The tests of a launcher.

    Attributes:
        shares_memory: Whether workers are copies of this process, to which anything can be handed.
    """

    shares_memory = False

    def launcher(self) -> Launcher[Any]:
        """Return the launcher to test."""
        raise NotImplementedError

    def ended(self, handle: Any) -> bool:
        """Return whether a worker has ended, without waiting for it."""
        return handle.poll() is not None

    def ends(self, worker: Started) -> bool:
        """Return whether a worker ends, after a wait for it."""
        end = time.monotonic() + PATIENCE
        while not self.ended(worker.handle) and time.monotonic() < end:
            time.sleep(0.01)
        return self.ended(worker.handle)

    @pytest.fixture
    def start(self) -> Iterator[Any]:
        """Start workers, which are ended after the test."""
        launcher, workers = self.launcher(), []

        def start(make: Any = Still, index: int = 0) -> Started:
            workers.append(Started(launcher, make, index))
            return workers[-1]

        yield start
        launcher.end([worker.handle for worker in workers], 0.0)
        for worker in workers:
            worker.close()

    def test_a_worker_connects_proves_itself_and_serves(self, start: Any) -> None:
        """Check that a worker connects, proves itself and serves."""
        worker = start()
        ready = worker.greet()
        assert isinstance(ready, Ready)
        assert ready.count == 1
        answer = worker.ask(Call("call", "process"))
        assert isinstance(answer, CallResult)
        (process,) = answer.results
        assert process == (worker.handle.pid or process) != os.getpid()
        assert worker.handle.poll() is None
        assert not self.ended(worker.handle)

    def test_a_worker_that_has_closed_ends_by_itself(self, start: Any) -> None:
        """Check that a worker ends once its environments are closed and its connection too."""
        worker = start()
        worker.greet()
        assert isinstance(worker.ask(Close()), Closed)
        worker.launcher.end([worker.handle], PATIENCE, worker.channel.close)
        assert self.ends(worker)
        assert worker.handle.poll() == (0 if worker.handle.knows_end else None)

    def test_workers_come_and_go_one_by_one(self, start: Any) -> None:
        """Check that starting and ending one worker leaves the others alone."""
        first = start()
        first.greet()
        second = start(index=1)
        second.greet()
        first.end()
        assert self.ends(first)
        third = start(index=2)
        third.greet()
        answers = [worker.ask(Call("call", "process")) for worker in (second, third)]
        assert len({answer.results[0] for answer in answers}) == 2
        assert not self.ended(second.handle)
        assert len({str(worker.handle) for worker in (first, second, third)}) == (3 if second.handle.pid else 1)

    def test_starting_does_not_wait_for_environments(self, start: Any) -> None:
        """Check that `start` returns before the environments exist."""
        worker = start(functools.partial(Still, 1000.0))
        assert worker.handle.poll() is None
        worker.end()
        assert self.ends(worker)

    def test_a_constructor_that_raises_is_reported(self, start: Any) -> None:
        """Check that the error of a constructor is sent."""
        worker = start(functools.partial(Still, unfit=True))
        failure = worker.greet()
        assert isinstance(failure, Failure)
        assert failure.message == "it cannot be made"
        assert self.ends(worker)
        assert worker.handle.poll() == (0 if worker.handle.knows_end else None)

    def test_a_signal_shows_in_the_exit_status(self, start: Any) -> None:
        """Check that the handle knows how a worker ended."""
        worker = start()
        worker.greet()
        if not isinstance(worker.handle, ProcessHandle):
            pytest.skip("the workers of this launcher are no child processes")
        worker.handle.signal(9)
        assert self.ends(worker)
        assert worker.handle.poll() in (-9, 255)  # the fork server does not know by which signal
        worker.handle.signal(9)  # nobody is there any more
        with pytest.raises(PeerGone):
            worker.next()

    def test_ending_again_does_no_harm(self, start: Any) -> None:
        """Check that ended workers can be ended again, and that `hang_up` is called each time."""
        worker = start()
        calls: list[int] = []
        for _ in range(2):
            worker.launcher.end([worker.handle], 0.0, lambda: calls.append(1))
        worker.launcher.end([], 0.0, lambda: calls.append(1))
        assert len(calls) == 3
        worker.close()
        assert self.ends(worker)

    def test_a_worker_ends_with_the_process_that_started_it(self, start: Any) -> None:
        """Check that a worker ends with the process that has started it."""
        worker = start(functools.partial(Still, 1000.0))
        if worker.parent_pipe is None:
            worker.channel.close()
        else:
            worker.parent_pipe.close()
        assert self.ends(worker)

    def test_what_cannot_be_sent_is_an_error(self, start: Any) -> None:
        """Check that factories which cannot be pickled are an error of the caller."""
        with pytest.raises(ConfigError, match="cannot be sent to a worker") if not self.shares_memory else ANYWAY:
            start(functools.partial(Still, lock=threading.Lock()))
