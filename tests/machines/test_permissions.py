"""What a worker makes for its parent, and what it does not."""

from __future__ import annotations

import gymnasium
import pytest

from physgym.envs import DONKEYCAR
from physgym.errors import ConfigError, NotAllowed
from physgym.generation.episode_plan import EpisodePlan
from physgym.machines.permissions import HARMLESS, Permissions
from physgym.placement import described
from physgym.protocol.messages import Call, Step
from physgym.vector.make import env_factory
from physgym.worker.snapshots import SnapshotsFactory
from physgym.worker.stored_actions import StoredActionsFactory
from tests.support.toys import Line

LIMITS = {"max_steps": 10, "max_rejects": 5, "nonfinite": "error", "keep_rejected": False, "reports": False}


def plan_of(env, arguments=None, actions="uniform"):
    return EpisodePlan(
        env,
        arguments,
        seed=3,
        mode="training",
        seeds=None,
        continued=None,
        actions=actions,
        parameters=None,
        limits=LIMITS,
        load=None,
        passes=None,
        episodes=None,
        snapshots=None,
    )


@pytest.mark.parametrize("arguments", [None, {"time_step": 0.02}, [{"time_step": 0.02}, {"time_step": 0.05}]])
def test_what_is_described_is_made_again(arguments):
    factory = plan_of("physgym/Spring-v0", arguments).factory()
    again = Permissions().factory(described(factory))
    assert described(again) == described(factory)
    ours, theirs = factory(), again()
    for env in (ours, theirs):
        env.reset(seed=4)
    acts = [env.get_wrapper_attr("episode_policy")(7) for env in (ours, theirs)]
    generators = [__import__("numpy").random.default_rng(0) for _ in acts]
    actions = [act(None, generator) for act, generator in zip(acts, generators, strict=True)]
    assert actions[0].tobytes() == actions[1].tobytes()
    assert ours.step(actions[0])[0].tobytes() == theirs.step(actions[1])[0].tobytes()


def test_wrappers_of_stored_actions_and_snapshots_travel():
    factory = SnapshotsFactory(StoredActionsFactory(env_factory("physgym/Spring-v0", {})), 5)
    assert described(Permissions().factory(described(factory))) == described(factory)


def test_other_ids_are_refused_with_what_is_allowed():
    wanted = described(env_factory("tests.support.toys:Line", {}))
    with pytest.raises(ConfigError, match=r"does not make 'tests.support.toys:Line'; it allows physgym/Beam-v0"):
        Permissions().factory(wanted)
    with pytest.raises(ConfigError, match="it allows physgym/Heat-v0"):
        Permissions(["physgym/Heat-v0"]).factory(described(env_factory("physgym/Spring-v0", {})))
    assert isinstance(Permissions(["tests.support.toys:Line"]).factory(wanted)().unwrapped, Line)


def test_arguments_that_are_fixed_stay():
    permissions = Permissions(fixed={"time_step": 0.02})
    assert permissions.factory(described(env_factory("physgym/Spring-v0", {})))().unwrapped.time_step == 0.02
    assert permissions.factory(described(env_factory("physgym/Spring-v0", {"time_step": 0.02})))
    with pytest.raises(ConfigError, match=r"fixes time_step=0.02, and its parent wants 0.5"):
        permissions.factory(described(env_factory("physgym/Spring-v0", {"time_step": 0.5})))


def test_no_code_is_loaded_for_a_parent():
    arguments = {"time_step": {"$object": "os:system"}}
    with pytest.raises(ConfigError, match="does not load"):
        Permissions().factory({"make": "env", "env": "physgym/Spring-v0", "arguments": arguments})
    with pytest.raises(ConfigError, match="pass actions= with the same one"):
        described(plan_of("physgym/Spring-v0", actions=lambda observation, generator: 0).factory())


@pytest.mark.parametrize(
    "wrong",
    [None, 3, {}, {"make": "shell"}, {"make": "env"}, {"make": "by episode", "of": 3}, {"make": "env", "env": []}],
)
def test_descriptions_that_are_wrong_are_one_error(wrong):
    with pytest.raises(ConfigError):
        Permissions().factory(wrong)


def test_the_harmless_ones_are_all_that_are_shipped_but_those_of_other_programs():
    for env in HARMLESS:
        Permissions().factory(described(env_factory(env, {})))
    shipped = {env: str(spec.entry_point) for env, spec in gymnasium.registry.items() if env.startswith("physgym/")}
    adapters = {env for env, entry in shipped.items() if entry.startswith("physgym.adapters.")}
    assert DONKEYCAR in adapters
    assert set(shipped) - adapters == set(HARMLESS)  # an adapter takes a command, a file or an address of the parent


@pytest.mark.parametrize(
    "wanted",
    [
        Call("set", "time_step", [0.5]),
        Call("set", "other", [0.5]),
        Call("call", "set_wrapper_attr", ["time_step", 0.5]),
        Call("call", "anything", [], {"time_step": 0.5}),
        Call("call", "__init__"),
    ],
)
def test_what_is_fixed_is_not_changed_later(wanted):
    with pytest.raises(NotAllowed, match=r"fixes time_step \(--arg\), and its parent wants to (set|call) '"):
        Permissions(fixed={"time_step": 0.02}).check(wanted)
    Permissions().check(wanted)


def test_what_is_fixed_is_read():
    permissions = Permissions(fixed={"time_step": 0.02})
    for one in (Call("call", "time_step"), Call("call", "has_wrapper_attr", ["constants"]), Call("render"), Step(0)):
        permissions.check(one)
