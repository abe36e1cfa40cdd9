"""Agents learn what they say they learn: targets and densities by hand, and the contract of all agents."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from physgym.errors import ConfigError
from physgym.rl import DQN, SAC, Agent, Transitions, agent_class
from physgym.rl.dqn import target
from physgym.rl.networks import one_vector
from physgym.rl.sac import soft_target, squashed
from physgym.testing.agents import AgentContract

SMALL = {"type": "MLP", "arguments": {"hidden": [32], "activation": "relu"}}
VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)


class TestDQN(AgentContract):
    action_space = spaces.Discrete(3, start=4)
    refused = spaces.Box(-1, 1, (2,))

    def make(self, observation_space, action_space, **arguments):
        return DQN(observation_space, action_space, **{"network": SMALL, **arguments})


class TestSAC(AgentContract):
    action_space = spaces.Box(np.array([[-3.0], [0.0]]), np.array([[-1.0], [10.0]]), dtype=np.float64)
    refused = spaces.Discrete(3)

    def make(self, observation_space, action_space, **arguments):
        return SAC(observation_space, action_space, **{"random_steps": 10, "network": SMALL, **arguments})


def fed(values):
    return {"observation": torch.as_tensor(values, dtype=torch.float32)}


# --- DQN


def test_targets_by_hand():
    reward, discount = torch.tensor([1.0, 2.0, -1.0]), torch.tensor([0.5, 0.5, 0.0])
    by_target = torch.tensor([[1.0, 4.0], [8.0, 2.0], [100.0, 100.0]])
    by_trained = torch.tensor([[3.0, 2.0], [5.0, 6.0], [0.0, 1.0]])
    # the highest value of the target network
    assert target(reward, discount, by_target).tolist() == [3.0, 6.0, -1.0]
    # the trained network chooses 0, 1, 1, and the target network values them 1, 2, 100
    assert target(reward, discount, by_target, by_trained).tolist() == [1.5, 3.0, -1.0]


class Table(nn.Module):
    """Values of two actions by a table of three observations, which are one-hot."""

    def __init__(self, rows):
        super().__init__()
        self.table = nn.Parameter(torch.tensor(rows))

    def forward(self, observation):
        return observation @ self.table


def test_double_dqn_lets_the_trained_network_choose_in_its_own_step():
    """The gradient of one step shows the target: its sign is that of value - target."""
    for double, sign in ((True, -1.0), (False, 1.0)):
        agent = DQN(VECTOR, spaces.Discrete(2), network=Table([[0.0, 0.0]] * 3), double=double, tau=0.0, lr=0.1)
        with torch.no_grad():
            agent.online.module.table.copy_(torch.tensor([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]]))
            agent.target.networks.module.table.copy_(torch.tensor([[0.0, 0.0], [5.0, -5.0], [0.0, 0.0]]))
        ones = torch.ones(1)
        agent.learn(Transitions(fed([[1, 0, 0]]), torch.zeros(1, dtype=torch.int64), 0 * ones, fed([[0, 1, 0]]), ones))
        # trained chooses action 1, which the target network values -5; its own best is 5
        assert float(agent.online.module.table.detach()[0, 0]) == pytest.approx(sign * 0.1)


def test_the_target_network_follows_as_told():
    def moved(steps, **arguments):
        agent = DQN(VECTOR, spaces.Discrete(2), network=Table([[0.0, 0.0]] * 3), lr=0.1, **arguments)
        batch = Transitions(
            fed([[1, 0, 0]]), torch.zeros(1, dtype=torch.int64), torch.ones(1), fed([[0, 1, 0]]), torch.zeros(1)
        )
        found = []
        for _ in range(steps):
            agent.learn(batch)
            found.append([float(table.module.table.detach()[0, 0]) for table in (agent.online, agent.target.networks)])
        return np.array(found).T

    trained, followed = moved(4, tau=1.0, target_every=3)
    assert followed.tolist() == [0.0, 0.0, trained[2], trained[2]]
    trained, followed = moved(2, tau=0.25)
    assert followed == pytest.approx([trained[0] / 4, trained[0] / 4 * 0.75 + trained[1] / 4])


def test_the_learning_rate_falls_to_its_hundredth():
    agent = DQN(VECTOR, spaces.Discrete(2), lr=0.1, lr_steps=4, network=Table([[0.0, 0.0]] * 3))
    batch = Transitions(
        fed([[1, 0, 0]]), torch.zeros(1, dtype=torch.int64), torch.full((1,), 100.0), fed([[0, 1, 0]]), torch.zeros(1)
    )
    found = [0.0]
    for _ in range(6):
        agent.learn(batch)
        found.append(float(agent.online.module.table.detach()[0, 0]))
    # the gradient is always clipped to the same, so that Adam's steps are the learning rate
    np.testing.assert_allclose(np.diff(found), [0.1, 0.075, 0.05, 0.025, 0.001, 0.001], atol=1e-5)


def test_large_errors_count_up_to_the_bound_of_huber():
    def loss(bound):
        agent = DQN(VECTOR, spaces.Discrete(2), huber=bound, network=Table([[0.0, 0.0]] * 3))
        ones = torch.ones(1)
        return float(
            agent.learn(Transitions(fed([[1, 0, 0]]), ones.long() * 0, 4 * ones, fed([[0, 1, 0]]), 0 * ones))["loss"]
        )

    assert [loss(10.0), loss(1.0)] == [8.0, 3.5]


def test_epsilon_is_a_function_of_steps():
    agent = DQN(VECTOR, spaces.Discrete(2), epsilon_start=0.9, epsilon_end=0.1, epsilon_steps=80)
    assert agent.exploration == pytest.approx(0.9)
    agent.act({"observation": np.zeros((40, 3), np.float32)}, explore=True)
    assert agent.exploration == pytest.approx(0.5)
    for _ in range(2):
        agent.act({"observation": np.zeros((40, 3), np.float32)}, explore=True)
    assert agent.exploration == pytest.approx(0.1)
    assert DQN(VECTOR, spaces.Discrete(2), epsilon_steps=0, epsilon_end=0.0).exploration == 0


def test_exploring_draws_all_actions_as_often_as_it_says():
    agent = DQN(VECTOR, spaces.Discrete(2), epsilon_start=0.5, epsilon_end=0.5, seed=1)
    seen = {"observation": np.zeros((4000, 3), np.float32)}
    best = agent.act(seen, explore=False)[0]
    others = np.mean(agent.act(seen, explore=True) != best)
    assert others == pytest.approx(0.25, abs=0.03)


def test_a_conservative_agent_values_actions_that_were_not_taken_less():
    def gap(alpha):
        agent = DQN(VECTOR, spaces.Discrete(2), conservative=alpha, lr=1e-2)
        taken = torch.zeros(8, dtype=torch.int64)
        batch = Transitions(fed(torch.rand(8, 3)), taken, torch.zeros(8), fed(torch.rand(8, 3)), torch.zeros(8))
        for _ in range(50):
            terms = agent.learn(batch)
        assert ("penalty" in terms) == (alpha > 0)
        seen = {name: value.numpy() for name, value in batch.observation.items()}
        return float((agent.values(seen, taken.numpy()) - agent.values(seen, taken.numpy() + 1)).mean())

    assert gap(5.0) > gap(0.0) + 0.3


# --- SAC


def test_densities_of_squashed_actions_are_exact():
    mean, log_std = torch.tensor([[0.3, -1.0]]), torch.tensor([[-0.5, 0.2]])
    noise = torch.linspace(-3, 3, 13)[:, None].expand(-1, 2).contiguous()
    action, density = squashed(mean.expand(13, 2), log_std.expand(13, 2), noise)
    normal = torch.distributions.Normal(mean.double(), log_std.double().exp())
    exact = torch.distributions.TransformedDistribution(normal, [torch.distributions.TanhTransform(cache_size=1)])
    inner = mean.double() + log_std.double().exp() * noise.double()
    wanted = normal.log_prob(inner) - torch.log1p(-(inner.tanh() ** 2))
    torch.testing.assert_close(density.double(), wanted.sum(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(exact.log_prob(action.double()).sum(1), wanted.sum(1), rtol=1e-2, atol=1e-2)


def test_densities_stay_finite_where_tanh_is_one():
    mean = torch.tensor([[40.0]], requires_grad=True)
    action, density = squashed(mean, torch.zeros(1, 1), torch.zeros(1, 1))
    density.sum().backward()
    assert float(action.detach()) == 1.0
    # log N(0) - log(1 - tanh(40)²) = -log(2π)/2 + 2 * 40 - 2 log 2
    assert float(density.detach()) == pytest.approx(80 - 2 * np.log(2) - np.log(2 * np.pi) / 2, rel=1e-5)
    assert float(mean.grad) == pytest.approx(2.0)


def test_soft_targets_by_hand():
    values = torch.tensor([3.0, 1.0]), torch.tensor([2.0, 5.0])
    found = soft_target(torch.ones(2), torch.tensor([0.5, 0.0]), values, torch.tensor([-4.0, 7.0]), torch.tensor(0.25))
    assert found.tolist() == [1 + 0.5 * (2 + 1), 1.0]


def test_sac_finds_the_best_action_between_its_bounds():
    """Rewards fall with the distance from an action, which is found in the units of the environment."""
    space = spaces.Box(np.array([-3, 0], "f4"), np.array([-1, 10], "f4"))
    agent = SAC(VECTOR, space, lr=3e-3, network=SMALL)
    generator = torch.Generator().manual_seed(0)
    low, high = torch.tensor(space.low), torch.tensor(space.high)
    best = torch.tensor([-1.5, 8.0])
    for _ in range(400):
        actions = low + (high - low) * torch.rand(64, 2, generator=generator)
        reward = -10 * ((actions - best) / (high - low)).square().sum(1)
        terms = agent.learn(
            Transitions(fed(torch.zeros(64, 3)), actions, reward, fed(torch.zeros(64, 3)), torch.zeros(64))
        )
    found = agent.act({"observation": np.zeros((1, 3), np.float32)}, explore=False)
    np.testing.assert_array_less(np.abs(found[0] - best.numpy()), [0.2, 1.0])
    assert 0 < float(terms["temperature"]) < 1


def test_a_given_temperature_stays():
    agent = SAC(VECTOR, spaces.Box(-1, 1, (1,)), temperature=0.3)
    batch = Transitions(fed(torch.rand(4, 3)), torch.zeros(4, 1), torch.ones(4), fed(torch.rand(4, 3)), torch.ones(4))
    for _ in range(3):
        terms = agent.learn(batch)
    assert float(terms["temperature"]) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("space", "text"),
    [
        (spaces.Box(-np.inf, 1, (1,)), "finite bounds"),
        (spaces.Box(0, 5, (1,), np.int64), "continuous"),
        (spaces.Discrete(2), 'agent "dqn"'),
        (spaces.Box(np.zeros(2, "f4"), np.array([0, 1], "f4")), "a single value"),
    ],
)
def test_sac_refuses_what_it_cannot_choose(space, text):
    with pytest.raises(ConfigError, match=text):
        SAC(VECTOR, space)


@pytest.mark.parametrize(
    ("agent", "space", "argument"),
    [
        (DQN, spaces.Discrete(2), {"double": "no"}),  # a text that is true
        (DQN, spaces.Discrete(2), {"conservative": "x"}),
        (DQN, spaces.Discrete(2), {"conservative": None}),
        (SAC, spaces.Box(-1, 1, (1,)), {"target_entropy": "x"}),
        (SAC, spaces.Box(-1, 1, (1,)), {"target_entropy": float("nan")}),
    ],
)
def test_an_argument_of_another_kind_is_refused_by_its_name(agent, space, argument):
    with pytest.raises(ConfigError, match=f"^{next(iter(argument))} must"):
        agent(VECTOR, space, **argument)


# --- networks of agents


def test_a_picture_is_seen_by_convolutions():
    camera = spaces.Dict({"camera": spaces.Box(0, 255, (4, 40, 80), np.uint8), "speed": spaces.Box(0, 9, (1,))})
    for agent in (DQN(camera, spaces.Discrete(3)), SAC(camera, spaces.Box(-1, 1, (2,)), random_steps=0)):
        seen = {"observation/camera": np.zeros((2, 4, 40, 80), np.uint8), "observation/speed": np.ones((2, 1), "f4")}
        assert len(agent.act(seen, explore=True)) == 2


class Reversed(nn.Module):
    """Names its arguments, in another order than the space."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, speed, place):
        return self.weight * torch.cat([speed, 2 * place], 1)


def test_fields_reach_a_network_by_name():
    space = spaces.Dict({"place": spaces.Box(0, 1, (1,)), "speed": spaces.Box(0, 1, (1,))})
    agent = DQN(space, spaces.Discrete(2), network=Reversed())
    seen = {"observation/place": np.array([[1.0]], "f4"), "observation/speed": np.array([[10.0]], "f4")}
    assert agent.values(seen, np.array([0])) == 10
    assert agent.values(seen, np.array([1])) == 2
    assert agent.config["network"]["module"]["config"] is None  # nobody can make it again


@pytest.mark.parametrize(
    ("network", "text"),
    [
        (nn.Linear(3, 5), r"gives \(2, 5\)"),
        (nn.Linear(4, 2), "does not take"),
        ({"type": "MLP", "arguments": {"dropout": 0.1}}, "Dropout"),
        ({"type": "MLP", "arguments": {"wide": 3}}, "wide"),
        ({"kind": "MLP"}, "'type'"),
        (3, "'type': name"),
        ({"type": 3}, "'type': name"),
        ({"type": "MLP", "arguments": [8]}, "'type': name"),
        ("os:path", "no such|neither"),
        (nn.Flatten(), "none|gives"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(network, text):
    with pytest.raises(ConfigError, match=text):
        DQN(VECTOR, spaces.Discrete(2), network=network)


def test_all_weights_are_one_vector():
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = [one.detach().clone() for one in network.parameters()]
    vector = one_vector(network)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), before, strict=True))
    network(torch.ones(1, 2)).sum().backward()
    assert float(vector.grad[-1]) == 1.0
    with torch.no_grad():
        vector.zero_()
    assert float(network(torch.ones(1, 2)).detach()) == 0


def test_read_only_observations_are_taken_without_a_word():
    agent = DQN(VECTOR, spaces.Discrete(2))
    seen = np.zeros((2, 3), np.float32)
    seen.flags.writeable = False
    assert agent.act({"observation": seen}, explore=False).shape == (2,)


# --- names


def test_agents_are_found_by_name_without_torch():
    code = (
        "import sys; from physgym.rl.agent import AGENTS; "
        "assert AGENTS == {'dqn': 'physgym.rl.dqn:DQN', 'sac': 'physgym.rl.sac:SAC'}; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=110)


def test_classes_by_name():
    assert (agent_class("dqn"), agent_class("physgym.rl.sac:SAC")) == (DQN, SAC)
    assert (DQN.name, SAC.name) == ("dqn", "sac")
    with pytest.raises(ConfigError, match=r"no agent 'dgn', but \['dqn', 'sac'\]"):
        agent_class("dgn")
    with pytest.raises(ConfigError, match="no subclass"):
        agent_class("os:path")
    assert issubclass(DQN, Agent)
