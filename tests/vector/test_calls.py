"""The table of the states of calls, and the runner that keeps to it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from physgym.errors import PendingCallError
from physgym.vector.call_runner import CallRunner
from physgym.vector.calls import ABANDONED, LOCKSTEP, MOVES, State
from physgym.viewing.views import SceneViews


def _call(state: State, posting: State = State.POSTING) -> SimpleNamespace:
    return SimpleNamespace(state=state, posting=posting, begin=lambda: None, forget=lambda: None, ready=0)


@pytest.fixture
def runner() -> CallRunner:
    fleet = SimpleNamespace(
        closed=False, workers=[], end_unfinished=list, forget=lambda: None, replies=lambda: iter([]),
        envs_in_flight=set, count_in_flight=lambda: 0, settings=SimpleNamespace(views=SceneViews(1)),
    )  # fmt: skip
    recovery = SimpleNamespace(on_error="raise")
    renewals = SimpleNamespace(ended=[])
    return CallRunner(fleet, recovery, _call(State.INTERRUPTED), _call(State.SEND, State.SENDING), renewals)


def test_every_state_has_its_moves():
    assert set(MOVES) == set(State)
    for state, following in MOVES.items():
        assert (State.INTERRUPTED in following) == (state is not State.IDLE)  # Ctrl-C may come at any time
        assert (State.POSTING in following) == (state is State.IDLE)  # one call at a time
    assert MOVES[State.INTERRUPTED] == {State.IDLE, State.INTERRUPTED}
    assert {state for state, following in MOVES.items() if State.SENDING in following} == {State.IDLE, State.SEND}
    assert {state for state, following in MOVES.items() if following & LOCKSTEP} == {State.POSTING}


@pytest.mark.parametrize("state", sorted(LOCKSTEP, key=str))
def test_a_call_that_is_under_way_is_in_the_way_of_others(runner, state):
    runner.begin("one", _call(state))
    runner.opened(_call(state))
    with pytest.raises(PendingCallError, match=f"pending call to `{state.value}`"):
        runner.begin("other", _call(state))
    assert runner.state is state


@pytest.mark.parametrize("state", sorted(ABANDONED, key=str))
def test_a_call_makes_way_where_it_was_left(runner, state):
    runner.state = state
    runner.begin("other", _call(State.STEP))
    assert (runner.state, runner.number) == (State.POSTING, 1)


@pytest.mark.parametrize(
    "moves",
    [
        lambda runner: runner.opened(_call(State.STEP)),  # without a beginning
        lambda runner: (runner.send([]), runner.opened(_call(State.STEP))),
        lambda runner: (runner.begin("step", _call(State.STEP)), runner.interrupt(), runner.opened(_call(State.STEP))),
    ],
)
def test_illegal_moves_are_refused(runner, moves):
    with pytest.raises(AssertionError, match="a call does not go from"):
        moves(runner)
