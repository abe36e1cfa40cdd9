"""The source of samples: what they are a function of, as JSON data that a dataset stores and a resume compares."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gymnasium.envs.registration import EnvSpec

from physgym.batched.env import ROUNDED, ROWS
from physgym.code.identity import described
from physgym.data.continuing import are_in_one_order
from physgym.data.dataset import SampleDataset
from physgym.data.description import partition_files
from physgym.data.origins import check_not_made_by_surgery
from physgym.data.partition import Partition
from physgym.data.recorded_numbers import as_numbers, read_numbers
from physgym.data.times import time_attribute
from physgym.episode import SEED_RULE
from physgym.errors import ConfigError, DatasetError
from physgym.generation.declarations import Declarations
from physgym.naming import same_name, spec_text
from physgym.registration import EnvLike, find_spec
from physgym.spaces import from_json, is_custom, to_json
from physgym.storage.location import Location, place


def recorded_source(path: str | Path | Location, mode: str) -> dict[str, Any] | None:
    """Return the source of a part of a dataset that is to be continued; None where there is no such part yet.

    Raises:
        DatasetError: It was made by surgery, so that nothing continues it.
    """
    folder = place(path)
    if isinstance(folder, Path):
        files = partition_files(folder, mode)
        found = dict(json.loads(Partition(files[0]).attributes["source"])) if files else None
    else:
        try:
            found = SampleDataset(path, mode=mode).source  # type: ignore[arg-type]  # the writer checks it
        except (DatasetError, ConfigError):
            found = None
    if found is not None:
        check_not_made_by_surgery(found, f"the part {mode} of {folder}")
    return found


def _with_rule(source: dict[str, Any]) -> dict[str, Any]:
    """Return a source with the present rule of seeds where it names none: of training, for which both rules agree."""
    return {"seeds": {"part": "training", "rule": SEED_RULE}, **source}


def as_recorded(source: dict[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a source in the words of one that is recorded, where a version of before had fewer for the same.

    Args:
        source: In the words of now.
        before: What is recorded; None if nothing is.
    """
    found, before = dict(source), before or {}
    name, acting, recorded = before.get("env"), source.get("actions"), before.get("actions")
    if isinstance(name, str) and same_name(name, source["env"]):  # without the module of a class
        found["env"] = name
    known, mine = ({"env_kwargs": of.get("env_kwargs")} for of in (before, source))
    if "env_kwargs" in before and read_numbers(known) == mine and are_in_one_order(known, mine):
        found["env_kwargs"] = before["env_kwargs"]  # NumPy's numbers were texts
    if isinstance(acting, dict) and isinstance(recorded, dict):
        # what a function has caught, and what it says
        later = {key for key in ("values", "text") if key not in recorded}
        if recorded == {key: part for key, part in acting.items() if key not in later}:
            found["actions"] = recorded
    return found


def _after_saving(data: Any) -> Any:
    """Return JSON data as it is after it was saved."""
    return json.loads(json.dumps(data))


def describable(each: Sequence[Mapping[str, Any]]) -> Any:
    """Return arguments as JSON data, a list where episodes have different ones."""
    return described(as_numbers(dict(each[0]) if len(each) == 1 else list(map(dict, each))))


def origin_attributes(env: EnvLike, each: Sequence[Mapping[str, Any]], declared: Declarations) -> dict[str, str]:
    """Return the attributes of a partition that name its origin for a reader; nothing depends on them."""
    names = ("observation", "action", "sample", "parameter")
    spaces = {f"{name}_space": _own_words(declared.envs.description[f"{name}_space"]) for name in names}
    described = {"env_spec": _env_spec(env, each), "spaces": json.dumps(spaces)}
    return described | time_attribute(declared.time_step)


def _own_words(description: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a space's description as this program writes it, for any order of keys and form of bounds.

    A worker in another language may have maps without an order: partitions would differ from process to process.
    """
    return description if description is None or is_custom(description) else to_json(from_json(description))


def rows_attribute(declared: Declarations, path: str | Path | Location | None, mode: str) -> dict[str, str]:
    """Return the attribute of a partition that says by how many rows at once its samples were computed.

    Nothing is said where samples do not depend on that to the bit.

    Args:
        declared: What the environments declare.
        path: A dataset that is continued; where it was computed by other numbers of rows, this is a warning.
        mode: Its part.
    """
    envs = declared.envs
    if envs.description["metadata"].get(ROWS) != ROUNDED:
        return {}
    workers = max(1, envs.num_workers)
    now = f"{envs.num_envs} in {workers} batch{'es' if workers > 1 else ''}"
    before = None if path is None else _rows_before(path, mode)
    if before not in (None, now):
        warnings.warn(
            f"the rows of this simulator are equal up to rounding alone, which depends on their number "
            f'(metadata["{ROWS}"] = "{ROUNDED}"): the stored samples were computed by {before}, those that follow by '
            f"{now}, and differ in the last bits from those of a generation in one go. Continue with the same num_envs "
            "and num_workers for equal bytes",
            UserWarning,
            stacklevel=2,
        )
    return {"rows": now}


def _rows_before(path: str | Path | Location, mode: str) -> str | None:
    folder = place(path)
    if isinstance(folder, Path):
        files = partition_files(folder, mode)
        return Partition(files[-1]).attributes.get("rows") if files else None
    try:
        return SampleDataset(path, mode=mode).partitions[-1].attributes.get("rows")  # type: ignore[arg-type]
    except (DatasetError, ConfigError):
        return None


def _env_spec(env: EnvLike, each: Sequence[Mapping[str, Any]]) -> str:
    """Return Gymnasium's description of a registered environment with its arguments; empty for any other."""
    if not isinstance(env, (str, EnvSpec)):
        return ""
    shown = [describable([one]) for one in each]
    common = {name: value for name, value in shown[0].items() if all(one.get(name) == value for one in shown)}
    spec = find_spec(env)
    return spec_text(replace(spec, kwargs={**spec.kwargs, **common}))


def is_same_source(saved: Mapping[str, Any], mine: dict[str, Any]) -> bool:
    """Return whether a saved source describes a stream, also where an older version has saved it."""
    one, other = _with_rule(_after_saving(saved)), _with_rule(as_recorded(_after_saving(mine), saved))
    return one == other and are_in_one_order(one, other)
