"""Networks as ONNX, which onnxruntime and others run without torch."""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from physgym.errors import ConfigError, needs
from physgym.nn.export.contract import BATCH, Contract, Port
from physgym.nn.export.network_file import NetworkFile, RunFile
from physgym.sample import Sample

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
DESCRIPTION = "physgym"  # key of the file's metadata
LARGEST = 2**31 - 1  # bytes of a file of protobuf
SHOWN = 300  # letters of an error of a library
DTYPES = {"float32": "float", "float64": "double"}  # where ONNX has another name than numpy


class OnnxModel(NetworkFile):
    """A model of ONNX with all weights in one file.

    Args:
        instead: What to do with a network for which there is no such model, in errors.
    """

    title = "ONNX"
    suffix = ".onnx"
    real = True
    distinct = True

    def __init__(self, instead: str = "export a program of torch (--to pt2)") -> None:
        self._instead = instead

    @property
    def made_with(self) -> dict[str, str]:
        """Return the versions of the packages of ONNX."""
        versions = {}
        for package in PACKAGES:
            with needs(package, "onnx", "an export to ONNX"):
                versions[package] = str(importlib.import_module(package).__version__)
        return versions

    def save(self, program: ExportedProgram, contract: Contract, described: str, file: Path) -> None:
        """Write a program as a model whose nodes do not name the code that they are from."""
        import onnx_ir as ir

        try:
            with _quiet():
                made = torch.onnx.export(
                    program,
                    dynamo=True,
                    input_names=[port.tensor for port in contract.inputs],
                    output_names=[port.tensor for port in contract.outputs],
                    verbose=False,
                )
        except Exception as error:
            raise ConfigError(
                f"this network cannot be exported to ONNX: {_first(error)}. For what has no counterpart there "
                f"{self._instead}"
            ) from error
        assert made is not None
        model = made.model
        for node in model.graph.all_nodes():
            node.metadata_props.clear()  # paths and lines of this machine
        _name_batch(model.graph)
        _check_counts(model.graph)
        model.metadata_props[DESCRIPTION] = described
        proto = ir.to_proto(model)
        if (size := proto.ByteSize()) > LARGEST:
            raise ConfigError(f"this network takes {size / 1e9:.1f} GB, and a file of ONNX holds 2 GB: {self._instead}")
        file.write_bytes(proto.SerializeToString())

    def open(self, file: Path, contract: Contract, *, threads: int | None = None) -> RunFile:
        """Return a function that runs the model in a file by onnxruntime, on the CPU.

        Args:
            file: The file.
            contract: What it takes and gives.
            threads: How many threads it takes, which do not spin between calls; by default as onnxruntime decides.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what is wrong is raised
        if threads is not None:
            options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ConfigError(
                f"onnxruntime cannot run this network: {_first(error)}. It lacks some operations for float64 and "
                f"bfloat16 on the CPU: try network.float(), or {self._instead}"
            ) from error
        for ports, values in ((contract.inputs, session.get_inputs()), (contract.outputs, session.get_outputs())):
            found = [(value.name, value.type, value.shape) for value in values]
            _check(ports, found)

        def run(sample: Sample) -> Mapping[str, Any]:
            fed = {port.tensor: np.ascontiguousarray(sample[port.field.name], port.dtype) for port in contract.inputs}
            given = session.run([port.tensor for port in contract.outputs], fed)
            return {port.field.name: value for port, value in zip(contract.outputs, given, strict=True)}

        return run


def _check(ports: tuple[Port, ...], found: list[tuple[str, str, list[Any]]]) -> None:
    """Raise ConfigError unless the tensors of a file are those of its contract, with a batch of any size."""
    if [name for name, _, _ in found] != [port.tensor for port in ports]:
        raise ConfigError(f"the model has the tensors {[name for name, _, _ in found]} instead of {ports}")
    for port, (name, kind, shape) in zip(ports, found, strict=True):
        want = f"tensor({DTYPES.get(port.dtype.name, port.dtype.name)})"
        if kind != want or tuple(shape[1:]) != port.field.shape or not isinstance(shape[0], str):
            raise ConfigError(
                f"the model has the tensor {name!r} as {kind} of shape {shape}; it is to be {want} of shape "
                f"{[BATCH, *port.field.shape]}"
            )


def _name_batch(graph: Any) -> None:
    """Give the free axis its name, wherever it is."""
    import onnx_ir as ir

    old = graph.inputs[0].shape[0].value

    for value in (*graph.inputs, *graph.outputs, *(out for node in graph.all_nodes() for out in node.outputs)):
        if value.shape is not None:
            sides = [ir.SymbolicDim(BATCH) if getattr(side, "value", side) == old else side for side in value.shape]
            value.shape = ir.Shape(sides)


def _check_counts(graph: Any) -> None:
    """Let a model fail where its inputs hold different numbers of samples, of which ONNX would repeat a single one."""
    import onnx_ir as ir

    first, *others = graph.inputs
    if not others:
        return
    none = ir.Value(name="no_difference", const_value=ir.tensor([0], ir.DataType.INT64))
    graph.register_initializer(none)
    count = ir.node("Shape", [first], attributes={"start": 0, "end": 1})
    nodes = [count]
    for value in others:
        uses = list(value.uses())
        shape, own = (ir.node("Shape", [value], attributes=part) for part in ({}, {"start": 0, "end": 1}))
        difference = ir.node("Sub", [count.outputs[0], own.outputs[0]])
        square = ir.node("Mul", [difference.outputs[0], difference.outputs[0]])
        # there is nothing but a 0 to take; with an operation of fewer steps onnxruntime leaves the check out
        name = f"as many samples of {first.name} and {value.name}"
        zero = ir.node("Gather", [none, square.outputs[0]], attributes={"axis": 0}, name=name)
        same = ir.node("Add", [shape.outputs[0], zero.outputs[0]])
        checked = ir.node("Reshape", [value, same.outputs[0]])
        checked.outputs[0].shape, checked.outputs[0].type = value.shape, value.type
        for user, place in uses:
            user.replace_input_with(place, checked.outputs[0])
        nodes += [shape, own, difference, square, zero, same, checked]
    graph.insert_before(graph[0], nodes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's exporter from telling of its own parts."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _first(error: BaseException) -> str:
    """Return the innermost reason of an error, not too long."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return f"{text[:SHOWN]} ..." if len(text) > SHOWN else text


NETWORK_FORMAT = OnnxModel()
