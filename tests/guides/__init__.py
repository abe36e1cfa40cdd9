"""How the code of the pages in docs/ is run: a module for each section, with what its pages need."""

from tests.guides import coming_from, concepts, howto, reference, start, troubleshooting, tutorials
from tests.guides.guide import DOCS, Guide

ELSEWHERE = {  # pages whose code another test runs
    "howto/networks": "tests/nn/test_physics.py",
    "howto/training": "tests/training/test_training_examples.py",
}
SECTIONS = (start, tutorials, howto, concepts, reference, troubleshooting, coming_from)
ROWS = {page: row for section in SECTIONS for page, row in section.GUIDES.items()}
DEFAULT = Guide(commands=True)


def pages() -> list[str]:
    """All pages, by their paths without the suffix."""
    return sorted(path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md"))


def guide(page: str) -> Guide:
    """How the code of a page is run."""
    return ROWS.get(page, DEFAULT)
