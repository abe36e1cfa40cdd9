"""Checkpoints: a network on disk with everything needed to use it again.

A checkpoint is a directory with ``manifest.json`` (what it is: network, transforms, fields, progress of the training)
and ``network.safetensors`` (weights and buffers); and, if the training is to be continued, with its state in
``training.json`` and ``training.safetensors`` (see `physgym.training.state_codec`). It is written under a temporary
name, flushed to disk and renamed: it is there as a whole or not at all. Nothing in it is pickled, so that loading one
executes nothing.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from physgym import files as disk
from physgym._version import __version__
from physgym.data.learned import Learned
from physgym.errors import CheckpointError, ConfigError, PhysGymError, StorageError
from physgym.nn.changes import Changes
from physgym.nn.devices import as_device
from physgym.nn.feeding import Feeding
from physgym.nn.grid import GridNetwork
from physgym.nn.predictor import Predictor
from physgym.nn.registry import build, describe
from physgym.nn.transforms import Transforms
from physgym.nn.wrapped import plain_names, unwrapped
from physgym.sample import SampleSpec
from physgym.storage.location import Location, place
from physgym.training.checkpoint_folders import delete_checkpoint, find_checkpoint
from physgym.training.checkpoint_manifests import (
    DAMAGE,
    FORMAT,
    INCOMPLETE,
    MANIFEST,
    STATE,
    STATE_TENSORS,
    WEIGHTS,
    as_json,
    check_files,
    digest_of,
    read_manifest,
    seal_of,
)
from physgym.training.state_codec import can_store, decode, encode
from physgym.training.tensor_file import save_file

WRAPPERS = re.compile(r"^(network\.)(?:_orig_mod\.|module\.)+")
MISMATCH = "the weights in {path} do not fit {network}: {problem}"
NO_TENSOR = (
    "the state {name!r} of the network is a {kind}, which a checkpoint does not hold: it takes dense tensors of "
    "numbers. {remedy}"
)


def save_checkpoint(
    path: str | Path | Location, predictor: Predictor, training: Mapping[str, Any] | None = None, **progress: Any
) -> Path | Location:
    """Write a checkpoint; one that stands there is replaced.

    Args:
        path: The directory to make; its parents are made too. Or ``s3://bucket/prefix``, see `physgym.storage`.
        predictor: The network with its fields and transforms.
        training: The state of a training, to continue it: data, arrays and tensors, nested.
        progress: Further entries of the manifest, JSON data, such as ``epoch`` and ``step``. Numbers that are not
            finite become null there.

    Returns:
        The path.

    Raises:
        CheckpointError: The network's state is not made of tensors alone, that of the training is no data, or the disk
            refuses.
    """
    if isinstance(found := place(path), Location):
        return _save_remote(found, predictor, training, progress)
    path = found
    check_network(predictor)
    weights = predictor.state_dict()
    plain = plain_names(predictor, weights)  # as they are without torch.compile or replicas around a network
    tensors = {plain[name]: value for name, value in weights.items()}
    manifest = {
        "network": _description(predictor.network),
        "transforms": _description(predictor.transforms),
        **({} if predictor.changes is None else {"changes": _description(predictor.changes)}),
        "inputs": list(predictor.inputs),
        "outputs": list(predictor.outputs),
        "feeding": predictor.feeding.to_json() | {"residual": _residual(predictor.network)},
        "fields": predictor.spec.to_json(),
        "parameters": predictor.num_parameters,
        "learned": None if predictor.learned is None else predictor.learned.to_json(),
    }
    write_checkpoint(path, manifest, tensors, training, progress)
    return path


def write_checkpoint(
    path: Path,
    content: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    training: Mapping[str, Any] | None,
    progress: Mapping[str, Any],
) -> None:
    """Write the files of a checkpoint; one that stands there is replaced.

    Args:
        path: The directory to make.
        content: What the manifest says of the network.
        tensors: Its weights.
        training: The state of the training, to continue it; None without one.
        progress: Further entries of the manifest.

    Raises:
        CheckpointError: The state of the training is no data, or the disk refuses.
    """
    state, state_tensors = encode(training, shared=True)
    manifest = {
        "format": FORMAT,
        "physgym": __version__,
        "torch": torch.__version__,
        **content,
        "time": time.time(),
        **{name: as_json(name, value) for name, value in progress.items()},
    }
    try:
        with disk.creating(path, remove=delete_checkpoint) as temporary:
            temporary.mkdir(parents=True)
            files = {WEIGHTS: save_file(tensors, temporary / WEIGHTS)}
            if training is not None:
                (temporary / STATE).write_text(json.dumps(state, allow_nan=False) + "\n")
                files[STATE] = digest_of(temporary / STATE)
                files[STATE_TENSORS] = save_file(state_tensors, temporary / STATE_TENSORS)
            manifest["files"] = files
            manifest["digest"] = seal_of(manifest)
            (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1, allow_nan=False) + "\n")
            for name in files:  # whoever may read the manifest may read them
                disk.copy_mode(temporary / MANIFEST, temporary / name)
            for name in (*files, MANIFEST):
                disk.flush(temporary / name)
    except OSError as error:
        raise CheckpointError(f"cannot write the checkpoint {path}: {error}") from error


def check_network(predictor: Predictor) -> None:
    """Raise CheckpointError unless a checkpoint can hold the state of a network and its transforms."""
    for name, value in predictor.state_dict().items():
        if not isinstance(value, torch.Tensor):
            text = NO_TENSOR.format(
                name=name,
                kind=type(value).__name__,
                remedy="Return a tensor from get_extra_state, or keep it in a callback's state_dict",
            )
            raise CheckpointError(text)
        if not can_store(value):
            kind = f"tensor of {value.dtype} on {value.device.type}, {value.layout}"
            raise CheckpointError(
                NO_TENSOR.format(
                    name=name,
                    kind=kind,
                    remedy=(
                        "Register it with persistent=False and build it again in the constructor, or keep it as dense "
                        "tensors"
                    ),
                )
            )


def _save_remote(
    location: Location, predictor: Predictor, training: Mapping[str, Any] | None, progress: Mapping[str, Any]
) -> Location:
    """Write a checkpoint to the disk and upload it; where that fails it stays on the disk."""
    from physgym.storage.cache import Cache
    from physgym.training.remote_checkpoints import upload_checkpoint

    spool = Path(tempfile.mkdtemp(prefix="checkpoint-", dir=Cache().root))
    folder = spool / (location.name or "checkpoint")
    save_checkpoint(folder, predictor, training, **progress)
    try:
        upload_checkpoint(folder, location, MANIFEST)
    except PhysGymError as error:
        raise StorageError(f"{str(error).rstrip('.')}. Nothing is lost: the checkpoint is in {folder}") from error
    shutil.rmtree(spool, ignore_errors=True)
    return location


def load_checkpoint(
    path: str | Path | Location,
    which: str | int = "last",
    *,
    network: nn.Module | None = None,
    transforms: Transforms | None = None,
    device: torch.device | str = "cpu",
) -> Predictor:
    """Return the predictor in a checkpoint.

    Args:
        path: A checkpoint, a folder of checkpoints, or a session, whose folder ``networks`` is used; on the disk, or
            ``s3://bucket/prefix``.
        which: Which one of a folder: "last", "best", the number of an epoch, or a name.
        network: A network to load the weights into, in place; by default it is built from its description, which
            works for classes known to `physgym.nn.register`.
        transforms: Transforms to load the buffers into; by default they are built in the same way.
        device: Where to put it; "auto" for the best device that this machine has.

    Raises:
        CheckpointError: It is missing, incomplete or damaged, or does not fit the given network.
    """
    path = find_checkpoint(path, which)
    manifest = read_manifest(path)
    if "agent" in manifest:
        raise CheckpointError(f"{path} holds an agent, which physgym.rl.load_agent loads")
    anew = [f"{name}." for name, given in (("network", network), ("transforms", transforms)) if given is None]
    anew.append("changes.")
    try:
        check_files(path, manifest["files"])
        network = _build(path, "network", manifest["network"]) if network is None else network
        around = _build(path, "transforms", manifest["transforms"]) if transforms is None else transforms
        if not isinstance(around, Transforms):
            raise TypeError(f"its transforms are a {type(around).__name__}")
        changes = _changes(path, manifest)
        spec = SampleSpec.from_json(manifest["fields"])
        feeding = _feeding(path, manifest, network)
        names = {"inputs": manifest["inputs"], "outputs": manifest["outputs"]}
        predictor = Predictor(network, spec, **names, transforms=around, changes=changes, feeding=feeding)
        tensors = _named_as(predictor, load_file(path / WEIGHTS))
        _take_dtypes(predictor, tensors, anew)
        _check_weights(path, predictor, tensors)
        predictor.load_state_dict(tensors)
    except Exception as error:
        if isinstance(error, DAMAGE) and not isinstance(error, ConfigError):
            raise CheckpointError(INCOMPLETE.format(path=path, problem=f"{type(error).__name__} {error}")) from error
        if isinstance(error, (RuntimeError, ConfigError)):
            name = f"the network {type(network).__name__}"
            raise CheckpointError(MISMATCH.format(path=path, network=name, problem=error)) from error
        raise
    _warn_of_nonfinite(path, predictor, tensors)
    predictor.learned = Learned.at(path, manifest.get("learned"))
    return predictor.to(as_device(device)).eval()


def read_training(path: str | Path, predictor: Predictor) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the state of a training in a checkpoint, and the weights of its network, which stays as it is.

    Args:
        path: A checkpoint.
        predictor: What is to get the weights, with ``load_state_dict``: the same network, fields and transforms.

    Raises:
        CheckpointError: It is missing, incomplete or damaged, has no training, or does not fit the network.
    """
    path = Path(path)
    manifest = read_manifest(path)
    state, tensors = read_state(path, manifest)
    try:
        for name in ("inputs", "outputs"):
            if manifest[name] != (have := list(getattr(predictor, name))):
                problem = f"its {name} are {manifest[name]}, here they are {have}"
                raise CheckpointError(MISMATCH.format(path=path, network="this training", problem=problem))
        _check_changes(path, manifest, predictor)
    except DAMAGE as error:
        raise CheckpointError(INCOMPLETE.format(path=path, problem=f"{type(error).__name__} {error}")) from error
    tensors = _named_as(predictor, tensors)
    _check_weights(path, predictor, tensors, dtypes=True)
    predictor.feeding = _feeding(path, manifest, predictor.network)
    _warn_of_nonfinite(path, predictor, tensors)
    return state, tensors


def read_state(path: Path, manifest: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the state of a training in a checkpoint, and the tensors of its network.

    Args:
        path: The checkpoint.
        manifest: Its manifest.

    Raises:
        CheckpointError: It is incomplete or damaged, or has no training.
    """
    if STATE not in manifest["files"]:
        raise CheckpointError(
            f"{path} holds a network, but not the training that made it, so that it cannot be continued from there"
        )
    try:
        check_files(path, manifest["files"])
        tensors, state_tensors = load_file(path / WEIGHTS), load_file(path / STATE_TENSORS)
        encoded = json.loads((path / STATE).read_text())
    except DAMAGE as error:
        raise CheckpointError(INCOMPLETE.format(path=path, problem=f"{type(error).__name__} {error}")) from error
    try:
        state = decode(encoded, state_tensors)
    except CheckpointError as error:
        raise CheckpointError(INCOMPLETE.format(path=path, problem=f"in {STATE}, {error}")) from error
    if not isinstance(state, dict):
        raise CheckpointError(INCOMPLETE.format(path=path, problem=f"{STATE} holds no state of a training"))
    return state, tensors


def _residual(network: nn.Module) -> list[int | None] | None:
    """Return the input channels that a network adds to its output; None if that is unknown, or none."""
    inner = unwrapped(network)
    return list(inner.residual) if isinstance(inner, GridNetwork) and isinstance(inner.residual, tuple) else None


def _feeding(path: Path, manifest: Mapping[str, Any], network: nn.Module) -> Feeding:
    """Return the feeding of a network: by name if it was so, else in the order of the fields.

    What a residual adds to is settled as it was.

    Raises:
        CheckpointError: The network adds other channels to its output, or its parameters have other names.
    """
    inner, inputs = unwrapped(network), manifest["inputs"]
    record = manifest.get("feeding")
    if record is None:
        warnings.warn(
            (
                f"{path} has no record of how fields are fed to its network, as versions before made it: the fields "
                f"{inputs} are passed in this order, and a residual adds the first input channels, as when it was "
                "written. Saving it again records that"
            ),
            UserWarning,
            stacklevel=3,
        )
        made = manifest["network"].get("config") or {}
        for part in inner.modules():
            if isinstance(part, GridNetwork):
                part.add_first_channels(anyhow=part is inner and made.get("residual") is True)
        return Feeding("order", tuple(inputs))
    feeding, added = (
        Feeding.from_json({key: record.get(key) for key in ("by", "positional", "keywords")}),
        record["residual"],
    )
    if added is not None and isinstance(inner, GridNetwork):
        if inner.residual is True:
            inner.residual = tuple(added)
        if _residual(inner) != added:
            problem = f"the residual adds the input channels {added} there, here {inner.residual}"
            raise CheckpointError(
                MISMATCH.format(path=path, network=f"the network {type(inner).__name__}", problem=problem)
            )
    try:
        return feeding.onto(network)
    except ConfigError as error:
        shown = f"the network {type(inner).__name__}"
        raise CheckpointError(MISMATCH.format(path=path, network=shown, problem=error)) from error


def _changes(path: Path, manifest: Mapping[str, Any]) -> Changes | None:
    """Return the changes that a network predicts; None where it predicts values."""
    if manifest.get("changes") is None:
        return None
    made = _build(path, "changes", manifest["changes"])
    if not isinstance(made, Changes):
        raise TypeError(f"its changes are a {type(made).__name__}")
    return made


def _check_changes(path: Path, manifest: Mapping[str, Any], predictor: Predictor) -> None:
    """Raise CheckpointError unless the network of a checkpoint predicts what this one does."""
    there, here = (
        "values" if pairs is None else f"changes ({', '.join(f'{output} - {name}' for output, name in pairs.items())})"
        for pairs in (
            (manifest.get("changes") or {"config": {"pairs": None}})["config"]["pairs"],
            None if predictor.changes is None else predictor.changes.pairs,
        )
    )
    if there != here:
        problem = f"its network predicts {there}, here it predicts {here}"
        raise CheckpointError(MISMATCH.format(path=path, network="this training", problem=problem))


def _named_as(predictor: Predictor, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors under the names that they have in a predictor, whose network may be wrapped.

    Versions before saved a wrapped network's weights with the names that the wrappers give them.
    """
    plain = plain_names(predictor, predictor.state_dict())
    names = {short: name for name, short in plain.items()}
    if set(tensors) != set(names):
        shorter = {WRAPPERS.sub(r"\1", name): tensor for name, tensor in tensors.items()}
        tensors = shorter if set(shorter) == set(names) else tensors
    return {names.get(name, name): tensor for name, tensor in tensors.items()}


def _warn_of_nonfinite(path: Path, predictor: Predictor, tensors: Mapping[str, torch.Tensor]) -> None:
    """Name the tensors of a network that has diverged; it may be wanted all the same, to see where."""
    weights = {name for name, _ in predictor.named_parameters()}
    bad = []
    for name, value in tensors.items():
        if value.is_floating_point() or value.is_complex():
            # infinities in buffers may be meant, such as those of a mask of attention
            broken = ~value.isfinite() if name in weights else value.isnan()
            if count := int(broken.sum()):
                bad.append(f"{name} ({count} of {value.numel()})")
    if bad:
        shown = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more tensors" if len(bad) > 5 else "")
        warnings.warn(
            (
                f"the checkpoint {path} holds numbers that are not finite in {shown}: it is that of a training that "
                "diverged. Take an earlier one (which=...), or the best one"
            ),
            RuntimeWarning,
            stacklevel=3,
        )


def _check_weights(
    path: Path, predictor: Predictor, tensors: Mapping[str, torch.Tensor], *, dtypes: bool = False
) -> None:
    """Raise unless tensors fit a network; the text names the layers with their shapes."""
    want = predictor.state_dict()
    problems = [f"{name} is missing" for name in want if name not in tensors]
    problems += [f"{name} is not known" for name in tensors if name not in want]
    for name, value in want.items():
        if name not in tensors:
            continue
        what: tuple[str, Any, Any] = "shape", tuple(tensors[name].shape), tuple(value.shape)
        if what[1] == what[2] and dtypes:
            what = "dtype", tensors[name].dtype, value.dtype
        if what[1] != what[2]:
            problems.append(f"{name} has {what[0]} {what[1]} in the file and {what[2]} in the network")
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        network = f"the network {type(predictor.network).__name__}"
        raise CheckpointError(MISMATCH.format(path=path, network=network, problem=shown))


def _description(module: nn.Module) -> dict[str, Any]:
    """Return the description of a module; without its arguments where these are no JSON data."""
    described = describe(module)
    try:
        json.dumps(described, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return {"name": described["name"], "config": None}
    return described


def _build(path: Path, argument: str, description: Mapping[str, Any]) -> nn.Module:
    name = description["name"]
    if description["config"] is None:
        raise CheckpointError(
            f"{path} holds the {argument} {name}, which cannot be built from its description. Pass {argument}=..."
        )
    try:
        return build(description)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error} Or pass {argument}=...") from error


def _take_dtypes(predictor: Predictor, tensors: Mapping[str, torch.Tensor], prefixes: list[str]) -> None:
    """Give what was built again the dtypes that were saved: loading would cast to those that it was built with."""
    for name, value in predictor.state_dict(keep_vars=True).items():
        if name.startswith(tuple(prefixes)) and name in tensors and value.dtype != tensors[name].dtype:
            value.data = value.data.to(tensors[name].dtype)
