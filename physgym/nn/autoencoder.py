"""`Autoencoder`: pictures through a few numbers and back, plain, variational or contractive."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from physgym.checks import integer, integers, one_of, positive
from physgym.errors import ConfigError
from physgym.nn.mlp import activation_class
from physgym.nn.optimization import Optimization
from physgym.nn.predictor import field_names
from physgym.nn.registry import named_network
from physgym.nn.transforms import Fields
from physgym.nn.wrapped import unwrapped
from physgym.sample import SampleSpec

Regularity = Literal["plain", "variational", "contractive"]
LEVELS = 255.0  # of pictures of bytes
NUMBERS = 32  # of the latent vector
WEIGHT = 1e-3  # of the penalty of a contractive one
NOISE = 0.1  # standard deviation of the noise of a variational one's decoder


@named_network
class Autoencoder(nn.Module):
    """A convolutional autoencoder: its input is a picture, and so is its output, which is to be the same.

    Convolutions of stride 2 halve the picture at each of the `widths`, and a linear layer makes the latent vector of
    what is left; the way back mirrors it. Train it with `AutoencoderOptimization`, the picture as input and output::

        network = Autoencoder.from_spec(dataset.spec, inputs=["observation"])
        Trainer(network, dataset, inputs=["observation"], outputs=["observation"], epochs=20,
                optimization=AutoencoderOptimization(network, lr=1e-3))

    A *variational* one draws the latent vector, in training, from a normal distribution whose mean and variance it
    encodes, and pays for the divergence from the standard normal (Kingma and Welling, "Auto-Encoding Variational
    Bayes", 2014). A *contractive* one pays for the squared Frobenius norm of the Jacobian of its encoder (Rifai et al.,
    "Contractive Auto-Encoders", ICML 2011), so that the latent vector hardly follows what does not matter.

    Args:
        shape: Of the pictures: (height, width), or (height, width, channels).
        latent: Numbers of the latent vector.
        widths: Channels after each halving.
        regularity: "plain", "variational" or "contractive".
        levels: What pictures are divided by before they are encoded: the largest number of unsigned integers, 255 for
            bytes, within which the decoder stays; None for other numbers, which are taken as they are.
        activation: Name of the activation, a key of `physgym.nn.mlp.ACTIVATIONS`.
        projections: How many random directions estimate the norm of the Jacobian; as many as `latent` make it exact.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        latent: int = NUMBERS,
        widths: Sequence[int] = (16, 32, 64),
        regularity: Regularity = "plain",
        levels: float | None = LEVELS,
        activation: str = "relu",
        projections: int = 1,
    ) -> None:
        super().__init__()
        sides, channels = integers("shape", shape, 1), integers("widths", widths, 1)
        if not isinstance(sides, list) or len(sides) not in (2, 3):
            raise ConfigError(f"pictures have shape (height, width) or (height, width, channels), not {shape}")
        if not isinstance(channels, list) or not channels:
            raise ConfigError(f"widths={widths} are none: give the channels after each halving, such as (16, 32)")
        one_of("regularity", regularity, get_args(Regularity))
        self.shape, self.latent = tuple(sides), integer("latent", latent, 1)
        projections = integer("projections", projections, 1, self.latent)
        self.regularity, self.levels = regularity, None if levels is None else positive("levels", levels)
        self._options = {"widths": channels, "activation": activation, "projections": projections}
        make = activation_class(activation)
        height, width, depth = *sides[:2], sides[2] if len(sides) == 3 else 1
        self._padding = [-side % 2 ** len(channels) for side in (height, width)]
        small = [(side + more) // 2 ** len(channels) for side, more in zip((height, width), self._padding, strict=True)]
        layers = list(itertools.pairwise([depth, *channels]))
        down: list[nn.Module] = []
        up: list[nn.Module] = [nn.Unflatten(1, (channels[-1], *small))]
        for a, b in layers:
            down += [nn.Conv2d(a, b, 4, stride=2, padding=1), make()]
        for a, b in reversed(layers):
            up += [make(), nn.ConvTranspose2d(b, a, 4, stride=2, padding=1)]
        numbers = channels[-1] * math.prod(small)
        encoded = self.latent * (2 if regularity == "variational" else 1)
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(numbers, encoded))
        self.decoder = nn.Sequential(nn.Linear(self.latent, numbers), *up)
        for layer in (*down, *self.decoder):  # nothing else keeps the magnitude from layer to layer
            _keep_magnitude(layer)
        self._passed: tuple[Tensor, Tensor, Tensor | None] | None = None  # what the penalty of a pass is computed from

    @property
    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON data."""
        own = {"shape": list(self.shape), "latent": self.latent, "regularity": self.regularity, "levels": self.levels}
        return own | self._options

    @classmethod
    def from_spec(
        cls,
        spec: SampleSpec,
        *,
        inputs: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        **options: Any,
    ) -> Self:
        """Return a network for the pictures among the fields of samples.

        Args:
            spec: The samples' fields.
            inputs: Name of the pictures, by default the only input of two or three axes.
            outputs: The same name, or None.
            options: The other arguments of the constructor; `levels` follows from the dtype of the pictures.

        Raises:
            ConfigError: It is not clear which field has the pictures, or another one is to be predicted.
        """
        found = [name for name in spec.names("input") if len(spec[name].shape) in (2, 3)] if inputs is None else inputs
        (name, *more), _ = field_names(spec, found, found)
        if more or (outputs is not None and list(outputs) != [name]):
            raise ConfigError(
                f"an autoencoder has one field of pictures as input and output, and not {[name, *more]} to "
                f"{list(outputs or found)}: name it in inputs and outputs"
            )
        dtype = spec[name].dtype
        levels = float(np.iinfo(dtype).max) if dtype.kind == "u" else None
        return cls(spec[name].shape, **{"levels": levels, **options})

    def forward(self, picture: Tensor) -> Tensor:
        """Return the picture as it is after encoding and decoding, shape (batch, *shape), in the dtype of the weights.

        Args:
            picture: Shape (batch, *shape), of any real dtype.

        Raises:
            ConfigError: In training, the penalty of the last pass was not used.
        """
        unused = self._passed is not None and self._passed[1].requires_grad
        if unused and self.training and self.regularity != "plain":
            raise ConfigError(
                f"a {self.regularity} autoencoder has a penalty in its loss, which was not used: train it with "
                "physgym.nn.AutoencoderOptimization"
            )
        scaled = self._scaled(picture)
        mean, log_variance = self._encoded(scaled)
        self._passed = scaled, mean, log_variance
        latent = mean
        if log_variance is not None and self.training:
            latent = mean + torch.randn_like(mean) * torch.exp(log_variance / 2)
        return self.decode(latent)

    def encode(self, picture: Tensor) -> Tensor:
        """Return the latent vectors of pictures, shape (batch, latent); the means of a variational one.

        Args:
            picture: Shape (batch, *shape), of any real dtype.
        """
        return self._encoded(self._scaled(picture))[0]

    def decode(self, latent: Tensor) -> Tensor:
        """Return the pictures of latent vectors, shape (batch, *shape), in the dtype of the weights.

        Args:
            latent: Shape (batch, latent).
        """
        x: Tensor = self.decoder(latent)  # (batch, channels, *padded)
        x = x[:, :, : self.shape[0], : self.shape[1]]
        x = x if self.levels is None else torch.sigmoid(x) * self.levels
        return x.movedim(1, -1) if len(self.shape) == 3 else x[:, 0]

    def penalty(self) -> Tensor:
        """Return what the last pass adds to the loss, a scalar: the mean over its pictures; 0 for a plain one.

        Raises:
            ConfigError: There was no pass, or its penalty was used already.
        """
        if self._passed is None:
            raise ConfigError("the penalty of an autoencoder is that of a pass, and there was none since the last one")
        (scaled, mean, log_variance), self._passed = self._passed, None
        if log_variance is not None:
            return (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
        return self._contraction(scaled) if self.regularity == "contractive" else mean.new_zeros(())

    def _scaled(self, picture: Tensor) -> Tensor:
        """Return pictures as the encoder takes them: shape (batch, channels, *padded)."""
        if tuple(picture.shape[1:]) != self.shape:
            raise ConfigError(
                f"pictures of shape {tuple(picture.shape[1:])} come where the autoencoder has {self.shape}"
            )
        x = picture.to(next(self.parameters()).dtype)
        x = x if self.levels is None else x / self.levels - 0.5
        x = x.movedim(-1, 1) if len(self.shape) == 3 else x.unsqueeze(1)
        below, right = self._padding
        return functional.pad(x, (0, right, 0, below), mode="replicate") if below or right else x

    def _encoded(self, scaled: Tensor) -> tuple[Tensor, Tensor | None]:
        encoded: Tensor = self.encoder(scaled)
        if self.regularity != "variational":
            return encoded, None
        mean, log_variance = encoded.chunk(2, 1)
        return mean, log_variance.clamp(-20.0, 20.0)  # so that no exponential overflows at the beginning

    def _contraction(self, scaled: Tensor) -> Tensor:
        """Return the squared Frobenius norm of the encoder's Jacobian, from its products with random directions."""
        count = cast(int, self._options["projections"])
        # evaluating changes nothing: neither the generator that the training draws from, nor what it draws
        generator = None if self.training else torch.Generator(scaled.device).manual_seed(0)
        drawn = torch.randn(self.latent, self.latent, generator=generator, device=scaled.device, dtype=scaled.dtype)
        directions = torch.linalg.qr(drawn)[0][:count]  # orthonormal: all of them together are exact
        with torch.enable_grad():
            pictures = scaled.detach().requires_grad_()
            latent = self._encoded(pictures)[0].sum(0)  # of one picture each: the others have no part in it
            rows = [torch.autograd.grad(one @ latent, pictures, create_graph=True)[0] for one in directions]
        return torch.stack([row.square().sum() for row in rows]).sum() * self.latent / count / len(scaled)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_passed": None}  # tensors with a gradient cannot be copied


def _keep_magnitude(layer: nn.Module) -> None:
    """Draw initial weights as He et al. (2015) for layers behind which there are rectifiers."""
    if isinstance(layer, nn.ConvTranspose2d):  # a number of the output is a sum over a quarter of each kernel
        nn.init.normal_(layer.weight, std=math.sqrt(2 / (layer.in_channels * math.prod(layer.kernel_size) / 4)))
    elif isinstance(layer, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


class AutoencoderOptimization(Optimization):
    """The loss of an `Autoencoder`: the error of the pictures, and the penalty of a variational or contractive one.

    The error is that of pictures divided by their levels, by default the mean square over all numbers. The logs have it
    as ``reconstruction``, and the penalty, before it is weighed, as ``penalty``.

    Args:
        network: The autoencoder.
        weight: How much the penalty counts. By default, for a variational one, ``2 * 0.1**2 / numbers of a picture``,
            with which the loss is the evidence lower bound of a decoder with normal noise of standard deviation 0.1;
            and 1e-3 for a contractive one.
        options: As for `Optimization`.

    Raises:
        ConfigError: The network is no autoencoder, or an argument is out of range.
    """

    def __init__(self, network: nn.Module, *, weight: float | None = None, **options: Any) -> None:
        inner = unwrapped(network)
        if not isinstance(inner, Autoencoder):
            raise ConfigError(f"AutoencoderOptimization is for an Autoencoder, not for a {type(inner).__name__}")
        if weight is None:
            weight = WEIGHT if inner.regularity == "contractive" else 2 * NOISE**2 / math.prod(inner.shape)
        if not 0.0 <= weight < math.inf:
            raise ConfigError(f"weight must be a finite number that is not negative, not {weight}")
        super().__init__(network, **options)
        self._network, self.weight = inner, float(weight)

    def compute_loss(self, prediction: Fields, target: Fields) -> Tensor:
        """Return the error of the pictures, of numbers from 0 to 1 where they are bytes."""
        levels = self._network.levels
        if levels is not None:
            prediction, target = ({n: value / levels for n, value in one.items()} for one in (prediction, target))
        return super().compute_loss(prediction, target)

    def transform_loss(self, loss: Tensor, prediction: Fields, target: Fields) -> Mapping[str, Tensor]:
        """Return the loss with the penalty, and both of them."""
        penalty = self._network.penalty()
        return {"loss": loss + self.weight * penalty, "reconstruction": loss, "penalty": penalty}

    @property
    def settings(self) -> dict[str, Any]:
        """Return what must be the same to continue from a state."""
        return super().settings | {"weight": self.weight}
