"""A text in place of a scene that cannot be drawn."""

from __future__ import annotations

import textwrap

from physgym.scene.changes import SceneSnapshot
from physgym.scene.objects import Scene

MESSAGE = "message"  # name of the text
MESSAGE_COLOUR = "#d1495b"
LINE = 60  # signs of the text in a line


def message_scene(text: str) -> SceneSnapshot:
    """Return a scene that is a text alone."""
    scene = Scene()
    scene.text(MESSAGE, "\n".join(textwrap.wrap(text, LINE)), colour=MESSAGE_COLOUR)
    return scene.snapshot({}, {})
