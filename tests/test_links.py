"""Links and pictures of pages lead to files and headings that exist, also where no site is built: in README.md."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "clients").rglob("*.md")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")


@cache
def anchors(page: Path) -> set[str]:
    """The anchors that GitHub and the site make of the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    found: set[str] = set(re.findall(r"^\((\S+)\)=$", text, re.M))
    for title in re.findall(r"^#+ (.*)$", text, re.M):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower().replace(" ", "-")
        anchor = re.sub(r"[^\w-]", "", plain)
        found.add(anchor)
    return found


def links(page: Path) -> list[str]:
    """The targets of a page that are of this repository."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    return [target for target in LINK.findall(text) if "://" not in target and not target.startswith("mailto:")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or file.suffix != ".md" or anchor in anchors(file), target


def test_pages_that_code_names_exist():
    named = re.compile(r"(?<![\w/-])docs/[\w/]+\.md")
    folders = ("physgym", "tests", "examples", "benchmarks", "clients")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.suffix in (".py", ".h", ".js")]
    found = {(file.name, page) for file in files for page in named.findall(file.read_text())}
    assert len(found) > 10
    assert [pair for pair in found if not (ROOT / pair[1]).is_file()] == []
