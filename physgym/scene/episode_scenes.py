"""`EpisodeScenes`: scenes of stored episodes, drawn by their simulation, which makes the steps again."""

from __future__ import annotations

from collections.abc import Generator
from types import TracebackType
from typing import Self

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.errors import ConfigError, SceneError
from physgym.generation.reopen import rerun
from physgym.running.run_step import PREDICTION
from physgym.scene.changes import SceneSnapshot
from physgym.scene.live import LiveScene
from physgym.scene.message import message_scene


class EpisodeScenes:
    """Scenes of stored episodes with what the code of their simulation moves.

    The simulation is constructed, and makes the steps of an episode from its seed as far as they are looked at; the
    samples are compared with the stored ones. The scenes of one episode are kept. A context manager, which closes the
    simulation.

    Args:
        dataset: The samples.
        allow_changed_code: Whether the code of the simulation may be another one than that which made the samples.
    """

    def __init__(self, dataset: SampleDataset, *, allow_changed_code: bool = False) -> None:
        self._dataset, self._allow = dataset, allow_changed_code
        self._episode: int | None = None
        self._steps: Generator[tuple[int, SceneSnapshot], None, None] | None = None
        self._made: dict[int, SceneSnapshot] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the simulation; it is made again where it is needed again."""
        if self._steps is not None:
            self._steps.close()
        self._episode = self._steps = None
        self._made = {}

    def snapshot(self, episode: int, step: int) -> SceneSnapshot:
        """Return the scene after a step.

        Raises:
            ConfigError: The simulation cannot be made, or not from this dataset.
            ChangedCode: Its code is another one.
            DatasetError: It gives something else than what is stored.
        """
        if self._steps is None or episode != self._episode:
            self.close()
            self._episode, self._steps = episode, self._run(episode)
        while step not in self._made:
            if (made := next(self._steps, None)) is None:
                raise ConfigError(f"step {step} of episode {episode} is after the last one that has a sample")
            self._made[made[0]] = made[1]
        return self._made[step]

    def _run(self, episode: int) -> Generator[tuple[int, SceneSnapshot], None, None]:
        """Make the steps of an episode, and yield each with its scene."""
        rows = np.flatnonzero(self._dataset.index("episode") == episode)
        row_of = dict(zip(self._dataset.index("step")[rows].tolist(), rows.tolist(), strict=True))
        predicted = [name for name in self._dataset.spec if name.startswith(PREDICTION)]
        with rerun(self._dataset, episode, allow_changed_code=self._allow) as (env, steps):
            live = LiveScene(env, owner=f"episode {episode}")
            for one in steps:
                sample = one.sample
                if sample is not None and one.step in row_of:
                    found = self._dataset.gather([row_of[one.step]], predicted)
                    sample = {**sample, **{name: values[0] for name, values in found.items()}}
                try:
                    live.frame(sample)
                    shown = live.snapshot
                except SceneError as error:  # what was rejected need not be finite
                    shown = message_scene(f"not drawn: {error}")
                assert shown is not None
                yield one.step, shown
