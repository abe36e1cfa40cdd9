"""YAML of configurations: read as in YAML 1.2, and written so that it reads as the same data."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import yaml

from physgym.errors import ConfigError

MOST_VALUES = 100_000  # of a configuration, its aliases followed


class YamlLoader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as in YAML 1.2, and a key may stand only once; PyYAML sees neither."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Make a mapping as PyYAML does, but refuse the second of two equal keys."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice in one section", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(text: str) -> Any:
    """Return the data of a YAML text.

    Raises:
        yaml.YAMLError: It is not YAML.
        ValueError: Its aliases make more of it than a configuration can be.
    """
    data = yaml.load(text, YamlLoader)
    _check_size(data)
    return data


def _check_size(data: Any) -> None:
    """Raise ValueError where aliases repeat so much that checking the data would not end."""
    rest, count = [data], 0
    while rest:
        item = rest.pop()
        count += 1
        if count > MOST_VALUES:
            raise ValueError(f"with its aliases it has more than {MOST_VALUES:,} values, or one that holds itself")
        if isinstance(item, dict):
            rest.extend(item.values())
        elif isinstance(item, list):
            rest.extend(item)


class _Dumper(yaml.SafeDumper):
    """Writer that puts texts in quotes which a reader of configurations would take for numbers."""

    yaml_implicit_resolvers = YamlLoader.yaml_implicit_resolvers


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Return the node of a text, with escapes where its ends of lines would be read as others."""
    style = '"' if set(text) & set("\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def to_yaml(config: Mapping[str, Any]) -> str:
    """Return a configuration as the text that reads as the same one.

    Raises:
        ConfigError: It holds what YAML does not know or reads as something else, such as dates; the text names the key.
    """
    return yaml.dump(_data(config, ()), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _data(value: Any, path: tuple[str, ...]) -> Any:
    """Return a value as data that YAML knows: tuples and numbers of NumPy become lists and numbers of Python."""
    key = ".".join(path) or "the configuration"
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise ConfigError(
                    f"{key}: the key {name!r}, which is no text, cannot be kept in a configuration file; put it in "
                    "quotes"
                )
        return {str(name): _data(item, (*path, name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_data(item, (*path, str(number))) for number, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    for kind in (bool, int, float, str):  # YAML would not take what is derived from them
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    raise ConfigError(
        f"{key}: {value!r:.100}, which is of the type {type(value).__name__}, cannot be kept in a configuration file; "
        "write a text or numbers instead"
    )
