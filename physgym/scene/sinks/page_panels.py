"""Panels at the side of a web page: texts, curves and images of an environment, and what a person chooses by."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from physgym.scene.frames import draw
from physgym.scene.inputs import InputValue
from physgym.scene.sinks.coloured_mesh import image_pixels
from physgym.spaces import Array

PICTURE = (720, 540)  # of curves, pixels
WAITING = 1.0  # seconds after which nobody waits for a picture any more
HEIGHT, SPACE = 160, 6  # of images, and between them
PREVIOUS, NEXT = "previous", "next"


class PictureTime:
    """Time for pictures that take long to draw: a quarter of all, and in turn, so that the page answers."""

    def __init__(self) -> None:
        self._next = 0.0
        self._drawn: dict[int, float] = {}  # when each environment has drawn
        self._asked: dict[int, float] = {}  # when each has asked for its turn

    def is_turn(self, environment: int) -> bool:
        """Return whether an environment may draw now: the one that waits longest, of those that still ask."""
        now = time.monotonic()
        self._asked[environment] = now
        waiting = [one for one, asked in self._asked.items() if asked > now - WAITING]
        first = min(waiting, key=lambda one: self._drawn.get(one, 0.0))
        return now >= self._next and self._drawn.get(environment, 0.0) <= self._drawn.get(first, 0.0)

    def spend(self, environment: int, seconds: float) -> None:
        """Note that an environment has drawn, and for how long."""
        self._asked.pop(environment, None)
        self._drawn[environment] = time.monotonic()
        self._next = self._drawn[environment] + 3 * seconds


class ControlPanel:
    """Choice of environments, buttons where the run can be paused, and a note.

    Args:
        server: The server of viser.
        title: What is shown.
        chosen: Environments that are shown.
        environments: How many there are.
        runs: Whether there are buttons to pause the run.

    Attributes:
        pictures: The time for pictures of curves, which all environments have in common.
    """

    def __init__(self, server: Any, title: str, chosen: Sequence[int], environments: int, *, runs: bool) -> None:
        self.pictures = PictureTime()
        self._asked: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()  # viser asks in threads of its own
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

    def give(self, environment: int, name: str, value: InputValue) -> None:
        """Take an input that the person has changed."""
        self._asked.put(("input", (environment, name, value)))

    def asked(self) -> Iterator[tuple[str, Any]]:
        """Yield what a person did since the last call.

        "run", "others" or "choose" with the button or text, or "input" with environment, name and value.
        """
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
    """Title, texts, images and curves of an environment, next to the space.

    Args:
        server: The server of viser.
        environment: Its number.
        pictures: The time for pictures of curves.

    Attributes:
        folder: What holds it.
    """

    def __init__(self, server: Any, environment: int, pictures: PictureTime) -> None:
        self._gui, self._environment, self._pictures = server.gui, environment, pictures
        self.folder = self._gui.add_folder(
            f"environment {environment}", order=1e6 + environment
        )  # below the choice of them
        with self.folder:
            self._text = self._gui.add_markdown("")
        self._shown: dict[str, Mapping[str, Any]] = {}
        self._handles: dict[str, Any] = {}

    def update(self, snapshot: Mapping[str, Any]) -> None:
        """Show what differs from the last snapshot."""
        objects = snapshot["objects"]
        texts = [one["text"] for one in objects.values() if one["kind"] == "text" and "point" not in one]
        scales = [_scale(name, one) for name, one in objects.items() if one["kind"] != "curve" and "limits" in one]
        content = "\n\n".join([snapshot["title"], *texts, *scales])
        if self._text.content != content:
            self._text.content = content
        images, curves = ({n: one for n, one in objects.items() if one["kind"] == kind} for kind in ("image", "curve"))
        if images and not _are(images, self._shown.get("image", {})):
            self._show("image", images, _side_by_side([image_pixels(one) for one in images.values()]))
        changed = bool(curves) and not _are(curves, self._shown.get("curve", {}))
        if changed and self._pictures.is_turn(self._environment):
            start = time.monotonic()
            pixels = draw([{**snapshot, "title": "", "objects": curves, "camera": {"flat": False}}], PICTURE)
            self._pictures.spend(self._environment, time.monotonic() - start)
            self._show("curve", curves, pixels)

    def _show(self, kind: str, items: Mapping[str, Any], pixels: Array) -> None:
        """Show a picture."""
        self._shown[kind] = items
        if kind in self._handles:
            self._handles[kind].image = pixels
            return
        with self.folder:
            self._handles[kind] = self._gui.add_image(pixels, format="jpeg", jpeg_quality=85)

    def close(self) -> None:
        """Take it from the page."""
        self.folder.remove()


def _side_by_side(images: Sequence[Array]) -> Array:
    """Return pictures enlarged to about the same height, with white between them."""
    found = []
    for pixels in images:
        times = max(1, round(HEIGHT / len(pixels)))
        found.append(pixels.repeat(times, axis=0).repeat(times, axis=1))
    height = max(map(len, found))
    return np.concatenate(
        [np.pad(one, ((0, height - len(one)), (0, SPACE), (0, 0)), constant_values=255) for one in found], axis=1
    )


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
