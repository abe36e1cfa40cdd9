"""The function that loads a trained network, for modules that stand above the training and must not import it.

`physgym/__init__.py` sets it, so that it is there in every process.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

LoadNetwork: TypeAlias = Callable[[Path], Any]  # session folder, or checkpoint, to a `physgym.nn.Predictor`

_loaders: list[LoadNetwork] = []


def set_network_loader(load: LoadNetwork) -> None:
    """Set the function that `load_network` calls from now on."""
    _loaders[:] = [load]


def load_network(path: Path) -> Any:
    """Load the network of a session folder, or of the folder or file of a checkpoint.

    Raises:
        CheckpointError: It is missing, incomplete or damaged.
    """
    return _loaders[0](path)
