"""`PlayerKeys`: the keys of the player."""

from __future__ import annotations

from collections.abc import Callable

from physgym.data.labels import Labels, Verdict
from physgym.errors import ConfigError, DatasetError
from physgym.scene.player import FASTER, Player

HELP = (
    "space: play or pause    b: backwards    left, right: a sample    up, down: an episode    + -: speed\n"
    "r: repeat the episode    x: next rejected sample    g: go to an episode and step    home, end    q: close"
)
LABELLING = (
    "1: good    2: bad    0: no label    a: type the right action    m: mark, from where the next label applies to here"
)
PLACE = "episode, step"
DIGITS = 18  # of a number that is typed
SIGNS = {"comma": ",", "space": ",", "minus": "-", "KP_Subtract": "-", "period": ".", "KP_Decimal": "."}


class PlayerKeys:
    """Effects of the keys of a window on a player, and on labels of recorded steps.

    ``g`` begins a text such as ``12,5``, episode and step, and Return goes there; ``a`` one such as ``-0.2,0.5``, the
    action that would have been right.

    Args:
        player: The player.
        labels: Labels that keys give; None for none.

    Attributes:
        message: A line for the person: the text that is typed, or why it leads nowhere; empty for neither.
    """

    def __init__(self, player: Player, labels: Labels | None = None) -> None:
        self.message = ""
        self._player, self._labels = player, labels
        self._typed: str | None = None
        self._asked: tuple[Callable[[str], None], str] = self._go, PLACE  # what takes the text, and what it is
        self._mark: int | None = None
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
            "g": lambda: self._ask(self._go, PLACE),
        }
        if labels is not None:
            self._actions |= {
                "1": lambda: self._judge("good"),
                "2": lambda: self._judge("bad"),
                "0": self._forget,
                "m": self._set_mark,
                "a": lambda: self._ask(self._correct, "right action"),
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

    def _ask(self, done: Callable[[str], None], what: str) -> None:
        self._typed, self._asked = "", (done, what)
        self._prompt()

    def _prompt(self) -> None:
        self.message = f"{self._asked[1]}: {self._typed}_"

    def _type(self, key: str) -> None:
        """Take a key of the text."""
        assert self._typed is not None
        sign = SIGNS.get(key, key.removeprefix("KP_"))
        if key in ("Return", "KP_Enter"):
            text, self._typed, self.message = self._typed, None, ""
            if text:
                self._asked[0](text)
        elif key == "Escape":
            self._typed, self.message = None, ""
        elif key == "BackSpace":
            self._typed = self._typed[:-1]
            self._prompt()
        elif len(sign) == 1 and (sign.isdecimal() or self._takes(sign)):
            self._typed = (self._typed + sign)[: 8 * DIGITS]
            self._prompt()

    def _takes(self, sign: str) -> bool:
        """Return whether a sign that is no digit belongs to what is typed."""
        if self._asked[1] == PLACE:
            return sign == "," and "," not in (self._typed or "")
        return sign in ",-."

    def _go(self, text: str) -> None:
        episode, _, step = text.partition(",")
        try:
            if episode:
                self._player.jump(int(episode), int(step) if step else None)
        except ConfigError as error:
            self.message = str(error)

    # --- labels

    def label(self, position: int) -> str:
        """Return the label of what is shown, and where a mark is, for people; empty for neither."""
        if self._labels is None:
            return ""
        timeline = self._player.timeline
        found = self._labels.of(int(timeline.episode[position]), int(timeline.step[position]))
        parts = [f"label: {found}"] if found else []
        if (mark := self._mark) is not None:
            parts.append(f"marked: episode {timeline.episode[mark]}, step {timeline.step[mark]}")
        return "    ".join(parts)

    def _set_mark(self) -> None:
        self._mark = self._player.position

    def _chosen(self) -> list[tuple[int, int]]:
        """Return the names of the steps that a label is for: that which is shown, or all since the mark."""
        timeline, here = self._player.timeline, self._player.position
        first, self._mark = here if self._mark is None else self._mark, None
        chosen = slice(min(first, here), max(first, here) + 1)
        stored = ~timeline.rejected[chosen]  # the others are no samples
        rows = (timeline.episode[chosen][stored].tolist(), timeline.step[chosen][stored].tolist())
        return list(zip(*rows, strict=True))

    def _judge(self, verdict: Verdict) -> None:
        self._labelled(lambda labels, steps: labels.judge(steps, verdict), verdict)

    def _forget(self) -> None:
        self._labelled(lambda labels, steps: labels.forget(steps), "no label")

    def _correct(self, text: str) -> None:
        def correct(labels: Labels, steps: list[tuple[int, int]]) -> None:
            numbers = [float(one) for one in text.split(",")]
            labels.correct(steps, numbers[0] if len(numbers) == 1 else numbers)

        self._labelled(correct, f"right: {text}")

    def _labelled(self, give: Callable[[Labels, list[tuple[int, int]]], None], what: str) -> None:
        assert self._labels is not None
        mark, steps = self._mark, self._chosen()
        try:
            give(self._labels, steps)
            self.message = f"{what}: {len(steps)} step{'' if len(steps) == 1 else 's'}"
        except (ConfigError, DatasetError, ValueError) as error:
            self._mark, self.message = mark, str(error)
