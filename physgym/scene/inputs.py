"""Inputs of a person to a simulation: sliders, buttons and points to pull, declared in its scene as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NoReturn, TypeAlias

import numpy as np

from physgym.errors import SceneError
from physgym.scene.values import AbsentValue, Values, literal
from physgym.spaces import Array

InputKind = Literal["slider", "button", "pull"]
InputValue: TypeAlias = float | bool | list[float]
INPUT_KINDS: tuple[InputKind, ...] = ("slider", "button", "pull")
RECORD = "inputs.jsonl"  # file next to the samples of a run, with what a person changed
MOST = 64  # inputs of a simulation
LONGEST = 100  # signs of a name
ROUNDING = 1e-9  # by which a pull may be longer than its reach, of it


@dataclass(frozen=True)
class SceneInput:
    """An input of a person.

    Attributes:
        name: Its name in the scene.
        kind: "slider", a number; "button", True when it is pressed; "pull", the vector from a point to where it is
            pulled.
        low: Lowest value of a slider.
        high: Highest value of a slider; longest vector of a pull.
        default: Value of a slider in which episodes begin. That of a pull is no vector at all.
        unit: Of the value.
        label: Text for people.
        keys: Keys of a window, as X11 names them: those of the lowest and the highest value of a slider, that of a
            button.
        springs: Whether a slider goes back to its default when its key is let go.
    """

    name: str
    kind: InputKind
    low: float = 0.0
    high: float = 0.0
    default: float = 0.0
    unit: str = ""
    label: str = ""
    keys: tuple[str, ...] = ()
    springs: bool = False

    @property
    def rest(self) -> InputValue:
        """Return the value with which an episode begins."""
        if self.kind == "slider":
            return self.default
        return False if self.kind == "button" else [0.0, 0.0, 0.0]

    @property
    def farthest(self) -> InputValue:
        """Return a value that is far from that at rest."""
        if self.kind == "slider":
            return self.high if self.high != self.default else self.low
        return True if self.kind == "button" else [self.high, 0.0, 0.0]

    def checked(self, value: Any) -> InputValue:
        """Return a value as plain data, where it is one of this input.

        Raises:
            ValueError: It is not.
        """
        if self.kind == "button":
            if value is not True:
                raise ValueError(f"the button {self.name!r} is pressed (true), not {_short(value)}")
            return True
        if self.kind == "slider":
            (number,) = real_numbers([value]) or (math.nan,)
            if not self.low <= number <= self.high:
                raise ValueError(
                    f"the slider {self.name!r} goes from {self.low:g} to {self.high:g}, and is not {_short(value)}"
                )
            return number
        vector = real_numbers(value)
        if vector is None or len(vector) != 3 or np.linalg.norm(vector) > self.high * (1 + ROUNDING):
            raise ValueError(
                f"the point {self.name!r} is pulled by three numbers, at most {self.high:g} far, not by {_short(value)}"
            )
        return vector

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {**asdict(self), "keys": list(self.keys)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SceneInput:
        """Return the input that `to_json` described.

        Raises:
            KeyError: It is none.
            TypeError: As well.
        """
        return cls(**{**data, "keys": tuple(data["keys"])})


class InputHandle:
    """An input of a scene.

    Attributes:
        name: Its name in the scene.
    """

    def __init__(self, scene: SceneInputs, name: str) -> None:
        self._scene = scene
        self.name = name

    @property
    def value(self) -> InputValue:
        """Return the value that the scene shows: the one of the last step."""
        return self._scene._value(self.name)

    def move(self, point: Any) -> None:
        """Move a point that is pulled, where the simulation's code moves it.

        Raises:
            SceneError: It is no such point, or not two or three finite numbers.
        """
        self._scene._move(self.name, point)


class SceneInputs:
    """The inputs of a scene; `physgym.scene.objects.Scene` has them.

    Args:
        owner: Name of the environment, for errors.

    Attributes:
        owner: That name.
    """

    def __init__(self, owner: str = "") -> None:
        self.owner = owner
        self._inputs: dict[str, SceneInput] = {}
        self._points: dict[str, Values] = {}  # that can be pulled
        self._given: dict[str, InputValue] = {}  # values that are not those at rest

    def slider(
        self,
        name: str,
        low: float,
        high: float,
        *,
        default: float | None = None,
        unit: str = "",
        label: str = "",
        keys: Sequence[str] = (),
        springs: bool = False,
    ) -> InputHandle:
        """Declare a slider, by which a person changes a number in a run, see `physgym.Simulation.take_input`.

        Args:
            name: Its name.
            low: Its lowest value.
            high: Its highest value.
            default: Its value when an episode begins: by default 0, or the end that is nearest to it.
            unit: Of the value.
            label: Text for people; the name by default.
            keys: Keys of a window for the lowest and the highest value, such as ``("Left", "Right")``.
            springs: Whether it goes back to the default when such a key is let go.

        Raises:
            SceneError: An argument is wrong, or the name is taken; so in all methods that declare inputs.
        """
        ends = real_numbers([low, high])
        if ends is None or not ends[0] < ends[1]:
            self._refuse(name, f"a slider goes from a finite number to a greater one, not from {low!r} to {high!r}")
        start = real_numbers([min(max(0.0, ends[0]), ends[1]) if default is None else default])
        if start is None or not ends[0] <= start[0] <= ends[1]:
            self._refuse(name, f"the default {default!r} is not within {ends[0]:g} and {ends[1]:g}")
        if len(keys) not in (0, 2):
            self._refuse(name, f"keys of a slider are those of its lowest and its highest value, not {keys!r}")
        given = SceneInput(name, "slider", ends[0], ends[1], start[0], unit, label or name, tuple(keys), springs)
        return self._declare(given)

    def button(self, name: str, *, label: str = "", key: str = "") -> InputHandle:
        """Declare a button: a simulation gets True at the beginning of the step after it was pressed.

        Args:
            name: Its name.
            label: Text for people; the name by default.
            key: Key of a window.
        """
        return self._declare(SceneInput(name, "button", label=label or name, keys=(key,) if key else ()))

    def pull(self, name: str, point: Any, *, reach: float, unit: str = "", label: str = "") -> InputHandle:
        """Declare a point that a person pulls: its value is the vector from there to where it is pulled.

        It is no vector at all when the point is let go.

        Args:
            name: Its name.
            point: Where it is, shape (3,) or (2,), or `Values` of that shape.
            reach: The longest vector, in the unit of the points.
            unit: That unit.
            label: Text for people; the name by default.
        """
        longest = real_numbers([reach])
        if longest is None or not longest[0] > 0:
            self._refuse(name, f"the reach of a pull is a finite number above 0, not {reach!r}")
        place = self._place(name, point)
        handle = self._declare(SceneInput(name, "pull", high=longest[0], unit=unit, label=label or name))
        self._points[name] = place
        return handle

    @property
    def inputs(self) -> dict[str, SceneInput]:
        """Return the inputs by name, in the order in which they were declared."""
        return dict(self._inputs)

    def show_inputs(self, given: Mapping[str, InputValue]) -> None:
        """Show the values that inputs have now; those that are not given are at rest."""
        self._given = {name: value for name, value in given.items() if name in self._inputs}

    def _shown_inputs(self, sample: Mapping[str, Array], constants: Mapping[str, Array]) -> dict[str, Any]:
        """Return the inputs as a snapshot has them: with their values, and where points are.

        A point whose fields are not there yet is left out.
        """
        found: dict[str, Any] = {}
        for name, one in self._inputs.items():
            shown = {**one.to_json(), "value": self._value(name)}
            if name in self._points:
                try:
                    place = real_numbers(self._points[name].of(sample, constants))
                except AbsentValue:
                    continue
                if place is None or len(place) not in (2, 3):
                    self._refuse(name, "the point to pull is not two or three finite numbers")
                shown["point"] = [*place, 0.0][:3]
            found[name] = shown
        return found

    def _value(self, name: str) -> InputValue:
        return self._given.get(name, self._inputs[name].rest)

    def _move(self, name: str, point: Any) -> None:
        if name not in self._points:
            self._refuse(name, "it is no point that is pulled")
        self._points[name] = self._place(name, point)

    def _place(self, name: str, point: Any) -> Values:
        """Return a point as values."""
        if isinstance(point, Values):
            return point
        place = real_numbers(point)
        if place is None or len(place) not in (2, 3):
            self._refuse(name, f"a point to pull is two or three finite numbers, not {_short(point)}")
        return Values(literal(np.array(place)))

    def _declare(self, given: SceneInput) -> InputHandle:
        name = given.name
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST:
            self._refuse(str(name)[:LONGEST], f"the name of an input is a text of at most {LONGEST} signs")
        if name in self._inputs:
            self._refuse(name, "the scene has an input of this name; take another one")
        if len(self._inputs) >= MOST:
            self._refuse(name, f"a scene has at most {MOST} inputs")
        if not all(isinstance(text, str) for text in (given.unit, given.label, *given.keys)):
            self._refuse(name, "unit, label and keys are texts")
        self._inputs[name] = given
        return InputHandle(self, name)

    def _refuse(self, name: str, problem: str) -> NoReturn:
        parts = [self.owner, f"input {name!r} of the scene", problem]
        raise SceneError(": ".join(part for part in parts if part))


def real_numbers(values: Any) -> list[float] | None:
    """Return finite numbers as a list of floats; None where they are none, or not one after another."""
    try:
        found = np.asarray(values)
    except ValueError:
        return None
    if found.ndim != 1 or found.dtype.kind not in "iuf" or not np.isfinite(found).all():
        return None
    return [float(one) for one in found]


def _short(value: Any) -> str:
    return repr(value)[:LONGEST]
