"""The contract of a transport, as tests: subclass `ChannelContract`, and say how to make a connected pair.

Example::

    class TestUnix(ChannelContract):
        def pair(self):
            ours, theirs = socket_pair()
            return SocketChannel(ours, Role.PARENT), SocketChannel(theirs, Role.WORKER)

Where workers connect to an address, `ListenerContract` has the tests for that.
"""

from __future__ import annotations

import json
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import pytest
from gymnasium import spaces

from physgym import spaces as walk
from physgym.errors import ProtocolError
from physgym.protocol.messages import (
    LARGEST_PART,
    Call,
    CallResult,
    Close,
    GiveInputs,
    Hello,
    Message,
    Predict,
    Prediction,
    Ready,
    Results,
    Role,
    Rollout,
    ScenePart,
    Step,
    WatchScenes,
    Welcome,
)
from physgym.transport.auth import admit, challenge, greet, proof
from physgym.transport.base import Channel, Listener, PeerGone

PATIENCE = 30.0  # seconds for what takes a moment on a machine that is not busy
TOKEN = bytes(range(32))
LARGE = 8 << 20  # bytes: more than a transport takes at once
NOTHING: dict[str, Any] = dict.fromkeys(("sample_space", "sample_fields", "parameter_space", "parameter_fields"))
READY = Ready(
    2,
    {
        **NOTHING,
        "observation_space": walk.to_json(spaces.Box(-1, 1, (180, 180), np.float64)),
        "observation_spaces": [],
        "action_space": walk.to_json(spaces.Discrete(2)),
        "metadata": {},
        "render_mode": None,
        "max_episode_steps": None,
    },
)
T = TypeVar("T")


def in_thread(work: Callable[..., T], *arguments: Any) -> Callable[[], T]:
    """Start some work; return a function that waits for its result, or raises what it raised."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((work(*arguments), None))
        except Exception as error:  # noqa: BLE001 - raised again where the result is wanted
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> T:
        thread.join(PATIENCE)
        assert not thread.is_alive()
        value, error = outcome[0]
        if error is not None:
            raise error
        done: T = value
        return done

    return result


def arrived(parent: Channel, count: int = 1) -> list[Any]:
    """Return messages at the parent's end, which waits by its descriptor alone."""
    messages: list[Message] = []
    deadline = time.monotonic() + PATIENCE
    while len(messages) < count:
        assert time.monotonic() < deadline, f"{len(messages)} of {count} messages arrived"
        if shows_event(parent, 1.0):
            if parent.unsent:
                parent.flush()
            messages += parent.receive()
    return messages


def flushed(parent: Channel) -> None:
    """Send what waits at the parent's end while the worker takes it."""
    deadline = time.monotonic() + PATIENCE
    while parent.unsent:
        assert time.monotonic() < deadline
        shows_event(parent, 1.0)
        parent.flush()


def shows_event(channel: Channel, seconds: float = 0.0) -> bool:
    """Return whether the descriptor of a channel shows one of the events that it wants."""
    poll = select.poll()
    poll.register(channel.fileno(), channel.wants)
    return bool(poll.poll(seconds * 1000))


def repeatedly(work: Callable[[], object]) -> None:
    """Do something again and again: what is sent first may be under way before the end of the peer is known."""
    for _ in range(20):
        work()
        time.sleep(0.05)


def introduced(parent: Channel, worker: Channel) -> None:
    """Bring a pair to the state in which the parent sends requests."""
    challenge(parent)
    greeted = in_thread(greet, worker, TOKEN, 3, 4711)
    (hello,) = arrived(parent)
    assert admit(parent, hello, TOKEN)
    greeted()
    worker.send(READY)
    assert [type(message) for message in arrived(parent)] == [Ready]


class ChannelContract:
    """The tests that every channel passes."""

    def pair(self) -> tuple[Channel, Channel]:
        """Return the parent's end and the worker's end of a new connection, between which nothing was said."""
        raise NotImplementedError

    @pytest.fixture
    def strangers(self) -> Iterator[tuple[Channel, Channel]]:
        """Give a pair between which nothing was said."""
        parent, worker = self.pair()
        worker.set_timeout(PATIENCE)
        yield parent, worker
        parent.close()
        worker.close()

    @pytest.fixture
    def ends(self, strangers: tuple[Channel, Channel]) -> tuple[Channel, Channel]:
        """Give a pair that is ready for requests."""
        introduced(*strangers)
        return strangers

    def test_each_end_has_its_role(self, strangers: Any) -> None:
        """Check which end is which, and that their nonces differ."""
        parent, worker = strangers
        assert [end.connection.role for end in strangers] == [Role.PARENT, Role.WORKER]
        assert parent.nonce != worker.nonce
        assert {len(parent.nonce), len(worker.nonce)} == {32}

    def test_a_worker_is_admitted_for_the_token_alone(self, strangers: Any) -> None:
        """Check that a wrong proof is refused."""
        parent, worker = strangers
        challenge(parent)
        worker.next()
        worker.send(Hello(3, 1, worker.nonce, proof(bytes(32), Role.WORKER, parent.nonce, 3)))
        assert not admit(parent, arrived(parent)[0], TOKEN)

    def test_a_worker_leaves_a_parent_that_does_not_know_the_token(self, strangers: Any) -> None:
        """Check that a worker wants a proof as well."""
        parent, worker = strangers
        challenge(parent)
        greeted = in_thread(greet, worker, TOKEN, 3, 1)
        (hello,) = arrived(parent)
        parent.send(Welcome(proof(bytes(32), Role.PARENT, hello.nonce, 3)))
        with pytest.raises(ProtocolError, match="does not know this worker's token"):
            greeted()

    def test_messages_keep_their_order(self, ends: Any) -> None:
        """Check that many small messages arrive as they were sent."""
        parent, worker = ends
        names = [f"m{number}" for number in range(300)]
        taken = in_thread(lambda: [worker.next() for _ in names])
        for name in names:
            parent.send(Call("call", name))
        flushed(parent)
        assert taken() == [Call("call", name) for name in names]
        answered = in_thread(lambda: [worker.send(CallResult([name, None])) for name in names])
        assert [reply.results[0] for reply in arrived(parent, 300)] == names
        answered()

    def test_large_messages_both_ways_at_once_stop_nobody(self, ends: Any) -> None:
        """Check that the parent reads while it cannot write."""
        parent, worker = ends
        payload = np.random.default_rng(0).bytes(LARGE)
        for name in ("x", "y"):
            parent.send(Call("call", name, [payload]))
        assert parent.unsent, "a transport that takes everything at once has no end of memory"

        def serve() -> None:
            for _ in range(2):
                request = worker.next()
                assert isinstance(request, Call)
                worker.send(CallResult([request.name, request.args[0]]))

        served = in_thread(serve)
        assert [reply.results for reply in arrived(parent, 2)] == [["x", payload], ["y", payload]]
        served()
        assert not parent.unsent

    def test_the_parents_end_does_not_block(self, ends: Any) -> None:
        """Check that nothing waits at the parent's end."""
        parent, _ = ends
        begun = time.monotonic()
        assert parent.receive() == []
        assert parent.wants == select.POLLIN
        for _ in range(20):
            parent.send(Call("call", "x", [bytes(1 << 20)]))
        parent.flush()
        assert parent.unsent
        assert parent.wants & select.POLLOUT
        assert parent.receive() == []
        assert time.monotonic() - begun < 5

    def test_the_workers_end_blocks(self, ends: Any) -> None:
        """Check that a worker waits for its next request."""
        parent, worker = ends
        taken = in_thread(worker.next)
        time.sleep(0.1)
        parent.send(Step(0))
        assert taken() == Step(0)

    def test_silence_ends_a_workers_wait(self, strangers: Any) -> None:
        """Check that a timeout is kept, and can be taken back."""
        parent, worker = strangers
        worker.set_timeout(0.05)
        with pytest.raises(ProtocolError, match=r"nothing arrived for 0\.05 s"):
            greet(worker, TOKEN, 0, 1)
        worker.set_timeout(None)
        taken = in_thread(worker.next)
        time.sleep(0.2)
        challenge(parent)
        taken()

    def test_a_timeout_concerns_nothing_but_waits_for_bytes(self, ends: Any) -> None:
        """Check that what does not wait, and what is written, knows no timeout."""
        parent, worker = ends
        for channel in ends:
            channel.set_timeout(0.05)
        begun = time.monotonic()
        assert parent.receive() == []
        assert worker.read(memoryview(bytearray(100)), wait=False) is None
        parent.send(Call("call", "x"))
        worker.next()
        reply = CallResult([bytes(8 << 20), 1])  # more than is under way
        answered = in_thread(lambda: worker.send(reply))
        time.sleep(0.2)
        assert len(arrived(parent, 1)) == 1
        answered()
        while not parent.unsent:
            parent.send(Call("call", "x", [bytes(1 << 20)]))
        parent.flush()
        assert time.monotonic() - begun < PATIENCE

    def test_the_descriptor_shows_what_arrives(self, ends: Any) -> None:
        """Check that polling the descriptor finds every message, and nothing once all are taken."""
        parent, worker = ends
        assert not shows_event(parent)
        for number in range(3):
            for _ in range(number + 1):
                parent.send(Call("call", "x"))
                worker.next()
            # one more than a transport may read at once
            reply = CallResult([bytes(100_000), 1])
            answered = in_thread(lambda number, reply: [worker.send(reply) for _ in range(number + 1)], number, reply)
            assert len(arrived(parent, number + 1)) == number + 1
            answered()
            assert not parent.has_input
            assert not shows_event(parent)

    def test_nothing_that_arrived_is_kept_back(self, ends: Any) -> None:
        """Check that a call of `receive` leaves nothing that the descriptor does not show."""
        parent, worker = ends
        for _ in range(50):
            parent.send(Call("call", "x"))
        for _ in range(50):
            worker.next()
            worker.send(CallResult([1, 2]))
        assert shows_event(parent, PATIENCE)
        count = 0
        while shows_event(parent):
            count += len(parent.receive())
            assert not parent.has_input
        assert count == 50

    def test_arrays_that_wait_are_copies(self, ends: Any) -> None:
        """Check that actions may be overwritten once they are sent."""
        parent, worker = ends
        actions = [np.zeros(2, np.int64)]
        while not parent.unsent:
            parent.send(Call("call", "x", [bytes(1 << 20)]))
        parent.send(Step(0, None, actions))
        actions[0][:] = 1
        taken = in_thread(lambda: next(m for m in iter(worker.next, None) if isinstance(m, Step)))
        flushed(parent)
        step = taken()
        assert step.actions is not None
        assert step.actions[0].tolist() == [0, 0]

    def test_arrays_that_were_sent_may_change(self, ends: Any) -> None:
        """Check that a worker may overwrite its observations once they are sent."""
        parent, worker = ends
        observations, rewards, flags = np.ones((2, 180, 180)), np.zeros(2), np.zeros(2, np.bool_)
        for _ in range(8):
            parent.send(Step(0))

        def serve() -> None:
            for number in range(8):
                worker.next()
                observations[:] = number
                worker.send(Results(None, [observations, rewards, flags, flags]))

        served = in_thread(serve)
        for number, results in enumerate(arrived(parent, 8)):
            assert np.unique(results.arrays[0]).tolist() == [number]
        served()

    def test_requests_that_come_before_a_prediction_keep_their_order(self, ends: Any) -> None:
        """Check that a worker that asks is answered first."""
        parent, worker = ends
        parent.send(Rollout([[0, 0]], 1, 1))
        worker.next()
        worker.send(Predict(0, {}))
        arrived(parent)
        for name in ("a", "b"):
            parent.send(Call("call", name))
        parent.send(Prediction({"y": 1.0}))
        parent.send(Call("call", "c"))
        assert worker.next_prediction() == Prediction({"y": 1.0})
        assert [worker.next().name for _ in range(3)] == ["a", "b", "c"]

    def test_a_worker_sees_that_it_is_asked_to_close(self, ends: Any) -> None:
        """Check that `Close` is found behind other requests, which stay."""
        parent, worker = ends
        assert not worker.asked_to_close()
        parent.send(Call("call", "x"))
        assert not worker.asked_to_close()
        parent.send(Call("call", "y", [bytes(1000)]))
        parent.send(Close())
        deadline = time.monotonic() + PATIENCE
        while not worker.asked_to_close():
            assert time.monotonic() < deadline
        assert [type(worker.next()) for _ in range(3)] == [Call, Call, Close]

    def test_a_worker_that_looks_for_close_does_not_wait(self, ends: Any) -> None:
        """Check that the part of a message which is there keeps no worker from continuing with its episode."""
        parent, worker = ends
        parent.send(Call("call", "x", [bytes(LARGE)]))
        assert parent.unsent
        for _ in range(3):
            assert in_thread(worker.asked_to_close)() is False
        taken = in_thread(worker.next)
        flushed(parent)
        assert taken() == Call("call", "x", [bytes(LARGE)])

    def test_a_worker_takes_wishes_for_frames_from_among_requests(self, ends: Any) -> None:
        """Check that the last `WatchScenes` that came is found, and that requests keep their order."""
        parent, worker = ends
        assert worker.watch_request() is None
        for message in (Call("call", "x"), WatchScenes([0], 0.5), Call("call", "y"), WatchScenes([0, 1], 0.1), Close()):
            parent.send(message)
        deadline = time.monotonic() + PATIENCE
        while not worker.asked_to_close():
            assert time.monotonic() < deadline
        assert worker.watch_request() == WatchScenes([0, 1], 0.1)
        assert worker.watch_request() is None
        assert [type(worker.next()) for _ in range(3)] == [Call, Call, Close]

    def test_a_worker_takes_a_persons_inputs_from_among_requests(self, ends: Any) -> None:
        """Check that each `GiveInputs` that came is found, and that requests keep their order."""
        parent, worker = ends
        given = [GiveInputs(0, [["push", number / 2]]) for number in range(3)]
        for message in (
            Call("call", "x"),
            given[0],
            WatchScenes([0], 0.5),
            given[1],
            Call("call", "y"),
            given[2],
            Close(),
        ):
            parent.send(message)
        deadline = time.monotonic() + PATIENCE
        while not worker.asked_to_close():
            assert time.monotonic() < deadline
        assert worker.given_inputs() == given
        assert worker.given_inputs() == []
        assert worker.watch_request() == WatchScenes([0], 0.5)
        assert [type(worker.next()) for _ in range(3)] == [Call, Call, Close]

    def test_what_may_be_left_out_is_never_waited_for(self, ends: Any) -> None:
        """Check that a worker which sends only where there is room continues while nobody reads."""
        parent, worker = ends
        parent.send(Step(0))
        worker.next()

        def fill() -> int:
            sent = 0
            while worker.room and sent < 10_000:
                worker.send(ScenePart(0, 0, 1, bytes(LARGEST_PART)))
                sent += 1
            return sent

        sent = in_thread(fill)()
        assert 0 < sent < 10_000, "a connection that takes everything has no end of memory"
        assert len(arrived(parent, sent)) == sent
        assert worker.room

    def test_a_fork_that_lets_go_of_its_copy_ends_nothing(self, ends: Any) -> None:
        """Processes are forked for many reasons, by others too; each closes what it has inherited."""
        parent, worker = ends
        if (pid := os.fork()) == 0:
            try:
                parent.close()
                worker.close()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        parent.send(Call("call", "x"))
        flushed(parent)
        assert worker.next() == Call("call", "x")
        worker.send(CallResult([1, 2]))
        assert arrived(parent) == [CallResult([1, 2])]

    @pytest.mark.parametrize("role", Role)
    def test_the_end_of_a_peer_shows(self, ends: Any, role: Role) -> None:
        """Check that a closed connection is an error at the other end, and closing it again is none."""
        parent, worker = ends
        for _ in range(20):
            parent.send(Call("call", "x"))
        for _ in range(20):
            worker.next()
        gone, other = (worker, parent) if role is Role.PARENT else (parent, worker)
        gone.close()
        gone.close()
        assert shows_event(other, PATIENCE)
        with pytest.raises(PeerGone, match="the peer closed the connection"):
            other.receive()
        with pytest.raises(PeerGone, match="the peer closed the connection"):
            repeatedly(lambda: other.send(Call("call", "x") if role is Role.PARENT else CallResult([1, 2])))

    def test_what_was_said_before_the_end_is_heard(self, ends: Any) -> None:
        """Check that a worker's last words arrive, and then its end."""
        parent, worker = ends
        parent.send(Call("call", "x"))
        worker.next()
        worker.send(CallResult([1, 2]))
        worker.close()
        assert arrived(parent) == [CallResult([1, 2])]
        with pytest.raises(PeerGone):
            arrived(parent)

    def test_the_end_of_a_peer_shows_within_a_large_message(self, ends: Any) -> None:
        """Check that writing to a closed connection is an error."""
        parent, worker = ends
        parent.send(Call("call", "x", [bytes(2 * LARGE)]))
        worker.receive()
        worker.close()
        with pytest.raises(PeerGone):
            repeatedly(parent.flush)

    def test_what_cannot_be_sent_sends_nothing(self, ends: Any) -> None:
        """Check that a message that is refused leaves the connection as it is."""
        parent, worker = ends
        for message in (Call("call", "x", [object()]), CallResult([1, 2]), Step(0, [5], [np.zeros(2)])):
            with pytest.raises(ProtocolError):
                parent.send(message)
            assert not parent.unsent
        parent.send(Call("call", "y"))
        assert worker.next() == Call("call", "y")


class ListenerContract:
    """The tests that every listener passes."""

    def listen(self) -> Listener:
        """Return a listener."""
        raise NotImplementedError

    def dial(self, listener: Listener) -> Channel:
        """Return the worker's end of a new connection to a listener of this test; may wait for the parent's end."""
        raise NotImplementedError

    def _join(self, listener: Listener, worker: int) -> Channel:
        channel = self.dial(listener)
        channel.set_timeout(PATIENCE)
        try:
            greet(channel, TOKEN, worker, 1)
        except BaseException:
            channel.close()
            raise
        return channel

    @pytest.fixture
    def listener(self) -> Iterator[Listener]:
        """Give a listener."""
        listener = self.listen()
        yield listener
        listener.close()
        listener.close()

    def test_the_address_is_json_data(self, listener: Listener) -> None:
        """Check that a worker may get the address as text."""
        assert json.dumps(listener.address)

    def test_nobody_listens(self, listener: Listener) -> None:
        """Check that the address of a closed listener is an error."""
        listener.close()
        with pytest.raises(OSError):  # noqa: PT011
            self.dial(listener)

    def test_nobody_is_no_error(self, listener: Listener) -> None:
        """Check that accepting does not block."""
        assert listener.accept() is None

    def test_connections_are_separate(self, listener: Listener) -> None:
        """Check that the descriptor shows who connects, and that one connection does not disturb another."""
        poll = select.poll()
        poll.register(listener.fileno(), select.POLLIN)
        greeted = [in_thread(self._join, listener, worker) for worker in range(2)]
        parents: list[Channel] = []
        while len(parents) < 2:
            assert poll.poll(PATIENCE * 1000)
            if (channel := listener.accept()) is not None:
                parents.append(channel)
        assert all(parent.connection.role is Role.PARENT for parent in parents)
        for parent in parents:
            challenge(parent)
        hellos = [arrived(parent)[0] for parent in parents]
        assert {hello.worker for hello in hellos} == {0, 1}
        for parent, hello in zip(parents, hellos, strict=True):
            if hello.worker == 0:
                parent.close()
            else:
                assert admit(parent, hello, TOKEN)
        with pytest.raises(PeerGone):
            greeted[0]()
        for channel in (*parents, greeted[1]()):
            channel.close()
