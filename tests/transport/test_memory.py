"""Channels in memory."""

from __future__ import annotations

from physgym.testing.transports import ChannelContract
from physgym.transport.memory import memory_pair


class TestMemory(ChannelContract):
    def pair(self):
        return memory_pair()
