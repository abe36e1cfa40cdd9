"""`Inference`: a predictor as one function of tensors, from declared dtypes to declared dtypes."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from physgym.errors import ConfigError
from physgym.nn.export.fourier_matrices import FourierMatrices
from physgym.nn.fno import SpectralConv
from physgym.nn.predictor import Predictor, to_tensor
from physgym.nn.transforms import Fields, LossTransform
from physgym.nn.wrapped import plain_names, unwrapped
from physgym.sample import Field


class Inference(nn.Module):
    """A copy of a predictor on the CPU, whose call takes and gives fields in physical units and declared dtypes.

    Args:
        predictor: The network with its fields and transforms; it stays as it is.
        real: Whether to compute Fourier layers without complex numbers.

    Raises:
        ConfigError: The network is recurrent or cannot be copied, a normalization has no moments, weights are not
            finite, or torch has no tensors of a field's dtype.
    """

    def __init__(self, predictor: Predictor, *, real: bool = False) -> None:
        super().__init__()
        if predictor.recurrent:
            raise ConfigError(
                "the network is recurrent: an exported file makes single steps, and would start without its "
                "memory at each of them. Roll it out in Python: Predictor.predict_from(sample, memory)"
            )
        if not predictor.fitted:
            raise ConfigError(
                "a normalization of this network has no moments yet, so that it would be exported without: train the "
                "network, or call transforms.fit(dataset.statistics)"
            )
        self.predictor = plain_copy(predictor)
        self.predictor.transforms.before_loss = LossTransform()  # of the training alone
        if broken := [name for name, value in self.predictor.named_parameters() if not value.isfinite().all()]:
            raise ConfigError(f"the weights {broken[:5]} hold numbers that are not finite: the training diverged")
        if real:
            _without_complex_numbers(self.predictor)
        self.dtypes = {
            name: tensor_dtype(self.predictor.spec[name]) for name in (*predictor.inputs, *predictor.outputs)
        }

    def forward(self, fields: Fields) -> Fields:
        """Predict; shapes (batch, *shape)."""
        for name in self.predictor.inputs:  # which torch would cast without a word
            torch.ops.aten._assert_tensor_metadata(fields[name], None, None, self.dtypes[name])
        predicted = self.predictor.physical(fields)
        return {name: as_declared(predicted[name], self.dtypes[name]) for name in self.predictor.outputs}


def plain_copy(predictor: Predictor) -> Predictor:
    """Return a copy on the CPU, in evaluation mode, without the wrappers of torch.compile and of parallel computation.

    Raises:
        ConfigError: It cannot be copied.
    """
    copies: dict[int, Any] = {}
    try:
        for part in reversed(list(predictor.modules())):
            if (inner := unwrapped(part)) is not part:
                copies[id(part)] = copy.deepcopy(inner, copies)
        copied = copy.deepcopy(predictor, copies)
    except Exception as error:
        name = type(unwrapped(predictor.network)).__name__
        raise ConfigError(f"the network {name} cannot be exported, since it cannot be copied: {error}") from error
    return copied.cpu().eval().requires_grad_(requires_grad=False)


def weights_digest(predictor: Predictor) -> str:
    """Return the SHA-256 of weights and buffers, that of the file ``network.safetensors`` in a checkpoint of them."""
    weights = predictor.state_dict()
    plain = plain_names(predictor, weights)
    tensors = {plain[name]: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    return hashlib.sha256(safetensors.torch.save(tensors)).hexdigest()


def tensor_dtype(field: Field) -> torch.dtype:
    """Return the dtype of a field's tensors.

    Raises:
        ConfigError: torch has none.
    """
    try:
        return to_tensor(np.zeros(0, field.dtype)).dtype
    except TypeError as error:
        raise ConfigError(f"field {field.name!r} has dtype {field.dtype}, of which torch has no tensors") from error


def as_declared(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a prediction in a field's dtype, integers rounded, as `Predictor.predict` gives it."""
    whole = not (dtype.is_floating_point or dtype.is_complex or dtype is torch.bool)
    return (value.round() if whole and value.is_floating_point() else value).to(dtype)


def _without_complex_numbers(module: nn.Module) -> None:
    for part in module.modules():
        for name, child in part.named_children():
            if type(child) is SpectralConv:
                part.register_module(name, FourierMatrices(child))
