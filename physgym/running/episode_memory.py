"""`EpisodeMemory`: memories of a recurrent network, which predicts stored steps of several episodes in turn."""

from __future__ import annotations

from typing import Any

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.errors import ConfigError
from physgym.running.timed_predictor import TimedPredictor
from physgym.sample import Sample


class EpisodeMemory:
    """Memories of a recurrent network, one for each episode that is under way.

    The first stored step of an episode starts again; steps that are missing, as rejected ones are, are not predicted
    and change no memory, as in a run with the solver.

    Args:
        dataset: The stored steps, which follow in time within an episode.
        predictor: The recurrent network.

    Raises:
        ConfigError: Several samples are predicted at once, or the steps of an episode have another order.
    """

    def __init__(self, dataset: SampleDataset, predictor: TimedPredictor) -> None:
        if predictor.batch_size > 1:
            raise ConfigError(
                "a recurrent network predicts the steps of an episode one after the other; leave batch_size at 1"
            )
        self._predictor, self._episodes = predictor, dataset.episodes
        order = np.argsort(self._episodes, kind="stable")
        episodes, steps = self._episodes[order], dataset.index("step")[order]
        if np.any((np.diff(episodes) == 0) & (np.diff(steps) <= 0)):
            raise ConfigError(
                "a recurrent network follows each episode step by step, and these samples are in another order: replay "
                "the dataset in the order in which it is stored"
            )
        lasts = np.flatnonzero(np.append(np.diff(episodes) != 0, True))
        self._last = set(order[lasts].tolist())  # rows after which an episode is over
        self._memories: dict[int, Any] = {}

    def predict(self, row: int, sample: Sample) -> tuple[Sample, float]:
        """Return the prediction for a sample, and its time in seconds.

        Args:
            row: Its number.
            sample: The sample.
        """
        episode = int(self._episodes[row])
        prediction, seconds, memory = self._predictor.following(sample, self._memories.pop(episode, None))
        if row not in self._last:
            self._memories[episode] = memory
        return prediction, seconds
