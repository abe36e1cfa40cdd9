"""The keys of configuration files with types, defaults and meanings, for `physgym keys` and the reference."""

from __future__ import annotations

import difflib
import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from physgym.errors import ConfigError
from physgym.experiment.schema import Config

SIGNS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


@dataclass(frozen=True)
class Key:
    """A key of configuration files.

    Attributes:
        name: The key, dotted.
        kind: What a value may be, in words of YAML.
        default: The default as JSON; empty if there is none.
        required: Whether the section needs the key.
        meaning: Its description.
        is_section: Whether it holds keys of its own.
    """

    name: str
    kind: str
    default: str
    required: bool
    meaning: str
    is_section: bool


@dataclass(frozen=True)
class KeySection:
    """The keys of a section.

    Attributes:
        name: The key of the section, dotted; empty for the top level.
        meaning: Its description.
        keys: Its keys.
    """

    name: str
    meaning: str
    keys: tuple[Key, ...]


def sections() -> Iterator[KeySection]:
    """Yield the sections of configuration files: the top level first, then each section before those in it."""
    schema = Config.model_json_schema()
    yield from _sections("", schema, schema["$defs"])


def key_text(chosen: str = "", *, width: int = 100) -> str:
    """Return the keys as text: one key or section, by default all.

    Args:
        chosen: A key, dotted.
        width: Characters of a line.

    Raises:
        ConfigError: There is no such key.
    """
    found = list(sections())
    listed = [key for section in found for key in section.keys]
    names = [key.name for key in listed]
    if chosen and chosen not in names:
        near = difflib.get_close_matches(chosen, names, 3) or [n for n in names if chosen in n.split(".")][:3]
        raise ConfigError(
            f"there is no key {chosen!r}; " + (f"near: {', '.join(near)}" if near else "see physgym keys")
        )
    shown = [key for key in listed if not chosen or key.name == chosen or key.name.startswith(f"{chosen}.")]
    return "\n".join(line for key in shown for line in _lines(key, width))


def _lines(key: Key, width: int) -> Iterator[str]:
    """Yield a line with the type and the default of a key, and its meaning below."""
    default = "required" if key.required else (f"default {key.default}" if key.default else "")
    yield "  ".join(filter(None, (key.name, key.kind, default)))
    yield from textwrap.wrap(key.meaning, width, initial_indent="    ", subsequent_indent="    ")


def _sections(name: str, schema: dict[str, Any], definitions: dict[str, Any]) -> Iterator[KeySection]:
    """Yield a section, and those in it."""
    inner, keys = [], []
    for own, declared in schema["properties"].items():
        dotted = f"{name}.{own}" if name else own
        section = _section(declared, definitions)
        if section is not None:
            inner.append((dotted, section))
        keys.append(
            Key(
                name=dotted,
                kind=_kind(declared, definitions),
                default=json.dumps(declared["default"], ensure_ascii=False) if "default" in declared else "",
                required=own in schema.get("required", ()),
                meaning=_plain(declared.get("description", (section or {}).get("description", ""))),
                is_section=section is not None,
            )
        )
    yield KeySection(name, _plain(schema.get("description", "")), tuple(keys))
    for dotted, section in inner:
        yield from _sections(dotted, section, definitions)


def _plain(text: str) -> str:
    """Return text on one line."""
    return " ".join(text.split())


def _parts(schema: dict[str, Any], definitions: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what a value may be, each without references and alternatives."""
    if "$ref" in schema:
        yield from _parts(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    elif alternatives := schema.get("anyOf", schema.get("oneOf")):
        for part in alternatives:
            yield from _parts(part, definitions)
    else:
        yield schema


def _kind(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return what a value may be, in words of YAML."""
    kinds = []
    for part in _parts(schema, definitions):
        if "enum" in part or "const" in part:
            kinds += [str(value) for value in part.get("enum", [part.get("const")])]
        elif part.get("type") == "array":
            kinds.append(f"list of {_kind(part.get('items', {}), definitions)}")
        elif part.get("type") in ("integer", "number"):
            kinds.append(part["type"] + _bounds(part))
        elif part.get("type") == "object":
            kinds.append("section" if "properties" in part else "table")
        elif "type" in part:
            kinds.append(part["type"])
    return " | ".join(dict.fromkeys(kinds)) or "any value"


def _bounds(part: dict[str, Any]) -> str:
    """Return the bounds of a number."""
    found = [f"{sign} {part[name]:g}" for name, sign in SIGNS.items() if name in part]
    return f" ({', '.join(found)})" if found else ""


def _section(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any] | None:
    """Return the schema of the section that a key is, if it is one; those of classes with arguments are none."""
    for part in _parts(schema, definitions):
        inner = part.get("additionalProperties")
        found: list[dict[str, Any]] = [part, *(_parts(inner, definitions) if isinstance(inner, dict) else ())]
        for one in found:
            if "properties" in one and set(one["properties"]) != {"type", "arguments"}:
                return one
    return None
