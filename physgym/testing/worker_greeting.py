"""Rules for the beginning of a worker: it connects, proves itself, offers environments, and makes those that it can."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from physgym.protocol.codec import HEADER, MAGIC, MAX_BODY_BEFORE_WELCOME, VERSION
from physgym.protocol.messages import CODES, Assignment, Challenge, Failure, Refusal, Welcome, WorkerOffer
from physgym.protocol.msgpack_values import encode_value
from physgym.testing.comparing import require
from physgym.testing.dialled_programs import DialledProgram, ParentEnd, assignment
from physgym.testing.worker_rules import WorkerRules, with_words

UNKNOWN = "physgym/there-is-no-such-simulation"
NO_ARGUMENT = "there_is_no_such_argument"


def frame(code: int, body: bytes, sequence: int = 0, *, magic: bytes = MAGIC, version: int = VERSION) -> bytes:
    """Return the bytes of a frame, right or wrong."""
    return HEADER.pack(magic, version, code, sequence, len(body)) + body


class GreetingRules(WorkerRules):
    """Rules for what comes before `Ready`."""

    def test_it_dials_and_proves_that_it_knows_the_token(self) -> None:
        """Check the greeting: index -1, a nonce of 32 bytes, and the proof."""
        with self._stranger() as (_, link):
            link.greeted()

    def test_it_dials_again_where_it_is_not_let_in(self) -> None:
        """Check that a connection that ends before Welcome is not the last one, and the next one has another nonce."""
        with self._stranger() as (program, link):
            first = link.greeted()
            link.close()
            second = program.accept().greeted()
            require(first.nonce != second.nonce, "expected another nonce on another connection; the same one came")

    def test_it_leaves_a_parent_that_does_not_know_the_token(self) -> None:
        """Check that a wrong proof in Welcome ends the connection."""
        with self._stranger() as (_, link):
            link.greeted()
            link.send(Welcome(bytes(32)))
            link.closed("after a Welcome with a wrong proof")

    def test_it_leaves_a_parent_of_another_version(self) -> None:
        """Check that a frame of another version ends the connection."""
        with self._stranger() as (_, link):
            link.write(frame(CODES[Challenge], encode_value({"nonce": bytes(32)}), version=VERSION + 1))
            link.closed(f"after a Challenge of version {VERSION + 1}")

    def test_it_reads_little_before_it_knows_the_parent(self) -> None:
        """Check that a body of more than 1024 bytes before Welcome ends the connection, without a look at it."""
        with self._stranger() as (_, link):
            link.write(HEADER.pack(MAGIC, VERSION, CODES[Challenge], 0, MAX_BODY_BEFORE_WELCOME + 1))
            link.closed("after a header that announces 1025 bytes before Welcome")

    def test_it_leaves_a_parent_that_begins_with_something_else(self) -> None:
        """Check that a message that is not legal yet ends the connection."""
        with self._stranger() as (_, link):
            link.write(frame(CODES[Welcome], encode_value({"proof": bytes(32)})))
            link.closed("after a Welcome in place of a Challenge")

    def test_it_offers_environments(self) -> None:
        """Check what it offers: at least one environment, a name, and versions."""
        with self.started() as (_, link):
            offer = link.welcomed()
            require(offer.count >= 1, f"expected WorkerOffer.count of at least 1; {offer.count} came")
            require_versions(offer)

    def test_it_ends_when_it_is_refused(self) -> None:
        """Check that it ends after a Refusal."""
        with self.started() as (program, link):
            link.welcomed()
            link.send(Refusal(""))
            require(program.ended() is not None, "expected that it ends after a Refusal; it still runs")

    def test_it_refuses_an_environment_that_it_does_not_make(self) -> None:
        """Check that another id is a Failure."""
        self._refuses(assignment(UNKNOWN, {}, 1), f"{UNKNOWN}, which nobody knows,")

    def test_it_refuses_an_argument_that_it_does_not_know(self) -> None:
        """Check that an unknown argument is a Failure, and not left out without a word."""
        self.find_id()
        arguments = {**self.arguments, NO_ARGUMENT: 1}
        self._refuses(assignment(self.env, arguments, 1), f"the argument {NO_ARGUMENT}, which nobody knows,")

    def test_it_refuses_to_make_what_it_does_not_know(self) -> None:
        """Check that another kind of description is a Failure."""
        wanted = assignment(self.env, dict(self.arguments), 1)
        other = Assignment(wanted.start, [{"make": "there is no such thing", "of": wanted.environments[0]}])
        self._refuses(other, "another kind of description")

    def test_it_describes_environments(self) -> None:
        """Check that the description of spaces, fields and the rest has the form of the page."""
        with self.asked() as link:
            ready = link.ready
            try:
                json.dumps(ready.description)
            except TypeError as error:
                raise AssertionError(f"expected JSON data in Ready.description; {error}") from error
            for name, kinds in (("max_episode_steps", (int, type(None))), ("render_mode", (str, type(None)))):
                value = ready.description[name]
                require(isinstance(value, kinds), f"expected {name} to be one of {kinds}; {value!r} came")

    @contextlib.contextmanager
    def _stranger(self) -> Iterator[tuple[DialledProgram, ParentEnd]]:
        """Give a connection that was not greeted; a program that connects again serves several rules."""
        kept = type(self)._kept
        program = kept.get("stranger")
        link = None if program is None else program.redialled()
        if program is None or link is None:
            if program is not None:
                program.close()
            program = kept["stranger"] = DialledProgram(self.command, 0, self.timeout)
            with with_words(program):
                link = program.accept()
        with with_words(program):
            yield program, link
        program.hang_up()

    def _refuses(self, wanted: Assignment, what: str) -> None:
        with self.started() as (program, link):
            link.welcomed()
            link.send(wanted)
            failure = link.hear(Failure, f"since it is to make {what}")
            require(bool(failure.message), "expected that Failure.message says why; it is empty")
            require(program.is_done(), "expected that it ends, or connects again, after the Failure; it does neither")


def require_versions(offer: WorkerOffer) -> None:
    """Raise AssertionError where the versions of an offer are not of their form."""
    versions: dict[str, Any] = offer.versions
    fits = set(versions) == {"packages", "codes"} and all(isinstance(one, dict) for one in versions.values())
    require(fits, f"expected WorkerOffer.versions with maps packages and codes; {versions!r:.300} came")
    texts = all(isinstance(text, str) for pair in versions["packages"].items() for text in pair)
    require(texts, f"expected texts in versions.packages; {versions['packages']!r:.300} came")
