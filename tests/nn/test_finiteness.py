"""The flag of values that are not finite, by its rules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from physgym.nn import Optimization
from physgym.nn.finiteness import NonFiniteFlag

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_it_is_set_where_a_value_is_not_finite_and_stays_set(dtype, bad):
    tensors = [torch.randn(7, 5).to(dtype), torch.empty(0, dtype=dtype), torch.randn(6, 4).to(dtype).t()]
    before = [tensor.clone() for tensor in tensors]
    flag = NonFiniteFlag(CPU)
    assert flag.takes(tensors)
    flag.note(tensors)
    assert not flag.read()
    assert all(torch.equal(now, then) for now, then in zip(tensors, before, strict=True))
    tensors[2][3, 5] = bad
    flag.note(tensors)
    flag.note(before)
    assert flag.read()
    assert not flag.read()


def test_it_does_not_take_what_it_cannot_look_at():
    flag, one = NonFiniteFlag(CPU), torch.ones(2)
    for other in (one.double(), one.to(torch.complex64), one.to_sparse(), torch.empty(2, device="meta")):
        assert not flag.takes([one, other])
    assert not flag.takes([one.to(torch.complex64)])


@pytest.mark.parametrize("large", [0, 1 << 16])
def test_a_long_finite_gradient_is_finite_though_its_sum_is_not(monkeypatch, large):
    monkeypatch.setattr("physgym.nn.optimization.LARGE", large)
    network = nn.Linear(2, 1, bias=False)
    optimization = Optimization(network)
    network.weight.grad = torch.full_like(network.weight, 3e38)
    assert optimization.has_finite_gradient()
    network.weight.grad[0, 1] = math.nan
    assert not optimization.has_finite_gradient()
    assert not optimization.has_finite_gradient()


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_a_guarded_step_changes_nothing_where_the_flag_is_set(optimizer):
    network = nn.Linear(3, 2)
    optimization = Optimization(network, optimizer=optimizer, lr=0.1)
    network(torch.ones(4, 3)).sum().backward()
    optimization.step(lambda: torch.zeros(()))
    assert optimization.guard()
    before = [value.clone() for value in network.parameters()]
    optimization.guarded_step(torch.ones(()))
    assert all(torch.equal(now, then) for now, then in zip(network.parameters(), before, strict=True))
    optimization.guarded_step(torch.zeros(()))
    assert not any(torch.equal(now, then) for now, then in zip(network.parameters(), before, strict=True))


@pytest.mark.parametrize("option", ["fused", "foreach"])
def test_an_optimizer_that_is_told_how_to_step_is_left_alone(option):
    network = nn.Linear(3, 2)
    groups = torch.optim.Adam(network.parameters(), **{option: option == "foreach"})
    assert not Optimization(network, optimizer=groups).guard()
    assert groups.param_groups[0][option] is (option == "foreach")
