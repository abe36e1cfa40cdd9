"""`LearnedEpisodes`: the episodes that a network has learned from, which a run had better not show again."""

from __future__ import annotations

import functools

from physgym.data.dataset import SampleDataset
from physgym.data.provenance import overlaps, overlaps_with_draws
from physgym.episode import episode_seed
from physgym.nn import Predictor
from physgym.running.run_plan import RunPlan

TRAINED_ON = "the samples that the network was trained on"


class LearnedEpisodes:
    """Finds the episodes that a network was trained on among those of a run or a replay.

    Args:
        trained_on: The samples that the network was trained on; None for those that it remembers.
        predictor: The network.
    """

    def __init__(self, trained_on: SampleDataset | None, predictor: Predictor) -> None:
        self._trained_on, self._predictor = trained_on, predictor

    def among_replayed(self, replay: SampleDataset) -> str | None:
        """Say which episodes of a dataset the network has learned from; empty for none, None if nothing tells."""
        trained_on = self._samples()
        return None if trained_on is None else overlaps(replay, trained_on, ("the replayed samples", TRAINED_ON))

    def among(self, plan: RunPlan) -> str | None:
        """Say which episodes of a run the network has learned from; empty for none, None if nothing tells."""
        # those of the part "evaluation" have seeds that no part of a dataset has
        others = plan.stored_episodes is None and plan.part[0] == "evaluation"
        trained_on = self._trained_on if others else self._samples()
        if trained_on is None:
            return None
        if plan.load is not None:
            return overlaps(plan.load, trained_on, ("the loaded samples", TRAINED_ON))
        draws = functools.partial(episode_seed, plan.part_seed)
        names = ("this run", TRAINED_ON)
        return overlaps_with_draws(trained_on, plan.simulation, plan.defaults, draws, names, drawn=True)

    def _samples(self) -> SampleDataset | None:
        if self._trained_on is None and self._predictor.learned is not None:
            return self._predictor.learned.samples
        return self._trained_on
