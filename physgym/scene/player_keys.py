"""`PlayerKeys`: the keys of the player."""

from __future__ import annotations

from collections.abc import Callable

from physgym.errors import ConfigError
from physgym.scene.player import FASTER, Player

HELP = (
    "space: play or pause    b: backwards    left, right: a sample    up, down: an episode    + -: speed\n"
    "r: repeat the episode    x: next rejected sample    g: go to an episode and step    home, end    q: close"
)
DIGITS = 18  # of a number that is typed


class PlayerKeys:
    """Effects of the keys of a window on a player.

    ``g`` begins a text such as ``12,5``, episode and step, and Return goes there.

    Args:
        player: The player.

    Attributes:
        message: A line for the person: the text that is typed, or why it leads nowhere; empty for neither.
    """

    def __init__(self, player: Player) -> None:
        self.message = ""
        self._player = player
        self._typed: str | None = None
        self._actions: dict[str, Callable[[], object]] = {
            "space": self.toggle,
            "b": lambda: player.play(backwards=True),
            "Left": lambda: player.step(-1),
            "Right": lambda: player.step(1),
            "Up": lambda: player.skip(-1),
            "Down": lambda: player.skip(1),
            "Home": lambda: player.seek(0),
            "End": lambda: player.seek(len(player.timeline) - 1),
            "plus": player.faster,
            "minus": lambda: player.faster(1 / FASTER),
            "r": self._repeat,
            "x": self._rejected,
            "g": self._ask,
        }
        self._actions |= {"equal": self._actions["plus"], "KP_Add": self._actions["plus"]}
        self._actions |= {"KP_Subtract": self._actions["minus"]}

    def press(self, key: str) -> bool:
        """Do what a key is for; return whether it is for anything.

        Args:
            key: Its name as X11 and VTK have it, such as "space", "Left" or "g".
        """
        if self._typed is not None:
            self._type(key)
            return True
        action = self._actions.get(key)
        if action is None:
            return False
        self.message = ""
        action()
        return True

    def toggle(self) -> None:
        """Pause, or play on."""
        if self._player.playing:
            self._player.pause()
        else:
            self._player.play()

    def _repeat(self) -> None:
        self._player.repeat = not self._player.repeat

    def _rejected(self) -> None:
        if not self._player.next_rejected():
            self.message = "no rejected samples are shown (physgym view --rejected)"

    def _ask(self) -> None:
        self._typed = ""
        self._prompt()

    def _prompt(self) -> None:
        self.message = f"episode, step: {self._typed}_"

    def _type(self, key: str) -> None:
        """Take a key of the text."""
        assert self._typed is not None
        sign = "," if key in ("comma", "space") else key.removeprefix("KP_")
        if key in ("Return", "KP_Enter"):
            self._go()
        elif key == "Escape":
            self._typed, self.message = None, ""
        elif key == "BackSpace":
            self._typed = self._typed[:-1]
            self._prompt()
        elif (sign.isdecimal() and len(sign) == 1) or (sign == "," and "," not in self._typed):
            self._typed = (self._typed + sign)[: 2 * DIGITS]
            self._prompt()

    def _go(self) -> None:
        episode, _, step = (self._typed or "").partition(",")
        self._typed, self.message = None, ""
        if not episode:
            return
        try:
            self._player.jump(int(episode), int(step) if step else None)
        except ConfigError as error:
            self.message = str(error)
