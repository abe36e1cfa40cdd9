"""Traces: a network as a program of torch.export, with a batch of free size."""

from __future__ import annotations

import re
import warnings

import torch
from torch.export import Dim, ExportedProgram

from physgym.errors import ConfigError
from physgym.nn.export.contract import BATCH
from physgym.nn.export.inference import Inference
from physgym.nn.transforms import Fields
from physgym.nn.wrapped import unwrapped

OWN = ("aten", "prim", "prims", "higher_order")  # namespaces of operators that torch itself has
SHOWN = 300  # letters of an error of torch


def traced(module: Inference, example: Fields) -> ExportedProgram:
    """Return a network as a program.

    Args:
        module: The network.
        example: Input fields of two samples.

    Raises:
        ConfigError: Torch cannot follow it, a batch would have a fixed size, or the program needs operators that
            another package brings.
    """
    name = f"the network {type(unwrapped(module.predictor.network)).__name__}"
    free = {field: {0: Dim(BATCH)} for field in example}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # deprecations within torch
            program = torch.export.export(module, (example,), dynamic_shapes=(free,), strict=False)
    except Exception as error:
        raise ConfigError(f"{name} cannot be exported: {_reason(error)}") from error
    if foreign := sorted(_foreign(program)):
        raise ConfigError(
            f"{name} cannot be exported: it uses {', '.join(foreign)}, operators that torch alone does not have, so "
            "that the file would need the package that brings them"
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths and lines of this machine
    return program


def _reason(error: Exception) -> str:
    text = str(error).strip()
    first = re.sub(r"\s+", " ", text)
    first = f"{first[:SHOWN]} ..." if len(first) > SHOWN else first
    if "onstraints violated" in text or "specialized" in text:
        return (
            "it takes batches of some sizes only. Write x.shape[0] where the size of a batch is meant, not a number, "
            f"and let nothing depend on how large it is. torch.export says: {first}"
        )
    if "data-dependent" in text or "data dependent" in text or ".item()" in text:
        return (
            "Python code in it depends on the values of tensors, such as `if x.mean() > 0` or `float(x.max())`; write "
            f"it with operations on tensors, such as torch.where. torch.export says: {first}"
        )
    return f"torch.export cannot follow it. It says: {type(error).__name__}: {first}"


def _foreign(program: ExportedProgram) -> set[str]:
    """Return the operators of a program that torch itself does not have."""
    found = set()
    for module in program.graph_module.modules():
        for node in getattr(module, "graph", program.graph).nodes:
            namespace = getattr(node.target, "namespace", None)
            if node.op == "call_function" and isinstance(namespace, str) and namespace not in OWN:
                found.add(str(node.target))
    return found
