"""Episodes of the solver that a network is compared with in rollouts: stored ones, or fresh ones of a simulation."""

from __future__ import annotations

import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

from physgym.checks import integer, is_integer
from physgym.code.record import Code
from physgym.data.dataset import SampleDataset
from physgym.data.provenance import codes_of, other_code
from physgym.episode import SEED_RULE, require_spec
from physgym.errors import ConfigError, SampleError
from physgym.feedback import Declaration
from physgym.generation.stream import SampleStream
from physgym.naming import env_name, same_name
from physgym.nn import Predictor
from physgym.registration import TRANSITIONS, EnvLike
from physgym.running.overlap import LearnedEpisodes
from physgym.running.rollout_form import RolloutForm
from physgym.running.run_step import without_additions
from physgym.sample import SampleSpec
from physgym.vector.make import env_factories
from physgym.worker.folders import Folder

EPISODES = 10  # fresh ones
TAKEN = 256  # samples at a time


class RolloutEpisodes(ABC):
    """Episodes of the solver.

    Args:
        feedback: Which output feeds which input, see `physgym.feedback`; None for what the samples declare.
    """

    def __init__(self, feedback: Declaration | None) -> None:
        self._feedback = feedback

    @abstractmethod
    def opened(
        self, predictor: Predictor, horizon: int, episodes: int | Sequence[int] | None, **workers: Any
    ) -> AbstractContextManager[tuple[SampleDataset, RolloutForm]]:
        """Return a context manager that gives the episodes and how a network is rolled out in them.

        Args:
            predictor: The network.
            horizon: Steps that are wanted.
            episodes: How many, or which ones.
            **workers: Where fresh ones are made.

        Raises:
            ConfigError: Another simulation made them, or the network does not fit them.
        """

    @property
    @abstractmethod
    def env(self) -> str | None:
        """Return the name of the simulation; None where the samples do not say it."""

    @property
    def dataset(self) -> SampleDataset | None:
        """Return the samples; None where they are still to be made."""
        return None

    def form(self, predictor: Predictor, spec: SampleSpec) -> RolloutForm:
        """Return how a network is rolled out with some fields.

        Raises:
            ConfigError: The network does not fit them, or no feedback is declared.
        """
        fields = without_additions(spec)
        feedback = predictor.feedback or fields.feedback  # that with which it has learned goes before
        if self._feedback is not None:
            try:
                feedback = fields.with_feedback(self._feedback).feedback
            except SampleError as error:
                raise ConfigError(str(error)) from error
        return RolloutForm(predictor, fields, feedback)

    def check_simulation(self, predictor: Predictor) -> None:
        """Compare the simulation with that from whose samples a network has learned, where both are known.

        Raises:
            ConfigError: It is another one.
        """
        samples = None if predictor.learned is None else predictor.learned.samples
        theirs = set() if samples is None else {name for name in map(_made_by, _sources(samples)) if name is not None}
        own = None if self.env is None else self.env.removeprefix(TRANSITIONS)
        if theirs and own is not None and not any(same_name(own, one.removeprefix(TRANSITIONS)) for one in theirs):
            raise ConfigError(
                f"the episodes are those of {self.env}, and the network has learned from {', '.join(sorted(theirs))}. "
                "Take a dataset of the same simulation"
            )


class DatasetEpisodes(RolloutEpisodes):
    """The episodes of a dataset.

    Args:
        dataset: The dataset, or a part of it.
        feedback: As for `RolloutEpisodes`; by default that of the dataset.
    """

    def __init__(self, dataset: SampleDataset, feedback: Declaration | None = None) -> None:
        super().__init__(feedback)
        self._dataset = dataset

    @property
    def dataset(self) -> SampleDataset:
        """Return the dataset."""
        return self._dataset

    @property
    def env(self) -> str | None:
        """Return the name of the simulation; None where several made the samples, or they do not say it."""
        found = set(map(_made_by, _sources(self.dataset)))
        return found.pop() if len(found) == 1 else None

    @contextmanager
    def opened(
        self, predictor: Predictor, horizon: int, episodes: int | Sequence[int] | None, **workers: Any
    ) -> Iterator[tuple[SampleDataset, RolloutForm]]:
        """Give the dataset; warn of episodes that the network has learned from, and of other code."""
        self.check_simulation(predictor)
        form = self.form(predictor, self.dataset.spec)
        if text := LearnedEpisodes(None, predictor).among_replayed(self.dataset):
            warnings.warn(text, UserWarning, stacklevel=5)
        learned = None if predictor.learned is None else predictor.learned.code
        names = ("the samples of the rollout", "the samples that the network was trained on")
        for _, code in codes_of(self.dataset) if learned else ():
            if text := other_code(Code.from_json(code), learned or {}, names):
                warnings.warn(text, UserWarning, stacklevel=5)
        yield self.dataset, form


class FreshEpisodes(RolloutEpisodes):
    """Fresh episodes of a simulation, with the seeds of the part "evaluation".

    Args:
        env: Registered id, `EnvSpec`, or a callable that makes the environment.
        arguments: Arguments of its constructor.
        compare_code: Function of the record of the code that a network has learned from, and that of the simulation.
        feedback: As for `RolloutEpisodes`; by default what the simulation declares.
        options: Those of `SampleStream`: seed, samplers, and limits.
    """

    def __init__(
        self,
        env: EnvLike,
        arguments: list[dict[str, Any]],
        compare_code: Callable[[Mapping[str, Any] | None, Code], None],
        feedback: Declaration | None,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(feedback)
        self._env, self._arguments, self._compare_code = env, arguments, compare_code
        self._options = options

    @property
    def env(self) -> str:
        """Return the name of the simulation."""
        return env_name(self._env)

    @contextmanager
    def opened(
        self, predictor: Predictor, horizon: int, episodes: int | Sequence[int] | None, **workers: Any
    ) -> Iterator[tuple[SampleDataset, RolloutForm]]:
        """Give a dataset that is removed afterwards.

        Raises:
            ConfigError: Episodes are named; fresh ones have no names yet. Or as for `RolloutEpisodes`.
            SampleError: A field does not fit, or too many steps were rejected.
        """
        if not (episodes is None or is_integer(episodes)):
            raise ConfigError(f"say how many fresh episodes are wanted: episodes={EPISODES}, not {episodes!r}")
        count = EPISODES if episodes is None else integer("episodes", episodes, 1)
        self.check_simulation(predictor)
        with Folder(), tempfile.TemporaryDirectory(prefix="physgym-rollout-") as folder:
            yield self._made(Path(folder) / "episodes", predictor, horizon, count, workers)

    def _made(
        self, folder: Path, predictor: Predictor, horizon: int, episodes: int, workers: Mapping[str, Any]
    ) -> tuple[SampleDataset, RolloutForm]:
        with closing(env_factories(self._env, self._arguments)[0]()) as env:  # nothing runs before the fields fit
            form = self.form(predictor, require_spec(env))
        options = {**self._options, **workers, "env_kwargs": self._arguments, "episodes": episodes}
        options["max_steps"] = min(options["max_steps"], form.rows(horizon))  # no step is made beyond the horizon
        stream = SampleStream(self._env, path=folder, mode="test", seeds=("evaluation", SEED_RULE), **options)
        with stream:
            self._compare_code(None if predictor.learned is None else predictor.learned.code, stream.code)
            while len(stream.take(TAKEN)):
                pass
        if not stream.stored:
            raise SampleError(f"all {stream.rejected} steps of the episodes were rejected")
        return SampleDataset(folder, "test"), form


def _sources(samples: SampleDataset) -> list[Mapping[str, Any]]:
    return [source for source, _ in samples.origins()[0]]


def _made_by(source: Mapping[str, Any]) -> str | None:
    """Return the name of the simulation that samples come from, generated or recorded; None where they do not say."""
    name = source.get("env") or source.get("recorded")
    return name if isinstance(name, str) else None
