"""Engines: what computes the predictions of a network in place of torch's own interpreter, made once at the start.

An engine has the network with its normalization and transforms as one program. It is compared with the network when it
is made, and rounds otherwise.
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from physgym.engine_names import Engine
from physgym.errors import ConfigError
from physgym.nn.export.comparison import BATCHES, compare
from physgym.nn.export.contract import Contract
from physgym.nn.export.inference import Inference, weights_digest
from physgym.nn.export.network_file import RunFile
from physgym.nn.export.onnx_model import OnnxModel
from physgym.nn.export.program import traced
from physgym.nn.export.samples import drawn_samples, samples_for
from physgym.nn.predictor import Predictor, to_tensor
from physgym.nn.undisturbed import undisturbed
from physgym.sample import Sample

SHOWN = 300  # letters of an error of a library


@dataclass(frozen=True)
class BuiltEngine:
    """A network as a program.

    Attributes:
        run: Runs it: input fields to output fields, arrays with a batch axis.
        network: Digest of the network of which it was made, see `network_digest`.
        text: What it is and how far from torch, a clause for people.
    """

    run: RunFile
    network: str
    text: str


def build_engine(predictor: Predictor, engine: Engine, *, threads: int) -> BuiltEngine:
    """Make an engine of a network, and compare both.

    Args:
        predictor: The network, on the CPU.
        engine: "onnx" or "compiled".
        threads: How many threads of the processor it takes.

    Raises:
        ConfigError: A package or a compiler is missing, the network cannot be exported, it is recurrent or on another
            device, or predictions differ by more than its precision explains.
    """
    if predictor.recurrent:
        raise ConfigError(f"engine={engine!r} makes single steps, and the network is recurrent; use engine='torch'")
    if predictor.device.type != "cpu":
        raise ConfigError(
            f"engine={engine!r} computes on the CPU, and the network is on {predictor.device}; use engine='torch', or "
            "put the network on the CPU (--cpu)"
        )
    if engine == "onnx":
        made_with = OnnxModel().made_with
        title = f"onnxruntime {made_with['onnxruntime']}"
    else:
        _check_compiler()
        title = "compiled"
    contract = Contract.of(predictor, distinct=engine == "onnx")
    with undisturbed():
        module = Inference(predictor, real=engine == "onnx")
        samples, _ = samples_for(predictor, max(BATCHES))
        program = traced(module, {name: to_tensor(samples[name][:2]) for name in predictor.inputs})
        with tempfile.TemporaryDirectory(prefix="physgym-engine-") as folder:
            run = _in_onnx if engine == "onnx" else _compiled
            running = run(program, contract, Path(folder), threads)
        compared = compare(
            running,
            predictor,
            contract,
            samples,
            None,
            whose=f"the engine {engine!r}",
            advice="Use engine='torch'",
            no_samples="use engine='torch'",
        )
    differences = ", ".join(
        f"{name} {value['largest']:.1e} {predictor.spec[name].unit}".rstrip()
        for name, value in compared["differences"].items()
    )
    return BuiltEngine(running, network_digest(predictor), f"{title}, largest difference to torch: {differences}")


def network_digest(predictor: Predictor) -> str:
    """Return a digest of the weights of a network, and of what it predicts for a few random samples.

    The predictions show what else has changed: an attribute, a buffer that is not saved, the code.
    """
    with undisturbed():
        predicted = predictor.predict(drawn_samples(predictor, max(BATCHES)), batched=True)
    whole = hashlib.sha256(weights_digest(predictor).encode())
    for value in predicted.values():
        whole.update(np.ascontiguousarray(value).tobytes())
    return whole.hexdigest()


def _in_onnx(program: Any, contract: Contract, folder: Path, threads: int) -> RunFile:
    """Return a program as a function of onnxruntime."""
    form, file = OnnxModel("use engine='torch' or engine='compiled'"), folder / "network.onnx"
    form.save(program, contract, "{}", file)
    return form.open(file, contract, threads=threads)


def _compiled(program: Any, contract: Contract, folder: Path, threads: int) -> RunFile:
    """Return a program as a function that torch's compiler makes ahead of time."""
    from torch._inductor import aoti_compile_and_package, aoti_load_package
    from torch._inductor import config as inductor

    try:
        with warnings.catch_warnings(), inductor.patch(compile_threads=1):  # more are processes, which stay
            warnings.simplefilter("ignore")  # deprecations within torch
            file = aoti_compile_and_package(program, package_path=str(folder / "network.pt2"))
        loaded = aoti_load_package(file)
    except Exception as error:
        text = " ".join(str(error).split())[:SHOWN]
        raise ConfigError(f"torch cannot compile this network: {text}. Use engine='onnx' or engine='torch'") from error

    def run(sample: Sample) -> Mapping[str, Any]:
        with torch.no_grad():
            given = loaded({port.tensor: to_tensor(sample[port.field.name]) for port in contract.inputs})
        return {port.field.name: given[port.tensor].numpy() for port in contract.outputs}

    return run


def _check_compiler() -> None:
    """Raise ConfigError where torch finds no C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ConfigError(
            "engine='compiled' needs a C++ compiler, and torch finds none: install g++ (apt install g++), or name one "
            "in the variable CXX; engine='onnx' needs none"
        ) from error
