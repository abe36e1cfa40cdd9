"""Frames of the environments of a process, offered to those who watch; with nobody watching there is nothing to do."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias

import numpy as np

from physgym.placement import Env
from physgym.protocol.messages import LARGEST_PART, ScenePart, WatchScenes
from physgym.protocol.msgpack_values import encode_value
from physgym.sample import flat_items
from physgym.scene.changes import SceneFrame
from physgym.scene.live import LiveScene
from physgym.spaces import Array
from physgym.worker.failures import message_of
from physgym.worker.variants import Variants

LONGEST = 2000  # characters of an error
Offer: TypeAlias = Callable[[ScenePart], bool]  # takes a part of a frame, or returns False where there is no room


def nobody(part: ScenePart) -> bool:
    """Take a part of a frame, and do nothing with it."""
    return True


class ShownScene(Protocol):
    """A source of the frames of one environment, such as `physgym.scene.live.LiveScene`."""

    def frame(self, sample: Mapping[str, Array] | None = None, *, whole: bool = False) -> SceneFrame:
        """Return what changed since the last frame, or everything."""


def live_scenes(envs: Sequence[Env]) -> Callable[[int], ShownScene]:
    """Return what makes the scene of an environment, in the process in which it runs."""

    def make(row: int) -> ShownScene:
        def present() -> Env:
            env = envs[row].unwrapped
            return env.present if isinstance(env, Variants) else envs[row]

        return PresentScene(present, row)

    return make


class PresentScene:
    """The scene of an environment, or of the one that has taken its place by now.

    Args:
        present: Returns the environment of the present episode.
        row: Which one this is in its process, for errors.
    """

    def __init__(self, present: Callable[[], Env], row: int = 0) -> None:
        self._present, self._row = present, row
        self._shown: Env | None = None
        self._live: LiveScene | None = None

    def frame(self, sample: Mapping[str, Any] | None = None, *, whole: bool = False) -> SceneFrame:
        """Return what changed since the last frame, or everything."""
        env = self._present()
        if self._live is None or env is not self._shown:
            self._shown, self._live = env, LiveScene(env, f"{_name(env)}, environment {self._row}")
        flat = None if sample is None else {name: np.asarray(value) for name, value in flat_items(sample)}
        return self._live.frame(flat, whole=whole)


def _name(env: Env) -> str:
    return type(env.unwrapped).__name__ if env.spec is None else env.spec.id


class SceneOffers:
    """Offers frames of environments at most at the rate that their watchers want; latest wins.

    A frame leaves in parts, each only where the connection has room for it, so that nothing waits. While one is under
    way the next ones are left out, and counted.

    Args:
        make: Makes the scene of an environment, by its index.
        where: Returns the folder in which an environment works, as a context.
        offer: Takes the parts.

    Attributes:
        watched: The scenes of the environments that somebody watches, by index; empty, it is all that a step looks at.
    """

    def __init__(
        self, make: Callable[[int], ShownScene], where: Callable[[int], AbstractContextManager[Any]], offer: Offer
    ) -> None:
        self._make, self._where, self._offer = make, where, offer
        self.watched: dict[int, ShownScene] = {}
        self._interval = 0.0
        self._due: dict[int, float] = {}  # of each: some may step in turn, of which none is to wait for ever
        self._parts: deque[ScenePart] = deque()
        self._dropped = 0  # since the last frame
        self._faults: dict[int, str] = {}

    def watch(self, request: WatchScenes) -> None:
        """Offer frames of these environments from now on; the first one of an environment is whole."""
        self.watched = {row: self.watched.get(row) or self._make(row) for row in request.rows}
        self._interval, self._due = request.interval, {}

    def begin(self, rows: Iterable[int]) -> None:
        """Take note that episodes begin."""
        self._frames((row, None, None, None) for row in self._take_due(row for row in rows if row in self.watched))

    def stepped(self, rows: Collection[int], infos: Mapping[int, Mapping[str, Any]]) -> None:
        """Offer frames after a step of some environments, of which some gave an info."""
        due = self._take_due(row for row in self.watched if row in rows)
        self._frames((row, None, None, infos.get(row, {}).get("sample")) for row in due)

    def made(self, row: int, episode: int, step: int, sample: Any) -> None:
        """Offer a frame after a step of an episode whose name is known."""
        if row in self.watched:
            self._frames((one, episode, step, sample) for one in self._take_due([row]))

    def _take_due(self, rows: Iterable[int]) -> list[int]:
        """Send what waits; return those of some environments whose next frame is due, where there is room for it."""
        if self._parts:
            self._send()
        now = time.perf_counter()
        due = [row for row in rows if now >= self._due.get(row, 0.0)]
        self._due |= dict.fromkeys(due, now + self._interval)
        if not self._parts:
            return due
        self._dropped += bool(due)
        return []

    def _frames(self, named: Iterable[tuple[int, int | None, int | None, Any]]) -> None:
        made = False
        for row, episode, step, sample in named:
            content: dict[str, Any] = {"episode": episode, "step": step, "dropped": self._dropped}
            try:
                with self._where(row):
                    content["frame"] = self.watched[row].frame(sample, whole=row in self._faults)
                data = encode_value(content)
                self._faults.pop(row, None)
            except Exception as error:  # noqa: BLE001 - the code of a picture ends no run
                data = self._fault(row, error)
            pieces = [data[start : start + LARGEST_PART] for start in range(0, len(data), LARGEST_PART)]
            self._parts += (ScenePart(row, place, len(pieces), piece) for place, piece in enumerate(pieces))
            made = True
        if made:
            self._dropped = 0
            self._send()

    def _fault(self, row: int, error: Exception) -> bytes:
        """Return what to send in place of a frame: why there is none, the first time."""
        text = f"{type(error).__name__}: {message_of(error)}"[:LONGEST]
        if self._faults.get(row) == text:
            return b""
        self._faults[row] = text
        return encode_value({"error": text})

    def _send(self) -> None:
        while self._parts and self._offer(self._parts[0]):
            self._parts.popleft()
