"""Configurations of tests."""

from __future__ import annotations

from physgym.experiment.config import check_config


def changed_config(data, changes):
    """A checked configuration with changes: sections take over the keys that are given, other values are replaced."""
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(data.get(name, {}), dict)
        data[name] = {**data.get(name, {}), **value} if both else value
    return check_config(data, "test")
