"""`LatentObservation`: the latent vector of a trained autoencoder in place of a picture. Importing it imports torch."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import TransformObservation

from physgym.errors import CheckpointError, ConfigError
from physgym.files import absolute
from physgym.nn.autoencoder import Autoencoder
from physgym.nn.predictor import Predictor
from physgym.nn.threads import OneThread
from physgym.nn.wrapped import unwrapped
from physgym.rl.wrappers import Pinned
from physgym.spaces import Array, leaves
from physgym.storage.location import Location, place
from physgym.training.checkpoint_files import load_checkpoint
from physgym.training.checkpoint_folders import find_checkpoint
from physgym.training.checkpoint_manifests import read_manifest, seal_of


class LatentObservation(TransformObservation[Any, Any, Any], RecordConstructorArgs, Pinned):
    """The latent vector of each picture, by an autoencoder that does not change: shape (latent,), float32.

    Pictures are encoded one by one and by one thread, so that a recorded picture gives the bits that it gave where an
    agent acted.

    Args:
        env: An environment that observes the pictures of which the autoencoder was trained.
        checkpoint: A checkpoint, or a session, of which the last checkpoint is taken; see
            `physgym.training.load_checkpoint`.
        digest: Of the checkpoint, so that no other one takes its place; `Preprocessing` fills it in.

    Raises:
        CheckpointError: There is no such checkpoint, or it is another one than `digest` says.
        ConfigError: It is not that of an `Autoencoder`, or of other pictures.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], checkpoint: str | Path, digest: str | None = None) -> None:
        RecordConstructorArgs.__init__(self, checkpoint=checkpoint, digest=digest)
        folder = find_checkpoint(checkpoint)
        found = _digest(folder)
        if digest is not None and found != digest:
            raise CheckpointError(
                f"the checkpoint {checkpoint} is another one than that of which the latent vectors were made: its "
                f"digest is {found[:12]}..., not {digest[:12]}.... Bring that one back, or start again with this one"
            )
        predictor, network = _loaded(folder, found)
        (name,) = predictor.inputs
        field, given = predictor.spec[name], leaves(env.observation_space)
        if [(leaf.path, leaf.shape, leaf.dtype) for leaf in given] != [("", field.shape, field.dtype)]:
            raise ConfigError(
                f"the autoencoder {checkpoint} is of pictures of shape {field.shape} and dtype {field.dtype}, and the "
                f"observations before it are {env.observation_space}; crop and resize them as for its training"
            )

        def encoded(picture: Array) -> Array:
            with torch.no_grad(), OneThread():
                tensors = predictor.transforms.before_prediction(predictor.tensors({name: picture[np.newaxis]}))
                latent: Array = network.encode(tensors[name])[0].numpy()
            return latent

        numbers = spaces.Box(-np.inf, np.inf, (network.latent,), np.float32)
        TransformObservation.__init__(self, env, encoded, numbers)

    @classmethod
    def pinned(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments with the checkpoint itself and its digest.

        Raises:
            CheckpointError: There is no such checkpoint.
        """
        named = arguments.get("checkpoint")
        if not isinstance(named, (str, Path)):
            raise ConfigError(f"it needs a checkpoint, a text, not {named!r}")
        if "digest" in arguments:
            return dict(arguments)
        folder = find_checkpoint(named)
        path = str(named) if isinstance(place(named), Location) else str(absolute(folder))
        return {**arguments, "checkpoint": path, "digest": _digest(folder)}


def _digest(folder: Path) -> str:
    manifest = read_manifest(folder)
    return str(manifest.get("digest", seal_of(manifest)))


@functools.lru_cache(maxsize=4)  # environments of one process share it
def _loaded(folder: Path, digest: str) -> tuple[Predictor, Autoencoder]:
    """Return the network of a checkpoint whose content is known by its digest."""
    predictor = load_checkpoint(folder).eval()
    network = unwrapped(predictor.network)
    if not isinstance(network, Autoencoder):
        raise ConfigError(f"{folder} is the checkpoint of a {type(network).__name__}, and not that of an Autoencoder")
    return predictor, network
