"""Panels at the side of a web page: texts, curves and images of an environment, and what a person chooses by."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from physgym.scene.frames import draw

PLOTS = ("image", "curve")  # drawn as pictures
PICTURE = (480, 320)  # of curves and images, pixels
PICTURES = 3.0  # of these in a second, at most
PREVIOUS, NEXT = "previous", "next"


class ControlPanel:
    """Choice of environments, buttons where the run can be paused, and a note.

    Args:
        server: The server of viser.
        title: What is shown.
        chosen: Environments that are shown.
        environments: How many there are.
        runs: Whether there are buttons to pause the run.
    """

    def __init__(self, server: Any, title: str, chosen: Sequence[int], environments: int, *, runs: bool) -> None:
        self._asked: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()  # viser asks in threads of its own
        gui = server.gui
        self._title, self._note = title, gui.add_markdown(title)
        self._numbers = gui.add_text("environments", text_of(chosen), hint=f"of {environments}, such as 0-3, 7")
        self._numbers.on_update(self._chosen_by)
        others = gui.add_button_group("others", (PREVIOUS, NEXT))
        others.on_click(lambda _: self._asked.put(("others", others.value)))
        if runs:
            buttons = gui.add_button_group("run", ("pause", "resume", "step"))
            buttons.on_click(lambda _: self._asked.put(("run", buttons.value)))

    def _chosen_by(self, event: Any) -> None:
        if event.client is not None:  # else it was changed here
            self._asked.put(("choose", self._numbers.value))

    def asked(self) -> Iterator[tuple[str, str]]:
        """Yield what a person did since the last call: "run", "others" or "choose", and the button or text."""
        while not self._asked.empty():
            yield self._asked.get()

    def show_chosen(self, chosen: Sequence[int]) -> None:
        """Show which environments are chosen."""
        if self._numbers.value != text_of(chosen):
            self._numbers.value = text_of(chosen)

    def say(self, text: str) -> None:
        """Show a note below the title."""
        self._note.content = f"{self._title}\n\n*{text}*" if text else self._title


class SidePanel:
    """Title, texts, curves and images of an environment, next to the space."""

    def __init__(self, server: Any, environment: int) -> None:
        self._gui = server.gui
        self._folder = self._gui.add_folder(f"environment {environment}")
        with self._folder:
            self._text = self._gui.add_markdown("")
        self._picture: Any = None
        self._shown: Mapping[str, Any] = {}
        self._next = 0.0

    def update(self, snapshot: Mapping[str, Any]) -> None:
        """Show what differs from the last snapshot; pictures a few times a second at most."""
        texts = [one["text"] for one in snapshot["objects"].values() if one["kind"] == "text" and "point" not in one]
        scales = [
            _scale(name, one) for name, one in snapshot["objects"].items() if {"scalars", "face_scalars"} & set(one)
        ]
        content = "\n\n".join([snapshot["title"], *texts, *scales])
        if self._text.content != content:
            self._text.content = content
        plots = {name: one for name, one in snapshot["objects"].items() if one["kind"] in PLOTS}
        if not plots or time.monotonic() < self._next or _are(plots, self._shown):
            return
        self._shown, self._next = plots, time.monotonic() + 1 / PICTURES
        pixels = draw([{**snapshot, "title": "", "objects": plots, "camera": {"flat": False}}], PICTURE)
        if self._picture is None:
            with self._folder:
                self._picture = self._gui.add_image(pixels, format="jpeg", jpeg_quality=85)
        else:
            self._picture.image = pixels

    def close(self) -> None:
        """Take it from the page."""
        self._folder.remove()


def _scale(name: str, item: Mapping[str, Any]) -> str:
    """Return what the colours of an object stand for."""
    low, high = item["limits"]
    return f"{item['label'] or name}: {low:.3g} to {high:.3g} {item['unit']} ({item['colours']})"


def _are(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two mappings hold the same objects, and no others."""
    return one.keys() == other.keys() and all(one[name] is other[name] for name in one)


def text_of(numbers: Sequence[int]) -> str:
    """Return numbers as text, such as "0-3, 7"."""
    runs: list[list[int]] = []
    for one in numbers:
        if runs and one == runs[-1][1] + 1:
            runs[-1][1] = one
        else:
            runs.append([one, one])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def numbers_of(text: str) -> list[int]:
    """Return the numbers of a text such as "0-3, 7"; what is none is left out."""
    found: set[int] = set()
    for part in text.replace(",", " ").split():
        first, _, last = part.partition("-")
        if first.isdecimal() and (not last or last.isdecimal()) and len(first + last) < 12:
            found.update(range(int(first), min(int(last or first), int(first) + 1000) + 1))
    return sorted(found)


def moved_on(chosen: Sequence[int], environments: int, by: int) -> list[int]:
    """Return as many environments, those after or before the chosen ones, around at the end."""
    count = len(chosen)
    first = chosen[-1] + 1 if by > 0 else chosen[0] - count
    return sorted({(first + number) % environments for number in range(count)})
