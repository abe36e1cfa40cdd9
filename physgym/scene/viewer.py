"""A viewer: the process in which a sink shows what runs in another one, and which may be slow, stopped or killed.

``python -m physgym.scene.viewer SINK DESCRIPTOR`` is what a run starts for itself; ``physgym watch`` connects to a run
that is under way.
"""

from __future__ import annotations

import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from physgym.errors import PhysGymError
from physgym.progress import say
from physgym.scene.changes import apply
from physgym.scene.inputs import InputValue
from physgym.scene.sinks.base import Controls, SceneSink, SinkError
from physgym.scene.sinks.table import make_sink
from physgym.viewing.views import SAID
from physgym.viewing.wire import Link

RATE = 30.0  # frames of an environment per second
IDLE = 1 / 60  # seconds between two looks at what the person does


class Buttons(Controls):
    """Pause, single step and inputs of the run that has started this viewer.

    Args:
        link: The way to it.
        takes_inputs: Whether the run takes inputs.
    """

    def __init__(self, link: Link, *, takes_inputs: bool = False) -> None:
        self._link, self._takes_inputs = link, takes_inputs
        self._paused = False
        self._given: dict[tuple[int, str], InputValue] = {}  # of each input the last value that was not sent

    @property
    def paused(self) -> bool:
        """Return whether the run pauses, as it said last."""
        return self._paused

    def heard(self, *, paused: bool) -> None:
        """Take note of what the run says."""
        self._paused = paused

    def pause(self) -> None:
        """Have it make no more steps."""
        self._do("pause")

    def resume(self) -> None:
        """Let it continue."""
        self._do("resume")

    def step(self) -> None:
        """Have it make one step, and pause."""
        self._do("step")

    @property
    def takes_inputs(self) -> bool:
        """Return whether the run takes inputs of a person."""
        return self._takes_inputs

    def give(self, environment: int, name: str, value: InputValue) -> None:
        """Have an input changed, with the next `send`."""
        self._given[environment, name] = value

    def send(self) -> None:
        """Send the inputs that were changed since the last time, of each the last value."""
        while self._given:
            key = next(iter(self._given))
            self._send({"input": [*key, self._given.pop(key)]})

    def leave(self) -> None:
        """Say that the person has closed the window or page."""
        self._do("leave")

    def _do(self, what: str) -> None:
        self._send({"do": what})

    def _send(self, message: Mapping[str, Any]) -> None:
        try:
            self._link.send(message)
        except OSError:
            return  # it has ended, which shows when it is read


def view(
    link: Link,
    words: dict[str, Any],
    sink: SceneSink,
    *,
    rate: float = RATE,
    opened: Callable[[str], None] = lambda place: None,
) -> None:
    """Show what runs at the other end of a link, until the person closes the window or it ends.

    Args:
        link: The way to it; closed afterwards.
        words: Its first words.
        sink: Where it is shown; closed afterwards.
        rate: Frames of an environment per second.
        opened: Called with the place at which it is seen.

    Raises:
        ConfigError: The sink cannot be opened.
        SceneError: A frame cannot be read.
    """
    buttons = Buttons(link, takes_inputs=bool(words["inputs"])) if words["control"] else None
    try:
        sink.open(words["title"], words["environments"], controls=buttons)
        opened(sink.place)
        _serve(link, sink, buttons, rate)
        if buttons is not None:
            buttons.leave()
    except EOFError:
        return  # it has ended
    finally:
        link.close()
        sink.close()


def _serve(link: Link, sink: SceneSink, buttons: Buttons | None, rate: float) -> None:
    snapshots: dict[int, Any] = {}
    said: set[str] = set()
    errors: Counter[int] = Counter()  # by environment
    chosen: tuple[int, ...] | None = None
    while sink.poll():
        if buttons is not None:
            buttons.send()
        if sink.chosen != chosen:
            chosen = sink.chosen
            try:
                link.send({"watch": list(chosen), "interval": 1 / rate})
            except OSError as error:
                raise EOFError(str(error)) from error
            snapshots = {env: shown for env, shown in snapshots.items() if env in chosen}
        news: dict[int, Any] = {}
        wait, until = IDLE, time.monotonic() + IDLE
        while (message := link.receive(wait)) is not None:
            if "end" in message:
                raise EOFError("it has ended")
            if "paused" in message and buttons is not None:
                buttons.heard(paused=bool(message["paused"]))
            if "env" in message and message["env"] in chosen:
                if message.get("error"):
                    errors[message["env"]] += 1
                    if errors[message["env"]] <= SAID:
                        say(f"environment {message['env']}: {message['error']}")
                _take(message, snapshots, news)
            wait = 0.0
            if time.monotonic() > until:
                break  # draw: others wait
        try:
            if news:
                sink.show(news)
        except SinkError as error:
            if str(error) not in said:
                said.add(str(error))
                say(f"view: {error}")


def _take(message: dict[str, Any], snapshots: dict[int, Any], news: dict[int, Any]) -> None:
    env = message["env"]
    if "frame" not in message:
        return
    if env not in snapshots and not message["frame"]["full"]:
        return  # of before it was chosen
    snapshots[env] = apply(snapshots.get(env), message["frame"])
    news[env] = {**snapshots[env], "title": titled(snapshots[env]["title"], message["episode"], message["step"])}


def titled(title: str, episode: int | None, step: int | None) -> str:
    """Return a title with the name of the step."""
    name = "" if episode is None else f"episode {episode}, step {step}"
    return ": ".join(part for part in (title, name) if part)


def main() -> int:
    """Show the run that has started this process, to which a socket leads; return the exit status."""
    name, file = sys.argv[1], int(sys.argv[2])
    link = Link(socket.socket(fileno=file))
    try:
        words = link.receive(30.0)
        if words is None:
            return 1
        view(link, words, make_sink(name), opened=lambda place: say(f"view: {place}"))
    except EOFError:
        return 0
    except PhysGymError as error:
        say(f"view: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
