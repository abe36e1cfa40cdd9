"""A training of an agent that is killed again and again ends with the same weights, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
import torch

from physgym import SampleDataset
from physgym.rl import AgentTrainer, load_agent

KILLS, SAVE_EVERY = 10, 50
NETWORK = {"type": "MLP", "arguments": {"hidden": [16]}}
CASES = {
    "without snapshots": ("dqn", "CartPole-v1", {"num_workers": 1}),
    "with snapshots": ("sac", "physgym/Track-v0", {"num_workers": 0, "env_kwargs": {"observation": "state"}}),
}


def train(agent, env, kwargs, session, steps):
    AgentTrainer(
        agent,
        env,
        steps=steps,
        num_envs=2,
        agent_kwargs={"network": NETWORK},
        learning_starts=50,
        batch_size=16,
        capacity=400,
        report_every=100,
        save_every=SAVE_EVERY,
        session=session,
        resume=True,
        progress=False,
        record=False,
        **kwargs,
    ).fit()


def in_child(*arguments):
    """Train in a child process, which has torch already."""
    child = os.fork()
    if not child:
        try:
            os.setsid()
            torch.set_num_threads(1)
            train(*arguments)
            os._exit(0)
        finally:
            os._exit(1)
    return child


def saved(session):
    networks = session / "networks"
    return {path.name for path in networks.iterdir() if path.name[0] != "."} if networks.is_dir() else set()


def killed(child, session, wait):
    """Kill a training some time after its next checkpoint; whether it was not over before."""
    before = saved(session)
    until = time.monotonic() + 120
    while saved(session) <= before:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        assert time.monotonic() < until, "no checkpoint comes"
        time.sleep(0.002)
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) < 0


def tensors(session):
    def flat(tree, name=""):
        if isinstance(tree, dict):
            return {k: v for key in tree for k, v in flat(tree[key], f"{name}/{key}").items()}
        if isinstance(tree, (list, tuple)):
            return {k: v for i, part in enumerate(tree) for k, v in flat(part, f"{name}/{i}").items()}
        return {name: tree} if isinstance(tree, torch.Tensor) else {}

    return flat(load_agent(session).agent.state_dict())


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("case", CASES)
def test_killed_at_random_moments_it_ends_the_same(tmp_path, case):
    agent, env, kwargs = CASES[case]
    steps, chance = 1500, random.Random(case)
    begin = time.monotonic()
    child = in_child(agent, env, kwargs, tmp_path / "whole", steps)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    longest = (time.monotonic() - begin) * SAVE_EVERY / steps  # what it takes from one checkpoint to the next
    for attempt in range(5):  # it may be over before it was killed so often, where this process has to wait
        session = tmp_path / f"{attempt}"
        moments = [chance.uniform(0, 0.7 * longest) for _ in range(KILLS)]
        if all(killed(in_child(agent, env, kwargs, session, steps), session, moment) for moment in moments):
            break
    else:
        raise AssertionError("the training was over before it was killed so often")
    child = in_child(agent, env, kwargs, session, steps)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    one, other = tensors(tmp_path / "whole"), tensors(session)
    assert one.keys() == other.keys()
    assert len(one) > 5
    assert all(torch.equal(one[name], other[name]) for name in one)
    # the replay is the same too, and no row is there twice
    whole, again = SampleDataset(tmp_path / "whole" / "replay"), SampleDataset(session / "replay")
    last = min(len(whole), len(again))
    assert last > 300
    for name in ("reward", "observation", "acted"):
        assert (whole[-last:][name] == again[-last:][name]).all()
