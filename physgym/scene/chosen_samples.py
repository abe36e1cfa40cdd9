"""`ChosenSamples`: the samples of a dataset that somebody wants to see, and their scenes."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np

from physgym.checks import integer, integers, positive
from physgym.data.dataset import SampleDataset
from physgym.errors import ConfigError
from physgym.scene.changes import SceneSnapshot
from physgym.scene.episode_scenes import EpisodeScenes
from physgym.scene.player import title_of
from physgym.scene.sample_scenes import SampleScenes, Side
from physgym.scene.timeline import Timeline, timeline_of

SEEN = 64  # samples whose colours and positions are known before the first one is drawn
Shown = Sequence[tuple[Timeline, int]]  # samples that are seen at once, each as a position in its episodes


class ChosenSamples:
    """Samples to look at, and their scenes.

    A context manager: with `live` a simulation is open until `close`.

    Args:
        dataset: The samples.
        episode: Number of the episode, or of several; by default all.
        step: The step of that episode to begin with.
        sample: In place of an episode the index of a sample, as in ``dataset[17]``.
        rejected: Whether rejected samples are shown as well, at their steps.
        sides: Which scenes of a sample: "solver", "network" and "error"; by default all where predictions are stored,
            and the solver's, with the predictions over it, where these are curves over time.
        grid: How many episodes at once: the first one, the next one and so on, each of which continues with the next
            one that is left.
        speed: Time of the samples that passes in a second: in s, or in steps where their time is not known.
        live: Whether the simulation is constructed, and draws what its code moves.
        allow_changed_code: With `live`, whether its code may be another one than that which made the samples.

    Attributes:
        dataset: As the argument.
        timeline: The samples that can be looked at, in order.
        start: Position of the first one that is shown.
        speed: The same.
        scenes: Their scenes.

    Raises:
        ConfigError: An argument is wrong, or there is no such sample.
    """

    def __init__(
        self,
        dataset: SampleDataset,
        *,
        episode: int | Sequence[int] | None = None,
        step: int | None = None,
        sample: int | None = None,
        rejected: bool = False,
        sides: Sequence[Side] | None = None,
        grid: int = 1,
        speed: float | None = None,
        live: bool = False,
        allow_changed_code: bool = False,
    ) -> None:
        self.timeline, self.start = _chosen(timeline_of(dataset, rejected=rejected), episode, step, sample)
        self.speed = None if speed is None else positive("speed", speed)
        self.dataset, self._grid = dataset, integer("grid", grid, 1)
        if live and self._grid > 1:
            raise ConfigError("the simulation itself shows one episode at a time; leave out grid, or live")
        self._episodes = EpisodeScenes(dataset, allow_changed_code=allow_changed_code) if live else None
        self.scenes = SampleScenes(dataset, sides, self._episodes, self.timeline)
        self._ready = live  # else it would make all steps beforehand

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the simulation, where one was constructed."""
        if self._episodes is not None:
            self._episodes.close()

    @property
    def sides(self) -> tuple[Side, ...]:
        """Return the scenes of a sample."""
        return self.scenes.sides

    def lanes(self) -> list[Timeline]:
        """Return the samples, for each of the episodes that are shown at once.

        Raises:
            ConfigError: There are fewer episodes.
        """
        return [self.timeline] if self._grid == 1 else self.timeline.deal(self._grid)

    def snapshots(self, shown: Shown) -> list[SceneSnapshot]:
        """Return the scenes of some samples: those of the first one, then of the next one."""
        return [one for lane, position in shown for one in self.scenes.snapshots(lane, position)]

    def title(self, timeline: Timeline, position: int) -> str:
        """Return the name of a sample, and why it was rejected where it was."""
        reason = self.scenes.reason(timeline, position)
        return f"{title_of(timeline, position)}{': ' if reason else ''}{reason}"

    def titles(self, shown: Shown, *, whole: bool = False) -> list[str]:
        """Return the text above each scene of some samples.

        Args:
            shown: The samples.
            whole: Whether each names its sample, although it is the only one.
        """
        sides = self.sides if len(self.sides) > 1 else ("",)
        whole |= len(shown) > 1
        names = [self.title(lane, position) if whole else "" for lane, position in shown]
        return [", ".join(filter(None, (side, name))) for name in names for side in sides]

    def prepare(self) -> None:
        """Look at some samples beforehand, so that colours and cameras are the same in all pictures."""
        if not self._ready:
            self._ready = True
            last = len(self.timeline) - 1
            self.scenes.prepare(self.timeline, np.unique(np.linspace(0, last, SEEN).round().astype(int)).tolist())


def _chosen(
    timeline: Timeline, episode: int | Sequence[int] | None, step: int | None, sample: int | None
) -> tuple[Timeline, int]:
    """Return the samples of the chosen episodes, and the position of the first one that is shown."""
    if sample is not None:
        if episode is not None or step is not None:
            raise ConfigError("sample already says which one is shown; leave out episode and step")
        return timeline, timeline.of_sample(sample)
    if episode is None:
        if step is not None:
            raise ConfigError("step is a step of an episode; say of which one")
        return timeline, 0
    found = integers("episode", episode, 0)
    numbers = found if isinstance(found, list) else [found]
    if not numbers:
        raise ConfigError("episode names none; leave it out for all of them")
    if step is not None and len(numbers) > 1:
        raise ConfigError("step is a step of one episode; leave it out, or choose one episode")
    chosen = timeline.select(numbers)
    return chosen, 0 if step is None else chosen.find(numbers[0], step)
