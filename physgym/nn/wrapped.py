"""Networks inside wrappers that change nothing but how they are computed: torch.compile, parallel replicas."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from torch.fx import GraphModule
from torch.nn.parallel import DataParallel, DistributedDataParallel

from physgym.errors import ConfigError

EXPORTED = (
    "{network} was made by torch.export: such a module can be called, but has neither train() nor eval(), which "
    "training and predicting need. Pass the network that was exported, with its weights "
    "(network.load_state_dict(exported.state_dict)); torch.compile makes it fast"
)


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module itself, without the wrappers of torch.compile and of parallel computation around it."""
    while (inner := _inner(module)) is not None:
        module = getattr(module, inner)
    return module


def refuse_exported(network: Any) -> None:
    """Raise ConfigError for what torch.export makes, and for a network with such a part."""
    kind = type(network)
    if (kind.__module__.partition(".")[0], kind.__name__) == ("torch", "ExportedProgram"):
        raise ConfigError(EXPORTED.format(network="the ExportedProgram"))
    for path, part in network.named_modules() if isinstance(network, nn.Module) else ():
        if isinstance(part, GraphModule) and "train" in vars(part):  # which is the one that raises
            raise ConfigError(EXPORTED.format(network=f"its part {path!r}" if path else "the network"))


def plain_names(module: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Return the names of a module's weights as they are without any wrapper inside, by their names as they are.

    Args:
        module: The module.
        names: Names of weights and buffers, such as the keys of its ``state_dict()``.
    """
    wrappers = sorted(_wrappers(module), key=len, reverse=True)  # the innermost first, so that the outer ones still fit
    plain = {}
    for name in names:
        short = name
        for prefix in wrappers:
            if short.startswith(prefix):
                kept = prefix.rstrip(".").rpartition(".")[0]
                short = f"{kept}.{short.removeprefix(prefix)}" if kept else short.removeprefix(prefix)
        plain[name] = short
    return plain


def _inner(module: nn.Module) -> str | None:
    """Return the name of the module in a wrapper; None if it is none."""
    if isinstance(module, (DataParallel, DistributedDataParallel)):
        return "module"
    compiler = sys.modules.get(
        "torch._dynamo.eval_frame"
    )  # whose import takes a second; without it nothing is compiled
    return "_orig_mod" if compiler is not None and isinstance(module, compiler.OptimizedModule) else None


def _wrappers(module: nn.Module) -> Iterator[str]:
    """Yield the prefixes of names that are those of wrappers, such as ``network._orig_mod.``."""
    for path, part in module.named_modules():
        if (inner := _inner(part)) is not None:
            yield f"{path}.{inner}." if path else f"{inner}."
