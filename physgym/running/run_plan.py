"""`RunPlan`: what the steps of a run are a function of, but for the network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from physgym.data.dataset import SampleDataset
from physgym.episode import part_seed
from physgym.generation.source import as_recorded, describable
from physgym.generation.stored_episodes import StoredEpisodes
from physgym.naming import env_name
from physgym.registration import EnvLike, defaults_of
from physgym.samplers import Sampler
from physgym.worker.given_inputs import RunInputs


@dataclass(frozen=True)
class RunPlan:
    """The episodes of a run, and how the network takes part in their steps.

    Attributes:
        env: Registered id, `EnvSpec`, or a callable that makes the environment.
        env_kwargs: Arguments of its constructor; episode e has entry e modulo their number.
        seed: Seed of the run.
        part: Part and rule from which the seeds of episodes are derived, as `physgym.episode.part_seed` has them.
        actions: What draws the actions, None to leave it to the environment.
        parameters: What draws the parameters of episodes, in the same forms.
        max_steps: Where an episode is cut.
        max_rejects: Give up after so many rejected steps in a row.
        load: Stored samples that drive the simulation, None where actions are drawn.
        stored_episodes: Their episodes.
        apply: Whether the simulation gets the predictions.
        surrogate: Whether the network makes the steps in place of the solver.
        compare: Whether predictions are compared with the samples.
        inputs: Those of a person; None where there are none, and nobody may make some.
        allow_changed_code: Whether to continue where the simulation has other code than what is recorded.
    """

    env: EnvLike
    env_kwargs: list[dict[str, Any]]
    seed: int
    part: tuple[str, int]
    actions: Sampler | None
    parameters: Sampler | None
    max_steps: int
    max_rejects: int
    load: SampleDataset | None
    stored_episodes: StoredEpisodes | None
    apply: bool
    surrogate: bool
    compare: bool
    inputs: RunInputs | None
    allow_changed_code: bool

    @cached_property
    def part_seed(self) -> int:
        """Return the seed from which the episodes and samplers of the run draw."""
        return part_seed(self.seed, *self.part)

    @property
    def limits(self) -> dict[str, Any]:
        """Return the limits of an episode, as arguments."""
        return {"max_steps": self.max_steps, "max_rejects": self.max_rejects}

    def given(self, episode: int) -> dict[str, Any]:
        """Return what the inputs of a person add to the options of the reset of an episode."""
        return {} if self.inputs is None else self.inputs.options(episode)

    @property
    def defaults(self) -> Any:
        """Return the arguments of the constructor where none are given, as JSON data."""
        return describable([defaults_of(self.env)])

    @property
    def simulation(self) -> dict[str, Any]:
        """Return the name and the arguments of the simulation, as JSON data."""
        return {"env": env_name(self.env), "env_kwargs": describable(self.env_kwargs)}

    def source(self, network: Any, surrogate: bool, before: Any) -> dict[str, Any]:
        """Return what a record says of its steps, from which a replay can make them again.

        Args:
            network: Digest of the network's weights.
            surrogate: Whether the network makes the steps, as it turned out.
            before: What the record that is continued says, None where a new one is made.
        """
        source = {
            **self.simulation,
            "seed": self.seed,
            "max_steps": self.max_steps,
            "actions": None if self.actions is None else self.actions.describe(),
            "parameters": None if self.parameters is None else self.parameters.describe(),
            "network": network,
            "surrogate": surrogate,
            **({} if self.stored_episodes is None else {"load": self.stored_episodes.describe()}),
            **({} if self.part[1] == 1 else {"seeds": {"part": self.part[0], "rule": self.part[1]}}),
        }
        return as_recorded(source, before)
