"""Environments of one process work in folders of their own, and the parent stays where it is."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import physgym
from physgym.errors import ConfigError, SharedProcess, WorkerError
from physgym.generation.generate import generate
from physgym.generation.stream import SampleStream
from physgym.nn import MLP, Predictor
from physgym.runner import RolloutEvaluation, Runner
from physgym.sample import SampleSpec
from tests.support import toys
from tests.support.workers import forked_workers  # noqa: F401 - a fixture of all tests here


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A working folder that has to be that of the process at any time."""
    monkeypatch.chdir(tmp_path)
    return Path.cwd()


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("at", ["constructor", "reset"])
def test_environments_of_a_process_have_folders_of_their_own(home, at, workers):
    envs = physgym.SocketVectorEnv(
        [lambda: toys.Filed(at)] * 4, num_workers=workers, autoreset_mode=AutoresetMode.SAME_STEP
    )
    assert Path.cwd() == home
    for call in (envs.reset, lambda: envs.reset(options={"reset_mask": np.array([True, False, True, False])})):
        call()
        assert Path.cwd() == home
    for count in (1, 2, 3, 0, 1, 2):  # 0: after the reset of an episode of four steps
        observations = envs.step(envs.action_space.sample())[0]
        assert observations[:, 0].tolist() == [count] * 4
        assert Path.cwd() == home
    folders = envs.call("where")
    assert len(set(folders)) == 4
    assert Path.cwd() == home
    envs.send(envs.action_space.sample())
    envs.recv(4)
    assert Path.cwd() == home
    envs.close()
    assert Path.cwd() == home


@pytest.mark.parametrize("workers", [0, 1])
def test_a_folder_that_one_of_the_first_steps_changes_is_its_own(home, workers):
    """Environments beside one that moves stay where the process is."""
    makers = [lambda: toys.Filed(3, ends=False), toys.Line, lambda: toys.Filed("reset", ends=False)]
    with physgym.SocketVectorEnv(makers, num_workers=workers) as envs:
        envs.reset()
        for count in range(1, 20):
            observations = envs.step(np.zeros((3, 3), np.float32))[0]
            assert observations[[0, 2], 0].tolist() == [count] * 2
            assert Path.cwd() == home


@pytest.mark.parametrize("workers", [0, 1])
def test_a_folder_that_a_later_step_changes_is_an_error_where_others_may_be_concerned(home, workers):
    makers = [lambda: toys.Filed(30, ends=False), toys.Line]
    with physgym.SocketVectorEnv(makers, num_workers=workers) as envs:
        envs.reset()
        for _ in range(29):
            envs.step(np.zeros((2, 3), np.float32))
        with pytest.raises(ConfigError, match="left the process in the working folder"):
            envs.step(np.zeros((2, 3), np.float32))
        assert Path.cwd() == home
    with physgym.SocketVectorEnv(makers[:1], num_workers=workers) as envs:
        envs.reset()
        for count in range(1, 40):
            assert envs.step(np.zeros((1, 3), np.float32))[0][0, 0] == count
            assert Path.cwd() == home


def test_the_parent_may_go_elsewhere_between_calls(home):
    with physgym.SocketVectorEnv([toys.Filed, toys.Line], num_workers=0) as envs:
        envs.reset()
        for count in range(1, 4):
            (home / f"{count}").mkdir()
            os.chdir(home / f"{count}")
            assert envs.step(np.zeros((2, 3), np.float32))[0][0, 0] == count
            assert Path.cwd() == home / f"{count}"


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("at", ["constructor", "reset"])
def test_a_dataset_of_environments_with_folders(home, at, workers):
    dataset = generate(
        lambda at: toys.Filed(at),
        "data",
        samples=24,
        num_envs=3,
        num_workers=workers,
        env_kwargs={"at": at},
        progress=False,
    )
    assert Path.cwd() == home
    counted = dataset.read(0, 24, ["x"])["x"][:, 0]
    np.testing.assert_allclose(counted, np.tile([0.1, 0.2, 0.3, 0.4], 6), rtol=1e-6)
    assert (home / "data").is_dir()


def test_environments_of_several_arguments_have_folders_of_their_own(home):
    with SampleStream(toys.Filed, num_envs=1, num_workers=0, env_kwargs=[{}, {"at": "reset"}]) as stream:
        counted = stream.draw(32)["x"][:, 0]
        assert Path.cwd() == home
    np.testing.assert_allclose(counted, np.tile([0.1, 0.2, 0.3, 0.4], 8), rtol=1e-6)


def test_a_runner_and_an_evaluation_leave_the_process_where_it_was(home):
    spec = SampleSpec.from_env(toys.Line())
    predictor = Predictor(MLP.from_spec(spec, hidden=(4,)), spec)
    for arguments in ({}, [{}, {"at": "reset"}]):
        with Runner(toys.Filed, predictor, env_kwargs=arguments, record=f"record{len(arguments)}") as runner:
            assert Path.cwd() == home
            for _, step in zip(range(12), runner.steps(), strict=False):
                assert Path.cwd() == home
                assert step.transition.observation[0] == step.transition.step + 1
        assert Path.cwd() == home
        RolloutEvaluation(toys.Filed, 6, env_kwargs=arguments)(predictor)
        assert Path.cwd() == home


def test_a_prediction_is_made_where_the_parent_is(home):
    class Asking(toys.Flaky):
        def __init__(self):
            super().__init__(reject_above=2.0)
            os.chdir(tempfile.mkdtemp())

        def advance(self, action):
            self.predict({"x": action})
            super().advance(action)

    asked = []

    def network(fields):
        asked.append(Path.cwd())
        return {"y": fields["x"]}

    with physgym.SocketVectorEnv([Asking] * 2, num_workers=0, predictor=network) as envs:
        envs.reset()
        envs.step(np.zeros((2, 1), np.float32))
    assert asked == [home, home]


def test_a_folder_that_is_gone_hurts_nobody(home):
    class Cleaning(toys.Filed):
        def close(self):
            Path("state").unlink()
            Path.cwd().rmdir()

    envs = physgym.SocketVectorEnv([Cleaning] * 3, num_workers=0)
    envs.reset()
    envs.close()
    assert Path.cwd() == home


@pytest.mark.parametrize("workers", [None, 1, "auto"])
def test_an_environment_that_is_single_has_a_worker_of_its_own(workers):
    with physgym.SocketVectorEnv([toys.Alone] * 3, num_workers=workers) as envs:
        assert envs.num_workers == 3
        envs.reset()
        for count in (1, 2, 3):
            assert envs.step(envs.action_space.sample())[0][:, 0].tolist() == [count] * 3


def test_environments_that_are_single_do_not_share_this_process():
    with pytest.raises(SharedProcess, match="num_workers=0 puts 2 environments into this process"):
        physgym.SocketVectorEnv([toys.Alone] * 2, num_workers=0)
    assert toys.Alone.opened == 0
    with physgym.SocketVectorEnv([toys.Alone], num_workers=0) as envs:
        envs.reset()
    assert toys.Alone.opened == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_one_that_is_single_gives_way_to_that_of_other_arguments(workers):
    gains = [{"gain": 1.0}, {"gain": 10.0}, {"gain": 100.0}]
    with SampleStream(toys.Alone, num_workers=workers, env_kwargs=gains) as stream:
        drawn = stream.draw(18)["y"][:, 0]
    assert drawn.tolist() == [gain * count for gain in (1, 10, 100, 1, 10, 100) for count in (1, 2, 3)]
    assert toys.Alone.opened == 0


def test_a_worker_that_is_started_again_finds_its_folder(home):
    with physgym.SocketVectorEnv([toys.Filed] * 2, num_workers=1, on_error="restart") as envs:
        envs.reset(seed=0)
        envs.step(np.zeros((2, 3), np.float32))
        first = envs.call("where")
        worker = envs._pool.workers[0]
        worker.handle.signal(9)
        for _ in range(4):
            observations = envs.step(np.zeros((2, 3), np.float32))[0]
        assert observations[:, 0].tolist() == [2, 2]
        assert not set(envs.call("where")) & set(first)


def test_the_error_of_a_constructor_leaves_the_process_where_it_was(home):
    class Broken(toys.Filed):
        def __init__(self):
            super().__init__()
            raise ValueError("no licence")

    with pytest.raises(WorkerError, match="no licence"):
        physgym.SocketVectorEnv([toys.Filed, Broken], num_workers=0)
    assert Path.cwd() == home
