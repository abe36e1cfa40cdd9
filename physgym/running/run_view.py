"""`RunView`: pictures of a run whose steps are made, or read, in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from physgym.data.dataset import SampleDataset
from physgym.naming import env_name
from physgym.protocol.messages import ScenePart
from physgym.running.run_step import RunStep
from physgym.running.solver_steps import SolverSteps
from physgym.scene.live import SceneSource
from physgym.scene.stored import scene_of
from physgym.viewing.shown import LiveView, show
from physgym.viewing.views import SceneViews, nothing, requests
from physgym.viewing.waiting_inputs import GivenInput
from physgym.worker.scene_offers import PresentScene, SceneOffers, ShownScene


def _nothing() -> ShownScene:
    raise AssertionError("nobody can watch this")


class RunView:
    """The scene of the environment of a run, for those who watch.

    Args:
        make: Makes the scene, when somebody looks first.
        where: Returns the folder in which it is drawn, as a context.
        give: Takes what a person has changed, before the next step.
    """

    def __init__(
        self,
        make: Callable[[], ShownScene] = _nothing,
        where: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
        give: Callable[[Sequence[GivenInput]], None] = nothing,
    ) -> None:
        self.views, self._give = SceneViews(1), give
        self._last: tuple[int, int, Callable[[], Mapping[str, Any] | None]] | None = None
        self._offers = SceneOffers(lambda row: make(), lambda row: where(), self._take)

    @classmethod
    def of_simulation(cls, simulation: SolverSteps, view: LiveView, record: Any) -> RunView:
        """Return the view of a simulation in this process.

        Args:
            simulation: Makes the steps.
            view: How it is shown.
            record: The folder in which steps are stored; None where they are not.
        """
        made = cls(lambda: PresentScene(lambda: simulation.env), lambda: simulation.folder, simulation.give)
        if simulation.plan.inputs is not None and simulation.plan.inputs.live:
            made.views.accept(simulation.inputs)
        show(made.views, view, env_name(simulation.plan.env), [] if record is None else [str(record)])
        return made

    @classmethod
    def of_samples(cls, dataset: SampleDataset, view: LiveView) -> RunView:
        """Return the view of stored samples."""
        made = cls(lambda: SceneSource(scene_of(dataset), dataset.constants))
        show(made.views, view, f"replay of {', '.join(map(str, dataset.paths))}")
        return made

    def attend(self) -> None:
        """Do what viewers wish before the next step: show other things, or pause."""
        if self.views.attention:
            self.views.attend(self._tell, lambda: False, self._give)

    def made(self, step: RunStep) -> None:
        """Offer a picture of a step."""
        self._show(step.episode, step.transition.step, lambda: step.fields or None)

    def offer(self, episode: int, step: int, sample: Mapping[str, Any] | None) -> None:
        """Offer a picture of a step.

        Args:
            episode: Number of its episode.
            step: Number of the step in there.
            sample: Its sample; None where there is none.
        """
        self._show(episode, step, lambda: sample)

    def _show(self, episode: int, step: int, sample: Callable[[], Mapping[str, Any] | None]) -> None:
        self._last = episode, step, sample
        if self._offers.watched:
            self._offers.made(0, episode, step, sample())

    def close(self) -> None:
        """Let go of the viewers."""
        self.views.close()

    def _tell(self, wanted: Mapping[int, float]) -> None:
        self._offers.watch(requests(wanted, range(1)))
        if self.views.paused and self._last is not None:  # no step will show it
            self._show(*self._last)

    def _take(self, part: ScenePart) -> bool:
        self.views.take(0, part)
        return True
