"""A page of the documentation as code: its blocks in their order, and what they need to run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"

IMPORTS = """
import gymnasium, h5py, numpy as np, physgym, torch
from gymnasium import spaces
from physgym import RecordTransition, SampleDataset, generate
from physgym.data import SampleStream, SampleWriter
from physgym.nn import MLP
from physgym.runner import Runner, SurrogateEnv
from physgym.samplers import Breed
from physgym.training import Checkpoints, Trainer, load_checkpoint
from torch.utils.data import DataLoader
"""
BEAM = "dataset = physgym.SampleDataset('data/beam')\n"
METHODS = "methods of a class that the reader writes"


@dataclass(frozen=True)
class Guide:
    """How the code of a page is run.

    Numbers count the blocks of Python, from 0, and those of commands (bash) by themselves, from 0.

    Attributes:
        before: Code that makes what the page takes for granted.
        smaller: Texts, and those that replace them so that it takes seconds, in code and commands.
        sketches: Numbers of the blocks of Python that do not run, and why.
        files: Numbers of the blocks of Python that the reader puts into files, with the names of these. A block whose
            first line is a comment with nothing but a name, such as ``# config.yaml`` or ``// fin.c``, needs no number.
        optional: Whether each block is by itself, and is left out where a package is missing.
        prepared: Whether it takes for granted that there are datasets and sessions of the beam and the spring.
        commands: Whether its commands run.
        typed: Numbers of the blocks of commands that do not run, and why.
        packages: Modules without which nothing of it runs, and the test is skipped.
    """

    before: str = ""
    smaller: dict[str, str] = field(default_factory=dict)
    sketches: dict[int, str] = field(default_factory=dict)
    files: dict[int, str] = field(default_factory=dict)
    optional: bool = False
    prepared: bool = True
    commands: bool = False
    typed: dict[int, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Block:
    """A block of code of a page.

    Attributes:
        line: Number of the fence.
        language: What it says behind the fence.
        number: How many blocks of its language stand before it.
        code: The text.
    """

    line: int
    language: str
    number: int
    code: str

    @property
    def file(self) -> str:
        """The file that the first line names, or nothing."""
        named = re.match(r"(?:#|//) ([\w./-]+\.\w+)\n", self.code)
        return named[1] if named else ""


def blocks(page: str, *languages: str) -> list[Block]:
    """Return the blocks of a page in these languages, by default in all."""
    text = (DOCS / f"{page}.md").read_text()
    found: list[Block] = []
    for match in re.finditer(r"^```(\w+)\n(.*?)^```", text, re.M | re.S):
        number = sum(block.language == match[1] for block in found)
        found.append(Block(text[: match.start()].count("\n") + 1, match[1], number, match[2]))
    return [block for block in found if not languages or block.language in languages]
