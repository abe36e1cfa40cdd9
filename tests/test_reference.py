"""The reference has what there is: every public name, every key of a configuration, every command."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest
from typer.main import get_command

import physgym
from docs.extensions import generated
from physgym import cli, errors
from physgym.errors import PhysGymError
from physgym.experiment.config import known_keys
from physgym.experiment.keys import sections
from tests.guides import pages
from tests.guides.guide import DOCS, blocks
from tests.test_guides import PYTHON, WITH_PEERS, imports
from tests.test_public import NAMES, commands

API = DOCS / "reference" / "api"
# names that pages import, and that are not for users: the parts of examples that extend physgym itself
PARTS = {"physgym.running.prediction_errors.compare"}


def find(path):
    """The object of a dotted name; None where a package of others is missing."""
    module, _, name = path.rpartition(".")
    if module in WITH_PEERS and importlib.util.find_spec(WITH_PEERS[module]) is None:
        return None
    return getattr(importlib.import_module(module), name)


def documented():
    """The names that the pages of the reference describe."""
    text = "".join(page.read_text() for page in sorted(API.glob("*.md")))
    return re.findall(r"^\.\. (?:auto|py:)(?:class|exception|function|data):: (\S+)$", text, re.M)


def test_a_name_is_described_once_and_exists():
    names = documented()
    assert len(names) == len(set(names)) > 150
    assert all(find(name) is not None for name in names if name.rpartition(".")[0] not in WITH_PEERS)


def test_every_public_name_is_described():
    described = {id(find(name)) for name in documented()}
    public = [f"{module}.{name}" for module, names in NAMES.items() for name in names.split()]
    assert [name for name in public if id(find(name)) not in described] == []


def test_every_error_is_described():
    ours = [name for name, one in vars(errors).items() if inspect.isclass(one) and one.__module__ == errors.__name__]
    assert {f"physgym.errors.{name}" for name in ours} <= {*documented(), "physgym.errors.RejectSample"}


def error_classes():
    """The names of all classes of errors, wherever they are."""
    trees = (ast.parse(file.read_text()) for file in Path(physgym.__file__).parent.rglob("*.py"))
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    bases = {node.name: {base.id for base in node.bases if isinstance(base, ast.Name)} for node in classes}
    found, before = {PhysGymError.__name__}, 0
    while len(found) > before:
        before = len(found)
        found |= {name for name, of in bases.items() if found & of}
    return {name for name in found if not name.startswith("_")}


def test_every_error_has_a_cause_and_a_cure():
    text = (DOCS / "troubleshooting" / "errors.md").read_text()
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", text, re.M | re.S))
    assert set(sections) == error_classes()
    for name, section in sections.items():
        cause, cure = re.search(r"\*\*Cause\.\*\* (.*?)\n\n\*\*Cure\.\*\* (.*)", section, re.S).groups()
        assert len(cause) > 20, name
        assert len(cure) > 20, name


def test_every_name_that_a_page_imports_is_described():
    described = {id(find(name)) for name in documented()}
    missing = set()
    for page in pages():
        for block in blocks(page, PYTHON):
            for node in (node for node in imports(block.code) if hasattr(node, "module")):
                module = importlib.import_module(node.module) if node.module not in WITH_PEERS else None
                for one in (getattr(module, alias.name, None) for alias in node.names):
                    if (inspect.isclass(one) or inspect.isfunction(one)) and id(one) not in described:
                        missing.add(f"{node.module}.{one.__name__}")
    assert missing == PARTS


def test_every_key_is_listed_with_its_meaning():
    lines = list(generated.config_keys())
    listed = [match[1] for line in lines if (match := re.match(r"\| \[?`([\w.]+)`", line))]
    assert sorted(listed) == sorted(known_keys())
    cells = [line.split(" | ") for line in lines if line.startswith("| `training.batch_size`")]
    assert cells == [["| `training.batch_size`", "integer (>= 1)", "`32`", "samples of a step of the optimizer |"]]


def test_every_key_has_a_meaning():
    assert [key.name for section in sections() for key in section.keys if not key.meaning] == []


@pytest.mark.parametrize("path", [path for path, _ in commands() if path], ids=" ".join)
def test_every_command_is_listed_with_its_options(path):
    text = "\n".join(generated.command_line())
    name = " ".join(("physgym", *path))
    section = re.search(rf"^#+ {name}\n(.*?)(?=^\(physgym|\Z)", text, re.M | re.S)
    assert section, name
    options = {option for one in dict(commands(get_command(cli.app)))[path].params for option in one.opts}
    assert all(option in section[1] for option in options if option.startswith("--"))
