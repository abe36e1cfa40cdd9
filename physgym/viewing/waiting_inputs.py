"""`WaitingInputs`: what a person has changed, until the run takes it between two steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from physgym.checks import is_integer
from physgym.scene.inputs import InputValue, SceneInput

GivenInput: TypeAlias = tuple[int, str, InputValue]  # environment, name and value


class WaitingInputs:
    """Changes that nobody has taken yet: of each input of an environment the last one, however many came.

    Args:
        known: The inputs by name.
        environments: How many environments there are.

    Attributes:
        known: As the argument.
        waiting: The changes by environment and name.
    """

    def __init__(self, known: Mapping[str, SceneInput], environments: int) -> None:
        self.known, self._environments = dict(known), environments
        self.waiting: dict[tuple[int, str], InputValue] = {}
        self._kept: dict[tuple[int, str], InputValue] = {}  # sliders, and points that are pulled, as they are now
        self._refused, self._said = "", False

    def __bool__(self) -> bool:
        return bool(self.waiting)

    def put(self, env: Any, name: Any, value: Any) -> bool:
        """Take a change; return False where it is none, see `refusal`."""
        try:
            if not is_integer(env, 0) or env >= self._environments or not isinstance(name, str):
                raise ValueError(f"there is no environment {env!r:.100}")
            if name not in self.known:
                raise ValueError(f"there is no input {name[:100]!r}")
            checked = self.known[name].checked(value)
        except ValueError as error:
            self._refused = self._refused or str(error)
            return False
        self.waiting.pop((env, name), None)  # the order is that of the last changes
        self.waiting[env, name] = checked
        if checked is not True:
            self._kept[env, name] = checked
        return True

    def let_go(self) -> None:
        """Let go what a person holds: sliders that spring back, and points that are pulled."""
        for env, name in [*self._kept]:
            one = self.known[name]
            if one.springs or one.kind == "pull":
                self.put(env, name, one.rest)

    def take(self) -> list[GivenInput]:
        """Return the changes, and forget them."""
        found = [(env, name, value) for (env, name), value in self.waiting.items()]
        self.waiting.clear()
        return found

    def refusal(self) -> str:
        """Return why the first change that was none is left out, once; else an empty text."""
        said, self._said = self._said, self._said or bool(self._refused)
        return "" if said else self._refused

    def repeat(self) -> None:
        """Let the values that inputs have now be taken once more, as by a worker that was started again."""
        self.waiting = {**self._kept, **self.waiting}
