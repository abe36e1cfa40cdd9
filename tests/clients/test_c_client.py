"""Simulations in C give what their twins in Python give, checked by the sanitizers of address and behaviour."""

from __future__ import annotations

import hashlib
import subprocess

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import physgym
from physgym import SocketVectorEnv
from physgym.errors import ConfigError, SampleError, WorkerError
from physgym.generation.stream import SampleStream
from physgym.testing import check_worker
from physgym.vector.make import env_factory
from tests.support.machines import listening
from tests.support.programs import dialling, needs_gcc, token_file
from tests.support.relay import Relay
from tests.support.vectors import same
from tests.support.watching import OnceStored

pytestmark = [
    pytest.mark.slow,
    needs_gcc,
    pytest.mark.filterwarnings("ignore:.*It was let in:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*Others run its episodes again:RuntimeWarning"),
]
TOY = "tests.clients.toy:clients/Toy-v0"


def digests(folder):
    files = sorted(folder.glob("*.h5"))
    assert files
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def both(tmp_path, program, env, *, count=1, envs=1, **options):
    """Generate here and by a program in C; give the digests of both."""
    options = {"seed": 3, "progress": False, **options}
    physgym.generate(env, tmp_path / "here", num_workers=0, **options)
    with (
        listening(tmp_path, plain=True, on_difference="warn") as reception,
        dialling([program], reception, tmp_path, envs, count, "--patience", "5") as workers,
    ):
        physgym.generate(env, tmp_path / "there", launcher=reception, **options)
        reception.close()
        ends = {worker.process.wait(60) for worker in workers}
        assert ends in ({0}, {0, 3})  # the second one may come when all is done
    return digests(tmp_path / "here"), digests(tmp_path / "there")


@pytest.mark.parametrize(
    "options",
    [
        {"samples": 400},
        {"samples": 300, "parameters": "sobol", "actions": "uniform", "envs": 3, "count": 2},
        {"episodes": 7, "max_steps": 30},
    ],
)
def test_the_spring_gives_the_same_bytes_as_python(tmp_path, spring, options):
    here, there = both(tmp_path, spring, "physgym/Spring-v0", **options)
    assert here == there


@pytest.mark.parametrize(
    "options",
    [
        {"samples": 60},
        {"env_kwargs": {"trouble": 1, "scale": 0.5}, "samples": 40, "keep_rejected": True, "envs": 2},
        {"env_kwargs": {"trouble": 3}, "samples": 40, "nonfinite": "reject", "keep_rejected": True},
        {"env_kwargs": {"trouble": 3}, "samples": 40, "nonfinite": "allow"},
        {"env_kwargs": {"trouble": 5}, "samples": 40, "max_steps": 6},
        {"env_kwargs": [{"scale": 1}, {"scale": 3}, {"trouble": 5}], "samples": 60, "envs": 2},
        {"samples": 50, "max_steps": 3, "parameters": "uniform"},
    ],
    ids=str,
)
def test_whatever_an_episode_does_the_bytes_are_the_same(tmp_path, toy, options):
    here, there = both(tmp_path, toy, TOY, **options)
    assert here == there


@pytest.mark.parametrize(
    ("trouble", "error", "text"),
    [
        (2, SampleError, "5 steps in a row gave no valid sample .*gear . is rejected"),
        (3, SampleError, "episode 0, step 2: field 'noise' has a value that is not finite"),
        (4, RuntimeError, "trouble with gear"),
        (9, WorkerError, "no such trouble"),
        (11, ConfigError, "must be a number from 0 to 9"),
    ],
)
def test_what_fails_is_an_error_with_its_reason(tmp_path, toy, trouble, error, text):
    options = {"samples": 10, "env_kwargs": {"trouble": trouble}, "max_rejects": 5, "progress": False}
    with (
        listening(tmp_path, plain=True, on_difference="warn") as reception,
        dialling([toy], reception, tmp_path),
        pytest.raises(error, match=text),
    ):
        physgym.generate(TOY, tmp_path / "d", launcher=reception, **options)


def test_every_step_is_reported_where_that_is_asked(tmp_path, toy):
    given = []
    options = {"env_kwargs": {"trouble": 1}, "episodes": 6, "reports": True, "seed": 4}
    with listening(tmp_path, plain=True, on_difference="warn") as reception, dialling([toy], reception, tmp_path):
        for where in ({"num_workers": 0}, {"launcher": reception}):
            with SampleStream(TOY, **options, **where) as stream:
                parts = []
                while len(part := stream.take(100)):
                    parts.append((part.names, part.samples, part.reports))
            given.append(parts)

    def joined(parts, get):
        return np.concatenate([get(part) for part in parts])

    for get in (
        lambda part: part[0].episodes,
        lambda part: part[0].steps,
        lambda part: part[1]["noise"],
        lambda part: part[2].rewards,
        lambda part: part[2].accepted,
        lambda part: np.array(part[2].reasons, dtype="U40"),
    ):
        np.testing.assert_array_equal(joined(given[0], get), joined(given[1], get))


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_stepping_gives_what_python_gives(tmp_path, toy, mode):
    factories = [env_factory(TOY, {"trouble": 1})] * 3
    with (
        listening(tmp_path, plain=True, on_difference="warn") as reception,
        dialling([toy], reception, tmp_path, 2, 2),
        SocketVectorEnv(factories, num_workers=0, autoreset_mode=mode) as here,
        SocketVectorEnv(factories, num_workers=2, launcher=reception, autoreset_mode=mode) as there,
    ):
        assert here.single_observation_space == there.single_observation_space
        assert here.single_action_space == there.single_action_space
        options = {"parameters": {"gain": 1.0}}
        same(*(venv.reset(seed=5, options=options) for venv in (here, there)))
        here.action_space.seed(1)
        ended = np.zeros(3, bool)
        for _ in range(20):
            if mode is AutoresetMode.DISABLED and ended.any():
                same(*(venv.reset(options={"reset_mask": ended}) for venv in (here, there)))
            actions = here.action_space.sample()
            given, got = here.step(actions), there.step(actions)
            same(given, got)
            ended = given[2] | given[3]
        for venv in (here, there):
            with pytest.raises(ConfigError, match="gain"):
                venv.reset(options={"parameters": {"gain": 5.0}})
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            there.call("nothing")


def test_actions_may_have_another_form_than_the_space(tmp_path, toy):
    factory = env_factory(TOY, {})
    with (
        listening(tmp_path, plain=True, on_difference="warn") as reception,
        dialling([toy], reception, tmp_path),
        SocketVectorEnv([factory], num_workers=0) as here,
        SocketVectorEnv([factory], num_workers=1, launcher=reception) as there,
    ):
        for venv in (here, there):
            venv.reset(seed=1)
        for push in (np.array([[0.25, 0.5]]), np.array([[1, 0]], np.int16), np.array([[0.5, 0.25]], np.float16)):
            actions = {"gear": np.array([2], np.int8), "push": push}
            same(here.step(actions)[:4], there.step(actions)[:4])
        for gear in (0, 5, 2**60):  # which might be an index in C
            there.reset(seed=1)
            with pytest.raises(ConfigError, match="the action gear is none of its integers"):
                there.step({"gear": np.array([gear]), "push": np.zeros((1, 2), np.float32)})


@pytest.mark.parametrize("name", ["spring", "toy"])
def test_the_rules_for_workers_hold(request, name):
    skipped = {}
    check_worker([str(request.getfixturevalue(name))], skipped=skipped.__setitem__)
    by_its_fields = [
        "a_rollout_is_what_its_actions_give_step_by_step",
        "an_output_that_feeds_an_input_is_it_in_the_next_sample",
    ]
    assert [*skipped] == ([f"test_{rule}" for rule in by_its_fields] if name == "toy" else [])


def test_a_link_that_is_cut_is_dialled_again(tmp_path, spring):
    options = {"samples": 20000, "seed": 9, "progress": False}
    physgym.generate("physgym/Spring-v0", tmp_path / "here", num_workers=0, **options)
    with (
        listening(tmp_path, plain=True, on_difference="warn") as reception,
        Relay(tuple(reception.address), 0.0, 400_000) as relay,
    ):
        command = [
            str(spring),
            "{}:{}".format(*relay.address),
            "--token-file",
            token_file(tmp_path),
            "--patience",
            "10",
        ]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        options["callbacks"] = [OnceStored(1000, relay.cut)]
        try:
            physgym.generate("physgym/Spring-v0", tmp_path / "there", launcher=reception, timeout=20, **options)
        finally:
            process.kill()
            process.communicate(timeout=60)
    assert digests(tmp_path / "here") == digests(tmp_path / "there")
