"""Vector environments as one worker: steps, resets and what happens when an episode of a row ends."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import physgym
from physgym.batched.row_env import row_env
from physgym.batched.rows import VectorRows
from physgym.envs.heat_batch import HeatBatch
from physgym.episode import episode_seed
from physgym.errors import ConfigError, SampleError, WorkerError
from physgym.testing import check_env
from physgym.vector.make import env_factory
from tests.support.batched import Counting, CountingNext, CountingSame, Entangled
from tests.support.tensors import Ragged

MODES = list(AutoresetMode)


def single():
    return row_env(VectorRows(Counting(1)))


def compared(envs, reference, mode, steps=40, rows=3):
    rng = np.random.default_rng(0)
    for one in (envs, reference):
        one.reset(seed=5)
    for _ in range(steps):
        actions = rng.integers(0, 7, rows)
        (x, *flags, infos), (y, *wanted, known) = envs.step(actions), reference.step(actions)
        assert np.array_equal(x, y)
        for got, want in zip(flags, wanted, strict=True):
            assert np.array_equal(got, want)
        over = wanted[1] | wanted[2]
        if "_sample" in known:
            assert np.array_equal(infos["sample"]["x"], known["sample"]["x"])
            assert np.array_equal(infos["_sample"], known["_sample"])
            assert "rejected" not in infos
        if mode is AutoresetMode.SAME_STEP and over.any():
            assert np.array_equal(infos["_final_obs"], known["_final_obs"])
            for row in np.flatnonzero(over):
                assert np.array_equal(infos["final_obs"][row], known["final_obs"][row])
        if mode is AutoresetMode.DISABLED and over.any():
            again = [int(seed) for seed in rng.integers(1000, size=rows)]
            (x, _), (y, _) = (one.reset(seed=again, options={"reset_mask": over}) for one in (envs, reference))
            assert np.array_equal(x, y)


@pytest.mark.parametrize("mode", MODES)
def test_rows_do_what_environments_of_gymnasium_do_in_each_mode(mode):
    with physgym.make_vec(Counting, 3, num_workers=0, autoreset_mode=mode) as envs:
        reference = SyncVectorEnv([single] * 3, autoreset_mode=mode)
        compared(envs, reference, mode)
        reference.close()


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("workers", "shared", "transport"), [(None, True, None), (2, False, "tcp")])
def test_workers_host_a_batch_each(mode, workers, shared, transport):
    options = {"shared_memory": shared, "transport": transport, "autoreset_mode": mode}
    with physgym.make_vec(Counting, 3, num_workers=workers, **options) as envs:
        assert envs.num_workers == (workers or 1)
        reference = SyncVectorEnv([single] * 3, autoreset_mode=mode)
        compared(envs, reference, mode)
        reference.close()


@pytest.mark.parametrize(("kind", "mode"), [(CountingNext, MODES[0]), (CountingSame, MODES[1])])
def test_rows_that_reset_themselves_do_so_as_they_do(kind, mode):
    with physgym.make_vec(kind, 3, num_workers=0, autoreset_mode=mode) as envs:
        compared(envs, kind(3), mode)
    others = [other for other in MODES if other is not mode]
    for other in others:
        with pytest.raises(ConfigError, match=f"autoreset mode {mode.value}, and {other.value} is asked for"):
            physgym.make_vec(kind, 3, num_workers=0, autoreset_mode=other)


def test_a_batch_of_gymnasium_gives_what_it_gives_by_itself():
    with physgym.make_vec(CartPoleVectorEnv, 5, num_workers=0) as envs:
        reference = CartPoleVectorEnv(num_envs=5)
        assert np.array_equal(envs.reset(seed=3)[0], reference.reset(seed=3)[0])
        envs.action_space.seed(0)
        for _ in range(60):
            actions = envs.action_space.sample()
            for got, want in zip(envs.step(actions)[:4], reference.step(actions)[:4], strict=True):
                assert np.array_equal(got, want)
        with pytest.raises(ConfigError, match="is seeded with one integer"):
            envs.reset(seed=[1, 2, 4, 8, 16])


def test_a_batch_is_made_once_and_closed_once():
    Counting.made = 0
    envs = physgym.make_vec(Counting, 4, num_workers=0)
    batch = envs._pool.workers[0].group.envs[0].batch
    assert (Counting.made, batch.num_envs) == (1, 4)
    assert envs.get_attr("num_envs") == (4, 4, 4, 4)
    envs.reset(seed=5)
    assert envs.np_random_seed == (5, 6, 7, 8)
    envs.set_attr("mark", 3)
    assert batch.mark == 3
    envs.close()
    assert batch.closes >= 1


def test_what_the_rows_cannot_do_is_an_error():
    with physgym.make_vec(Counting, 3, num_workers=0) as envs:
        envs.reset(seed=0)
        envs.step(np.zeros(3, np.int64))
        at = r"row 0 at step 1, last seed 0; row 1 at step 1, last seed 1; row 2 at step 1, last seed 2\): seven"
        with pytest.raises(
            WorkerError, match=rf"\(environments 0-2\) raised ZeroDivisionError in step of all rows \({at}"
        ) as all_:
            envs.step(np.array([0, 7, 0]))
        assert all_.value.env_indices == (0, 1, 2)
        envs.reset(seed=0)
        envs.send(np.array([1]), [0])
        with pytest.raises(ConfigError, match="computed together"):
            envs.recv()
    with pytest.raises(ConfigError, match="num_envs is the number of rows"):
        physgym.make_vec(Counting, env_kwargs={"num_envs": 3})
    with pytest.raises(ConfigError, match="no argument 'bda'"):
        physgym.make_vec(Counting, 2, bda=1, num_workers=0)


def test_what_does_not_fit_is_named():
    class Narrow(Counting):
        def step(self, actions):
            x, *others = super().step(actions)
            return x[:, :1], *others

    class Silent(Counting):
        def __init__(self, num_envs):
            super().__init__(num_envs)
            self.metadata = {}

    with physgym.make_vec(Narrow, 3, num_workers=0) as envs:
        envs.reset(seed=0)
        text = r"\(environments 0-2\) in step of all rows \(row 0 at .*: Narrow: .*\(3, 1\), declared are \(3, 2\)"
        with pytest.raises(SampleError, match=text):
            envs.step(np.zeros(3, np.int64))
    with pytest.raises(ConfigError, match="does not say how its rows are reset"):
        physgym.make_vec(Silent, 2, num_workers=0)


class Overflowing(HeatBatch):
    """The same, whose rows become NaN by an action that is."""

    def advance(self, actions):
        super().advance(actions.nan_to_num())
        self._temperature = self._temperature + 0 * actions


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_row_that_gives_what_is_not_finite_is_named_with_environment_step_and_seed(workers):
    with physgym.make_vec(Overflowing, 6, num_workers=workers, size=4) as envs:
        envs.reset(seed=10)
        actions = np.zeros((6, 4, 4), np.float32)
        envs.step(actions)
        actions[4, 1, 2] = np.nan
        row = 1 if workers else 4
        text = rf"environment 4: \w+, row {row}, step 1 \(seed 14\): info"
        with pytest.raises(SampleError, match=text) as found:
            envs.step(actions)
        assert found.value.env_indices == (4,)


def test_episodes_of_a_batch_are_named_where_it_raises(tmp_path):
    options = {"num_envs": 3, "num_workers": 0, "progress": False, "seed": 4}
    at = rf"row 0 at step \d of episode 0, seed {episode_seed(4, 0)}.*"
    with pytest.raises(
        WorkerError, match=rf"\(environments 0-2\) raised ZeroDivisionError in rollout .*\({at}\): seven"
    ):
        physgym.generate(Counting, tmp_path / "d", samples=30, actions=lambda observation, rng: 7, **options)


def test_rows_of_other_arguments_are_made_one_by_one():
    kwargs = [{"bad": [(1, 2)]}, {}]
    with pytest.warns(UserWarning, match="a batch of one row, which is right and slow"):
        envs = physgym.make_vec(Counting, env_kwargs=kwargs, num_workers=0)
    with envs:
        batches = [env.batch for env in envs._pool.workers[0].group.envs]
        assert [(one.num_envs, one.bad) for one in batches] == [(1, {1: 2}), (1, {})]


def test_resets_without_seeds_follow_from_the_last_ones():
    def run(rows):
        with physgym.make_vec("physgym/HeatBatch-v0", rows, num_workers=0, size=4, max_episode_steps=2) as envs:
            envs.reset(seed=3)
            return [envs.step(np.zeros((rows, 4, 4), np.float32))[0][0] for _ in range(7)]

    assert np.array_equal(run(1), run(3))
    assert len({one.tobytes() for one in run(1)}) == 7


@pytest.mark.slow
def test_the_rules_of_environments_hold_for_a_row():
    kept, skipped = [], []
    check_env(
        "physgym/HeatBatch-v0",
        lambda rule, fault: kept.append(rule),
        skip=lambda rule, why: skipped.append(rule),
    )
    assert skipped == [
        "test_a_network_can_stand_in_for_the_solver",
        "test_a_restored_state_continues",
        "test_inputs_of_a_person_end_with_their_episode",
        "test_renders",
    ]
    assert len(kept) == 15


def test_a_row_by_itself_is_an_environment():
    env = env_factory("tests.support.batched:Counting", {})()
    first, info = env.reset(seed=4)
    assert set(info) == {"left"}
    again, *_, info = env.step(3)
    assert np.array_equal(again, first + 3)
    assert np.array_equal(info["sample"]["x"], again)
    assert "sample" not in env.step(9)[-1]
    env.close()
    with pytest.raises(ConfigError, match="row 1 of 3 cannot step by itself"):
        row_env(VectorRows(Counting(3)), 1).step(0)
    assert Entangled(2).num_envs == 2


def test_steps_of_rows_are_rejected_one_by_one():
    with physgym.make_vec(Counting, 3, num_workers=0) as envs:
        reference = SyncVectorEnv([single] * 3)
        for one in (envs, reference):
            one.reset(seed=5)
        for actions in ([1, 9, 2], [9, 9, 9], [1, 1, 1]):
            infos, known = (one.step(np.array(actions))[-1] for one in (envs, reference))
            assert infos.keys() == known.keys()
            assert infos.get("rejected", np.empty(0)).tolist() == known.get("rejected", np.empty(0)).tolist()
        reference.close()


def test_parameters_that_are_reported_are_those_that_were_used():
    env = Ragged(4)
    _, infos = env.reset(seed=5)
    used = env.step(np.zeros((4, 3), np.float32))[-1]["sample"]["rate"]
    assert infos["parameters"]["rate"].dtype == np.float32
    assert np.array_equal(used, infos["parameters"]["rate"])
    env.reset(seed=5, options={"parameters": infos["parameters"]})
    assert np.array_equal(used, env.step(np.zeros((4, 3), np.float32))[-1]["sample"]["rate"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"seed": 2**63}, r"below 2\*\*63"),
        ({"seed": -1}, "at least 0"),
        ({"options": {"parameters": {"by": np.full(4, 2.5)}}}, "numbers of int64, not of float64"),
        ({"options": {"parameters": {"by": np.array(["two"] * 4)}}}, "numbers of int64"),
    ],
)
def test_a_reset_that_does_not_fit_says_so(options, text):
    with pytest.raises(ConfigError, match=text):
        Ragged(4).reset(**options)


@pytest.mark.parametrize("actions", [0.5, np.zeros(3), np.zeros((3, 3))])
def test_actions_are_of_all_rows(actions):
    env = Ragged(4)
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=r"have shape \(4, 3\)"):
        env.step(actions)
