"""`CommandSimulation`: a command-line program with files in and files out as an environment.

Each solver step renders templates of the program's input files, runs it in a working folder of its own and reads the
fields of the sample from what it wrote.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from physgym.adapters.command_fields import CommandFields, FieldsOf, held, shaped, taken
from physgym.adapters.command_outputs import WrittenFiles
from physgym.adapters.command_program import ProgramRuns, RunFolders, RunRules, TemplatedProgram
from physgym.casting import CastError, as_array
from physgym.checks import one_of, positive
from physgym.errors import ConfigError, SampleError, SimulatorError
from physgym.simulation import Simulation
from physgym.spaces import Array

SAME = 1e-6  # relative difference of a state and of its text in a file, of as many digits as the program needs


@dataclass
class Case:
    """The case that was computed last.

    Attributes:
        seed: Integer of the episode, for programs that draw random numbers.
        steps: Solver steps made in the episode.
        action: The action, by name.
        outputs: The outputs, by name; None where no run has worked.
        before: The states before the step, by name.
        states: The states now, by name.
    """

    seed: int = 0
    steps: int = 0
    action: dict[str, Array] = field(default_factory=dict)
    outputs: dict[str, Array] | None = None
    before: dict[str, Array] = field(default_factory=dict)
    states: dict[str, Array] = field(default_factory=dict)


class CommandSimulation(Simulation[Any, Any]):
    """A program that reads files, computes and writes files.

    A solver step runs the program once. Templates (Jinja2) and the command's own words may use the values of all
    parameters, actions and states by name, as Python numbers or nested lists. They may use ``step`` (solver steps made
    in the episode), ``seed`` (an integer of the episode, below 2^31) and ``env_index`` too. A name that is not there is
    an error.

    The sample has the parameters and actions as inputs and the outputs as targets; the observation is the dictionary of
    outputs, zeros before the first step and after a rejected one. Without actions, states and ``continues`` an episode
    has one step.

    An output with ``initial`` is a state. Its value before the step is an input of the sample, under its name, and
    feeds templates; its value after the step is the target ``next_NAME``, and that input of the next step.

    Every run has a fresh folder, so that no file of an earlier run can be taken for its own; with ``continues`` a copy
    of that of the step before. A subclass may override `write` and `read`.

    Args:
        command: The program and its arguments, which are templates. The program may be a file of the case.
        case: A folder whose files are copied into the working folder of a run; those named ``*.j2`` are templates, and
            lose that ending. Links in it are followed. Relative to the present folder.
        parameters: What differs from episode to episode, by name: ``low`` and ``high``, and if need be ``shape``,
            ``dtype`` ("float64") and ``unit``.
        actions: What a step is given, in the same form.
        outputs: What the program computes, by name: ``read`` (see `physgym.adapters.command_outputs`: "table", "match",
            "json", "npy" with their arguments, or a function of the folder) and ``shape``, ``dtype``, ``unit``. A state
            has ``initial`` too: the name of the parameter with which an episode begins, a number, or a list of them.
        variables: Variables of the program's environment, besides those of this process.
        timeout: Seconds for a run; afterwards the program is ended, with all that it has started.
        statuses: Exit statuses of a run that has worked.
        reject: A pattern; a run in whose output it is found has not converged, and its step has no sample.
        reject_timeout: Whether a run that takes too long is a rejected step, in place of an error.
        continues: Whether a step continues with the files of the step before.
        folder: Where working folders are made; by default that of temporary files.
        keep: Working folders of which runs stay: "failed" (of one that ends in an error), "all" or "none".
        time_step: Seconds that a run simulates, if the problem has a time.
        render_mode: "rgb_array" or None.

    Raises:
        ConfigError: An argument is wrong, the program or a file is not there, or Jinja2 is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - as in gymnasium.Env

    def __init__(
        self,
        *,
        command: Sequence[str],
        outputs: FieldsOf,
        case: str | os.PathLike[str] | None = None,
        parameters: FieldsOf | None = None,
        actions: FieldsOf | None = None,
        variables: Mapping[str, str] | None = None,
        timeout: float = 600.0,
        statuses: Sequence[int] = (0,),
        reject: str = "",
        reject_timeout: bool = False,
        continues: bool = False,
        folder: str | os.PathLike[str] | None = None,
        keep: Literal["failed", "all", "none"] = "failed",
        time_step: float | None = None,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(render_mode=render_mode)
        one_of("keep", keep, ("failed", "all", "none"))
        self._fields = fields = CommandFields(
            parameters or {}, actions or {}, outputs, own_reader=type(self).read is not CommandSimulation.read
        )
        self._runs = ProgramRuns(
            TemplatedProgram(command, case, variables or {}),
            RunRules(positive("timeout", timeout), statuses, reject, reject_timeout),
            RunFolders(folder, keep, continues),
        )
        self._runs.program.refuse_within_case(folder or tempfile.gettempdir())
        self._case = Case()
        self.files_read = self._runs.program.files_read
        self.time_step = None if time_step is None else positive("time_step", time_step)
        self.keeps_state = not continues
        if parameters:
            self.parameter_space = spaces.Dict([*fields.parameters.items()])
            self.parameter_units = {name: fields.units[name] for name in fields.parameters if name in fields.units}  # type: ignore[misc]
        self.action_space = spaces.Dict([*fields.actions.items()]) if actions else spaces.Discrete(1)
        self.observation_space = spaces.Dict([*fields.outputs.items()])
        self.sample_space = fields.sample_space
        self.sample_roles, self.sample_units = fields.roles, fields.units  # type: ignore[misc]
        self.sample_feedback = fields.feedback  # type: ignore[misc]

    # --- what a subclass may do otherwise

    def write(self, folder: Path, values: Mapping[str, Any]) -> None:
        """Write the program's input files; by default those of the case.

        Args:
            folder: The working folder.
            values: Parameters, actions, states, ``step``, ``seed`` and ``env_index`` by name.
        """
        self._runs.program.write(folder, values)

    def read(self, folder: Path) -> Mapping[str, Any]:
        """Return the outputs by name, from the files of a run that has worked.

        Args:
            folder: The working folder; the files ``stdout`` and ``stderr`` are what the program printed.

        Raises:
            SimulatorError: A file lacks what is to be read.
        """
        return {name: reader(folder) for name, reader in self._fields.readers.items()}

    # --- the parts of an episode

    def begin(self, options: dict[str, Any]) -> None:
        """Forget the files and outputs of the episode before; there are no options."""
        self._runs.folders.forget()
        self._case = Case(int(self.np_random.integers(2**31)), states=self._fields.begun(self.parameters))

    def advance(self, action: Any) -> None:
        """Run the program once.

        Args:
            action: Values of `actions` by name; 0 where there are none.

        Raises:
            RejectSample: It did not converge, see ``reject``.
            SimulatorError: It failed, took too long, or did not write what is to be read; its folder stays, and is
                named.
        """
        before = self._case.states or self._fields.begun(self.parameters)
        case = self._case = replace(self._case, action=self._taken(action), outputs=None, before=before, states=before)
        given = {**self.parameters, **case.action, **before}
        values = {name: np.asarray(value).tolist() for name, value in given.items()}
        values.update(step=case.steps, seed=case.seed, env_index=self.env_index)
        case.steps += 1
        with self._runs.folders.fresh() as folder:
            self.write(folder, values)
            if self._runs.folders.continues and case.steps == 1:
                self._check_begin(folder, before)
            written = WrittenFiles(folder, self._fields.files)
            self._runs.run(values, folder)
            written.check()
            case.outputs = self._checked(self.read(folder))
            case.states = {name: case.outputs[name] for name in before}

    def _check_begin(self, folder: Path, states: Mapping[str, Array]) -> None:
        """Raise ConfigError where the files of the first step have another state than ``initial`` says."""
        for name, state in states.items():
            try:
                found = shaped(as_array(self._fields.readers[name](folder)), state.shape)
            except Exception:  # noqa: BLE001 - the first run makes the file, or a subclass reads it
                continue
            largest = float(np.abs(state).max(initial=0.0))
            if not np.allclose(found, state, rtol=SAME, atol=SAME * largest, equal_nan=True):
                raise ConfigError(
                    f"outputs[{name!r}]: initial differs by up to {np.abs(found - state).max():.3g} from the state in "
                    "the files of the case, with which the first step begins. Make both equal, or write the file by a "
                    "template"
                )

    def _taken(self, action: Any) -> dict[str, Array]:
        known, what = self._fields.actions, f"an action of {type(self).__name__}"
        if known and isinstance(action, Mapping) and (more := sorted(action.keys() - known.keys())):
            raise SampleError(f"{what} has {', '.join(more)}, and the actions are {', '.join(known)}")
        return taken(action, known, what)

    def _checked(self, read: Mapping[str, Any]) -> dict[str, Array]:
        """Return outputs with the shapes and dtypes that are declared.

        Raises:
            SimulatorError: One is missing, not declared, of another size or order of axes, or beyond its dtype.
        """
        declared = self._fields.outputs
        if read.keys() != declared.keys():
            raise SimulatorError(f"{type(self).__name__}.read gives {sorted(read)}, and outputs has {sorted(declared)}")
        outputs = {}
        for name, value in read.items():
            space = declared[name]
            try:
                array = shaped(as_array(value), space.shape)
            except CastError as error:
                raise SimulatorError(
                    f"output {name!r} {error} in the files of the run, and is declared with {space.shape}"
                ) from error
            try:
                outputs[name] = held(array, np.dtype(space.dtype))
            except CastError as error:
                raise SimulatorError(f"output {name!r} is declared as {space.dtype}; the value {error}") from error
        return outputs

    def observation(self) -> dict[str, Array]:
        """Return the outputs of the last run, zeros where there is none; and the states now."""
        zeros = {name: np.zeros(space.shape, space.dtype) for name, space in self._fields.outputs.items()}
        now = {**(self._case.outputs or {}), **self._case.states}
        return {**zeros, **{name: value.copy() for name, value in now.items()}}

    def sample(self) -> Mapping[str, Any]:
        """Return the parameters, the action, the states before and the outputs of the last run."""
        case = self._case
        if case.outputs is None:
            raise SimulatorError("there are no outputs before a run has worked")
        outputs = {self._fields.after(name): value for name, value in case.outputs.items()}
        return {**self.parameters, **case.action, **case.before, **outputs}

    def sample_action(self, rng: np.random.Generator) -> Any:
        """Draw an action uniformly within the bounds."""
        drawn = super().sample_action(rng)
        return {name: np.asarray(value) for name, value in drawn.items()} if self._fields.actions else drawn

    def outcome(self) -> tuple[float, bool]:
        """Return 0.0, and whether the episode has computed all that it can."""
        return 0.0, not (self._fields.actions or self._fields.initial or self._runs.folders.continues)

    def inputs(self, action: Any) -> Mapping[str, Any]:
        """Return the parameters, the action and the states."""
        return {**self.parameters, **self._taken(action), **self._case.states}

    def adopt(self, action: Any, prediction: Mapping[str, Array]) -> None:
        """Take a prediction as the outputs.

        Raises:
            ConfigError: With ``continues`` the step after it would need files, which no network writes.
        """
        if self._runs.folders.continues:
            raise ConfigError(
                "with continues=True a step needs the files of the step before, which no network writes. Where the "
                "state is in outputs with `initial`, write it by a template, and leave continues out"
            )
        case = self._case
        outputs = self._checked({name: prediction[self._fields.after(name)] for name in self._fields.outputs})
        states = {name: outputs[name] for name in case.states}
        self._case = Case(case.seed, case.steps + 1, self._taken(action), outputs, case.states, states)

    def load_sample(self, sample: Mapping[str, Array]) -> Any:
        """Take the stored parameters and states, and return the stored action."""
        self.parameters = taken(sample, self._fields.parameters, "the stored sample")
        states = {name: self._fields.outputs[name] for name in self._fields.initial}
        self._case.states = taken(sample, states, "the stored sample")
        return taken(sample, self._fields.actions, "the stored sample") or np.int64(0)

    def state(self) -> Mapping[str, Any]:
        """Return the number of ``steps``, the ``seed``, the last outputs, and the parameters of the episode.

        Raises:
            ConfigError: Steps continue with files, which no state holds.
        """
        if self._runs.folders.continues:
            raise ConfigError("with continues=True the state is in the program's files, which physgym does not keep")
        case = self._case
        outputs = {f"outputs/{name}": value for name, value in self.observation().items()}
        return {"steps": case.steps, "seed": case.seed, **outputs, **self.parameter_state}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take a state."""
        values = self.checked_state(state)
        outputs = {name: values[f"outputs/{name}"] for name in self._fields.outputs}
        states = {name: outputs[name] for name in self._fields.initial}
        self._case = Case(int(values["seed"]), int(values["steps"]), {}, outputs, states=states)
        self.parameter_state, self.shown_prediction = values, {}

    def close(self) -> None:
        """Remove the working folders that are not to stay."""
        self._runs.folders.remove()
        super().close()
