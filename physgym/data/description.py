"""The description of a dataset, ``dataset.json``: which partitions it has, what they hold and where it comes from.

A partition is named before its first row is written. So the partitions that are named are the dataset: one that is
missing, replaced or added by somebody else is noticed. Who wrote the samples with which code (the provenance) stands
here alone, so that it changes no byte of the samples.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from physgym.checks import one_of
from physgym.data import constants
from physgym.data.continuing import BOUNDED
from physgym.data.layout import SAMPLES
from physgym.data.partition import Partition
from physgym.data.partition_entries import PartitionEntries, as_lines
from physgym.data.times import step_seconds
from physgym.errors import DatasetError
from physgym.files import absolute, lock, open_regular, read_regular, replacing

log = logging.getLogger(__name__)

Mode = Literal["training", "validation", "test", "prediction"]
DESCRIPTION = "dataset.json"
LOCK = ".lock"
FORMAT, VERSION = "physgym-dataset", 2
UNKNOWN = "unknown"
UNFINISHED = "unfinished import"  # key of metadata: the modes that imports have not finished next to others
ATTEMPTS = 20  # to read a description and partitions that belong together while a writer is at work
LARGEST = 1 << 30  # bytes of a description

FOREIGN = "{file} has another {what} than {other} says: it is of another run. Move it away and restore the right one"


def partition_files(folder: Path, mode: str) -> list[Path]:
    """Return the files that are named as partitions of a mode are, in order."""
    pattern = re.compile(rf"{re.escape(mode)}-\d{{5}}\.h5")
    try:
        names = os.listdir(folder)  # noqa: PTH208  # names alone: there may be a hundred thousand
    except OSError:
        return []
    return [folder / name for name in sorted(filter(pattern.fullmatch, names))]


def check_mode(mode: str) -> None:
    """Raise ConfigError unless mode is one of a dataset's modes."""
    one_of("mode", mode, get_args(Mode))


@dataclass(frozen=True)
class Description:
    """Content of ``dataset.json``.

    Attributes:
        modes: By mode: partitions, fields, parameters, source, provenance.
        constants: The file of values stored once per dataset, with its checksum; None where there is none.
        text: The bytes of the file, None where there is none or it is damaged.
        metadata: What people said of the dataset, by key.
    """

    modes: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, Any] | str | None = None
    text: bytes | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Description:
        """Return the description of a folder, an empty one where it is missing or damaged."""
        text = None
        try:
            text = read_regular(folder / DESCRIPTION, LARGEST)
            data = json.loads(text)
            modes = {mode: dict(data["modes"][mode]) for mode in get_args(Mode) if mode in data["modes"]}
            for described in modes.values():
                for part in described["partitions"]:
                    if not (isinstance(part["file"], str) and int(part["samples"]) >= 0):
                        raise ValueError(f"it names {part}")
            said = {str(key): str(value) for key, value in dict(data.get("metadata", {})).items()}
            return cls(modes, data.get("constants"), text, said)
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            log.warning(
                "%s is no description of a dataset (%s); the partitions in its folder are taken as they are. Write it "
                "again with physgym info %s --rebuild",
                folder / DESCRIPTION,
                error,
                folder,
            )
            return cls(text=text)

    @property
    def unfinished(self) -> set[str]:
        """Return the modes that an import is writing, or was killed in, next to others."""
        return set(self.metadata.get(UNFINISHED, "").split())

    @property
    def said(self) -> dict[str, str]:
        """Return the metadata without what imports note for themselves."""
        return {key: word for key, word in self.metadata.items() if key != UNFINISHED}

    def with_unfinished(self, modes: Collection[str]) -> Description:
        """Return the description with other modes as those that are unfinished."""
        noted = {UNFINISHED: " ".join(mode for mode in get_args(Mode) if mode in modes)} if modes else {}
        return replace(self, metadata={**self.said, **noted})

    @property
    def content(self) -> dict[str, Any]:
        """Return what the file holds, on the disk and in S3."""
        content: dict[str, Any] = {"format": FORMAT, "version": VERSION, "modes": self.modes}
        if self.constants is not None:
            content["constants"] = self.constants
        return content | ({"metadata": self.metadata} if self.metadata else {})

    def write(self, folder: Path, *, durable: bool = False) -> dict[str, Any]:
        """Write the description in one instant, and return its content.

        Raises:
            OSError: The disk refuses.
        """
        self.put(folder, durable=durable)
        return self.content

    def put(self, folder: Path, lines: Mapping[str, str] | None = None, *, durable: bool = False) -> tuple[int, ...]:
        """Write the description in one instant, and return what distinguishes its file from those of others.

        Args:
            folder: The dataset.
            lines: As of `as_text`.
            durable: Whether to wait for the disk.

        Raises:
            OSError: The disk refuses.
        """
        with replacing(folder / DESCRIPTION, durable=durable) as made:
            made.write_bytes(as_text(self.content, lines).encode(errors="surrogateescape"))
            return identity(made)

    def provenance(self, mode: str) -> Any:
        """Return where the samples of a mode come from.

        "unknown" where the description is gone or says so, None where it was written before this was recorded.
        """
        return self.modes[mode].get("provenance") if mode in self.modes else UNKNOWN


def identity(file: Path) -> tuple[int, ...]:
    """Return what distinguishes a file from one that takes its place; nothing where there is none."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def as_text(content: Mapping[str, Any], lines: Mapping[str, str] | None = None) -> str:
    """Return the text of the file: indented, but for the partitions, of which there may be thousands, a line each.

    Args:
        content: What it holds.
        lines: The text of the partitions of modes, where it is known.
    """
    modes, lists = {}, {}
    for mode, described in content["modes"].items():
        mark = f"{mode} {secrets.token_hex(16)}"  # in no other text
        lists[mark] = (lines or {}).get(mode) or as_lines(described["partitions"])
        modes[mode] = {**described, "partitions": mark}
    text = json.dumps({**content, "modes": modes}, indent=1)
    for mark, partitions in lists.items():
        text = text.replace(f'"{mark}"', partitions, 1)
    return text


def describe_partitions(
    partitions: Sequence[Partition],
    provenance: Any = UNKNOWN,
    bounded: Mapping[str, Any] | None = None,
    entries: PartitionEntries | None = None,
) -> dict[str, Any]:
    """Return what the description of a dataset says of the partitions of a mode.

    Args:
        partitions: All of them, at least one.
        provenance: Where the samples come from; None to leave it out.
        bounded: How many partitions and samples were dropped; None of a dataset that drops none.
        entries: What is said of each of them; made by default.
    """
    first = partitions[0]
    parameters = first.layout.parameters
    entries = PartitionEntries().updated(partitions) if entries is None else entries
    described = {
        "samples": entries.samples,
        "partitions": entries.entries,
        "fields": first.spec.to_json(),
        "parameters": [] if parameters is None else parameters.to_json(),
        "source": json.loads(first.attributes["source"]),
        "names_all": True,  # every partition was named before it had rows; older writers named them when sealed
    }
    if bounded is not None:
        described[BOUNDED] = dict(bounded)
    if (seconds := step_seconds(first.attributes)) is not None:
        described["time_step"] = seconds
    return described if provenance is None else {**described, "provenance": provenance}


def rebuild_description(path: str | Path) -> dict[str, Any]:
    """Write ``dataset.json`` again from the partitions; provenance and constants are kept where they are readable.

    Returns:
        Its content.

    Raises:
        DatasetError: The folder holds no partitions, one is damaged, a writer is at work, or the disk refuses.
    """
    folder = absolute(path)
    found = {mode: [Partition(file) for file in partition_files(folder, mode)] for mode in get_args(Mode)}
    if not any(found.values()):
        raise DatasetError(f"{folder} holds no partitions")
    for parts in found.values():
        _check_run(folder, parts)
    before = Description.read(folder)
    modes = {}
    for mode, parts in found.items():
        if parts:
            first = int(parts[0].path.stem[-5:])
            dropped = before.modes.get(mode, {}).get(BOUNDED) or {"partitions": first, "samples": UNKNOWN}
            bounded = dropped if BOUNDED in parts[0].attributes else None
            modes[mode] = describe_partitions(parts, before.provenance(mode), bounded=bounded)
    with unwritten(folder):
        try:
            kept: dict[str, Any] | str | None = constants.recorded(folder)
            if kept is None and before.constants is not None:
                kept = UNKNOWN
            return Description(modes, kept, metadata=before.metadata).write(folder)
        except OSError as error:
            raise DatasetError(f"cannot write {folder / DESCRIPTION}: {error.strerror}") from error


@contextlib.contextmanager
def unwritten(folder: Path) -> Any:
    """Keep writers away from a folder; where none has been, nothing is made."""
    try:
        handle = open_regular(folder / LOCK, os.O_RDWR)
    except OSError:
        yield
        return
    try:
        if lock(handle, folder, warn=False) == "taken":
            raise DatasetError(
                f"{folder} is being written by another process, or by a writer of this one that is not closed; the "
                "writer keeps the description"
            )
        yield
    finally:
        os.close(handle)


# --- opening


def open_partitions(
    folder: Path, mode: str, known: Mapping[Path, Partition] | None = None
) -> tuple[list[Partition], Description]:
    """Open the partitions of a mode, as the description names them, while a writer may be at work.

    Args:
        folder: The dataset.
        mode: Which part of it.
        known: Partitions that are open already; those that were not replaced are taken.

    Returns:
        The partitions in order, none where there are no samples; and the description.

    Raises:
        DatasetError: One is damaged, missing, replaced, or not of this dataset.
    """
    for attempt in range(ATTEMPTS):
        description = Description.read(folder)
        try:
            return _agreed(folder, mode, description, known or {}), description
        except DatasetError:
            # a writer that is at work changes the description before it changes what there is
            if attempt == ATTEMPTS - 1 or Description.read(folder).text == description.text:
                raise
    raise AssertionError


def _agreed(folder: Path, mode: str, description: Description, known: Mapping[Path, Partition]) -> list[Partition]:
    described = description.modes.get(mode, {})
    entries = {str(part["file"]): part for part in described.get("partitions", [])}
    files = {file.name: file for file in partition_files(folder, mode)}
    if BOUNDED in described:  # its writer was killed before it removed what it had dropped
        files = {name: file for name, file in files.items() if name in entries or name > min(entries, default="")}
    for name in entries:
        if name not in files:
            raise DatasetError(
                f"{folder} lacks {name}, which its description names: the copy is incomplete, or it was removed. "
                "Restore it, or continue without it: move away the partitions after it as well, then run physgym info "
                f"{folder} --rebuild"
            )
    if isinstance(description.constants, Mapping) and not (folder / constants.CONSTANTS).exists():
        raise DatasetError(constants.GONE.format(folder=folder, file=constants.CONSTANTS))

    def opened(file: Path) -> Partition:
        return known[file] if file in known and known[file].current else Partition(file)

    parts = [opened(file) for file in files.values()]
    unnamed = [part for part in parts if part.path.name not in entries]
    if described.get("names_all"):
        for part in unnamed:
            if part.tables[SAMPLES].count or part.sealed:
                raise DatasetError(
                    f"{folder} holds {part.path.name}, which its description does not name: it was copied there, or is "
                    "of another dataset. Move it away, or join datasets by giving their folders as a list"
                )
        # a writer was killed before it named it: there is nothing in it yet
        parts = [part for part in parts if part not in unnamed]
    if description.text is None and any(part.count for part in parts):
        log.warning(
            f"{folder} has no {DESCRIPTION}: it is taken to be the partitions that are there; one that is missing at "
            f"the end is not noticed. Write it again with physgym info {folder} --rebuild"
        )
    _check_run(folder, parts)
    named = [part for part in parts if part.path.name in entries]
    for part in _distinct(named) if "source" in described else ():
        if json.loads(part.attributes["source"]) != described["source"]:
            raise DatasetError(FOREIGN.format(file=part.path, what="source", other=DESCRIPTION))
    for part in named:
        _check_named(folder, part, entries[part.path.name])
    vouched = {name for name, entry in entries.items() if entry.get("sealed")}
    _check_repeated(parts, [part for part in parts if part.path.name not in vouched])
    return parts


def _check_run(folder: Path, parts: Sequence[Partition]) -> None:
    """Raise DatasetError unless the partitions are those of one run, without a gap."""
    first = int(parts[0].path.stem[-5:]) if parts and BOUNDED in parts[0].attributes else 0
    for number, part in enumerate(parts, first):
        if int(part.path.stem[-5:]) != number:
            raise DatasetError(
                f"{folder} has {part.path.name} but not the partition before it: the copy is incomplete. Restore the "
                "missing one"
            )
    for part in _distinct(parts):
        if json.loads(part.attributes["source"]) != json.loads(parts[0].attributes["source"]):
            raise DatasetError(FOREIGN.format(file=part.path, what="source", other=parts[0].path.name))


def _distinct(parts: Sequence[Partition]) -> list[Partition]:
    """Return the first one of those that share their attributes, in order; there may be thousands of them."""
    return list({id(part.attributes): part for part in reversed(parts)}.values())[::-1]


def _check_named(folder: Path, part: Partition, entry: Mapping[str, Any]) -> None:
    """Raise DatasetError if a partition is not the one that the description names."""
    problem = None
    if entry.get("sealed") and not part.sealed:
        problem = "it is not complete"
    elif entry.get("sealed") and part.checksum != entry.get("sha256"):
        problem = f"its checksum is {part.checksum[:12]}, not {str(entry.get('sha256'))[:12]}"
    elif part.count < int(entry["samples"]):
        problem = f"it holds {part.count} samples, not {entry['samples']}"
    if problem is not None:
        raise DatasetError(
            f"{part.path} is not the partition that {DESCRIPTION} names: {problem}. Restore that one; or, if this one "
            f"is right, run physgym info {folder} --rebuild"
        )


def _check_repeated(parts: Sequence[Partition], doubtful: Sequence[Partition]) -> None:
    """Raise DatasetError if a partition that no checksum vouches for begins with the sample of another one."""
    if not any(part.count for part in doubtful) or len(parts) < 2:
        return
    first = {part.path: _first_name(part) for part in parts if part.count}
    for part in doubtful:
        for other, name in first.items():
            if part.count and other < part.path and first[part.path] == name:
                raise DatasetError(
                    f"{part.path} begins with the same sample as {other.name}, episode {name[0]}, step {name[1]}: it "
                    "is a copy. Move it away"
                )


def _first_name(part: Partition) -> tuple[int, int]:
    episode, step = (int(part.read(f"index/{name}", 0, 1)[0]) for name in ("episode", "step"))
    return episode, step
