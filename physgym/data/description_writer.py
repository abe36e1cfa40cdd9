"""`DescriptionWriter`: keeps ``dataset.json`` up to date while a mode of a dataset is written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from physgym.data import constants
from physgym.data.continuing import BOUNDED
from physgym.data.description import (
    DESCRIPTION,
    UNKNOWN,
    Description,
    Mode,
    describe_partitions,
    identity,
    partition_files,
)
from physgym.data.folder_claim import FolderClaim
from physgym.data.partition import Partition
from physgym.data.partition_entries import PartitionEntries, as_lines
from physgym.errors import DatasetError


class DescriptionWriter:
    """The description of the dataset in a claimed folder, as far as it concerns one mode.

    Args:
        claim: The folder.
        mode: The mode that is written.
        found: The description that is there.
        provenance: Where the samples come from; None keeps what is recorded.
        durable: Whether to wait for the disk.
        written: Called whenever the description has changed.

    Attributes:
        provenance: Where the samples come from.
        constants: What the description says of the values stored once.
        metadata: What the writer says of the dataset by key, where nobody has said it yet.
    """

    def __init__(
        self,
        claim: FolderClaim,
        mode: Mode,
        found: Description,
        *,
        provenance: Any,
        durable: bool,
        written: Callable[[], None],
    ) -> None:
        self._claim, self._mode, self._durable, self._written = claim, mode, durable, written
        self._lock = threading.Lock()  # of the file
        self.provenance = found.provenance(mode) if provenance is None else provenance
        self.constants: dict[str, Any] | str | None = found.constants or constants.recorded(claim.path)
        self.metadata: dict[str, str] = {}
        described = found.modes.get(mode)
        self._named: Sequence[Mapping[str, Any]] = [] if described is None else described["partitions"]
        self._last: tuple[Description, tuple[int, ...]] | None = None  # what was written, and the file that holds it
        self._lines: Mapping[str, str] = {}  # what it says there of partitions, by mode
        self._entries = PartitionEntries()
        self._bounded: dict[str, Any] | None = None if described is None else described.get(BOUNDED)

    def declare_bounded(self) -> None:
        """Declare that old partitions may be dropped; the next description says so."""
        self._bounded = self._bounded or {"partitions": 0, "samples": 0}

    @property
    def dropped(self) -> int:
        """Return how many partitions were dropped."""
        return 0 if self._bounded is None else int(self._bounded["partitions"])

    def note_dropped(self, partitions: Sequence[Partition]) -> None:
        """Count partitions that are dropped; the next description does not name them.

        Raises:
            DatasetError: The dataset is not bounded.
        """
        if self._bounded is None:
            raise DatasetError(f"{self._claim.path} is not bounded: no partition of it is dropped (bounded=True)")
        samples = self._bounded["samples"]  # not a number where the description was lost
        self._bounded = {
            "partitions": self.dropped + len(partitions),
            "samples": samples if samples == UNKNOWN else samples + sum(part.count for part in partitions),
        }

    def names_open(self, part: Partition) -> bool:
        """Return whether the description names a partition as one that takes rows."""
        name = part.path.name
        found = next((entry for entry in reversed(self._named) if entry["file"] <= name), None)  # they are in order
        return found is not None and found["file"] == name and not found.get("sealed", True)

    def store_constants(self, values: Mapping[str, Any]) -> None:
        """Store arrays once for the whole dataset; the next description names them.

        Raises:
            ConfigError: A name or a value cannot be stored.
            DatasetError: The dataset has others, or the disk refuses.
        """
        folder = self._claim.path
        try:
            self._claim.check()
            self.constants = constants.store(folder, values, durable=self._durable)
        except OSError as error:
            raise DatasetError(f"cannot write the constants of {folder}: {error.strerror or error}") from error

    def write(self, partitions: Sequence[Partition], reopened: Path | None = None) -> None:
        """Write the description, which names the partitions, with what it says of other modes.

        Args:
            partitions: Those of the mode; they may be replaced in another thread.
            reopened: The sealed partition that is about to take further rows.

        Raises:
            DatasetError: The disk refuses.
        """
        folder = self._claim.path
        with self._lock:
            try:
                self._claim.check()
                found = self._found(folder)
                modes = dict(found.modes)  # a damaged one is made anew
                modes.pop(self._mode, None)
                lines = {mode: self._lines.get(mode) or as_lines(modes[mode]["partitions"]) for mode in modes}
                if partitions:
                    self._entries = self._entries.updated(partitions, reopened)
                    modes[self._mode] = describe_partitions(
                        self._entries.partitions, self.provenance, self._bounded, self._entries
                    )
                    lines[self._mode] = self._entries.text
                ordered = {mode: modes[mode] for mode in get_args(Mode) if mode in modes}
                said = Description(ordered, self.constants, metadata={**self.metadata, **found.metadata})
                self._lines, self._last = {}, None  # of what may be there if this is interrupted nothing is known
                put = said.put(folder, lines, durable=self._durable)
                self._lines, self._last = lines, (said, put)
            except OSError as error:
                raise DatasetError(
                    f"cannot write {folder / DESCRIPTION}: {error.strerror or error}. Free space, then continue the "
                    "dataset"
                ) from error
            self._named = modes.get(self._mode, {"partitions": []})["partitions"]
        self._written()

    def _found(self, folder: Path) -> Description:
        """Return the description that is there; it is read only if somebody else has written it."""
        if self._last is not None and self._last[1] == identity(folder / DESCRIPTION):
            return self._last[0]
        self._lines = {}
        return Description.read(folder)

    def complete(self, partitions: Sequence[Partition]) -> None:
        """Write the last description, or remove what a dataset without samples would leave."""
        folder = self._claim.path
        if partitions or Description.read(folder).modes:
            self.write(partitions)
        elif any(partition_files(folder, mode) for mode in get_args(Mode)):
            pass  # of other modes, whose description is gone
        else:
            for name in (DESCRIPTION, constants.CONSTANTS):
                (folder / name).unlink(missing_ok=True)
