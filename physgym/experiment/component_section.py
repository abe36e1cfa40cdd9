"""Arguments in a configuration, of environments and other classes, and the classes that have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, model_serializer
from pydantic_core import CoreSchema, core_schema

from physgym.experiment import components
from physgym.experiment.sections import Section


def check_plain(value: Any, path: str = "") -> Any:
    """Return free data, if it is what JSON can hold, so that a session's configuration is the one that ran.

    Raises:
        ValueError: It is something else; the text says where.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{path}{key}: keys must be texts; put the key in quotes")
            check_plain(item, f"{path}{key}.")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            check_plain(item, f"{path}{index}.")
    elif value is not None and not isinstance(value, (str, bool, int, float)):
        where = f"{path.rstrip('.')}: " if path else ""
        raise ValueError(f"{where}{value!r} is no number, text, list or section; if it is a text, put it in quotes")
    return value


PlainArguments = Annotated[dict[str, Any], BeforeValidator(check_plain)]


def _check_arguments(value: Any) -> Any:
    """Check the arguments of an environment: a section, or a list of at least one."""
    if isinstance(value, (list, tuple)):
        if not value:
            raise ValueError("the list is empty; leave the key out, or list the arguments of the episodes")
        for index, one in enumerate(value):
            if not isinstance(one, Mapping):
                raise ValueError(
                    f"{index}: {one!r} is no section; list the arguments by name, as in [{{size: 1}}, ...]"
                )
    elif not isinstance(value, Mapping):
        raise ValueError(f"{value!r} is no section and no list of sections")
    return check_plain(value)


EnvironmentArguments = Annotated[dict[str, Any] | list[dict[str, Any]], BeforeValidator(_check_arguments)]


class Component(Section):
    """A class with arguments; where it has none, its name alone will do."""

    type: str = Field(description="registered name, or module:attr")
    arguments: PlainArguments = Field(default_factory=dict, description="of its constructor")

    @model_serializer
    def _short(self) -> str | dict[str, Any]:
        return {"type": self.type, "arguments": self.arguments} if self.arguments else self.type


@dataclass(frozen=True)
class Named:
    """Makes a `Component` of a registered name, of ``module:attr``, or of either with arguments."""

    known: Sequence[str]
    check: Callable[[str, Sequence[str]], str] = components.check_name

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def checked(component: Component) -> Component:
            self.check(component.type, self.known)
            return component

        def whole(value: Any) -> Any:
            return {"type": value} if isinstance(value, str) else value

        inner = core_schema.no_info_before_validator_function(whole, handler(source))
        return core_schema.no_info_after_validator_function(checked, inner)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        names = [{"enum": list(self.known)}, {"type": "string", "pattern": "^[A-Za-z_][\\w.]*:.+$"}]
        properties = {"type": {"anyOf": names}, "arguments": {"type": "object"}}
        whole = {"type": "object", "properties": properties, "required": ["type"], "additionalProperties": False}
        return {"anyOf": [*names, whole]}
