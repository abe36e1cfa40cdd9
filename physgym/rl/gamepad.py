"""`Gamepad`: the axes of a gamepad, which are at rest as soon as it has lost its link.

Through pygame, which is imported on first use (``pip install 'physgym[gamepad]'``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Protocol, Self

from physgym.errors import ConfigError, needs

SILENT = 10.0  # seconds without the least change, after which a gamepad that is not at rest has lost its link
DEAD = 0.08  # of an axis, around its middle, which counts as its middle
AXES = (0, 1, 2, 3)  # numbers of the axes: left stick to the right and down, right stick likewise
UP = (1, 3)  # those that are positive downwards


class PadDevice(Protocol):
    """A gamepad as its library gives it."""

    name: str

    def axes(self) -> Sequence[float]:
        """Return the axes, each from -1 to 1."""


class PadLibrary(Protocol):
    """A library of gamepads."""

    def news(self) -> Iterable[tuple[str, int]]:
        """Return what happened since the last call: "added" or "removed", with the number of the gamepad."""

    def open(self, number: int) -> PadDevice:
        """Return a gamepad."""

    def close(self) -> None:
        """Let go of all."""


class Gamepad:
    """The gamepad of a person; a context manager.

    A gamepad that is pulled out, or whose radio is out of reach, is at rest from then on, and this is said; so is one
    that repeats a value for ten seconds without the least change, as some do that have lost their link. One that comes
    back does so as another device, which takes over, and this is said too.

    Args:
        say: Takes lines for the person.
        library: What gamepads come from; by default pygame.
        clock: Returns the time in s.

    Raises:
        ConfigError: There is no gamepad, or the package is missing.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        library: PadLibrary | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say, self._clock = say, clock
        self._library = Pygame() if library is None else library
        self._device: PadDevice | None = None
        self._number = -1
        self._last: tuple[float, ...] = ()
        self._since = clock()  # when it changed last
        self._silent = False
        self._take_news()
        if self._device is None:
            self._library.close()
            raise ConfigError("there is no gamepad: plug it in, or turn it on, and begin again; keys work without one")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.close()

    @property
    def name(self) -> str:
        """Return the name of the gamepad; empty where none is there."""
        return "" if self._device is None else self._device.name

    def values(self, count: int) -> list[float]:
        """Return the first axes, each from -1 to 1, right and up positive; all 0 where there is no link."""
        self._take_news()
        if self._device is None:
            return [0.0] * count
        now, axes = self._clock(), tuple(self._device.axes())
        if axes != self._last:
            if self._silent:
                self._say("the gamepad moves again")
            self._last, self._since, self._silent = axes, now, False
        found = [0.0 if abs(value) < DEAD else value for value in axes]
        if not self._silent and any(found) and now > self._since + SILENT:
            self._silent = True
            self._say(f"the gamepad has not moved for {SILENT:g} s and may have lost its link: at rest until it does")
        if self._silent:
            return [0.0] * count
        named = [found[axis] if axis < len(found) else 0.0 for axis in AXES]
        return [-value if axis in UP else value for axis, value in zip(AXES, named, strict=True)][:count]

    def _take_news(self) -> None:
        for what, number in self._library.news():
            if what == "removed" and number == self._number:
                self._device, self._number = None, -1
                self._say("the gamepad is gone: at rest until it comes back")
            elif what == "added" and self._device is None:
                self._device, self._number = self._library.open(number), number
                self._last, self._since, self._silent = (), self._clock(), False
                self._say(f"gamepad: {self._device.name}")


class Pygame:
    """Gamepads of pygame, without a window.

    Raises:
        ConfigError: It is not installed.
    """

    def __init__(self) -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        os.environ.setdefault("SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS", "1")  # the window that has the focus is another
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        with needs("pygame", "gamepad", "a gamepad"):
            import pygame
        self._pygame = pygame
        pygame.display.init()  # its events need one
        pygame.joystick.init()
        # those that are there come as events too, but not from every version of SDL
        self._there = [("added", number) for number in range(pygame.joystick.get_count())]
        self._known: set[int] = set()

    def news(self) -> list[tuple[str, int]]:
        """Return what happened since the last call; a gamepad has the number of its instance."""
        pygame, found = self._pygame, []
        for event in pygame.event.get():
            if event.type == pygame.JOYDEVICEADDED:
                self._there.append(("added", event.device_index))
            elif event.type == pygame.JOYDEVICEREMOVED:
                self._known.discard(event.instance_id)
                found.append(("removed", event.instance_id))
        for _, index in self._there:
            stick = pygame.joystick.Joystick(index) if index < pygame.joystick.get_count() else None
            if stick is not None and stick.get_instance_id() not in self._known:
                self._known.add(stick.get_instance_id())
                found.append(("added", stick.get_instance_id()))
        self._there = []
        return found

    def open(self, number: int) -> PygameDevice:
        """Return a gamepad.

        Raises:
            ConfigError: It is gone.
        """
        pygame = self._pygame
        for index in range(pygame.joystick.get_count()):
            stick = pygame.joystick.Joystick(index)
            if stick.get_instance_id() == number:
                return PygameDevice(stick)
        raise ConfigError("the gamepad is gone already")

    def close(self) -> None:
        """Let go of all."""
        self._pygame.joystick.quit()
        self._pygame.display.quit()


class PygameDevice:
    """A gamepad of pygame.

    Args:
        stick: The ``Joystick``.

    Attributes:
        name: Its name.
    """

    def __init__(self, stick: object) -> None:
        self._stick = stick
        self.name = str(stick.get_name())  # type: ignore[attr-defined]

    def axes(self) -> list[float]:
        """Return the axes, each from -1 to 1."""
        stick = self._stick
        return [stick.get_axis(number) for number in range(stick.get_numaxes())]  # type: ignore[attr-defined]
