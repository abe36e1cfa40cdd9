"""Resuming a training: the state in a checkpoint, and whether it fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from physgym.errors import ConfigError

THREADS = 1024  # which torch would start without a question
NO_ENTRY = "the entry {name} is not what a training has there, but {value}"


def check_training(state: Mapping[str, Any]) -> None:
    """Raise ConfigError unless a state has the parts of that of a `Trainer`, each of its kind."""
    sound: dict[str, Callable[[Any], bool]] = {
        **dict.fromkeys(("epoch", "batch", "step"), _is_count),
        **dict.fromkeys(("settings", "optimization", "generators", "versions"), _is_table),
        "means": lambda part: _is_count(part["samples"]) and _is_table(part["sums"], float),
        "history": lambda part: _is_count(part["skipped"]) and all(map(_is_table, part["epochs"])),
        "order": lambda part: part is None or _is_table(part, bool, int, str),
        "threads": lambda part: _is_count(part) and 1 <= part <= THREADS,
        "callbacks": lambda part: _is_table(part, dict),
        "source": lambda part: True,
    }
    for name, right in sound.items():
        try:
            fits = name in state and right(state[name])
        except (TypeError, KeyError):
            fits = False
        if not fits:
            raise ConfigError(NO_ENTRY.format(name=name, value=str(state.get(name))[:100]))


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_table(value: Any, *kinds: type) -> bool:
    """Whether it is a dictionary by name, of values of certain types."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and (not kinds or type(item) in kinds) for name, item in value.items()
    )
