"""What the table of all that physgym does says is there can be imported."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

TABLE = (Path(__file__).parents[2] / "docs" / "start" / "overview.md").read_text()
ROWS = re.findall(r"^\| .* \|$", TABLE, re.MULTILINE)


def find(path: str) -> object:
    """The object of a dotted name: of a module, or an attribute of one."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            found = getattr(found, name)
        return found
    raise ModuleNotFoundError(path)


def names() -> list[str]:
    """Dotted names in the table; one without a module is of the module of the name before it in the row."""
    found = []
    for row in ROWS:
        module = ""
        for code in re.findall(r"`([^`]+)`", row):
            if re.fullmatch(r"(physgym|gymnasium)(\.\w+)+", code):
                module = code.rpartition(".")[0]
                found.append(code)
            elif re.fullmatch(r"[A-Z]\w+(\.\w+)*", code) and module:
                found.append(f"{module}.{code}")
    return found


def test_the_table_names_what_this_test_reads():
    assert len(ROWS) > 10
    assert {"physgym.data.SampleWriter", "physgym.runner.SurrogateVectorEnv"} <= set(names())


@pytest.mark.parametrize("name", names())
def test_a_name_of_the_readme_is_importable(name):
    if name.startswith("physgym.formats.huggingface"):
        pytest.importorskip("datasets")
    assert find(name) is not None


def test_commands_of_the_readme_exist():
    from typer.main import get_command

    from physgym.cli import app

    known = set(get_command(app).commands)
    told = set(re.findall(r"physgym ([a-z]+)(?=[ `])", TABLE))
    assert "generate" in told
    assert told <= known, told - known
