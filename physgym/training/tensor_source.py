"""`TensorSource`: batches of a simulation of many rows, as tensors that never leave its device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from physgym.batched.row_env import row_env
from physgym.batched.rows import VectorRows
from physgym.batched.simulation import BatchedSimulation
from physgym.checks import integer, one_of
from physgym.code.env_description import describe_env
from physgym.code.record import Code
from physgym.code.search import code_of
from physgym.episode import SEED_RULE, episode_seed
from physgym.errors import ClosedError, ConfigError, SampleError
from physgym.generation.episode_plan import EpisodePlan
from physgym.generation.named_samples import SampleNames
from physgym.generation.sample_source import SampleSource
from physgym.naming import env_name
from physgym.placement import DeclaringFactory
from physgym.registration import EnvLike
from physgym.sample import SampleSpec
from physgym.simulation import NonFinite
from physgym.spaces import Array
from physgym.vector.make import env_factory
from physgym.worker.batch import RowBatch

ORDER = 0x7264726F  # of the order of the samples of a round


@dataclass
class _Round:
    """The samples of episodes that all rows have run.

    Attributes:
        number: Which round.
        columns: Fields of shape (steps * rows, *field shape), a step of all rows after the other.
        order: Places in the columns in the order in which samples are drawn, shape (samples,), int64.
        at: How many of them were drawn.
    """

    number: int
    columns: dict[str, Tensor]
    order: Array
    at: int = 0


class TensorSource(SampleSource):
    """Fresh samples of a batched simulation, as tensors on its device: for ``Trainer(source=..., produce="always")``.

    All rows run an episode each, of `max_steps` steps or to its end; then the samples of that round are drawn in a
    random order, once each, and the next round follows. The samples are those that `physgym.generate` makes of the same
    episodes. Their order depends on the seed and the number of rows alone, and a training that is resumed runs the
    round again in which it was: on the same device its batches are the same.

    A round is held on the device: its bytes are those of a sample times rows and steps.

    Args:
        env: Registered id, "module:Class", or the class of a `physgym.batched.simulation.BatchedSimulation`.
        num_envs: Number of rows.
        max_steps: Steps of an episode, where the simulation does not end it before; by default those of the simulation.
        env_kwargs: Arguments of its constructor, such as the device.
        seed: Seed of the run.
        part: Part whose seeds the episodes have, see `physgym.episode.part_seed`.
        nonfinite: What a sample with a value that is not finite is: an "error", a rejected step ("reject"), or a sample
            like others ("allow").

    Attributes:
        simulation: The simulation.
        spec: The sample fields.
        rejected: Number of rejected steps of the rounds that were run.

    Raises:
        ConfigError: An argument is wrong, or it is no such simulation.
    """

    def __init__(
        self,
        env: EnvLike,
        *,
        num_envs: int = 64,
        max_steps: int | None = None,
        env_kwargs: Mapping[str, Any] | None = None,
        seed: int = 0,
        part: str = "training",
        nonfinite: NonFinite = "error",
    ) -> None:
        one_of("nonfinite", nonfinite, get_args(NonFinite))
        count, kwargs = integer("num_envs", num_envs, 1), dict(env_kwargs or {})
        factory = env_factory(env, kwargs)
        batch = factory.batch([factory] * count) if isinstance(factory, DeclaringFactory) else None
        if not isinstance(batch, RowBatch) or not isinstance(batch.rows.venv, BatchedSimulation):
            if isinstance(batch, RowBatch):
                batch.rows.venv.close()
            raise ConfigError(
                f"{env_name(env)} is no physgym.batched.simulation.BatchedSimulation, whose samples are tensors; use "
                "a SampleStream or Online for it"
            )
        self.simulation = batch.rows.venv
        self.spec: SampleSpec = self.simulation.sample_spec
        asked = None if max_steps is None else integer("max_steps", max_steps, 1)
        known = [one for one in (asked, batch.rows.limit, self.simulation.max_episode_steps) if one is not None]
        if not known:
            raise ConfigError(f"{env_name(env)} has no limit of steps; say how many a round has with max_steps")
        self.max_steps = min(known)  # the first one at which episodes of a dataset end as well
        limits = {"max_steps": asked or self.max_steps, "nonfinite": nonfinite}
        self._plan = EpisodePlan(
            env,
            kwargs,
            seed=integer("seed", seed, 0),
            mode="training",
            seeds=(part, SEED_RULE),
            continued=None,
            actions=None,
            parameters=None,
            limits=limits,
            load=None,
            passes=None,
            episodes=None,
            snapshots=None,
        )
        self.rejected, self.drawn = 0, SampleNames()
        self._round: _Round | None = None
        self._place = 0, 0  # round, and how many of its samples were drawn
        self._closed = False

    # --- samples

    def draw(self, batch_size: int) -> dict[str, Tensor]:  # type: ignore[override]  # tensors in place of arrays
        """Return the next samples: fields of shape (batch_size, *field shape), on the device of the simulation.

        Raises:
            SampleError: A sample has a value that is not finite, or a round has none.
        """
        if self._closed:
            raise ClosedError("the source is closed; make a new one")
        parts: list[dict[str, Tensor]] = []
        names: list[tuple[Array, Array]] = []
        missing = batch_size
        while missing:
            current = self._present()
            places = current.order[current.at : current.at + missing]
            if not len(places):
                continue
            current.at += len(places)
            missing -= len(places)
            index = torch.from_numpy(places).to(self.simulation.device, non_blocking=True)
            parts.append({name: column.index_select(0, index) for name, column in current.columns.items()})
            rows = self.simulation.num_envs
            names.append((current.number * rows + places % rows, places // rows))
            self._place = current.number, current.at
        episodes, steps = (np.concatenate(column) for column in zip(*names, strict=True))
        seeds = np.array([self.episode_seed(episode) for episode in episodes.tolist()], np.uint64)
        self.drawn = SampleNames(episodes, steps, seeds)
        return parts[0] if len(parts) == 1 else {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _present(self) -> _Round:
        """Return the round whose samples are drawn next."""
        number, at = self._place
        if self._round is not None and self._round.number == number and self._round.at >= len(self._round.order):
            number, at = number + 1, 0
        if self._round is None or self._round.number != number:
            self._round = None  # whose memory the next one may take
            self._round = self._run(number, at)
        return self._round

    @torch.no_grad()
    def _run(self, number: int, at: int) -> _Round:
        """Run the episodes of a round."""
        simulation, rows = self.simulation, self.simulation.num_envs
        seeds = torch.tensor([self.episode_seed(number * rows + row) for row in range(rows)], dtype=torch.int64)
        seeds = seeds.to(simulation.device)
        simulation.reset_rows(seeds)
        columns: dict[str, Tensor] = {}
        lost: list[tuple[Tensor | None, Tensor | None]] = []  # rows that were rejected, that had ended before
        over: Tensor | None = None
        for step in range(self.max_steps):
            now = torch.full_like(seeds, step)
            found = simulation.step_rows(simulation.draw_action_tensors(seeds, now))
            for name, value in found.sample.items():
                if not step:
                    columns[name] = value.new_empty((self.max_steps, *value.shape))
                columns[name][step] = value
            lost.append((found.rejected, over))
            if found.terminated is not None:
                over = found.terminated.clone() if over is None else over | found.terminated
        flat = {name: column.flatten(0, 1) for name, column in columns.items()}
        return _Round(number, flat, self._ordered(number, self._kept(number, flat, lost)), at)

    def _kept(
        self, number: int, columns: Mapping[str, Tensor], lost: Sequence[tuple[Tensor | None, Tensor | None]]
    ) -> Array:
        """Return the places of the samples of a round that count, in their order.

        Args:
            number: Which round.
            columns: Its fields.
            lost: For each step which rows were rejected, and which had ended before it; None for none.

        Raises:
            SampleError: One has a value that is not finite, or there are none.
        """
        rows, device = self.simulation.num_envs, self.simulation.device
        none = torch.zeros(rows, dtype=torch.bool, device=device)
        rejected, over = (
            torch.stack([none if one is None else one for one in column]).flatten()
            for column in zip(*lost, strict=True)
        )
        run = ~over
        kept = run & ~rejected
        finite = torch.ones_like(kept)
        for column in columns.values():
            if column.is_floating_point() or column.is_complex():
                finite &= torch.isfinite(column).reshape(len(column), -1).all(1)
        # the only wait for the device in a round
        steps, counts, bad = torch.stack([run, kept, kept & ~finite]).cpu().numpy()
        nonfinite = self._plan.limits["nonfinite"]
        if nonfinite == "error" and bad.any():
            place = int(np.argmax(bad))
            where = f"episode {number * rows + place % rows}, step {place // rows}"
            sample = {name: column[place].cpu().numpy() for name, column in columns.items()}
            self.spec.check_finite(sample, where)
        found = np.flatnonzero(counts & ~bad if nonfinite == "reject" else counts)
        self.rejected += int(steps.sum()) - len(found)
        if not len(found):
            raise SampleError(
                f"the episodes {number * rows} to {(number + 1) * rows - 1} gave no valid sample at all. Make the "
                "actions or parameters milder, or repair the solver"
            )
        return found

    def _ordered(self, number: int, places: Array) -> Array:
        rng = np.random.default_rng((self._plan.part_seed, ORDER, number))
        return rng.permutation(places)

    # --- where they come from

    @property
    def origin(self) -> TensorSource:
        """Return itself, which knows where its samples come from."""
        return self

    @property
    def source(self) -> dict[str, Any]:
        """Return the function that the samples are of, as JSON data."""
        return self._plan.source

    @cached_property
    def code(self) -> Code:
        """Return the code of the simulation."""
        made = describe_env(row_env(VectorRows(self.simulation)))
        return code_of(self._plan.env, self._plan.arguments, made)

    @property
    def defaults(self) -> Any:
        """Return the arguments of the constructor where none are given, as JSON data."""
        return self._plan.defaults

    @property
    def loaded(self) -> None:
        """Return None: episodes are drawn."""

    def episode_seed(self, episode: int) -> int:
        """Return the seed of an episode, by its index."""
        return episode_seed(self._plan.part_seed, episode)

    # --- where it is

    @property
    def begun(self) -> bool:
        """Return whether samples were drawn, since it was made or its state was loaded."""
        return self._round is not None

    def metrics(self) -> Mapping[str, float]:
        """Return the number of rejected steps."""
        return {"rejected": float(self.rejected)}

    def state_dict(self) -> dict[str, Any]:
        """Return the place after the last batch, as JSON data: the round, and how many of its samples were drawn."""
        number, at = self._place
        return {"round": number, "drawn": at, "rows": self.simulation.num_envs, "source": self.source}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after a saved place; the round is run again when it is drawn from.

        Raises:
            ConfigError: It is the state of other samples, or of another number of rows.
        """
        if not state:
            self._round, self._place = None, (0, 0)
            return
        if not {"round", "drawn", "rows", "source"} <= set(state):
            raise ConfigError(f"not the state of a TensorSource: it has {sorted(state)}")
        here = {"rows": self.simulation.num_envs, "source": self.source}
        if other := [name for name in here if state[name] != here[name]]:
            name = other[0]
            raise ConfigError(f"the samples are not those of the state: {name} is {here[name]}, and was {state[name]}")
        self._round, self._place = None, (int(state["round"]), int(state["drawn"]))

    def close(self) -> None:
        """Close the simulation; calling it again does no harm."""
        if not self._closed:
            self._closed, self._round = True, None
            self.simulation.close()

    def __enter__(self) -> TensorSource:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()
