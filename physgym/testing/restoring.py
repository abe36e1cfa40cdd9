"""The rule of `physgym.testing.conformance` for simulations that keep and restore their state."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from physgym.episode import sampler
from physgym.placement import Env
from physgym.sample import SampleSpec
from physgym.simulation import lacking_state_hooks
from physgym.spaces import Array, flatten
from physgym.testing.comparing import observed, require, same_bits
from physgym.testing.isolation import ConformanceNote


def keeps_states(env: Env) -> bool:
    """Return whether a simulation can keep and restore its state; note where it implements one of both hooks."""
    lacking = lacking_state_hooks(env)
    if len(lacking) == 1:
        warnings.warn(
            f"state() and set_state(state) belong together, and {lacking[0]} is missing: its state is not restored",
            ConformanceNote,
            stacklevel=2,
        )
    return not lacking


def check_restored(make: Callable[[], Env], spec: SampleSpec, steps: int, seed: int) -> None:
    """Check that continuing from a restored state equals continuing, in the same environment and in a new one.

    Args:
        make: Makes an environment that keeps states.
        spec: Its sample fields.
        steps: Steps of the episode at most.
        seed: Its seed.

    Raises:
        AssertionError: It does not; the text says what differs.
    """
    env = make()
    inner: Any = env.unwrapped
    draw, rng = sampler(env), np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    seen = [_leaves(env, observation)]
    states: list[dict[str, Any]] = []
    kept: list[dict[str, Array]] = []
    actions: list[Any] = []
    found: list[dict[str, Array]] = []
    while len(actions) < steps and not (found and found[-1]["the end"]):
        states.append(_plain_state(inner))
        kept.append({name: np.array(value) for name, value in states[-1].items()})
        actions.append(draw(observation, rng))
        observation, step = _stepped(env, spec, actions[-1])
        seen.append(_leaves(env, observation))
        found.append(step)
    middle = len(states) // 2
    for where in ("the same environment", "a new environment"):
        if where == "a new environment":
            env.close()
            env = make()
        _go_elsewhere(env, seed + 1)
        inner = env.unwrapped
        inner.set_state(states[middle])
        require(
            all(map(same_bits, observed(inner), seen[middle])),
            f"set_state(state) must lead to the observation that there was; in {where} it does not",
        )
        for place, action in enumerate(actions[middle:], start=middle):
            _, again = _stepped(env, spec, action)
            _compare(found[place], again, f"in {where} {{name}} differs at step {place} after the state of {middle}")
    env.close()
    for state, copied in zip(states, kept, strict=True):
        require(
            all(map(same_bits, state.values(), copied.values())),
            "a state must not change after it was returned, nor where it is set. Return copies in state(), and keep "
            "copies in set_state (checked_state gives some)",
        )


def _go_elsewhere(env: Env, seed: int) -> None:
    """Reset an environment, and make a step of another episode."""
    observation, _ = env.reset(seed=seed)
    _, _, terminated, truncated, _ = env.step(sampler(env)(observation, np.random.default_rng(seed)))
    if terminated or truncated:
        env.reset(seed=seed + 1)


def _stepped(env: Env, spec: SampleSpec, action: Any) -> tuple[Any, dict[str, Array]]:
    """Return the observation after a step, and copies of all that it gave, by name."""
    observation, reward, terminated, truncated, info = env.step(action)
    step = {f"part {place} of the observation": leaf for place, leaf in enumerate(_leaves(env, observation))}
    step |= {"the reward": np.array(reward), "the terminal state": np.array(bool(terminated))}
    if "sample" in info:
        sample = spec.check(info["sample"], finite=False)
        step |= {f"sample field {name!r}": np.array(value) for name, value in sample.items()}
    return observation, step | {"the end": np.array(bool(terminated or truncated))}


def _compare(one: Mapping[str, Array], other: Mapping[str, Array], what: str) -> None:
    for name in {**one, **other}:
        if name == "the end":  # that of a time limit, which a state knows nothing of
            continue
        require(
            name in one and name in other and same_bits(one[name], other[name]),
            f"continuing from a restored state must equal continuing, to the bit; {what.format(name=name)} was set. "
            "Keep in state() all that steps depend on, the random generator included (generator_state)",
        )


def _plain_state(env: Any) -> dict[str, Any]:
    """Return the state of a simulation, which has to be arrays and numbers by name."""
    state = dict(env.state())
    for name, value in state.items():
        require(
            isinstance(name, str) and np.asarray(value).dtype.kind in "biufcSU",
            f"state() must return arrays and numbers by name; {name!r} is {value!r}",
        )
    return state


def _leaves(env: Env, observation: Any) -> Sequence[Array]:
    return [np.array(leaf) for leaf in flatten(env.observation_space, observation)]
