"""The certificate of a parent: made once, renewed before its end, given as files."""

from __future__ import annotations

import shutil
import socket
import ssl

import pytest
from cryptography.hazmat.primitives import serialization

from physgym.errors import ConfigError, ProtocolError
from physgym.protocol.messages import Role
from physgym.testing.transports import arrived, in_thread
from physgym.transport import certificates
from physgym.transport.auth import challenge, greet
from physgym.transport.certificates import given_certificate, own_certificate
from physgym.transport.tls import TlsChannel, pinning_context
from tests.support.tls import of_days


def test_it_is_made_once_with_a_key_for_its_owner_alone(tmp_path):
    first = own_certificate(tmp_path / "state")
    assert first.key.stat().st_mode & 0o777 == 0o600
    assert own_certificate(tmp_path / "state") == first
    first.context()


def test_it_is_renewed_before_its_end(tmp_path, monkeypatch):
    first = own_certificate(tmp_path)
    monkeypatch.setattr(certificates, "RENEWED", 365 * 6)
    assert own_certificate(tmp_path).fingerprint != first.fingerprint


def test_given_files_are_checked(tmp_path):
    made = own_certificate(tmp_path)
    assert given_certificate(made.chain, made.key).fingerprint == made.fingerprint
    with pytest.raises(ConfigError, match="holds no certificate"):
        given_certificate(made.key, made.key)
    with pytest.raises(ConfigError, match="holds no certificate"):
        given_certificate(tmp_path / "none", made.key)
    with pytest.raises(ConfigError, match="cannot be used for TLS"):
        given_certificate(made.chain, made.chain).context()


def test_a_key_with_a_password_is_an_error_and_asks_nobody(tmp_path):
    made = own_certificate(tmp_path)
    key = serialization.load_pem_private_key(made.key.read_bytes(), None)
    lock = serialization.BestAvailableEncryption(b"secret")
    locked = tmp_path / "locked.key"
    locked.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock))
    with pytest.raises(ConfigError, match="encrypted with a password; give one without"):
        given_certificate(made.chain, locked).context()


def test_a_key_of_our_own_that_does_not_fit_is_an_error_that_says_what_to_do(tmp_path):
    own_certificate(tmp_path / "other").key.rename(own_certificate(tmp_path).key)
    with pytest.raises(ConfigError, match="Delete both, and they are made again"):
        own_certificate(tmp_path).context()


def refused(parent_context, worker_context, fingerprint="", name=None):
    """Try a connection that is refused: raise what the parent does, when both ends are through with it."""
    ours, theirs = socket.socketpair()
    parent = TlsChannel(ours, Role.PARENT, parent_context)
    worker = TlsChannel(theirs, Role.WORKER, worker_context, name, fingerprint)
    worker.set_timeout(10)
    challenge(parent)
    greeted = in_thread(greet, worker, bytes(32), 0, 1)
    try:
        arrived(parent)
    finally:
        parent.close()
        with pytest.raises(ProtocolError):
            greeted()  # its thread has the connection until then; two threads in one of TLS crash the process
        worker.close()


def test_one_that_a_worker_does_not_trust_is_refused(tmp_path):
    with pytest.raises(ProtocolError, match="handshake of TLS failed"):
        refused(own_certificate(tmp_path).context(), ssl.create_default_context(), name="physgym")


def test_a_worker_whose_certificate_is_refused_learns_what_it_lacks(tmp_path):
    made, other = own_certificate(tmp_path / "a"), own_certificate(tmp_path / "b")
    ours, theirs = socket.socketpair()
    parent = TlsChannel(ours, Role.PARENT, made.context(clients=other.chain))
    worker = TlsChannel(theirs, Role.WORKER, pinning_context(), None, made.fingerprint)
    worker.set_timeout(10)
    challenge(parent)
    greeted = in_thread(greet, worker, bytes(32), 0, 1)
    with pytest.raises(ProtocolError, match="the other end gives no certificate, and --clients asks for one"):
        arrived(parent)
    parent.close()
    with pytest.raises(ProtocolError, match="Give one with --certificate and --key that its --clients"):
        greeted()
    worker.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")
def test_workers_without_the_certificate_that_is_asked_for_are_refused(tmp_path):
    made, other = own_certificate(tmp_path / "a"), own_certificate(tmp_path / "b")
    context = pinning_context()
    with pytest.raises(ProtocolError, match="handshake of TLS failed"):
        refused(made.context(clients=other.chain), context, made.fingerprint)
    with pytest.raises(ConfigError, match="cannot be used for TLS"):
        made.context(clients=tmp_path / "none")


def test_one_that_is_valid_is_used_whoever_has_signed_it(tmp_path):
    of_days(tmp_path, -1, 1).context()


@pytest.mark.parametrize(("days", "said"), [((-2, -1), "has expired"), ((1, 2), "not yet valid")])
def test_one_that_is_not_valid_now_is_an_error_before_anything_runs(tmp_path, days, said):
    with pytest.raises(ConfigError, match=rf"nobody will accept .*{said}.*set this machine's clock"):
        of_days(tmp_path, *days).context()


@pytest.mark.parametrize(("days", "said"), [((-3, -0.5), "has expired"), ((0.5, 3), "not yet valid")])
def test_a_clock_that_is_wrong_by_a_day_is_named(tmp_path, monkeypatch, days, said):
    """A worker whose clock is a day fast sees one that ends today as expired: as here, where the dates are off."""
    monkeypatch.setattr(certificates, "_check_dates", lambda *_: None)  # the parent's clock is right
    made = of_days(tmp_path, *days)
    ours, theirs = socket.socketpair()
    parent = TlsChannel(ours, Role.PARENT, made.context())
    context = ssl.create_default_context(cafile=str(tmp_path / "authority"))
    channel = TlsChannel(theirs, Role.WORKER, context, "node.test")
    channel.set_timeout(10)
    challenge(parent)
    greeted = in_thread(greet, channel, bytes(32), 0, 1)
    with pytest.raises(ProtocolError, match=r"does not accept the certificate of this one.* the clocks of both"):
        arrived(parent)
    parent.close()
    with pytest.raises(ProtocolError, match=rf"{said}.*Check who has signed it.* and the clocks of both machines"):
        greeted()
    channel.close()


@pytest.mark.parametrize(("days", "said"), [((-3, -0.5), "EXPIRED"), ((0.5, 3), "BAD_CERTIFICATE")])
def test_a_worker_whose_certificate_has_wrong_dates_learns_it(tmp_path, days, said):
    """OpenSSL's alert for a certificate of the future is that of a bad one."""
    (tmp_path / "worker").mkdir()
    of_days(tmp_path / "worker", *days)
    made = own_certificate(tmp_path / "own")
    worker = pinning_context()
    worker.load_cert_chain(tmp_path / "worker" / "chain", tmp_path / "worker" / "key")
    ours, theirs = socket.socketpair()
    parent = TlsChannel(ours, Role.PARENT, made.context(clients=tmp_path / "worker" / "authority"))
    channel = TlsChannel(theirs, Role.WORKER, worker, None, made.fingerprint)
    channel.set_timeout(10)
    challenge(parent)
    greeted = in_thread(greet, channel, bytes(32), 0, 1)
    with pytest.raises(ProtocolError, match="clocks of both machines"):
        arrived(parent)
    parent.close()
    with pytest.raises(ProtocolError, match=f"{said}.*clocks of both machines"):
        greeted()
    channel.close()
