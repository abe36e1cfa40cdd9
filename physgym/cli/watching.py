"""The command that shows what runs elsewhere on this machine."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from physgym.cli.app import app
from physgym.errors import ConfigError
from physgym.scene.sinks.table import SINKS, choices_text


@app.command()
def watch(
    place: Annotated[
        str,
        typer.Argument(
            metavar="SESSION|DATA",
            help="Session or dataset in which something runs; or the address of a page that shows it.",
            show_default=False,
        ),
    ],
    sink: Annotated[str, typer.Option(metavar="SINK", help=f"Where it is shown: {choices_text(SINKS)}.")] = "vedo",
    env: Annotated[
        list[int] | None, typer.Option(min=0, help="Environment to show; may be repeated. By default the first four.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Frames of an environment per second, at most.")] = 30.0,
    out: Annotated[Path | None, typer.Option(help="File of a recording.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port of a page; by default a free one.")] = None,
) -> None:
    """Show simulations that run in another terminal.

    Those of generate, train, run and replay.

    Watching does not slow a run down, and does not change its samples. Ctrl-C, or closing
    the window, ends the watching alone.

    Example: physgym watch sessions/beam --env 0 --env 7
    """
    from physgym.progress import say
    from physgym.scene.sinks.table import make_sink
    from physgym.scene.viewer import view
    from physgym.viewing.places import find
    from physgym.viewing.wire import dial

    if place.startswith(("http://", "https://")):
        if not webbrowser.open(place):
            raise ConfigError(f"no browser opens here; open {place} in one")
        return
    if not 0 < rate <= 120:
        raise ConfigError(f"--rate is frames per second, above 0 and at most 120, not {rate:g}")
    entry = find(place)
    options = {"chosen": env, "out": out, "port": port}
    made = make_sink(sink, **{name: value for name, value in options.items() if value is not None})
    link, words = dial(entry.socket, entry.token)
    try:
        view(link, words, made, rate=rate, opened=lambda where: say(f"{entry.title} (process {entry.pid}): {where}"))
    except KeyboardInterrupt:
        return
    say(f"{entry.title} has ended, or its view was closed")
