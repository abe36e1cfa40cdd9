"""What pages say of the code in numbers and lists is so: lines of examples, formats, simulations."""

from __future__ import annotations

import re
from pathlib import Path

import gymnasium
import pytest
from gymnasium.envs.registration import load_env_creator

import physgym
from docs.extensions.gallery import examples
from physgym.envs import OF_OTHERS
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
