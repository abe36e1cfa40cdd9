"""`FlatMLP`: the prediction of an MLP with its normalization as a few operations, for predictions one by one.

A prediction of a small network goes through some thirty calls of modules, each with its hooks, dictionaries and
attributes. One after the other they take as long as the arithmetic; after the step of a solver, which has taken the
caches, several times as long. Here are the same operations on the same tensors, with the same bits.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functions
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from physgym.loading.reused_memory import ALIGNED
from physgym.nn.mlp import MLP
from physgym.nn.predictor import Predictor, to_tensor
from physgym.nn.transforms import Inverse, Normalize, Transform
from physgym.sample import Sample
from physgym.spaces import Array

ACTIVATIONS: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.ELU: functions.elu,
    nn.GELU: functions.gelu,
    nn.LeakyReLU: functions.leaky_relu,
    nn.ReLU: functions.relu,
    nn.SiLU: functions.silu,
    nn.Softplus: functions.softplus,
    nn.Tanh: torch.tanh,
}  # as `physgym.nn.mlp.ACTIVATIONS` makes them, without arguments

BUFFERS = ("mean", "scale")  # of a `Normalize`, with the number of the field behind

_get: Any = dict.get
_contains: Any = dict.__contains__


class FlatMLP:
    """The operations of a predictor, see `FlatMLP.of`.

    Args:
        predictor: One for which `can_be_flat` is true.
    """

    def __init__(self, predictor: Predictor) -> None:
        modules = list(predictor.modules())
        self._hooks = [hooks for one in modules for hooks in (one._forward_hooks, one._forward_pre_hooks)]
        self._hooks += [_global_forward_hooks, _global_forward_pre_hooks]
        self._modules = modules, [vars(one) for one in modules], [one._modules for one in modules]
        self._form = [type(one) for one in modules], [len(one._modules) for one in modules]
        parts = [part for module in modules for part in _parts(module)]
        self._dictionaries, self._names, self._values = (tuple(part[at] for part in parts) for at in range(3))
        self._tensors = [value for value in self._values if isinstance(value, Tensor)]
        self._places = [tensor.data_ptr() for tensor in self._tensors]

        network: Any = predictor.network
        transforms = predictor.transforms
        self._inputs = [(name, *_scales(transforms.before_prediction, name)) for name in predictor.feeding.positional]
        self._layers = [_layer(layer) for layer in network.layers]
        self._every = network.block_layers if network._skips else 0
        self._head = _weights(network.head)
        self._skip = None if network.skip is None else _weights(network.skip)
        self._sizes = network.sizes
        back: Any = transforms.before_apply
        back = back.transform if isinstance(back, Inverse) else back
        self._outputs = [(name, predictor.spec[name].shape, *_scales(back, name)) for name in predictor.outputs]

    @classmethod
    def of(cls, predictor: Predictor) -> FlatMLP | None:
        """Return the operations of a predictor; None for one that has others than these, or hooks."""
        if not can_be_flat(predictor):
            return None
        made = cls(predictor)
        return made if made.holds else None

    @property
    def holds(self) -> bool:
        """Return whether the predictor consists of what it did, and calls of its modules would do nothing else."""
        modules, attributes, children = self._modules
        kinds, counts = self._form
        if any(self._hooks) or any(map(_contains, attributes, repeat("forward"))):
            return False
        if any(map(_get, attributes, repeat("training"))):  # a dropout alone may be training
            return False
        # modules may have another class, or more of their own than they had
        if list(map(type, modules)) != kinds or list(map(len, children)) != counts or torch.is_autocast_enabled("cpu"):
            return False
        if not all(map(operator.is_, map(_get, self._dictionaries, self._names), self._values)):
            return False
        return [tensor.data_ptr() for tensor in self._tensors] == self._places

    def predict(self, fed: Mapping[str, Array]) -> Sample:
        """Return what `Predictor.predict` does, for what `Predictor.arrays` returned.

        Args:
            fed: The input fields, shape (batch, *shape).
        """
        flat = []
        for name, mean, scale in self._inputs:
            tensor = to_tensor(fed[name])
            count = tensor.shape[0]
            tensor = tensor.reshape(count, -1) if tensor.ndim != 2 else tensor
            if mean is not None:
                tensor = (tensor - mean).div_(scale)
            elif tensor.data_ptr() % ALIGNED:  # as `Predictor.tensors`
                tensor = tensor.clone()
            flat.append(tensor)
        x = torch.cat(flat, 1) if len(flat) > 1 else flat[0]
        h = skipped = x
        for number, (norm, weights, activation) in enumerate(self._layers):
            if norm is not None:
                h = functions.layer_norm(h, *norm)
            h = activation(functions.linear(h, *weights))
            if self._every and number % self._every == 0:
                h = skipped = skipped + h if number else h
        y = functions.linear(h, *self._head)
        if self._skip is not None:
            y = y + functions.linear(x, *self._skip)
        found: Sample = {}
        parts = torch.split(y, self._sizes, 1) if len(self._sizes) > 1 else (y,)
        for part, (name, shape, mean, scale) in zip(parts, self._outputs, strict=True):
            value = part if mean is None else (part * scale).add_(mean)
            found[name] = value.numpy().reshape(count, *shape)
        return found


def can_be_flat(predictor: Predictor) -> bool:
    """Return whether a predictor is an `MLP` with at most a normalization around it, of 32-bit floats on the CPU."""
    network, transforms = predictor.network, predictor.transforms
    before, after = transforms.before_prediction, transforms.before_apply
    plain = type(predictor) is Predictor and type(network) is MLP and predictor.changes is None
    if not plain or predictor.training or predictor.feeding.keywords:
        return False
    if type(before) not in (Transform, Normalize) or type(after) not in (Transform, Inverse):
        return False
    inner = after.transform if isinstance(after, Inverse) else after
    if isinstance(after, Inverse) and type(inner) is not Normalize:
        return False
    if not all(_is_flat(one) for one in (before, inner) if isinstance(one, Normalize)):
        return False
    if not all(_is_usual(layer) for layer in network.layers):  # type: ignore[union-attr]
        return False
    dtypes = {field.dtype for field in predictor.spec.values()}
    tensors = [*predictor.parameters(), *predictor.buffers()]
    return dtypes == {np.dtype(np.float32)} and all(one.dtype is torch.float32 and one.is_cpu for one in tensors)


def _is_usual(layer: Any) -> bool:
    """Return whether a hidden layer is one that `MLP` makes."""
    kinds = [type(part) for part in layer if type(part) is not nn.Dropout]
    return kinds[-2:-1] == [nn.Linear] and kinds[-1] in ACTIVATIONS and kinds[:-2] in ([], [nn.LayerNorm])


def _parts(module: nn.Module) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Yield what a module consists of: a dictionary, a name, and what it has there."""
    for dictionary in (module._modules, module._parameters, module._buffers):
        for name, value in dictionary.items():
            yield dictionary, name, value


def _weights(linear: Any) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of a layer, in the same memory, which need no gradient."""
    return linear.weight.detach(), None if linear.bias is None else linear.bias.detach()


def _layer(layer: Any) -> tuple[Any, tuple[Tensor, Tensor | None], Callable[[Tensor], Tensor]]:
    """Return a hidden layer: the arguments of the normalization before it, its weights, and its activation."""
    norm, weights, activation = None, None, None
    for part in layer:
        if isinstance(part, nn.LayerNorm):
            norm = part.normalized_shape, part.weight.detach(), part.bias.detach(), part.eps
        elif isinstance(part, nn.Linear):
            weights = _weights(part)
        elif not isinstance(part, nn.Dropout):
            activation = ACTIVATIONS[type(part)]
    assert weights is not None
    assert activation is not None
    return norm, weights, activation


def _is_flat(normalize: Normalize) -> bool:
    """Return whether each field has a scale and a mean for each of its values, or one for all."""
    shapes = list(normalize.shapes.values())
    buffers = [(normalize.get_buffer(f"{what}_{at}"), shapes[at]) for at in range(len(shapes)) for what in BUFFERS]
    return all(buffer.is_contiguous() and tuple(buffer.shape) in ((), shape) for buffer, shape in buffers)


def _scales(transform: nn.Module, name: str) -> list[Any]:
    """Return mean and scale of a field, each of shape (n,) or () and in the same memory; None where it has none."""
    if not isinstance(transform, Normalize) or name not in transform.shapes:
        return [None, None]
    at = list(transform.shapes).index(name)
    buffers = [transform.get_buffer(f"{what}_{at}") for what in BUFFERS]
    return [buffer.view(-1) if buffer.ndim else buffer for buffer in buffers]
