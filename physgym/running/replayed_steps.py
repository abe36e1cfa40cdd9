"""`ReplayedSteps`: the steps of a dataset again, made by the solver from the seeds of their episodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from physgym.code.record import check_same
from physgym.data.dataset import SampleDataset
from physgym.data.episode_origins import argument_numbers, episode_names, episode_sources
from physgym.data.provenance import code_of_part
from physgym.episode import part_seed, seeds_of
from physgym.errors import DatasetError
from physgym.files import short
from physgym.generation.replayed import check_same_sample, different
from physgym.policies import EpisodePolicy
from physgym.running.run_step import RunStep
from physgym.running.solver_steps import SolverSteps
from physgym.running.step_source import DatasetSteps
from physgym.sample import declaration
from physgym.samplers import Sampler, rebuild_sampler
from physgym.scene.inputs import RECORD
from physgym.spaces import leaf_spaces, unflatten


@dataclass(frozen=True)
class _Origin:
    """Values that the solver needs for the episodes of one source."""

    acting: Sampler | None
    seed: int
    options: Callable[[int], dict[str, Any] | None]
    limits: dict[str, Any]


class ReplayedSteps(DatasetSteps):
    """Gives the stored steps of a dataset, made again and compared with what is stored.

    Args:
        dataset: Made by the same simulation.
        solver: Makes the steps.
    """

    def __init__(self, dataset: SampleDataset, solver: SolverSteps) -> None:
        super().__init__(dataset)
        self._solver = solver
        self.spec, self.parameter_spec = solver.spec, solver.parameter_spec

    @property
    def solved(self) -> bool:
        """Return True: the solver makes the steps."""
        return True

    def steps(self, after: tuple[int, int] | None, limit: int | None) -> Iterator[RunStep]:
        """Yield the steps of the dataset."""
        dataset, solver = self._dataset, self._solver
        self._refuse_joined()
        self._refuse_inputs()
        origins = [self._origin(source, provenance) for source, provenance in episode_sources(dataset)]
        policies: dict[tuple[int, int], EpisodePolicy] = {}
        rows = self._rows()
        firsts = np.array([next(iter(stored.values())) for stored in rows.values()])
        names = episode_names(dataset, firsts)
        arguments = argument_numbers(dataset, firsts, len(solver.plan.env_kwargs)).tolist()
        for ((episode, seed), stored), (number, before), argument in zip(rows.items(), names, arguments, strict=True):
            where, last, step = f"episode {episode}", max(stored), -1
            origin, present = origins[number], solver.enter(argument)
            key = (solver.index, number)
            policies[key] = policies.get(key) or present.policies(origin.acting, origin.seed)
            policy, options = policies[key](before), {**(origin.options(episode) or {}), **solver.plan.given(episode)}
            for again in solver.episode(episode, seed, policy, options or None, **origin.limits):
                step = again.transition.step
                if step in stored:
                    check_same_sample(dataset[stored[step]], again.transition.sample, f"{where}, step {step}")
                    yield again
                if step == last:
                    break
            if step < last:
                raise different(where, "length")

    def _rows(self) -> dict[tuple[int, int], dict[int, int]]:
        """Return the index of each sample by its step, by the episode and seed that it belongs to."""
        names = zip(*(self._dataset.index(name).tolist() for name in ("episode", "step", "seed")), strict=True)
        rows: dict[tuple[int, int], dict[int, int]] = {}
        for row, (episode, step, seed) in enumerate(names):
            rows.setdefault((episode, seed), {})[step] = row
        return rows

    def _origin(self, source: Mapping[str, Any], provenance: Any) -> _Origin:
        """Return what the solver needs for episodes of one source.

        Raises:
            ChangedCode: The simulation has other code than it had.
            DatasetError: The episodes cannot be made from their seeds, or their parameters are not there.
        """
        plan = self._solver.plan
        if "load" in source:
            raise DatasetError(
                "the dataset was made by stored samples that drove the simulation (load=), not from seeds alone. "
                "Replay it without the solver, or let those samples drive it again: SampleStream(load=...)"
            )
        acting = plan.actions or rebuild_sampler(source.get("actions"), "actions")
        self._check_code(provenance)
        self._check_arguments()
        max_steps = source.get("max_steps", plan.max_steps)
        limits = {"max_steps": max_steps, "max_rejects": max_steps, "nonfinite": source.get("nonfinite", "error")}
        drawn = part_seed(source.get("seed", plan.seed), *seeds_of(source, self._dataset.mode))
        return _Origin(acting, drawn, self._parameters(source), limits)

    def _refuse_joined(self) -> None:
        """Raise DatasetError where several datasets were joined whose episodes cannot be distinguished."""
        dataset = self._dataset
        if len(dataset.paths) > 1:
            sources = [json.loads(part.attributes["source"]) for part in dataset.partitions]
            named = any(source.get(what) is not None for source in sources for what in ("actions", "parameters"))
            same = len({json.dumps({**source, "seed": None}, sort_keys=True) for source in sources}) == 1
            if named or not same:
                raise DatasetError(
                    f"{len(dataset.paths)} datasets were joined, whose episodes cannot be distinguished by what the "
                    "solver needs. Replay them one at a time, or without the solver"
                )

    def _refuse_inputs(self) -> None:
        """Raise DatasetError where a person changed inputs of the simulation, and nobody says which."""
        kept = [path / RECORD for path in self._dataset.paths if (path / RECORD).exists()]
        if kept and self._solver.plan.inputs is None:
            raise DatasetError(
                f"the dataset was recorded with a person's inputs, which a replay with the solver needs too: give the "
                f"runner inputs={short(kept[0])!r}"
            )

    def _check_code(self, provenance: Any) -> None:
        """Check that this simulation made episodes, before a difference shows in the samples.

        Raises:
            ChangedCode: It has other code.
        """
        producer = code_of_part(provenance)
        if producer is not None and producer.get("hash") != "unknown":  # what comes out is compared in any case
            where, allow = f"the dataset in {self._dataset.paths[0]}", self._solver.plan.allow_changed_code
            check_same(producer, self._solver.code, where, allow=allow, compare_factories=False)

    def _check_arguments(self) -> None:
        """Raise DatasetError where episodes had others of several arguments than they would have."""
        plan, recorded = self._solver.plan, self._dataset.source.get("env_kwargs")
        if isinstance(recorded, list) and len(recorded) != len(plan.env_kwargs):
            raise DatasetError(
                f"the dataset was made with {len(recorded)} different arguments in turn, this runner has "
                f'{len(plan.env_kwargs)}. Make the Runner with the list that dataset.source["env_kwargs"] says'
            )

    def _parameters(self, source: Mapping[str, Any]) -> Callable[[int], dict[str, Any] | None]:
        """Return what gives the options of the reset of an episode, by its index."""
        if source.get("parameters") is None:
            return lambda _: None  # the environment drew them itself, from the seed
        space = declaration(self._solver.env, "parameter_space")
        stored, episodes = self._dataset.parameters, self._dataset.parameter_episodes
        if space is None or stored is None or episodes is None or list(stored) != list(leaf_spaces(space)):
            known = "none" if stored is None else list(stored)
            raise DatasetError(
                f"the dataset was made with given parameters of episodes, of which it holds {known}; the simulation "
                f"declares {space}. Use the simulation with which it was made"
            )
        row_of = {episode: row for row, episode in enumerate(episodes.tolist())}

        def options(episode: int) -> dict[str, Any]:
            row = row_of.get(episode)
            if row is None:
                raise DatasetError(f"the dataset has no parameters of episode {episode}, so it cannot be replayed")
            return {"parameters": unflatten(space, iter([column[row] for column in stored.values()]))}

        return options
