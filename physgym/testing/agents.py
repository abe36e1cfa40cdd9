"""The contract of an agent, as tests: subclass `AgentContract`, and say how to make the agent.

Example::

    class TestMine(AgentContract):
        action_space = spaces.Box(-1, 1, (2,))
        refused = spaces.Discrete(3)

        def make(self, observation_space, action_space, **arguments):
            return MyAgent(observation_space, action_space, **arguments)
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gymnasium import spaces

from physgym.errors import CheckpointError, ConfigError, SampleError
from physgym.rl.agent import Agent
from physgym.rl.transitions import Transitions
from physgym.spaces import Array
from physgym.training.state_codec import decode, encode

OBSERVED = spaces.Dict({"place": spaces.Box(-1, 1, (3,), np.float32), "speed": spaces.Box(0, 9, (), np.float64)})
COUNT = 5


class AgentContract(ABC):
    """Tests that every agent passes.

    Attributes:
        action_space: One that it chooses from.
        refused: One that it does not.
    """

    action_space: ClassVar[spaces.Space[Any]]
    refused: ClassVar[spaces.Space[Any]]

    @abstractmethod
    def make(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], **arguments: Any) -> Agent:
        """Return a new agent."""

    def agent(self, **arguments: Any) -> Agent:
        """Return a new agent on observations of two arrays."""
        return self.make(OBSERVED, self.action_space, **{"seed": 3, **arguments})

    @staticmethod
    def observations(agent: Agent, seed: int = 0) -> dict[str, Array]:
        """Return some observations of an agent by field."""
        generator = np.random.default_rng(seed)
        return {f.path: generator.uniform(0, 1, (COUNT, *f.shape)).astype(f.dtype) for f in agent.fields}

    def batch(self, agent: Agent, seed: int = 0) -> Transitions:
        """Return some transitions that an agent may have seen."""
        before, after = (
            {name: torch.from_numpy(value) for name, value in self.observations(agent, one).items()}
            for one in (seed, seed + 1000)
        )
        self.action_space.seed(seed)
        actions = torch.from_numpy(np.stack([self.action_space.sample() for _ in range(COUNT)]))
        actions = actions.float() if actions.is_floating_point() else actions.long()
        rewards = torch.linspace(-1, 1, COUNT)
        return Transitions(before, actions, rewards, after, torch.tensor([0.9, 0.9, 0.0, 0.9, 0.9]))

    def test_actions_are_of_the_action_space(self) -> None:
        """Check shape, dtype and bounds of actions, whether it explores or not, and that exploring is counted."""
        agent = self.agent()
        for explore in (False, True) * 3:
            before = agent.steps
            actions = agent.act(self.observations(agent), explore=explore)
            assert len(actions) == COUNT
            for action in actions:
                assert self.action_space.contains(action)
            assert agent.steps == before + COUNT * explore

    def test_acting_without_exploration_changes_nothing(self) -> None:
        """Check that it acts the same again, and explores as if it had not acted before."""
        agent, other = self.agent(), self.agent()
        seen = self.observations(agent)
        first, again = (agent.act(seen, explore=False) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        np.testing.assert_array_equal(agent.act(seen, explore=True), other.act(seen, explore=True))

    def test_no_global_generator_moves(self) -> None:
        """Check that making, acting and learning draw from generators of its own, and from its seed."""
        states = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
        agent = self.agent()
        agent.act(self.observations(agent), explore=True)
        agent.learn(self.batch(agent))
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index]  # noqa: NPY002
        torch.manual_seed(17)
        same, different = self.agent(), self.agent(seed=4)
        same.act(self.observations(agent), explore=True)
        same.learn(self.batch(agent))
        assert _alike(same.state_dict(), agent.state_dict())
        assert not _alike(different.state_dict(), self.agent().state_dict())

    def test_learning_changes_values_and_says_the_loss(self) -> None:
        """Check that terms are numbers in tensors, and that the same batch again is better known."""
        agent = self.agent(lr=0.01)
        batch, seen = self.batch(agent), self.observations(agent)
        actions = batch.action.numpy().astype(self.action_space.dtype)
        before = agent.values(seen, actions)
        assert before.shape == (COUNT,)
        assert before.dtype == np.float32
        terms = [agent.learn(batch) for _ in range(100)]
        assert all(value.shape == () and not value.requires_grad for value in terms[0].values())
        assert float(terms[-1]["loss"]) < float(terms[0]["loss"])
        assert not np.array_equal(agent.values(seen, actions), before)

    def test_a_terminated_transition_is_worth_its_reward(self) -> None:
        """Check that no value of a next observation counts where the discount is zero."""
        agent = self.agent(lr=0.02)
        batch = self.batch(agent)
        ended = Transitions(batch.observation, batch.action, batch.reward, batch.next_observation, torch.zeros(COUNT))
        for _ in range(200):
            agent.learn(ended)
        actions = batch.action.numpy().astype(self.action_space.dtype)
        np.testing.assert_allclose(agent.values(self.observations(agent), actions), batch.reward, atol=0.2)

    def test_a_state_goes_on_to_the_bit(self) -> None:
        """Check that an agent with a saved state continues as the one that was saved, and the state stays as it is."""
        agent = self.agent()
        self._live(agent)
        data, arrays = encode(agent.state_dict())
        saved = decode(json.loads(json.dumps(data)), arrays)
        other = self.agent()
        other.load_state_dict(saved)
        end = self._live(agent)
        np.testing.assert_array_equal(self._live(other), end)
        assert _alike(agent.state_dict(), other.state_dict())
        assert not _alike(other.state_dict(), saved)
        third = self.agent()
        third.load_state_dict(saved)
        np.testing.assert_array_equal(self._live(third), end)

    def _live(self, agent: Agent) -> Array:
        """Let an agent act and learn; returns its actions."""
        found = []
        for number in range(6):
            found.append(agent.act(self.observations(agent, number), explore=True))
            agent.learn(self.batch(agent, number))
        return np.stack(found)

    def test_a_state_of_others_is_refused(self) -> None:
        """Check that a state of another kind of agent, or of one with other networks, is an error."""
        agent = self.agent()
        with pytest.raises(CheckpointError, match="state of an agent 'other'"):
            agent.load_state_dict({**agent.state_dict(), "agent": "other"})
        wide = self.agent(network={"type": "MLP", "arguments": {"hidden": [7]}})
        with pytest.raises(CheckpointError, match="does not fit"):
            agent.load_state_dict(wide.state_dict())

    def test_the_configuration_makes_it_again(self) -> None:
        """Check that `config` is JSON data and has all arguments."""
        agent = self.agent(gamma=0.5, network={"type": "MLP", "arguments": {"hidden": [7]}})
        again = self.make(OBSERVED, self.action_space, **json.loads(json.dumps(agent.config)))
        assert again.config == agent.config
        assert _alike(again.state_dict(), agent.state_dict())
        assert again.gamma == agent.gamma == 0.5

    def test_wrong_spaces_and_arguments_are_refused(self) -> None:
        """Check the errors of spaces, fields and numbers that are of no use."""
        with pytest.raises(ConfigError):
            self.make(OBSERVED, self.refused)
        with pytest.raises(ConfigError, match="FlattenObservation"):
            self.make(spaces.Discrete(4), self.action_space)
        for wrong in ({"gamma": 1.5}, {"lr": 0.0}, {"network": "Nothing"}, {"tau": 2.0}, {"seed": -1}):
            with pytest.raises(ConfigError, match=next(iter(wrong))):
                self.agent(**wrong)
        agent = self.agent()
        with pytest.raises(SampleError, match="observation/place"):
            agent.act({"observation": np.zeros((1, 3), np.float32)}, explore=False)


def _alike(one: Any, other: Any) -> bool:
    """Return whether two states are the same to the bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_alike(value, other[name]) for name, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_alike, one, other))
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))
