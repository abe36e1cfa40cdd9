"""`Acting`: an agent acts in environments, and what happens goes into the replay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from physgym.episode import episode_seed
from physgym.errors import ConfigError
from physgym.rl.agent import Agent
from physgym.rl.agent_envs import AgentEnvs, FieldArrays, Stepped
from physgym.rl.replay import Replay
from physgym.spaces import Array, value_range

if TYPE_CHECKING:
    from physgym.rl.frame_stacks import FrameStacks
    from physgym.rl.running_normalization import RunningNormalization


class RandomActions:
    """Actions drawn uniformly from an action space, between its bounds.

    Args:
        space: The space of a single action.
        generator: What they are drawn with.
        count: How many at a time.
    """

    def __init__(self, space: spaces.Space[Any], generator: np.random.Generator, count: int) -> None:
        self._space, self._generator, self._count = space, generator, count
        self._allowed = value_range(space)

    def __call__(self) -> Array:
        """Return actions, shape (count, *shape).

        Raises:
            ConfigError: The space has no bounds.
        """
        allowed = self._allowed
        if allowed is None or not allowed.bounded:
            raise ConfigError(
                f"the first steps draw actions from {self._space}, which has no bounds; set learning_starts=0, or put "
                "bounds in front of it"
            )
        shape = (self._count, *np.shape(allowed.low))
        if allowed.dtype.kind in "iu":
            drawn: Array = self._generator.integers(allowed.low, allowed.high, shape, endpoint=True)
        else:
            drawn = self._generator.uniform(allowed.low, allowed.high, shape)
        return drawn.astype(allowed.dtype)


class Acting:
    """An agent in its environments.

    Args:
        agent: Who acts.
        envs: The environments.
        replay: Where transitions go.
        seed: Seed of the run, from which those of episodes follow.
        random_steps: Steps of all environments in which actions are drawn from the action space.
        generator: What these are drawn with.
        stacks: Makes stacks of observations; None for none.
        normalization: Learns from what happens, and normalizes what the agent sees; None for none.

    Attributes:
        steps: Steps of all environments so far.
        returns: Sum of rewards of each episode that ended since `take_episodes`.
        lengths: Steps of these.
    """

    def __init__(
        self,
        agent: Agent,
        envs: AgentEnvs,
        replay: Replay,
        *,
        seed: int,
        random_steps: int,
        generator: np.random.Generator,
        stacks: FrameStacks | None,
        normalization: RunningNormalization | None,
    ) -> None:
        self.agent, self.envs, self.replay = agent, envs, replay
        self._seed, self._random_steps = seed, random_steps
        self._stacks, self._normalization = stacks, normalization
        self._random = RandomActions(replay.action.space, generator, envs.num_envs)
        self.steps = 0
        self._seen: FieldArrays = {}  # observations now, as the environments gave them
        self._begun = np.ones(envs.num_envs, np.bool_)  # whose observation is the first one of an episode
        self._actions: Array = np.zeros(0)
        self._episodes = {"return": np.zeros(envs.num_envs), "length": np.zeros(envs.num_envs, np.int64)}  # so far
        self.returns: list[float] = []
        self.lengths: list[int] = []

    def begin(self) -> None:
        """Begin an episode in all environments."""
        self._begin_all(self.envs.reset(self._seed))

    def _begin_all(self, observations: FieldArrays) -> None:
        self._seen = observations
        self._begun[:] = True
        for values in self._episodes.values():
            values[:] = 0
        self._note_begun(np.arange(self.envs.num_envs))
        if self._normalization is not None:
            self._normalization.leave(np.arange(self.envs.num_envs))
            self._normalization.observe(observations)

    def _note_begun(self, environments: Array) -> None:
        numbers = self.envs.numbers[environments]
        known = self.envs.numbered
        seeds = [episode_seed(self._seed, number) if known else 0 for number in numbers.tolist()]
        self.replay.begin(environments, numbers, seeds)

    def send(self) -> None:
        """Choose an action for each environment, and let them step."""
        observations = self._seen
        if self._normalization is not None:
            observations = self._normalization.observations(observations)
        if self._stacks is not None:
            observations = self._stacks(observations, self._begun)
        if self.steps < self._random_steps:
            self._actions = self._random()
            self.agent.steps += self.envs.num_envs
        else:
            self._actions = self.agent.act(observations, explore=True)
        self.envs.send(self._actions)

    def receive(self) -> int:
        """Take in what followed; return the number of steps that were transitions.

        Raises:
            ReplayDiffers: It is something else than before an interruption; `begin_anew` continues.
            SampleError: Something does not fit its space, or is not finite.
            WorkerError: A worker died, or an environment raised.
        """
        found = self.envs.receive()
        infos = {name: found.info(name) for name in self.replay.infos} if self.replay.infos else None
        before, self._seen = self._seen, found.observations
        flags = found.terminated, found.truncated
        if found.acted is None or len(found.acted):
            self.replay.add(found.acted, before, self._actions, found.rewards, *flags, infos)
        rewards = found.rewards
        if found.acted is None:
            self._episodes["return"] += rewards
            self._episodes["length"] += 1
        else:
            self._episodes["return"][found.acted] += rewards[found.acted]
            self._episodes["length"][found.acted] += 1
        if len(found.ended):
            self.replay.end(found.ended, found.last)
            self.returns += self._episodes["return"][found.ended].tolist()
            self.lengths += self._episodes["length"][found.ended].tolist()
        self._begun[:] = False
        if len(found.begun):
            self._begun[found.begun] = True
            for values in self._episodes.values():
                values[found.begun] = 0
            self._note_begun(found.begun)
        if self._normalization is not None:
            self._normalization.observe(found.observations)
            self._earn(rewards, found)
        count = self.envs.num_envs if found.acted is None else len(found.acted)
        self.steps += count
        return count

    def _earn(self, rewards: Array, found: Stepped) -> None:
        """Let the normalization take in the rewards of a step, where it was a transition."""
        assert self._normalization is not None
        over = np.zeros(len(rewards), np.bool_)
        over[found.ended] = True
        if found.acted is None:
            self._normalization.earn(rewards, over)
            return
        self._normalization.earn(rewards[found.acted], over[found.acted], found.acted)
        self._normalization.leave(found.ended)  # those whose last step nobody knows are among them

    def begin_anew(self) -> None:
        """Continue with new episodes after all that was recorded, since the environments do not do the same again."""
        self._begin_all(self.envs.begin_after(self.replay.take_stored()))

    def take_episodes(self) -> tuple[list[float], list[int]]:
        """Return returns and lengths of the episodes that ended since the last time."""
        found = self.returns, self.lengths
        self.returns, self.lengths = [], []
        return found

    # --- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return where it is; between `receive` and `send`."""
        return {
            "steps": self.steps,
            "seen": dict(self._seen),
            "begun": self._begun.copy(),
            "episodes": {name: values.copy() for name, values in self._episodes.items()},
            "returns": list(self.returns),
            "lengths": list(self.lengths),
            "kept": self.envs.kept_episodes(),
            "replay": self.replay.position,
            "stacks": None if self._stacks is None else self._stacks.state_dict(),
            "normalization": None if self._normalization is None else self._normalization.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> str:
        """Continue from a state; the replay is there already.

        Returns:
            Why the episodes start again, where the environments cannot come back to where they were; empty where they
            have.
        """
        self.steps = int(state["steps"])
        for part, saved in ((self._stacks, state["stacks"]), (self._normalization, state["normalization"])):
            if part is not None:
                part.load_state_dict(saved)
        self.returns, self.lengths = list(state["returns"]), list(state["lengths"])
        self.envs.reset()
        if self.envs.real_time:
            problem = "they run in real time"
        elif state["kept"] is None:
            problem = "a vector environment that was given as such cannot be put back"
        else:
            problem = self.envs.resume_episodes(state["kept"], state["seen"])
        if problem:
            self.begin_anew()
            return problem
        self._seen = {name: np.array(value) for name, value in state["seen"].items()}
        self._begun[:] = state["begun"]
        for name, values in self._episodes.items():
            values[:] = state["episodes"][name]
        return ""
