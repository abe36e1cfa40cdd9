"""The description of an exported network: what its file takes and gives, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from physgym._version import __version__
from physgym.files import short
from physgym.nn.export.inference import weights_digest
from physgym.nn.predictor import Predictor
from physgym.sample import Field

KIND, VERSION = "physgym network", 1
BATCH = "batch"  # name of the first axis, whose length is free


@dataclass(frozen=True)
class Port:
    """A tensor that a file takes or gives.

    Attributes:
        field: The field that it holds for each sample of a batch.
        tensor: Its name in the file.
    """

    field: Field
    tensor: str

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the dtype, in the byte order of the machine."""
        return self.field.dtype.newbyteorder("=")

    def to_json(self) -> dict[str, Any]:
        """Return the tensor as plain JSON data."""
        said = self.field.to_json()
        kept: dict[str, Any] = {name: said[name] for name in ("dimensions", "kind") if name in said}
        shape = [BATCH, *self.field.shape]
        fixed = {"name": self.field.name, "tensor": self.tensor, "shape": shape, "dtype": self.dtype.name}
        return {**fixed, "unit": self.field.unit, **kept}


@dataclass(frozen=True)
class Contract:
    """The tensors that a file takes and gives.

    Attributes:
        inputs: The tensors that it takes.
        outputs: Those that it gives.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @classmethod
    def of(cls, predictor: Predictor, *, distinct: bool) -> Contract:
        """Return the contract of a predictor.

        Args:
            predictor: The network with its fields.
            distinct: Whether an output needs another name than an input of the same field.
        """
        inputs = tuple(Port(predictor.spec[name], name) for name in predictor.inputs)
        taken, outputs = {port.tensor for port in inputs} if distinct else set(), []
        for name in predictor.outputs:
            tensor = name
            while tensor in taken:
                tensor += "_predicted"
            taken.add(tensor)
            outputs.append(Port(predictor.spec[name], tensor))
        return cls(inputs, tuple(outputs))

    def to_json(self) -> dict[str, Any]:
        """Return inputs and outputs as plain JSON data."""
        return {
            "inputs": [port.to_json() for port in self.inputs],
            "outputs": [port.to_json() for port in self.outputs],
        }


def description(predictor: Predictor, contract: Contract, made_with: Mapping[str, str]) -> dict[str, Any]:
    """Return what is said about a network, as plain JSON data.

    Args:
        predictor: The network.
        contract: What its file takes and gives.
        made_with: Versions of further packages by name.
    """
    return {
        "kind": KIND,
        "version": VERSION,
        "network": predictor.summary,
        "parameters": predictor.num_parameters,
        **contract.to_json(),
        **_origin(predictor),
        "weights_sha256": weights_digest(predictor),
        "made_with": {"physgym": __version__, "torch": torch.__version__, **made_with},
    }


def _origin(predictor: Predictor) -> dict[str, str | None]:
    """Return the session and the checkpoint that a network was loaded from."""
    checkpoint = None if predictor.learned is None else predictor.learned.checkpoint
    if checkpoint is None:
        return {"session": None, "checkpoint": None}
    session = checkpoint.parent.parent if checkpoint.parent.name == "networks" else None
    return {"session": None if session is None else short(session), "checkpoint": checkpoint.name}
