"""`Reception`: lets in workers that connect from other machines, and gives them environments.

A thread accepts them, so that one that comes in the middle of a step need not wait: TLS, the mutual proof of the token,
and what they offer. The thread that runs the environments takes those that wait.
"""

from __future__ import annotations

import contextlib
import platform
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from physgym.checks import one_of
from physgym.errors import ConfigError, PhysGymError, ProtocolError, WorkerError
from physgym.launch.base import DialInLauncher, Order, WorkerHandle
from physgym.machines.address import CALLER, Address, worker_command
from physgym.machines.permissions import HARMLESS
from physgym.machines.strangers import STRANGER_SECONDS, accepted, one_too_many
from physgym.machines.versions import Standard
from physgym.placement import described
from physgym.protocol.messages import Assignment, Hello, Refusal, WorkerOffer
from physgym.transport.auth import admit
from physgym.transport.base import Channel, PeerGone
from physgym.transport.certificates import Certificate
from physgym.transport.tcp import TcpListener

LOOK = 0.5  # seconds between two looks where nothing happens
OVER = ""  # reason of a parent that needs no more workers
END = 2.0  # seconds for the thread to end
LAST_CALL = 10.0  # seconds in which those that come in the place of others hear that all is over
SAID = 20  # refusals that are said, of strangers and of workers each: one that is wrong may come again and again
LARGEST_OFFER = 1 << 12  # environments of one worker
LONGEST_NAME = 80  # characters of the name of a machine

Differences = Literal["refuse", "warn"]


@dataclass
class Caller:
    """A worker that has connected.

    Attributes:
        channel: Its connection.
        peer: Its address.
        since: When it came.
        offer: What it offers; None before it has proved itself and said so.
        reserved: Whether somebody is about to order environments from it.
    """

    channel: Channel
    peer: str
    since: float = field(default_factory=time.monotonic)
    offer: WorkerOffer | None = None
    reserved: bool = False


class _News:
    """The texts that say who was not let in, and why.

    Strangers do not use up what is said of workers.
    """

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._said = {True: 0, False: 0}  # of workers that know the token, and of strangers

    def add(self, text: str, *, known: bool = False) -> None:
        """Keep a text."""
        self._said[known] += 1
        if self._said[known] <= SAID:
            last = " (no more is said of others)" if self._said[known] == SAID else ""
            self._texts.append(f"{text}{last}")

    def take(self) -> list[str]:
        """Return what was kept, once."""
        texts, self._texts = self._texts, []
        return texts


class DialledWorker(WorkerHandle):
    """A worker on another machine, or one that is wanted and has not connected.

    Args:
        reception: Where it comes in.
        assignment: What it is to make.
    """

    knows_end = False

    def __init__(self, reception: Reception, assignment: Assignment) -> None:
        self._reception, self._assignment = reception, assignment
        self._caller: Caller | None = None
        self.cancelled = False

    def __str__(self) -> str:
        """Return in a few words where it is."""
        if self._caller is None or self._caller.offer is None:
            return "not connected"
        return f"on {self._caller.offer.host}, {self._caller.peer}"

    def poll(self) -> None:
        """Return None: the end of its connection is all that is known."""

    def connection(self) -> Channel | None:
        """Return its connection, once it has connected; it has its order then."""
        if self._caller is None and not self.cancelled:
            self._caller = self._reception.take(len(self._assignment.environments))
            if self._caller is not None:
                with contextlib.suppress(PeerGone):  # which shows when it is read
                    self._caller.channel.send(self._assignment)
        return None if self._caller is None else self._caller.channel

    @property
    def advice(self) -> str:
        """Return what to do where it does not come."""
        if self._caller is not None:
            return ""
        count = len(self._assignment.environments)
        few = f" with --envs {count} or more" if count > 1 else ""
        return f"No worker{few} has connected; start one: {self._reception.command}"


class Reception(DialInLauncher[DialledWorker]):
    """A place where workers of other machines connect.

    Args:
        address: Where to listen; port 0 takes a free one.
        token: The secret that both ends prove to know.
        certificate: For TLS; None for bare TCP, on a loopback address alone.
        clients: Context for TLS that asks workers for certificates too; None makes one from `certificate`.
        advertise: Host that the command for workers names; by default that of `address`, or the name of this machine
            where it listens on all of its addresses.
        token_file: File of the token, for that command.
        envs: Ids that workers are to allow, for that command.
        on_difference: What to do with workers of other versions of Python and packages, or with another code of the
            simulation: "refuse" or "warn".

    Attributes:
        command: What to type on the other machine.
        address: Where it listens.

    Raises:
        ConfigError: An argument is wrong, or the address is taken.
    """

    def __init__(
        self,
        address: Address,
        token: bytes,
        certificate: Certificate | None,
        *,
        clients: Any = None,
        advertise: str = "",
        token_file: str = "",
        envs: Sequence[str] = (),
        on_difference: Differences = "refuse",
    ) -> None:
        if certificate is None and not address.is_loopback:
            raise ConfigError(
                f"--plain sends everything in clear, and {address.host} is no loopback address; leave --plain out, or "
                "listen on 127.0.0.1 and have the workers come through a tunnel of ssh"
            )
        one_of("on_difference", on_difference, ("refuse", "warn"))
        self._token, self.on_difference = token, on_difference
        self._context = clients or (None if certificate is None else certificate.context())
        self._listener = TcpListener(address.port, address.host)
        self.address = Address(address.host, self._listener.address[1])
        host = platform.node() if address.host in ("0.0.0.0", "::") else address.host
        shown = Address(advertise or host, self.address.port)
        self.command = worker_command(shown, token_file, certificate, [env for env in envs if env not in HARMLESS])
        self._lock = threading.Lock()
        self._callers: dict[int, Caller] = {}
        self._news = _News()
        self._standard = Standard(envs)
        self._expected = 0  # processes that are to come in the place of workers
        self._end = False
        self._heard, self._wakeup = socket.socketpair()
        for end in (self._heard, self._wakeup):
            end.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="physgym-reception", daemon=True)
        self._thread.start()

    # --- what a fleet asks

    def start(self, order: Order) -> DialledWorker:
        """Want a worker; it has its order as soon as one connects that hosts so many environments.

        Raises:
            ConfigError: What makes its environments cannot be described.
        """
        start = {name: value for name, value in asdict(order.worker_start).items() if name in STARTED_WITH}
        return DialledWorker(self, Assignment(start, [described(factory) for factory in order.factories]))

    def end(
        self, handles: Sequence[DialledWorker], patience: float, hang_up: Callable[[], None] = lambda: None
    ) -> None:
        """Want workers no more; they end with their connection."""
        for handle in handles:
            handle.cancelled = True
        hang_up()

    def callers(self) -> list[int]:
        """Return for each worker that waits for an order how many environments it hosts; each is named once."""
        with self._lock:
            found = [caller for caller in self._callers.values() if caller.offer is not None and not caller.reserved]
            for caller in found:
                caller.reserved = True
        return [caller.offer.count for caller in found if caller.offer is not None]

    def first(self, timeout: float) -> int:
        """Wait for a worker; return how many environments it hosts.

        Raises:
            WorkerError: None has come in time.
        """
        deadline = time.monotonic() + timeout
        while True:
            if (count := self.offered()) is not None:
                return count
            if time.monotonic() >= deadline:
                break
            time.sleep(0.02)
        said = "".join(f"\n{text}" for text in self.news())
        raise WorkerError(f"no worker has connected within {timeout:.3g} s. Start one:\n  {self.command}{said}")

    def offered(self) -> int | None:
        """Return how many environments the first worker hosts that waits for an order; None where none does."""
        with self._lock:
            waiting = [caller.offer.count for caller in self._callers.values() if caller.offer is not None]
        return waiting[0] if waiting else None

    def news(self) -> list[str]:
        """Return what there is to say of workers that were not let in, once."""
        with self._lock:
            return self._news.take()

    def take(self, count: int) -> Caller | None:
        """Return a worker that hosts so many environments at least, and is nobody else's; None if none is there."""
        with self._lock:
            fit = [c for c in self._callers.values() if c.offer is not None and c.offer.count >= count]
            if not fit:
                return None
            caller = min(fit, key=lambda one: (not one.reserved, one.offer.count if one.offer else 0, one.since))
            del self._callers[caller.channel.fileno()]
        self._wake()
        return caller

    def expect(self) -> None:
        """Take note that a process is to come in the place of a worker; it would try for long where nobody listens."""
        with self._lock:
            self._expected += 1

    def close(self) -> None:
        """Let nobody in any more; calling it again does no harm.

        It waits some seconds for processes that are to come in the place of workers, and tells them that all is over.
        """
        self._end = True
        self._wake()
        if self._thread is not threading.current_thread():
            self._thread.join(LAST_CALL + END)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._wakeup.send(b"!")

    # --- the thread

    def _run(self) -> None:
        try:
            while not self._end:
                self._turn()
            self._see_off()
            until = time.monotonic() + LAST_CALL
            while self._expected and time.monotonic() < until:
                self._turn()
                self._see_off()
        finally:
            with self._lock:
                for caller in self._callers.values():
                    caller.channel.close()
                self._callers.clear()
            self._listener.close()
            self._heard.close()
            self._wakeup.close()

    def _see_off(self) -> None:
        """Tell those that wait for an order that all is over."""
        with self._lock:
            for file, caller in [*self._callers.items()]:
                if caller.offer is not None:
                    with contextlib.suppress(ProtocolError):
                        caller.channel.send(Refusal(OVER))
                        caller.channel.flush()
                    self._dismiss(file)

    def _turn(self) -> None:
        poll = select.poll()
        for file in (self._listener.fileno(), self._heard.fileno()):
            poll.register(file, select.POLLIN)
        with self._lock:
            here = dict(self._callers)
        for file, caller in here.items():
            poll.register(file, caller.channel.wants)
        for file, _ in poll.poll(LOOK * 1000):
            if file == self._listener.fileno():
                self._accept()
            elif file == self._heard.fileno():
                with contextlib.suppress(BlockingIOError):
                    while self._heard.recv(4096):
                        pass
            elif file in here:
                with self._lock:  # nobody takes it meanwhile
                    offer = self._hear(file, here[file]) if self._callers.get(file) is here[file] else None
                if offer is not None:
                    self._consider(file, here[file], offer)
        now = time.monotonic()
        with self._lock:
            for file, caller in [*self._callers.items()]:
                if caller.offer is None and now > caller.since + STRANGER_SECONDS:
                    hint = "" if self._context is None else ", as a worker does that was started with --plain"
                    self._news.add(f"{caller.peer} has said nothing for {STRANGER_SECONDS:g} s{hint}; it was let go")
                    self._dismiss(file)

    def _accept(self) -> None:
        found = accepted(self._listener.sock, self._context)
        if found is None:
            return
        channel, peer = found
        with self._lock:
            strangers = {file: caller.peer for file, caller in self._callers.items() if caller.offer is None}
            if (passed := one_too_many(strangers)) is not None:
                self._dismiss(passed)
            self._callers[channel.fileno()] = Caller(channel, peer)

    def _hear(self, file: int, caller: Caller) -> WorkerOffer | None:
        """Continue with what somebody says; return what it offers, if it does now."""
        channel = caller.channel
        try:
            messages = channel.receive()
            channel.flush()  # a handshake below may have made room for it
            for message in messages:
                if isinstance(message, Hello):
                    if message.worker != CALLER or not admit(channel, message, self._token):
                        self._news.add(f"{caller.peer} does not know the token; give it the same --token-file")
                        self._dismiss(file)
                        return None
                elif isinstance(message, WorkerOffer):
                    return message
        except PeerGone:
            self._dismiss(file)
        except ProtocolError as error:
            self._news.add(f"{caller.peer} is turned away: {error}")
            self._dismiss(file)
        return None

    def _consider(self, file: int, caller: Caller, offer: WorkerOffer) -> None:
        """Take an offer, or refuse it. Nobody waits meanwhile for the code of a simulation, which takes seconds."""
        offer = replace(offer, host=shown(offer.host, LONGEST_NAME))
        unlike: list[str] = []
        if 1 <= offer.count <= LARGEST_OFFER:
            try:
                unlike = self._standard.differences(offer.versions)
            except (KeyError, TypeError, ValueError, AttributeError, PhysGymError) as error:
                unlike = [f"what it says of its versions cannot be read ({error!r})"]
        with self._lock:
            try:
                self._decide(file, caller, offer, unlike)
            except PeerGone:
                self._dismiss(file)

    def _decide(self, file: int, caller: Caller, offer: WorkerOffer, unlike: Sequence[str]) -> None:
        who = f"the worker on {offer.host} ({caller.peer})"
        if not 1 <= offer.count <= LARGEST_OFFER:
            wrong = f"{who} offers {offer.count} environments; a worker may offer 1 to {LARGEST_OFFER} (--envs)"
            return self._refuse(file, caller, f"{wrong}. It was refused", wrong)
        if unlike:
            text = f"{who} differs: {shown('; '.join(unlike))}"
            if self.on_difference == "refuse":
                said = f"{text}. It was refused; make both alike, or let it in with --on-difference warn"
                return self._refuse(file, caller, said, f"{text}. Its parent refuses that")
            self._news.add(f"{text}. It was let in (--on-difference warn)", known=True)
        caller.offer = offer
        self._expected = max(0, self._expected - 1)

    def _refuse(self, file: int, caller: Caller, said: str, reason: str) -> None:
        """Tell a worker that it is not let in, and why."""
        self._news.add(said, known=True)
        caller.channel.send(Refusal(reason))
        caller.channel.flush()
        self._dismiss(file)

    def _dismiss(self, file: int) -> None:
        """Forget somebody."""
        caller = self._callers.pop(file, None)
        if caller is not None:
            caller.channel.close()


def shown(text: str, longest: int = 2000) -> str:
    """Return what another machine says as one may print it: of bounded length, without control characters."""
    cut = text if len(text) <= longest else text[:longest] + "..."
    return "".join(letter if letter.isprintable() else "?" for letter in cut)


STARTED_WITH = ("worker", "first_env", "num_envs", "autoreset_mode", "timeout", "seeds", "mark")  # of a WorkerStart
