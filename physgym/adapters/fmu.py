"""`FmuSimulation`: a functional mock-up unit (FMI 2 or 3, co-simulation) as a simulation with samples, by FMPy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from physgym.adapters.fmu_description import FmuDescription, FmuVariable, flat_values, read_description
from physgym.adapters.fmu_instance import FATAL, FmuFailure, FmuInstance, FmuValues
from physgym.adapters.fmu_values import (
    Chosen,
    Elements,
    bounds_of,
    check_input,
    check_once,
    check_settable,
    check_units,
    chosen,
    space_of,
)
from physgym.checks import finite, flag, mapping, positive
from physgym.errors import ConfigError, RejectSample, SimulatorError
from physgym.simulation import Simulation
from physgym.single import COSTLY_START, PROCESS, SINGLE
from physgym.spaces import Array

WHOLE = 1e-6  # by which a step may differ from a multiple of the FMU's own one
ADOPTED = (
    "a network has made steps in place of {fmu}, which cannot take their outputs as its state; reset the environment "
    "before the FMU continues"
)
IN, PARAMETERS, BEFORE, AFTER = "inputs", "parameters", "outputs", "next_outputs"  # groups of the fields of a sample


class FmuSimulation(Simulation[Any, Any]):
    """A functional mock-up unit for co-simulation as an environment; needs ``physgym[fmu]``.

    An FMU is native code, which runs in the process of the environment: name those alone that you trust.

    The *action* is the values of `inputs`, the *observation* those of `outputs` after the step: floating-point numbers
    as one vector in the order of the names, anything else as a dictionary by name. `parameters` are drawn for each
    episode. Values are in the units of the model description (not its display units), with the dtypes of its types.

    Sample: ``inputs/NAME`` during the step, ``parameters/NAME``, ``outputs/NAME`` before it (inputs), and
    ``next_outputs/NAME`` after it (targets).

    A step that the FMU discards, or cannot make, is rejected with what the FMU says, and ends the episode. What fails
    otherwise, or fatally, is a `SimulatorError`.

    Args:
        path: File of the FMU.
        inputs: Variables that act, by name: inputs or tunable parameters; with bounds (``{"force": [-5, 5]}``) where
            the model description has none. By default all inputs.
        outputs: Variables that are observed. By default all outputs.
        parameters: Variables that differ from episode to episode: parameters or initial values, with their bounds in
            the same way. By default none.
        start: Values of other variables at the beginning, by name; of an enumeration also the name of an item.
        units: Units that variables are taken to have, by name; another one in the model description is an error.
        time_step: Length of a step in s; by default that of the model description.
        start_time: Time in s at which episodes begin; by default that of the model description.
        tolerance: Relative tolerance of the FMU's solver; by default that of the model description.
        renew: Whether each episode has a new instance, for FMUs whose reset leaves something of the last episode.
        log: Whether the FMU logs all that it does; the last messages are part of errors.
        validate: Whether the model description has to fulfil the standard.
        simulations_per_step: Steps of the FMU per environment step.
        render_mode: "rgb_array" or None.

    Attributes:
        about: What the FMU says about itself.

    Raises:
        ConfigError: An argument is wrong, or the FMU cannot be used: it is for another platform or without
            co-simulation, its library cannot be loaded.
        SharedProcess: The FMU can be instantiated only once per process, and is there already.
        SimulatorError: The FMU cannot be instantiated.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - Env declares it so

    def __init__(
        self,
        path: str | Path,
        *,
        inputs: Chosen = None,
        outputs: Sequence[str] | str | None = None,
        parameters: Chosen = (),
        start: Mapping[str, Any] | None = None,
        units: Mapping[str, str] | None = None,
        time_step: float | None = None,
        start_time: float | None = None,
        tolerance: float | None = None,
        renew: bool = False,
        log: bool = False,
        validate: bool = True,
        simulations_per_step: int = 1,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(simulations_per_step=simulations_per_step, render_mode=render_mode)
        self.about = about = read_description(path, validate=flag("validate", validate))
        values = mapping("start", start, "{gain: 2}")
        self._plan = _Plan(about, inputs, outputs, parameters or (), values, renew=flag("renew", renew))
        check_units(about, mapping("units", units, "{x: m}"))
        self._clock = _Clock(about, time_step, start_time, tolerance)
        vars(self).update(self._plan.declarations(about), time_step=self._clock.step, files_read=[str(about.path)])
        self._values: dict[str, dict[str, Array]] = {}  # of the groups of a sample
        self._instance = FmuInstance(about, log=flag("log", log))
        self._inputs = FmuValues(self._instance, self._plan.inputs)
        self._outputs = FmuValues(self._instance, self._plan.outputs)

    def begin(self, options: dict[str, Any]) -> None:
        """Bring the FMU to the beginning of an episode.

        Raises:
            ConfigError: There are options.
            SimulatorError: The FMU cannot be initialized.
        """
        if options:
            raise ConfigError(f"an FMU takes no options of a reset but 'parameters', not {sorted(options)}")
        plan, clock = self._plan, self._clock
        drawn = {v.name: np.asarray(self.parameters[v.name], v.dtype) for v in plan.parameters}
        starts = [*plan.starts, *((variable, drawn[variable.name]) for variable in plan.parameters)]
        self._instance.begin(starts, clock.start, clock.tolerance, renew=plan.renew)
        clock.restart()
        outputs = self._outputs.read()
        acting = self._inputs.read()
        self._values = {IN: acting, PARAMETERS: drawn, BEFORE: outputs, AFTER: outputs}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Make a step under constant inputs; see `Simulation.step`."""
        self._values = {**self._values, BEFORE: self._values[AFTER]}
        return super().step(action)

    def advance(self, action: Any) -> None:
        """Set the inputs, and make a step of the FMU.

        Raises:
            RejectSample: The FMU has discarded the step or failed in it, or has ended the episode before.
            SimulatorError: It does not take the inputs, or has failed fatally.
        """
        clock = self._clock
        if clock.adopted:
            raise SimulatorError(ADOPTED.format(fmu=self.about.path.name))
        if clock.ended:
            raise RejectSample(f"{self.about.path.name} has ended this episode at {clock.time} s; reset it")
        values = self._plan.actions.unpack(action)
        self._inputs.write(values)
        self._values = {**self._values, IN: values}
        try:
            made = self._instance.step(clock.time, clock.step)
        except FmuFailure as failure:
            clock.ended = True
            if failure.status == FATAL:
                raise
            raise RejectSample(str(failure)) from failure
        clock.count += 1
        clock.ended = made.terminated
        self._values = {**self._values, AFTER: self._outputs.read()}

    def observation(self) -> Any:
        """Return the values of the outputs."""
        return self._plan.observations.pack(self._values[AFTER])

    def sample(self) -> Mapping[str, Any]:
        """Return inputs and parameters, and the outputs before and after the step."""
        return {group: values for group, values in self._values.items() if values}

    def outcome(self) -> tuple[float, bool]:
        """Return a reward of 0, and whether the FMU has ended the episode."""
        return 0.0, self._clock.ended

    def info(self) -> dict[str, Any]:
        """Return the ``time`` of the FMU in s, from the beginning of the episode."""
        return {"time": self._clock.count * self._clock.step}

    def inputs(self, action: Any) -> Mapping[str, Any]:
        """Return the inputs of a step, the parameters, and the outputs now."""
        fed = {IN: self._plan.actions.unpack(action), PARAMETERS: self._values[PARAMETERS], BEFORE: self._values[AFTER]}
        return {group: values for group, values in fed.items() if values}

    def adopt(self, action: Any, prediction: Mapping[str, Array]) -> None:
        """Show predicted outputs in place of the FMU's, which stays where it is: it makes no step more before a reset.

        An FMU takes no outputs as its state.
        """
        after = {v.name: np.array(prediction[f"{AFTER}/{v.name}"], v.dtype) for v in self._plan.outputs}
        acting = self._plan.actions.unpack(action)
        self._values = {**self._values, IN: acting, BEFORE: self._values[AFTER], AFTER: after}
        self._clock.count += self.simulations_per_step
        self._clock.adopted = True

    def state(self) -> Mapping[str, Any]:
        """Return the state of the FMU as bytes, its outputs, the steps that were made, and the parameters.

        Raises:
            ConfigError: The FMU cannot give its state.
            SimulatorError: It fails to, or a network has made the last step.
        """
        if self._clock.adopted:
            raise SimulatorError(ADOPTED.format(fmu=self.about.path.name))
        if not self.about.keeps_state:
            raise ConfigError(
                f"{self.about.path.name} cannot give its state as bytes (canGetAndSetFMUState, canSerializeFMUState), "
                "and so can be neither kept nor restored"
            )
        shown = {f"{BEFORE}/{name}": value for name, value in self._values[AFTER].items()}
        acting = {f"{IN}/{name}": value for name, value in self._values[IN].items()}
        ended = {"step": self._clock.count, "ended": self._clock.ended, "time_step": self._clock.step}
        # after the end there are no steps to come, and an FMU that has failed gives nothing
        kept = np.frombuffer(b"" if self._clock.ended else self._instance.snapshot(), np.uint8)
        return {"fmu": kept, "token": self.about.token, **ended, **shown, **acting, **self.parameter_state}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take a state; the outputs are then those that it has.

        Raises:
            ConfigError: It is none of this FMU, or the FMU does not show the outputs that it had.
            SimulatorError: The FMU does not take it.
        """
        if not self._values:
            raise ConfigError(f"{type(self).__name__}: reset the environment before its state is set")
        self._clock.adopted = False
        kept = np.asarray(state.get("fmu", ()))
        if kept.dtype != np.uint8 or kept.ndim != 1:
            raise ConfigError(f"{type(self).__name__}: 'fmu' of a state is bytes, not {kept.dtype} {kept.shape}")
        values = self.checked_state({**state, "fmu": self.state()["fmu"]})  # whose size may differ
        name = self.about.path.name
        if str(values["token"]) != self.about.token:
            raise ConfigError(f"the state is one of another FMU, or another version of {name}")
        plan, clock = self._plan, self._clock
        outputs = {variable.name: values[f"{BEFORE}/{variable.name}"] for variable in plan.outputs}
        if not values["ended"]:
            self._instance.restore(kept.tobytes())
            self._compare(outputs, self._outputs.read())
        self.parameter_state = values
        clock.count, clock.ended = int(values["step"]), bool(values["ended"])
        drawn = {v.name: np.asarray(self.parameters[v.name], v.dtype) for v in plan.parameters}
        acting = {variable.name: values[f"{IN}/{variable.name}"] for variable in plan.inputs}
        self._values = {IN: acting, PARAMETERS: drawn, BEFORE: outputs, AFTER: outputs}

    def _compare(self, before: Mapping[str, Array], after: Mapping[str, Array]) -> None:
        """Raise ConfigError where outputs after a restored state are not those that it had."""
        for name, value in before.items():
            if not np.array_equal(value, after[name], equal_nan=value.dtype.kind == "f"):
                raise ConfigError(
                    f"{self.about.path.name} does not show after a restored state what it showed before: {name!r} is "
                    f"{after[name]}, and was {value}. Its snapshots do not hold all of its state"
                )

    def close(self) -> None:
        """Free the FMU and remove what was unpacked."""
        self._instance.close()


class _Clock:
    """Time of an FMU in s: that of the beginning, and so many steps later.

    Args:
        about: The FMU.
        step: Length of a step; None for that of the description.
        start: Time of the beginning; None for that of the description.
        tolerance: Of the solver; None for that of the description.

    Raises:
        ConfigError: There is no step, or it does not fit the FMU's own.
    """

    def __init__(self, about: FmuDescription, step: float | None, start: float | None, tolerance: float | None) -> None:
        step = about.step_size or about.internal_step if step is None else step
        if step is None:
            raise ConfigError(f"{about.path.name} proposes no step; give time_step, in s")
        self.step = float(positive("time_step", step))
        own = about.internal_step
        ratio = self.step / own if own else 1.0
        if ratio < 1 - WHOLE or not math.isclose(ratio, round(ratio), rel_tol=WHOLE):
            raise ConfigError(f"time_step={self.step} is no multiple of the own step of {about.path.name}, {own} s")
        self.start = about.start_time if start is None else finite("start_time", start)
        self.tolerance = about.tolerance if tolerance is None else float(positive("tolerance", tolerance))
        self.restart()

    def restart(self) -> None:
        """Go to the beginning of an episode."""
        self.count, self.ended, self.adopted = 0, False, False

    @property
    def time(self) -> float:
        """Return the time now."""
        return self.start + self.count * self.step


class _Plan:
    """The variables of an FMU that act, are drawn, are observed or are set, and the spaces that follow.

    Args:
        about: The FMU.
        inputs: As `FmuSimulation` takes them.
        outputs: As it takes them.
        parameters: As it takes them.
        start: Values by name.
        renew: Whether each episode has a new instance.
    """

    def __init__(
        self,
        about: FmuDescription,
        inputs: Chosen,
        outputs: Chosen,
        parameters: Chosen,
        start: Mapping[str, Any],
        *,
        renew: bool,
    ) -> None:
        self.renew = renew
        acting = chosen(about, inputs, "input", IN)
        drawn = chosen(about, parameters, "", PARAMETERS)
        self.inputs, self.parameters = list(acting), list(drawn)
        self.outputs = list(chosen(about, outputs, "output", BEFORE))
        if not self.outputs:
            raise ConfigError(f"{about.path.name} has no outputs that a sample could hold; name some with `outputs`")
        for variable in self.inputs:
            check_input(variable)
        for variable in self.parameters:
            check_settable(variable, PARAMETERS)
        self.starts = [self._start(about, name, value) for name, value in start.items()]
        check_once([*self.parameters, *(v for v, _ in self.starts)])
        check_once([*self.parameters, *self.inputs])
        self.bounds = {v: bounds_of(v, given, PARAMETERS) for v, given in drawn.items()}
        acting = {v: bounds_of(v, given, IN) for v, given in acting.items()}
        self.actions = Elements(acting)
        self.observations = Elements(dict.fromkeys(self.outputs))

    @staticmethod
    def _start(about: FmuDescription, name: str, value: Any) -> tuple[FmuVariable, Any]:
        variable = about.find(name, "start")
        check_settable(variable, "start")
        if variable.kind == "String":
            if not isinstance(value, str):
                raise ConfigError(f"start: {name!r} takes a text, not {value!r}")
            return variable, value
        if variable.dtype is None:
            raise ConfigError(f"start: {name!r} is of type {variable.kind}, which cannot be set")
        return variable, flat_values(variable, value, "start")

    def declarations(self, about: FmuDescription) -> dict[str, Any]:
        """Return what a simulation with these variables declares, by name."""
        drawn = {v.name: space_of(v, bounds) for v, bounds in self.bounds.items()}
        groups = {IN: self.inputs, PARAMETERS: self.parameters, BEFORE: self.outputs, AFTER: self.outputs}
        fields = {f"{group}/{v.name}": v for group, members in groups.items() for v in members}
        said = ({SINGLE: PROCESS} if about.once else {}) | ({COSTLY_START: True} if about.needs_tool else {})
        return {
            "metadata": FmuSimulation.metadata | said,
            "action_space": self.actions.space,
            "observation_space": self.observations.space,
            "sample_space": spaces.Dict(
                [
                    (group, spaces.Dict([(v.name, space_of(v)) for v in members]))
                    for group, members in groups.items()
                    if members
                ]
            ),
            "sample_roles": {name: "target" if name.startswith(f"{AFTER}/") else "input" for name in fields},
            "sample_units": {name: v.unit for name, v in fields.items() if v.unit},
            "sample_kinds": {name: "flag" for name, v in fields.items() if v.kind == "Boolean"},
            "sample_feedback": {f"{AFTER}/{v.name}": f"{BEFORE}/{v.name}" for v in self.outputs},
            "keeps_state": about.keeps_state,
            **({"parameter_space": spaces.Dict(list(drawn.items()))} if drawn else {}),
            "parameter_units": {v.name: v.unit for v in self.parameters if v.unit},
        }
