"""`CNN`: convolutions over pictures, joined by all other inputs, in front of fully connected layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from physgym.checks import integer, is_integer
from physgym.errors import ConfigError
from physgym.nn.between_fields import BetweenFields
from physgym.nn.mlp import MLP, Shapes, activation_class
from physgym.nn.registry import named_network

ChannelAxis = Literal["first", "last", "auto"]

# of Mnih et al. (2015): channels, side of the kernel, stride
LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))


@named_network
class CNN(BetweenFields):
    """A convolutional network that reads pictures, such as those of a camera.

    Pictures of dtype uint8 are divided by 255, others are taken as they are. They have the shape (height, width), or
    with an axis of channels, (height, width, channels) or (channels, height, width); with one more axis in front they
    are a stack, such as the last frames of a camera, whose pictures become channels. Inputs of at most one axis, such
    as a speed, join the features behind the convolutions. The default layers are those of Mnih et al., "Human-level
    control through deep reinforcement learning", Nature 518 (2015).

    Args:
        input_shapes: Shape of each input without the batch axis, or that of a single one.
        output_shapes: Shape of the output, or a list of shapes for several outputs.
        layers: Channels, side of the kernel and stride of each convolution.
        hidden: Widths of the fully connected layers behind.
        activation: Name of the activation, a key of `physgym.nn.mlp.ACTIVATIONS`.
        channel_axis: Where pictures of three axes have their channels; "auto" takes the shorter of the first and the
            last axis.

    Raises:
        ConfigError: An argument is out of range, no input is a picture, or one is too small for the convolutions.
    """

    def __init__(
        self,
        input_shapes: Shapes,
        output_shapes: Shapes,
        layers: Sequence[Sequence[int]] = LAYERS,
        hidden: Sequence[int] = (512,),
        *,
        activation: str = "relu",
        channel_axis: ChannelAxis = "auto",
    ) -> None:
        super().__init__()
        if channel_axis not in get_args(ChannelAxis):
            raise ConfigError(f"channel_axis is one of {get_args(ChannelAxis)}, not {channel_axis!r}")
        self.input_shapes = _shapes(input_shapes)
        self.layers = [_layer(one) for one in layers]
        if not self.layers:
            raise ConfigError("a CNN needs layers, each with channels, side of the kernel and stride")
        self.channel_axis = channel_axis
        self._axes = [_axes(shape, channel_axis) if len(shape) > 1 else None for shape in self.input_shapes]
        channels, height, width = self._stacked_size()
        parts: list[nn.Module] = []
        for number, (given, kernel, stride) in enumerate(self.layers):
            if kernel > min(height, width):
                raise ConfigError(
                    f"pictures of {self.input_shapes} are {height} x {width} where they reach layer {number}, whose "
                    f"kernel is {kernel} x {kernel}: give larger pictures, or layers with smaller kernels and strides"
                )
            parts += [nn.Conv2d(channels, given, kernel, stride), activation_class(activation)()]
            channels, height, width = given, *((side - kernel) // stride + 1 for side in (height, width))
        self.convolutions = nn.Sequential(*parts)
        vectors = [shape for shape, axes in zip(self.input_shapes, self._axes, strict=True) if axes is None]
        self.head = MLP([(channels * height * width,), *vectors], output_shapes, hidden, activation=activation)

    def _stacked_size(self) -> tuple[int, int, int]:
        """Return channels, height and width of all pictures together."""
        sizes = []
        for shape, axes in zip(self.input_shapes, self._axes, strict=True):
            if axes is not None:
                *channels, height, width = (shape[axis - 1] for axis in axes)
                sizes.append((math.prod(channels), height, width))
        if not sizes:
            raise ConfigError(f"none of the inputs of a CNN, {self.input_shapes}, is a picture; take an MLP")
        (_, height, width), *_ = sizes
        if any(size[1:] != (height, width) for size in sizes):
            raise ConfigError(f"the pictures of a CNN have different sizes, {self.input_shapes}; resize them to one")
        return sum(size[0] for size in sizes), height, width

    @property
    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON data."""
        behind = self.head.config
        return {
            "input_shapes": [list(shape) for shape in self.input_shapes],
            "output_shapes": behind["output_shapes"],
            "layers": [list(layer) for layer in self.layers],
            "hidden": behind["hidden"],
            "activation": behind["activation"],
            "channel_axis": self.channel_axis,
        }

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Evaluate the network.

        Args:
            inputs: One tensor for each of `input_shapes`, shape (batch, *shape), of any real dtype.

        Returns:
            The output, shape (batch, *output_shape), in the dtype of the weights; a tuple if there are several.

        Raises:
            ConfigError: An input has another shape.
        """
        dtype = self.head.head.weight.dtype
        pictures, vectors = [], []
        for value, shape, axes in zip(inputs, self.input_shapes, self._axes, strict=True):
            if value.shape[1:] != shape:  # other channels might be taken for those of the first layer
                raise ConfigError(f"an input of shape {tuple(value.shape[1:])} comes where the CNN has {shape}")
            if axes is None:
                vectors.append(value)
                continue
            x = value.permute(0, *axes).to(dtype)  # (batch, channels, height, width), in one or two axes of channels
            if value.dtype == torch.uint8:
                x = x.mul_(1 / 255)
            pictures.append(x.flatten(1, -3) if len(axes) > 3 else x if len(axes) == 3 else x.unsqueeze(1))
        x = torch.cat(pictures, 1) if len(pictures) > 1 else pictures[0]
        result: Tensor | tuple[Tensor, ...] = self.head(self.convolutions(x), *vectors)
        return result


def _shapes(shapes: Shapes) -> list[tuple[int, ...]]:
    """Return the shapes as a list; a single one may be given bare."""
    given: list[Any] = [shapes] if is_integer(shapes) or all(is_integer(one) for one in shapes) else list(shapes)
    return [tuple(integer("a side of input_shapes", side, 1) for side in shape) for shape in given]


def _layer(given: Sequence[int]) -> tuple[int, int, int]:
    if not isinstance(given, (list, tuple)) or len(given) != 3:
        raise ConfigError(f"a layer of a CNN is [channels, side of the kernel, stride], not {given!r}")
    channels, kernel, stride = (integer("channels, kernel and stride of a layer", number, 1) for number in given)
    return channels, kernel, stride


def _axes(shape: tuple[int, ...], channel_axis: ChannelAxis) -> tuple[int, ...]:
    """Return the axes of a batch of pictures in the order of stack and channels, height, width."""
    if len(shape) == 2:
        return 1, 2
    if len(shape) > 4:
        raise ConfigError(
            f"pictures of shape {shape} have more axes than a stack, height, width and channels; take others out"
        )
    stack, (first, _, last) = len(shape) - 3, shape[-3:]
    if channel_axis == "auto" and first == last:
        raise ConfigError(f"where do pictures of shape {shape} have their channels? Say channel_axis='first' or 'last'")
    in_front = first < last if channel_axis == "auto" else channel_axis == "first"
    order = (1, 2, 3) if in_front else (3, 1, 2)
    return (*range(1, stack + 1), *(stack + axis for axis in order))
