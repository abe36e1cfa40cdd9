"""Agents whose environments are on other machines learn what they learn here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from physgym.errors import NotAllowed
from physgym.machines.permissions import Permissions
from physgym.placement import described
from physgym.rl import AgentTrainer
from physgym.rl.numbered_episodes import NumberedEpisodesFactory
from physgym.rl.preprocessing import Preprocessing
from physgym.rl.step_limit import StepLimit
from physgym.vector.make import env_factory
from tests.support.crowd import Member, members
from tests.support.machines import listening, settings_for

CART_POLE = "CartPole-v1"
WRAPPERS = [{"type": "ClipReward", "arguments": {"max_reward": 0.5}}]
OPTIONS = {"num_envs": 4, "learning_starts": 40, "batch_size": 16, "report_every": 100, "seed": 5, "progress": False}


def weights(**options):
    trainer = AgentTrainer("dqn", CART_POLE, steps=300, preprocessing=WRAPPERS, **OPTIONS, **options)
    trainer.fit()
    found = list(tensors(trainer.agent.state_dict()))
    assert found
    return found


def tensors(state):
    if isinstance(state, torch.Tensor):
        yield state.numpy().tobytes()
    elif isinstance(state, (dict, list, tuple)):
        for one in state.values() if isinstance(state, dict) else state:
            yield from tensors(one)


def test_numbered_episodes_travel():
    own = NumberedEpisodesFactory(
        env_factory("physgym/Spring-v0", {}), 3, StepLimit(5, 9, 4), Preprocessing([{"type": "ClipAction"}])
    )
    again = Permissions().factory(described(own))
    assert described(again) == described(own)
    ours, theirs = own(), again()
    assert ours.reset()[0].tobytes() == theirs.reset()[0].tobytes()
    action = np.zeros(ours.action_space.shape, ours.action_space.dtype)
    assert [ours.step(action)[3] for _ in range(5)] == [theirs.step(action)[3] for _ in range(5)]


@pytest.mark.parametrize("kind", ["os:system", "LatentObservation"])
def test_wrappers_that_load_code_or_files_do_not(kind):
    description = described(NumberedEpisodesFactory(env_factory("physgym/Spring-v0", {}), 3, None))
    description["preprocessing"] = [{"type": kind, "arguments": {}}]
    with pytest.raises(NotAllowed, match=f"preprocessing: {kind} loads code or a file"):
        Permissions().factory(description)


@pytest.mark.slow
def test_an_agent_learns_what_it_learns_here(tmp_path):
    reference = weights(num_workers=0)
    with listening(tmp_path) as reception:
        settings = settings_for(reception, tmp_path, envs=[CART_POLE])
        with members(settings, 4):
            assert weights(launcher=reception, timeout=20.0) == reference


@pytest.mark.slow
def test_a_worker_that_is_lost_is_replaced_and_the_agent_goes_on(tmp_path):
    lost = []

    class Leaving(Member):
        count = 0

        def answer(self, message):
            self.count += 1
            if self.count == 60 and not lost:
                lost.append(self)
                return False
            return super().answer(message)

    with listening(tmp_path) as reception:
        settings = settings_for(reception, tmp_path, envs=[CART_POLE])
        with members(settings, 4, Leaving):
            assert weights(launcher=reception, timeout=20.0, on_error="restart")
    assert lost
