"""`NetworkFile`: the base of formats of networks: trace, write, run what was written, compare."""

from __future__ import annotations

import contextlib
import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch.export import ExportedProgram

from physgym.errors import ConfigError, SampleError
from physgym.files import absolute, creating
from physgym.formats.registry import NetworkFormat
from physgym.nn.export.comparison import BATCHES, compare
from physgym.nn.export.contract import Contract, description
from physgym.nn.export.inference import Inference, plain_copy
from physgym.nn.export.program import traced
from physgym.nn.export.samples import samples_for
from physgym.nn.predictor import Predictor, to_tensor
from physgym.sample import Sample

RunFile = Callable[[Sample], Mapping[str, Any]]


class NetworkFile(NetworkFormat):
    """A format of networks.

    Attributes:
        real: Whether it knows no complex numbers, so that Fourier layers become products of matrices.
        distinct: Whether an output needs another name than an input.
    """

    real = False
    distinct = False

    @property
    @abstractmethod
    def made_with(self) -> dict[str, str]:
        """Return the versions of the packages that it needs next to torch.

        Raises:
            ConfigError: One is missing.
        """

    @abstractmethod
    def save(self, program: ExportedProgram, contract: Contract, described: str, file: Path) -> None:
        """Write a program.

        Args:
            program: The network.
            contract: What the file is to take and give.
            described: A description in JSON, to be kept within the file.
            file: The file to make.

        Raises:
            ConfigError: The format cannot hold it.
        """

    @abstractmethod
    def open(self, file: Path, contract: Contract) -> RunFile:
        """Return a function that runs a file: input fields to output fields, arrays with a batch axis.

        Raises:
            ConfigError: It cannot be read, or does not take or give what the contract says.
        """

    def write(
        self, network: Any, out: Path, *, samples: Mapping[str, Any] | None = None, tolerance: float | None = None
    ) -> str:
        """Write a network, and a JSON next to it.

        Args:
            network: The predictor.
            out: The file to make.
            samples: Input fields with a batch axis, on which file and network are compared.
            tolerance: Largest difference, see `compare`.
        """
        predictor: Predictor = network
        out, contract_file = self._free_names(out)
        made_with = self.made_with
        module = Inference(predictor, real=self.real)
        contract = Contract.of(predictor, distinct=self.distinct)
        given, kind = samples_for(predictor, max(BATCHES)) if samples is None else (_rows(samples, predictor), "given")
        example = {name: to_tensor(given[name][:2]) for name in predictor.inputs}
        program = traced(module, example)
        described = description(predictor, contract, made_with)
        right = predictor if predictor.device.type == "cpu" else plain_copy(predictor)  # others round otherwise
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with _both(out, contract_file) as (file, text):
                self.save(program, contract, json.dumps(described), file)
                compared = compare(self.open(file, contract), right, contract, given, tolerance)
                with file.open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
                whole = {"file": out.name, "sha256": digest, **described, "compared": {"on": kind, **compared}}
                text.write_text(json.dumps(whole, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write {out}: {error}") from error
        return f"written: {out} and {contract_file.name}; {_shown(compared)}"

    def _free_names(self, out: Path) -> tuple[Path, Path]:
        """Return the names of the file and of the JSON next to it."""
        out = absolute(out)
        if out.suffix != self.suffix:
            raise ConfigError(f"{out.name} is to be {self.title}: let its name end in {self.suffix}")
        contract_file = out.with_name(f"{out.name}.json")
        for path in (out, contract_file):
            if path.exists():
                raise ConfigError(f"{path} exists; choose another name")
        return out, contract_file


@contextlib.contextmanager
def _both(out: Path, contract_file: Path) -> Iterator[tuple[Path, Path]]:
    """Give temporary names for two files, of which both or none take their own at the end of the block."""
    placed = False
    try:
        with creating(out, durable=False) as file:
            with creating(contract_file, durable=False) as text:
                yield file, text
            placed = True
    except BaseException:
        if placed:  # and the other one was not
            contract_file.unlink(missing_ok=True)
        raise


def _rows(samples: Mapping[str, Any], predictor: Predictor) -> Sample:
    """Return as many samples as the largest batch has, repeated where fewer are given."""
    predictor.predict(samples, batched=True)  # raises if they do not fit
    count = len(samples[predictor.inputs[0]])
    if not count:
        raise SampleError("there are no samples to compare on")
    rows = np.arange(max(BATCHES)) % count
    return {
        name: np.asarray(samples[name])[rows].astype(predictor.spec[name].dtype, copy=False)
        for name in predictor.inputs
    }


def _shown(compared: Mapping[str, Any]) -> str:
    differences = ", ".join(f"{name} {value['largest']:.1e}" for name, value in compared["differences"].items())
    return f"largest difference to torch in batches of {', '.join(map(str, BATCHES))}: {differences}"
