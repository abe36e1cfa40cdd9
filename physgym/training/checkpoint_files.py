"""Checkpoints: a network on disk with everything needed to use it again.

A checkpoint is a directory with ``manifest.json`` (what it is: network, transforms, fields, progress of the training)
and ``network.safetensors`` (weights and buffers); and, if the training is to be continued, with its state in
``training.json`` and ``training.safetensors`` (see `physgym.training.state_codec`). It is written under a temporary
name, flushed to disk and renamed: it is there as a whole or not at all. Nothing in it is pickled, so that loading one
executes nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from physgym import files as disk
from physgym._version import __version__
from physgym.data.learned import Learned
from physgym.errors import CheckpointError, ConfigError, PhysGymError, SampleError, StorageError
from physgym.nn.feeding import Feeding
from physgym.nn.grid import GridNetwork
from physgym.nn.predictor import Predictor
from physgym.nn.registry import build, describe
from physgym.nn.transforms import Transforms
from physgym.nn.wrapped import plain_names, unwrapped
from physgym.sample import SampleSpec
from physgym.storage.location import Location, place
from physgym.training.state_codec import can_store, copied, decode, encode

Place = TypeVar("Place", Path, Location)

FORMAT = 1
MANIFEST = "manifest.json"
WEIGHTS = "network.safetensors"
STATE, STATE_TENSORS = "training.json", "training.safetensors"
# a directory that is being written or deleted; the second form is that of earlier versions
TEMPORARY = re.compile(r"\..+-[0-9a-f]{16}\.tmp|\.tmp-.+-\d+-\d+")

NONE_HERE = "there is no checkpoint at {path}"
INCOMPLETE = "{path} is not a complete checkpoint: {problem}. Take another one, or copy it again."
NO_EPOCH = "{path} has no checkpoint {which!r}; there are {known}"
UNKNOWN_CLASS = "{path} holds the {argument} {name}, which cannot be built from its description. Pass {argument}=..."
NO_STATE = "{path} holds a network, but not the training that made it, so that it cannot be continued from there"
NO_JSON = "the entry {name} of the manifest is no JSON data: {error}"
EDITED = "{name} was changed after it was written"
UNRECORDED = (
    "{path} has no record of how fields are fed to its network, as versions before made it: the fields {inputs} are "
    "passed in this order, and a residual adds the first input channels, as when it was written. Saving it again "
    "records that"
)
WRAPPERS = re.compile(r"^(network\.)(?:_orig_mod\.|module\.)+")
MISMATCH = "the weights in {path} do not fit {network}: {problem}"
NO_TENSOR = (
    "the state {name!r} of the network is a {kind}, which a checkpoint does not hold: it takes dense tensors of "
    "numbers. {remedy}"
)
NOT_PERSISTENT = "Register it with persistent=False and build it anew in the constructor, or keep it as dense tensors"
NOT_EXTRA = "Return a tensor from get_extra_state, or keep it in a callback's state_dict"
NOT_FINITE = (
    "the checkpoint {path} holds numbers that are not finite in {names}: it is that of a training that diverged. Take "
    "an earlier one (which=...), or the best one"
)

# what reading a damaged file ends in, one way or another
DAMAGE = (
    *(safetensors.SafetensorError, SampleError, OSError, MemoryError, RecursionError),
    *(LookupError, TypeError, ValueError, ArithmeticError, AttributeError, AssertionError),
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
    state, state_tensors = encode(training)
    check_network(predictor)
    weights = predictor.state_dict()
    plain = plain_names(predictor, weights)  # as they are without torch.compile or replicas around a network
    tensors = {plain[name]: copied(value) for name, value in weights.items()}
    manifest = {
        "format": FORMAT,
        "physgym": __version__,
        "torch": torch.__version__,
        "network": _description(predictor.network),
        "transforms": _description(predictor.transforms),
        "inputs": list(predictor.inputs),
        "outputs": list(predictor.outputs),
        "feeding": predictor.feeding.to_json() | {"residual": _residual(predictor.network)},
        "fields": predictor.spec.to_json(),
        "parameters": predictor.num_parameters,
        "learned": None if predictor.learned is None else predictor.learned.to_json(),
        "time": time.time(),
        **{name: _plain(name, value) for name, value in progress.items()},
    }
    temporary = disk.temporary_beside(path)
    try:
        temporary.mkdir(parents=True)
        save_file(tensors, temporary / WEIGHTS)
        files = [WEIGHTS]
        if training is not None:
            save_file(state_tensors, temporary / STATE_TENSORS)
            (temporary / STATE).write_text(json.dumps(state, allow_nan=False) + "\n")
            files += [STATE, STATE_TENSORS]
        manifest["files"] = {name: _digest(temporary / name) for name in files}
        manifest["digest"] = _seal(manifest)
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1, allow_nan=False) + "\n")
        for name in files:  # safetensors lets nobody but the owner read
            disk.copy_mode(temporary / MANIFEST, temporary / name)
        for file in (*(temporary / name for name in (*files, MANIFEST)), temporary):
            disk.flush(file)
        if path.exists():
            delete_checkpoint(path)
        temporary.rename(path)
        disk.flush(path.parent)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"cannot write the checkpoint {path}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def check_network(predictor: Predictor) -> None:
    """Raise CheckpointError unless a checkpoint can hold the state of a network and its transforms."""
    for name, value in predictor.state_dict().items():
        if not isinstance(value, torch.Tensor):
            text = NO_TENSOR.format(name=name, kind=type(value).__name__, remedy=NOT_EXTRA)
            raise CheckpointError(text)
        if not can_store(value):
            kind = f"tensor of {value.dtype} on {value.device.type}, {value.layout}"
            raise CheckpointError(NO_TENSOR.format(name=name, kind=kind, remedy=NOT_PERSISTENT))


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
    """The predictor in a checkpoint.

    Args:
        path: A checkpoint, a folder of checkpoints, or a session, whose folder ``networks`` is used; on the disk, or
            ``s3://bucket/prefix``.
        which: Which one of a folder: "last", "best", the number of an epoch, or a name.
        network: A network to load the weights into, in place; by default it is built from its description, which
            works for classes known to `physgym.nn.register`.
        transforms: Transforms to load the buffers into; by default they are built likewise.
        device: Where to put it.

    Raises:
        CheckpointError: It is missing, incomplete or damaged, or does not fit the given network.
    """
    path = find_checkpoint(path, which)
    manifest = read_manifest(path)
    anew = [f"{name}." for name, given in (("network", network), ("transforms", transforms)) if given is None]
    try:
        _check_files(path, manifest["files"])
        network = _build(path, "network", manifest["network"]) if network is None else network
        around = _build(path, "transforms", manifest["transforms"]) if transforms is None else transforms
        if not isinstance(around, Transforms):
            raise TypeError(f"its transforms are a {type(around).__name__}")
        spec = SampleSpec.from_json(manifest["fields"])
        feeding = _feeding(path, manifest, network)
        names = {"inputs": manifest["inputs"], "outputs": manifest["outputs"]}
        predictor = Predictor(network, spec, **names, transforms=around, feeding=feeding)
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
    return predictor.to(device).eval()


def read_training(path: str | Path, predictor: Predictor) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The state of a training in a checkpoint, and the weights of its network; the network itself stays as it is.

    Args:
        path: A checkpoint.
        predictor: What is to get the weights, with ``load_state_dict``: the same network, fields and transforms.

    Raises:
        CheckpointError: It is missing, incomplete or damaged, has no training, or does not fit the network.
    """
    path = Path(path)
    manifest = read_manifest(path)
    if STATE not in manifest["files"]:
        raise CheckpointError(NO_STATE.format(path=path))
    try:
        _check_files(path, manifest["files"])
        for name in ("inputs", "outputs"):
            if manifest[name] != (have := list(getattr(predictor, name))):
                problem = f"its {name} are {manifest[name]}, here they are {have}"
                raise CheckpointError(MISMATCH.format(path=path, network="this training", problem=problem))
        tensors, state_tensors = load_file(path / WEIGHTS), load_file(path / STATE_TENSORS)
        encoded = json.loads((path / STATE).read_text())
    except DAMAGE as error:
        raise CheckpointError(INCOMPLETE.format(path=path, problem=f"{type(error).__name__} {error}")) from error
    tensors = _named_as(predictor, tensors)
    try:
        state = decode(encoded, state_tensors)
    except CheckpointError as error:
        raise CheckpointError(INCOMPLETE.format(path=path, problem=f"in {STATE}, {error}")) from error
    _check_weights(path, predictor, tensors, dtypes=True)
    if not isinstance(state, dict):
        raise CheckpointError(INCOMPLETE.format(path=path, problem=f"{STATE} holds no state of a training"))
    predictor.feeding = _feeding(path, manifest, predictor.network)
    _warn_of_nonfinite(path, predictor, tensors)
    return state, tensors


def _residual(network: nn.Module) -> list[int | None] | None:
    """The input channels that a network adds to its output; None for one that adds none, or says nothing of it."""
    inner = unwrapped(network)
    return list(inner.residual) if isinstance(inner, GridNetwork) and isinstance(inner.residual, tuple) else None


def _feeding(path: Path, manifest: Mapping[str, Any], network: nn.Module) -> Feeding:
    """How the fields are fed to a network: by name if they were, else in the order in which they were.

    What a residual adds to is settled as it was.

    Raises:
        CheckpointError: The network adds other channels to its output, or its parameters have other names.
    """
    inner, inputs = unwrapped(network), manifest["inputs"]
    record = manifest.get("feeding")
    if record is None:
        warnings.warn(UNRECORDED.format(path=path, inputs=inputs), UserWarning, stacklevel=3)
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


def _named_as(predictor: Predictor, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors under the names that they have in a predictor, whose network may be compiled or wrapped.

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
        warnings.warn(NOT_FINITE.format(path=path, names=shown), RuntimeWarning, stacklevel=3)


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


def as_which(which: str | int) -> str | int:
    """Which checkpoint a text means, such as that of a configuration: an epoch if it is a number."""
    return int(which) if isinstance(which, str) and which.isdecimal() else which


def find_checkpoint(path: str | Path | Location, which: str | int = "last") -> Path:
    """The directory of a checkpoint; one in S3 is brought to the cache.

    Args:
        path: A checkpoint, a folder of checkpoints, or a session.
        which: Which one of a folder: "last", "best" (by the value that `Checkpoints` was told, or the validation loss,
            or the training loss where there was no validation), the number of epochs done, or a name.

    Raises:
        CheckpointError: There is none.
    """
    found = place(path)
    if isinstance(found, Path):
        return _choose(found, which)
    from physgym.training.remote_checkpoints import fetch_checkpoint

    return fetch_checkpoint(_choose_remote(found, which), MANIFEST)


def _choose(path: Path, which: str | int) -> Path:
    if (path / MANIFEST).is_file():
        return path
    if (path / WEIGHTS).is_file():
        raise CheckpointError(INCOMPLETE.format(path=path, problem=f"{MANIFEST} is missing"))
    folder = path / "networks" if (path / "networks").is_dir() else path
    return _choose_among(list_checkpoints(folder), which, path, folder)


def _choose_remote(location: Location, which: str | int) -> Location:
    from physgym.training.remote_checkpoints import checkpoint_names, read_checkpoint

    if read_checkpoint(location, MANIFEST) is not None:
        return location
    folder = location / "networks" if "networks" in checkpoint_names(location) else location
    return _choose_among(list_checkpoints(folder), which, location, folder)


def _choose_among(found: dict[Place, dict[str, Any]], which: str | int, path: Place, folder: Place) -> Place:
    if not found:
        raise CheckpointError(NONE_HERE.format(path=path))
    if which == "last":
        return list(found)[-1]
    if which == "best":
        return best_of(found) or list(found)[-1]
    for directory, manifest in found.items():
        if directory.name == which or (manifest.get("epoch") == which and not manifest.get("batch")):
            return directory
    raise CheckpointError(NO_EPOCH.format(path=folder, which=which, known=[directory.name for directory in found]))


@overload
def list_checkpoints(folder: Location) -> dict[Location, dict[str, Any]]: ...


@overload
def list_checkpoints(folder: str | Path) -> dict[Path, dict[str, Any]]: ...


def list_checkpoints(folder: str | Path | Location) -> dict[Any, dict[str, Any]]:
    """The checkpoints in a folder and their manifests, in the order of training."""
    at = place(folder)
    found = _manifests(at) if isinstance(at, Path) else _remote_manifests(at)
    return dict(sorted(found.items(), key=lambda item: (item[1].get("step", 0), item[0].name)))


def _manifests(folder: Path) -> dict[Any, dict[str, Any]]:
    found = {}
    for file in folder.glob(f"[!.]*/{MANIFEST}"):
        try:
            found[file.parent] = read_manifest(file.parent)
        except CheckpointError:
            if file.exists():  # otherwise a trainer at work has deleted it meanwhile
                raise
    return found


def _remote_manifests(location: Location) -> dict[Any, dict[str, Any]]:
    from physgym.training.remote_checkpoints import checkpoint_names, read_checkpoint

    read = {location / name: read_checkpoint(location / name, MANIFEST) for name in checkpoint_names(location)}
    return {directory: _parse_manifest(directory, text) for directory, text in read.items() if text is not None}


def best_of(found: Mapping[Place, Mapping[str, Any]]) -> Place | None:
    """Of checkpoints and their manifests the one with the lowest score; None if none has a score."""
    scores = {directory: manifest["score"] for directory, manifest in found.items() if "score" in manifest}
    return min(scores, key=lambda directory: scores[directory], default=None)


def delete_checkpoint(path: Path | Location) -> None:
    """Delete a checkpoint; whoever looks meanwhile sees it whole or not at all.

    Raises:
        CheckpointError: The disk refuses.
    """
    if isinstance(path, Location):
        from physgym.training.remote_checkpoints import delete_checkpoint as delete

        return delete(path, MANIFEST)
    temporary = disk.temporary_beside(path)
    try:
        path.rename(temporary)
        shutil.rmtree(temporary)
    except OSError as error:
        raise CheckpointError(f"cannot delete the checkpoint {path}: {error}") from error


def delete_leftovers(folder: Path | Location) -> None:
    """Delete what a killed process has left half written or half deleted; in S3 nothing is."""
    if isinstance(folder, Location):
        return
    for directory in folder.glob(".*"):
        hidden = TEMPORARY.fullmatch(directory.name) and directory.is_dir() and not directory.is_symlink()
        if hidden and all(_is_ours(file.name) for file in directory.iterdir()):  # nothing of anybody else's is there
            shutil.rmtree(directory, ignore_errors=True)


def _is_ours(name: str) -> bool:
    """Whether a file of a checkpoint has this name, or had it until it was complete."""
    begun = re.fullmatch(r"\.(.+)-[0-9a-f]{16}\.tmp", name)
    if begun is None and re.fullmatch(r"\.tmp\w{6}", name):  # what safetensors calls a file until it is complete
        return True
    return (begun[1] if begun else name) in {MANIFEST, WEIGHTS, STATE, STATE_TENSORS}


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The description of a checkpoint.

    Raises:
        CheckpointError: It is missing or damaged, or of a format that this version does not know.
    """
    path = Path(path)
    try:
        text = (path / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(NONE_HERE.format(path=path)) from error
    except OSError as error:
        raise CheckpointError(INCOMPLETE.format(path=path, problem=f"{MANIFEST}: {error}")) from error
    return _parse_manifest(path, text)


def _parse_manifest(path: Path | Location, text: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(text)
        problem = _problem(manifest)
    except DAMAGE as error:
        raise CheckpointError(INCOMPLETE.format(path=path, problem=f"{MANIFEST}: {error}")) from error
    if problem is not None:
        raise CheckpointError(INCOMPLETE.format(path=path, problem=problem))
    if manifest["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {manifest['format']}; this version of physgym reads {FORMAT}")
    return dict(manifest)


def _problem(manifest: Any) -> str | None:
    """What is wrong with a manifest, as far as it can be seen without the files; None for nothing."""
    if not isinstance(manifest, dict):
        return f"{MANIFEST} is no object"
    needed = ("format", "network", "transforms", "inputs", "outputs", "fields", "files")
    if missing := [key for key in needed if key not in manifest]:
        return f"{MANIFEST} lacks {missing}"
    if manifest["format"] != FORMAT:
        return None  # who knows what is right there
    counts = {name: manifest[name] for name in ("epoch", "batch", "step") if name in manifest}
    score, files = manifest.get("score", 0.0), manifest["files"]
    sound = {
        **{name: type(value) is int and value >= 0 for name, value in counts.items()},
        **{name: _are_texts(manifest[name]) for name in ("inputs", "outputs")},
        **{name: isinstance(manifest[name], dict) for name in ("network", "transforms")},
        "score": type(score) in (int, float) and math.isfinite(score),
        "run": isinstance(manifest.get("run", ""), str),
        "feeding": _is_feeding(manifest),
        "learned": _is_learned(manifest.get("learned")),
        "files": isinstance(files, dict) and WEIGHTS in files and set(files) <= {WEIGHTS, STATE, STATE_TENSORS},
    }
    if wrong := [name for name, right in sound.items() if not right]:
        return f"in {MANIFEST}, {wrong[0]} is {str(manifest[wrong[0]])[:100]}"
    return None if manifest.get("digest", seal := _seal(manifest)) == seal else EDITED.format(name=MANIFEST)


def _is_feeding(manifest: Mapping[str, Any]) -> bool:
    record = manifest.get("feeding")
    if record is None:
        return "feeding" not in manifest
    try:
        Feeding.from_json({key: record[key] for key in ("by", "positional", "keywords")})
        added = record["residual"]
    except (ConfigError, TypeError, KeyError):
        return False
    numbers = isinstance(added, list) and all(c is None or (type(c) is int and c >= 0) for c in added)
    return added is None or numbers


def _is_learned(record: Any) -> bool:
    return record is None or (isinstance(record, dict) and isinstance(record.get("code"), dict))


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _check_files(path: Path, files: Mapping[str, Any]) -> None:
    """Raise where a file is missing or not as it was written."""
    for name, digest in files.items():
        if not (path / name).is_file():
            raise CheckpointError(INCOMPLETE.format(path=path, problem=f"{name} is missing"))
        if _digest(path / name) != digest:
            raise CheckpointError(INCOMPLETE.format(path=path, problem=EDITED.format(name=name)))


def _seal(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest, by its content."""
    content = {name: value for name, value in manifest.items() if name != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _plain(name: str, value: Any) -> Any:
    """A value as JSON data, which knows no numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(f"{name}/{key}", item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(f"{name}/{index}", item) for index, item in enumerate(value)]
    if hasattr(value, "item"):  # a scalar of NumPy or torch
        try:
            value = value.item()
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(NO_JSON.format(name=name, error=error)) from error
    if isinstance(value, float) and not math.isfinite(value):
        return None
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise CheckpointError(NO_JSON.format(name=name, error=error)) from error
    return value


def _description(module: nn.Module) -> dict[str, Any]:
    """What builds a module; without its arguments where these are no JSON data."""
    described = describe(module)
    try:
        json.dumps(described, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return {"name": described["name"], "config": None}
    return described


def _build(path: Path, argument: str, description: Mapping[str, Any]) -> nn.Module:
    name = description["name"]
    if description["config"] is None:
        raise CheckpointError(UNKNOWN_CLASS.format(path=path, name=name, argument=argument))
    try:
        return build(description)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error} Or pass {argument}=...") from error


def _take_dtypes(predictor: Predictor, tensors: Mapping[str, torch.Tensor], prefixes: list[str]) -> None:
    """Give what was built anew the dtypes that were saved: loading would cast to those that it was built with."""
    for name, value in predictor.state_dict(keep_vars=True).items():
        if name.startswith(tuple(prefixes)) and name in tensors and value.dtype != tensors[name].dtype:
            value.data = value.data.to(tensors[name].dtype)


def _digest(file: Path) -> list[Any]:
    """Size and SHA-256 of a file."""
    with file.open("rb") as stream:
        return [file.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()]
