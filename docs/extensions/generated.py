"""Directives that write the keys of configurations and the commands from what defines them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import typer
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from typer.main import get_command

from physgym import cli
from physgym.experiment.schema import Config


def _code(text: str) -> str:
    """Return text as code in a cell of a table."""
    escaped = text.replace("|", "\\|")
    return f"`` {escaped} ``" if "`" in text else f"`{escaped}`"


def _label(key: str) -> str:
    """Return the anchor of the section of a key."""
    return "key-" + key.replace(".", "-").replace("_", "-")


def _cell(text: str) -> str:
    """Return text as prose in a cell of a table."""
    for character in "\\|*_<[":
        text = text.replace(character, "\\" + character)
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
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    found = [f"{sign} {part[name]:g}" for name, sign in signs.items() if name in part]
    return f" ({', '.join(found)})" if found else ""


def _section(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any] | None:
    """Return the schema of the section that a key is, if it is one; those of classes with arguments are none."""
    for part in _parts(schema, definitions):
        inner = part.get("additionalProperties")
        found = [part, *(_parts(inner, definitions) if isinstance(inner, dict) else ())]
        for one in found:
            if "properties" in one and set(one["properties"]) != {"type", "arguments"}:
                return one
    return None


def config_keys(schema: dict[str, Any], definitions: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the lines of a page that lists all keys: a table for each section, under its name."""
    sections = []
    yield from ("| key | value | default | meaning |", "|---|---|---|---|")
    for name, declared in schema["properties"].items():
        key = prefix + name
        if (section := _section(declared, definitions)) is not None:
            sections.append((key, section))
        default = json.dumps(declared["default"], ensure_ascii=False) if "default" in declared else ""
        required = name in schema.get("required", ())
        cells = (
            f"[`{key}`](#{_label(key)})" if section else _code(key),
            _cell(_kind(declared, definitions)),
            _code(default) if default else ("*required*" if required else ""),
            _cell(declared.get("description", (section or {}).get("description", ""))),
        )
        yield f"| {' | '.join(cells)} |"
    for key, section in sections:
        yield from ("", f"({_label(key)})=", f"## {key}", "")
        if text := section.get("description"):
            yield from (_cell(text), "")
        yield from config_keys(section, definitions, f"{key}.")


def commands(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yield commands and their subcommands in the order of ``--help``: the words of each, itself and its context."""
    context = typer.Context(command, info_name=" ".join(("physgym", *path)))
    if path:
        yield path, command, context
    if hasattr(command, "list_commands"):
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), *path, name)


def _explained(text: str) -> Iterator[str]:
    """Yield what a command says about itself, its examples as code."""
    examples = []
    for paragraph in text.split("\n\n"):
        plain = " ".join(paragraph.split())
        line = plain.removeprefix("Examples: ").removeprefix("Example: ")
        if line.startswith("physgym "):
            examples.append(line)
        else:
            yield from (_cell(plain), "")
    if examples:
        yield from ("```bash", *examples, "```", "")


def command_line() -> Iterator[str]:
    """Yield the lines of a page that lists all commands with their arguments and options."""
    for path, command, context in commands(get_command(cli.app)):
        name = " ".join(("physgym", *path))
        yield from (f"({name.replace(' ', '-')})=", f"{'#' * (len(path) + 1)} {name}", "")
        yield from _explained(command.help or "")
        usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
        yield from ("```text", usage, "```", "")
        records = [record for one in command.get_params(context) if (record := one.get_help_record(context))]
        if records:
            yield from ("| argument or option | meaning |", "|---|---|")
            yield from (f"| {_code(names)} | {_cell(text)} |" for names, text in records)
            yield ""


class _Lines(SphinxDirective):
    """A directive that stands for lines of Markdown."""

    def lines(self) -> Iterator[str]:
        """Yield them."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Return what they are."""
        return self.parse_text_to_nodes("\n".join(self.lines()), allow_section_headings=True)


class ConfigKeys(_Lines):
    """All keys of configurations."""

    def lines(self) -> Iterator[str]:
        """Yield a table for each section."""
        schema = Config.model_json_schema()
        yield from ("## Top level", "")
        yield from config_keys(schema, schema["$defs"])


class CommandLine(_Lines):
    """All commands."""

    def lines(self) -> Iterator[str]:
        """Yield a heading for each, and a table of its options."""
        return command_line()


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives."""
    app.add_directive("config-keys", ConfigKeys)
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True}
