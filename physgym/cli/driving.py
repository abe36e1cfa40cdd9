"""The command by which a person drives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from physgym.cli.app import EnvArguments, EnvId, Seed, app, arguments_of
from physgym.scene.sinks.table import WITH_RUN, choices_text, titles_of


@app.command()
def drive(
    env: EnvId,
    record: Annotated[
        Path | None, typer.Option(metavar="DATA", help="Dataset folder for the recording; by default there is none.")
    ] = None,
    info: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Entry of the info to record; may be repeated.")
    ] = None,
    arg: EnvArguments = None,
    episodes: Annotated[
        int | None, typer.Option(min=1, help="End after so many episodes.", show_default="when the window is closed")
    ] = None,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the dataset with further episodes.")] = False,
    view: Annotated[
        str,
        typer.Option(
            metavar="|".join(titles_of(WITH_RUN)), help=f"How to show it: {choices_text(WITH_RUN)}, with sliders."
        ),
    ] = "vedo",
    gamepad: Annotated[bool, typer.Option("--gamepad", help="Drive with the sticks of a gamepad.")] = False,
    ramp: Annotated[
        float, typer.Option(min=0, help="Seconds in which a key changes an action by half of its range.")
    ] = 0.25,
    allow_changed_code: Annotated[
        bool, typer.Option("--allow-changed-code", help="Continue also what an environment of other code has recorded.")
    ] = False,
) -> None:
    """Drive in an environment yourself, and record it.

    The keys of a window, a page or a gamepad act in real time.

    A recording is like that of physgym.Recorder for an agent. Without --record nothing is kept.

    Example: physgym drive physgym/Track-v0 --record data/me --info cte --info speed
    """
    from physgym.rl.drive import drive as run

    run(
        env,
        env_kwargs=arguments_of(arg),
        record=record,
        infos=info or (),
        episodes=episodes,
        seed=seed,
        resume=resume,
        view=view,
        gamepad=gamepad,
        ramp=ramp,
        allow_changed_code=allow_changed_code,
    )
