"""One end of a connection between a vector env and a worker, without any input or output.

`Connection.send` turns a message into buffers; `get_buffer` and `buffer_updated` turn received bytes, however chunked,
into messages.
"""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np

from physgym.errors import ProtocolError
from physgym.protocol.agreement import Agreement, agree
from physgym.protocol.buffers import Buffer
from physgym.protocol.codec import (
    HEADER,
    MAX_BODY,
    MAX_BODY_BEFORE_READY,
    MAX_BODY_BEFORE_WELCOME,
    decode,
    encode,
    nbytes,
    pack_header,
    unpack_header,
)
from physgym.protocol.contents import check_message
from physgym.protocol.messages import (
    REPLIES,
    Close,
    Failure,
    Message,
    Ready,
    Results,
    Role,
    RolloutResult,
    Step,
)
from physgym.protocol.sample_slots import SlotReader
from physgym.protocol.short_frames import FRAME, MESSAGES, STEP_ALL, STEP_BYTES, STEPPED_ALL, STEPPED_BYTES
from physgym.protocol.states import Conversation

INPUT_SIZE = 1 << 16  # received at once; longer bodies are received straight into their own memory


class Connection:
    """The protocol at one end.

    Args:
        role: Which end this is.

    Attributes:
        agreement: Layouts, known once `Ready` went by; None before.
        conversation: What may be said next.
        ledger: Requests without their last reply.
        slots: Where samples lie that are not sent; None where there is no such memory.
    """

    def __init__(self, role: Role) -> None:
        self.role = role
        self.agreement: Agreement | None = None
        self.slots: SlotReader | None = None
        self.conversation = Conversation()
        self.ledger = self.conversation.ledger
        self._other = Role.WORKER if role is Role.PARENT else Role.PARENT
        # pages that no byte has reached take no memory: there may be thousands of connections
        self._input = memoryview(np.empty(INPUT_SIZE, np.uint8))  # type: ignore[arg-type]
        self._start = self._end = 0  # the part of the input that is filled and not yet used
        self._body: memoryview | None = None  # a body that does not fit into the input
        self._filled = 0
        self._head: tuple[type[Message], int, int] | None = None  # of the frame under way: kind, sequence, length

    @property
    def state(self) -> str:
        """Return the state, one of those in `physgym.protocol.states.MOVES`."""
        return self.conversation.state

    @property
    def closing(self) -> bool:
        """Return whether the worker has nothing to answer but `Close`."""
        pending = self.ledger.pending
        return self.state == "closed" or (bool(pending) and pending[0].kind is Close)

    # sending

    def send(self, message: Message) -> list[Buffer]:
        """Return buffers to write, one after another, to send a message.

        Raises:
            ProtocolError: The message is not legal in this state, or holds what cannot be sent.
        """
        talk = self.conversation
        if message is STEPPED_ALL:
            if talk.allows(Results, self.role) and (sequence := talk.end_step()) is not None:
                return [FRAME.pack(STEPPED_BYTES[0], sequence, STEPPED_BYTES[1])]
        elif (message is STEP_ALL[0] or message is STEP_ALL[1]) and talk.allows(Step, self.role):
            begin, end = STEP_BYTES[message.slot]
            return [FRAME.pack(begin, talk.begin_step(message), end)]
        kind = type(message)
        talk.check(kind, self.role)
        try:
            body = encode(message, self.agreement)
            self._check_content(message)
        except (struct.error, TypeError, ValueError, OverflowError, KeyError, AttributeError) as error:
            raise ProtocolError(f"a {kind.__name__} holds what cannot be sent: {error!r}") from error
        length = sum(map(nbytes, body))
        if length > MAX_BODY:
            raise ProtocolError(f"a {kind.__name__} of {length} bytes exceeds the limit of {MAX_BODY}")
        # only now: what cannot be sent changes no state
        sequence = talk.expected(kind)
        self._advance(message, sequence)
        return [pack_header(kind, sequence, length), *body]

    # receiving

    def get_buffer(self) -> memoryview:
        """Return where the next received bytes belong; never empty."""
        if self._body is not None:
            return self._body[self._filled :]
        if self._start == self._end:
            self._start = self._end = 0
            return self._input
        if self._end == INPUT_SIZE or self._start > INPUT_SIZE // 2:
            rest = self._input[self._start : self._end]  # which may overlap with where it goes
            self._input[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        return self._input[self._end :]

    def buffer_updated(self, count: int) -> list[Message]:
        """Take note of bytes put into `get_buffer`; return the messages that they complete.

        Raises:
            ProtocolError: The bytes are not a legal frame. The connection must be closed then; its `messages` are those
                that came before.
        """
        if self._body is not None:
            self._filled += count
            if self._filled < len(self._body):
                return []
            body, self._body = self._body, None
            return [self._receive(body)]
        self._end += count
        if self._end == FRAME.size and not self._start and self._head is None and (short := self._receive_short()):
            return [short]
        messages: list[Message] = []
        try:
            self._take_frames(messages)
        except ProtocolError as error:
            error.messages = messages
            raise
        return messages

    def _take_frames(self, messages: list[Message]) -> None:
        """Add the messages that are complete in the input."""
        while True:
            if self._head is None:
                if self._end - self._start < HEADER.size:
                    return
                self._open_frame()
            assert self._head is not None
            length = self._head[2]
            there = self._end - self._start
            if there < length:
                if length > INPUT_SIZE // 2:
                    self._body = _reserve(length)
                    self._body[:there] = self._input[self._start : self._end]
                    self._filled, self._start, self._end = there, 0, 0
                return
            # a copy, since arrays of the message are views of it
            copy = bytearray(self._input[self._start : self._start + length])
            self._start += length
            messages.append(self._receive(memoryview(copy)))

    def _receive_short(self) -> Message | None:
        """Return one of the short messages if the input is exactly that, and legal; the rest takes the long way."""
        begin, sequence, end = FRAME.unpack_from(self._input)
        message, talk = MESSAGES.get((begin, end)), self.conversation
        if message is None or not talk.allows(type(message), self._other):
            return None
        noted = talk.end_step(sequence) if message is STEPPED_ALL else talk.begin_step(message, sequence)
        if noted is None:
            return None
        self._start = self._end = 0
        return message

    def _open_frame(self) -> None:
        kind, sequence, length = unpack_header(self._input, self._start)
        self._start += HEADER.size
        limit = MAX_BODY
        if self.agreement is None:
            limit = MAX_BODY_BEFORE_READY if self.state in _PROVED else MAX_BODY_BEFORE_WELCOME
        if length > limit:
            raise ProtocolError(f"a body of {length} bytes exceeds the limit of {limit}")
        self.conversation.check(kind, self._other, sequence)  # before memory is spent on the body
        self._head = kind, sequence, length

    def _receive(self, body: memoryview) -> Message:
        assert self._head is not None
        (kind, sequence, _), self._head = self._head, None
        message = decode(kind, body, self.agreement)
        if isinstance(message, RolloutResult) and message.slot is not None:
            message = self._with_samples(message, message.slot)
        self._check_content(message)
        ledger = self.ledger
        if (kind in _REPLY_KINDS or kind is Failure) and ledger.pending:
            ledger.answered.append(ledger.pending[0])
        self._advance(message, sequence)
        return message

    def _with_samples(self, message: RolloutResult, slot: int) -> RolloutResult:
        """Return a message with its samples, which are in a slot."""
        if self.slots is None:
            raise ProtocolError(f"a RolloutResult names slot {slot} of a memory that is not shared")
        reports = message.reports
        count = len(message.steps) - (0 if reports is None else len(reports.rejected))
        return replace(message, samples=self.slots.hold(slot, count))

    # what both do

    def _check_content(self, message: Message) -> None:
        """Check a message against the number of environments and against its request.

        Raises:
            ProtocolError: It names what there is not.
        """
        if self.agreement is None:
            return
        count = self.agreement.count
        check_message(message, count)
        if type(message) in _REPLY_KINDS:
            self.ledger.pending[0].unanswered_after(message, count)

    def _advance(self, message: Message, sequence: int) -> None:
        """Note a legal message."""
        if isinstance(message, Ready):
            self.agreement = agree(message)
        self.conversation.advance(message, sequence)


_REPLY_KINDS = frozenset(REPLIES.values())
_PROVED = (
    "building",
    "offering",
    "assigned",
    "requesting",
    "answering",
)  # states in which the other end is known, and not ready


def _reserve(length: int) -> memoryview:
    """Return memory for a body, which takes no page before bytes arrive for it.

    Raises:
        ProtocolError: There is none.
    """
    try:
        return memoryview(np.empty(length, np.uint8))  # type: ignore[arg-type]
    except MemoryError as error:
        raise ProtocolError(f"there is no memory for a body of {length} bytes") from error
