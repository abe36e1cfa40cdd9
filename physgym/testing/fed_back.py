"""The rules of `physgym.testing.conformance` for what is fed back, and for networks in place of the solver."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from physgym.episode import Transition, sampler
from physgym.feedback_gaps import feedback_gaps
from physgym.placement import Env
from physgym.sample import SampleSpec, flat_items
from physgym.spaces import Array
from physgym.testing.comparing import observed, require
from physgym.testing.isolation import ConformanceNote

# relative to the largest value: a prediction has the dtype of its field, the solver may compute in another
CLOSE = 1e-3
FARTHEST = 0.1  # relative to the largest value: what is meant to be an approximation is nearer than that
LARGEST_PART = 0.5  # of what a step changes: likewise

FED = (
    "inputs(action) must give the input fields as the sample of the step has them; {name!r} {what} at step {step}. "
    "They are what the network was trained on"
)


def check_feedback(spec: SampleSpec, transitions: Sequence[Transition]) -> None:
    """Check that the samples of an episode hold what is declared to be fed back.

    Raises:
        AssertionError: An output of a step is not the input that it feeds at the next one.
    """
    kept = [(one.step, one.sample) for one in transitions if one.sample is not None]
    rows = {name: np.array([sample[name] for _, sample in kept]) for name in spec}
    steps = np.array([step for step, _ in kept], np.int64)
    gaps = feedback_gaps(spec, rows, np.zeros_like(steps), steps)
    require(not (texts := list(map(str, gaps))), ". ".join(texts))


def check_stand_in(make: Callable[[], Env], spec: SampleSpec, steps: int, seed: int) -> None:
    """Check that an exact prediction gives the solver's observation, by the hooks of a `SurrogateEnv`.

    Args:
        make: Makes an environment that has the hooks.
        spec: Its sample fields.
        steps: Steps of the episode at most.
        seed: Its seed.

    Raises:
        AssertionError: It does not; the text says by how much.
    """
    solver, other = make(), make()
    hooked: Any = other.unwrapped
    draw, rng = sampler(solver), np.random.default_rng(seed)
    observation, _ = solver.reset(seed=seed)
    other.reset(seed=seed)
    for step in range(steps):
        action = draw(observation, rng)
        fed = dict(flat_items(hooked.inputs(action)))
        observation, _, terminated, truncated, info = solver.step(action)
        if "sample" not in info:
            break  # what is left of a state then is for the solver to say
        sample = spec.check(info["sample"])
        for name in spec.names("input"):
            require(name in fed, FED.format(name=name, what="is missing", step=step))
            require(_close(fed[name], sample[name]), FED.format(name=name, what="differs", step=step))
        expected: Any = solver.unwrapped
        before = observed(hooked)
        hooked.adopt(action, {name: sample[name] for name in spec.names("target")})
        after, wanted = observed(hooked), observed(expected)
        if not all(map(_close, after, wanted)):
            _judge(step, _distance(after, wanted), _distance(before, wanted))
            break
        if terminated or truncated:
            break
    solver.close()
    other.close()


def _judge(step: int, far: float, way: float) -> None:
    """Say how far from the solver's observation a prediction that is exact has led: a note where that is near.

    Args:
        step: The step.
        far: The distance, relative to the largest value.
        way: How far the step itself leads, likewise.

    Raises:
        AssertionError: It is not near.
    """
    sizes = f"{far:.1%} of the largest value away, where the step itself changes it by {way:.1%}"
    require(
        far <= FARTHEST and far <= LARGEST_PART * way,
        f"adopt(action, prediction) with the targets of the solver's step must lead to its observation; it differs "
        f"at step {step}: {sizes}. Take over all that `advance` would have changed; up to {FARTHEST:.0%}, and "
        f"{LARGEST_PART:.0%} of the step, count as an approximation",
    )
    warnings.warn(
        f"adopt(action, prediction) with the targets of the solver's step leads near its observation, not to it: at "
        f"step {step} it is {sizes}. If that is meant so, smaller errors of a network are not seen",
        ConformanceNote,
        stacklevel=3,
    )


def _close(a: Any, b: Any) -> bool:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=0, atol=CLOSE * np.abs(b).max(initial=0)))


def _distance(first: list[Array], second: list[Array]) -> float:
    """Return the largest difference, relative to the largest value of the second."""
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(first, second, strict=True)]
    if any(a.shape != b.shape for a, b in pairs):
        return np.inf
    largest = max((np.abs(b).max(initial=0) for _, b in pairs), default=0.0)
    return float(max((np.abs(a - b).max(initial=0) for a, b in pairs), default=0.0) / max(largest, 1e-300))
