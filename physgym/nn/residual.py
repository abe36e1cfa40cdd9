"""The residual of a network on a grid: which input channel is added to which output channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from physgym.errors import ConfigError
from physgym.sample import SampleSpec

Residual = bool | str | Mapping[str, str] | Sequence[int | None]


def residual_channels(
    residual: Residual,
    spec: SampleSpec,
    inputs: Sequence[str],
    outputs: Sequence[str],
    fed: Mapping[str, int],
    given: Sequence[int | None],
) -> list[int | None]:
    """Return the input channel that is added to each output channel, None for none.

    Args:
        residual: A list of input channels, the name of an input, names by output, or True, see `GridNetwork.from_spec`.
        spec: The samples' fields.
        inputs: Names of the input fields.
        outputs: Names of the output fields.
        fed: Channels of each input.
        given: Channels of each output, None for one without a channel axis.

    Raises:
        ConfigError: A name is unknown, or two fields have different numbers of channels, or the choice is not clear.
    """
    if isinstance(residual, Sequence) and not isinstance(residual, str):
        return list(residual)
    if isinstance(residual, str) and len(outputs) > 1:
        raise ConfigError(f"residual={residual!r} is for one output; there are {list(outputs)}: {{output: input, ...}}")
    chosen = {outputs[0]: residual} if isinstance(residual, str) else residual
    starts = {name: sum(fed[other] for other in inputs[:at]) for at, name in enumerate(inputs)}
    if isinstance(chosen, Mapping):
        for role, names, known in (("output", chosen, outputs), ("input", chosen.values(), inputs)):
            if unknown := [name for name in names if name not in known]:
                raise ConfigError(f"residual names {unknown[0]!r}, which is none of the {role} fields {list(known)}")
    channels: list[int | None] = []
    for name, count in zip(outputs, given, strict=True):
        size = count or 1
        source = _counterpart(name, spec, inputs) if chosen is True else cast(Mapping[str, str], chosen).get(name)
        if source is None:
            channels += [None] * size
            continue
        if fed[source] != size:
            raise ConfigError(
                f"residual adds field {source!r} of {fed[source]} channels to {name!r} of {size}; both must have as "
                "many"
            )
        channels += range(starts[source], starts[source] + size)
    return channels


def _counterpart(output: str, spec: SampleSpec, inputs: Sequence[str]) -> str:
    """Return the input field of the output's name, or the only one of its shape."""
    if output in inputs:
        return output
    alike = [name for name in inputs if spec[name].shape == spec[output].shape]
    if len(alike) == 1:
        return alike[0]
    found = f"{alike} have this shape" if alike else f"none of the inputs {list(inputs)} has this shape"
    example = repr((alike or list(inputs))[0])
    raise ConfigError(
        f"residual=True: which input field does {output!r} of shape {spec[output].shape} change? {found}; say so: "
        f"residual={example}"
    )


def add_channels(channels: Sequence[int | None], y: Tensor, x: Tensor) -> Tensor:
    """Return the output plus input channels.

    Args:
        channels: The input channel for each output channel, None for none.
        y: Output, shape (batch, out_channels, *grid).
        x: All inputs, shape (batch, in_channels, *grid).
    """
    start = channels[0]
    if start is not None and channels == tuple(range(start, start + len(channels))):
        return y + x[:, start : start + len(channels)]
    pieces = [y[:, at : at + 1] if c is None else y[:, at : at + 1] + x[:, c : c + 1] for at, c in enumerate(channels)]
    return torch.cat(pieces, 1)
