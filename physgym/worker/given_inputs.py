"""`GivenInputs`: what a person changes in an environment, at the beginning of a step, and once more from a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium

from physgym.errors import ConfigError, SceneError
from physgym.placement import Env, EnvFactory
from physgym.returned import info_of, returned
from physgym.scene.declared import declared_inputs
from physgym.scene.inputs import InputValue, SceneInput
from physgym.scene.objects import Scene
from physgym.simulation import NO_INPUTS, Simulation

GIVEN = "physgym/inputs"  # option of a reset: the changes of an episode; key of an info: those that a person made


@dataclass(frozen=True)
class RunInputs:
    """Inputs of the episodes of a run.

    Attributes:
        changes: By episode the changes of a record, in their order: step, name and value of each.
        live: Whether a person may make more.
        made: By episode how many steps were made before, in which a person changes nothing.
    """

    changes: Mapping[int, Sequence[tuple[int, str, InputValue]]] = field(default_factory=dict)
    live: bool = False
    made: Mapping[int, int] = field(default_factory=dict)

    def options(self, episode: int) -> dict[str, Any]:
        """Return what is added to the options of the reset of an episode."""
        changes = [list(change) for change in self.changes.get(episode, ())]
        return {GIVEN: {"changes": changes, "made": self.made.get(episode, 0)}}


class GivenInputs(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that takes the inputs of a person which its scene declares.

    ``options["physgym/inputs"]`` of a reset has the changes of a record, lists of step, name and value, which are made
    again at the beginning of their steps, and how many steps were made before, by a worker that was ended or a run
    that is continued: a person changes nothing in these. What a person changes meanwhile, by `give_input`, comes at
    the beginning of the next step, after those; the info of the step names it by the key "physgym/inputs". A slider
    stays where it is, and a point pulled, in the next episode too, where that is a change of its first step.

    Args:
        env: The environment; it, or a wrapper around it, has ``take_input(name, value)``.
        inputs: The inputs by name; by default those that the scene declares.

    Attributes:
        given_inputs: The inputs by name.
        values: Those that are not at rest.

    Raises:
        ConfigError: Inputs are declared, and nothing takes them.
        SceneError: An input is wrong, or what declares the scene fails.
    """

    def __init__(self, env: Env, inputs: Mapping[str, SceneInput] | None = None) -> None:
        super().__init__(env)
        self.given_inputs = dict(declared_inputs(env) if inputs is None else inputs)
        self._take_input = env.get_wrapper_attr("take_input") if env.has_wrapper_attr("take_input") else None
        if self.given_inputs and getattr(self._take_input, "__func__", None) in (None, Simulation.take_input):
            raise ConfigError(NO_INPUTS.format(env=type(env.unwrapped).__name__))
        self.values: dict[str, InputValue] = {}
        self._waiting: dict[str, InputValue] = {}  # of each input the last one that a person gave
        self._kept: dict[str, InputValue] = {}  # what a person gave, and left so
        self._recorded: dict[int, list[tuple[str, Any]]] = {}  # by step
        self._step = self._made = 0

    def give_input(self, name: str, value: Any) -> bool:
        """Have an input changed at the beginning of the next step; of several values of one the last counts.

        Returns:
            Whether it is one of this environment: what is not is left out.
        """
        try:
            self._waiting[name] = self.given_inputs[name].checked(value)
        except (KeyError, TypeError, ValueError):
            return False
        return True

    def left_inputs(self) -> dict[str, InputValue]:
        """Return what a person has left as it is, and what waits for the next step, which waits no more."""
        found = {**self._kept, **self._waiting}
        self._waiting.clear()
        return found

    def described_inputs(self) -> list[dict[str, Any]]:
        """Return the inputs as JSON data."""
        return [one.to_json() for one in self.given_inputs.values()]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, in which inputs are at rest until the first step."""
        options = dict(options or {})
        given = options.pop(GIVEN, {"changes": (), "made": 0})
        self._recorded, self._step, self._made = {}, 0, given["made"]
        for step, name, value in given["changes"]:
            self._recorded.setdefault(step, []).append((name, value))
        self._waiting, self.values = {**self._kept, **self._waiting}, {}
        result: tuple[Any, dict[str, Any]] = self.env.reset(seed=seed, options=options or None)
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Make a step, after the changes that belong to its beginning.

        Raises:
            ConfigError: The record has a change that is none of this environment.
        """
        for name, value in self._recorded.get(self._step, ()):
            try:
                self._change(name, self.given_inputs[name].checked(value))
            except (KeyError, ValueError) as error:
                text = f"there is no input {name!r}" if isinstance(error, KeyError) else str(error)
                env = type(self.unwrapped).__name__
                raise ConfigError(f"the record of inputs does not fit {env}: {text}") from error
        made = []
        while self._waiting and self._step >= self._made:
            name = next(iter(self._waiting))
            value = self._waiting.pop(name)
            if value is not True:
                self._kept[name] = value
            if value is True or value != self.values.get(name, self.given_inputs[name].rest):
                self._change(name, value)
                made.append([name, value])
        self._step += 1
        result: tuple[Any, Any, bool, bool, dict[str, Any]] = self.env.step(action)
        if not made:
            return result
        observation, reward, terminated, truncated, info = returned("step", result, 5)
        return observation, reward, terminated, truncated, {**info_of(info), GIVEN: made}

    def _change(self, name: str, value: InputValue) -> None:
        assert self._take_input is not None
        self._take_input(name, [*value] if isinstance(value, list) else value)  # a copy: it may change what it gets
        if value is True:
            return
        if value == self.given_inputs[name].rest:
            self.values.pop(name, None)
        else:
            self.values[name] = value

    def update_scene(self, scene: Scene) -> None:
        """Show the values that inputs have."""
        scene.show_inputs(self.values)


def with_inputs(make: EnvFactory) -> Env:
    """Make an environment that takes the inputs of a person which it declares; none where its scene cannot be made.

    Raises:
        ConfigError: As `GivenInputs`.
    """
    env = make()
    try:
        declared = declared_inputs(env)
    except SceneError:  # which ends no run, and is said where a picture is made
        declared = {}
    try:
        return GivenInputs(env, declared)
    except BaseException:
        env.close()
        raise


def inputs_of(described: Sequence[Mapping[str, Any]]) -> dict[str, SceneInput]:
    """Return the inputs that `GivenInputs.described_inputs` has described, by name."""
    found = map(SceneInput.from_json, described)
    return {one.name: one for one in found}


def give_input(env: Env, name: str, value: Any) -> None:
    """Have an input changed at the beginning of the next step, where the environment takes any."""
    if env.has_wrapper_attr("give_input"):
        env.get_wrapper_attr("give_input")(name, value)


def hand_on(before: Env, env: Env) -> None:
    """Give what a person has left in an environment to the one of the next episode, as far as it knows these inputs."""
    if before.has_wrapper_attr("left_inputs"):
        for name, value in before.get_wrapper_attr("left_inputs")().items():
            give_input(env, name, value)
