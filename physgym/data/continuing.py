"""Checks of what a writer continues, and of JSON data that it is given."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from physgym.data.layout import PartitionLayout
from physgym.data.partition import Partition
from physgym.errors import ConfigError, DatasetError

ARGUMENTS = "env_kwargs"  # entry of a source: arguments of the environment, or a list of them
OPTIONS = {  # of the command line, by the entry of a source that they give
    ARGUMENTS: "--arg",
    **{name: f"--{name.replace('_', '-')}" for name in ("seed", "max_steps", "actions", "parameters", "nonfinite")},
}
BOUNDED = "bounded"  # attribute of a partition whose dataset drops old ones


def check_continued(partitions: Sequence[Partition], layout: PartitionLayout, source: str, *, bounded: bool) -> None:
    """Raise DatasetError if samples of a layout and source do not continue partitions."""
    if partitions and (BOUNDED in partitions[0].attributes) is not bounded:
        raise DatasetError(
            f"{partitions[0].path} is of a dataset that drops old partitions, or is not, and the new samples say "
            "otherwise; continue it in the same way (bounded=...)"
        )
    for part in partitions:
        if part.spec != layout.spec:
            raise DatasetError(
                f"{part.path} has other fields than the new samples: {part.spec.difference(layout.spec)}. "
                "Write another dataset, or make the samples as they were"
            )
        if part.layout.parameters != layout.parameters:
            raise DatasetError(
                f"{part.path} has the parameters {part.layout.parameters}, the new samples {layout.parameters}; "
                "continue it with the same simulation"
            )
        if part.layout.rejected != layout.rejected:
            kept, how = ("keeps", "with") if part.layout.rejected else ("does not keep", "without")
            raise DatasetError(
                f"{part.path} {kept} the samples of rejected steps; continue it {how} --keep-rejected "
                f"(keep_rejected={part.layout.rejected})"
            )
        if part.layout != layout:
            raise DatasetError(f"{part.path} has other tables than the new samples; continue it in the same way")
        if part.attributes["source"] != source:
            raise DatasetError(
                f"{part.path} was not made with the same {_differing(part.attributes['source'], source)}; "
                "resume with the same environment, arguments, samplers and seed"
                f"{_given_again(part.attributes['source'], source)}, or write another dataset"
            )


def source_text(source: Mapping[str, Any]) -> str:
    """Return a source as a partition stores it, as JSON.

    Names have no order but those within an argument of an environment, such as the input vectors of a model.

    Raises:
        ConfigError: It is no JSON data with texts as keys.
    """
    try:
        json.dumps(dict(source), sort_keys=True)  # not where keys of two kinds would become one
        return json.dumps(_without_order(dict(source)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"source must be JSON data with texts as keys: {error}") from error


def are_in_one_order(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether equal sources, or parts of them, have the names within arguments of environments in one order."""
    return json.dumps(_names(_without_order(one))) == json.dumps(_names(_without_order(other)))


def _without_order(value: Any, key: str = "") -> Any:
    """Return JSON data with its names sorted, but for those within arguments of environments."""
    if isinstance(value, (list, tuple)):
        return [_without_order(one, key) for one in value]
    if not isinstance(value, Mapping):
        return value
    return {name: value[name] if key == ARGUMENTS else _without_order(value[name], name) for name in sorted(value)}


def _names(value: Any) -> Any:
    if isinstance(value, Mapping):
        return [[str(name), _names(one)] for name, one in value.items()]
    return [_names(one) for one in value] if isinstance(value, (list, tuple)) else None


def json_copy(value: Any, name: str) -> Any:
    """Return a copy of JSON data.

    Raises:
        ConfigError: It is none.
    """
    try:
        return json.loads(json.dumps(dict(value) if isinstance(value, Mapping) else value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} must be JSON data with texts as keys: {error}") from error


def _differing(then: str, now: str) -> str:
    """Name what differs in two sources of samples, given as JSON."""
    one, other = json.loads(then), json.loads(now)
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    if not names:
        names = [name for name in one if json.dumps(one[name]) != json.dumps(other[name])]
        return "order of " + ", ".join(f"{name} ({one[name]}, the new samples with {other[name]})" for name in names)
    return ", ".join(f"{name} ({one.get(name)}, the new samples with {other.get(name)})" for name in names)


def _given_again(then: str, now: str) -> str:
    """Name the options that give what differs in two sources, given as JSON, as it was then."""
    one, other = json.loads(then), json.loads(now)
    given = [text for name in OPTIONS if one.get(name) != other.get(name) for text in _options(name, one.get(name))]
    return f": {', '.join(given)}" if given else ""


def _options(name: str, value: Any) -> list[str]:
    """Return the options that give an entry of a source."""
    option = OPTIONS[name]
    if name == ARGUMENTS and isinstance(value, Mapping):
        return [f"{option} {key}={json.dumps(one)}" for key, one in value.items()] or [f"no {option}"]
    if value is None:
        return [f"no {option} ({name}=None)"]
    if isinstance(value, (Mapping, list)):
        return [f"the {option} that is recorded as {json.dumps(value)}"]
    return [f"{option} {value} ({name}={value!r})"]
