"""`MLP`: a fully connected network between arrays of any shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from physgym.checks import integer, is_integer
from physgym.errors import ConfigError
from physgym.nn.between_fields import BetweenFields
from physgym.nn.registry import named_network

Shapes = int | Sequence[int] | Sequence[Sequence[int]]


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def activation_class(name: str) -> type[nn.Module]:
    """Return the activation of a name.

    Raises:
        ConfigError: There is none of this name.
    """
    if name not in ACTIVATIONS:
        raise ConfigError(f"activation {name!r} is none of {sorted(ACTIVATIONS)}")
    return ACTIVATIONS[name]


@named_network
class MLP(BetweenFields):
    """A multi-layer perceptron that flattens its inputs and gives its outputs their shapes.

    Args:
        input_shapes: Shape of the input without the batch axis, or a list of shapes for several inputs, which are
            concatenated. A number stands for a vector of that length.
        output_shapes: Shape of the output, or a list of shapes for several outputs.
        hidden: Widths of the hidden layers; empty makes the network linear.
        activation: Name of the activation, a key of `ACTIVATIONS`.
        residual: Add each hidden layer's input to its output, from the second layer on; needs equal widths.
        block_layers: With `residual`, how many layers are skipped together: 2 adds a layer's input to the output of
            the next one. What follows the first hidden layer must be whole blocks.
        linear_skip: Add a linear map of the input to the output. It carries the linear part of a response, so that
            the hidden layers learn only the rest, which they start by predicting as zero.
        layer_norm: Normalize the input of each hidden layer but the first over its features.
        dropout: Probability to drop a hidden unit while training.
        bias: Whether layers add a constant; without, a homogeneous activation such as "relu" maps zero to zero.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        input_shapes: Shapes,
        output_shapes: Shapes,
        hidden: Sequence[int] = (256, 256),
        *,
        activation: str = "gelu",
        residual: bool = False,
        block_layers: int = 1,
        linear_skip: bool = False,
        layer_norm: bool = False,
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.input_shapes, _ = _shapes(input_shapes)
        self.output_shapes, self._one_output = _shapes(output_shapes)
        self.hidden = tuple(integer("hidden", width, 1) for width in hidden)
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout must lie in [0, 1), not {dropout}")
        if residual and len(set(self.hidden)) > 1:
            raise ConfigError(f"residual layers need one width, not {self.hidden}; repeat a width or drop `residual`")
        if not is_integer(block_layers, 1) or (residual and self.hidden and (len(self.hidden) - 1) % block_layers):
            raise ConfigError(
                f"{len(self.hidden)} hidden layers are not one and whole blocks of block_layers={block_layers}; give 1 "
                "+ a multiple of it"
            )
        self._options: dict[str, Any] = {
            "activation": activation,
            "residual": residual,
            "block_layers": block_layers,
            "linear_skip": linear_skip,
            "layer_norm": layer_norm,
            "dropout": dropout,
            "bias": bias,
        }
        self._skips, self.block_layers = residual, block_layers
        self.sizes = [math.prod(shape) for shape in self.output_shapes]
        inputs, outputs = sum(math.prod(shape) for shape in self.input_shapes), sum(self.sizes)

        make_activation = activation_class(activation)
        self.layers = nn.ModuleList()
        for index, (fan_in, width) in enumerate(zip((inputs, *self.hidden), self.hidden, strict=False)):
            norm = [nn.LayerNorm(fan_in)] if layer_norm and index else []
            drop = [nn.Dropout(dropout)] if dropout else []
            self.layers.append(nn.Sequential(*norm, nn.Linear(fan_in, width, bias), make_activation(), *drop))
        self.head = nn.Linear(self.hidden[-1] if self.hidden else inputs, outputs, bias)
        self.skip = nn.Linear(inputs, outputs, bias=False) if linear_skip else None
        if linear_skip:
            nn.init.zeros_(self.head.weight)
            if bias:
                nn.init.zeros_(self.head.bias)

    @property
    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON data."""
        outputs: list[Any] = [list(shape) for shape in self.output_shapes]
        return {
            "input_shapes": [list(shape) for shape in self.input_shapes],
            "output_shapes": outputs[0] if self._one_output else outputs,
            "hidden": list(self.hidden),
            **self._options,
        }

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Evaluate the network.

        Args:
            inputs: One tensor for each of `input_shapes`, shape (batch, *shape), of any real dtype.

        Returns:
            The output, shape (batch, *output_shape), in the dtype of the weights; a tuple if there are several.
        """
        dtype = self.head.weight.dtype
        # of small networks calls are what takes time, also those that change nothing
        flat = [v if v.ndim == 2 else v.flatten(1) if v.ndim > 1 else v.unsqueeze(1) for v in inputs]
        x = torch.cat([value.to(dtype) for value in flat], 1) if len(flat) > 1 else flat[0].to(dtype)
        h = skipped = x
        for index, layer in enumerate(self.layers):
            h = layer(h)
            if self._skips and index % self.block_layers == 0:  # the end of a block; the first layer is one of its own
                h = skipped = skipped + h if index else h
        y = self.head(h) if self.skip is None else self.head(h) + self.skip(x)
        if self._one_output:
            if len(shape := self.output_shapes[0]) == 1:
                return cast(Tensor, y)
            return cast(Tensor, y.unflatten(1, shape) if shape else y.squeeze(1))
        return tuple(
            part.reshape(part.shape[0], *shape)
            for part, shape in zip(y.split(self.sizes, 1), self.output_shapes, strict=True)
        )


def _shapes(shapes: Shapes) -> tuple[list[tuple[int, ...]], bool]:
    """Return the shapes as a list, and whether a single one was given bare."""
    items = [shapes] if is_integer(shapes) else list(shapes)
    bare = all(is_integer(item) for item in items)  # also `()`, the shape of a scalar
    nested = [tuple(cast(list[int], items))] if bare else [_shape(item) for item in cast(list[Sequence[int]], items)]
    if any(not is_integer(size, 1) for shape in nested for size in shape):
        raise ConfigError(f"the sizes of a shape must be positive, not {shapes}")
    return [tuple(map(int, shape)) for shape in nested], bare


def _shape(item: int | Sequence[int]) -> tuple[int, ...]:
    return (item,) if is_integer(item) else tuple(item)
