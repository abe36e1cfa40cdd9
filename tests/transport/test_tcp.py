"""Channels over TCP on the loopback interface, and their listener."""

from __future__ import annotations

import socket
import time

import pytest

from physgym.errors import ConfigError, ProtocolError
from physgym.testing.transports import TOKEN, ChannelContract, ListenerContract, arrived, in_thread
from physgym.transport.auth import admit, challenge, greet
from physgym.transport.base import Channel
from physgym.transport.tcp import TcpListener, dial


class TestTcp(ChannelContract):
    def pair(self):
        listener = TcpListener()
        try:
            worker = dial(listener.address, 20)
            return accepted(listener), worker
        finally:
            listener.close()


class TestTcpListener(ListenerContract):
    def listen(self):
        return TcpListener()

    def dial(self, listener):
        return dial(listener.address, 20)


def test_garbage_ends_only_its_own_connection():
    listener = TcpListener()
    try:
        good, bad = dial(listener.address, 5), socket.create_connection(listener.address, 5)
        first, second = accepted(listener), accepted(listener)
        for channel in (first, second):
            challenge(channel)
        bad.sendall(b"GET / HTTP/1.1\r\n\r\n")
        greeted = in_thread(greet, good, TOKEN, 3, 1)
        assert admit(first, arrived(first)[0], TOKEN)
        greeted()
        with pytest.raises(ProtocolError, match="not a physgym frame"):
            arrived(second)
        for end in (good, first, second, bad):
            end.close()
    finally:
        listener.close()


def accepted(listener: TcpListener) -> Channel:
    deadline = time.monotonic() + 60
    while (channel := listener.accept()) is None:
        assert time.monotonic() < deadline
    return channel


def test_the_listener_is_bound_to_the_loopback_interface_and_does_not_block():
    listener = TcpListener()
    try:
        assert listener.address[0] == "127.0.0.1"
        assert listener.accept() is None
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{listener.address[1]}: .*Use port=0"):
            TcpListener(listener.address[1])
    finally:
        listener.close()


@pytest.mark.parametrize("port", [-1, 65536])
def test_ports_that_are_none_are_refused(port):
    with pytest.raises(ConfigError, match="port must be between 0"):
        TcpListener(port)


def test_an_unknown_host_is_one_error_without_advice_on_ports(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ConfigError, match=r"cannot listen on nowhere:0: Name or service not known$"):
        TcpListener(0, "nowhere")
