"""`TransitionCache`: transitions of recordings, from which an agent learns without its environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from physgym.casting import as_dtype
from physgym.checks import at_least
from physgym.data.dataset import SampleDataset
from physgym.data.description import Mode
from physgym.data.recordings import ACTION, OBSERVATION
from physgym.errors import ConfigError
from physgym.rl.frame_stacks import FrameStacks
from physgym.rl.preprocessing import Preprocessing
from physgym.rl.recorded_steps import NEXT, RecordedSteps, check_values, fields_of, places_of
from physgym.rl.recordings import Recordings, check_layout, open_recordings, recorded_spaces, recorded_wrappers
from physgym.rl.running_normalization import RunningNormalization
from physgym.rl.transition_index import TransitionIndex
from physgym.rl.transitions import Transitions
from physgym.spaces import Array, fixed_leaves, value_range

MEMORY = 1 << 30  # bytes of observations that are kept in memory
BLOCK_BYTES = 1 << 24  # of rows that are read at once
BLOCK_ROWS = 4096  # whose moments are taken at once


class TransitionCache:
    """Transitions of recordings, each with equal chances.

        cache = TransitionCache("data/cartpole")
        batch = cache.sample(128, np.random.default_rng(0), gamma=0.99)

    Observations are stacked when they are drawn; stacks and next observations never reach into another episode. After
    a truncation the last observation of the episode is the next one. A transition that needs a step which is not there
    (it was rejected, or its program was killed) is left out, and so is one whose values are not finite.

    Args:
        recordings: A dataset folder, a file of one, ``s3://bucket/prefix``, several of these, or an open dataset: of a
            `Recorder`, of `RecordTransition`, or imported from Minari.
        frame_space: Space of a single observation of the agent, preprocessed; by default what follows from the
            recordings.
        action_space: Space of an action of the agent; the same.
        mode: Which part of folders to read.
        preprocessing: Wrappers of the agent. They are applied to recordings of the environment itself; what was
            recorded within the same wrappers is taken as it is.
        stack: Frames of an observation.
        device: Where the tensors are.
        memory: Bytes of observations that are kept in memory; of more than that they are read and preprocessed when
            they are drawn, which gives the same values.

    Attributes:
        dataset: The recordings.
        raw_spaces: Spaces of observations and actions as they were recorded.
        frame_space: Space of a single observation of the agent, preprocessed.
        observation_space: The same, stacked.
        action_space: Space of an action of the agent.
        steps: The recorded steps.
        index: Which of them are transitions.
        rewards: Reward of each step, preprocessed, shape (steps,), float64.

    Raises:
        ConfigError: The recordings are of other spaces, do not say which, or hold no transition.
        DatasetError: There are none, or they cannot be read.
        SampleError: An action is none that the agent can choose.
    """

    def __init__(
        self,
        recordings: Recordings,
        frame_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
        *,
        mode: Mode = "training",
        preprocessing: Preprocessing | Sequence[str | Mapping[str, Any]] = (),
        stack: int = 1,
        device: str | torch.device = "cpu",
        memory: int = MEMORY,
    ) -> None:
        at_least("memory", memory, 0)
        self.dataset = open_recordings(recordings, mode)
        self.steps = steps = RecordedSteps.of(self.dataset)
        applied = _Applied.to(self.dataset, frame_space, action_space, preprocessing)
        self.raw_spaces = applied.raw[OBSERVATION], applied.raw[ACTION]
        self.frame_space, self.action_space = applied.within[OBSERVATION], applied.within[ACTION]
        named = steps.episodes, steps.steps, steps.acted, steps.terminated
        self.index = TransitionIndex(*named, stack=stack, next_stored=steps.next_stored)
        if not len(self.index):
            raise ConfigError(
                f"{places_of(self.dataset)} holds no transition with {stack} frames, of {len(steps)} steps"
            )
        self.observation_space = FrameStacks(stack, 1).space(self.frame_space)
        rewards = applied.preprocessing.rewards(steps.columns, steps.episodes, steps.steps)
        self.rewards = np.asarray(rewards, np.float64)
        self._actions = _actions(self.dataset, steps, applied)
        self._frames = _Frames(self.dataset, steps, applied, memory, torch.device(device))

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"TransitionCache({len(self)} transitions of {self.dataset!r})"

    @property
    def transition_steps(self) -> Array:
        """Return the place of each transition in `steps`, shape (len(self),), int64."""
        return self.index.rows

    def normalization(self) -> RunningNormalization:
        """Return a normalization by the moments of all recorded observations, frozen; rewards stay as they are.

        Raises:
            ConfigError: Observations have integers alone.
        """
        found = RunningNormalization(self.frame_space, 1, rewards=False)
        for start in range(0, len(self.steps), BLOCK_ROWS):
            found.observe(self._frames.frames(np.arange(start, min(start + BLOCK_ROWS, len(self.steps)))))
        found.frozen = True
        return found

    def sample(self, count: int, generator: np.random.Generator, gamma: float) -> Transitions:
        """Return transitions drawn independently of each other, each with equal chances.

        Args:
            count: How many.
            generator: What they are drawn from.
            gamma: Factor of a value one step later.
        """
        return self.transitions(generator.integers(len(self), size=count), gamma)

    def transitions(self, numbers: Array, gamma: float) -> Transitions:
        """Return transitions by their numbers.

        Args:
            numbers: Integers from 0 to ``len(self) - 1``, shape (n,).
            gamma: Factor of a value one step later.
        """
        rows = self.index.rows[numbers]
        observation, following = self._frames.stacks(self.index.frames(rows))
        device = self._frames.device
        discount = np.where(self.steps.terminated[rows], 0.0, gamma).astype(np.float32)
        reward = self.rewards[rows].astype(np.float32)
        return Transitions(
            observation,
            torch.from_numpy(self._actions[rows]).to(device),
            torch.from_numpy(reward).to(device),
            following,
            torch.from_numpy(discount).to(device),
        )


@dataclass(frozen=True)
class _Applied:
    """Wrappers that are applied to recorded rows.

    Attributes:
        preprocessing: The wrappers; none where the rows were recorded within those of the agent.
        raw: Recorded spaces by name, "observation" and "action".
        within: Spaces within the wrappers.
    """

    preprocessing: Preprocessing
    raw: dict[str, spaces.Space[Any]]
    within: dict[str, spaces.Space[Any]]

    @classmethod
    def to(
        cls,
        dataset: SampleDataset,
        frame: spaces.Space[Any] | None,
        action: spaces.Space[Any] | None,
        preprocessing: Preprocessing | Sequence[str | Mapping[str, Any]],
    ) -> Self:
        """Return what is applied to some recordings.

        Args:
            dataset: The recordings.
            frame: Space of a single observation of the agent; None for what follows.
            action: Space of an action of the agent; the same.
            preprocessing: The wrappers of the agent.

        Raises:
            ConfigError: The recordings are of other spaces, or do not say which.
        """
        wrappers = preprocessing.config if isinstance(preprocessing, Preprocessing) else preprocessing
        wanted = {name: space for name, space in ((OBSERVATION, frame), (ACTION, action)) if space is not None}
        recorded = {name: space for name, space in recorded_spaces(dataset).items() if space is not None}
        raw = {**wanted, **recorded}
        if {OBSERVATION, ACTION} - raw.keys():
            raise ConfigError(f"{places_of(dataset)} does not say its spaces; give those of the agent, or record again")
        for name, space in raw.items():
            check_layout(dataset, name, space)
        both = raw[OBSERVATION], raw[ACTION]
        plain = cls(Preprocessing((), *both), raw, raw)
        surrounded = _surrounded(dataset, wrappers)
        if surrounded and _same(recorded, wanted):
            return plain  # they were recorded within the wrappers
        try:
            outside = Preprocessing(wrappers, *both)
        except ConfigError:
            if not wanted or not _same(recorded, wanted):
                raise
            return plain.known_within(dataset, surrounded)
        within = dict(zip((OBSERVATION, ACTION), outside.spaces(*both), strict=True))
        if _same(within, wanted):
            return cls(outside, raw, within)
        if recorded and _same(recorded, wanted):
            return plain.known_within(dataset, surrounded)
        said, given, made = (
            " and ".join(f"{name}s {space}" for name, space in one.items()) for one in (raw, wanted, within)
        )
        after = f", which the preprocessing makes {made}" if wrappers else ""
        raise ConfigError(f"{places_of(dataset)} was recorded with {said}{after}; the agent has {given}")

    def known_within(self, dataset: SampleDataset, surrounded: bool | None) -> Self:
        """Return it for recordings whose spaces are the agent's already.

        Raises:
            ConfigError: They say that they were made within other wrappers.
        """
        if surrounded is False:
            names = [[f"{one['name']} {one['kwargs']}" for one in each] for each in recorded_wrappers(dataset)]
            made = " and ".join(", ".join(one) or "none" for one in names)
            raise ConfigError(
                f"{places_of(dataset)} was recorded within other wrappers than the agent's preprocessing: {made}. Its "
                "observations, actions or rewards are not the agent's; record within the same ones, or without any"
            )
        return self

    def observations(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Return recorded observations as the agent sees them."""
        leaves = fixed_leaves(spaces.Dict({OBSERVATION: self.raw[OBSERVATION]}))
        raw = {leaf.path: as_dtype(batch[leaf.path], leaf.dtype) for leaf in leaves}  # data may be wider than a space
        return self.preprocessing.observations(raw) if self.preprocessing.config else raw


def _surrounded(dataset: SampleDataset, wrappers: Sequence[str | Mapping[str, Any]]) -> bool | None:
    """Return whether recordings say that they were made within some wrappers; None where they say nothing of it."""
    if not wrappers:
        return None
    preprocessing = Preprocessing(wrappers)
    said = [preprocessing.surround(described) for described in recorded_wrappers(dataset)]
    return False if False in said else None if None in said else True


def _same(found: Mapping[str, spaces.Space[Any]], wanted: Mapping[str, spaces.Space[Any]]) -> bool:
    """Return whether the spaces that were found are the wanted ones, as far as both are known."""
    return all(space == found[name] for name, space in wanted.items() if name in found)


def _actions(dataset: SampleDataset, steps: RecordedSteps, applied: _Applied) -> Array:
    """Return the action of each step as the agent has it: int64, or float32 where it is continuous; 0 without one."""
    if ACTION not in steps.columns:
        raise ConfigError(f"{places_of(dataset)} has actions of several parts, {fields_of(dataset.spec, ACTION)}")
    stored = as_dtype(steps.columns[ACTION][steps.acted], np.dtype(applied.raw[ACTION].dtype))
    acted = np.asarray(applied.preprocessing.actions({ACTION: stored}))
    bounds = value_range(applied.within[ACTION])
    check_values(dataset, "action", acted, applied.within[ACTION])
    dtype = np.float32 if bounds is None or bounds.dtype.kind == "f" else np.int64
    found = np.zeros((len(steps), *acted.shape[1:]), dtype)
    found[steps.acted] = acted
    return found


class _Frames:
    """Preprocessed observations of steps, in memory or read again.

    Args:
        dataset: The recordings.
        steps: The steps in them.
        applied: What is applied.
        memory: Bytes that may be kept.
        device: Where the tensors are.
    """

    def __init__(
        self,
        dataset: SampleDataset,
        steps: RecordedSteps,
        applied: _Applied,
        memory: int,
        device: torch.device,
    ) -> None:
        self.device = device
        self._dataset, self._steps, self._applied = dataset, steps, applied
        self._leaves = fixed_leaves(spaces.Dict({OBSERVATION: applied.within[OBSERVATION]}))
        names = (OBSERVATION, NEXT) if steps.next_stored else (OBSERVATION,)
        size = len(names) * len(steps) * sum(leaf.nbytes for leaf in self._leaves)
        self._kept = {name: self._all(name) for name in names} if size <= memory else {}

    def stacks(self, places: Array) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return observations and the ones after them, by field.

        Args:
            places: Places of their frames in the steps, shape (n, stack + 1).
        """
        found = self._taken(OBSERVATION, places.reshape(-1))
        frames = {name: value.reshape(*places.shape, *value.shape[1:]) for name, value in found.items()}
        if self._steps.next_stored:
            for name, value in self._taken(NEXT, places[:, -1]).items():
                frames[name][:, -1] = value
        if places.shape[1] == 2:
            return {n: value[:, 0] for n, value in frames.items()}, {n: value[:, 1] for n, value in frames.items()}
        return {n: value[:, :-1] for n, value in frames.items()}, {n: value[:, 1:] for n, value in frames.items()}

    def frames(self, places: Array) -> dict[str, Array]:
        """Return single observations at some places by field, each of shape (n, *shape)."""
        return {name: value.cpu().numpy() for name, value in self._taken(OBSERVATION, places).items()}

    def _taken(self, name: str, places: Array) -> dict[str, Tensor]:
        """Return observations at some places, each of shape (n, *shape)."""
        if self._kept:
            index = torch.from_numpy(places).to(self.device)
            return {path: value.index_select(0, index) for path, value in self._kept[name].items()}
        unique, inverse = np.unique(places, return_inverse=True)
        read = self._read(name, unique)
        return {path: torch.from_numpy(value[inverse]).to(self.device) for path, value in read.items()}

    def _all(self, name: str) -> dict[str, Tensor]:
        count = len(self._steps)
        found = {leaf.path: np.empty((count, *leaf.shape), leaf.dtype) for leaf in self._leaves}
        row = sum(self._dataset.spec[field].nbytes for field in fields_of(self._dataset.spec, name))
        size = max(1, BLOCK_BYTES // max(1, row))
        for start in range(0, count, size):
            places = np.arange(start, min(start + size, count))
            for path, value in self._read(name, places).items():
                found[path][places] = value
        return {path: torch.from_numpy(value).to(self.device) for path, value in found.items()}

    def _read(self, name: str, places: Array) -> dict[str, Array]:
        """Return preprocessed observations at ascending places."""
        rows, fields = self._steps.rows[places], fields_of(self._dataset.spec, name)
        if rows[-1] - rows[0] == len(rows) - 1:  # an archive reads no other way well
            batch = self._dataset.read(int(rows[0]), int(rows[-1]) + 1, fields)
        else:
            batch = self._dataset.gather(rows, fields)
        return self._applied.observations({OBSERVATION + field.removeprefix(name): v for field, v in batch.items()})
