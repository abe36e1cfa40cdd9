"""`ReplayedSteps`: the steps of a dataset again, made by the solver from the seeds of their episodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from physgym.code.record import check_same
from physgym.data.dataset import SampleDataset
from physgym.data.provenance import code_of_part
from physgym.episode import part_seed, seeds_of
from physgym.errors import DatasetError
from physgym.policies import EpisodePolicy
from physgym.running.run_step import RunStep
from physgym.running.solver_steps import SolverSteps
from physgym.running.step_source import StepSource
from physgym.sample import Sample, declared
from physgym.samplers import Sampler, rebuild_sampler
from physgym.spaces import leaf_spaces, unflatten


class ReplayedSteps(StepSource):
    """Gives the stored steps of a dataset, made anew and compared with what is stored.

    Args:
        dataset: Made by the same simulation.
        solver: Makes the steps.
    """

    def __init__(self, dataset: SampleDataset, solver: SolverSteps) -> None:
        self._dataset, self._solver = dataset, solver
        self.spec, self.parameter_spec = solver.spec, solver.parameter_spec

    @property
    def constants(self) -> Mapping[str, Any]:
        """Return those of the dataset."""
        return self._dataset.constants

    @property
    def time_step(self) -> float | None:
        """Return that of the dataset."""
        return self._dataset.time_step

    def steps(self, after: tuple[int, int] | None, limit: int | None) -> Iterator[RunStep]:
        """Yield the steps of the dataset."""
        dataset, solver, plan = self._dataset, self._solver, self._solver.plan
        source = dataset.source
        self._refuse_others(source)
        acting = plan.actions or rebuild_sampler(source.get("actions"), "actions")
        self._check_code_and_arguments(source)
        policies: dict[int, EpisodePolicy] = {}
        options = self._parameters(source)
        max_steps = source.get("max_steps", plan.max_steps)
        limits = {"max_steps": max_steps, "max_rejects": max_steps, "nonfinite": source.get("nonfinite", "error")}
        for (episode, seed), stored in self._rows().items():
            where, last, step = f"episode {episode}", max(stored), -1
            policy = self._policy(episode, acting, policies)
            for again in solver.episode(episode, seed, policy(episode), options(episode), **limits):
                step = again.transition.step
                if step in stored:
                    _check_same(dataset[stored[step]], again, f"{where}, step {step}")
                    yield again
                if step == last:
                    break
            if step < last:
                raise _different(where, "length")

    def _rows(self) -> dict[tuple[int, int], dict[int, int]]:
        """Return the index of each sample by its step, by the episode and seed that it belongs to."""
        names = zip(*(self._dataset.index(name).tolist() for name in ("episode", "step", "seed")), strict=True)
        rows: dict[tuple[int, int], dict[int, int]] = {}
        for row, (episode, step, seed) in enumerate(names):
            rows.setdefault((episode, seed), {})[step] = row
        return rows

    def _policy(self, episode: int, acting: Sampler | None, policies: dict[int, EpisodePolicy]) -> EpisodePolicy:
        """Return what gives the actions in the environment of an episode, which is the present one from now on."""
        present, index = self._solver.enter(episode), self._solver.index
        if index not in policies:
            source = self._dataset.source
            seeds = seeds_of(source, self._dataset.mode)
            drawn = part_seed(source.get("seed", self._solver.plan.seed), *seeds)
            policies[index] = present.policies(acting, drawn)
        return policies[index]

    def _refuse_others(self, source: Mapping[str, Any]) -> None:
        """Raise DatasetError where the episodes cannot be made from their seeds."""
        dataset = self._dataset
        if len(dataset.paths) > 1:
            sources = [json.loads(part.attributes["source"]) for part in dataset.partitions]
            named = any(source.get(what) is not None for source in sources for what in ("actions", "parameters"))
            same = len({json.dumps({**source, "seed": None}, sort_keys=True) for source in sources}) == 1
            if named or not same:
                raise DatasetError(
                    f"{len(dataset.paths)} datasets were joined, whose episodes cannot be told apart by what the "
                    "solver needs. Replay them one at a time, or without the solver"
                )
        if "load" in source:
            raise DatasetError(
                "the dataset was made by stored samples that drove the simulation (load=), not from seeds alone. "
                "Replay it without the solver, or let those samples drive it again: SampleStream(load=...)"
            )

    def _check_code_and_arguments(self, source: Mapping[str, Any]) -> None:
        """Check that this simulation made the dataset, before a difference shows in the samples.

        Raises:
            ChangedCode: It has other code.
            DatasetError: Episodes had others of several arguments than they would have.
        """
        dataset, plan = self._dataset, self._solver.plan
        producer = code_of_part(dataset.provenance)
        if producer is not None and producer.get("hash") != "unknown":  # what comes out is compared in any case
            where = f"the dataset in {dataset.paths[0]}"
            check_same(producer, self._solver.code, where, allow=plan.allow_changed_code, compare_factories=False)
        recorded = source.get("env_kwargs")
        if isinstance(recorded, list) and len(recorded) != len(plan.env_kwargs):
            raise DatasetError(
                f"the dataset was made with {len(recorded)} different arguments in turn, this runner has "
                f'{len(plan.env_kwargs)}. Make the Runner with the list that dataset.source["env_kwargs"] says'
            )

    def _parameters(self, source: Mapping[str, Any]) -> Callable[[int], dict[str, Any] | None]:
        """Return what gives the options of the reset of an episode, by its index."""
        if source.get("parameters") is None:
            return lambda _: None  # the environment drew them itself, from the seed
        space = declared(self._solver.env, "parameter_space")
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


def _check_same(stored: Sample, again: RunStep, where: str) -> None:
    """Raise DatasetError where a sample is not the stored one, to the bit."""
    sample = again.transition.sample
    if sample is None:
        raise _different(where, "outcome")
    for name, value in stored.items():
        # to the bit, which NaN equals as well
        if name in sample and np.asarray(value).tobytes() != np.asarray(sample[name]).tobytes():
            raise _different(where, name)


def _different(where: str, name: str) -> DatasetError:
    return DatasetError(
        f"{where}: the simulation gives another {name!r} than the dataset holds. Use the environment arguments, "
        "actions and physgym version with which it was made"
    )
