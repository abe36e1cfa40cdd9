"""Rules for what a worker takes in pieces, in advance or not at all, and for its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from physgym.protocol.codec import ROWS
from physgym.protocol.messages import (
    CODES,
    Call,
    Close,
    Closed,
    GiveInputs,
    Ready,
    Reset,
    Rollout,
    RolloutResult,
    Step,
    WatchScenes,
)
from physgym.protocol.msgpack_values import encode_value
from physgym.testing.comparing import require
from physgym.testing.dialled_programs import ParentEnd
from physgym.testing.worker_greeting import frame
from physgym.testing.worker_rules import SEED, WorkerRules, rows_of, step_request
from physgym.testing.worker_stepping import same_runs

LARGE = 1 << 23  # bytes of a frame
SLOW = 200  # bytes that come one by one, before the rest comes in pieces
MANY = 200_000  # episodes that nobody waits for
END = 15.0  # seconds until a worker without a parent has ended, or dials again


class FaultRules(WorkerRules):
    """Rules for frames, right and wrong, and for the end."""

    def test_requests_may_come_ahead(self) -> None:
        """Check that requests that were sent before the answers to earlier ones are answered in order."""
        with self.asked() as link:
            self.skip_in_real_time(link)
            expected = self.run(link, SEED, 3)
            count = link.agreed.count
            requests: list[Any] = [Reset(0, [SEED + i for i in range(count)], [True] * count)]
            requests += [step_request(link, actions) for actions in self.actions(link, 3)]
            requests.append(Call("scene"))
            link.write(b"".join(link.frame(request) for request in requests))
            found = [rows_of(link, link.answer(type(one).__name__)) for one in requests[:-1]]
            link.answer("Call")
            same_runs(expected, found, "requests sent ahead")  # type: ignore[arg-type]

    def test_frames_may_come_in_pieces(self) -> None:
        """Check that bytes that come one by one are read like others."""
        with self.asked() as link:
            self.skip_in_real_time(link)
            expected = self.run(link, SEED, 1)
            count = link.agreed.count
            data = link.frame(Reset(0, [SEED + i for i in range(count)], [True] * count))
            link.write(data[:SLOW], at_once=1)
            link.write(data[SLOW:])
            found = [rows_of(link, link.answer("Reset"))]
            data = link.frame(step_request(link, self.actions(link, 1)[0]))
            link.write(data[:SLOW], at_once=1)
            link.write(data[SLOW:], at_once=1 + len(data) // 3)
            found.append(rows_of(link, link.answer("Step")))
            same_runs(expected, found, "frames in pieces")  # type: ignore[arg-type]

    def test_frames_may_be_large(self) -> None:
        """Check that a request of some megabytes is read."""
        with self.asked() as link:
            link.ask(Call("call", "has_wrapper_attr", ["x"], {"y": bytes(LARGE)}))
            self.reset(link, [SEED] * link.agreed.count)

    def test_what_needs_no_answer_does_no_harm(self) -> None:
        """Check that wishes for pictures and inputs of a person may come at any time."""
        with self.asked() as link:
            link.send(WatchScenes([0], 0.0))
            link.send(GiveInputs(0, [["there is no such input", 1.0]]))
            self.run(link, SEED, 2)
            link.send(WatchScenes([], 0.0))
            self.reset(link, [SEED] * link.agreed.count)

    def test_it_closes_at_another_magic(self) -> None:
        """Check that bytes that are no frame end the connection."""
        self._closes("after bytes that are no frame", lambda link: b"GET / HTTP/1.1\r\n\r\n")

    def test_it_closes_at_another_version(self) -> None:
        """Check that the version counts in every frame."""
        self._closes("after a frame of version 99", lambda link: _call(link, version=99))

    def test_it_closes_at_an_unknown_message(self) -> None:
        """Check that a type that no message has ends the connection."""
        self._closes("after a message of type 200", lambda link: frame(200, b"", link.sequence + 1))

    def test_it_closes_at_a_message_of_its_own_end(self) -> None:
        """Check that the parent may not send what workers send."""
        body = encode_value({"count": 1, "description": {}})
        self._closes("after Ready from the parent", lambda link: frame(CODES[Ready], body, 0))

    def test_it_closes_at_another_sequence_number(self) -> None:
        """Check that requests are counted."""
        self._closes("after a request of number n + 2 in place of n + 1", lambda link: _call(link, 2))

    def test_it_closes_at_a_body_that_is_no_value(self) -> None:
        """Check that a body that is no msgpack ends the connection."""
        self._closes("after a body of bytes ff", lambda link: frame(CODES[Call], b"\xff" * 20, link.sequence + 1))

    def test_it_closes_at_a_body_with_other_keys(self) -> None:
        """Check that the keys of a body are those of the page."""
        body = encode_value({"kind": "scene"})
        self._closes("after a Call without most keys", lambda link: frame(CODES[Call], body, link.sequence + 1))

    def test_it_closes_at_rows_that_there_are_not(self) -> None:
        """Check that a step of an environment that does not exist ends the connection."""

        def made(link: ParentEnd) -> bytes:
            body = ROWS.pack(0, 4, 0, 1) + (999).to_bytes(4, "little") + bytes(link.agreed.actions.row)
            return frame(CODES[Step], body, link.sequence + 1)

        self._closes("after a Step of environment 999", made)

    def test_close_ends_it(self) -> None:
        """Check that Close is answered, and that the program ends in time, with all that it has started."""
        with self.ready() as (program, link):
            self.reset(link, [SEED] * link.agreed.count)
            link.send(Close())
            link.hear(Closed, "after Close")
            link.close()
            require(program.ended() is not None, "expected that it ends after Closed; it still runs")
            left = program.child.pids() - {program.child.pid}
            require(not left, f"expected that nothing is left of what it has started; there are the processes {left}")

    def test_it_ends_with_its_connection(self) -> None:
        """Check that it ends, or connects again, when its parent is gone."""
        with self.ready() as (program, link):
            self.reset(link, [SEED] * link.agreed.count)
            link.close()
            require(program.is_done(END), f"expected that it ends, or connects again, in {END:g} s; it does neither")

    def test_it_ends_with_its_connection_in_the_middle_of_a_rollout(self) -> None:
        """Check the same while it computes."""
        with self.ready() as (program, link):
            if link.agreed.sample_spec is None:
                self.skip("the environment declares no samples")
            link.send(Rollout([[i, i] for i in range(MANY)], 1_000_000, 10, "allow"))
            link.hear(RolloutResult, "of a long rollout")
            link.close()
            require(program.is_done(END), f"expected that it ends, or connects again, in {END:g} s; it does neither")

    def _closes(self, because: str, made: Callable[[ParentEnd], bytes]) -> None:
        with self.ready() as (_, link):
            link.answers(Call("scene"))
            link.write(made(link))
            link.closed(because)


def _call(link: ParentEnd, ahead: int = 1, **changed: Any) -> bytes:
    """Return a legal call, but for what is changed."""
    body = encode_value({"kind": "scene", "name": "", "args": [], "kwargs": {}, "rows": None})
    return frame(CODES[Call], body, link.sequence + ahead, **changed)
