"""The manifest of a checkpoint: ``manifest.json``, which says what its files hold, and their checksums."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors

from physgym.errors import CheckpointError, ConfigError, SampleError
from physgym.nn.feeding import Feeding
from physgym.storage.location import Location

FORMAT = 1
MANIFEST = "manifest.json"
WEIGHTS = "network.safetensors"
STATE, STATE_TENSORS = "training.json", "training.safetensors"

NONE_HERE = "there is no checkpoint at {path}"
INCOMPLETE = "{path} is not a complete checkpoint: {problem}. Take another one, or copy it again."
NO_JSON = "the entry {name} of the manifest is no JSON data: {error}"
EDITED = "{name} was changed after it was written"

# what reading a damaged file ends in, one way or another
DAMAGE = (
    *(safetensors.SafetensorError, SampleError, OSError, MemoryError, RecursionError),
    *(LookupError, TypeError, ValueError, ArithmeticError, AttributeError, AssertionError),
)


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Return the description of a checkpoint.

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
    return parse_manifest(path, text)


def parse_manifest(path: Path | Location, text: bytes) -> dict[str, Any]:
    """Return the description of a checkpoint from the text of its manifest.

    Raises:
        CheckpointError: It is damaged, or of a format that this version does not know.
    """
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
    """Return the fault of a manifest, as far as it can be seen without the files; None for a sound one."""
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
    return None if manifest.get("digest", seal := seal_of(manifest)) == seal else EDITED.format(name=MANIFEST)


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
    if record is None or not isinstance(record, dict):
        return record is None
    code, stride = record.get("code"), record.get("stride", 1)
    return (isinstance(code, dict) or (code is None and "stride" in record)) and type(stride) is int and stride > 0


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def check_files(path: Path, files: Mapping[str, Any]) -> None:
    """Raise where a file is missing or not as it was written."""
    for name, digest in files.items():
        if not (path / name).is_file():
            raise CheckpointError(INCOMPLETE.format(path=path, problem=f"{name} is missing"))
        if digest_of(path / name) != digest:
            raise CheckpointError(INCOMPLETE.format(path=path, problem=EDITED.format(name=name)))


def seal_of(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest, by its content."""
    content = {name: value for name, value in manifest.items() if name != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def digest_of(file: Path) -> list[Any]:
    """Return the size and the SHA-256 of a file."""
    with file.open("rb") as stream:
        return [file.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()]


def as_json(name: str, value: Any) -> Any:
    """Return a value as JSON data, which knows no numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): as_json(f"{name}/{key}", item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(f"{name}/{index}", item) for index, item in enumerate(value)]
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
