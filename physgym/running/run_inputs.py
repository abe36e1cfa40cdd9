"""`RunnerInputs`: the inputs of a person in a run, those of a record and those that are made now."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from physgym.code.record import check_same
from physgym.errors import ConfigError
from physgym.files import short
from physgym.generation.source import as_recorded
from physgym.running.input_record import InputChange, InputRecord, InputWriter, copy_record, head_of
from physgym.running.run_step import RunStep
from physgym.running.step_source import SimulationSteps
from physgym.scene.inputs import RECORD
from physgym.storage.location import place
from physgym.worker.given_inputs import GIVEN, RunInputs

SAME = ("seed", "max_steps", "actions", "parameters", "load", "seeds", "surrogate")  # without them episodes are others


class RunnerInputs:
    """The inputs of a person in the runs of a `physgym.runner.Runner`.

    Args:
        repeated: File of the record that is repeated; None for none.
        kept: File for what a person changes now; by default next to the samples of the record of the run.
        record: Folder of that record; None for none.
        resume: Whether it is continued, with the inputs that were recorded there.
        view: Whether a window or page is open in which a person may change inputs.

    Attributes:
        plan: What the steps depend on; None where there are no inputs, and can be none.
        path: File that has the inputs of the run, or gets them; None for none.

    Raises:
        ConfigError: A record is not there, damaged, or not that of the run that is continued.
    """

    def __init__(
        self,
        repeated: str | Path | None,
        kept: str | Path | None,
        record: str | Path | None,
        *,
        resume: bool,
        view: bool,
    ) -> None:
        folder = None if record is None else place(record)
        own = folder / RECORD if isinstance(folder, Path) else None
        self.path = own if kept is None else Path(kept)
        there = resume and self.path is not None and self.path.exists()
        self._before = InputRecord.read(self.path) if there and self.path is not None else None
        self._repeated = None if repeated is None else InputRecord.read(repeated)
        if resume and self._repeated is not None:
            before = () if self._before is None else self._before.changes
            if before != self._repeated.changes:
                raise ConfigError(
                    f"the run in {record} that is continued had other inputs than those of "
                    f"{short(self._repeated.path)}; continue it without them, or begin a new one"
                )
        known = self._repeated or self._before
        live = view and self._repeated is None and self.path is not None
        self._changes = {} if known is None else known.by_episode()
        self._made: dict[int, int] = {}  # steps of the episode under way, which may be made once more
        self.plan = None if known is None and not live else RunInputs(self._changes, live, self._made)
        self._writer: InputWriter | None = None
        self._open = False

    def check(self, simulation: SimulationSteps) -> None:
        """Check a record against the simulation.

        Raises:
            ConfigError: It was made with another simulation, has unknown inputs, or values that are out of range.
        """
        for record in (self._repeated, self._before):
            if record is not None:
                self._check_simulation(record, simulation)
                record.check(simulation.inputs, simulation.plan.max_steps)

    def _check_simulation(self, record: InputRecord, simulation: SimulationSteps) -> None:
        theirs, mine = record.source, simulation.plan.simulation
        mine = as_recorded(mine, theirs)
        if any(json.loads(json.dumps(mine[key])) != theirs.get(key) for key in ("env", "env_kwargs")):
            raise ConfigError(
                f"{short(record.path)} has the inputs to another simulation, {theirs.get('env')} with the arguments "
                f"{theirs.get('env_kwargs')}; this is {mine['env']} with {mine['env_kwargs']}"
            )

    def open(self, simulation: SimulationSteps, network: Any, after: tuple[int, int] | None) -> None:
        """Begin a run: say what it is, in the record that it makes.

        Args:
            simulation: Makes the steps.
            network: Digest of the network's weights.
            after: Episode and step that were made before; None at the beginning.

        Raises:
            ConfigError: The record that is repeated is one of other episodes.
            ChangedCode: It was made with other code of the simulation.
            DatasetError: The disk refuses.
        """
        if self._open or self.plan is None:
            return
        self._open = True
        if after is not None:
            self._made[after[0]] = after[1] + 1
        source = simulation.plan.source(network, simulation.surrogate, None)
        for record in (self._repeated, self._before):
            if record is not None:
                self._check_run(record, source, simulation)
        head = head_of(source, simulation.code.to_json())
        if self._repeated is not None:
            if self.path is not None and self._before is None:
                copy_record(self._repeated, head, self.path)
        elif self.plan.live and self.path is not None:
            self._writer = InputWriter(self.path, head, self._before)

    def _check_run(self, record: InputRecord, source: Mapping[str, Any], simulation: SimulationSteps) -> None:
        theirs = record.source
        mine = json.loads(json.dumps(as_recorded(dict(source), theirs)))
        for key in SAME:
            if mine.get(key) != theirs.get(key):
                raise ConfigError(
                    f"{short(record.path)} was made in a run with {key} {theirs.get(key)!r}, and this one has "
                    f"{mine.get(key)!r}: its episodes are others. Repeat it with the same"
                )
        where = f"the record of inputs {short(record.path)}"
        check_same(record.code, simulation.code, where, allow=simulation.plan.allow_changed_code)
        if mine.get("network") != theirs.get("network"):
            warnings.warn(
                f"{short(record.path)} was made with another network next to the solver: the inputs are the same, the "
                "steps only as far as they do not depend on it",
                UserWarning,
                stacklevel=4,
            )

    def take(self, step: RunStep) -> None:
        """Record what a person has changed at the beginning of a step, before its sample is stored.

        Raises:
            ConfigError: The episode has ended before a step that the record names.
            DatasetError: The disk refuses.
        """
        if self.plan is None:
            return
        episode, made = step.episode, step.transition
        self._made.clear()
        self._made[episode] = made.step + 1
        for name, value in made.info.get(GIVEN, ()):
            assert self._writer is not None
            self._writer.add(InputChange(episode, made.step, name, value))
            self._changes.setdefault(episode, []).append((made.step, name, value))
        late = [change for change in self._changes.get(episode, ()) if change[0] > made.step] if made.last else []
        if late:
            raise ConfigError(
                f"the record of inputs has {late[0][1]!r} at step {late[0][0]} of episode {episode}, which there is "
                f"not: the episode has {made.step + 1} steps. It is the record of another run"
            )

    def warn_of_rest(self, last: tuple[int, int] | None) -> None:
        """Warn of changes of the record that come after the last step of a run."""
        rest = [
            (episode, change[0])
            for episode, changes in self._changes.items()
            for change in changes
            if last is None or (episode, change[0]) > last
        ]
        if rest:
            warnings.warn(
                f"{len(rest)} changes of the record of inputs were not made: the first one belongs to step "
                f"{min(rest)[1]} of episode {min(rest)[0]}, after the last step of this run",
                UserWarning,
                stacklevel=3,
            )

    @property
    def written(self) -> int:
        """Return the number of changes that a person has made."""
        return 0 if self._writer is None else self._writer.written

    def close(self) -> None:
        """Close the record; calling it again does no harm."""
        if self._writer is not None:
            self._writer.close()
