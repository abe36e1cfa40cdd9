"""Simulators that exist once per process or machine, or are costly to start."""

from __future__ import annotations

import functools
import os

import gymnasium
import numpy as np
import pytest

import physgym
from physgym.envs.heat_batch import HeatBatch
from physgym.errors import ConfigError, SharedMachine, SharedProcess
from physgym.generation.stream import SampleStream
from physgym.placement import declared_metadata
from physgym.rl.drive import drive
from physgym.rl.evaluation import evaluate_agent
from physgym.rl.numbered_episodes import NumberedEpisodesFactory
from physgym.single import single_of, starts_slowly
from physgym.system.cores import usable_cores
from physgym.vector.make import episode_factory
from physgym.worker.folders import OwnFolder
from physgym.worker.machine_claims import claim_machine, release_machine
from physgym.worker.sampled_actions import SampledActionsFactory
from physgym.worker.snapshots import SnapshotsFactory
from physgym.worker.stored_actions import StoredActionsFactory
from tests.support.licensed import Found, Licensed, PerProcess, Slow, Wrong, licensed

LICENSED = "tests.support.licensed:Licensed"


@pytest.mark.parametrize("said", [True, False, None, "thread", 1])
def test_a_declaration_is_one_of_two_words(said):
    with pytest.raises(ConfigError, match=f"not {said!r}"):
        single_of({"physgym.single": said})
    assert single_of({}) is None
    assert single_of({"physgym.single": "process"}) == "process"


def test_a_wrong_declaration_is_an_error_where_environments_are_made():
    for make in (Wrong, lambda: Wrong()):
        with pytest.raises(ConfigError, match="not True"):
            physgym.make_vec(make, 2, num_workers=0)
    with pytest.raises(ConfigError, match="not 'yes'"):
        starts_slowly({"physgym.costly_start": "yes"})


def test_what_a_class_declares_is_known_before_one_is_made():
    made = episode_factory(LICENSED, [{}, {}])
    for around in (
        lambda one: one,
        StoredActionsFactory,
        lambda one: SnapshotsFactory(one, 1),
        lambda one: SampledActionsFactory(one, None, 0),
        lambda one: NumberedEpisodesFactory(one, 0, None),
        lambda one: functools.partial(os.fspath, one),
    ):
        assert single_of(declared_metadata(around(made))) == "machine"
    assert single_of(declared_metadata(functools.partial(Licensed))) == "machine"
    assert declared_metadata(licensed) == {}
    assert declared_metadata(functools.partial(gymnasium.wrappers.TimeLimit, Licensed(), 5)) == {}  # a property there


@pytest.mark.slow
@pytest.mark.parametrize(("env", "num_workers"), [(LICENSED, None), (LICENSED, 0), (licensed, None), (Found, None)])
def test_a_machine_holds_one_alone(env, num_workers):
    with pytest.raises(SharedMachine, match="one"):
        physgym.make_vec(env, 2, num_workers=num_workers)
    with physgym.make_vec(env, num_workers=num_workers) as envs:
        envs.reset(seed=0)
        if env != licensed:
            with pytest.raises(SharedMachine, match=r"(this process|process \d+ of this machine) has one already"):
                physgym.make_vec(env, num_workers=0)
    physgym.make_vec(env, num_workers=0).close()


def test_a_claim_ends_with_what_has_it():
    env, other = Licensed(), Licensed()
    claim_machine(env)
    with pytest.raises(SharedMachine, match="this process has one already"):
        claim_machine(other)
    release_machine(env)
    release_machine(env)
    claim_machine(other)
    del other
    claim_machine(env)
    if not (child := os.fork()):
        release_machine(env)  # which it does not have
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(SharedMachine):
        claim_machine(Licensed())
    release_machine(env)


@pytest.mark.slow
def test_generation_takes_one_where_a_machine_holds_one_alone(tmp_path):
    one = physgym.generate(LICENSED, tmp_path / "one", samples=20, max_steps=5)
    plain = physgym.generate("physgym/Spring-v0", tmp_path / "plain", samples=20, max_steps=5, num_workers=2)
    for name, column in one.read(0, 20).items():
        assert np.array_equal(column, plain.read(0, 20)[name])
    with pytest.raises(SharedMachine, match="num_envs=1"), SampleStream(LICENSED, num_envs=2):
        pass


@pytest.mark.slow
def test_an_agent_is_evaluated_in_environments_that_do_not_share():
    def rest(observations):
        return np.zeros((len(observations), 1), np.float32)

    found = evaluate_agent(rest, PerProcess, episodes=2, num_envs=2, max_steps=3)
    assert len(found) == 2
    assert found.values == evaluate_agent(rest, LICENSED, episodes=2, num_envs=2, max_steps=3).values
    with pytest.raises(SharedProcess, match="num_workers=0 puts 2"):
        evaluate_agent(rest, PerProcess, episodes=2, num_envs=2, num_workers=0)


@pytest.mark.slow
def test_what_is_costly_to_start_is_not_started_to_be_measured():
    with physgym.make_vec(Slow, 2, num_workers="auto") as envs:
        assert envs.num_workers == min(2, usable_cores())
    assert Slow.made == 0


class LicensedHeat(HeatBatch):
    """Heat in many plates, one batch per machine."""

    metadata = {**HeatBatch.metadata, "physgym.single": "machine"}  # noqa: RUF012


class OtherHeat(LicensedHeat):
    """Another simulator with a license of its own."""


def test_a_batch_has_the_machine_by_the_name_of_its_own_class():
    with physgym.make_vec(LicensedHeat, 3, num_workers=0, size=4):
        with pytest.raises(SharedMachine, match="LicensedHeat declares"):
            physgym.make_vec(LicensedHeat, 2, num_workers=0, size=4)
        physgym.make_vec(OtherHeat, 2, num_workers=0, size=4).close()
    physgym.make_vec(LicensedHeat, 2, num_workers=0, size=4).close()


@pytest.mark.slow
def test_a_simulation_that_is_reopened_or_driven_has_the_machine(tmp_path):
    dataset = physgym.generate(LICENSED, tmp_path, samples=4, num_workers=0, max_steps=4)
    env, _ = physgym.reopen(dataset, 0, 2)
    with pytest.raises(SharedMachine, match="this process has one already"):
        physgym.reopen(dataset, 0, 2)
    with pytest.raises(SharedMachine, match="this process has one already"):
        drive(LICENSED, view="web")
    with pytest.raises(SharedMachine):
        physgym.make_vec(LICENSED, 1, num_workers=0)
    env.close()
    env.close()
    other, _ = physgym.reopen(dataset, 0, 2)
    other.close()


def test_an_environment_that_is_claimed_twice_is_the_same_one():
    env = OwnFolder(Licensed)
    claim_machine(env)
    release_machine(env)
    OwnFolder(Licensed).close()
    env.close()
