"""Reads configuration files, applies changes to them, and explains faults: the key, and the nearest right one."""

from __future__ import annotations

import contextlib
import difflib
import json
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from physgym.checks import is_integer
from physgym.errors import ConfigError
from physgym.experiment.component_section import Component
from physgym.experiment.schema import MINI, MINI_AGENT, Config, missing_samples
from physgym.experiment.yaml_text import read_yaml

NEW_SAMPLES = 1000  # where there is no dataset and the configuration does not say how many
DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True)
class Edits:
    """Changes to a configuration file, in the order in which they are made.

    Attributes:
        find_replace: Texts to replace in the file and their replacements, by turns.
        delete: Keys to leave out.
        modify: Keys and their new values in YAML, by turns; a whole section may be one.
        overrides: ``key.sub=value``; the value is read as the schema has it.
        cpu: Train on the CPU.
        mini: Use the first 100 samples only; of an agent, so few steps that a try takes seconds.
        values: Values by key, made before the overrides and recorded as such: those of options that stand for keys.
    """

    find_replace: Sequence[str] = ()
    delete: Sequence[str] = ()
    modify: Sequence[str] = ()
    overrides: Sequence[str] = ()
    cpu: bool = False
    mini: bool = False
    values: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return the changes as JSON data."""
        made = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "values"}
        made["overrides"] = [*(_as_override(key, value) for key, value in self.values.items()), *self.overrides]
        return {name: value if isinstance(value, bool) else list(value) for name, value in made.items() if value}

    def text(self, text: str, where: str) -> str:
        """Return the text of a file after the replacements.

        Raises:
            ConfigError: Their number is odd, or there is nothing to replace.
        """
        for old, new in _pairs(self.find_replace, "--find-replace", "OLD NEW"):
            if not old or old not in text:
                raise ConfigError(f"--find-replace: {old!r} does not occur in {where}")
            text = text.replace(old, new)
        return text

    def data(self, data: dict[str, Any]) -> None:
        """Make the changes of keys, in place.

        Raises:
            ConfigError: A key to delete is not there, or an override is none.
        """
        for key in self.delete:
            _delete(data, key)
        for key, text in _pairs(self.modify, "--modify", "KEY VALUE"):
            _set(data, key, text, f"--modify {key}")
        for key, value in self.values.items():
            *path, last = key.split(".")
            section_at(data, path, _as_override(key, value))[last] = json.loads(_json(value))
        for override in self.overrides:
            key, equals, text = override.partition("=")
            if not equals or not key:
                raise ConfigError(
                    f"{override!r} is not an override; write key.sub=value, or put the option that it belongs to in "
                    f"front, such as --out {override}"
                )
            _set(data, key, text, override)
        if self.cpu:
            data["device"] = "cpu"
        if self.mini and isinstance(agent := data.get("agent"), dict):
            agent |= {
                name: min(most, agent[name]) if is_integer(agent.get(name)) else most
                for name, most in MINI_AGENT.items()
            }
        elif self.mini:
            section_at(data, ["dataset"], "--mini")["mini"] = MINI


def load_config(path: str | Path, edits: Edits | Sequence[str] = ()) -> Config:
    """Read a configuration file.

    Args:
        path: A YAML file.
        edits: Changes to make before it is checked; a list is one of overrides, ``key.sub=value``.

    Raises:
        ConfigError: The file is missing or wrong; the text lists all faults, each with its key and the nearest right
            one.
    """
    edits = edits if isinstance(edits, Edits) else Edits(overrides=edits)
    try:
        data = read_yaml(edits.text(Path(path).read_text("utf-8"), str(path)))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deep") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold keys and values, not {type(data).__name__}")
    edits.data(data)
    return check_config(data, str(path))


def check_config(data: dict[str, Any], where: str) -> Config:
    """Return the configuration that the data describes.

    Raises:
        ConfigError: It is wrong; the text lists all faults, each with its key and the nearest right one.
    """
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        # of a key that takes several types the first one's fault says enough
        faults = {_place(fault): f"- {_explain(fault)}" for fault in reversed(error.errors())}
        if () not in faults and (missing := missing_samples(data)):  # which is looked at only where all else is right
            faults[()] = f"- {missing}"
        text = "\n".join(reversed(faults.values()))
        raise ConfigError(f"{where} has {len(faults)} fault(s):\n{text}") from error


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of configuration files, with which editors complete and check them."""
    samples = [{"required": [section]} for section in ("environment", "dataset", "agent")]
    return {"$schema": DIALECT, "anyOf": samples, **Config.model_json_schema()}


def known_keys(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Yield all keys of the schema, dotted, sections before what is in them."""
    for name, declared in model.model_fields.items():
        yield prefix + name
        if (section := _model_in(declared.annotation)) is not None and section is not Component:
            yield from known_keys(section, f"{prefix}{name}.")


# --- changes


def _json(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def _as_override(key: str, value: Any) -> str:
    """Return the override that gives a key a value: JSON is YAML."""
    return f"{key}={_json(value)}"


def _pairs(values: Sequence[str], option: str, form: str) -> Iterator[tuple[str, str]]:
    if len(values) % 2:
        raise ConfigError(f"{option} takes pairs, {form}; {values[-1]!r} is left alone")
    return zip(values[::2], values[1::2], strict=True)


def _delete(data: dict[str, Any], key: str) -> None:
    *path, last = key.split(".")
    found: Any = data
    for part in path:
        found = found.get(part) if isinstance(found, dict) else None
    if not isinstance(found, dict) or last not in found:
        known = list(found) if isinstance(found, dict) else []
        hint = f"; there are {', '.join(map(str, known))}" if known else ""
        raise ConfigError(f"--delete: there is no key {key!r} in the file{hint}")
    del found[last]


def _set(data: dict[str, Any], key: str, text: str, what: str) -> None:
    *path, last = key.split(".")
    section = section_at(data, path, what)
    try:
        value = section[last] = _typed(text, [*path, last])
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{what!r}: the value is not YAML") from error
    if isinstance(value, dict) and (
        joined := [name for name, one in value.items() if one is None and ":" in str(name)]
    ):
        right = ": ".join(str(joined[0]).split(":", 1))
        raise ConfigError(f"{what!r}: {joined[0]!r} is a key without a value; write a space after the colon, {right}")


def section_at(data: dict[str, Any], path: Sequence[str], what: str) -> dict[str, Any]:
    """Return the section of a path, made where it is missing."""
    for place, part in enumerate(path):
        inner = data.get(part)
        if inner is None:
            inner = {}
            default = default_of(path[: place + 1])
            if part not in data and isinstance(default, Component):
                inner = default.type
        if isinstance(inner, str) and annotation_of(path[: place + 1]) is Component:
            inner = {"type": inner}
        if not isinstance(inner, dict):
            raise ConfigError(f"{what!r}: {part!r} is a value, not a section")
        data[part] = inner
        data = inner
    return data


def _typed(text: str, path: Sequence[str]) -> Any:
    """Return the value of a text as the schema has it: where it wants a text, the text itself, unless in quotes.

    Raises:
        ValueError, yaml.YAMLError: It is not YAML, where it is to be.
    """
    annotation = annotation_of(path)
    if kinds_of(annotation) - {type(None)} == {str}:
        if text in ("null", "~", "") and annotation is not str:
            return None
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        return read_yaml(text) if quoted or _is_collection(text) else text
    if annotation is None or annotation is Any:
        return read_yaml(text)
    adapter = TypeAdapter(annotation)
    with contextlib.suppress(ValidationError, yaml.YAMLError, ValueError):
        adapter.validate_python(value := read_yaml(text), strict=True)
        return value
    with contextlib.suppress(ValidationError):
        adapter.validate_python(text, strict=True)
        if not _is_collection(text):
            return text
    return read_yaml(text)  # the schema will say what is wrong with it


def _is_collection(text: str) -> bool:
    """Return whether a text is a list or a mapping in YAML, which the schema refuses where it wants a text."""
    if text[:1] + text[-1:] not in ("[]", "{}"):
        return False
    with contextlib.suppress(yaml.YAMLError, ValueError):
        return isinstance(read_yaml(text), (list, dict))
    return False


# --- the schema, by key


def annotation_of(path: Sequence[str]) -> Any:
    """Return the type of a key, without None; None if there is no such key, Any in free data such as arguments."""
    model: Any = Config
    parts = iter(path)
    for part in parts:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return Any if {Any, dict} & kinds_of(model) else None
        if part not in model.model_fields:
            return None
        annotation = model.model_fields[part].annotation
        model = annotation if (inner := _model_in(annotation)) is None else inner
        if inner is not None and get_origin(annotation) is dict:
            next(parts, None)  # any name may stand there
    return model


def field_of(path: Sequence[str]) -> FieldInfo:
    """Return the declaration of a key that exists."""
    model = annotation_of(path[:-1]) if len(path) > 1 else Config
    return model.model_fields[path[-1]]


def default_of(path: Sequence[str]) -> Any:
    """Return the default of a key; None if there is no such key."""
    model = annotation_of(path[:-1]) if len(path) > 1 else Config
    if not (isinstance(model, type) and issubclass(model, BaseModel)) or path[-1] not in model.model_fields:
        return None
    return model.model_fields[path[-1]].get_default(call_default_factory=True)


def kinds_of(annotation: Any) -> set[Any]:
    """Return the types that a value of a type may have: int and NoneType of ``int | None``."""
    if get_origin(annotation) is Annotated:
        return kinds_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return {kind for member in get_args(annotation) for kind in kinds_of(member)}
    return {get_origin(annotation) or annotation}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the section in a type such as ``Section | None`` or ``list[Section]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, Annotated, list, dict):
        return next((model for part in get_args(annotation) if (model := _model_in(part)) is not None), None)
    return None


def _place(fault: Any) -> tuple[str, ...]:
    """Return the path of a fault, without the types that pydantic names where a key takes several."""
    return tuple(str(part) for part in fault["loc"] if "[" not in str(part))


def _explain(fault: Any) -> str:
    """Return a fault as a person would put it."""
    path = _place(fault)
    name = ".".join(path)
    message = str(fault["msg"]).removeprefix("Value error, ")
    if not name:
        return message
    if fault["type"] == "missing":
        return f"{name}: missing"
    if fault["type"] != "extra_forbidden":
        return f"{name}: {message} (got {fault['input']!r})"
    section = annotation_of([part for part in path[:-1] if not part.isdecimal()])
    known = list(section.model_fields)
    elsewhere = [key for key in known_keys() if key.rpartition(".")[2] == path[-1]]
    near = elsewhere[:1] or difflib.get_close_matches(path[-1], known, 1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    return f"{name}: unknown key; {hint}"
