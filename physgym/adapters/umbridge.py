"""`UmBridgeSimulation`: a model behind UM-Bridge's protocol as a simulation with samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from physgym.adapters.umbridge_client import OURS, ModelFailure, UmBridgeModel
from physgym.checks import flag, integers
from physgym.errors import ConfigError, RejectSample, SampleError
from physgym.simulation import Simulation
from physgym.spaces import Array

JACOBIAN = "jacobian"  # group of the fields of Jacobians
KEYS = {"low", "high", "shape", "unit"}


class UmBridgeSimulation(Simulation[Any, Any]):
    """A UM-Bridge model as an environment: each step evaluates it at the action, or at the episode's parameters.

    The *action* is the input vectors that are not among `parameters`, one after the other; the *observation* is the
    output vectors, one after the other, zeros before the first step. A model that has no other inputs takes the action
    0, which says nothing.

    Sample: the inputs and the outputs (targets) by name, each of the shape that is declared for it; with `jacobian`
    also ``jacobian/OUTPUT/INPUT``, shape (output size, input size).

    A step at which the model fails is rejected with what the server says. All values are float64, and UM-Bridge knows
    no units: what is declared here is for people.

    Args:
        url: Of the server, such as "http://127.0.0.1:4242".
        model: Its name; by default the only one that the server has.
        inputs: Names of the input vectors in the order of the model, each with ``low`` and ``high`` (numbers, or lists
            of the vector's length), and if need be ``unit`` and ``shape``, or with ``[low, high]`` alone.
        outputs: Names of the output vectors in that order, or each with ``unit`` and ``shape``; by default ``output_0``
            and so on.
        parameters: Which of the inputs are drawn as parameters of an episode, and are no part of the action.
        config: What the model gets with each request.
        jacobian: Whether a sample has the Jacobians.
        timeout: Seconds for an answer.
        render_mode: "rgb_array" or None.

    Attributes:
        model: The model.

    Raises:
        ConfigError: An argument is wrong, or does not fit the model.
        SimulatorError: The server does not answer, or speaks something else.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - Env declares it so
    _inputs: dict[str, Array]
    _outputs: dict[str, Any]

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | Sequence[str] | None = None,
        parameters: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        jacobian: bool = False,
        timeout: float = 600.0,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(render_mode=render_mode)
        self.model = UmBridgeModel(url, model, config=config, timeout=timeout)
        try:
            self._plan = _Vectors(self.model, inputs, outputs, parameters, jacobian=flag("jacobian", jacobian))
        except BaseException:
            self.model.close()
            raise
        vars(self).update(self._plan.declarations())

    def begin(self, options: dict[str, Any]) -> None:
        """Forget what was computed.

        Raises:
            ConfigError: There are options.
        """
        if options:
            raise ConfigError(f"a UM-Bridge model takes no options of a reset but 'parameters', not {sorted(options)}")
        self._inputs = {}
        self._outputs = {name: np.zeros(shape) for name, shape in self._plan.outputs.items()}

    def advance(self, action: Any) -> None:
        """Evaluate the model.

        Raises:
            RejectSample: The model failed.
            SimulatorError: The server does not answer, or refuses the request itself.
        """
        given = self.inputs(action)
        vectors = [np.ravel(given[name]) for name in self._plan.inputs]
        if not all(np.isfinite(vector).all() for vector in vectors):
            raise RejectSample(f"inputs are not finite, which JSON cannot say: {vectors}")
        try:
            found = self.model.evaluate(vectors)
            jacobians = self._jacobians(vectors) if self._plan.jacobian else {}
        except ModelFailure as failure:
            if failure.kind in OURS:
                raise
            raise RejectSample(str(failure)) from failure
        shaped = zip(self._plan.outputs.items(), found, strict=True)
        self._inputs = dict(given)
        self._outputs = {name: vector.reshape(shape) for (name, shape), vector in shaped} | jacobians

    def _jacobians(self, vectors: Sequence[Array]) -> dict[str, Any]:
        return {
            JACOBIAN: {
                output: {given: self.model.jacobian(i, k, vectors) for k, given in enumerate(self._plan.inputs)}
                for i, output in enumerate(self._plan.outputs)
            }
        }

    def observation(self) -> Array:
        """Return the output vectors, one after the other."""
        return np.concatenate([self._outputs[name].ravel() for name in self._plan.outputs])

    def sample(self) -> Mapping[str, Any]:
        """Return the inputs and the outputs by name."""
        return {**self._inputs, **self._outputs}

    def inputs(self, action: Any) -> Mapping[str, Any]:
        """Return the inputs by name: those of the action, and the parameters."""
        return self._plan.split(action) | {name: np.asarray(self.parameters[name]) for name in self._plan.drawn}

    def adopt(self, action: Any, prediction: Mapping[str, Array]) -> None:
        """Take predicted outputs in place of the model's."""
        self._inputs = dict(self.inputs(action))
        self._outputs = {name: np.asarray(prediction[name], np.float64) for name in self._plan.outputs}

    def state(self) -> Mapping[str, Any]:
        """Return the outputs, which are all that is seen of the past, and the parameters."""
        return {**{name: self._outputs[name].copy() for name in self._plan.outputs}, **self.parameter_state}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take a state."""
        values = self.checked_state(state)
        self.parameter_state = values
        self._inputs, self._outputs = {}, {name: values[name] for name in self._plan.outputs}

    def close(self) -> None:
        """Close the connection to the server."""
        self.model.close()


class _Vectors:
    """The vectors of a model by name, and what a simulation of it declares.

    Args:
        model: The model.
        inputs: As `UmBridgeSimulation` takes them.
        outputs: As it takes them.
        drawn: Names of the inputs that are parameters.
        jacobian: Whether samples have Jacobians.
    """

    def __init__(
        self,
        model: UmBridgeModel,
        inputs: Mapping[str, Any] | None,
        outputs: Mapping[str, Any] | Sequence[str] | None,
        drawn: Sequence[str],
        *,
        jacobian: bool,
    ) -> None:
        self.jacobian = jacobian
        self._units: dict[str, str] = {}
        self._boxes: dict[str, spaces.Box[Any]] = {}
        if not isinstance(inputs, Mapping) or len(inputs) != len(model.input_sizes):
            raise ConfigError(
                f"inputs: model {model.name!r} has input vectors of lengths {list(model.input_sizes)}, for which the "
                "protocol has no names and no bounds; give both, in that order, as in "
                + "{"
                + ", ".join(f"input_{place}: [0, 1]" for place in range(len(model.input_sizes)))
                + "}"
            )
        if outputs is None:
            outputs = [f"output_{place}" for place in range(len(model.output_sizes))]
        if isinstance(outputs, str) or len(outputs) != len(model.output_sizes) or len({*outputs}) != len(outputs):
            raise ConfigError(
                f"outputs: model {model.name!r} has output vectors of lengths {list(model.output_sizes)}; give each of "
                f"them a name of its own, in that order, not {outputs!r}"
            )
        if not any(model.output_sizes):
            raise ConfigError(f"model {model.name!r} has no outputs")
        if both := sorted({*inputs} & {*outputs}):
            raise ConfigError(f"{both} names inputs and outputs")
        if jacobian and not {"Gradient", "ApplyJacobian"} & {*model.supports}:
            raise ConfigError(f"jacobian: model {model.name!r} supports neither Gradient nor ApplyJacobian")
        given = outputs if isinstance(outputs, Mapping) else dict.fromkeys(outputs)
        self.inputs = {
            name: self._declared("inputs", name, said, size)
            for (name, said), size in zip(inputs.items(), model.input_sizes, strict=True)
        }
        self.outputs = {
            name: self._declared("outputs", name, said, size)
            for (name, said), size in zip(given.items(), model.output_sizes, strict=True)
        }
        self.drawn = [drawn] if isinstance(drawn, str) else list(drawn)
        if unknown := [name for name in self.drawn if name not in inputs]:
            raise ConfigError(f"parameters names {unknown}, which are none of the inputs {list(inputs)}")
        self._acting = [name for name in self.inputs if name not in self.drawn]

    def _declared(self, argument: str, name: Any, said: Any, size: int) -> tuple[int, ...]:
        """Note the unit and the bounds of a vector; return its shape."""
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{argument}: a name is a text, not {name!r}")
        if argument == "inputs" and not isinstance(said, Mapping):
            try:
                low, high = said
            except (TypeError, ValueError) as error:
                raise ConfigError(f"inputs: {name!r} needs its bounds, [low, high], not {said!r}") from error
            said = {"low": low, "high": high}
        said = said or {}
        if not isinstance(said, Mapping) or (unknown := sorted(set(said) - KEYS)):
            raise ConfigError(f"{argument}: {name!r} takes {sorted(KEYS)}, not {unknown if said else said!r}")
        sides = integers(f"{argument}: shape of {name!r}", said.get("shape", size), 0)
        shape = tuple(sides) if isinstance(sides, list) else (sides,)
        if np.prod(shape, dtype=int) != size:
            raise ConfigError(f"{argument}: {name!r} has {size} values, which are not of shape {shape}")
        if said.get("unit"):
            self._units[name] = str(said["unit"])
        if argument == "outputs":
            if {"low", "high"} & {*said}:
                raise ConfigError(f"outputs: {name!r} takes shape and unit, and no bounds")
            return shape
        try:
            low, high = (
                np.broadcast_to(np.asarray(said[end], np.float64).reshape(-1), size) for end in ("low", "high")
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"inputs: {name!r} has {size} values; low and high are a number or as many, not {said!r}"
            ) from error
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
            raise ConfigError(f"inputs: bounds of {name!r} are finite numbers, the lower one first, not {said!r}")
        self._boxes[name] = spaces.Box(low.reshape(shape), high.reshape(shape), shape, dtype=np.float64)
        return shape

    def split(self, action: Any) -> dict[str, Array]:
        """Return the inputs of an action by name, float64.

        Raises:
            SampleError: It has another shape.
        """
        if not self._acting:
            return {}
        flat, found, begin = np.asarray(action, np.float64), {}, 0
        count = sum(int(np.prod(self.inputs[name], dtype=int)) for name in self._acting)
        if flat.shape != (count,):
            raise SampleError(f"an action has {count} values in a row ({', '.join(self._acting)}), not {flat.shape}")
        for name in self._acting:
            end = begin + int(np.prod(self.inputs[name], dtype=int))
            found[name] = flat[begin:end].reshape(self.inputs[name])
            begin = end
        return found

    def declarations(self) -> dict[str, Any]:
        """Return what a simulation with these vectors declares, by name."""
        free = {
            name: spaces.Box(-np.inf, np.inf, shape, np.float64) for name, shape in (self.inputs | self.outputs).items()
        }
        roles = dict.fromkeys(self.inputs, "input") | dict.fromkeys(self.outputs, "target")
        fields: list[tuple[str, Any]] = [*free.items()]
        sizes = {name: int(np.prod(shape, dtype=int)) for name, shape in (self.inputs | self.outputs).items()}
        if self.jacobian:
            each = {
                output: spaces.Dict(
                    [(n, spaces.Box(-np.inf, np.inf, (sizes[output], sizes[n]), np.float64)) for n in self.inputs]
                )
                for output in self.outputs
            }
            fields.append((JACOBIAN, spaces.Dict(list(each.items()))))
        action: spaces.Space[Any] = spaces.Discrete(1)
        if self._acting:
            acting = [self._boxes[name] for name in self._acting]
            low, high = (np.concatenate([np.ravel(getattr(box, end)) for box in acting]) for end in ("low", "high"))
            action = spaces.Box(low, high, dtype=np.float64)
        count = sum(sizes[name] for name in self.outputs)
        found = {
            "action_space": action,
            "observation_space": spaces.Box(-np.inf, np.inf, (count,), np.float64),
            "sample_space": spaces.Dict(fields),
            "sample_roles": roles,
            "sample_units": self._units,
        }
        if self.drawn:
            found["parameter_space"] = spaces.Dict([(name, self._boxes[name]) for name in self.drawn])
            found["parameter_units"] = {name: self._units[name] for name in self.drawn if name in self._units}
        return found
