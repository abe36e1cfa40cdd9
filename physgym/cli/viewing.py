"""The command that shows stored samples: in a window, as pictures and as films."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from physgym.cli.app import app
from physgym.errors import ConfigError
from physgym.files import short


@app.command()
def view(
    data: Annotated[
        list[str],
        typer.Argument(metavar="DATA|SESSION...", help="Dataset folder, or s3://bucket/prefix, or a session."),
    ],
    mode: Annotated[
        str | None,
        typer.Option(
            help="Part: training, validation, test or prediction.", show_default="the first of these that there is"
        ),
    ] = None,
    episode: Annotated[list[int] | None, typer.Option(min=0, help="Only this episode; may be repeated.")] = None,
    step: Annotated[int | None, typer.Option(min=0, help="Begin with this step of the episode.")] = None,
    sample: Annotated[int | None, typer.Option(min=0, help="Begin with this sample, as in dataset[17].")] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many samples a film shows.",
            show_default="1 with --sample, all of the episodes with --episode, else 100",
        ),
    ] = None,
    rejected: Annotated[
        bool, typer.Option("--rejected", help="Show rejected samples as well, at their steps.")
    ] = False,
    side: Annotated[
        list[str] | None,
        typer.Option(
            help="solver, network or error; may be repeated.", show_default="all where predictions are stored"
        ),
    ] = None,
    grid: Annotated[int, typer.Option(min=1, help="So many episodes at once.")] = 1,
    speed: Annotated[
        float | None,
        typer.Option(
            help="Seconds of the simulation that pass in a second (steps where their time is not known).",
            show_default="each step is a frame",
        ),
    ] = None,
    fps: Annotated[float, typer.Option(help="Frames in a second of a film.")] = 10.0,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="WIDTHxHEIGHT", help="Pixels of a picture.", show_default="640x480, more for several scenes"
        ),
    ] = None,
    env: Annotated[
        bool, typer.Option("--env", help="Construct the simulation, for objects that its code moves.")
    ] = False,
    allow_changed_code: Annotated[
        bool,
        typer.Option("--allow-changed-code", help="With --env: even if its code is not that of the samples."),
    ] = False,
    video: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a film: .mp4, .mov, .mkv or .webm; no window.")
    ] = None,
    gif: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a film as a GIF; no window.")] = None,
    frames: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a picture of each sample of the film; no window.")
    ] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the first picture; no window.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")] = False,
) -> None:
    """Look at stored samples: in a window, as pictures or films.

    Shows the objects that the simulation has declared, else the fields. Where predictions are stored (physgym run
    --record), solver, network and error stand side by side.

    Examples: physgym view data/beam

    physgym view data/beam --sample 17 --png beam.png

    physgym view predictions --episode 3 --video episode.mp4 --speed 0.5
    """
    from physgym.experiment.viewing import view as stored
    from physgym.scene.films import GIF, PNG, VIDEOS, check_folder, check_output

    films = [*([(video, [*VIDEOS])] if video else []), *([(gif, [GIF])] if gif else [])]
    for path, suffixes in [*films, *([(png, [PNG])] if png else [])]:
        check_output(path, suffixes, overwrite=overwrite)
    if frames is not None:
        check_folder(frames)
    if allow_changed_code and not env:
        raise ConfigError("--allow-changed-code goes with --env; without it no code of the simulation runs")
    for name in data:
        if ":" in name and "://" not in name and not Path(name).exists():
            raise ConfigError(
                f"there is no dataset at {name}. A simulation is seen by its samples: "
                f"physgym generate {name} --out data/first --samples 100, then physgym view data/first"
            )
    with stored(
        data,
        mode=mode,  # type: ignore[arg-type]  # checked by it
        episode=episode or None,
        step=step,
        sample=sample,
        samples=samples,
        rejected=rejected,
        sides=side or None,  # type: ignore[arg-type]  # checked by it
        grid=grid,
        speed=speed,
        fps=fps,
        size=_size(size),
        live=env,
        allow_changed_code=allow_changed_code,
    ) as found:
        for path, _ in films:
            film = found.save(path, overwrite=overwrite, progress=True)
            assert film is not None
            print(f"{short(path)}: {len(film.frames)} pictures, {film.seconds:.3g} s")
        if frames is not None:
            print(f"{short(frames)}: {found.save_frames(frames, progress=True)} pictures")
        if png is not None:
            found.save(png, overwrite=overwrite)
            print(short(png))
        if not (films or frames or png):
            found.show()


def _size(text: str | None) -> tuple[int, int] | None:
    """Return width and height of a text such as 640x480."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    if found is None:
        raise ConfigError(f"--size {text!r}: write WIDTHxHEIGHT in pixels, such as 640x480")
    return int(found[1]), int(found[2])
