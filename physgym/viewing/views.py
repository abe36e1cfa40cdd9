"""`SceneViews`: what viewers see of running environments, and what they wish for."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from physgym.errors import ProtocolError, SceneError
from physgym.protocol.messages import ScenePart, WatchScenes
from physgym.protocol.msgpack_values import decode_value
from physgym.scene.changes import SceneFrame, apply
from physgym.scene.inputs import SceneInput
from physgym.viewing.waiting_inputs import GivenInput, WaitingInputs

HOLD = 0.1  # seconds between two looks of a run that pauses
LARGEST_FRAME = 1 << 28  # bytes
SAID = 10  # warnings of an environment: a text that names a value may be another one at each step


def nothing(given: Sequence[GivenInput]) -> None:
    """Leave out what a person has changed: nobody is there who takes it."""


@dataclass(frozen=True)
class Shot:
    """The scene of an environment at some step.

    Attributes:
        number: How many there were of this environment.
        episode: Index of the episode; None where it has no name.
        step: The step in it; None as well.
        snapshot: The scene, as plain data; None where there is none but an error.
        dropped: How many frames were left out of this environment before.
        error: Why there is no newer one; empty where there is.
        change: The frame that led here from the scene before; None where that is not known.
    """

    number: int
    episode: int | None
    step: int | None
    snapshot: Any
    dropped: int
    error: str = ""
    change: SceneFrame | None = None


class SceneViews:
    """Frames of the environments of one vector env, of which viewers get the latest.

    The thread that runs the environments puts frames in, and asks for wishes when `attention` says so: that flag is all
    that a run without viewers looks at. Another thread, of a `physgym.viewing.server.ViewServer`, takes the frames out.

    Args:
        environments: How many there are.

    Attributes:
        environments: As the argument.
        attention: Whether `attend` has something to do.
        paused: Whether a viewer has the run pause.
        shots: The latest scene of each environment that was watched, by index.
        viewer_gone: Whether the viewer that was started with the run has ended.
        inputs: What viewers change in the environments; takes nothing unless the run `accepts` inputs.
    """

    def __init__(self, environments: int) -> None:
        self.environments = environments
        self.attention = self.paused = False
        self.shots: dict[int, Shot] = {}
        self.inputs = WaitingInputs({}, 0)
        self.viewer_gone = self._lost = False
        self._changed = threading.Condition()  # the one lock
        self._wishes: dict[object, tuple[frozenset[int], float]] = {}
        self._new_wishes = False
        self._steps = 0  # that may be made in a pause
        self._pieces: dict[object, list[bytes]] = {}
        self._said: Counter[int] = Counter()
        self._wake: Callable[[], None] | None = None
        self._closers: list[Callable[[], None]] = []

    # --- the run's side

    def accept(self, inputs: Mapping[str, SceneInput]) -> None:
        """Let the viewer that was started with the run change inputs, by name, of any environment."""
        self.inputs = WaitingInputs(inputs, self.environments)

    def attend(
        self,
        tell: Callable[[Mapping[int, float]], None],
        ended: Callable[[], bool],
        give: Callable[[Sequence[GivenInput]], None] = nothing,
    ) -> None:
        """Do what viewers wish: other frames, a pause, which ends with the run, or other inputs.

        Args:
            tell: Takes the environments that are watched, with the seconds between two frames.
            ended: Whether the run is over.
            give: Takes what a person has changed: environment, name and value.
        """
        self._pass_on(tell)
        with self._changed:
            while self.paused and not self._steps and not ended():
                self._changed.wait(HOLD)
                if self._new_wishes:  # of who comes to look while nothing moves
                    self._changed.release()
                    try:
                        self._pass_on(tell)
                    finally:
                        self._changed.acquire()
            self._steps = max(0, self._steps - 1) if self.paused else 0
            given, refusal = self.inputs.take(), self.inputs.refusal()
            lost, self._lost = self._lost, False
            self.attention = self.paused or self._new_wishes
        if lost:
            text = "the viewer of this run was killed or has failed; the run continues without it"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        if refusal:
            warnings.warn(f"an input of the viewer is left out: {refusal}", RuntimeWarning, stacklevel=2)
        if given:
            give(given)

    def _pass_on(self, tell: Callable[[Mapping[int, float]], None]) -> None:
        """Pass on new wishes for frames."""
        with self._changed:
            new, self._new_wishes = self._new_wishes, False
            wanted = self._wanted()
            self.attention = self.paused
        if new:
            tell(wanted)

    def _wanted(self) -> dict[int, float]:
        found: dict[int, float] = {}
        for envs, interval in self._wishes.values():
            for env in envs:
                found[env] = min(interval, found.get(env, interval))
        return found

    def renew(self) -> None:
        """Have the wishes said again, as to a worker that was started again."""
        with self._changed:
            self.inputs.repeat()
            if self._wishes:
                self._new_wishes = True
            self.attention = self.attention or self._new_wishes or bool(self.inputs)

    def take(self, first: int, part: ScenePart) -> None:
        """Take a part of a frame.

        Args:
            first: Index of the first environment of the worker that sends it.
            part: The part.
        """
        pieces = self._pieces.setdefault(first, [])
        if part.place != len(pieces):  # the rest of a frame whose beginning came over an earlier connection
            pieces.clear()
            if part.place:
                return
        pieces.append(part.data)
        if part.place + 1 < part.parts:
            if sum(map(len, pieces)) > LARGEST_FRAME:
                pieces.clear()
            return
        data = b"".join(pieces)
        pieces.clear()
        env = first + part.env
        try:
            content = decode_value(data)
            self._show(env, content)
        except (ProtocolError, SceneError, TypeError, ValueError, KeyError, AttributeError) as error:
            self._fail(env, f"a frame that cannot be read: {error}")

    def _show(self, env: int, content: Mapping[str, Any]) -> None:
        if error := content.get("error"):
            self._fail(env, str(error))
            return
        last = self.shots.get(env)
        number, dropped = (0, 0) if last is None else (last.number, last.dropped)
        before = None if last is None else last.snapshot
        snapshot = apply(before, content["frame"])
        with self._changed:
            self.shots[env] = Shot(
                number + 1,
                content["episode"],
                content["step"],
                snapshot,
                dropped + content["dropped"],
                change=content["frame"],
            )
        self._ring()

    def _fail(self, env: int, text: str) -> None:
        last = self.shots.get(env, Shot(0, None, None, None, 0))
        if last.error == text:
            return
        self._said[env] += 1
        if self._said[env] <= SAID:
            end = ". Others are shown to viewers alone" if self._said[env] == SAID else ""
            warnings.warn(
                f"environment {env} has no picture: {text}. It runs on without one{end}", RuntimeWarning, stacklevel=2
            )
        with self._changed:
            self.shots[env] = Shot(last.number + 1, last.episode, last.step, last.snapshot, last.dropped, text)
        self._ring()

    def _ring(self) -> None:
        if self._wake is not None:
            self._wake()

    # --- the viewers' side

    def serve_by(self, wake: Callable[[], None], close: Callable[[], None]) -> None:
        """Have somebody woken by each frame, and closed at the end."""
        self._wake = wake
        self._closers.append(close)

    def closing_after(self, close: Callable[[], None]) -> None:
        """Have something closed at the end, after what was there earlier."""
        self._closers.append(close)

    def wish(self, viewer: object, envs: Iterable[int], interval: float) -> None:
        """Take the environments that a viewer wants to see.

        Args:
            viewer: Who.
            envs: Their indices; those that there are not are left out.
            interval: Seconds between two frames of one.
        """
        wanted = frozenset(env for env in envs if 0 <= env < self.environments)
        with self._changed:
            if self._wishes.get(viewer) != (wanted, interval):
                self._wishes[viewer] = wanted, interval
                self._new_wishes = self.attention = True

    def give(self, env: Any, name: Any, value: Any) -> None:
        """Take the change of an input of an environment; what there is not is left out.

        Raises:
            ProtocolError: The run takes no inputs.
        """
        with self._changed:
            if not self.inputs.known:
                raise ProtocolError("a viewer gives inputs to a run that takes none")
            self.inputs.put(env, name, value)
            self.attention = True

    def leave(self, viewer: object, *, control: bool, lost: bool = False) -> None:
        """Forget a viewer; where it had control, a pause ends, and what springs back is let go.

        Args:
            viewer: Who.
            control: Whether it had control.
            lost: Whether it was killed or has failed, which a warning says.
        """
        with self._changed:
            if self._wishes.pop(viewer, None) is not None:
                self._new_wishes = self.attention = True
            if control:
                self.viewer_gone = True
                self._lost = lost
                self.inputs.let_go()
        if control:
            self.control("resume")

    def control(self, what: str) -> None:
        """Pause, resume, or let one step be made in a pause."""
        with self._changed:
            if what == "step":
                self.paused = True
                self._steps += 1
            else:
                self.paused, self._steps = what == "pause", 0
            self.attention = self.paused or self._new_wishes or bool(self.inputs) or self._lost
            self._changed.notify_all()
        self._ring()

    def close(self) -> None:
        """End what serves viewers; calling it again does no harm."""
        with self._changed:
            self.paused = False
            self._changed.notify_all()
        while self._closers:
            self._closers.pop(0)()
        self._wake = None


def requests(wanted: Mapping[int, float], envs: Sequence[int]) -> WatchScenes:
    """Return what to ask of the worker that has some environments, numbered in their order."""
    own = [row for row, env in enumerate(envs) if env in wanted]
    interval = min((wanted[envs[row]] for row in own), default=0.0)
    return WatchScenes(own, interval)
