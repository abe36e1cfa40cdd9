"""Channels of two descriptors, which epoll makes one."""

from __future__ import annotations

import os

import numpy as np

from physgym import SocketVectorEnv
from physgym.protocol.messages import Role
from physgym.testing.transports import ChannelContract
from tests.support.pipes import PipeChannel, UnixShownAsInput
from tests.support.toys import Line
from tests.support.workers import forked_workers  # noqa: F401 - a fixture of all tests here


class TestPipes(ChannelContract):
    def pair(self):
        down, up = os.pipe(), os.pipe()
        return PipeChannel(up[0], down[1], Role.PARENT), PipeChannel(down[0], up[1], Role.WORKER)


class Echo(Line):
    def turned(self, values):
        return values[::-1].copy()


def test_what_a_connection_does_not_take_at_once_is_sent_where_events_show_as_input():
    values = np.arange(1 << 19, dtype=np.float64)  # of 4 MB, more than sockets hold
    with SocketVectorEnv([Echo, Echo], num_workers=1, transport=UnixShownAsInput(), timeout=20.0) as envs:
        for result in envs.call("turned", values):
            np.testing.assert_array_equal(result, values[::-1])
