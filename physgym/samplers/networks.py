"""`NetworkPolicy`: actions from a trained network."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from physgym import spaces as walk
from physgym.cube import NO_LAYOUT, bounds
from physgym.errors import ConfigError
from physgym.files import absolute
from physgym.network_loading import load_network
from physgym.policies import EpisodePolicy
from physgym.samplers.base import Sampler
from physgym.samplers.table import named
from physgym.spaces import Array, Leaf


@named(draws=("actions",), argument="SESSION", required=True)
class NetworkPolicy(Sampler):
    """Actions from a trained network: its input field is the observation, its output field the action.

    With several input fields the observation is a dictionary that has them by name; with several output fields so is
    the action. An output is clipped to the bounds of the action; one number per choice of a Discrete action means the
    choice with the largest. torch is imported where the first action is needed.

    Args:
        network: A `physgym.nn.Predictor`, or a session folder, or the folder or file of a checkpoint.
        load: Loads the network of such a folder or file, in each process where the network acts.

    Raises:
        ConfigError: The path does not exist.
    """

    name = "network"

    def __init__(self, network: Any, load: Callable[[Path], Any] = load_network) -> None:
        if isinstance(network, (str, os.PathLike)):
            # a worker may have another working directory
            network = absolute(network)
            if not network.exists():
                raise ConfigError(f"NetworkPolicy: there is no {network}; give a session folder or a checkpoint")
        elif not hasattr(network, "predict"):
            raise ConfigError(f"NetworkPolicy needs a physgym.nn.Predictor or a path, not {network!r}")
        self.network, self._load = network, load

    def describe(self) -> dict[str, Any]:
        """Return the digest of the weights, as JSON data."""
        predictor = self._predictor()
        digest = hashlib.sha256()
        for name, tensor in sorted(predictor.state_dict().items()):
            digest.update(name.encode())
            # as bytes, since NumPy lacks some of torch's dtypes
            digest.update(tensor.detach().cpu().contiguous().flatten().view(_byte()).numpy().tobytes())
        return {"sampler": self.name, "weights": digest.hexdigest()}

    def _predictor(self) -> Any:
        """Return the network, loaded if it was given by its place."""
        return self._load(self.network) if isinstance(self.network, Path) else self.network

    def actions(self, space: spaces.Space[Any], seed: int) -> EpisodePolicy:
        """Return the policy that asks the network, the same for every episode.

        Raises:
            ConfigError: An action has no fixed layout.
        """
        predictor: Any = None
        layout = list(zip(walk.leaves(space), walk.leaf_spaces(space).values(), strict=True))
        if any(leaf.variable for leaf, _ in layout):
            raise ConfigError(NO_LAYOUT.format(what="action_space", leaf="", space=space, sampler="network", policy=""))

        def act(observation: Any, _: np.random.Generator) -> Any:
            nonlocal predictor
            if predictor is None:
                predictor = self._predictor()
                if getattr(predictor, "recurrent", False) is True:
                    raise ConfigError(
                        "NetworkPolicy: the network is recurrent, and would start without its memory at each step; act "
                        "by a function of your own that keeps the memory of Predictor.predict_from"
                    )
            fed = observation if isinstance(observation, dict) else {predictor.inputs[0]: observation}
            if len(predictor.inputs) > 1 and not isinstance(observation, dict):
                raise ConfigError(
                    f"the network has the inputs {list(predictor.inputs)}, the observation is one array. Use a network "
                    "of one input, or an observation space that is a Dict with these names"
                )
            found = predictor.predict(fed)
            outputs = list(found.values())
            if len(layout) > 1 and all(leaf.path in found for leaf, _ in layout):
                outputs = [found[leaf.path] for leaf, _ in layout]
            if len(outputs) != len(layout):
                raise ConfigError(
                    f"the network predicts {list(found)}, an action has {len(layout)} parts; predict a field for each"
                )
            parts = [_as_action(value, leaf, one) for value, (leaf, one) in zip(outputs, layout, strict=True)]
            return walk.unflatten(space, iter(parts))

        return lambda _: act


def _byte() -> Any:
    """Return torch's dtype of bytes, imported only here."""
    import torch

    return torch.uint8


def _as_action(value: Array, leaf: Leaf, space: spaces.Space[Any]) -> Any:
    """Return a network's output as an element of a leaf of the action space."""
    found = walk.value_range(space)
    if found is not None and found.choices > 1 and value.shape == (found.choices,):
        return np.int64(int(found.low) + int(np.argmax(value)))
    if value.shape != leaf.shape:
        name = leaf.path or "the action"
        raise ConfigError(f"the network predicts {value.shape} for {name}, which has {leaf.shape}; change its output")
    low, high = bounds(space, {"what": "action_space", "leaf": "", "sampler": "network"})
    value = value if leaf.dtype.kind == "f" else np.rint(value)
    action = np.clip(np.clip(value, low, high).astype(leaf.dtype), low.astype(leaf.dtype), high.astype(leaf.dtype))
    return action[()]  # a scalar if it has no shape
