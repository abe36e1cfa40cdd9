"""What pages say of the code is so: lines of examples, formats, simulations, calls and commands within sentences."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import typer
from gymnasium.envs.registration import load_env_creator

import physgym
from docs.extensions.gallery import examples
from physgym import data, nn, rl, runner, samplers, training
from physgym.cli.app import app
from physgym.envs import OF_OTHERS
from physgym.experiment.schema import Config
from physgym.formats import registry

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def plain(page: Path) -> str:
    """The text of a page in one line."""
    return " ".join(page.read_text().split())


def test_examples_have_as_many_lines_as_pages_say():
    said = {}
    for page in (ROOT / "README.md", *DOCS.rglob("*.md")):
        for name, lines in re.findall(r"examples/(\w+\.py)[`)]+[^.`]*?\b(\d+) lines", plain(page)):
            said[page.name, name] = int(lines)
    assert len(said) >= 3
    assert said == {(page, name): (ROOT / "examples" / name).read_text().count("\n") for page, name in said}


def test_the_readme_counts_the_examples_of_the_gallery():
    assert f"| {len(examples())} examples, each" in (ROOT / "README.md").read_text()


def test_the_overview_names_the_formats_of_imports():
    (listed,) = re.findall(r"`physgym import` of (.*?); `dataset", plain(DOCS / "start" / "overview.md"))
    assert set(re.findall(r"`(\w+)`", listed)) == set(registry.import_names())


@pytest.mark.parametrize("extra", ["minari", "huggingface", "netcdf", "parquet"])
def test_an_extra_of_a_format_says_which_way_it_goes(extra):
    (row,) = re.findall(rf"^\| `{extra}` \| (.*) \|$", (DOCS / "start" / "installation.md").read_text(), re.M)
    assert ("import" in row) == (extra in registry.import_names())
    assert ("export" in row) == (extra in registry.names())


def test_the_simulations_that_stored_samples_drive_are_named():
    shipped = {name: spec for name, spec in gymnasium.registry.items() if name.startswith("physgym/")}
    classes = {str(spec.entry_point) for name, spec in shipped.items() if spec.entry_point and name not in OF_OTHERS}
    driven = {place.partition(":")[2] for place in classes if loads(place)}
    (listed,) = re.findall(r"drive these shipped simulations: (.*?)\. `", plain(DOCS / "howto" / "generation.md"))
    assert set(re.findall(r"`(\w+)`", listed)) == driven
    assert "Track" not in driven


def loads(place: str) -> bool:
    """Whether the class of an entry point takes stored samples."""
    return load_env_creator(place).load_sample is not physgym.Simulation.load_sample


def test_short_answers_say_when_they_are_needed():
    folder = DOCS / "howto"
    rows = re.findall(r"^\| \[(.+)\]\(short/(\w+)\.md\) \| (.+) \|$", (folder / "index.md").read_text(), re.M)
    pages = {page.stem: page.read_text() for page in (folder / "short").glob("*.md")}
    assert {name: text.split("\n\n")[:2] for name, text in pages.items()} == {
        name: [f"# {title}", when] for title, name, when in rows
    }


def test_the_index_links_all_guides():
    folder = DOCS / "howto"
    rows = re.findall(r"^\| \[(.+)\]\((\w+)\.md\) \| .+ \|$", (folder / "index.md").read_text(), re.M)
    pages = {page.stem: page.read_text() for page in folder.glob("*.md") if page.stem != "index"}
    assert {name: f"# {title}" for title, name in rows} == {name: t.partition("\n")[0] for name, t in pages.items()}


# --- within sentences and tables

PAGES = [page for page in (ROOT / "README.md", *DOCS.rglob("*.md")) if page.name != "changelog.md"]
NAMES = {"physgym": physgym, **vars(data), **vars(samplers), **vars(runner), **vars(nn), **vars(rl), **vars(training)}
COMMAND = typer.main.get_command(app)
OF_OTHERS_TOO = ("Trainer(max_epochs=10, limit_train_batches=100)",)  # of Lightning


def spans(page: Path) -> Iterator[str]:
    """The pieces of code within the sentences of a page."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.M | re.S)
    return (" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text))


def meant(node: ast.expr) -> object:
    """The public object that a name stands for; None for others."""
    if isinstance(node, ast.Attribute):
        return getattr(meant(node.value), node.attr, None)
    return NAMES.get(node.id) if isinstance(node, ast.Name) else None


def calls(text: str) -> Iterator[ast.Call]:
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        return
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def raised(called: object) -> bool:
    """Whether it is a class of errors, which has no signature."""
    return isinstance(called, type) and issubclass(called, Exception)


def test_calls_have_arguments_that_exist():
    seen, wrong = 0, []
    for page in PAGES:
        for span in spans(page):
            for call in calls(span):
                called = meant(call.func)
                own = getattr(called, "__module__", "").startswith("physgym")
                if span in OF_OTHERS_TOO or not own or not callable(called) or raised(called):
                    continue
                known = inspect.signature(called).parameters
                free = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values())
                seen += 1
                wrong += [(page.name, span) for key in call.keywords if key.arg and not free and key.arg not in known]
    assert wrong == []
    assert seen > 60


def fault(words: list[str]) -> str:
    """What is wrong with a command; empty if nothing is."""
    command = COMMAND
    while hasattr(command, "commands"):
        if not words or words[0] not in command.commands:
            return "" if not words or not re.fullmatch("[a-z-]+", words[0]) or words[0][0] == "-" else "no such command"
        command = command.commands[words.pop(0)]
    options = {name: one for one in command.params for name in one.opts if name.startswith("-")}
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    given = 0
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            given += 1
        elif (name := word.partition("=")[0]) not in options:
            return f"no option {name}"
        elif "=" not in word and not options[name].is_flag and words:
            words.pop(0)
    many = any(one.nargs == -1 for one in arguments)
    return "" if many or given <= len(arguments) else f"{given} arguments, and it takes {len(arguments)}"


def test_commands_have_options_that_exist():
    commands = [(page.name, span) for page in PAGES for span in spans(page) if span.startswith("physgym ")]
    wrong = [(page, span, said) for page, span in commands if (said := fault(shlex.split(span)[1:]))]
    assert wrong == []
    assert len(commands) > 200
    assert fault(["data", "describe", "DATA", "author=me"]) == "2 arguments, and it takes 1"
    assert fault(["generate", "ENV", "--colour", "red"]) == "no option --colour"


SCHEMA = Config.model_json_schema()


def parts(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A schema and all that it may be in its place."""
    yield schema
    others = [SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]] if "$ref" in schema else []
    for other in (*others, *(one for kind in ("anyOf", "oneOf", "allOf") for one in schema.get(kind, ()))):
        yield from parts(other)


def is_key(path: str) -> bool:
    """Whether a configuration may have a key."""
    places = [SCHEMA]
    for name in path.split("."):
        here = [one for place in places for one in parts(place)]
        if any(one.get("additionalProperties") for one in here):
            return True
        places = [one["properties"][name] for one in here if name in one.get("properties", {})]
    return bool(places)


def test_keys_with_values_exist():
    found = [
        (page.name, m[1]) for page in PAGES for s in spans(page) if (m := re.match(r"([a-z_]+(?:\.[a-z_]+)+)[:=]", s))
    ]
    keys = [(page, key) for page, key in found if key.partition(".")[0] in SCHEMA["properties"]]
    assert [(page, key) for page, key in keys if not is_key(key)] == []
    assert len(keys) > 12
    assert is_key("training.early_stopping.patience")
    assert is_key("network.arguments.hidden")
    assert not is_key("training.device")


def test_samplers_that_need_a_training_are_no_options_of_other_commands():
    generate = COMMAND.commands["generate"]
    (option,) = (one for one in generate.params if "--parameters" in one.opts)
    assert "table:FILE" in option.help
    assert "breed" not in option.help
