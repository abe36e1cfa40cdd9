"""`StepSource`: where the steps of a run come from; the solver in this process, workers, or stored samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from physgym.code.record import Code, check_same
from physgym.data.dataset import SampleDataset
from physgym.placement import Env
from physgym.running.run_plan import RunPlan
from physgym.running.run_step import RunStep
from physgym.sample import SampleSpec
from physgym.scene.declared import METADATA
from physgym.scene.inputs import SceneInput


class StepSource(ABC):
    """Gives the steps of a run, or of a replay.

    Attributes:
        spec: The fields of a step's sample.
        parameter_spec: Those of the parameters of an episode that are recorded; None for none.
    """

    spec: SampleSpec
    parameter_spec: SampleSpec | None = None

    @abstractmethod
    def steps(self, after: tuple[int, int] | None, limit: int | None) -> Iterator[RunStep]:
        """Return an iterator over the steps.

        Args:
            after: Episode and step that come before the first one; None at the beginning, and in a replay.
            limit: How many will be taken; None for no end.
        """

    @property
    @abstractmethod
    def solved(self) -> bool:
        """Return whether a solver made the samples, so that the next one is the target of what samples hold once."""

    @property
    @abstractmethod
    def constants(self) -> Mapping[str, Any]:
        """Return the arrays that a record stores once."""

    @property
    @abstractmethod
    def scene(self) -> str | None:
        """Return the scene that a record keeps, see `physgym.scene.declared`; None for none."""

    @property
    @abstractmethod
    def time_step(self) -> float | None:
        """Return the time of a step in s; None where nothing says it."""


class DatasetSteps(StepSource):
    """Gives the steps of a dataset, as they are stored or made again.

    Args:
        dataset: The dataset.
    """

    def __init__(self, dataset: SampleDataset) -> None:
        self._dataset = dataset

    @property
    def constants(self) -> Mapping[str, Any]:
        """Return the constants of the dataset."""
        return self._dataset.constants

    @property
    def scene(self) -> str | None:
        """Return the scene that the dataset keeps."""
        return self._dataset.metadata.get(METADATA)

    @property
    def time_step(self) -> float | None:
        """Return the time of a step of the dataset in s; None where it is not known."""
        return self._dataset.time_step


class SimulationSteps(StepSource):
    """Gives the steps of the episodes of a plan, made by a simulation.

    They continue where the last ones that were taken ended, for any caller.

    Args:
        plan: The episodes.

    Attributes:
        plan: The same.
        surrogate: Whether the network makes the steps.
    """

    surrogate: bool

    def __init__(self, plan: RunPlan) -> None:
        self.plan = plan

    @property
    def solved(self) -> bool:
        """Return whether the solver makes the steps."""
        return not self.surrogate

    @property
    def env(self) -> Env | None:
        """Return the environment that steps in this process, None where there is none."""
        return None

    @property
    @abstractmethod
    def code(self) -> Code:
        """Return the code of the simulation, see `physgym.code.record`."""

    def options(self, episode: int) -> dict[str, Any] | None:
        """Return what the reset of an episode of a run in this process gets, by its index."""
        return None

    @property
    @abstractmethod
    def inputs(self) -> Mapping[str, SceneInput]:
        """Return the inputs of a person that the simulation declares, by name; none where the plan has none."""

    @abstractmethod
    def stop(self, error: type[BaseException]) -> None:
        """Give up the steps under way after an error; the next ones start again after a step that is named."""

    @abstractmethod
    def close(self, error: type[BaseException] | None) -> None:
        """Close the environments; at once where there was an error."""

    def check_learned(self, learned: Mapping[str, Any] | None) -> None:
        """Refuse a simulation of other code than that whose samples the network has learned from.

        Args:
            learned: Record of that code; None, or an empty one, compares nothing.

        Raises:
            ChangedCode: The codes differ.
        """
        if learned:
            check_same(
                learned,
                self.code,
                "what the network was trained on",
                allow=self.plan.allow_changed_code,
                compare_factories=False,
            )
