"""The beginning of a connection: a worker greets, proves itself, builds its environments and describes them."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Sequence

from physgym.errors import ProtocolError, WorkerError, WorkerLost
from physgym.protocol.messages import Failure, Hello, Message, Ready
from physgym.transport.auth import admit, challenge
from physgym.transport.base import Channel, Listener, PeerGone
from physgym.vector.watch import Watch
from physgym.vector.workers import RemoteWorker, reported

HANDSHAKE_POLL = 0.1
STRANGERS = 64  # connections at a time that have not proved to be workers
STRANGER_SECONDS = 10.0


class Handshake:
    """Shakes hands with workers that were started, whether they have inherited their connection or connect.

    Args:
        workers: Which ones.
        listener: Where they connect; None if they have inherited their connections.
        watch: Takes the connections of those that have connected.
        timeout: Seconds for all of it, for the text of an error.
        deadline: When they are over.
    """

    def __init__(
        self, workers: Sequence[RemoteWorker], listener: Listener | None, watch: Watch, timeout: float, deadline: float
    ) -> None:
        self._workers, self._listener = workers, listener
        self._watch, self._timeout, self._deadline = watch, timeout, deadline
        self._strangers: dict[int, tuple[Channel, float]] = {}  # connections, and since when
        self._poll = select.poll()
        if listener is not None:
            self._poll.register(listener.fileno(), select.POLLIN)
        for worker in workers:
            if worker.channel is not None:
                self._poll.register(worker.channel.fileno(), worker.channel.wants)

    @property
    def done(self) -> bool:
        """Return whether each worker has connected, proved itself and built its environments."""
        return all(worker.ready is not None for worker in self._workers)

    def run(self) -> None:
        """Wait until each worker is ready.

        Raises:
            WorkerError: One died, could not prove itself, or is not ready in time; or a constructor raised.
        """
        try:
            while not self.done:
                # a worker that dies before it dials shows by its process alone, hence the short waits
                self.go_on(HANDSHAKE_POLL)
        finally:
            self.close()

    def go_on(self, seconds: float) -> None:
        """Deal with what workers say within so many seconds. Raises as `run` does."""
        for file, _ in self._poll.poll(seconds * 1000):
            if file in self._watch.workers:
                self._greeted(self._watch.workers[file])
            elif file in self._strangers:
                self._identify(file)
            else:
                self._accept()
        self._look()

    def close(self) -> None:
        """Let nobody in any more."""
        for channel, _ in self._strangers.values():
            channel.close()
        self._strangers.clear()
        if self._listener is not None:
            self._listener.close()

    def _look(self) -> None:
        """Find workers that are dead or late, and strangers that have said nothing for long."""
        now = time.monotonic()
        for worker in self._workers:
            if worker.channel is None and worker.handle is not None:
                self._connect(worker, worker.handle.connection())
            if worker.channel is None and worker.ended:
                raise worker.death()
        for file, (_, since) in list(self._strangers.items()):
            if now - since > STRANGER_SECONDS:
                self._dismiss(file)
        late = [worker for worker in self._workers if worker.ready is None]
        if late and now >= self._deadline:
            advice = next((worker.handle.advice for worker in late if worker.handle is not None), "")
            raise WorkerLost(f"{', '.join(map(str, late))}: not ready after {self._timeout:g} s. {advice}")

    def _connect(self, worker: RemoteWorker, channel: Channel | None) -> None:
        """Take the connection that a launcher has for a worker."""
        if channel is not None:
            worker.connect(channel)
            self._poll.register(channel.fileno(), channel.wants)
            self._watch.add(worker)

    def _accept(self) -> None:
        """Take in somebody who has connected."""
        if self._listener is None or (channel := self._listener.accept()) is None:
            return
        while len(self._strangers) >= STRANGERS:  # who has said nothing for longest makes room
            self._dismiss(next(iter(self._strangers)))
        self._strangers[channel.fileno()] = channel, time.monotonic()
        with contextlib.suppress(PeerGone):  # which shows when it is read
            challenge(channel)
        self._poll.register(channel.fileno(), channel.wants)

    def _dismiss(self, file: int) -> None:
        """Close the connection of somebody who has not proved to be a worker."""
        channel, _ = self._strangers.pop(file)
        self._poll.unregister(file)
        channel.close()

    def _received(self, channel: Channel) -> list[Message]:
        """Return the messages of a connection that shows an event; send what it can take now."""
        messages = channel.receive()
        with contextlib.suppress(PeerGone):  # which shows when it is read
            channel.flush()  # a transport with a handshake of its own could not send before
        self._want(channel)
        return messages

    def _want(self, channel: Channel) -> None:
        self._poll.modify(channel.fileno(), channel.wants)

    def _greeted(self, worker: RemoteWorker) -> None:
        """Continue with the handshake of a worker that has connected."""
        assert worker.channel is not None
        try:
            messages = self._received(worker.channel)
        except PeerGone:
            raise worker.death() from None
        except ProtocolError as error:
            raise WorkerLost(f"{worker} broke the protocol: {error}", env_indices=tuple(worker.envs)) from None
        for message in messages:
            if isinstance(message, Hello):
                try:
                    admitted = message.worker == worker.index and admit(worker.channel, message, worker.token)
                except PeerGone as gone:  # it died since it greeted
                    raise worker.death() from gone
                if not admitted:
                    raise WorkerError(f"{worker} could not prove that it is this worker")
            elif isinstance(message, Ready):
                if message.count != len(worker.envs):
                    raise WorkerError(f"{worker} announces {message.count} environments")
                worker.ready = message
                worker.description = worker.description or message.description
            elif isinstance(message, Failure):
                raise reported(worker, message).error
        self._want(worker.channel)

    def _identify(self, file: int) -> None:
        """Read a greeting; a peer that is not one of our workers is disconnected and forgotten."""
        channel, _ = self._strangers[file]
        try:
            messages = self._received(channel)
            if not messages:
                return
            hello = messages[0]
            assert isinstance(hello, Hello)
            worker = next((w for w in self._workers if w.index == hello.worker and w.channel is None), None)
            if worker is None or not admit(channel, hello, worker.token):
                raise ProtocolError("a stranger")
        except ProtocolError:
            self._dismiss(file)
            return
        del self._strangers[file]
        worker.connect(channel)
        self._want(channel)
        self._watch.add(worker)
