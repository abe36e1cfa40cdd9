"""Heat in many plates at once: exact solutions, and the plate of one."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from scipy.fft import dstn

import physgym
from physgym.batched.random import uniform
from physgym.envs.heat import Heat
from physgym.envs.heat_batch import HeatBatch
from physgym.errors import ConfigError, SampleError

SIZE = 16


def mode(size, k, m):
    axis = np.arange(1, size + 1) / (size + 1)
    return np.outer(np.sin(np.pi * k * axis), np.sin(np.pi * m * axis))


def test_modes_decay_and_grow_as_in_the_exact_solution():
    batch = HeatBatch(3, size=SIZE, time_step=0.3)
    batch.reset(seed=0)
    rates = []
    for row, (k, m) in enumerate([(1, 1), (2, 3), (5, 4)]):
        batch._temperature[row] = torch.tensor(mode(SIZE, k, m))
        a = float(batch._diffusivity[row])
        rates.append(a * (np.pi / 0.1) ** 2 * (k**2 + m**2))
    source = np.stack([10 * mode(SIZE, 2, 3)] * 3).astype(np.float32)
    sample = batch.step(source)[-1]["sample"]
    a = sample["diffusivity"][1, 0, 0]
    for row, (k, m) in enumerate([(1, 1), (2, 3), (5, 4)]):
        grown = a * (np.pi / 0.1) ** 2 * 13 if row == 1 else float(batch._diffusivity[row]) * (np.pi / 0.1) ** 2 * 13
        want = np.exp(-rates[row] * 0.3) * mode(SIZE, k, m) + 10 * mode(SIZE, 2, 3) * (1 - np.exp(-grown * 0.3)) / grown
        assert np.abs(batch._temperature[row].numpy() - want).max() < 1e-6  # of the source in float32


def test_rows_are_plates_of_one():
    env, batch = Heat(size=SIZE, diffusivity=1.3e-4), HeatBatch(2, size=SIZE)
    env.reset(seed=3)
    given = {name: np.stack([value, value]) for name, value in env.parameters.items()}
    given["diffusivity"] = np.array([[1.3e-4], [6e-5]])
    first, info = batch.reset(seed=1, options={"parameters": given})
    assert np.abs(first[0] - env.observation()).max() < 1e-5
    assert np.array_equal(info["parameters"]["diffusivity"], given["diffusivity"])
    rng = np.random.default_rng(0)
    for _ in range(4):
        action = env.sample_action(rng)
        one, many = env.step(action)[-1]["sample"], batch.step(np.stack([action, action]))[-1]["sample"]
        for name in one:
            assert np.abs(one[name] - many[name][0]).max() < 1e-5
    assert np.abs(many["next_temperature"][0] - many["next_temperature"][1]).max() > 0.1


def test_random_fields_are_within_their_bounds_and_differ():
    batch = HeatBatch(200, size=SIZE)
    _, info = batch.reset(seed=0)
    found = info["parameters"]
    assert np.bincount(found["count"], minlength=5)[1:].min() > 20
    assert (found["diffusivity"] >= 5e-5).all()
    assert (found["diffusivity"] <= 2e-4).all()
    assert len(np.unique(found["diffusivity"])) == 200
    drawn = batch.draw_actions(np.arange(200), np.full(200, 3))
    assert np.abs(drawn).max() <= 20
    assert (np.abs(drawn).reshape(200, -1).max(axis=1) > 0).all()
    for space, values in zip(batch.parameter_space.spaces.items(), found.values(), strict=True):
        assert all(space[1].contains(value) for value in values)
    assert np.abs(dstn(drawn[0], type=1)).max() > 1


def test_random_numbers_are_those_of_their_seed_and_uniform():
    seeds, steps = torch.arange(64), torch.zeros(64, dtype=torch.int64)
    drawn = uniform(seeds, steps, 1000, 1)
    assert torch.equal(drawn[5:6], uniform(seeds[5:6], steps[5:6], 1000, 1))
    assert torch.equal(drawn[:, :10], uniform(seeds, steps, 10, 1))
    assert (drawn >= 0).all()
    assert (drawn < 1).all()
    assert abs(float(drawn.mean()) - 0.5) < 0.005
    counts = torch.histc(drawn, 10, 0, 1)
    assert (counts - 6400).abs().max() < 400
    for other in (uniform(seeds, steps + 1, 1000, 1), uniform(seeds, steps, 1000, 2), drawn.roll(1, 0)):
        assert abs(float(torch.corrcoef(torch.stack([drawn.flatten(), other.flatten()]))[0, 1])) < 0.02
    assert [f"{x:.6f}" for x in uniform(torch.tensor([1]), torch.tensor([2]), 2, 1)[0].tolist()] == KNOWN


KNOWN = ["0.206625", "0.944074"]  # datasets depend on them


def test_a_source_that_is_not_finite_is_rejected_in_its_row():
    batch = HeatBatch(3, size=4)
    batch.reset(seed=0)
    actions = np.ones((3, 4, 4), np.float32)
    actions[1, 2, 2] = np.nan
    before = batch._temperature.clone()
    infos = batch.step(actions)[-1]
    assert infos["rejected"].tolist() == ["", batch.rejection, ""]
    assert torch.equal(batch._temperature[1], before[1])
    assert not torch.equal(batch._temperature[0], before[0])
    batch._temperature[2, 0, 0] = torch.nan
    with pytest.raises(SampleError, match="row 2"):
        batch.step(np.ones((3, 4, 4), np.float32))


def test_wrong_arguments_are_named():
    with pytest.raises(ConfigError, match="diffusivity must be two positive numbers"):
        HeatBatch(2, diffusivity=(2e-4, 1e-4))
    with pytest.raises(ConfigError, match="device 'nothing' cannot be used"):
        HeatBatch(2, device="nothing")
    batch = HeatBatch(2, size=4)
    with pytest.raises(ConfigError, match="no parameter 'colour'"):
        batch.reset(options={"parameters": {"colour": np.zeros(2)}})
    with pytest.raises(ConfigError, match=r"of all rows has shape \(2, 1\), not \(1,\)"):
        batch.reset(options={"parameters": {"diffusivity": np.array([1e-4])}})
    with pytest.raises(ConfigError, match="of row 1 is not in"):
        batch.reset(options={"parameters": {"diffusivity": np.array([[1e-4], [1.0]])}})
    with pytest.raises(ConfigError, match="no option"):
        batch.reset(options={"wind": 3})


def test_gymnasium_makes_it_as_a_vector_environment():
    batch = gymnasium.make_vec("physgym/HeatBatch-v0", num_envs=3, size=4)
    observation, _ = batch.reset(seed=1)
    assert batch.observation_space.contains(observation)
    batch.close()
    with physgym.make_vec("physgym/HeatBatch-v0", 3, num_workers=0, size=4) as envs:
        assert np.array_equal(envs.reset(seed=1)[0], observation)
        for step in range(20):
            truncated = envs.step(envs.action_space.sample())[3]
            assert truncated.all() == (step == 19)
    with physgym.make_vec("physgym/HeatBatch-v0", 2, num_workers=0, size=4, max_episode_steps=3) as envs:
        envs.reset(seed=1)
        assert [envs.step(envs.action_space.sample())[3].tolist() for _ in range(3)] == 2 * [[False] * 2] + [[True] * 2]
        assert envs.description["max_episode_steps"] == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_up_to_rounding():
    here, there = HeatBatch(4, size=SIZE), HeatBatch(4, size=SIZE, device="cuda")
    for one in (here, there):
        one.reset(seed=0)
    actions = here.draw_actions(np.arange(4), np.zeros(4))
    assert np.abs(actions - there.draw_actions(np.arange(4), np.zeros(4))).max() < 1e-4
    wanted, found = (one.step(actions)[-1]["sample"] for one in (here, there))
    for name, values in wanted.items():
        assert np.abs(values - found[name]).max() < 1e-3
    assert there.observation().device.type == "cuda"
