"""`SampleView`: stored samples as pictures, films and a window."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np

from physgym.checks import integer, positive
from physgym.data.dataset import SampleDataset
from physgym.html_parts import html_image
from physgym.scene.changes import SceneSnapshot
from physgym.scene.chosen_samples import ChosenSamples, Shown
from physgym.scene.films import (
    GIF,
    PNG,
    VIDEOS,
    Film,
    check_folder,
    check_length,
    check_output,
    png,
    save_film,
    save_frames,
    save_picture,
)
from physgym.scene.frames import FEW_PANELS, draw
from physgym.scene.player import shown_at
from physgym.scene.plots import panels_of
from physgym.scene.sample_scenes import Side
from physgym.scene.space import Size
from physgym.scene.timeline import Timeline
from physgym.spaces import Array

FPS = 10.0
SAMPLES = 100  # in a film of which nothing else is said
ONE, SEVERAL = (640, 480), (420, 350)  # pixels of a scene
LANES = (4, 2)  # up to so many episodes at once, so many stand side by side


class ChoiceOptions(TypedDict, total=False):
    """Options of `ChosenSamples`, which says what they mean."""

    episode: int | Sequence[int] | None
    step: int | None
    sample: int | None
    rejected: bool
    sides: Sequence[Side] | None
    grid: int
    speed: float | None
    live: bool
    allow_changed_code: bool


class ViewOptions(ChoiceOptions, total=False):
    """Options of `SampleView`, which says what they mean."""

    samples: int | None
    fps: float
    size: Size | None


class SampleView(ChosenSamples):
    """Stored samples to look at: a picture, a film, a window, or the value of a cell in a notebook.

    In a notebook it is a film (a video where ``physgym[video]`` is installed, else a GIF), of one sample a picture.

    Args:
        dataset: The samples.
        samples: How many samples a film shows; by default one where it is named, all of the named episodes, else 100,
            or with `grid` those of so many episodes.
        fps: Frames in a second of a film. Without a `speed` each step is a frame, or where steps differ most of them
            are.
        size: Width and height in pixels of pictures; by default for the number of scenes.
        **options: Those of `ChosenSamples`: `episode`, `step`, `sample`, `rejected`, `sides`, `grid`, `speed`, `live`
            and `allow_changed_code`.

    Raises:
        ConfigError: An argument is wrong, or there is no such sample.
    """

    def __init__(
        self,
        dataset: SampleDataset,
        *,
        samples: int | None = None,
        fps: float = FPS,
        size: Size | None = None,
        **options: Unpack[ChoiceOptions],
    ) -> None:
        super().__init__(dataset, **options)
        self._fps, self._size = positive("fps", fps), size
        self._count = _count(samples, options.get("episode"), options.get("sample"))
        if samples is None and self._count == SAMPLES and self._grid > 1:  # which may be of fewer episodes
            begins = self.timeline.begins
            ends = self.timeline.number(self.start) + self._grid
            self._count = max(SAMPLES, int(begins[min(ends, len(begins) - 1)]) - self.start)

    # --- pictures

    def picture(self, position: int | None = None) -> Array:
        """Return the picture of a sample: uint8, shape (height, width, 3).

        Args:
            position: Which one of `timeline`; by default the first one that is shown, with those of the other episodes
                where there are several at once.

        Raises:
            ConfigError: There is no such position.
        """
        self.prepare()
        if position is None:
            return self._picture([(lane, 0) for lane in self._film_lanes()])
        return self._picture([(self.timeline, integer("position", position, 0, len(self.timeline) - 1))])

    def film(self) -> Film:
        """Return the film, in which time passes as in the samples.

        Raises:
            ConfigError: It would be too long, or has fewer episodes than are to be shown at once.
        """
        lanes = self._film_lanes()
        speed = self._fps * self._shown.typical if self.speed is None else self.speed
        check_length(max(float(lane.clock[-1]) for lane in lanes) / speed * self._fps)
        shown = [shown_at(lane, speed, self._fps) for lane in lanes]
        length = max(map(len, shown))
        together = zip(*([*one, *[one[-1]] * (length - len(one))] for one in shown), strict=True)
        different = [(positions, len([*same])) for positions, same in groupby(together)]
        return self._film(lanes, [positions for positions, _ in different], [count for _, count in different])

    def _film_lanes(self) -> list[Timeline]:
        """Return the samples of a film, for each of the episodes that are shown at once.

        Raises:
            ConfigError: There are fewer episodes.
        """
        return self._shown.deal(self._grid)

    @property
    def _shown(self) -> Timeline:
        end = len(self.timeline) if self._count is None else self.start + self._count
        return self.timeline.part(np.arange(self.start, min(end, len(self.timeline))))

    def _film(self, lanes: list[Timeline], positions: Sequence[Sequence[int]], frames: Sequence[int]) -> Film:
        self.prepare()
        return Film(lambda number: self._picture([*zip(lanes, positions[number], strict=True)]), frames, self._fps)

    def _picture(self, shown: Shown) -> Array:
        snapshots = self.snapshots(shown)
        titles = self.titles(shown)
        own = snapshots[0]["title"]
        title = ", ".join(filter(None, (own, "" if len(shown) > 1 else self.title(*shown[0]))))
        columns = self.columns
        if self._size is None:
            self._size = _size_of(snapshots, columns)
        return draw(snapshots, self._size, titles=titles, title=title, columns=columns)

    @property
    def columns(self) -> int:
        """Return how many scenes stand side by side."""
        if len(self.sides) > 1 or self._grid == 1:
            return len(self.sides)
        return LANES[1] if self._grid <= LANES[0] else LANES[1] + 1

    # --- files

    def save(self, path: str | Path, *, overwrite: bool = False, progress: bool = False) -> Film | None:
        """Write the film, or the picture of the first sample, as the suffix says.

        Args:
            path: The file: .mp4, .mov, .mkv or .webm (``pip install 'physgym[video]'``), .gif, or .png for a picture.
            overwrite: Whether a file may be replaced.
            progress: Show how many pictures of a film are drawn.

        Returns:
            The film, None for a picture.

        Raises:
            ConfigError: The suffix is another one, the file is there or cannot be written, or a package is missing.
        """
        if Path(path).suffix.lower() == PNG:
            save_picture(path, self.picture(), overwrite=overwrite)
            return None
        check_output(path, [*VIDEOS, GIF, PNG], overwrite=overwrite)
        film = self.film()
        save_film(path, film, overwrite=overwrite, progress=progress)
        return film

    def save_frames(self, folder: str | Path, *, progress: bool = False) -> int:
        """Write a picture of each sample of the film as a PNG file in a new folder, and return how many.

        Their names are in order, and tell episode and step.

        Raises:
            ConfigError: The folder holds something, or cannot be written.
        """
        check_folder(folder)
        lanes = self._film_lanes()
        length = max(map(len, lanes))
        positions = [[min(number, len(lane) - 1) for lane in lanes] for number in range(length)]
        names = [f"{number:05d}" for number in range(length)]
        if len(lanes) == 1:
            where = zip(lanes[0].episode.tolist(), lanes[0].step.tolist(), strict=True)
            names = [f"{name}-episode-{one}-step-{step}" for name, (one, step) in zip(names, where, strict=True)]
        save_frames(folder, self._film(lanes, positions, [1] * length), names, progress=progress)
        return length

    # --- for a person

    def show(self) -> None:
        """Open a window that plays the samples, until it is closed.

        Raises:
            ConfigError: There is no display.
        """
        from physgym.scene.player_window import show_player

        show_player(self)

    def _repr_html_(self) -> str | None:
        if self._count == 1:
            return None  # the picture is enough
        video = find_spec("imageio_ffmpeg") is not None
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, f"film{'.mp4' if video else GIF}")
            self.save(file)
            data = file.read_bytes()
        if video:
            return f'<video controls loop src="data:video/mp4;base64,{base64.b64encode(data).decode()}"></video>'
        return html_image(data, "gif")

    def _repr_png_(self) -> bytes:
        return png(self.picture())


def _size_of(snapshots: Sequence[SceneSnapshot], columns: int) -> Size:
    """Return the size of a picture of scenes, so many of them side by side."""
    size = ONE if len(snapshots) == 1 else _times(SEVERAL, columns, -(-len(snapshots) // columns))
    several = max(len(panels_of(one)) for one in snapshots) > FEW_PANELS
    return (size[0] * 3 // 2, size[1] * 3 // 2) if several else size


def _count(samples: int | None, episode: int | Sequence[int] | None, sample: int | None) -> int | None:
    """Return how many samples a film shows; None for all that are chosen."""
    if samples is not None:
        return integer("samples", samples, 1)
    return 1 if sample is not None else SAMPLES if episode is None else None


def _times(size: Size, columns: int, rows: int) -> Size:
    return size[0] * columns, size[1] * rows
