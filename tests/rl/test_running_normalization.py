"""Running moments are those of all that was seen, and arrays and tensors are normalized to the same bits."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from gymnasium import spaces

from physgym.errors import ConfigError, SampleError
from physgym.rl.running_normalization import RunningNormalization
from physgym.training.state_codec import decode, encode

SPACE = spaces.Box(-np.inf, np.inf, (3,), np.float32)


def test_observations_are_normalized_by_the_exact_moments():
    generator = np.random.default_rng(0)
    seen = (1000 + generator.normal(size=(500, 3)) * [1, 10, 0.01]).astype(np.float32)
    running = RunningNormalization(SPACE, 8, rewards=False, clip=None)
    for batch in np.split(seen, [7, 8, 8, 300]):  # also of one, and of none
        running.observe({"observation": batch})
    exact = seen.astype(np.float64)
    found = running.observations({"observation": seen})["observation"]
    assert found.dtype == np.float32
    mean, factor = exact.mean(0).astype(np.float32), (1 / np.sqrt(exact.var(0) + 1e-8)).astype(np.float32)
    np.testing.assert_allclose(found, (seen - mean) * factor, rtol=1e-5, atol=1e-5)
    state = running.state_dict()["observations"]["observation"]
    np.testing.assert_allclose(state["mean"], exact.mean(0), rtol=1e-13)
    np.testing.assert_allclose(state["std"], exact.std(0), rtol=1e-9)
    assert state["count"] == 500


def test_large_numbers_of_64_bits_keep_their_differences():
    space = spaces.Box(-np.inf, np.inf, (2,), np.float64)  # such as times and temperatures
    seen = np.array([1e9, 300]) + np.random.default_rng(2).normal(size=(200, 2)) * [1, 1e-5]
    running = RunningNormalization(space, 1, rewards=False)
    running.observe({"observation": seen})
    found = running.observations({"observation": seen})["observation"]
    wanted = (seen - seen.mean(0)) / np.sqrt(seen.var(0) + 1e-8)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    tensors = running.observations({"observation": torch.from_numpy(seen)})["observation"]
    assert tensors.dtype == torch.float32
    assert tensors.numpy().tobytes() == found.tobytes()


def test_rewards_are_divided_by_the_deviation_of_the_discounted_return():
    generator = np.random.default_rng(1)
    rewards, over = generator.normal(2, 3, (60, 4)), generator.random((60, 4)) < 0.1
    running = RunningNormalization(SPACE, 4, observations=False, gamma=0.9)
    returns, total = [], np.zeros(4)
    for number in range(60):
        # in two parts, as a vector environment that answers with some of its environments
        for part in (np.array([2, 0]), np.array([1, 3])):
            running.earn(rewards[number, part], over[number, part], part)
        total = total * 0.9 + rewards[number]
        returns.append(total)
        total = np.where(over[number], 0, total)
    found = running.rewards(rewards[0])
    np.testing.assert_allclose(found, rewards[0] / np.sqrt(np.var(returns) + 1e-8), rtol=1e-6)
    assert found.dtype == np.float32


def test_it_is_that_of_stable_baselines3():
    vec_normalize = pytest.importorskip("stable_baselines3.common.vec_env")
    from tests.rl.test_preprocessing import Road

    peer = vec_normalize.VecNormalize(vec_normalize.DummyVecEnv([Road]), norm_obs=False, gamma=0.95, clip_reward=1e9)
    peer.seed(3)
    peer.reset()
    running = RunningNormalization(SPACE, 1, observations=False, gamma=0.95, clip=None)
    action = np.zeros((1, 2), np.float32)
    for number in range(300):
        _, scaled, over, _ = peer.step(action)
        running.earn(peer.get_original_reward(), over)
        if number > 100:  # theirs begins with a ten thousandth of a value that nobody saw
            np.testing.assert_allclose(running.rewards(peer.get_original_reward()), scaled, rtol=1e-4)
    peer.close()


def test_tensors_and_stacks_are_normalized_to_the_same_bits():
    nested = spaces.Dict({"state": SPACE, "picture": spaces.Box(0, 255, (4, 4), np.uint8)})
    running = RunningNormalization(nested, 2)
    generator = np.random.default_rng(2)
    batch = {
        "observation/state": generator.normal(5, 3, (64, 3)).astype(np.float32),
        "observation/picture": generator.integers(0, 256, (64, 4, 4)).astype(np.uint8),
    }
    running.observe(batch)
    running.earn(np.array([1e3, -1e3]), np.zeros(2))
    stacked = {name: np.stack([value, value[::-1]], 1) for name, value in batch.items()}
    for given in (batch, stacked):
        arrays = running.observations(given)
        tensors = running.observations({name: torch.from_numpy(value.copy()) for name, value in given.items()})
        for name, value in arrays.items():
            np.testing.assert_array_equal(tensors[name].numpy(), value)
    np.testing.assert_array_equal(
        running.observations(stacked)["observation/state"][:, 0], arrays["observation/state"][:, 0]
    )
    assert arrays["observation/picture"] is stacked["observation/picture"]
    rewards = generator.normal(size=64) * 1e5
    np.testing.assert_array_equal(running.rewards(torch.from_numpy(rewards)).numpy(), running.rewards(rewards))
    assert np.abs(running.rewards(rewards)).max() == 10


def test_it_is_frozen_and_goes_on_from_a_checkpoint():
    generator = np.random.default_rng(3)
    one, other = RunningNormalization(SPACE, 2), RunningNormalization(SPACE, 2)

    def learn(running, seed):
        generator = np.random.default_rng(seed)
        running.observe({"observation": generator.normal(size=(9, 3)).astype(np.float32)})
        running.earn(generator.normal(size=2), np.array([False, True]))

    probe = generator.normal(size=(5, 3)).astype(np.float32)
    learn(one, 0)
    data, tensors = encode(one.state_dict())  # as a checkpoint holds it
    other = RunningNormalization(SPACE, 2, **json.loads(json.dumps(other.config)))
    other.load_state_dict(decode(json.loads(json.dumps(data)), tensors))
    other.frozen = True
    learn(other, 1)
    before = one.observations({"observation": probe})["observation"]
    np.testing.assert_array_equal(other.observations({"observation": probe})["observation"], before)
    other.frozen = False
    for running in (one, other):
        learn(running, 1)
    after = one.observations({"observation": probe})["observation"]
    assert (after != before).any()
    np.testing.assert_array_equal(other.observations({"observation": probe})["observation"], after)
    np.testing.assert_array_equal(other.rewards(probe), one.rewards(probe))


def test_before_anything_was_seen_values_stay_what_they_are():
    running = RunningNormalization(SPACE, 1)
    values = np.float32([[1, -2, 3]])
    np.testing.assert_allclose(running.observations({"observation": values})["observation"], values, rtol=1e-7)
    np.testing.assert_array_equal(running.rewards(values), values)


def test_what_cannot_be_normalized_is_an_error():
    with pytest.raises(ConfigError, match="integers alone"):
        RunningNormalization(spaces.Box(0, 255, (4, 4), np.uint8), 1)
    with pytest.raises(ConfigError, match="gamma must be from 0 to 1"):
        RunningNormalization(SPACE, 1, gamma=1.5)
    running = RunningNormalization(SPACE, 1)
    with pytest.raises(SampleError, match="observation has a value that is not finite"):
        running.observe({"observation": np.float32([[1, np.nan, 0]])})
    with pytest.raises(ConfigError, match="observations of"):
        running.load_state_dict(RunningNormalization(spaces.Box(0, 1, (2,)), 1).state_dict())
