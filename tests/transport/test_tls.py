"""Channels over TLS, which take no flags and hold decrypted bytes that the descriptor does not show."""

from __future__ import annotations

import shutil

import pytest

from physgym.testing.transports import ChannelContract, ListenerContract
from tests.support.tls import TlsListener, certificate, tls_dial, tls_pair

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")


class TestTls(ChannelContract):
    def pair(self):
        return tls_pair()


class TestTlsListener(ListenerContract):
    def listen(self):
        return TlsListener()

    def dial(self, listener):
        return tls_dial(listener.address, certificate(), 20)
