"""State of a surrogate whose predictions are the next inputs, by the declared feedback."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from physgym import spaces as walk
from physgym.errors import ConfigError, SampleError
from physgym.feedback import Declaration, Feedback
from physgym.placement import Env
from physgym.running.kept_padding import KeptPadding
from physgym.running.space_fitting import cast
from physgym.running.surrogate_network import SurrogateNetwork
from physgym.running.surrogate_state import SurrogateState, lacking_hooks
from physgym.running.transition_outcome import Judge, TransitionOutcome
from physgym.sample import Field, Sample, SampleSpec, declaration, flat_items
from physgym.simulation import Simulation
from physgym.step_fields import step_fields

CLOSE = 1e-4  # of a field's largest value: what an observation may differ from the field that it is


class FedBackState(SurrogateState):
    """The fields that a network feeds itself with, as the state of a simulation that has no hook ``adopt``.

    The observation is made of them. What else feeds the network is what the simulation says of the action
    (``inputs(action)``); it stays where it was reset, so that this may depend on action, parameters and constants.

    Args:
        simulation: Resets, and says the other inputs.
        fields: The fields of its samples.
        feedback: Which output is which input of the next step.
        network: Makes the predictions.
        reward: As in `TransitionOutcome`.
        terminated: As in `TransitionOutcome`.

    Attributes:
        spec: The fields of samples that such steps have: inputs of the network, and what it predicts.

    Raises:
        ConfigError: The network lacks an output that feeds it, the observation is not made of fed-back fields, or the
            simulation does not say the other inputs.
    """

    def __init__(
        self,
        simulation: Env,
        fields: SampleSpec,
        feedback: Feedback,
        network: SurrogateNetwork,
        reward: Judge | None,
        terminated: Judge | None,
    ) -> None:
        self._simulation: Any = simulation
        self._name, self._feedback = type(simulation).__name__, feedback
        outputs = getattr(network.predictor, "outputs", None)
        inputs = fields.names("input") if network.inputs is None else network.inputs
        self._check_fed(fields, inputs, outputs)
        self._declared = fields
        self._observed = self._fields_of(simulation.observation_space)
        self._asks = "inputs" not in lacking_hooks(simulation)
        if not self._asks and (unknown := [name for name in inputs if name not in self._observed]):
            raise ConfigError(
                f"{self._name} does not say {unknown}, which the network is fed and nothing feeds back to it; "
                "implement inputs(action), which gives the fields that the network is fed"
            )
        kept = {*inputs, *(feedback if outputs is None else outputs)}
        kept |= {fields[name].mask for name in kept if name in fields}
        self.spec = SampleSpec([field for field in fields.values() if field.name in kept])
        self.declarations = _declarations(simulation, self.spec)
        self._outcome = TransitionOutcome(reward, terminated)
        if reward is None and "reward" not in (outputs or ()) and _has_outcome(simulation):
            warnings.warn(
                f"the reward of steps that a network makes in {self._name} is 0: its outcome() speaks of the state of "
                "the solver, which makes none. Pass reward= and terminated= to the surrogate, or implement "
                "adopt(action, prediction)",
                UserWarning,
                stacklevel=5,
            )
        self._now: dict[str, Any] = {}  # fed-back inputs by name
        self._given: dict[str, Any] = {}  # what fed the last prediction
        self._sample: dict[str, Any] = {}
        self._padding: dict[str, KeptPadding] = {}
        self._begun = False  # whether a prediction has replaced what the reset gave
        self._result: tuple[float, bool] = 0.0, False

    @property
    def _fields(self) -> dict[str, Field]:
        """Return the fields that the network feeds itself with."""
        return {name: self._declared[name] for name in self._feedback.values()}

    def _check_fed(self, fields: SampleSpec, inputs: Sequence[str], outputs: Sequence[str] | None) -> None:
        """Raise ConfigError where an input is declared to be fed back, and the network does not predict it."""
        every = {**{name: output for output, name in step_fields(fields).feedback.items()}}
        every |= {name: output for output, name in self._feedback.items()}
        fed = [name for name in inputs if name in every]
        lacking = [every[name] for name in fed if name not in self._feedback.values()]
        if outputs is not None:
            lacking += [output for output in self._feedback if output not in outputs]
        if lacking:
            raise ConfigError(
                f"a network in place of {self._name} must predict {lacking}, which it is fed at the next step; it "
                f"predicts {list(self._feedback if outputs is None else outputs)}"
            )

    def _fields_of(self, space: spaces.Space[Any]) -> list[str]:
        """Return the field that each leaf of the observation space is."""
        parts = walk.leaves(space)
        if len(parts) == 1 and not parts[0].path and len(self._fields) == 1:
            names = list(self._fields)
        else:
            names = [part.path for part in parts]
        for name, part in zip(names, parts, strict=True):
            if name not in self._fields or self._fields[name].shape != part.shape:
                shown = {name: field.shape for name, field in self._fields.items()}
                what = f"its part {part.path!r}" if part.path else "it"
                raise ConfigError(
                    f"the observation of {self._name} is not made of the fields that the network feeds back, {shown}: "
                    f"{what} has shape {part.shape}. Name its parts after these fields, or implement "
                    "adopt(action, prediction), which takes the prediction as the state after the step, and "
                    "observation()"
                )
        return names

    def begin(self, observation: Any) -> None:
        """Take the parts of the first observation as the state."""
        parts = walk.flatten(self._simulation.observation_space, observation)
        self._now = {name: copy.deepcopy(part) for name, part in zip(self._observed, parts, strict=True)}
        self._given, self._sample, self._begun = {}, {}, False

    def inputs(self, action: Any) -> Mapping[str, Any]:
        """Return the fed-back fields, and what the simulation says of an action."""
        given = dict(flat_items(self._simulation.inputs(action))) if self._asks else {}
        if not self._begun:
            self._now |= self._first(given)
            self._padding = {name: self._padding_of(field, given) for name, field in self._fields.items()}
        self._given = {**given, **self._now}
        return self._given

    def _first(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fed-back fields as the simulation says them after its reset.

        Raises:
            ConfigError: It does not say one, or its observation is another one.
        """
        found = {name: given[name] for name in self._fields if name in given}
        if lacking := [name for name in self._fields if name not in found and name not in self._observed]:
            raise ConfigError(f"{self._name}: inputs(action) gives {list(given)}, not the fed-back fields {lacking}")
        for name in self._observed:
            if name not in found:
                continue
            said, seen = (np.asarray(value, np.float64) for value in (found[name], self._now[name]))
            if said.shape != seen.shape or not np.allclose(seen, said, 0, CLOSE * np.abs(said).max(initial=0)):
                raise ConfigError(
                    f"the observation of {self._name} is not the field {name!r} that inputs(action) gives after a "
                    "reset, so that a prediction of that field is no observation. Implement adopt(action, prediction) "
                    "and observation()"
                )
        return found

    def _padding_of(self, field: Field, given: Mapping[str, Any]) -> KeptPadding:
        """Return the padding of a fed-back field after a reset, which its predictions get too.

        Raises:
            ConfigError: The simulation does not say its mask.
        """
        if field.mask and field.mask not in given:
            raise ConfigError(
                f"{self._name}: {field.name!r} is padded, and inputs(action) gives {list(given)}, not its mask "
                f"{field.mask!r}: which values of a prediction are there is not known. Return the mask too, or "
                "implement adopt(action, prediction)"
            )
        mask = np.asarray(given[field.mask]) if field.mask else None
        return KeptPadding.of(self._declared, field, np.asarray(self._now[field.name]), mask)

    def adopt(self, action: Any, prediction: Sample) -> None:
        """Take the predicted fields as the state, and find the outcome of the step."""
        before, now = self._observation(), {}
        for output, name in self._feedback.items():
            field, value = self._declared[name], np.asarray(prediction[output])
            if value.shape != field.shape:
                raise SampleError(
                    f"prediction {output} for {self._name} has shape {value.shape}; {name!r} has {field.shape}"
                )
            own = self._padding[name].put_into(value, None)
            now[name] = cast(f"prediction {output} for {self._name}", own, field.dtype)
        self._sample = {name: prediction.get(name, self._given.get(name)) for name in self.spec}
        self._now, self._begun = {name: value.copy() for name, value in now.items()}, True
        self._result = self._outcome.of(prediction, before, action, self._observation())

    def extra(self) -> dict[str, Any]:
        """Return the sample of the step: what fed the network, and what it predicted."""
        missing = [name for name, value in self._sample.items() if value is None]
        if missing:
            raise ConfigError(f"{self._name}: inputs(action) gives {list(self._given)}; return {missing} too")
        return {"sample": self.spec.check(self._sample, self._name)}

    def _observation(self) -> Any:
        parts = iter([np.copy(self._now[name]) for name in self._observed])
        return walk.unflatten(self._simulation.observation_space, parts)

    def seen(self, *, rejected: bool) -> tuple[Any, float, bool, dict[str, Any]]:
        """Return the fed-back fields as the observation, and the outcome."""
        reward, ended = (0.0, False) if rejected else self._result
        return self._observation(), reward, ended, {}


def feedback_for(fields: SampleSpec, network: SurrogateNetwork, given: Declaration | None) -> Feedback:
    """Return which outputs of a network are which of its inputs at the next step.

    Args:
        fields: The fields of the simulation's samples, with their own declaration.
        network: The network, which may have learned with another one.
        given: A declaration that goes before both.

    Raises:
        SampleError: What is given does not fit the fields.
    """
    if isinstance(given, Feedback):
        return given
    if given is not None:
        return step_fields(fields.with_feedback(given)).feedback
    return getattr(network.predictor, "feedback", None) or step_fields(fields).feedback


def _declarations(simulation: Env, spec: SampleSpec) -> dict[str, Any]:
    """Return what declares some fields of a simulation's samples, by the name of the environment's attribute."""
    every, fields = walk.leaf_spaces(declaration(simulation, "sample_space")), list(spec.values())
    return {
        "sample_space": spaces.Dict([(field.name, every[field.name]) for field in fields]),
        "sample_roles": {field.name: field.role for field in fields},
        "sample_units": {field.name: field.unit for field in fields},
        "sample_dimensions": {field.name: field.dimensions for field in fields if field.dimensions is not None},
        "sample_kinds": {field.name: field.kind for field in fields},
        "sample_masks": {field.name: field.mask for field in fields if field.mask in spec},
        "sample_feedback": {field.name: field.feeds for field in fields if field.feeds in spec},
    }


def _has_outcome(simulation: Any) -> bool:
    method = getattr(simulation, "outcome", None)
    return method is not None and getattr(method, "__func__", None) is not Simulation.outcome
