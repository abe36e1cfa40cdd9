"""The order of the folders: imports point upwards, nothing is imported in a circle, and modules and classes stay small.

Imports within functions and for types alone count like all others.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A module uses what stands before it. A folder stands for all of its modules but those that have a place of their own.
ORDER = [
    "errors",
    "limits",
    "options",
    "checks",
    "_version",
    "system",
    "progress",
    "closed_on_exit",
    "html_parts",
    "interrupt",
    "files",
    "git",
    "network_loading",
    "engine_names",
    "spaces",
    "policies",
    "cube",
    "casting",
    "relative_errors",
    "returned",
    "feedback",
    "sample",
    "feedback_gaps",
    "step_fields",
    "placement",
    "real_time",
    "single",
    "batched",
    "factories",
    "object_references",
    "marked_classes",
    "registration",
    "code",
    "naming",
    "events",
    "recording",
    "scene.values",
    "scene.inputs",
    "scene.meshes",
    "scene.kinds",
    "scene.style",
    "scene.changes",
    "scene.solids",
    "scene.space",
    "scene.plots",
    "scene.frames",
    "scene.pictures",
    "scene.films",
    "scene.objects",
    "scene.over_time",
    "scene.default",
    "scene.live",
    "generator_state",
    "simulation",
    "scene.declared",
    "episode",
    "envs",
    "samplers",
    "protocol",
    "transport",
    "scene.sinks.base",
    "scene.sinks.table",
    "viewing",
    "worker",
    "launch",
    "vector",
    "machines",
    "simulators",
    "storage",
    "data",
    "scene.stored",
    "loading",
    "generation",
    "formats",
    "nn",
    "training",
    "running",
    "scene",
    "rl",
    "adapters",
    "testing",
    "experiment",
    "slurm",
    "report",
    "doctor",
    "demos",
    "cli",
    "__main__",
]
# They import what they hand on, and may be imported by nobody.
PUBLIC = ("physgym", "physgym.data", "physgym.runner")

LINES, ATTRIBUTES = 600, 15
# What is still against the order, too long or too large: a part that is mended leaves its list.
UPWARDS: set[tuple[str, str]] = set()
IN_CIRCLES: set[str] = set()
LONG: set[str] = set()
LARGE: set[str] = set()
SIMULATIONS = "physgym.envs"  # theirs are the numbers of a method


@cache
def modules() -> dict[str, Path]:
    found = {}
    for file in sorted((ROOT / "physgym").rglob("*.py")):
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = file
    return found


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text())


def imported(module: str) -> set[str]:
    """The modules of physgym that a module imports, wherever it does."""
    file, names = modules()[module], []
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join(parents[: len(parents) - node.level + 1] + ([base] if base else []))
            names += [f"{base}.{alias.name}" for alias in node.names]
    found = set()
    for name in names:
        while name and name not in modules():
            name = name.rpartition(".")[0]
        found |= {name} if name else set()
    return found - {module}


def place(module: str) -> int:
    short = module.removeprefix("physgym.")
    mine = [part for part in ORDER if short == part or short.startswith(f"{part}.")]
    assert mine, f"{module} has no place in the order; add its folder to ORDER"
    return ORDER.index(max(mine, key=len))


@cache
def graph() -> dict[str, set[str]]:
    return {module: imported(module) for module in modules() if module not in PUBLIC}


def test_imports_point_upwards():
    upwards = {(a, b) for a in graph() for b in graph()[a] if b not in PUBLIC and place(b) > place(a)}
    assert upwards == UPWARDS


def test_nobody_imports_what_hands_on_names():
    assert [(a, b) for a in graph() for b in graph()[a] if b in PUBLIC] == []


def circles() -> Iterator[set[str]]:
    """Every set of modules that import each other, those that point upwards left out."""
    edges = {a: {b for b in graph()[a] if b not in PUBLIC and place(b) <= place(a)} for a in graph()}

    def reached(start: str) -> set[str]:
        seen, waiting = set(), list(edges[start])
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting += edges[module]
        return seen

    for module in edges:
        if module in reached(module):
            yield {module}


def test_no_module_is_imported_in_a_circle():
    assert {module for circle in circles() for module in circle} == IN_CIRCLES


def test_modules_are_short():
    long = {module for module, file in modules().items() if len(file.read_text().splitlines()) > LINES}
    assert long == LONG


def test_the_page_names_all_folders_in_their_order():
    """A folder whose modules have several places stands at the first one."""
    text = (ROOT / "docs" / "concepts" / "architecture.md").read_text()
    block = text[text.index("physgym/\n") : text.index("\ntests/")]
    heads = [line[2:23] if line[2] != " " else "" for line in block.splitlines()[1:]]
    named = [name for head in heads for name in re.findall(r"(\w+)(?:/|\.py)", head)]
    assert named == [name for name in dict.fromkeys(part.partition(".")[0] for part in ORDER) if name[0] != "_"]


@cache
def classes() -> dict[str, tuple[str, set[str], list[str]]]:
    """Of every class its module, the attributes that its methods assign, and the names of its bases."""
    found = {}
    for module in modules():
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.ClassDef):
                stored = {
                    attribute.attr
                    for attribute in ast.walk(node)
                    if isinstance(attribute, ast.Attribute)
                    and isinstance(attribute.ctx, ast.Store)
                    and isinstance(attribute.value, ast.Name)
                    and attribute.value.id == "self"
                }
                bases = [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases]
                found[node.name] = (module, stored, bases)
    return found


@cache
def declared(name: str) -> set[str]:
    """The attributes that a class annotates in its body."""
    body = next(node for node in ast.walk(tree("physgym.simulation")) if getattr(node, "name", "") == name).body
    fields = {node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    return {*fields, "action_space", "observation_space", "metadata"}


def attributes(name: str, below: tuple[str, ...] = ()) -> set[str]:
    if name not in classes() or name in below:
        return set()
    _, stored, bases = classes()[name]
    if "Simulation" in bases:  # spaces, roles and units are what the base class asks for
        stored = stored - declared("Simulation")
    return stored.union(*(attributes(base, (*below, name)) for base in bases))


def test_classes_are_small():
    large = {
        name
        for name, (module, _, _) in classes().items()
        if len(attributes(name)) > ATTRIBUTES and not module.startswith(SIMULATIONS)
    }
    assert large == LARGE


@pytest.mark.parametrize("folder", sorted({m.split(".")[1] for m in modules() if m.count(".") > 1}))
def test_every_folder_says_what_it_is_for(folder):
    assert ast.get_docstring(tree(f"physgym.{folder}"))


# A docstring begins with a verb, or, of what is no function, with a noun.
NO_BEGINNINGS = re.compile(
    r"(above|after|as|at|before|behind|beside|between|by|for|from|in|into|of|on|over|through|to|under|with|within|without"
    r"|he|her|his|it|its|our|she|that|their|these|they|this|those|we"
    r"|how|what|whatever|when|where|wherever|whether|which|who|whoever|whom|whose|why"
    r"|(give|let|return|take|yield) (that|those))\b",
    re.IGNORECASE,
)


def test_docstrings_begin_with_a_verb_or_a_noun():
    wrong = []
    for module in modules():
        for node in ast.walk(tree(module)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
                text = (ast.get_docstring(node) or "").strip()
                if NO_BEGINNINGS.match(text):
                    wrong.append(f"{module} {getattr(node, 'name', '')}: {text.splitlines()[0]}")
    assert wrong == []
