"""Sections of a configuration, and their keys that are options declared elsewhere."""

from __future__ import annotations

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

from physgym.options import NamedOption, option_of, options_of

SectionOptions = TypeVar("SectionOptions", bound=Mapping[str, object])


class Section(BaseModel):
    """A part of a configuration: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def with_keys(base: type[Section], options: type) -> type[Section]:
    """Return a section with the keys of another one and, after them, a key for each option of a declaration."""
    keys: dict[str, Any] = {one.name: (_without_paths(one.type), _field(one)) for one in options_of(options).values()}
    made: type[Section] = create_model(
        f"{base.__name__}With{options.__name__}", __base__=base, __module__=base.__module__, **keys
    )
    return made


def options_in(section: Section, options: type[SectionOptions]) -> SectionOptions:
    """Return the values in a section of the options of a declaration."""
    return cast(SectionOptions, {name: getattr(section, name) for name in options_of(options)})


def key(option: Any, description: str = "") -> Any:
    """Return the default and the limits of a key that is an option under another section or description.

    Args:
        option: Type of the option, annotated with its declaration.
        description: Meaning of the key; by default that of the option.
    """
    return _field(option_of("", option), description)


def _field(one: NamedOption, description: str = "") -> FieldInfo:
    option = one.option
    limits: dict[str, Any] = {"ge": option.at_least, "gt": option.above}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    made: FieldInfo = Field(option.in_configuration, description=description or option.description, **given)
    return made


def _without_paths(kind: Any) -> Any:
    """Return a type as a configuration has it, which holds text: without `Path` next to ``str``."""
    if get_origin(kind) not in (Union, types.UnionType):
        return kind
    return Union[tuple(member for member in get_args(kind) if member is not Path)]  # noqa: UP007 - of a tuple
