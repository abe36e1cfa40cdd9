"""The words of the package: messages stand where they are raised, names are of the field and mean one thing."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

# Texts that are used once and are no messages.
TEXTS = {
    "physgym.experiment.reproduce.FIND",  # a program, of several lines
}
# Words that the field does not have, or that say nothing.
PRIVATE = {
    *("apart", "bell", "bells", "beside", "excuse", "lifeline", "mend", "mended", "mourn"),
    *("settle", "settled", "settling", "told", "torn", "untold"),
}
# Words of pages that a reader has to guess: say connect, continue, again, any, send, share, your own.
GUESSED = re.compile(
    r"\b(anew|dials?|dialled|go(es)? on|going on|heeds?|imitators?|lent|one's own|rehears\w+|travels?|wh(at|o)ever)\b",
    re.IGNORECASE,
)
LONGEST = 42  # words of a sentence
LONGEST_OF_HELP = 32  # of one of --help, or of the description of a key
# Names of classes and types that stand in two modules.
TWICE = {
    "Scale",  # the same in both; the schema of configurations imports no torch
}


@cache
def trees() -> dict[str, ast.Module]:
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(file.read_text())
        for file in sorted((ROOT / "physgym").rglob("*.py"))
    }


def users() -> Iterator[Path]:
    """The files of the package, and those that use it."""
    for folder in ("physgym", "tests", "benchmarks", "examples"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def used_elsewhere(names: set[str]) -> set[str]:
    """Those names that a module imports, or takes from another one."""
    found, one_of_them = set(), re.compile(rf"\b({'|'.join(names)})\b")
    for text in (file.read_text() for file in users()):
        for node in ast.walk(ast.parse(text)) if one_of_them.search(text) else ():
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                found.add(node.attr)
            elif isinstance(node, ast.ImportFrom):
                found.update(alias.name for alias in node.names)
    return names & found


def assigned(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """The names that a module assigns, with what they are."""
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            yield target.id, node.value


def test_a_message_that_is_used_once_stands_where_it_is_used():
    once = {}
    for module, tree in trees().items():
        counts = Counter(n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load))
        for name, value in assigned(tree):
            text = value.value if isinstance(value, ast.Constant) else None
            if isinstance(text, str) and " " in text.strip() and counts[name] == 1:
                once[f"{module}.{name}"] = name
    elsewhere = used_elsewhere(set(once.values()))
    assert {path for path, name in once.items() if name not in elsewhere} == TEXTS


def identifiers(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name


def words(name: str) -> set[str]:
    return {word.lower() for word in re.split(r"_|(?<=[a-z0-9])(?=[A-Z])", name) if word}


def test_names_are_words_of_the_field():
    found = {(module, name) for module, tree in trees().items() for name in identifiers(tree) if words(name) & PRIVATE}
    assert found == set()


def test_prose_has_no_words_of_our_own():
    own = re.compile(r"\b(apart|beside|mend|mended|told|torn)\b", re.IGNORECASE)
    files = [*(ROOT / "physgym").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    lines = [(file.name, line) for file in files for line in file.read_text().splitlines() if own.search(line)]
    assert lines == []


def pages() -> list[Path]:
    return [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def sentences(text: str) -> Iterator[str]:
    """The sentences of paragraphs, items and cells of tables; blocks of code are none, and a span of code is a word."""
    text = re.sub(r"^ *```.*?^ *```$", "\n\n", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]+`", "Code", text))
    for block in re.split(r"\n\s*\n|\||^\s*(?:[-*]|\d+\.)\s|^#.*$", text, flags=re.MULTILINE):
        yield from re.split(r"(?<=[.!?])[\")*]*\s+(?=[\"(*\[]*[A-Z0-9])", " ".join(block.split()))


def test_sentences_of_pages_are_found():
    text = "# One\n\nTwo `a. B` [c](d.md). Three\nfour!\n\n- Five.\n- Six\n\n```\nSeven. Eight.\n```\n\n| nine | ten |"
    assert [s for s in sentences(text) if s] == ["Two Code [c].", "Three four!", "Five.", "Six", "nine", "ten"]


def test_no_sentence_of_a_page_is_too_long():
    found = ((page.name, sentence) for page in pages() for sentence in sentences(page.read_text()))
    assert [(name, sentence) for name, sentence in found if len(sentence.split()) > LONGEST] == []


def test_pages_have_no_words_that_a_reader_guesses():
    found = ((page.name, sentence) for page in pages() for sentence in sentences(page.read_text()))
    assert [(name, sentence) for name, sentence in found if GUESSED.search(sentence)] == []


def documented(tree: ast.Module, names: set[str]) -> Iterator[str]:
    """The docstrings of classes and functions with these names, and of the public methods of the classes."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name in names:
            inner = node.body if isinstance(node, ast.ClassDef) else []
            methods = [one for one in inner if isinstance(one, ast.FunctionDef) and not one.name.startswith("_")]
            yield from filter(None, map(ast.get_docstring, [node, *methods]))


def of_docstring(text: str) -> str:
    """A docstring as `sentences` reads pages: names of arguments and of code are none of its words."""
    text = re.sub(r"(?m)(?<=::)\n\n( +)\S.*\n(?:\1.*\n|\n)*", "\n\n", text)
    text = re.sub(r"(?m)^ *>>>.*(?:\n(?! *\n).*)*", "", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return re.sub(r"(?m)^(?:\w+:\n| +\**\w+: )", "\n\n", text.replace("``", "`"))


def messages(tree: ast.AST) -> Iterator[str]:
    """The texts of a module, and what stands in place of values is a word; names of arguments are left out."""
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "Value" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield of_docstring(node.value)


def test_texts_of_the_code_have_no_words_that_a_reader_guesses():
    found = [
        (module, " ".join(sentence.split()))
        for module, tree in trees().items()
        for text in messages(tree)
        if " " in text.strip() and GUESSED.search(text)
        for sentence in sentences(text)
        if GUESSED.search(sentence)
    ]
    assert found == []


def test_files_that_users_copy_have_no_words_that_a_reader_guesses():
    files = [*(ROOT / "physgym").rglob("*.template")]
    for folder in ("examples", "clients"):
        files += [
            file for file in (ROOT / folder).rglob("*") if file.suffix in (".py", ".yaml", ".js", ".c", ".h", ".jl")
        ]
    assert len(files) > 50
    lines = [(file.name, line) for file in files for line in file.read_text().splitlines() if GUESSED.search(line)]
    assert lines == []


def test_errors_have_no_sentence_that_is_too_long():
    raised = [
        (module, sentence)
        for module, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        for text in messages(node)
        for sentence in sentences(text)
    ]
    assert len(raised) > 1000
    assert [(module, sentence) for module, sentence in raised if len(sentence.split()) > LONGEST] == []


def test_docstrings_of_the_reference_have_no_sentence_that_is_too_long():
    pages = [file.read_text() for file in (ROOT / "docs" / "reference" / "api").glob("*.md")]
    names = {name for page in pages for name in re.findall(r"\.\. auto\w+:: (?:\w+\.)+(\w+)", page)}
    texts = [text for tree in trees().values() for text in documented(tree, names)]
    assert len(texts) > 500
    found = [sentence for text in texts for sentence in sentences(of_docstring(text))]
    assert [sentence for sentence in found if len(sentence.split()) > LONGEST] == []


def helps() -> Iterator[str]:
    """What ``--help`` says of commands, arguments and options, but for examples."""
    from typer.main import get_command

    from physgym import cli

    commands = [get_command(cli.app)]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
        yield "\n\n".join(part for part in (command.help or "").split("\n\n") if "physgym " not in part[:20])
        yield from (text for text in (getattr(param, "help", None) for param in command.params) if text)


def keys(schema: Any) -> Iterator[str]:
    """The descriptions within a JSON schema."""
    for name, value in schema.items() if isinstance(schema, dict) else ():
        if name == "description" and isinstance(value, str):
            yield value
        yield from keys(value)


def test_helps_and_keys_have_no_sentence_that_is_too_long():
    from physgym.experiment.schema import Config

    texts = [*helps(), *keys(Config.model_json_schema())]
    assert len(texts) > 400
    found = [sentence for text in texts for sentence in sentences(text)]
    assert [sentence for sentence in found if len(sentence.split()) > LONGEST_OF_HELP] == []


def test_a_name_of_a_class_means_one_thing():
    places = defaultdict(set)
    for module, tree in trees().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                places[node.name].add(module)
        for name, _ in assigned(tree):
            if not name.isupper() and name.lstrip("_")[:1].isupper():  # an alias of a type, or a variable of types
                places[name].add(module)
    twice = {name for name, where in places.items() if len(where) > 1 and not name.startswith("_")}
    assert twice == TWICE
