"""The table of file formats: each module of this folder that defines ``FORMAT`` is one, under its name up to a "_".

One that is only exported to defines ``EXPORT_FORMAT``, one that is only imported from ``IMPORT_FORMAT``. Those of
networks are the modules of ``physgym/nn/export`` that define ``NETWORK_FORMAT``. A format is imported when it is used;
its module must be importable without the packages that it needs.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physgym.errors import ConfigError, needs

if TYPE_CHECKING:
    from physgym.data.dataset import SampleDataset
    from physgym.data.description import Mode


# what people call a format, or how its files end
OTHER_NAMES = {
    "npz": "numpy",
    "npy": "numpy",
    "nc": "netcdf",
    "xarray": "netcdf",
    "zarr": "netcdf",
    "csv": "parquet",
    "pandas": "parquet",
    "vtk": "vtkhdf",
    "vtu": "vtkhdf",
    "paraview": "vtkhdf",
    "datasets": "huggingface",
    "pt": "pt2",
    "pth": "pt2",
    "torch": "pt2",
}


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export; a format ignores those that it has no use for, see `ExportFormat.uses`.

    Attributes:
        out: Folder or file to write; None for a format that keeps its datasets elsewhere.
        name: Name of the dataset in the format's own collection.
        fields: Field of the samples, or several of them, by their name in the format.
        dims: Names of the axes of a field, by the field's name.
        nodes: Name of the constant, or of the field, with the positions of the nodes of a mesh.
        cells: Name of the constant with its cells, perhaps with ``=KIND``.
        episode: Only this episode.
        progress: Whether to show how far it is.
    """

    out: Path | None = None
    name: str | None = None
    fields: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    dims: Mapping[str, Sequence[str]] = field(default_factory=dict)
    nodes: str | None = None
    cells: str | None = None
    episode: int | None = None
    progress: bool = False


@dataclass(frozen=True)
class ImportOptions:
    """Options of an import; a format refuses those that would change the samples if it cannot follow them.

    Attributes:
        roles: Field name to "input", "target" or "additional".
        infos: Names of further data to keep.
        episode: Name of the array that says which rows belong to one episode.
        step: Name of the array with the step of each row in its episode.
        mode: Part of the dataset to write.
        units: Field name to unit.
        progress: Whether to show how far it is.
    """

    roles: Mapping[str, str] = field(default_factory=dict)
    infos: Sequence[str] = ()
    episode: str | None = None
    step: str | None = None
    mode: Mode = "training"
    units: Mapping[str, str] = field(default_factory=dict)
    progress: bool = False

    @property
    def keywords(self) -> dict[str, Any]:
        """Return them as the arguments of a function that imports tables or arrays, which keeps no `infos`."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "infos"}


class NamedFormat:
    """A file format, and the package that it needs.

    Attributes:
        package: Package that it needs, empty for none.
        extra: Extra of physgym that installs this package.
        title: The format in a sentence, such as "a dataset of Minari".
    """

    package = ""
    extra = ""
    title = ""

    def needed(self, what: str = "this") -> contextlib.AbstractContextManager[Any]:
        """Return a block in which the lack of the format's package is a ConfigError that says how to install it.

        Args:
            what: What needs the package, as the error says it.
        """
        return needs(self.package, self.extra, what) if self.package else contextlib.nullcontext()


class ExportFormat(NamedFormat, ABC):
    """A file format to which datasets are exported.

    Attributes:
        uses: Which of the `ExportOptions` it follows, besides `progress`; a command refuses the others.
    """

    uses: tuple[str, ...] = ("out",)

    @abstractmethod
    def write(self, dataset: SampleDataset, options: ExportOptions) -> str:
        """Write a dataset and return a line that says where it is, and what of the dataset is not there.

        Raises:
            ConfigError: An option is missing, or the samples do not fit the format.
            DatasetError: There is such a dataset already, or the disk refuses.
        """


class ImportFormat(NamedFormat, ABC):
    """A file format from which datasets are imported.

    Attributes:
        source: Files or names that an import takes, such as "the name of a dataset of Minari".
        has_infos: Whether it follows `infos` of the `ImportOptions`; a command refuses them otherwise.
    """

    source = ""
    has_infos = False

    @abstractmethod
    def reads(self, source: str) -> bool:
        """Return whether a path or name is a dataset of this format.

        The formats are asked in the order of their names, and the first that says so reads it: a suffix or a file in a
        folder has to show it, not that there is something.
        """

    @abstractmethod
    def read(self, source: str, path: Path, options: ImportOptions) -> SampleDataset:
        """Store a dataset of this format as samples.

        Args:
            source: Its path or name.
            path: Folder of the new dataset.
            options: Options of the import.

        Raises:
            ConfigError: An option does not fit the data or the format.
            DatasetError: There is no such source, or `path` holds samples already.
        """


class Format(ExportFormat, ImportFormat):
    """A file format to which datasets are exported, and from which they are imported."""


class NetworkFormat(ABC):
    """A file format to which trained networks are exported.

    Attributes:
        title: The format in a sentence, such as "a program of torch.export".
        suffix: End of the names of its files.
    """

    title = ""
    suffix = ""

    @abstractmethod
    def write(self, network: Any, out: Path) -> str:
        """Write a network and return a line that says where it is.

        Args:
            network: A `physgym.nn.Predictor`.
            out: The file to write.

        Raises:
            ConfigError: The file exists, a package is missing, the network cannot be exported, or the file does not
                give the network's predictions.
        """


NETWORK_FILES = Path(__file__).parents[1] / "nn" / "export"
EXPORTS, IMPORTS = ("FORMAT", "EXPORT_FORMAT"), ("FORMAT", "IMPORT_FORMAT")


@functools.cache
def _modules(folder: Path, *marks: str) -> dict[str, tuple[str, str]]:
    """Find the modules of formats, and what they define, by the formats' names; some there are slow to import."""
    found = {}
    package = ".".join(("physgym", *folder.relative_to(Path(__file__).parents[1]).parts))
    for file in sorted(folder.glob("*.py")):
        text = file.read_text(encoding="utf-8")
        for mark in marks:
            if f"\n{mark} = " in text:
                found[file.stem.partition("_")[0]] = (f"{package}.{file.stem}", mark)
    return found


def _of_datasets(*marks: str) -> dict[str, tuple[str, str]]:
    return _modules(Path(__file__).parent, *marks)


def _of_networks() -> dict[str, tuple[str, str]]:
    return _modules(NETWORK_FILES, "NETWORK_FORMAT")


def _object(place: tuple[str, str]) -> Any:
    return getattr(importlib.import_module(place[0]), place[1])


def names() -> tuple[str, ...]:
    """Return the names of all formats to which datasets are exported."""
    return tuple(_of_datasets(*EXPORTS))


def import_names() -> tuple[str, ...]:
    """Return the names of all formats from which datasets are imported."""
    return tuple(_of_datasets(*IMPORTS))


def network_names() -> tuple[str, ...]:
    """Return the names of all formats of networks."""
    return tuple(_of_networks())


def find(name: str) -> ExportFormat:
    """Return the format of a name to which datasets are exported.

    Raises:
        ConfigError: There is none.
    """
    if name not in names():
        known = sorted(names(), key=lambda one: bool(find(one).package))  # those first that need no further package
        also = f"and for a network {' and '.join(network_names())}"
        near = difflib.get_close_matches(name, [*known, *network_names()], 1)
        meant = OTHER_NAMES.get(name.lower().lstrip(".")) or (near[0] if near else None)
        hint = "" if meant is None else f" Did you mean {meant}?"
        raise ConfigError(f"--to: there is no format {name!r}.{hint} There are {', '.join(known)}, {also}")
    found: ExportFormat = _object(_of_datasets(*EXPORTS)[name])
    return found


def find_import(name: str) -> ImportFormat:
    """Return the format of a name from which datasets are imported.

    Raises:
        ConfigError: There is none.
    """
    if name not in import_names():
        raise ConfigError(f"an import reads {' or '.join(import_names())}, not {name!r}")
    found: ImportFormat = _object(_of_datasets(*IMPORTS)[name])
    return found


def find_network(name: str) -> NetworkFormat:
    """Return the format of networks of a name.

    Raises:
        ConfigError: There is none.
    """
    if name not in network_names():
        raise ConfigError(f"a network is exported to {' or '.join(network_names())}, not {name!r}")
    found: NetworkFormat = _object(_of_networks()[name])
    return found


def of_source(source: str) -> ImportFormat:
    """Return the format of a dataset to import, by its path or name.

    Raises:
        ConfigError: No format reads it.
    """
    for one in map(find_import, import_names()):
        if one.reads(source):
            return one
    known = "; ".join(f"{name}: {find_import(name).source}" for name in import_names())
    raise ConfigError(f"{source} is of no known format. An import takes, for {known}")
