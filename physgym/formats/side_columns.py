"""`SideColumns`: what an export keeps besides the samples, on its way back into a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from physgym.data.layout import INDEX
from physgym.data.side_arrays import CONSTANT
from physgym.data.writer import SampleWriter
from physgym.errors import DatasetError
from physgym.sample import SampleSpec
from physgym.spaces import Array


@dataclass(frozen=True)
class SideColumns:
    """Tables of an export next to the samples.

    Attributes:
        spec: The parameters of episodes, None without any.
        episodes: These, and the names of their episodes.
        rejected: Rejected samples with their names and reasons, None where they were not kept.
        endings: How episodes ended, empty where nothing says it.
        constants: What is stored once.
    """

    spec: SampleSpec | None
    episodes: Mapping[str, Array]
    rejected: Mapping[str, Array] | None
    endings: Mapping[str, Array]
    constants: Mapping[str, Array]

    def write(self, writer: SampleWriter) -> None:
        """Give it to a writer, before the samples."""
        if self.spec is not None:
            names = {name: self.episodes[f"index/episodes/{name}"] for name in ("episode", "seed")}
            writer.add_parameters({name: self.episodes[f"index/parameters/{name}"] for name in self.spec}, **names)
        if self.rejected is not None:
            samples = {name: self.rejected[f"index/rejected/data/{name}"] for name in writer.spec}
            reasons = [reason.decode(errors="replace") for reason in self.rejected["index/rejected/reason"].tolist()]
            names = {name: self.rejected[f"index/rejected/index/{name}"] for name in INDEX}
            writer.add_rejected(samples, reasons, **names)
        if self.endings:
            names = {name: self.endings[f"index/endings/{name}"] for name in ("episode", "steps")}
            words = [word.decode(errors="replace") for word in self.endings["index/endings/how"].tolist()]
            writer.add_endings(**names, how=words)
        if self.constants:
            writer.set_constants(self.constants)


def side_columns(arrays: dict[str, Array], described: Mapping[str, Any]) -> SideColumns:
    """Take the side tables out of the arrays of an export; other arrays have none."""
    rejected = _group(arrays, "index/rejected/") if "index/rejected/reason" in arrays else None
    endings = _group(arrays, "index/endings/") if "index/endings/how" in arrays else {}
    needed = {f"index/endings/{name}" for name in ("episode", "steps", "how")} if endings else set()
    if rejected is not None:
        fields = [f"data/{name}" for name in arrays if not name.startswith("index/")]
        needed |= {f"index/rejected/{name}" for name in [*fields, *(f"index/{name}" for name in INDEX)]}
    if missing := sorted(needed - {*endings, *(rejected or {})}):
        raise DatasetError(f"the arrays lack {missing}, which belong to those that are there; restore a copy")
    constants = {name.removeprefix(CONSTANT): value for name, value in _group(arrays, CONSTANT).items()}
    if "parameters" not in described:
        return SideColumns(None, {}, rejected, endings, constants)
    spec = SampleSpec.from_json(described["parameters"])
    episodes = _group(arrays, "index/parameters/") | _group(arrays, "index/episodes/")
    wanted = {f"index/parameters/{name}" for name in spec} | {"index/episodes/episode", "index/episodes/seed"}
    if missing := sorted(wanted - set(episodes)):
        raise DatasetError(f"the export lacks {missing}, which its description names; restore a copy")
    return SideColumns(spec, episodes, rejected, endings, constants)


def _group(arrays: dict[str, Array], prefix: str) -> dict[str, Array]:
    return {name: arrays.pop(name) for name in list(arrays) if name.startswith(prefix)}
