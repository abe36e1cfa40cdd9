"""`Agent`: the interface of what acts in environments and learns from transitions, and how one is found by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from gymnasium import spaces

from physgym.checks import fraction, integer
from physgym.errors import CheckpointError, ConfigError, SampleError
from physgym.factories import makes
from physgym.generator_state import generator_from, generator_words
from physgym.marked_classes import marked_classes
from physgym.object_references import KEY, with_objects
from physgym.spaces import Array, Leaf, kind_of, leaf_spaces, leaves

if TYPE_CHECKING:  # names of agents are asked for where torch is not loaded
    from torch import Tensor

    from physgym.rl.transitions import Transitions

OBSERVATION = "observation"
AgentType = TypeVar("AgentType", bound="type[Agent]")

ACTING, LEARNING, WEIGHTS = range(3)  # random streams of an agent


def named_agent(cls: AgentType) -> AgentType:
    """Give an agent of this folder the name of its class in small letters; a decorator."""
    cls.name = cls.__name__.lower()
    return cls


# the names and where the classes are; they are read from the source, since importing torch takes seconds
AGENTS = {name.lower(): place for name, place in marked_classes("physgym.rl", named_agent.__name__).items()}


def agent_class(name: str) -> type[Agent]:
    """Return the class of an agent.

    Args:
        name: A name of `AGENTS`, or ``module:Class``.

    Raises:
        ConfigError: There is none of that name, or it is no agent.
    """
    if name not in AGENTS and ":" not in name:
        raise ConfigError(f"there is no agent {name!r}, but {sorted(AGENTS)}; give your own as module:Class")
    found: Any = with_objects({KEY: AGENTS.get(name, name)}, "agent")
    if not makes(found, (Agent,)):
        raise ConfigError(f"the agent {name} is {found!r}, and no subclass of physgym.rl.Agent")
    return found  # type: ignore[no-any-return]


class Agent(ABC):
    """An agent, which acts in environments and learns from transitions.

    All that it has become, networks, optimizers, generators and counters, is in `state_dict`: with it an agent of the
    same arguments continues to the bit. A subclass states its own arguments, calls this constructor and overrides
    `act`, `learn`, `values`, `state` and `set_state`; in this package it is marked by `named_agent`.

    Args:
        observation_space: Space of a single observation, as it is after preprocessing and stacking: a `Box`, or a
            `Dict` of them.
        action_space: Space of a single action, as the agent chooses it.
        seed: Seed of the initial weights and of what it draws while acting and learning.
        device: Name of the device to compute on.
        gamma: Discount of a step.
        arguments: The other arguments of the subclass, JSON data, for `config`.

    Attributes:
        name: Name by which configurations know it.
        observation_space: As given.
        action_space: As given.
        fields: Layouts of the arrays of an observation, with their paths.
        device: Name of the device that it computes on.
        config: The keyword arguments that build the agent again, JSON data, but for the spaces.
        generator: From which it draws while acting.
        steps: Steps of environments in which it has explored so far.

    Raises:
        ConfigError: A space or an argument is of no use to it.
    """

    name: ClassVar[str] = ""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        seed: int,
        device: str,
        gamma: float,
        **arguments: Any,
    ) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.fields = _box_leaves(observation_space)
        self.device = str(device)
        given = {"seed": integer("seed", seed, 0), "device": self.device, "gamma": fraction("gamma", gamma)}
        self.config: dict[str, Any] = {**given, **arguments}
        self.generator = np.random.default_rng((seed, ACTING))
        self.steps = 0

    @property
    def gamma(self) -> float:
        """Return the discount of a step."""
        return float(self.config["gamma"])

    @property
    def exploration(self) -> float:
        """Return the probability of a random action now, for curves."""
        return 0.0

    @abstractmethod
    def act(self, observations: Mapping[str, Array], *, explore: bool) -> Array:
        """Return an action for each of n observations, of the dtype of the action space.

        Without exploration nothing is drawn, and nothing of the agent changes.

        Args:
            observations: By field, ``observation`` or ``observation/NAME``, each of shape (n, *shape).
            explore: Whether the actions are to find out something; this counts as n steps.

        Raises:
            SampleError: The fields are not those of its observations.
        """

    @abstractmethod
    def learn(self, batch: Transitions) -> dict[str, Tensor]:
        """Make one step of the optimization.

        Returns:
            Values for curves as tensors of no axis, "loss" among them, which nobody has waited for yet.
        """

    @abstractmethod
    def values(self, observations: Mapping[str, Array], actions: Array) -> Array:
        """Return the discounted rewards to come that the agent expects of actions, shape (n,), float32.

        Args:
            observations: As in `act`.
            actions: Of the action space, shape (n,) or (n, *shape).
        """

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return what a subclass adds to `state_dict`, in copies: numbers, arrays, tensors, dictionaries of them."""

    @abstractmethod
    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that the agent has become: numbers, arrays and tensors, in copies, as a checkpoint holds them."""
        return {
            "agent": self.name,
            "steps": self.steps,
            "generator": generator_words(self.generator),
            **self.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become what an agent of the same arguments was.

        Raises:
            CheckpointError: The state is that of another agent, or of one with other networks.
        """
        if state.get("agent") != self.name:
            raise CheckpointError(f"this is the state of an agent {state.get('agent')!r}, and not of {self.name!r}")
        try:
            self.set_state(state)
            self.generator = generator_from(state["generator"])
            self.steps = integer("steps", state["steps"], 0)
        except (KeyError, RuntimeError, ValueError, ConfigError) as error:
            text = f"the state does not fit the agent {self.name!r} as it was made here: {error}"
            raise CheckpointError(text) from error

    def checked(self, observations: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return observations unless their fields are others than those of the agent.

        Raises:
            SampleError: They are.
        """
        if len(observations) != len(self.fields) or any(leaf.path not in observations for leaf in self.fields):
            raise SampleError(f"the agent acts on {[leaf.path for leaf in self.fields]}, and gets {list(observations)}")
        return observations


def _box_leaves(space: spaces.Space[Any]) -> list[Leaf]:
    """Return the layouts of the arrays of an observation space.

    Raises:
        ConfigError: One of them is no `Box`.
    """
    named = spaces.Dict({OBSERVATION: space})
    for path, leaf in leaf_spaces(named).items():
        if kind_of(leaf).name != "Box":
            raise ConfigError(
                f"an agent observes arrays, a Box or a Dict of them, and {path} is {leaf}; the wrapper "
                "FlattenObservation makes an array of it, a Discrete becoming one-hot"
            )
    return leaves(named)
