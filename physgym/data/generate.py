"""Generation: episodes run in parallel workers, samples arrive in the order of their names, whatever ran them."""

from __future__ import annotations

import itertools
import json
import operator
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec

from physgym.data.dataset import SampleDataset
from physgym.data.writer import DEFAULT_MAX_FILE_SIZE, Mode, SampleWriter, close_after
from physgym.errors import ConfigError, PhysGymError, SampleError
from physgym.progress import Progress
from physgym.rollout import DEFAULT_MAX_REJECTS, DEFAULT_MAX_STEPS, NO_SAMPLE_SPACE, TOO_MANY_REJECTS, episode_seed
from physgym.sample import Sample, SampleSpec
from physgym.spaces import Array
from physgym.vector.entry import EnvLike, env_factory
from physgym.vector.predictions import Predictor
from physgym.vector.vector_env import DEFAULT_TIMEOUT, SocketVectorEnv, usable_cores
from physgym.vector.wire import RolloutResult

INTERRUPT_PATIENCE = 0.5  # seconds that workers get to close their environments after Ctrl-C or a fault


@dataclass(frozen=True)
class Rows:
    """Samples with their names, in the order of their names.

    Attributes:
        samples: Fields of shape (n, *field shape).
        episodes: Index of the episode of each sample, shape (n,), int64.
        steps: Step in its episode, shape (n,), int64.
        seeds: Seed of its episode, shape (n,), uint64.
    """

    samples: Sample
    episodes: Array
    steps: Array
    seeds: Array

    def __len__(self) -> int:
        return len(self.steps)

    def cut(self, part: slice | Array) -> Rows:
        """Some of the rows."""
        samples = {name: column[part] for name, column in self.samples.items()}
        return Rows(samples, self.episodes[part], self.steps[part], self.seeds[part])

    def write(self, writer: SampleWriter) -> None:
        """Append them to a dataset."""
        writer.append(self.samples, episode=self.episodes, step=self.steps, seed=self.seeds)


class SampleStream:
    """Fresh samples from parallel simulations, in an order that depends on the seed alone.

    Args:
        env: Registered id, `EnvSpec`, or a callable that makes one environment.
        path: Dataset folder in which everything drawn is stored; None stores nothing.
        num_envs: Number of environments; by default one per worker.
        num_workers: Worker processes; by default one per usable core.
        seed: Seed of the run; episode i gets a seed derived from it and i.
        env_kwargs: Arguments of the environment's constructor.
        mode: Which part of the dataset to write.
        resume: Continue the dataset at `path` after its last sample.
        max_steps: Truncate an episode after so many steps.
        max_rejects: Give up after so many rejected steps in a row.
        max_file_size: Largest size of a partition in bytes.
        timeout: Seconds to wait for a worker.
        on_error: "raise", or "restart": a worker that dies or hangs is started again and runs its episodes anew from
            their seeds; the samples are the same.
        predictor: Answers simulations that ask for a prediction in the middle of a step.

    Attributes:
        spec: The sample fields.
        rejected: Number of rejected steps so far.
        writer: Writes to `path`; None without one.

    Raises:
        ConfigError: An argument is wrong.
        SampleError: The environment declares no samples.
        WorkerError: An environment's constructor raised.
        DatasetError: The folder holds samples already and `resume` is off.
    """

    def __init__(
        self,
        env: EnvLike,
        *,
        path: str | Path | None = None,
        num_envs: int | None = None,
        num_workers: int | None = None,
        seed: int = 0,
        env_kwargs: Mapping[str, Any] | None = None,
        mode: Mode = "training",
        resume: bool = False,
        max_steps: int = DEFAULT_MAX_STEPS,
        max_rejects: int = DEFAULT_MAX_REJECTS,
        max_file_size: int = DEFAULT_MAX_FILE_SIZE,
        timeout: float = DEFAULT_TIMEOUT,
        on_error: str = "raise",
        predictor: Predictor = None,
    ) -> None:
        try:
            seed, max_steps, max_rejects = (operator.index(number) for number in (seed, max_steps, max_rejects))
        except TypeError as error:
            raise ConfigError(f"seed, max_steps and max_rejects must be integers: {error}") from error
        if seed < 0:
            raise ConfigError(f"seed must not be negative, got {seed}")
        if max_steps < 1 or max_rejects < 1:
            raise ConfigError(f"max_steps and max_rejects must be at least 1, got {max_steps} and {max_rejects}")
        if num_envs is None:
            num_envs = max(1, usable_cores() if num_workers is None else num_workers)
        if num_envs < 1:
            raise ConfigError(f"num_envs must be at least 1, not {num_envs}; leave it out for one per worker")
        kwargs = dict(env_kwargs or {})
        self.seed, self.rejected, self.writer = seed, 0, None
        self._max_steps, self._max_rejects = max_steps, max_rejects
        factory = env_factory(env, kwargs)
        self._envs = SocketVectorEnv(
            [factory] * num_envs, num_workers=num_workers, timeout=timeout, on_error=on_error, predictor=predictor
        )
        try:
            spec = self._envs.sample_spec
            if spec is None:
                raise SampleError(NO_SAMPLE_SPACE.format(env=env_name(env)))
            self.spec: SampleSpec = spec
            if path is not None:
                source = {
                    "env": env_name(env),
                    "env_kwargs": _describable(kwargs),
                    "seed": seed,
                    "max_steps": max_steps,
                }
                self.writer = SampleWriter(
                    path, spec, mode=mode, source=source, resume=resume, max_file_size=max_file_size
                )
            self._rows = self._ordered(self.writer.last if self.writer else None)
            self._left: Rows | None = None
        except BaseException as error:
            self._close(type(error))
            raise

    def take(self, limit: int) -> Rows:
        """The next samples, at least one and at most `limit`; stored if there is a dataset.

        Raises:
            SampleError: A sample does not fit its declaration, or too many in a row were rejected.
            WorkerError: A worker died or did not answer, or an environment raised.
            DatasetError: The disk refuses the write.
        """
        rows = self._left if self._left is not None else next(self._rows)
        self._left = None
        if len(rows) > limit:
            self._left, rows = rows.cut(slice(limit, None)), rows.cut(slice(limit))
        if self.writer is not None:
            rows.write(self.writer)
        return rows

    def draw(self, batch_size: int) -> Sample:
        """A batch of the next samples: fields of shape (batch_size, *field shape). Raises as `take` does."""
        parts: list[Rows] = []
        while (missing := batch_size - sum(map(len, parts))) > 0:
            parts.append(self.take(missing))
        return {name: np.concatenate([part.samples[name] for part in parts]) for name in self.spec}

    def dataset(self) -> SampleDataset | None:
        """Everything stored so far, None where nothing is."""
        if self.writer is None:
            return None
        if not self.writer.closed:
            self.writer.commit()
        return SampleDataset(self.writer.path, self.writer.mode)

    def close(self) -> None:
        """End the workers and complete the dataset; calling it again does no harm."""
        self._close(None)

    def _close(self, error: type[BaseException] | None) -> None:
        try:
            if not self._envs.closed:
                self._envs.close(**({} if error is None else {"timeout": INTERRUPT_PATIENCE}))
        finally:
            if self.writer is not None:
                close_after(self.writer, error)

    def __enter__(self) -> SampleStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._close(kind)

    def _ordered(self, last: tuple[int, int] | None) -> Iterator[Rows]:
        """Samples in order of their names, from after the sample `last` (episode, step)."""
        first, done = (0, -1) if last is None else last
        seeds: dict[int, int] = {}

        def names() -> Iterator[tuple[int, int]]:
            for episode in itertools.count(first):
                seeds[episode] = episode_seed(self.seed, episode)
                yield episode, seeds[episode]

        arrivals = self._envs.rollout(names(), max_steps=self._max_steps, max_rejects=self._max_rejects)
        early: dict[int, deque[RolloutResult | PhysGymError]] = {}
        chunk = first
        rejects_in_a_row = 0
        while True:
            parts = early.setdefault(chunk, deque())
            while not parts:
                arrived, part = next(arrivals)
                early.setdefault(arrived, deque()).append(part)
            part = parts.popleft()
            if isinstance(part, PhysGymError):
                raise part  # only now, when all samples before it are delivered, whoever was faster
            rows = Rows(part.samples, part.episodes, part.steps, _seeds(part.episodes, seeds))
            if chunk == first and done >= 0:
                rows = rows.cut((rows.episodes > first) | (rows.steps > done))
            for episode, _, kept, _, rejected in part.ended:
                del seeds[episode]
                self.rejected += len(rejected)
                # within an episode the worker counts; episodes of one step need the count across episodes
                rejects_in_a_row = 0 if kept else rejects_in_a_row + len(rejected)
                if rejects_in_a_row >= self._max_rejects:
                    before = rows.cut(rows.episodes < episode)
                    if len(before):
                        yield before
                    reason, limit = list(rejected.values())[-1], self._max_rejects
                    raise SampleError(
                        TOO_MANY_REJECTS.format(
                            where=f"episode {episode}", count=rejects_in_a_row, limit=limit, reason=reason
                        )
                    )
            if part.last:
                del early[chunk]
                chunk = part.ended[-1][0] + 1
            if len(rows):
                yield rows


def _seeds(episodes: Array, seeds: Mapping[int, int]) -> Array:
    """Seed of the episode of each sample."""
    found, where = np.unique(episodes, return_inverse=True)
    return np.array([seeds[episode] for episode in found.tolist()], np.uint64)[where]


def generate(
    env: EnvLike,
    path: str | Path,
    *,
    samples: int,
    num_envs: int | None = None,
    num_workers: int | None = None,
    seed: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
    mode: Mode = "training",
    resume: bool = False,
    max_steps: int = DEFAULT_MAX_STEPS,
    max_rejects: int = DEFAULT_MAX_REJECTS,
    max_file_size: int = DEFAULT_MAX_FILE_SIZE,
    timeout: float = DEFAULT_TIMEOUT,
    on_error: str = "raise",
    predictor: Predictor = None,
    progress: bool = True,
) -> SampleDataset:
    """Generate samples of a simulation into a dataset.

    The dataset is a function of (env, env_kwargs, seed, max_steps, samples): the number of workers, crashes and resumes
    do not change it.

    Args:
        env: Registered id, `EnvSpec`, or a callable that makes one environment.
        path: Dataset folder; must not hold samples of this mode unless `resume` is set.
        samples: How many samples the dataset shall have, those of a resumed one included.
        num_envs: Number of environments; by default one per worker.
        num_workers: Worker processes; by default one per usable core.
        seed: Seed of the run.
        env_kwargs: Arguments of the environment's constructor.
        mode: Which part of the dataset to write.
        resume: Continue the dataset at `path` after its last sample.
        max_steps: Truncate an episode after so many steps.
        max_rejects: Give up after so many rejected steps in a row.
        max_file_size: Largest size of a partition in bytes.
        timeout: Seconds to wait for a worker.
        on_error: "raise", or "restart": a worker that dies or hangs is started again; the samples are the same.
        predictor: Answers simulations that ask for a prediction in the middle of a step.
        progress: Whether to show a progress bar.

    Returns:
        The dataset.

    Raises:
        ConfigError: An argument is wrong.
        SampleError: The environment declares no samples, a sample does not fit, or too many were rejected.
        WorkerError: A worker died or did not answer, or an environment raised.
        DatasetError: The folder holds samples already, or the disk refuses a write.
        KeyboardInterrupt: Ctrl-C; what was generated stays, and `resume` continues it.
    """
    if not isinstance(samples, (int, np.integer)) or samples < 1:
        raise ConfigError(f"samples must be at least 1 and an integer, not {samples}")
    stream = SampleStream(
        env,
        path=path,
        num_envs=num_envs,
        num_workers=num_workers,
        seed=seed,
        env_kwargs=env_kwargs,
        mode=mode,
        resume=resume,
        max_steps=max_steps,
        max_rejects=max_rejects,
        max_file_size=max_file_size,
        timeout=timeout,
        on_error=on_error,
        predictor=predictor,
    )
    with stream:
        assert stream.writer is not None
        with Progress(samples, "generate", "sample", initial=stream.writer.count, enabled=progress) as bar:
            while stream.writer.count < samples:
                rows = stream.take(samples - stream.writer.count)
                bar.update(len(rows), f"rejected {stream.rejected}")
    return SampleDataset(path, mode=mode)


def env_name(env: EnvLike) -> str:
    """What a dataset records as its environment."""
    if isinstance(env, EnvSpec):
        return env.id
    # "module:id" names the same environment as the id alone
    return env.rpartition(":")[2] if isinstance(env, str) else getattr(env, "__qualname__", repr(env))


def _describable(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments as JSON data; what JSON does not know is described by its repr."""
    described: dict[str, Any] = json.loads(json.dumps(kwargs, default=repr))
    return described
