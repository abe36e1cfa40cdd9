"""The legal moves: which message may be sent when."""

from __future__ import annotations

import pytest

from physgym.errors import ProtocolError
from physgym.protocol.connection import Connection
from physgym.protocol.messages import (
    MESSAGE_TYPES,
    Role,
)
from tests.support.conversation import (
    EXAMPLES,
    LEGAL,
    SESSION,
    brought_to,
    feed,
    frame,
    joined,
    other_than,
    state_of,
    tell,
)


@pytest.mark.parametrize("name", LEGAL)
def test_what_is_legal_is_sent_and_received(name):
    for role, legal in zip(Role, LEGAL[name][2:], strict=True):
        for kind in legal:
            assert type(tell(brought_to(name), role, EXAMPLES[kind])) is kind


@pytest.mark.parametrize("name", LEGAL)
def test_what_is_illegal_is_not_sent_and_changes_nothing(name):
    ends = brought_to(name)
    for role, legal in zip(Role, LEGAL[name][2:], strict=True):
        before = state_of(ends[role])
        for kind in set(MESSAGE_TYPES) - legal:
            with pytest.raises(ProtocolError, match=f"the {role.value} may not send {kind.__name__} in state"):
                ends[role].send(EXAMPLES[kind])
            assert state_of(ends[role]) == before
    for role, legal in zip(Role, LEGAL[name][2:], strict=True):
        for kind in sorted(legal, key=str)[:1]:
            assert type(tell(ends, role, EXAMPLES[kind])) is kind


@pytest.mark.parametrize("name", LEGAL)
def test_what_is_illegal_is_refused_by_its_header_alone(name):
    for role, legal in zip(Role, LEGAL[name][2:], strict=True):
        for kind in set(MESSAGE_TYPES) - legal:
            ends = brought_to(name)
            receiver = ends[other_than(role)]
            with pytest.raises(ProtocolError, match=f"the {role.value} may not send {kind.__name__}"):
                feed(receiver, frame(kind, length=100))


@pytest.mark.parametrize("role", Role)
def test_an_end_does_not_take_its_own_messages(role):
    for number, (sender, message) in enumerate(SESSION):
        ends = {end: Connection(end) for end in Role}
        for earlier in SESSION[:number]:
            tell(ends, *earlier)
        if sender is role:
            data = joined(ends[role].send(message))
            with pytest.raises(ProtocolError, match="may not send"):
                feed(ends[role], data)
