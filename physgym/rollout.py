"""The loop that runs an episode of an environment and hands out its samples.

Workers that generate data and runners that show a network use the same loop, so a seed names the same episode in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import batch_space, iterate

from physgym.errors import SampleError
from physgym.sample import Sample, SampleSpec
from physgym.sim import Simulation

Policy = Callable[[Any, np.random.Generator], Any]

ACTION_BLOCK = 32
DEFAULT_MAX_STEPS = 1000
DEFAULT_MAX_REJECTS = 10

NO_SAMPLE_SPACE = (
    "{env} declares no sample_space, so there is nothing to store. Set `sample_space` (a gymnasium.spaces.Dict) and "
    '`sample_roles` on it and return info["sample"] from step; see docs/simulation.md.'
)
TOO_MANY_REJECTS = (
    "{where}: {count} steps in a row gave no valid sample (max_rejects={limit}); the last reason: {reason}. "
    "Make the actions or parameters milder, repair the solver, or raise max_rejects."
)


@dataclass(slots=True)
class Transition:
    """One step of an episode.

    Attributes:
        step: Index of the step in its episode, from 0.
        action: What was applied.
        observation: What was seen after it.
        reward: Its reward.
        last: Whether the episode ended with it.
        info: The info dictionary as the environment returned it.
        sample: The checked sample, None if the step has none.
        rejected: Why there is none; empty otherwise.
    """

    step: int
    action: Any
    observation: Any
    reward: float
    last: bool
    info: dict[str, Any]
    sample: Sample | None
    rejected: str


def episode_seed(run_seed: int, episode: int) -> int:
    """Seed of an episode: a function of the run's seed and the episode's index alone, below 2**63."""
    state = np.random.SeedSequence((run_seed, episode)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def sampler(env: gymnasium.Env[Any, Any]) -> Policy:
    """The policy that draws random actions: the environment's own ``sample_action(rng)``, else its action space."""
    own = getattr(env.unwrapped, "sample_action", None)
    if own is not None and getattr(own, "__func__", None) is not Simulation.sample_action:
        return lambda _, rng: own(rng)
    # seeding a space and sampling from it costs many times a cheap step, so that actions are drawn by the block
    block = batch_space(env.action_space, ACTION_BLOCK)
    drawn: Iterator[Any] = iter(())
    owner: np.random.Generator | None = None

    def from_space(_: Any, rng: np.random.Generator) -> Any:
        nonlocal drawn, owner
        if rng is not owner:  # a new episode
            block.seed(int(rng.integers(2**31)))
            drawn, owner = iter(()), rng
        for action in drawn:
            return action
        drawn = iter(list(iterate(block, block.sample())))
        return next(drawn)

    return from_space


def require_spec(env: gymnasium.Env[Any, Any]) -> SampleSpec:
    """The sample fields of an environment.

    Raises:
        SampleError: It declares none.
    """
    spec = SampleSpec.from_env(env)
    if spec is None:
        raise SampleError(NO_SAMPLE_SPACE.format(env=env))
    return spec


def run_episode(
    env: gymnasium.Env[Any, Any],
    spec: SampleSpec,
    *,
    seed: int,
    policy: Policy | None = None,
    max_steps: int = DEFAULT_MAX_STEPS,
    max_rejects: int = DEFAULT_MAX_REJECTS,
    where: str = "episode",
    check: bool = True,
) -> Iterator[Transition]:
    """Run one episode, step by step.

    Args:
        env: The environment.
        spec: Its sample fields.
        seed: Seed of the episode: resets the environment and, on a stream of its own, draws the actions.
        policy: Maps (observation, generator) to an action; the environment's sampler by default.
        max_steps: End the episode after so many steps.
        max_rejects: Fail after so many rejected steps in a row.
        where: What to call the episode in an error.
        check: Whether to check samples; if not, transitions hold them as the environment gave them.

    Yields:
        One transition per step.

    Raises:
        SampleError: A sample does not fit its declaration, or too many in a row were rejected.
    """
    policy = policy or sampler(env)
    rng = np.random.default_rng((seed, 1))  # 0 would repeat the environment's own stream
    observation, _ = env.reset(seed=seed)
    rejects = 0
    for step in range(max_steps):
        action = policy(observation, rng)
        observation, reward, terminated, truncated, info = env.step(action)
        last = bool(terminated or truncated or step == max_steps - 1)
        sample, rejected = None, ""
        if "sample" in info:
            sample, rejects = info["sample"], 0
            if check:
                sample = spec.check(sample, f"{where}, step {step}")
        else:
            rejected, rejects = str(info.get("rejected", "the step returned no sample")), rejects + 1
        yield Transition(step, action, observation, float(reward), last, info, sample, rejected)
        if rejects >= max_rejects:
            raise SampleError(TOO_MANY_REJECTS.format(where=where, count=rejects, limit=max_rejects, reason=rejected))
        if last:
            return
