"""`SceneSink`: a place where the scenes of chosen environments are shown, and `Controls`, what it may ask of a run."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from physgym.checks import is_integer
from physgym.errors import ConfigError, PhysGymError
from physgym.scene.inputs import InputKind, InputValue

log = logging.getLogger(__name__)
FIRST = 4  # environments that are shown if nobody chooses
MOST = 64  # sub-windows


class SinkError(PhysGymError):
    """A scene could not be shown; the simulations continue without it."""


class Controls(ABC):
    """Requests of a viewer to the run with which it was started.

    Methods may be called from any thread. They return at once and do not raise: what they ask for happens later.
    """

    @property
    @abstractmethod
    def paused(self) -> bool:
        """Return whether the run was paused, as far as is known."""

    @abstractmethod
    def pause(self) -> None:
        """Let the run ask for no further step."""

    @abstractmethod
    def resume(self) -> None:
        """Let a paused run continue."""

    @abstractmethod
    def step(self) -> None:
        """Let a paused run take one step of all environments."""

    @property
    def takes_inputs(self) -> bool:
        """Return whether the run takes inputs of a person, see `physgym.scene.inputs`; by default it does not."""
        return False

    def give(self, environment: int, name: str, value: InputValue) -> None:  # noqa: B027 - most runs take none
        """Have an input of an environment changed at the beginning of its next step, where the run takes inputs."""


class SceneSink(ABC):
    """A place where the scenes of chosen environments are shown.

    It is opened once, then shown snapshots, and closed. All methods are called from one thread. Snapshots are whole;
    arrays that did not change from one to the next are the same objects, which a sink need not take again.

    A subclass implements `_opened`, `_shown` and `_closed`, and `_polled` where a person can do something.

    Args:
        chosen: Environments to show, the first four by default.

    Attributes:
        name: Name in the table of sinks.
        shows: Kinds of inputs that a person can change in it, see `physgym.scene.inputs`.
        title: What is shown.
        environments: How many environments there are.
        controls: What it may ask of the run, None where it only looks on.
        place: Where it is seen, such as the address of a page; empty before it was opened.
    """

    name: ClassVar[str]
    shows: ClassVar[tuple[InputKind, ...]] = ()

    def __init__(self, chosen: Sequence[int] | None = None) -> None:
        if chosen is not None and not (chosen and all(is_integer(one, 0) for one in chosen) and len(chosen) <= MOST):
            raise ConfigError(f"environments to show are 1 to {MOST} numbers, from 0, not {list(chosen)}")
        self._wanted = None if chosen is None else sorted({int(one) for one in chosen})
        self._chosen: tuple[int, ...] = ()
        self.title, self.environments, self.place = "", 0, ""
        self.controls: Controls | None = None
        self._state: Literal["new", "open", "ended"] = "new"

    @property
    def chosen(self) -> tuple[int, ...]:
        """Return the environments to send snapshots of, ascending; a person may choose others while it is polled."""
        return self._chosen

    def choose(self, environments: Sequence[int]) -> None:
        """Show other environments; those that are not there are left out, and nothing changes if none is left."""
        there = sorted({one for one in environments if 0 <= one < self.environments})[:MOST]
        self._chosen = tuple(there) or self._chosen

    def open(self, title: str, environments: int, *, controls: Controls | None = None) -> None:
        """Make the window, the page or the file.

        Args:
            title: What is shown.
            environments: How many environments there are; snapshots have numbers below that.
            controls: What it may ask of the run.

        Raises:
            ConfigError: It was opened before, an environment to show is not there, a package or a display is missing, a
                port is taken or a file exists.
        """
        if self._state != "new":
            raise ConfigError(f"this {self.name} was opened before; make another one")
        if self._wanted is not None and self._wanted[-1] >= environments:
            raise ConfigError(
                f"environment {self._wanted[-1]} is to be shown; there are {environments}, numbered from 0"
            )
        self.title, self.environments, self.controls = title, environments, controls
        self._chosen = tuple(range(min(FIRST, environments)) if self._wanted is None else self._wanted)
        try:
            self.place = self._opened()
        except BaseException:
            self.close()
            raise
        self._state = "open"

    def show(self, snapshots: Mapping[int, Mapping[str, Any]]) -> None:
        """Show the newest snapshots of some environments; others stay as they are, those not chosen are left out.

        Args:
            snapshots: By number of the environment, see `physgym.scene.changes`.

        Raises:
            SinkError: One cannot be shown; the error names the environment. Those before it are shown.
        """
        if self._state != "open":
            raise SinkError(f"the {self.name} is not open")
        for environment, snapshot in sorted(snapshots.items()):
            if environment not in self._chosen:
                continue
            try:
                self._shown(environment, snapshot)
            except Exception as error:
                raise SinkError(
                    f"the {self.name} cannot show environment {environment}: {type(error).__name__}: {error}"
                ) from error
        self._drawn()

    def _show_late(self, snapshots: Mapping[int, Mapping[str, Any]]) -> None:
        """Show snapshots that came too fast while a person is listened to, which no error shall end."""
        try:
            self.show(snapshots)
        except SinkError as error:
            log.warning("%s", error)

    def poll(self) -> bool:
        """Handle what a person did since the last call, without waiting.

        Returns:
            Whether it is still open: False once it was closed here, or by the person.
        """
        return self._state == "open" and self._polled()

    def close(self) -> None:
        """End it within seconds; calling it again, or before it was opened, does no harm."""
        if self._state != "ended":
            self._state = "ended"
            self._closed()

    @abstractmethod
    def _opened(self) -> str:
        """Make it, and return where it is seen."""

    @abstractmethod
    def _shown(self, environment: int, snapshot: Mapping[str, Any]) -> None:
        """Take the snapshot of an environment; what it raises is translated."""

    def _drawn(self) -> None:  # noqa: B027 - most sinks have drawn by then
        """Draw what was taken; by default `_shown` has done so."""

    def _polled(self) -> bool:
        """Handle what a person did; return whether it is still open."""
        return True

    @abstractmethod
    def _closed(self) -> None:
        """Give back what it holds, once, also where making it failed."""
