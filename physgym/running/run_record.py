"""`RunRecord`: what a run keeps of its steps."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from physgym.data.dataset import SampleDataset
from physgym.data.description import partition_files
from physgym.data.provenance import begun, continued
from physgym.data.times import time_attribute
from physgym.data.writer import SampleWriter, close_after
from physgym.errors import ChangedCode, ConfigError, DatasetError
from physgym.files import short
from physgym.generation.replayed import check_same_sample
from physgym.generation.source import recorded_source
from physgym.running.run_step import record_fields
from physgym.running.step_blocks import StepBlocks
from physgym.running.step_source import SimulationSteps, StepSource
from physgym.sample import Field, Sample
from physgym.spaces import Array
from physgym.storage.location import Location, place

RunKind: TypeAlias = Literal["run", "replay"]


class RunRecord:
    """Keeps the figures of the steps of runs, and stores the steps where a dataset is wanted.

    The dataset has the mode "prediction", and belongs to runs that follow on each other, or to one replay.

    Args:
        folder: Dataset folder, or ``s3://bucket/prefix``; None stores nothing.
        outputs: The predicted fields.
        compare: Whether predictions are compared with the samples.
        resume: Continue the dataset after its last sample.

    Attributes:
        source: What the dataset that is continued says of where its steps come from; None where a new one is made.

    Raises:
        DatasetError: There is a dataset, and it is not to be continued.
    """

    def __init__(self, folder: str | Path | None, outputs: Sequence[Field], *, compare: bool, resume: bool) -> None:
        self._folder = None if folder is None else place(folder)
        self._outputs, self._compare, self._resume = outputs, compare, resume
        self.source = recorded_source(folder, "prediction") if resume and folder is not None else None
        self._writer: SampleWriter | None = None
        self._blocks: StepBlocks | None = None
        self._kind: RunKind | None = None
        self._last: tuple[int, int] | None = None  # episode and step that is stored last, until it was made again
        if isinstance(self._folder, Path) and not resume and partition_files(self._folder, "prediction"):
            raise DatasetError(
                f"{short(self._folder)} already holds prediction samples. Continue that run with resume=True, or "
                "choose another folder"
            )

    @property
    def wanted(self) -> bool:
        """Return whether a dataset is wanted."""
        return self._folder is not None

    @property
    def place(self) -> Path | Location | None:
        """Return the folder of the dataset; None where none is wanted."""
        return self._folder

    @property
    def stores(self) -> bool:
        """Return whether steps are stored, which begins with the first run."""
        return self._writer is not None

    def open(
        self, kind: RunKind, steps: StepSource, source: Mapping[str, Any], simulation: SimulationSteps | None
    ) -> tuple[int, int] | None:
        """Open the dataset, where one is wanted.

        Args:
            kind: What is recorded: a run, or a replay.
            steps: Where its steps come from.
            source: What the dataset says of that.
            simulation: That of the runner, whose code is recorded; None where there is none.

        Returns:
            Episode and step of the last sample that the dataset held before; None where it was new, or open already.

        Raises:
            ConfigError: It holds what was recorded before.
            ChangedCode: The stored steps were made by other code of the simulation.
            DatasetError: The dataset cannot be continued.
        """
        if self._blocks is not None:
            self._blocks.flush()
        if self._folder is None:
            return None
        now = source.get("engine", "torch")
        if self.source is not None and (then := self.source.get("engine", "torch")) != now:
            raise DatasetError(
                f"{self._folder} was recorded with predictions by engine={then!r}, which round otherwise than those by "
                f"engine={now!r}; continue it with engine={then!r} (--engine {then}), or record into another folder"
            )
        if self._writer is not None:
            if kind != self._kind or kind == "replay":
                raise ConfigError(
                    f"{self._folder} holds what this runner recorded before; record a {kind} with a Runner and a "
                    "folder of its own"
                )
            return None
        self._writer = SampleWriter(
            self._folder,
            record_fields(steps.spec, self._outputs, compare=self._compare),
            mode="prediction",
            source=source,
            resume=self._resume,
            parameters=steps.parameter_spec,
            nonfinite="allow",  # samples are checked, and a prediction is what it is
            attributes=time_attribute(steps.time_step),
        )
        if simulation is not None:
            self._record_code(self._writer, simulation)
        if (constants := steps.constants) or self._writer.constants:
            self._writer.set_constants(constants)
        if (scene := steps.scene) is not None:
            self._writer.set_scene(scene)
        self._kind, self._last = kind, self._writer.last
        return self._last

    def _record_code(self, writer: SampleWriter, simulation: SimulationSteps) -> None:
        plan = simulation.plan
        if not writer.count:
            writer.provenance = begun(simulation.code, plan.defaults)
            return
        where = f"the record in {writer.path}"
        try:
            writer.provenance = continued(
                writer.provenance,
                simulation.code,
                writer.count,
                where,
                allow=plan.allow_changed_code,
                defaults=plan.defaults,
            )
        except ChangedCode:
            self._writer = None
            writer.close()
            raise

    def blocks(self, steps: StepSource, following: Mapping[str, str], window: int | None = None) -> StepBlocks:
        """Return what takes the steps of a run from now on.

        Args:
            steps: Where they come from.
            following: As in `StepBlocks`.
            window: Keep the figures of so many steps at least, and not of all.
        """
        self._blocks = StepBlocks(
            steps.spec,
            self._outputs,
            compare=self._compare,
            following=following,
            writer=self._writer,
            window=window,
        )
        return self._blocks

    def check_room(self, steps: int) -> None:
        """Check that so many steps fit on the disk.

        Raises:
            DatasetError: They do not.
        """
        if self._writer is not None:
            self._writer.check_room(steps)

    def check_again(self, name: tuple[int, int], sample: Sample | None) -> None:
        """Warn where a run that is continued makes another sample of the step that is stored last.

        Args:
            name: Episode and step.
            sample: What the simulation gives; None where it gives none.
        """
        if self._folder is None or name != self._last:
            return
        self._last = None
        episode, step = name
        stored = SampleDataset(self._folder, mode="prediction")
        try:
            check_same_sample(stored[len(stored) - 1], sample, f"step {step} of episode {episode}")
        except DatasetError as error:
            warnings.warn(
                f"{self._folder} is continued, and its last step is not repeated: {error}. What follows belongs to "
                "another episode. A person's inputs may be missing, which are read from inputs.jsonl there or from "
                "record_inputs=",
                UserWarning,
                stacklevel=2,
            )

    def add_parameters(self, parameters: Mapping[str, Array], *, episode: Array, seed: Array) -> None:
        """Store the parameters of episodes, where steps are stored.

        Args:
            parameters: Each of shape (n, *shape of the parameter).
            episode: Indices of the episodes, shape (n,).
            seed: Their seeds, shape (n,).
        """
        if self._writer is not None:
            self._writer.add_parameters(parameters, episode=episode, seed=seed)

    def commit(self) -> None:
        """Make the steps that were stored readable, where steps are stored.

        Raises:
            DatasetError: The disk refuses.
        """
        if self._writer is not None:
            self._writer.commit()

    def close(self, error: type[BaseException] | None) -> None:
        """Complete the dataset; at once where there was an error."""
        if self._writer is not None and not self._writer.closed:
            if self._blocks is not None:
                self._blocks.flush()
            close_after(self._writer, error)
