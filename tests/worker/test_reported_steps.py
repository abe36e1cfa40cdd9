"""Rollouts that report every step, in parts of every size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from physgym import SocketVectorEnv
from physgym.episode import Transition
from physgym.errors import SampleError
from physgym.protocol import sample_slots
from physgym.protocol.messages import Rollout, RolloutResult
from physgym.sample import SampleSpec
from physgym.worker import reported_steps
from physgym.worker.env_group import EnvGroup
from physgym.worker.failures import RequestFailed
from physgym.worker.reported_steps import SECONDS, ReportedPart, StepLog
from tests.support.patterns import PATTERNS, Patterned, expected
from tests.support.workers import forked_workers  # noqa: F401 - a fixture of all tests here

EPISODES = [[seed, seed] for seed in range(len(PATTERNS))]
EVERY = [step for seed, _ in EPISODES for step in expected(seed)]


def read(parts: list[RolloutResult]) -> list[tuple[int, int, float, str, bool]]:
    """What parts say of every step; each sample must be that of its step."""
    steps = []
    for part in parts:
        told = part.reports
        assert told is not None
        reasons = dict(zip(told.rejected.tolist(), told.reasons, strict=True))
        ends = {(entry[0], entry[1] - 1) for entry in part.ended}
        names = list(zip(part.episodes.tolist(), part.steps.tolist(), strict=True))
        rewards = told.rewards.tolist()
        for place, (name, reward) in enumerate(zip(names, rewards, strict=True)):
            steps.append((*name, reward, reasons.get(place, ""), name in ends))
        given = [reward for place, reward in enumerate(rewards) if place not in reasons]
        (column,) = part.samples.values()
        assert len(column) == len(given)
        for values, reward in zip(column, given, strict=True):
            assert (values == reward).all()
    return steps


def served(request: Rollout, env: Any = None) -> list[RolloutResult]:
    group = EnvGroup([env or Patterned()], AutoresetMode.NEXT_STEP, lambda _: None)
    parts: list[Any] = []
    parts.append(group.serve(request, parts.append))
    return parts


@pytest.mark.parametrize("shape", [(2,), (0,)])
@pytest.mark.parametrize("rows", [1, 2, 3, 1000])
def test_every_step_is_reported_wherever_parts_begin(monkeypatch, shape, rows):
    size = 4 * int(np.prod(shape))
    monkeypatch.setattr(sample_slots, "PART_BYTES", (rows - 1) * max(1, size))
    monkeypatch.setattr(reported_steps, "ROLLOUT_SECONDS", np.inf)
    parts = served(Rollout(EPISODES, 9, 9, reports=True), Patterned(shape))
    assert read(parts) == EVERY
    assert max(len(part.steps) for part in parts) == min(rows, len(EVERY))
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
    kept = [(entry[1], entry[2]) for part in parts for entry in part.ended]
    assert kept == [(len(pattern), pattern.count("+")) for pattern in PATTERNS]


@pytest.mark.parametrize("limit", range(1, len(EVERY) + 2))
def test_a_limit_counts_rejected_steps_and_a_rollout_goes_on_behind_it(limit):
    group = EnvGroup([Patterned()], AutoresetMode.NEXT_STEP, lambda _: None)
    parts: list[Any] = []
    parts.append(group.serve(Rollout(EPISODES, 9, 9, limit=limit, reports=True), parts.append))
    assert read(parts) == EVERY[:limit]
    ended = {entry[0] for part in parts for entry in part.ended}
    rest = [entry for entry in EPISODES if entry[0] not in ended]
    if rest:
        more: list[Any] = []
        request = Rollout(rest, 9, 9, limit=3, made=min(limit, len(EVERY)), goes_on=True, reports=True)
        more.append(group.serve(request, more.append))
        assert read(more) == EVERY[limit : limit + 3]


def test_where_nobody_asks_for_reports_there_are_none():
    parts = served(Rollout(EPISODES, 9, 9))
    assert [part.reports for part in parts] == [None] * len(parts)
    assert sum(len(part.steps) for part in parts) == "".join(PATTERNS).count("+")


@pytest.mark.parametrize("workers", [0, 1])
def test_rows_that_each_fill_a_message_keep_their_reports(workers):
    shape = (sample_slots.PART_BYTES // 4 + 1,)
    with SocketVectorEnv([lambda: Patterned(shape)] * 2, num_workers=workers) as envs:
        arrived = [part for _, part in envs.rollout(map(tuple, EPISODES), max_steps=9, max_rejects=9, reports=True)]
    assert all(isinstance(part, RolloutResult) for part in arrived)
    assert max(len(part.steps) for part in arrived) == 1
    assert sorted(read(arrived)) == EVERY


def test_too_many_rejected_steps_are_reported_before_the_error():
    parts: list[Any] = []
    group = EnvGroup([Patterned()], AutoresetMode.NEXT_STEP, lambda _: None)
    with pytest.raises(RequestFailed) as caught:
        group.serve(Rollout(EPISODES, 9, 3, reports=True), parts.append)
    assert "episode 2: 3 steps in a row gave no valid sample" in str(caught.value.__cause__)
    assert read(parts) == EVERY[:7]


class NotFinite(Patterned):
    """One sample has a NaN, of which the worker learns when it sends."""

    def step(self, action: Any) -> Any:
        observation, name, *others, info = super().step(action)
        if name == 502.0:
            info["sample"]["x"][0] = np.nan
        return observation, name, *others, info


def test_steps_from_a_sample_on_that_is_not_finite_are_not_reported():
    parts: list[Any] = []
    group = EnvGroup([NotFinite()], AutoresetMode.NEXT_STEP, lambda _: None)
    with pytest.raises(RequestFailed) as caught:
        group.serve(Rollout(EPISODES, 9, 9, reports=True), parts.append)
    assert isinstance(caught.value.__cause__, SampleError)
    assert "episode 5, step 1" in str(caught.value.__cause__)
    assert read(parts) == [step for step in EVERY if step[:2] < (5, 1)]


def test_times_are_those_that_the_environment_gives():
    log = StepLog()
    for step, info in enumerate([{SECONDS: (0.5, 0.25)}, {}]):
        log.add(4, Transition(step, None, None, 1.0, False, info, None, "why"))
    part = log.onto(ReportedPart(SampleSpec.from_env(Patterned()), None, False).result(finite=True))
    assert part.reports is not None
    np.testing.assert_array_equal(part.reports.solver_seconds, [0.5, np.nan])
    np.testing.assert_array_equal(part.reports.network_seconds, [0.25, np.nan])
