"""The loop that runs an episode of an environment and hands out its samples.

Workers that generate data and runners that show a network use the same loop, so a seed names the same episode in both.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import batch_space, iterate

from physgym import limits
from physgym.cube import uniform_actions
from physgym.errors import ConfigError, SampleError
from physgym.policies import ActionPolicy, EpisodePolicy, SkippingPolicy
from physgym.returned import check_observation, flag_of, info_of, returned, reward_of
from physgym.sample import Sample, SampleSpec
from physgym.simulation import NonFinite, Simulation

ACTION_BLOCK = 32
SEED_BLOCK = 1024
SEED_RULE = 2  # by which the seeds of a part follow from that of the run; datasets record theirs
# what the seeds of a part are derived with; written numbers, since datasets depend on them
PARTS = {"validation": 1, "test": 2, "prediction": 3, "evaluation": 4}
PART_KEY = 0x70617274
TRUNCATED = "truncated"  # field of a sample, as of a `RecordTransition`

NO_SAMPLE_SPACE = (
    "{env} declares no sample_space, so there is nothing to store. Set `sample_space` (a gymnasium.spaces.Dict) and "
    '`sample_roles` on it and return info["sample"] from step; see docs/howto/simulation.md. Or take its transitions '
    'as samples: put "transitions:" before its id, as in transitions:module:id.'
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
        rejected_sample: The sample of a rejected step as the environment gave it, unchecked; None if it gave none.
        ending: How the episode ended with it: "terminated", "truncated" by the environment, or "cut" by the largest
            number of steps; empty where it continues.
    """

    step: int
    action: Any
    observation: Any
    reward: float
    last: bool
    info: dict[str, Any]
    sample: Sample | None
    rejected: str
    rejected_sample: Any = None
    ending: str = ""


def episode_seed(run_seed: int, episode: int) -> int:
    """Return the seed of an episode, below 2**63: a function of its index and of the seed of the run or part."""
    return _seeds(run_seed, episode // SEED_BLOCK)[episode % SEED_BLOCK]


def part_seed(run_seed: int, part: str, rule: int = SEED_RULE) -> int:
    """Return the seed from which the episodes and samplers of a part draw.

    Those of the part "training" are the seed of the run itself; all other parts have one of their own, so that what
    validates a network, tests it or runs it is not what it was trained on.

    Args:
        run_seed: Seed of the run.
        part: "training", "validation", "test", "prediction" (a `Runner`) or "evaluation" (`RolloutEvaluation`).
        rule: 2, or 1 for what was made before parts had seeds of their own.

    Raises:
        ConfigError: There is no such part, or no such rule.
    """
    if rule not in (1, SEED_RULE):
        raise ConfigError(f"the seeds follow from rule {rule!r}; this physgym knows 1 and {SEED_RULE}. Use a newer one")
    if part == "training" or rule == 1:
        return run_seed
    if part not in PARTS:
        raise ConfigError(f"a part must be one of {('training', *PARTS)}, not {part!r}")
    state = np.random.SeedSequence(run_seed, spawn_key=(PART_KEY, PARTS[part])).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def seeds_of(source: Mapping[str, Any], mode: str) -> tuple[str, int]:
    """Return the part and the rule with which the seeds of a stored part were derived, for `part_seed`.

    Args:
        source: What the dataset records as its source.
        mode: The part that it is, which counts where the source does not say.
    """
    seeds = source.get("seeds")
    if not isinstance(seeds, Mapping):
        return mode, 1
    return str(seeds.get("part", mode)), int(seeds.get("rule", 1))


@functools.lru_cache(maxsize=64)
def _seeds(run_seed: int, block: int) -> list[int]:
    # many words of one sequence cost a fraction of a sequence for each
    states = np.random.SeedSequence(run_seed, spawn_key=(block,)).generate_state(SEED_BLOCK, np.uint64)
    seeds: list[int] = (states >> np.uint64(1)).tolist()
    return seeds


class ActionGenerator:
    """Makes the generator of an episode's actions, at a tenth of the cost of `numpy.random.default_rng`.

    Philox is made for this: any two keys give independent streams. A generator is good until the next one is made.
    """

    def __init__(self) -> None:
        self._bits = np.random.Philox(0)
        self._begin = self._bits.state
        self._key = self._begin["state"]["key"]
        self._begin["state"]["counter"][:] = 0
        self._key[1] = 0

    def of(self, seed: int) -> np.random.Generator:
        """Return the generator of an episode with this seed."""
        self._key[0] = seed % 2**64
        self._bits.state = self._begin
        return np.random.Generator(self._bits)


def episode_policy(env: gymnasium.Env[Any, Any]) -> EpisodePolicy:
    """Return the function that gives the policy of an episode, by its index.

    That is the sampler that a `SampledActionsEnv` brings along, else the environment's own ``sample_action(rng)``, else
    uniform draws from its action space.
    """
    if env.has_wrapper_attr("episode_policy"):
        brought: EpisodePolicy = env.get_wrapper_attr("episode_policy")
        return brought
    own = getattr(env.unwrapped, "sample_action", None)
    if own is not None and getattr(own, "__func__", None) is not Simulation.sample_action:
        return lambda _: lambda _, rng: own(rng)
    try:
        return uniform_actions(env.action_space)
    except ConfigError:  # a space without bounds or of variable size, which Gymnasium has a way to draw from
        return lambda _: SpacePolicy(env.action_space)


class SpacePolicy(SkippingPolicy):
    """Draws actions from a space as Gymnasium does.

    Args:
        space: The space.
    """

    def __init__(self, space: gymnasium.Space[Any]) -> None:
        # seeding a space and sampling from it costs many times a cheap step, so that actions are drawn by the block
        self._block = batch_space(space, ACTION_BLOCK)
        self._drawn: deque[Any] | None = None

    def __call__(self, observation: Any, rng: np.random.Generator) -> Any:
        """Return the next action."""
        drawn = self._begun(rng)
        if not drawn:
            drawn += iterate(self._block, self._block.sample())
        return drawn.popleft()

    def _begun(self, rng: np.random.Generator) -> deque[Any]:
        """Return the actions that were drawn and not taken; the first call seeds the space."""
        if self._drawn is None:
            self._block.seed(int(rng.integers(2**31)))
            self._drawn = deque()
        return self._drawn

    def skip(self, rng: np.random.Generator, steps: int) -> None:
        """Pass over the next actions; whole blocks of them are drawn at once."""
        if not steps:
            return
        drawn = self._begun(rng)
        while steps > len(drawn):
            steps -= len(drawn)
            drawn.clear()
            block = self._block.sample()
            if steps < ACTION_BLOCK:
                drawn += iterate(self._block, block)
            else:
                steps -= ACTION_BLOCK
        for _ in range(steps):
            drawn.popleft()


def sampler(env: gymnasium.Env[Any, Any]) -> ActionPolicy:
    """Return the policy that draws random actions: that of episode 0, started again with every generator."""
    begin = episode_policy(env)
    owner: np.random.Generator | None = None
    act: ActionPolicy | None = None

    def draw(observation: Any, rng: np.random.Generator) -> Any:
        nonlocal owner, act
        if rng is not owner or act is None:
            owner, act = rng, begin(0)
        return act(observation, rng)

    return draw


def require_spec(env: gymnasium.Env[Any, Any]) -> SampleSpec:
    """Return the sample fields of an environment.

    Raises:
        SampleError: It declares none.
    """
    spec = SampleSpec.from_env(env)
    if spec is None:
        raise SampleError(NO_SAMPLE_SPACE.format(env=env))
    return spec


def _reason(given: Any) -> str:
    """Return why a step was rejected, as text that can be sent and stored: lone surrogates are written out."""
    return str(given).encode("utf-8", "backslashreplace").decode("utf-8")


def truncated_sample(sample: Sample, spec: SampleSpec) -> Sample:
    """Return the sample with which an episode was cut, with its flag saying so, where it has a field ``truncated``.

    What ends an episode from outside, a limit of steps or a wrapper, is not known to what made the sample.
    """
    field = spec.get(TRUNCATED)
    if field is None or field.shape or field.dtype.kind not in "biu" or TRUNCATED not in sample:
        return sample
    return {**sample, TRUNCATED: field.dtype.type(1)}


def run_episode(
    env: gymnasium.Env[Any, Any],
    spec: SampleSpec,
    *,
    seed: int,
    policy: ActionPolicy | None = None,
    max_steps: int = limits.MAX_STEPS,
    max_rejects: int = limits.MAX_REJECTS,
    where: str = "episode",
    check: bool = True,
    nonfinite: NonFinite = "error",
    options: Mapping[str, Any] | None = None,
    begun: Callable[[dict[str, Any]], None] | None = None,
    generator: np.random.Generator | None = None,
    check_observations: bool = True,
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
        nonfinite: What a sample with a value that is not finite is: an "error" (found where samples are checked), a
            rejected step ("reject"), or a sample like others ("allow").
        options: For the reset, such as ``{"parameters": {...}}``.
        begun: Called with the info of the reset.
        generator: That of the episode, if there is one already.
        check_observations: Whether to check those of the reset and of the first step.

    Yields:
        One transition per step.

    Raises:
        SampleError: A sample or observation does not fit its declaration, or too many samples in a row were rejected.
    """
    policy = policy or sampler(env)
    rng = generator or ActionGenerator().of(seed)
    observation, info = returned("reset", env.reset(seed=seed, options=None if options is None else dict(options)), 2)
    try:
        info_of(info)
        if check_observations:
            check_observation(env.observation_space, observation)
    except SampleError as error:
        raise SampleError(f"{where}: {error}") from error
    if begun is not None:
        begun(info)
    check_finite, rejects = nonfinite == "error", 0
    for step in range(max_steps):
        action = policy(observation, rng)
        try:
            values: Any = env.step(action)
            # nearly all values are of the classes that they should have, which is seen sooner than by a call
            if values.__class__ is not tuple or len(values) != 5:
                values = returned("step", values, 5)
            observation, reward, terminated, truncated, info = values
            if info.__class__ is not dict:
                info = info_of(info)
            if reward.__class__ is not float:
                reward = reward_of(reward)
            if terminated.__class__ is not bool:
                terminated = flag_of("terminated", terminated)
            if truncated.__class__ is not bool:
                truncated = flag_of("truncated", truncated)
            if check_observations and step == 0:
                check_observation(env.observation_space, observation)
        except SampleError as error:  # a simulation that checks itself does not know where it is
            raise SampleError(f"{where}, step {step}: {error}") from error
        last = terminated or truncated or step == max_steps - 1
        ending = "" if not last else "terminated" if terminated else "truncated" if truncated else "cut"
        sample, rejected, rejected_sample = info.get("sample"), "", None
        if sample is not None:
            if check or nonfinite == "reject":
                sample = spec.check(sample, f"{where}, step {step}", finite=check_finite)
                if nonfinite == "reject" and (fields := spec.nonfinite(sample)):
                    rejected, sample, rejected_sample = f"{', '.join(fields)} not finite", None, sample
        else:
            rejected, rejected_sample = (
                _reason(info.get("rejected", "the step returned no sample")),
                info.get("rejected_sample"),
            )
        rejects = 0 if sample is not None else rejects + 1
        if ending and not terminated and sample is not None:
            sample = truncated_sample(sample, spec)
        yield Transition(step, action, observation, reward, last, info, sample, rejected, rejected_sample, ending)
        if rejects >= max_rejects:
            raise SampleError(TOO_MANY_REJECTS.format(where=where, count=rejects, limit=max_rejects, reason=rejected))
        if last:
            return
