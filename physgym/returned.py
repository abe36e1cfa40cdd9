"""What `reset` and `step` of an environment returned: the errors for values of another form."""

from __future__ import annotations

from typing import Any

from physgym.errors import SampleError

RETURNED = "{name} must return {count} values, {what}; it returned {got}"
WHAT = {2: "(observation, info)", 5: "(observation, reward, terminated, truncated, info)"}
WRONG_REWARD = "the reward must be a number, not {reward!r}"
WRONG_INFO = "info must be a dictionary, not a {kind}"


def unpacked_error(name: str, values: Any, count: int) -> SampleError | None:
    """Return the error for a return value of the wrong form, None if its form is right."""
    several = isinstance(values, (tuple, list))
    if several and len(values) == count:
        return None
    got = f"{len(values)} values" if several else f"a {type(values).__name__}"
    return SampleError(RETURNED.format(name=name, count=count, what=WHAT[count], got=got))


def reward_error(reward: Any) -> SampleError | None:
    """Return the error for a reward that is no number, None if it is one; a text is none."""
    try:
        float(reward)
    except (TypeError, ValueError):
        return SampleError(WRONG_REWARD.format(reward=reward))
    return SampleError(WRONG_REWARD.format(reward=reward)) if isinstance(reward, (str, bytes)) else None


def info_error(info: Any) -> SampleError | None:
    """Return the error for an info that is no dictionary, None if it is one."""
    return None if isinstance(info, dict) else SampleError(WRONG_INFO.format(kind=type(info).__name__))


def returned(name: str, values: Any, count: int) -> Any:
    """Return the values that `reset` or `step` returned, if there are so many.

    Raises:
        SampleError: There are not.
    """
    if error := unpacked_error(name, values, count):
        raise error
    return values
