"""Channels over unix sockets."""

from __future__ import annotations

import socket

import pytest

from physgym.protocol.messages import Role
from physgym.testing.transports import ChannelContract, introduced
from physgym.transport.base import PeerGone
from physgym.transport.sockets import SocketChannel
from physgym.transport.unix import socket_pair


class TestUnix(ChannelContract):
    def pair(self):
        ours, theirs = socket_pair()
        return SocketChannel(ours, Role.PARENT), SocketChannel(theirs, Role.WORKER)


def test_the_end_of_a_peer_within_a_frame_is_no_message():
    ours, theirs = socket_pair()
    parent, worker = SocketChannel(ours, Role.PARENT), SocketChannel(theirs, Role.WORKER)
    introduced(parent, worker)
    ours.send(b"PG\x02")
    parent.close()
    with pytest.raises(PeerGone):
        worker.next()
    worker.close()


def test_a_socket_pair_is_connected():
    ours, theirs = socket_pair()
    with ours, theirs:
        ours.sendall(b"x")
        assert theirs.recv(1) == b"x"
        assert ours.family is socket.AF_UNIX
