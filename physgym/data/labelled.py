"""A dataset as variables with named dimensions: `labelled_variables`, and `as_xarray`, which makes xarray's of them."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from physgym.data.side_arrays import CONSTANT, DatasetContents, check_episodes, described, side_arrays
from physgym.errors import ConfigError, DatasetError
from physgym.sample import Field
from physgym.simulation import TIME
from physgym.spaces import Array

if TYPE_CHECKING:
    import xarray

ORIGINAL = "physgym"  # attribute with the name in the dataset; of the whole, what the dataset says of itself
SAMPLE = "sample"
# the dimension of what is stored besides the samples, by the beginning of its name
TABLES = {
    "index/parameters/": "episode_with_parameters",
    "index/episodes/": "episode_with_parameters",
    "index/rejected/": "rejected_sample",
    "index/endings/": "ended_episode",
}


@dataclass(frozen=True)
class LabelledVariable:
    """An array with named dimensions.

    Attributes:
        name: Name of the variable, which netCDF takes too: without "/".
        original: Name in the dataset, such as "group/flags" or "index/parameters/stiffness".
        dims: Names of its axes.
        shape: Their lengths.
        dtype: dtype of the values.
        attributes: Texts that say what is known of it, such as its unit.
        values: The values; None for a field, which the dataset holds.
        coordinate: Whether it says where samples come from.
    """

    name: str
    original: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    attributes: Mapping[str, str] = field(default_factory=dict)
    values: Array | None = None
    coordinate: bool = False

    @property
    def nbytes(self) -> int:
        """Return the number of bytes of all values."""
        return math.prod(self.shape) * self.dtype.itemsize


def plain_name(name: str) -> str:
    """Return a name that netCDF takes: "." for "/", composed letters, no other special character at its begin."""
    name = unicodedata.normalize("NFC", name).replace("/", ".").rstrip()
    name = "".join("_" if ord(letter) < 32 or ord(letter) == 127 else letter for letter in name)
    first = name[:1]
    return name if first.isalnum() or first == "_" or ord(first or " ") > 127 else f"_{name}"


def labelled_variables(
    dataset: DatasetContents, dims: Mapping[str, Sequence[str]] | None = None
) -> list[LabelledVariable]:
    """Return fields, names of samples and all else that a dataset holds, as variables with named dimensions.

    Args:
        dataset: The samples.
        dims: Names of the axes of fields, parameters and constants, by name; else axis i of ``forces`` is
            ``forces_i``, and an output that feeds an input has the axes of that.

    Raises:
        ConfigError: `dims` names no field, or not all of its axes; two names become one, or two axes of one name have
            different lengths, or episodes of several folders have one number.
    """
    check_episodes(dataset)
    given = {name: tuple(map(plain_name, axes)) for name, axes in (dims or {}).items()}
    fields = dict(dataset.spec.items())
    side = side_arrays(dataset)
    if TIME not in fields and (times := _times(dataset)) is not None:
        side[f"index/{TIME}"] = times
    taken = {plain_name(name) for name in fields}
    rows = _free(SAMPLE, taken)
    found = []
    for name, one in fields.items():
        axes = _axes(one.feeds if one.feeds in fields and name not in given else name, one.shape, given)
        said = {"units": one.unit, "role": one.role, "mask": one.mask}
        said |= {"kind": one.kind if one.kind != "number" else "", "feeds": one.feeds}
        shape = (len(dataset), *one.shape)
        found.append(LabelledVariable(plain_name(name), name, (rows, *axes), shape, one.dtype, _said(said, name)))
    for name, values in side.items():
        short = name.removeprefix("index/")
        coordinate = "/" not in short
        label = plain_name(short if coordinate and plain_name(short) not in taken else name if coordinate else short)
        table, of = _table(name), _field_of(name)
        unit = "s" if short == TIME else _unit(dataset, name)
        lead = (rows if coordinate else table,) if table or coordinate else ()
        axes = _axes(of, values.shape[len(lead) :], given)
        said = _said({"units": unit}, name)
        found.append(
            LabelledVariable(label, name, (*lead, *axes), values.shape, values.dtype, said, values, coordinate)
        )
    _check(found, given)
    return found


def as_xarray(dataset: DatasetContents, dims: Mapping[str, Sequence[str]] | None = None) -> xarray.Dataset:
    """Return a dataset as an `xarray.Dataset`; see `labelled_variables` for its variables.

    Fields are mapped from the files where their rows follow one another there, else they are read.

    Raises:
        ConfigError: The names of axes do not fit.
    """
    try:
        import xarray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"to_xarray needs xarray: pip install 'physgym[xarray]' ({error})", name=error.name
        ) from error
    variables = labelled_variables(dataset, dims)
    try:
        columns = dataset.arrays
    except DatasetError:  # not mapped as a whole
        columns = dataset.read(0, len(dataset))
    made = {
        one.name: xarray.Variable(
            one.dims, columns[one.original] if one.values is None else one.values, dict(one.attributes)
        )
        for one in variables
    }
    coordinates = {one.name for one in variables if one.coordinate}
    return xarray.Dataset(
        {name: one for name, one in made.items() if name not in coordinates},
        coords={name: made[name] for name in coordinates},
        attrs={ORIGINAL: json.dumps(described(dataset))},
    )


def _times(dataset: DatasetContents) -> Array | None:
    try:
        return dataset.index(TIME)
    except ConfigError:  # nothing says it
        return None


def _free(name: str, taken: Iterable[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _table(name: str) -> str:
    return next((dim for prefix, dim in TABLES.items() if name.startswith(prefix)), "")


def _field_of(name: str) -> str:
    """Return the name by which the axes of a stored array are named: a rejected sample has the axes of its field."""
    for prefix in ("index/parameters/", "index/rejected/data/", CONSTANT):
        name = name.removeprefix(prefix)
    return name


def _axes(name: str, shape: tuple[int, ...], given: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    axes = given.get(name, tuple(f"{plain_name(name)}_{i}" for i in range(len(shape))))
    if len(axes) != len(shape):
        raise ConfigError(f"the names of the axes of {name!r} are {list(axes)}; it has {len(shape)}, of shape {shape}")
    return axes


def _unit(dataset: DatasetContents, name: str) -> str:
    known: Mapping[str, Field] = {}
    if name.startswith("index/parameters/"):
        known = dataset.parameter_spec or {}
    elif name.startswith("index/rejected/data/"):
        known = dataset.spec
    of = _field_of(name)
    return known[of].unit if of in known else ""


def _said(attributes: Mapping[str, str], original: str) -> dict[str, str]:
    return {ORIGINAL: original, **{name: text for name, text in attributes.items() if text}}


def _check(variables: Sequence[LabelledVariable], given: Mapping[str, Any]) -> None:
    """Raise where names of variables or axes would swap or mix arrays."""
    names: dict[str, str] = {}
    lengths: dict[str, tuple[int, str]] = {}
    for one in variables:
        if one.name in names:
            raise ConfigError(
                f"{names[one.name]!r} and {one.original!r} would both be called {one.name!r}; rename one "
                "(physgym data rename)"
            )
        names[one.name] = one.original
        if len(set(one.dims)) < len(one.dims):
            raise ConfigError(f"the axes of {one.original!r} need different names, not {list(one.dims)}")
        for dim, length in zip(one.dims, one.shape, strict=True):
            before, whose = lengths.setdefault(dim, (length, one.original))
            if before != length:
                raise ConfigError(
                    f"axis {dim!r} has {before} entries in {whose!r} and {length} in {one.original!r}; give them "
                    "different names"
                )
    if both := sorted(set(names) & set(lengths)):
        raise ConfigError(f"{both} name both an axis and an array; give the axis another name")
    known = {_field_of(one.original) for one in variables}
    if unknown := sorted(set(given) - known):
        raise ConfigError(f"dims names {unknown}; there are {sorted(known)}")
