"""Networks as programs of torch.export, which need nothing but torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from physgym.nn.export.contract import Contract
from physgym.nn.export.network_file import NetworkFile, RunFile
from physgym.nn.predictor import to_tensor
from physgym.sample import Sample

DESCRIPTION = "physgym.json"  # in the file


class Pt2Program(NetworkFile):
    """A program of torch.export: its module takes and gives dictionaries of tensors by the names of the fields."""

    title = "a program of torch.export"
    suffix = ".pt2"

    @property
    def made_with(self) -> dict[str, str]:
        """Return nothing: torch is there."""
        return {}

    def save(self, program: ExportedProgram, contract: Contract, described: str, file: Path) -> None:
        """Write a program, without the example that it was traced with."""
        program.example_inputs = None
        with file.open("wb") as stream:
            torch.export.save(program, stream, extra_files={DESCRIPTION: described})

    def open(self, file: Path, contract: Contract) -> RunFile:
        """Return a function that runs the program in a file."""
        with file.open("rb") as stream:
            module = torch.export.load(stream).module()

        def run(sample: Sample) -> Mapping[str, Any]:
            with torch.no_grad():
                given = module({port.tensor: to_tensor(sample[port.field.name]) for port in contract.inputs})
            return {port.field.name: given[port.tensor].numpy() for port in contract.outputs}

        return run


NETWORK_FORMAT = Pt2Program()
