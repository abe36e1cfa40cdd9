"""`AgentParts`: the parts of a training of an agent, made of the arguments of `AgentTrainer`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from physgym.errors import ConfigError
from physgym.rl.acting import Acting
from physgym.rl.agent import Agent, agent_class
from physgym.rl.agent_envs import AgentEnvs
from physgym.rl.agent_policy import AgentPolicy
from physgym.rl.agent_settings import AgentSettings
from physgym.rl.cache import TransitionCache
from physgym.rl.frame_stacks import FrameStacks
from physgym.rl.learning import Learning
from physgym.rl.preprocessing import Preprocessing
from physgym.rl.recorded_code import RecordedCode
from physgym.rl.recordings import Recordings
from physgym.rl.replay import Replay
from physgym.rl.running_normalization import RunningNormalization
from physgym.training.checkpoint_manifests import as_json

STREAMS = ("actions", "batches")  # random streams of a training


@dataclass(frozen=True)
class AgentParts:
    """Parts of a training of an agent.

    Attributes:
        policy: The agent, with what is around it.
        acting: The agent in its environments; None where it learns from recordings alone.
        learning: The steps of the optimization.
        generators: What is drawn with, by name.
    """

    policy: AgentPolicy
    acting: Acting | None
    learning: Learning
    generators: dict[str, np.random.Generator]


@dataclass(frozen=True)
class AgentForm:
    """Form of an agent, and of what it sees.

    Attributes:
        agent: A name, ``module:Class``, a table of type and arguments, or the agent itself.
        arguments: Of its constructor.
        preprocessing: Around the environments.
        normalize: Whether observations, and whether rewards are normalized.
        device: Where it computes.
    """

    agent: str | Agent | Mapping[str, Any]
    arguments: Mapping[str, Any]
    preprocessing: Preprocessing
    normalize: tuple[bool, bool]
    device: str

    @property
    def kept(self) -> dict[str, Any]:
        """Return what must be the same for a training to be continued, as JSON data; of an agent alone its class."""
        if isinstance(self.agent, Agent):
            described: Any = {"type": type(self.agent).__name__, "arguments": self.agent.config}
        else:
            described = {"type": self._given[0], "arguments": self._given[1]}
        return {
            "agent": as_json("agent", described),
            "preprocessing": self.preprocessing.config,
            "normalize": list(self.normalize),
        }

    def make(self, observation: spaces.Space[Any], action: spaces.Space[Any], seed: int) -> Agent:
        """Return the agent.

        Args:
            observation: What it sees, with stacks.
            action: What it chooses.
            seed: Its seed, where its arguments have none.

        Raises:
            ConfigError: There is no such agent, or it does not fit the spaces.
        """
        if isinstance(self.agent, Agent):
            if self.arguments:
                raise ConfigError("agent_kwargs are for an agent that is made of its name; this one is made already")
            for name, mine, theirs in (
                ("observation_space", self.agent.observation_space, observation),
                ("action_space", self.agent.action_space, action),
            ):
                if mine != theirs:
                    raise ConfigError(f"the agent was made for the {name} {mine}, and here it is {theirs}")
            return self.agent
        name, arguments = self._given
        return agent_class(name)(observation, action, **{"seed": seed, "device": self.device, **arguments})

    @property
    def _given(self) -> tuple[str, dict[str, Any]]:
        """Return name and arguments of an agent that is not made yet."""
        given: Any = {"type": self.agent} if isinstance(self.agent, str) else self.agent
        if (
            not isinstance(given, Mapping)
            or not isinstance(given.get("type"), str)
            or set(given) - {"type", "arguments"}
        ):
            raise ConfigError(f'an agent is a name, or {{"type": name, "arguments": {{...}}}}, not {self.agent!r}')
        return given["type"], {**(given.get("arguments") or {}), **self.arguments}


def make_parts(
    form: AgentForm,
    settings: AgentSettings,
    envs: AgentEnvs | None,
    cache: Recordings | None,
    *,
    replay: Path | None,
    position: Mapping[str, Any] | None,
    source: Mapping[str, Any],
    code: RecordedCode | None = None,
) -> AgentParts:
    """Return the parts of a training.

    Args:
        form: What the agent is.
        settings: The numbers.
        envs: Where it acts; None for nowhere.
        cache: Recordings that it learns from as well; None for none.
        replay: Folder of the replay; None for the memory alone.
        position: Of the replay, where a training is continued.
        source: What the replay says of its origin.
        code: The code of the environments, which the replay records.

    Raises:
        ConfigError: The agent does not fit the spaces, or arguments contradict each other.
        DatasetError: The replay does not belong to the training.
    """
    recorded = None
    given = () if envs is None else (envs.envs.single_observation_space, envs.envs.single_action_space)
    if cache is not None:
        recorded = TransitionCache(cache, *given, preprocessing=form.preprocessing, stack=settings.stack)
    if given:
        frame, action = given
    elif recorded is not None:
        frame, action = recorded.frame_space, recorded.action_space
    else:
        raise ConfigError("an agent needs an environment to act in, or recordings (cache) to learn from")
    stacks = FrameStacks(settings.stack, settings.num_envs)
    agent = form.make(stacks.space(frame), action, settings.seed)
    observed, rewarded = form.normalize
    normalization = None
    if envs is None and rewarded:
        raise ConfigError("the deviation of returns for normalize_rewards comes of acting; give an env")
    if envs is None and recorded is not None and observed:
        normalization = recorded.normalization()
    elif observed or rewarded:
        normalization = RunningNormalization(
            frame, settings.num_envs, observations=observed, rewards=rewarded, gamma=agent.gamma
        )
    policy = AgentPolicy(
        agent,
        frame,
        action,
        preprocessing=form.preprocessing,
        stack=settings.stack,
        normalization=normalization,
    )
    generators = {name: np.random.default_rng((settings.seed, number)) for number, name in enumerate(STREAMS)}
    acting, own = None, None
    if envs is not None:
        own = Replay(
            replay,
            frame,
            action,
            settings.num_envs,
            capacity=settings.capacity,
            most=2 * (settings.steps + settings.num_envs),
            stack=settings.stack,
            infos=settings.infos,
            source=source,
            code=code,
            resume=position,
        )
        acting = Acting(
            agent,
            envs,
            own,
            seed=settings.seed,
            random_steps=settings.learning_starts,
            generator=generators["actions"],
            stacks=stacks if settings.stack > 1 else None,
            normalization=normalization,
        )
    share = 0.0 if recorded is None else 1.0 if own is None else settings.cache_share
    learning = Learning(
        agent,
        own,
        recorded,
        cached=round(settings.batch_size * share),
        batch_size=settings.batch_size,
        generator=generators["batches"],
        normalization=normalization,
    )
    return AgentParts(policy, acting, learning, generators)
