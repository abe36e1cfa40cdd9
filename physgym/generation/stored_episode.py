"""`StoredEpisode`: the samples of one episode of a dataset, by their steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.episode_origins import origin_of
from physgym.data.origins import holds_all_steps
from physgym.errors import ConfigError
from physgym.placement import Env
from physgym.policies import ActionPolicy
from physgym.sample import Sample, SampleSpec
from physgym.simulation import Simulation
from physgym.spaces import Array, leaves, unflatten

ACTION = "action"  # field of a sample, or what the names of its parts begin with


class StoredEpisode:
    """The samples of one episode of a dataset.

    Args:
        dataset: The dataset, of one folder.
        episode: Number of the episode.

    Attributes:
        episode: The same.
        seed: Its seed.
        is_whole: Whether a step without a sample is one that was rejected; a filter leaves samples out, too.

    Raises:
        ConfigError: There is no such episode.
    """

    def __init__(self, dataset: SampleDataset, episode: int) -> None:
        self._dataset, self.episode = dataset, episode
        episodes = dataset.index("episode")
        rows = np.flatnonzero(episodes == episode)
        if not len(rows):
            known = np.unique(episodes)
            raise ConfigError(
                f"the dataset in {dataset.paths[0]} has no episode {episode}; it has {len(known)}, from {known[0]} to "
                f"{known[-1]}"
            )
        order = np.argsort(dataset.index("step")[rows], kind="stable")  # a copy in order is fast to sort
        self._rows = rows[order]
        self._steps = dataset.index("step")[self._rows]
        self.seed = int(dataset.index("seed")[rows[0]])
        origin = origin_of(dataset, episode)
        self.is_whole = holds_all_steps(origin.source, dataset.source, dataset.provenance, origin.provenance)

    @property
    def last(self) -> int:
        """Return the last step that has a sample."""
        return int(self._steps[-1])

    @property
    def run(self) -> int:
        """Return the first step without a sample."""
        missing = np.flatnonzero(self._steps != np.arange(len(self._steps)))
        return int(missing[0]) if len(missing) else len(self._steps)

    def check_step(self, step: int) -> None:
        """Check that the episode has a step; one that was rejected is one.

        Raises:
            ConfigError: It has not.
        """
        last = self.last
        if step > last and step >= self._dataset.lengths.get(self.episode, 0):
            raise ConfigError(
                f"episode {self.episode} of {self._dataset.paths[0]} has no step {step}; its last one is {last}"
            )

    def row(self, step: int) -> int | None:
        """Return the row of the sample of a step; None where it was rejected, or filtered out."""
        place = int(np.searchsorted(self._steps, step))
        found = place < len(self._steps) and self._steps[place] == step
        return int(self._rows[place]) if found else None

    def sample(self, step: int) -> Sample | None:
        """Return the sample of a step; None where it was rejected, or filtered out."""
        row = self.row(step)
        return None if row is None else self._dataset[row]

    def parameters(self) -> dict[str, Array] | None:
        """Return the parameters of the episode by name; None where they are not stored."""
        stored, episodes = self._dataset.parameters, self._dataset.parameter_episodes
        if stored is None or episodes is None or not (found := np.flatnonzero(episodes == self.episode)).size:
            return None
        return {name: column[found[0]] for name, column in stored.items()}

    def policy(self, env: Env, spec: SampleSpec) -> ActionPolicy | None:
        """Return the policy that takes the actions from the stored samples; None where these do not say them.

        Args:
            env: The environment.
            spec: Its sample fields.
        """
        space, step = env.action_space, -1
        names = [f"{ACTION}/{leaf.path}" if leaf.path else ACTION for leaf in leaves(space)]
        fields = [self._dataset.spec.get(name) for name in names]
        whole = all(
            field is not None and field.shape == leaf.shape and field.dtype == leaf.dtype
            for field, leaf in zip(fields, leaves(space), strict=True)
        )
        load: Any = getattr(env.unwrapped, "load_sample", None)
        if not whole and (load is None or getattr(load, "__func__", None) is Simulation.load_sample):
            return None

        def act(_: Any, __: np.random.Generator) -> Any:
            nonlocal step
            step += 1
            sample = self.sample(step)
            if sample is None:
                why = "was rejected" if self.is_whole else "was filtered out or rejected"
                raise ConfigError(
                    f"step {step} of episode {self.episode} {why}, so that its action is not stored, and it "
                    "cannot be drawn again. Pass actions= with what gave the actions"
                )
            return unflatten(space, iter([sample[name][()] for name in names])) if whole else load(sample)

        return act
