from __future__ import annotations

from functools import partial
from types import MethodType

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from physgym.nn import Optimization
from physgym.nn.joint_adam import JointAdam

STEPS = [
    {},
    {"weight_decay": 0.1},
    {"amsgrad": True},
    {"maximize": True, "weight_decay": 0.1},
    {"lr": 0.1, "eps": 1e-3},
]


def deep(count=20, size=5):
    torch.manual_seed(0)
    return nn.Sequential(*(part for _ in range(count) for part in (nn.Linear(size, size), nn.Tanh())))


def mixed():
    """Small tensors and large ones, one with its axes in another order in memory, in more than one pack."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(150, 150), nn.Linear(150, 150), nn.Linear(150, 300), nn.Linear(300, 3))
    network[1].weight.data = network[1].weight.data.t()
    return network


NETWORKS = {"many": deep, "few": lambda: deep(1), "mixed": mixed, "double": lambda: mixed().double()}


def gradient(network, seed):
    torch.manual_seed(seed)
    first = network[0]
    x = torch.randn(7, first.in_features, dtype=first.weight.dtype)
    for parameter in network.parameters():
        parameter.grad = None
    network(x).square().mean().backward()


def check_alike(one, other, first, second):
    for mine, its in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, its)
    for mine, its in zip(first.state.values(), second.state.values(), strict=True):
        assert list(mine) == list(its)
        assert all(torch.equal(mine[name], its[name]) for name in mine)


class Count(TorchDispatchMode):
    """Counts the operations of torch that change numbers."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", STEPS)
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("name", NETWORKS)
def test_steps_have_the_bits_of_torch(name, kind, options, monkeypatch):
    alone, together = NETWORKS[name](), NETWORKS[name]()
    single = kind(alone.parameters(), foreach=False, **options)
    optimization = Optimization(together, optimizer=lambda parameters: kind(parameters, **options))
    made = []
    monkeypatch.setattr(JointAdam, "step", lambda self, _step=JointAdam.step: made.append(_step(self)) or made[-1])
    for turn in range(5):
        for network, step in ((alone, single.step), (together, lambda: optimization.step(pytest.fail))):
            gradient(network, turn)
            step()
        assert optimization.optimizer.param_groups[0]["foreach"] is None  # as the checkpoints of before say
    assert made == [False, True, True, True, True]  # the first one makes the moments
    check_alike(alone, together, single, optimization.optimizer)


def test_a_step_takes_a_few_operations_for_many_tensors():
    network = deep(40)
    optimization = Optimization(network)
    counts = []
    for turn in range(3):
        gradient(network, turn)
        with Count() as counted:
            optimization.step(pytest.fail)
        counts.append(counted.count)
    assert counts[0] > 8 * 80
    assert counts[2] < 3 * 80


@pytest.mark.parametrize(
    ("network", "optimizer"),
    [
        (deep(), partial(torch.optim.Adam, foreach=False)),
        (deep(), partial(torch.optim.Adam, foreach=True)),
        (deep(), partial(torch.optim.Adam, fused=True)),
        (deep(), partial(torch.optim.Adam, lr=torch.tensor(0.01))),
        (deep().to(torch.bfloat16), torch.optim.Adam),
        (deep(), torch.optim.SGD),
        (deep(), type("Own", (torch.optim.Adam,), {})),
    ],
)
def test_the_optimizer_makes_steps_of_other_kinds(network, optimizer):
    optimization = Optimization(network, optimizer=optimizer)
    before = [dict(group, params=None) for group in optimization.optimizer.param_groups]
    called = []
    gradient(network, 0)
    optimization.optimizer.step()
    weights = [parameter.clone() for parameter in network.parameters()]
    assert not JointAdam(optimization.optimizer, scheduled=False).step()
    assert all(torch.equal(one, other) for one, other in zip(weights, network.parameters(), strict=True))
    optimization.optimizer.register_step_pre_hook(lambda *_: called.append(1))
    optimization.step(pytest.fail)
    assert [dict(group, params=None) for group in optimization.optimizer.param_groups] == before
    assert called == [1]


def test_who_wants_to_hear_of_steps_does():
    network = deep(2)
    optimization = Optimization(network)
    heard = []

    def step():
        gradient(network, 0)
        optimization.step(pytest.fail)

    step()
    own = optimization.optimizer.register_step_post_hook(lambda *_: heard.append("own"))
    step()
    own.remove()
    every = register_optimizer_step_pre_hook(lambda *_: heard.append("every"))
    step()
    every.remove()
    usual = optimization.optimizer.step
    optimization.optimizer.step = lambda *args: heard.append("patched") or usual(*args)
    step()
    assert heard == ["own", "every", "patched"]


def test_an_optimizer_that_was_patched_before_a_scheduler_wrapped_it_is_called():
    network, heard = deep(2), []
    optimizer = torch.optim.Adam(network.parameters())
    usual = optimizer.step
    optimizer.step = MethodType(lambda self, *args: heard.append("patched") or usual(*args), optimizer)
    optimization = Optimization(network, optimizer=optimizer, scheduler=partial(ExponentialLR, gamma=0.5))
    for turn in range(3):
        gradient(network, turn)
        optimization.step(pytest.fail)
        optimization.end_epoch(0.0)
    assert heard == ["patched"] * 3


def test_a_schedule_goes_on_over_steps_that_are_made_here(recwarn):
    alone, together = deep(2), deep(2)
    single = torch.optim.Adam(alone.parameters(), foreach=False)
    schedule = ExponentialLR(single, 0.5)
    optimization = Optimization(together, scheduler=partial(ExponentialLR, gamma=0.5))
    for turn in range(4):
        gradient(alone, turn)
        single.step()
        schedule.step()
        gradient(together, turn)
        optimization.step(pytest.fail)
        optimization.end_epoch(0.0)
    assert optimization.lr == 0.001 / 16
    check_alike(alone, together, single, optimization.optimizer)
    assert not recwarn.list


@pytest.mark.parametrize("name", ["many", "mixed"])
def test_a_state_that_is_loaded_or_changed_in_between_is_gone_on_from(name):
    alone, together = NETWORKS[name](), NETWORKS[name]()
    single = torch.optim.Adam(alone.parameters(), foreach=False)
    optimization = Optimization(together)

    def steps(*turns):
        for turn in turns:
            for network, step in ((alone, single.step), (together, lambda: optimization.step(pytest.fail))):
                gradient(network, turn)
                step()

    steps(0, 1, 2)
    for optimizer in (single, optimization.optimizer):
        optimizer.load_state_dict(optimizer.state_dict())  # which copies
    steps(3, 4)
    optimization.optimizer.step()  # whoever does that, in place
    single.step()
    steps(5)
    for network, optimizer in ((alone, single), (together, optimization.optimizer)):
        first = next(network.parameters())
        optimizer.state[first]["exp_avg"] = optimizer.state[first]["exp_avg"] * 2
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))], "lr": 0.1})
    steps(6, 7)
    for optimizer in (single, optimization.optimizer):
        extra = optimizer.param_groups[1]["params"][0]
        extra.grad = torch.ones(3)
        optimizer.step()
    steps(8, 9)
    check_alike(alone, together, single, optimization.optimizer)


def test_parameters_without_a_gradient_stay_as_they_are():
    alone, together = deep(4), deep(4)
    single = torch.optim.Adam(alone.parameters(), foreach=False)
    optimization = Optimization(together)
    for turn in range(8):
        for network, step in ((alone, single.step), (together, lambda: optimization.step(pytest.fail))):
            gradient(network, turn)
            for number, parameter in enumerate(network.parameters()):
                if number == 0 or (number == 3 and turn in (3, 4)):  # one never has one, another one not always
                    parameter.grad = None
            step()
    check_alike(alone, together, single, optimization.optimizer)


def test_another_optimizer_in_its_place_makes_the_steps():
    network = deep(2)
    optimization = Optimization(network)
    for turn in range(2):
        gradient(network, turn)
        optimization.step(pytest.fail)
    optimization.optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    weights = [parameter.clone() for parameter in network.parameters()]
    gradient(network, 2)
    optimization.step(pytest.fail)
    assert all(torch.equal(one, other) for one, other in zip(weights, network.parameters(), strict=True))


@pytest.mark.parametrize("sizes", [(0, 3), (40000, 0, 3), (0,)])
def test_a_parameter_without_numbers_is_one_as_well(sizes):
    def stepped(optimization):
        parameters = [nn.Parameter(torch.ones(size)) for size in sizes]
        step = optimization(parameters)
        for turn in range(3):
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, turn + 1)
            step()
        return parameters

    def together(parameters):
        optimizer = torch.optim.Adam(parameters)
        joint = JointAdam(optimizer, scheduled=False)
        return lambda: joint.step() or optimizer.step()

    for mine, its in zip(stepped(together), stepped(lambda parameters: torch.optim.Adam(parameters).step), strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_other_moments_in_the_middle_are_seen_by_the_optimizer(amsgrad):
    parameters = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = torch.optim.Adam(parameters, amsgrad=amsgrad)
    joint = JointAdam(optimizer, scheduled=False)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert joint.step()
    optimizer.param_groups[0]["amsgrad"] = not amsgrad
    assert not joint.step()
