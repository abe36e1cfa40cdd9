"""`ViewServer`: a thread that gives viewers the latest frames, and waits for none of them."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import selectors
import socket
import threading
import time
import weakref
from typing import Any

from physgym.errors import ProtocolError
from physgym.scene.changes import difference
from physgym.system.descriptors import STANDARD, above_standard
from physgym.viewing.places import WatchedRun, write_entry
from physgym.viewing.views import SceneViews, Shot
from physgym.viewing.wire import LARGEST_GREETING, LARGEST_WISH, TAKEN, VERSION, Received, packed, proof

MOST = 16  # viewers at a time
GREETING = 10.0  # seconds that somebody has to prove himself
END = 2.0  # seconds for the thread to end
FASTEST, SLOWEST = 1 / 120, 3600.0  # seconds between two frames of an environment, at least and at most
LOOK = 1.0  # seconds between two looks where nothing happens


class Viewer:
    """A viewer at the other end of a socket.

    Args:
        sock: The connected socket; this owns it.
        control: Whether it may have the run pause.
        proved: Whether it has proved itself.

    Attributes:
        sock: As the argument.
        control: As the argument.
        proved: As the argument.
        received: Bytes that have come.
        out: Bytes that wait to be sent: a frame at a time.
        since: When it came.
        envs: Environments that it wants to see.
        interval: Seconds between two frames of one.
        due: When it gets the next one of an environment.
        sent: What it has got of an environment last.
        leaves: Whether it said that a person has closed it.
    """

    def __init__(self, sock: socket.socket, *, control: bool, proved: bool) -> None:
        sock.setblocking(False)
        self.sock, self.control, self.proved = sock, control, proved
        self.received = Received(LARGEST_WISH if proved else LARGEST_GREETING, plain=not proved)
        self.nonce = secrets.token_bytes(32)
        self.out = memoryview(b"")
        self.since = time.monotonic()
        self.envs: tuple[int, ...] = ()
        self.interval = 1.0
        self.due: dict[int, float] = {}
        self.sent: dict[int, Shot] = {}
        self.leaves = False

    def put(self, data: bytes) -> None:
        """Put bytes behind those that wait."""
        self.out = memoryview(bytes(self.out) + data)

    def flush(self) -> None:
        """Send what the socket takes.

        Raises:
            OSError: The viewer is gone.
        """
        with contextlib.suppress(BlockingIOError):
            while len(self.out):
                self.out = self.out[self.sock.send(self.out) :]

    def next_frame(self, shots: dict[int, Shot], now: float) -> bytes | None:
        """Return the frame of an environment that is due, the one that waits longest; None if there is none."""
        waiting = [
            env
            for env in self.envs
            if (shot := shots.get(env)) is not None
            and (env not in self.sent or self.sent[env].number != shot.number)
            and self.due.get(env, 0.0) <= now
        ]
        if not waiting:
            return None
        env = min(waiting, key=lambda one: self.due.get(one, 0.0))
        shot, last = shots[env], self.sent.get(env)
        self.due[env], self.sent[env] = now + self.interval, shot
        content: dict[str, Any] = {
            "env": env,
            "episode": shot.episode,
            "step": shot.step,
            "dropped": shot.dropped,
            "error": shot.error,
        }
        if last is not None:
            content["left_out"] = shot.number - last.number - 1
        next_one = last is not None and shot.number == last.number + 1
        if next_one and shot.change is not None and not shot.change["full"]:
            content["frame"] = shot.change  # nothing is compared a second time
        elif shot.snapshot is not None:
            content["frame"] = difference(None if last is None else last.snapshot, shot.snapshot)
        return packed(content)

    def wait(self, shots: dict[int, Shot], now: float) -> float:
        """Return the seconds until a frame is due that is there already."""
        news = [env for env in self.envs if env in shots and self.sent.get(env) is not shots[env]]
        return min((max(0.0, self.due.get(env, 0.0) - now) for env in news), default=LOOK)


class ViewServer:
    """Gives viewers the frames of a `SceneViews`.

    Args:
        views: The frames.
        title: What runs.
        entry: Where others connect to; None for viewers that are handed over alone.

    Raises:
        OSError: There is no socket left.
    """

    def __init__(self, views: SceneViews, title: str, entry: WatchedRun | None) -> None:
        self._views, self._entry, self._owner = views, entry, os.getpid()
        self._title = title.encode(errors="backslashreplace").decode()  # names of files may be no text that travels
        self._viewers: dict[int, Viewer] = {}
        self._new: list[socket.socket] = []
        self._end = False
        self._listener = None if entry is None else _listen(entry)
        self._selector = selectors.DefaultSelector()
        self._heard, self._wakeup = socket.socketpair()
        for end in (self._heard, self._wakeup):
            end.setblocking(False)
        self._selector.register(self._heard, selectors.EVENT_READ, "wake")
        if self._listener is not None:
            self._selector.register(self._listener, selectors.EVENT_READ, "accept")
        self._thread = threading.Thread(target=self._run, name="physgym-viewers", daemon=True)
        self._finalizer = weakref.finalize(self, _forget, entry, self._owner)
        views.serve_by(self.wake, self.close)
        self._thread.start()

    def wake(self) -> None:
        """Have the thread look for new frames."""
        with contextlib.suppress(OSError):  # full: it will look; closed: nobody does
            self._wakeup.send(b"!")

    def adopt(self, sock: socket.socket) -> None:
        """Take a connected viewer that may have the run pause: one that this process has started."""
        self._new.append(sock)
        self.wake()

    @property
    def watching(self) -> bool:
        """Return whether a viewer that was handed over has said what it wants to see."""
        return any(viewer.control and viewer.envs for viewer in list(self._viewers.values()))

    def close(self) -> None:
        """Say goodbye to the viewers, and end the thread; calling it again does no harm."""
        self._finalizer()
        if os.getpid() != self._owner:
            return
        self._end = True
        self.wake()
        if self._thread is not threading.current_thread():
            self._thread.join(END)

    # --- the thread

    def _run(self) -> None:
        try:
            while not self._end:
                self._turn()
        finally:
            for viewer in [*self._viewers.values()]:
                with contextlib.suppress(OSError, ProtocolError):
                    viewer.put(packed({"end": True}))
                    viewer.flush()
                self._drop(viewer)
            for one in (self._listener, self._heard, self._wakeup):
                if one is not None:
                    one.close()
            self._selector.close()

    def _turn(self) -> None:
        now = time.monotonic()
        shots = dict(self._views.shots)
        waits = [viewer.wait(shots, now) for viewer in self._viewers.values() if not len(viewer.out)]
        for key, events in self._selector.select(min([LOOK, *waits])):
            if key.data == "wake":
                with contextlib.suppress(BlockingIOError):
                    while self._heard.recv(4096):
                        pass
            elif key.data == "accept":
                self._accept()
            else:
                self._serve(key.data, events)
        while self._new:
            self._welcome(Viewer(self._new.pop(), control=True, proved=True))
        shots, now = dict(self._views.shots), time.monotonic()
        for viewer in [*self._viewers.values()]:
            if not viewer.proved and now > viewer.since + GREETING:
                self._drop(viewer)
            else:
                self._give(viewer, shots, now)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        if len(self._viewers) >= MOST:
            sock.close()
            return
        self._welcome(Viewer(sock, control=False, proved=False))

    def _welcome(self, viewer: Viewer) -> None:
        self._viewers[viewer.sock.fileno()] = viewer
        self._selector.register(viewer.sock, selectors.EVENT_READ, viewer)
        words: dict[str, Any] = {"version": VERSION, "nonce": viewer.nonce}
        self._say(viewer, words if not viewer.proved else self._words(viewer))

    def _words(self, viewer: Viewer) -> dict[str, Any]:
        inputs = viewer.control and bool(self._views.inputs.known)
        known = {"title": self._title, "environments": self._views.environments}
        return {**known, "control": viewer.control, "inputs": inputs}

    def _say(self, viewer: Viewer, message: dict[str, Any]) -> None:
        viewer.put(packed(message))
        with contextlib.suppress(OSError):  # shows when it is read
            viewer.flush()

    def _serve(self, viewer: Viewer, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                data = viewer.sock.recv(TAKEN)
                if not data:
                    raise EOFError
                viewer.received.add(data)
                while (message := viewer.received.next()) is not None:
                    self._obey(viewer, message)
            viewer.flush()
        except BlockingIOError:
            pass
        except Exception:  # noqa: BLE001 - whatever a viewer says, the others are served
            self._drop(viewer)

    def _obey(self, viewer: Viewer, message: dict[str, Any]) -> None:
        """Do what a viewer says.

        Raises:
            ProtocolError: It may not say that.
        """
        if not viewer.proved:
            entry = self._entry
            if entry is None or not hmac.compare_digest(message["proof"], proof(entry.token, "viewer", viewer.nonce)):
                raise ProtocolError("a stranger")
            viewer.proved = True
            viewer.received.largest, viewer.received.plain = LARGEST_WISH, False
            self._say(viewer, {**self._words(viewer), "proof": proof(entry.token, "run", message["nonce"])})
            return
        if "watch" in message:
            viewer.envs = tuple(int(env) for env in message["watch"][: self._views.environments])
            viewer.interval = min(SLOWEST, max(FASTEST, float(message["interval"])))
            viewer.sent = {env: shot for env, shot in viewer.sent.items() if env in viewer.envs}
            self._views.wish(viewer, viewer.envs, viewer.interval)
        elif viewer.control and message.get("do") in ("pause", "resume", "step"):
            self._views.control(message["do"])
            self._say(viewer, {"paused": self._views.paused})
        elif viewer.control and message.get("do") == "leave":
            viewer.leaves = True
        elif viewer.control and "input" in message:
            env, name, value = message["input"]
            self._views.give(env, name, value)
        else:
            raise ProtocolError("a viewer says what it may not")

    def _give(self, viewer: Viewer, shots: dict[int, Shot], now: float) -> None:
        """Give a viewer the frames that are due; while one is half sent there is no other."""
        try:
            while not len(viewer.out) and viewer.proved and (data := viewer.next_frame(shots, now)) is not None:
                viewer.put(data)
                viewer.flush()
        except Exception:  # noqa: BLE001 - whatever a worker has sent as a frame
            self._drop(viewer)
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if len(viewer.out) else 0)
        if self._selector.get_key(viewer.sock).events != wanted:
            self._selector.modify(viewer.sock, wanted, viewer)

    def _drop(self, viewer: Viewer) -> None:
        """Forget a viewer."""
        if self._viewers.pop(viewer.sock.fileno(), None) is None:
            return
        self._selector.unregister(viewer.sock)
        viewer.sock.close()
        lost = bool(viewer.envs) and not (viewer.leaves or self._end)
        self._views.leave(viewer, control=viewer.control, lost=lost)


def _forget(entry: WatchedRun | None, owner: int) -> None:
    if entry is not None and os.getpid() == owner:
        entry.remove()


def _listen(entry: WatchedRun) -> socket.socket:
    """Return the socket to which viewers connect, and let them find it.

    Raises:
        OSError: It cannot be made.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if listener.fileno() in STANDARD:
            listener = socket.socket(fileno=above_standard(listener.detach()))
        listener.setblocking(False)
        listener.bind(entry.socket)
        listener.listen(MOST)
        write_entry(entry)
    except BaseException:
        listener.close()
        raise
    return listener
