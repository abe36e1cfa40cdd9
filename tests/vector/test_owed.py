"""What a fleet owes: recorded in the ledgers of its connections and nowhere else, whoever lags behind or dies."""

from __future__ import annotations

import ast
import gc
import time
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from physgym import SocketVectorEnv
from physgym.errors import NoPendingCallError, WrongType
from physgym.protocol.ledger import Pending
from physgym.protocol.messages import Call, CallResult, Failure, Rollout, RolloutResult, Step
from physgym.vector import fleet as fleets
from physgym.vector.call_runner import CallRunner
from physgym.vector.calls import OpenCall
from physgym.vector.episode_schedule import EpisodeSchedule
from physgym.vector.inbox import Arrival
from physgym.vector.recovery import Recovery
from physgym.vector.turnover import Turnover
from physgym.vector.workers import Fault, LocalWorker, RemoteWorker
from tests.support import toys
from tests.support.conversation import COUNT, assert_same
from tests.support.owed import MOVES, Model
from tests.support.scripted import fleet

VECTOR = Path(fleets.__file__).parent
FAILED = Failure(0, "builtins:ValueError", "no", "")
LIMITS: dict[str, Any] = {"max_steps": 9, "max_rejects": 3, "nonfinite": "error", "keep_rejected": False}


def part(samples: list[tuple[int, int]], ended: list[int], *, last: bool = False) -> RolloutResult:
    """Return a part of a rollout: the episode and step of each sample, and the episodes that end."""
    episodes, steps = np.array(samples, np.int64).reshape(-1, 2).T
    outcomes = [[episode, 1, 1, 0.0, {}] for episode in ended]
    return RolloutResult(episodes.copy(), steps.copy(), line_samples(len(samples)), outcomes, last)


def line_samples(number: int) -> dict[str, np.ndarray]:
    spec = toys.Line.sample_space
    return {name: np.zeros((number, *space.shape), space.dtype) for name, space in spec.items()}


def received(pool, number):
    """Let replies arrive at a fleet, of which nobody takes one."""
    deadline = time.monotonic() + 60
    while len(pool._inbox) < number:
        assert time.monotonic() < deadline
        for file, event in pool._watch.poll.poll(100):
            if file in pool._watch.workers:
                pool._take_in(pool._watch.workers[file], event)


def test_the_ledger_of_a_worker_is_that_of_its_connection():
    with fleet() as (pool, launcher):
        (worker,) = pool.workers
        assert worker.ledger is worker.channel.connection.ledger
        pool.post(worker, Call("call", "x"))
        assert worker.ledger.rests() == [Call("call", "x")]
        pool.restart(worker, [None, None])
        assert worker.ledger is worker.channel.connection.ledger
        assert worker.ledger.rests() == []
        launcher.workers[-1].die()
        pool.end(worker)
        assert worker.channel is None
        assert worker.ledger.rests() == []


def test_a_reply_comes_with_the_request_that_it_answers():
    with fleet() as (pool, launcher):
        (worker,) = pool.workers
        requests = [Rollout([[0, 0], [1, 1]], 9, 3), Call("call", "x"), Step(0, [1], stream=True), Call("call", "y")]
        for place, request in enumerate(requests):
            pool.post(worker, request, place)
        parts = [part([(0, 0)], [0]), part([(1, 0)], [1], last=True)]
        launcher.workers[0].say(*parts, CallResult([1, 2]), FAILED)
        received(pool, 4)
        assert worker.ledger.rests() == requests[3:]  # though nobody has taken anything
        assert pool.taken(worker) == 0
        assert pool.envs_in_flight() == {1}
        assert pool.count_in_flight() == 1
        launcher.workers[0].die()
        received(pool, 5)
        assert worker.ledger.rests() == []
        found = list(pool.replies())
    assert [None if arrival.request is None else arrival.request.context for arrival in found] == [0, 0, 1, 2, None]
    failed, gone = found[3].reply, found[4].reply
    assert isinstance(failed, Fault)
    assert (failed.dead, [pending.rest() for pending in failed.unanswered]) == (False, requests[2:3])
    assert isinstance(gone, Fault)
    assert (gone.dead, [pending.rest() for pending in gone.unanswered]) == (True, requests[3:])
    assert [pending.context for pending in gone.unanswered] == [3]


@given(MOVES, st.booleans())
@settings(max_examples=40, deadline=None)
def test_replies_and_a_death_account_for_all_that_was_asked(moves, lagging):
    model, replies, found = Model(lambda _: None, line_samples), 0, []
    with fleet(COUNT) as (pool, launcher):
        (worker,), (script,) = pool.workers, launcher.workers
        for name, *arguments in moves:
            if name == "ask":
                arguments[2] = False  # its actions are numbers
            if (message := model.move(name, *arguments)) is None:
                continue
            if name == "ask":
                pool.post(worker, message)
                continue
            script.say(message)
            replies += 1
            received(pool, replies if lagging else 1)
            assert_same(worker.ledger.rests(), model.rests())
            if not lagging:
                found.append(pool._inbox.popleft())
        assert_same(worker.ledger.rests(), model.rests())
        rests, failed = model.rests(), list(model.failed)
        script.die()
        found += pool.replies()
        assert worker.ledger.rests() == []
    faults = [arrival.reply for arrival in found if isinstance(arrival.reply, Fault)]
    assert len(found) == replies + bool(rests)  # the end of a worker that owes nothing is nobody's answer
    assert_same([pending.rest() for fault in faults if not fault.dead for pending in fault.unanswered], failed)
    assert_same([pending.rest() for fault in faults if fault.dead for pending in fault.unanswered], rests)


def test_what_arrives_before_a_broken_message_is_taken():
    with fleet() as (pool, launcher):
        (worker,) = pool.workers
        for name in "xyz":
            pool.post(worker, Call("call", name))
        launcher.workers[0].say(CallResult([1, 2]), then=b"garbage that is as long as a header")
        first, fault = pool.replies()
    assert first.reply == CallResult([1, 2])
    assert first.request is not None
    assert first.request.request == Call("call", "x")
    assert isinstance(fault.reply, Fault)
    assert "broke the protocol" in str(fault.reply.error)
    assert [pending.rest() for pending in fault.reply.unanswered] == [Call("call", "y"), Call("call", "z")]


def test_an_interrupted_request_of_this_process_is_owed_by_nobody():
    with SocketVectorEnv([toys.Line] * 2, num_workers=0) as envs:
        envs.reset()
        worker = envs._pool.workers[0]
        assert isinstance(worker, LocalWorker)

        def interrupted(*_: Any) -> Any:
            assert len(worker.ledger) == 1
            raise KeyboardInterrupt

        worker.group.serve, serve = interrupted, worker.group.serve
        with pytest.raises(KeyboardInterrupt):
            envs.call("env_index")
        assert not worker.ledger.pending
        worker.group.serve = serve
        envs.reset()
        envs.step_async(envs.action_space.sample())
        worker.ledger.open(Call("call", "x"), 0)  # as Ctrl-C leaves it just before it is served
        envs.step_wait()
        assert not worker.ledger.pending
        envs.reset()


# --- recovery while replies wait


def schedule(pool, episodes):
    recovery = Recovery(pool, "restart", 9, 2)
    turnover = Turnover(pool)
    runner = CallRunner(pool, recovery, Plain(), None, turnover.renewals)
    given = [(episode, episode) for episode in range(episodes)]
    return EpisodeSchedule(pool, turnover, given, LIMITS, runner.handle_rollout_reply)


class Plain(OpenCall):
    def __init__(self) -> None:
        pass


def answered(worker):
    """Have a scripted worker answer the requests for one episode each that it was sent."""
    request = worker.asked()
    assert isinstance(request, Rollout)
    ((episode, _),) = request.episodes
    worker.say(part([(episode, 0)], [episode], last=True))
    return episode


def test_replies_that_wait_when_a_worker_is_started_again_belong_to_their_own_chunks():
    with fleet(1) as (pool, launcher):
        run = schedule(pool, 2).run()
        # the worker fails in the first chunk and runs the second, before anybody looks
        pool_replies = pool.replies

        def late(*args: Any, **kwargs: Any) -> Any:
            if len(launcher.workers) == 1:
                launcher.workers[0].say(FAILED, part([(1, 0)], [1], last=True))
                received(pool, 2)
            return pool_replies(*args, **kwargs)

        pool.replies = late
        first = next(run)
        assert [first[0], first[1].ended[0][0], first[1].last] == [1, 1, True]
        assert answered(launcher.workers[1]) == 0
        ((chunk, reply),) = run
        assert [chunk, reply.ended[0][0], reply.last] == [0, 0, True]
        assert len(launcher.workers) == 2


def test_samples_of_an_earlier_worker_do_not_count_for_the_next_one():
    with fleet(1) as (pool, launcher):
        (worker,) = pool.workers
        for episode in range(2):
            pool.post(worker, Rollout([[episode, 0]], 9, 3))
        launcher.workers[0].say(FAILED, part([(1, 0), (1, 1)], [], last=False))
        received(pool, 2)
        assert (worker.ledger.samples, pool.taken(worker)) == (2, 0)
        pool.restart(worker, [None])
        assert (worker.ledger.samples, pool.taken(worker)) == (0, 0)


def test_a_worker_that_was_started_again_is_not_ended_for_a_death_before_that():
    with fleet(1) as (pool, launcher):
        (worker,) = pool.workers
        recovery = Recovery(pool, "restart", 9, 1)
        first, second = Rollout([[0, 0]], 9, 3), Rollout([[1, 1]], 9, 3)
        pool.post(worker, first)
        pool.post(worker, second)
        launcher.workers[0].say(FAILED)
        received(pool, 1)
        launcher.workers[0].die()
        received(pool, 2)
        faults = pool.replies()
        for _ in range(2):
            arrival = next(faults)
            assert recovery.deal_with(worker, arrival.reply, Plain()) == []
        assert recovery.restarts == 1
        assert worker.ledger.rests() == [first, second]


def test_a_worker_is_started_again_once_for_all_failures_over_one_connection():
    """Its environment raises in a step, and in the reset after it: rollouts are sent ahead."""
    with fleet(1) as (pool, launcher):
        (worker,) = pool.workers
        recovery = Recovery(pool, "restart", 9, 1)
        rollouts = [Rollout([[episode, episode]], 9, 3) for episode in range(3)]
        for rollout in rollouts:
            pool.post(worker, rollout)
        launcher.workers[0].say(FAILED, FAILED)
        received(pool, 2)
        faults = pool.replies()
        for _ in range(2):
            arrival = next(faults)
            assert recovery.deal_with(worker, arrival.reply, Plain(), arrival.ledger) == []
        assert recovery.restarts == 1
        assert sorted(rest.episodes for rest in worker.ledger.rests()) == [[[number, number]] for number in range(3)]
        launcher.workers[1].say(FAILED)  # that of the worker which was started again counts
        received(pool, 1)
        arrival = next(faults)
        assert recovery.deal_with(worker, arrival.reply, Plain(), arrival.ledger) == []
        assert recovery.restarts == 2
        assert len(worker.ledger.rests()) == 3


def test_a_death_that_nobody_has_taken_is_no_answer_to_wait_for():
    with fleet() as (pool, launcher):
        pool.post(pool.workers[0], Call("call", "x"))
        launcher.workers[0].die()
        received(pool, 1)
        pool.forget()
        assert list(pool.replies()) == []


def test_a_caller_that_takes_its_time_does_not_keep_the_fleet_from_looking(monkeypatch):
    monkeypatch.setattr(fleets, "POLL", 0.01)
    with fleet() as (pool, launcher):
        for name in "xy":
            pool.post(pool.workers[0], Call("call", name))
        launcher.workers[0].say(CallResult([1, 2]))
        replies = pool.replies(timeout=1.0)
        next(replies)
        time.sleep(0.1)
        looks = []
        pool.look_for_late = lambda: looks.append(1)
        with pytest.raises(TimeoutError):
            next(replies)
        assert len(looks) >= 3


# --- without lockstep


def test_environments_that_were_not_sent_anything_are_not_in_flight(monkeypatch):
    class Wordy(toys.Line):
        pass

    with SocketVectorEnv([Wordy] * 4, num_workers=2, context="fork", shared_memory=False) as envs:
        envs.reset()
        post = envs._pool.post

        def refuse_first(worker, *arguments):
            if worker.index == 0:
                monkeypatch.setattr("physgym.protocol.connection.MAX_BODY", 1)
            post(worker, *arguments)

        with monkeypatch.context():
            envs._pool.post = refuse_first
            with pytest.raises(WrongType, match="the actions of worker 0"):
                envs.send(envs.action_space.sample())
            monkeypatch.undo()
        envs._pool.post = post
        assert envs._runner.in_flight() == set()
        envs.send(envs.action_space.sample())
        assert envs._runner.in_flight() == {0, 1, 2, 3}
        assert sorted(envs.recv(4)[-1].tolist()) == [0, 1, 2, 3]
        assert envs._runner.in_flight() == set()


def test_a_result_that_ctrl_c_takes_away_is_not_taken_for_received(monkeypatch):
    with SocketVectorEnv([toys.Line] * 2, num_workers=1, context="fork") as envs:
        envs.reset()
        envs.send(envs.action_space.sample())
        replies = envs._pool.replies

        def losing(*arguments: Any, **options: Any) -> Any:
            next(replies(*arguments, **options))
            raise KeyboardInterrupt

        envs._pool.replies = losing
        with pytest.raises(KeyboardInterrupt):
            envs.recv(2)
        envs._pool.replies = replies
        with pytest.raises(NoPendingCallError, match="interrupted; reset"):
            envs.recv()
        assert envs.reset()[0].shape[0] == 2


# --- one book

REQUESTS = {"Message", "Attach", "Reset", "Step", "Rollout", "Call", "Pending"}
# what was handed out with a fault is no book: nobody adds to it or takes from it
HANDED_OUT = {"workers.Fault.unanswered"}


def annotated(module: Path) -> list[tuple[str, ast.expr]]:
    """The annotated attributes of the classes of a module, in the class or on self."""
    found = []
    for cls in [node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.ClassDef)]:
        for node in ast.walk(cls):
            if isinstance(node, ast.AnnAssign):
                target = node.target
                own = isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self"
                if own or node in cls.body:
                    name = target.attr if isinstance(target, ast.Attribute) else ast.unparse(target)
                    found.append((f"{module.stem}.{cls.name}.{name}", node.annotation))
    return found


def containers_of_requests(annotation: ast.expr) -> bool:
    subscripts = [node for node in ast.walk(annotation) if isinstance(node, ast.Subscript)]
    containers = [node for node in subscripts if ast.unparse(node.value) not in ("Callable", "Iterator", "Iterable")]
    return any(
        REQUESTS & {name.id for name in ast.walk(node.slice) if isinstance(name, ast.Name)} for node in containers
    )


def test_no_attribute_of_the_vector_env_is_a_list_of_requests():
    attributes = [entry for module in sorted(VECTOR.glob("*.py")) for entry in annotated(module)]
    assert len(attributes) > 50
    assert {name for name, annotation in attributes if containers_of_requests(annotation)} == HANDED_OUT


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("deque[Message]", True),
        ("dict[int, Rollout]", True),
        ("list[tuple[Worker, Step]]", True),
        ("deque[Pending] | None", True),
        ("dict[int, _Chunk]", False),
        ("Message | None", False),
        ("Callable[[Worker, Message | Fault], None]", False),
    ],
)
def test_a_list_of_requests_is_seen(text, is_one):
    assert containers_of_requests(ast.parse(text, mode="eval").body) is is_one


def holders(request: object) -> list[object]:
    """Everything that refers to a request, but for the variables of functions."""
    gc.collect()
    return [owner for owner in gc.get_referrers(request) if not isinstance(owner, FrameType)]


@pytest.mark.slow
def test_nobody_but_the_ledger_holds_a_request():
    with fleet(1) as (pool, launcher):
        plan = schedule(pool, 2)
        for _ in range(2):
            plan._feed()
        launcher.workers[0].say(part([(0, 0)], []))
        received(pool, 1)
        worker = pool.workers[0]
        assert isinstance(worker, RemoteWorker)
        pendings = list(worker.ledger.pending)
        assert len(pendings) == 2
        for pending in pendings:
            assert all(isinstance(owner, Pending) for owner in holders(pending.request))
            books = [owner for owner in holders(pending) if owner is not pendings and not isinstance(owner, Arrival)]
            assert len(books) == 1
            assert books[0] is worker.ledger.pending
