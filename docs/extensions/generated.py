"""Directives that write the keys of configurations and the commands from what defines them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from typer.main import get_command

from physgym import cli
from physgym.experiment.keys import sections

GENERATED = "generated"  # class of tables, see docs/static/gallery.css


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


def config_keys() -> Iterator[str]:
    """Yield the lines of a page that lists all keys: a table for each section, under its name."""
    for section in sections():
        if section.name:
            yield from ("", f"({_label(section.name)})=", f"## {section.name}", "")
            if section.meaning:
                yield from (_cell(section.meaning), "")
        else:
            yield from ("## Top level", "")
        yield from ("| key | value | default | meaning |", "|---|---|---|---|")
        for key in section.keys:
            cells = (
                f"[`{key.name}`](#{_label(key.name)})" if key.is_section else _code(key.name),
                _cell(key.kind),
                _code(key.default) if key.default else ("*required*" if key.required else ""),
                _cell(key.meaning),
            )
            yield f"| {' | '.join(cells)} |"


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
        """Return what they are; the sections among them are put into the page at once."""
        self.env.temp_data[GENERATED] = True
        return self.parse_text_to_nodes("\n".join(self.lines()), allow_section_headings=True)


class ConfigKeys(_Lines):
    """All keys of configurations."""

    def lines(self) -> Iterator[str]:
        """Yield a table for each section."""
        return config_keys()


class CommandLine(_Lines):
    """All commands."""

    def lines(self) -> Iterator[str]:
        """Yield a heading for each, and a table of its options."""
        return command_line()


def mark_tables(app: Sphinx, page: nodes.document) -> None:
    """Give the tables of a page that a directive wrote a class, for the style sheet."""
    if app.env.temp_data.get(GENERATED):
        for table in page.findall(nodes.table):
            table["classes"].append(GENERATED)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives, and what the style sheet needs of their tables."""
    app.add_directive("config-keys", ConfigKeys)
    app.add_directive("command-line", CommandLine)
    app.connect("doctree-read", mark_tables)
    return {"parallel_read_safe": True}
