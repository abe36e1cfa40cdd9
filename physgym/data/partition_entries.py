"""`PartitionEntries`: what a description says of each partition, and its text, kept from one version to the next."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from physgym.data.partition import Partition

BETWEEN = ",\n    "  # entries


def as_lines(entries: Sequence[Any]) -> str:
    """Return a JSON list with a line for each entry."""
    text = json.dumps(entries)  # at once, and without `indent`, for which Python's slow encoder would be taken
    lines = text.replace("}, {", f"}}{BETWEEN}{{")
    return lines if text.count("}, {") == len(entries) - 1 else text  # it is in a name, perhaps


@dataclass(frozen=True)
class PartitionEntries:
    """The entries of the partitions of a mode.

    Of those that are sealed, from the first one on, the next version says the same: so `updated` makes only what is
    new, where there may be thousands.

    Attributes:
        partitions: What is described.
        entries: What is said of each.
        lines: The text of each.
        sealed: How many of them are sealed, from the first one on.
        sealed_samples: The samples of these.
    """

    partitions: list[Partition] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    sealed: int = 0
    sealed_samples: int = 0

    def updated(self, partitions: Sequence[Partition], reopened: Path | None = None) -> PartitionEntries:
        """Return what is to be said now.

        Args:
            partitions: All of them; the first ones may have been dropped.
            reopened: The sealed partition that is about to take further rows.
        """
        partitions = list(partitions)
        first, kept = self._in_common(partitions)
        if kept and partitions[kept - 1].path == reopened:
            kept -= 1
        entries, lines = self.entries[first : first + kept], self.lines[first : first + kept]
        same = first == 0 and kept == self.sealed
        sealed, samples = kept, self.sealed_samples if same else sum(entry["samples"] for entry in entries)
        for number, part in enumerate(partitions[kept:], kept):
            entry = _entry(part, sealed=part.sealed and part.path != reopened)
            entries.append(entry)
            lines.append(json.dumps(entry))
            if sealed == number and entry["sealed"]:
                sealed, samples = sealed + 1, samples + entry["samples"]
        return PartitionEntries(partitions, entries, lines, sealed, samples)

    def _in_common(self, partitions: list[Partition]) -> tuple[int, int]:
        """Return which of the sealed ones is the first of these partitions, and how many follow that are the same."""
        before = self.partitions[: self.sealed]
        if not partitions or partitions[0] not in before:
            return 0, 0
        first = before.index(partitions[0])
        kept = self.sealed - first
        return (first, kept) if partitions[:kept] == before[first:] else (0, 0)

    @property
    def samples(self) -> int:
        """Return the number of their samples."""
        return self.sealed_samples + sum(int(entry["samples"]) for entry in self.entries[self.sealed :])

    @property
    def text(self) -> str:
        """Return the entries as `as_lines` does."""
        return f"[{BETWEEN.join(self.lines)}]"


def _entry(part: Partition, *, sealed: bool) -> dict[str, Any]:
    return {
        "file": part.path.name,
        "samples": part.count,
        "sealed": sealed,
        "sha256": part.checksum if sealed else "",
    }
