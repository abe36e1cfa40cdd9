"""Values beyond what the spaces of an environment declare: samples, parameters, and numbers in place of arrays."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from physgym.data.declared_bounds import field_ranges, first_beyond
from physgym.episode import Transition
from physgym.placement import Env
from physgym.returned import check_observation
from physgym.sample import SampleSpec, declaration
from physgym.spaces import flatten, leaf_spaces, value_range

NO_ARRAYS = (np.generic, int, float, list, tuple)  # which Gymnasium casts, with a warning


def values_beyond(env: Env, transitions: Sequence[Transition]) -> str:
    """Say which value of samples is beyond the bounds that their environment declares; empty for none."""
    spec, space = SampleSpec.from_env(env), declaration(env, "sample_space")
    ranges = {} if space is None else field_ranges(space)
    for transition in transitions:
        for name, value in (transition.sample or {}).items():
            if spec is None or spec[name].mask or name not in ranges:
                continue
            if (found := first_beyond(ranges[name], value, value)) is not None:
                return (
                    "values are outside the bounds that sample_space declares, which physgym does not enforce: field "
                    f"{name!r} has {found[0]:g} at step {transition.step}, beyond {found[1]:g}. Repair the simulation, "
                    'declare wider bounds, or raise physgym.RejectSample("why") for such a step'
                )
    return ""


def cast_numbers(space: gymnasium.Space[Any], observation: Any) -> str:
    """Say which fields of an observation are numbers or lists where their space has arrays; empty for none."""
    names: list[str] = []
    with contextlib.suppress(LookupError, TypeError):  # of another form, which other rules say
        for (name, leaf), value in zip(leaf_spaces(space).items(), flatten(space, observation), strict=False):
            declared = value_range(leaf)
            if declared is not None and not declared.single and isinstance(value, NO_ARRAYS):
                names.append(repr(name) if name else "the value")
    if not names:
        return ""
    return (
        f"{', '.join(names)} of the observation: its space needs an array, and this is a number or a list. Gymnasium "
        f"warns whenever it casts one (Casting input x to numpy array). Return np.array(value, dtype), as of {names[0]}"
    )


def observation_fault(space: gymnasium.Space[Any], observation: Any) -> str:
    """Say what part of an observation is no element of its space, and why; empty for none.

    Raises:
        SampleError: A part is missing, or has another shape or kind of numbers.
    """
    check_observation(space, observation)
    for (name, leaf), value in zip(leaf_spaces(space).items(), flatten(space, observation), strict=True):
        declared, what = value_range(leaf), f"observation {name!r}" if name else "the observation"
        if declared is None or declared.single or not hasattr(value, "dtype"):
            continue
        if value.dtype != declared.dtype:
            return (
                f"{what} has dtype {value.dtype}; observation_space says {declared.dtype}. Return "
                f"np.asarray(value, np.{declared.dtype}), or change the space"
            )
        if (found := first_beyond(declared, value, value)) is not None:
            return (
                f"{what} has the value {found[0]:g}, beyond the bound {found[1]:g} of observation_space. Return values "
                "within the bounds, or widen them"
            )
        if not np.asarray(leaf.contains(value)).all():
            return f"{what} is {value!r}, which is not in {leaf}"
    return ""


def values_outside(space: gymnasium.Space[Any]) -> list[Any]:
    """Return values of the right form beyond the bounds of a leaf, where it has some and its dtype holds them."""
    found = value_range(space)
    if found is None:
        return []
    info = np.finfo(found.dtype) if found.dtype.kind == "f" else np.iinfo(found.dtype)
    wrong = []
    for bound, has, step in ((found.low, found.has_low, -1), (found.high, found.has_high, 1)):
        near = np.where(has, bound, 0).astype(np.float64)
        beyond = near + step * (1 + np.abs(near))
        if has.any() and (beyond > float(info.min)).all() and (beyond < float(info.max)).all():
            wrong.append(beyond.astype(found.dtype)[()])
    return wrong
