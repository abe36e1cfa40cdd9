"""The first worker that dials in, which says what is to be stored: where it is lost, another one says it."""

from __future__ import annotations

import pytest

import physgym
from physgym import SocketVectorEnv
from physgym.errors import NotAllowed, WorkerError, WorkerLost
from physgym.generation.first_worker import MOST_LOST, with_first_worker
from physgym.protocol.messages import Assignment, Call, Rollout
from physgym.vector.make import env_factory
from tests.support.crowd import Member, members
from tests.support.machines import digests, listening, offers, settings_for
from tests.support.watching import until

SPRING = "physgym/Spring-v0"
again = pytest.mark.filterwarnings("ignore:.*Another worker is waited for:RuntimeWarning")


def leaving(*kinds, most=1):
    """Make workers, of which the first ones go when they are asked for something."""
    gone = []

    class Leaving(Member):
        def answer(self, message):
            if isinstance(message, kinds) and len(gone) < most:
                gone.append(message)
                return False
            return super().answer(message)

    return Leaving, gone


def generated(folder, **options):
    physgym.generate(SPRING, folder, samples=250, seed=3, actions="uniform", **options)
    return digests(folder)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return generated(tmp_path_factory.mktemp("here") / "data", num_workers=0)


@pytest.mark.parametrize("kind", [Assignment, Call])
def test_one_that_is_lost_before_the_first_episode_is_replaced(tmp_path, reference, kind):
    make, gone = leaving(kind)
    with (
        listening(tmp_path) as reception,
        members(settings_for(reception, tmp_path), make=make),
        pytest.warns(RuntimeWarning, match="Another worker is waited for"),
    ):
        assert generated(tmp_path / "data", launcher=reception) == reference
    assert len(gone) == 1


@pytest.mark.filterwarnings("ignore:.*Others run its episodes again:RuntimeWarning")
def test_one_that_is_lost_with_the_first_episode_is_replaced(tmp_path, reference):
    make, gone = leaving(Rollout)
    with listening(tmp_path) as reception, members(settings_for(reception, tmp_path), make=make):
        assert generated(tmp_path / "data", launcher=reception) == reference
    assert len(gone) == 1


@pytest.mark.parametrize(
    ("does", "said"),
    [
        (lambda member: member.channel.sock.send(b"x" * 100), "broke the protocol"),
        (lambda member: True, "not ready after 1 s"),
    ],
    ids=["garbage", "silence"],
)
@pytest.mark.slow
def test_one_that_says_nothing_or_garbage_is_replaced(tmp_path, reference, does, said):
    odd = []

    class Odd(Member):
        def answer(self, message):
            if isinstance(message, Assignment) and not odd:
                odd.append(self)
                return does(self)
            return super().answer(message)

    with (
        listening(tmp_path) as reception,
        members(settings_for(reception, tmp_path), 2, make=Odd),
        pytest.warns(RuntimeWarning, match=f"{said}.*Another worker is waited for"),
    ):
        assert generated(tmp_path / "data", launcher=reception, timeout=1.0) == reference


@again
def test_many_that_are_lost_in_a_row_are_an_error(tmp_path):
    make, _ = leaving(Assignment, most=100)
    with (
        listening(tmp_path) as reception,
        members(settings_for(reception, tmp_path), make=make),
        pytest.raises(WorkerLost, match="while it built its environments") as raised,
    ):
        generated(tmp_path / "data", launcher=reception)
    assert f"{MOST_LOST} workers in a row" in raised.value.__notes__[0]
    assert not (tmp_path / "data").exists()


def test_one_that_does_not_make_the_environment_is_not_the_only_one(tmp_path, reference):
    with listening(tmp_path) as reception:
        settings = settings_for(reception, tmp_path, envs=["physgym/Heat-v0"])
        with members(settings):
            until(lambda: offers(reception))
            with (
                pytest.warns(RuntimeWarning, match=r"does not make 'physgym/Spring-v0'; it allows physgym/Heat-v0"),
                pytest.raises(NotAllowed, match="does not make"),
            ):
                with_first_worker(reception, 0.2, lambda count: _refused(reception, count))


def _refused(reception, count):
    with SocketVectorEnv([env_factory(SPRING, {})] * count, num_workers=1, launcher=reception, timeout=20):
        raise AssertionError("it was made")


def test_what_a_constructor_raises_is_an_error_at_once(tmp_path):
    with (
        listening(tmp_path) as reception,
        members(settings_for(reception, tmp_path)),
        pytest.raises(WorkerError, match="time_step"),
    ):
        generated(tmp_path / "data", launcher=reception, env_kwargs={"time_step": -1.0})


def test_what_a_worker_fixes_is_not_set_later(tmp_path):
    with (
        listening(tmp_path) as reception,
        members(settings_for(reception, tmp_path, fixed={"time_step": 0.02})),
        SocketVectorEnv([env_factory(SPRING, {})], num_workers=1, launcher=reception, timeout=20) as envs,
    ):
        with pytest.raises(NotAllowed, match=r"fixes time_step \(--arg\), and its parent wants to set 'time_step'"):
            envs.set_attr("time_step", 0.5)
        assert envs.get_attr("time_step") == (0.02,)
