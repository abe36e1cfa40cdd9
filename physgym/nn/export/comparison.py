"""Comparison of an exported network with the one in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from physgym.errors import ConfigError
from physgym.nn.export.contract import Contract, Port
from physgym.nn.predictor import Predictor
from physgym.sample import Sample
from physgym.spaces import Array

BATCHES = (1, 2, 7)  # sizes with which a file is run
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
ROUNDINGS = 64  # of a prediction's largest value, that are allowed in addition to the tolerance


def compare(
    run: Callable[[Sample], Mapping[str, Any]],
    predictor: Predictor,
    contract: Contract,
    samples: Sample,
    tolerance: float | None,
    *,
    whose: str = "the exported network",
    advice: str = (
        "Nothing was written. What its precision explains can be allowed: export_network(..., tolerance=...), a part "
        "of the range of predictions"
    ),
    no_samples: str = "name samples for it (export_network(..., samples=...))",
) -> dict[str, Any]:
    """Compare the predictions of a file with those of a network, in batches of several sizes.

    Args:
        run: A function that runs the file: input fields to output fields, arrays with a batch axis.
        predictor: The network.
        contract: What the file takes and gives.
        samples: Input fields of as many samples as the largest batch has.
        tolerance: Largest difference as a part of the range of a field's predictions; by default what the precision
            of the weights allows.
        whose: What is compared, for errors.
        advice: What errors say is to be done.
        no_samples: The same, where the network predicts nothing that can be compared.

    Returns:
        What was compared, as plain JSON data.

    Raises:
        ConfigError: The file cannot be run with a batch of some size, or gives something else.
    """
    tolerance = TOLERANCES.get(predictor.dtype, 0.1) if tolerance is None else tolerance
    wanted = predictor.predict(samples, batched=True)
    for port in contract.outputs:
        if not np.isfinite(wanted[port.field.name]).any():
            raise ConfigError(
                f"the network predicts no finite value of field {port.field.name!r} for the samples on which "
                f"{whose} and torch are to be compared; {no_samples}"
            )
    allowed = {port.field.name: _allowed(wanted[port.field.name], predictor, tolerance) for port in contract.outputs}
    largest = dict.fromkeys(allowed, 0.0)
    for count in BATCHES:
        part = {name: value[:count] for name, value in samples.items()}
        right = predictor.predict(part, batched=True)
        try:
            given = run(part)
        except Exception as error:
            raise ConfigError(f"{whose} fails with a batch of {count}: {error}") from error
        for port in contract.outputs:
            name = port.field.name
            difference = _difference(given[name], right[name], port, count, whose)
            if not difference <= allowed[name]:
                raise ConfigError(
                    f"{whose} predicts field {name!r} with a difference of {difference:.2g} to torch, for a batch of "
                    f"{count}; {allowed[name]:.2g} is allowed. {advice}"
                )
            largest[name] = max(largest[name], difference)
    differences = {name: {"largest": largest[name], "allowed": allowed[name]} for name in largest}
    return {"batches": list(BATCHES), "tolerance": tolerance, "differences": differences}


def _allowed(wanted: Array, predictor: Predictor, tolerance: float) -> float:
    """Return the largest difference that is allowed: of integers 1, since a half may be rounded either way."""
    if wanted.dtype.kind in "iub":
        return 0.0 if wanted.dtype.kind == "b" else 1.0
    finite = np.abs(wanted[np.isfinite(wanted)]) if wanted.dtype.kind == "c" else wanted[np.isfinite(wanted)]
    finite = finite.astype(np.float64)
    eps = torch.finfo(predictor.dtype).eps
    if wanted.dtype.kind == "f":
        eps = max(eps, float(np.finfo(wanted.dtype).eps))
    return float(tolerance * (finite.max() - finite.min()) + ROUNDINGS * eps * np.abs(finite).max())


def _difference(given: Any, right: Array, port: Port, count: int, whose: str) -> float:
    """Return the largest difference between finite values.

    Raises:
        ConfigError: Shape or dtype are others, or what is not finite differs.
    """
    name = port.field.name
    if given.shape != (count, *port.field.shape) or given.dtype != port.dtype:
        raise ConfigError(
            f"{whose} gives field {name!r} as {given.dtype} of shape {given.shape} for a batch of {count} "
            f"instead of {port.dtype} of shape {(count, *port.field.shape)}"
        )
    finite = np.isfinite(right)
    if (np.isfinite(given) != finite).any() or not np.array_equal(given[~finite], right[~finite], equal_nan=True):
        raise ConfigError(f"{whose} gives field {name!r} values that are not finite where torch has others")
    if not finite.any():
        return 0.0
    wide = np.complex128 if right.dtype.kind == "c" else np.float64
    return float(np.abs(given[finite].astype(wide) - right[finite].astype(wide)).max())
