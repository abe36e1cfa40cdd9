"""The certificate of a parent: made at the first use and kept, or given as files."""

from __future__ import annotations

import datetime
import functools
import os
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physgym.errors import ConfigError, needs
from physgym.files import locked, replacing, write_atomically
from physgym.transport.tls import fingerprint_of, without_password

YEARS = 5  # that a certificate of our own lasts
RENEWED = 30  # days before its end
NAME = "physgym"
DATES = (9, 10)  # codes of OpenSSL for a certificate that is not valid yet, or no more
PATIENCE = 20.0  # seconds for another process that makes it at the same moment


@dataclass(frozen=True)
class Certificate:
    """A certificate with its key, and those whom its owner trusts.

    Attributes:
        chain: File with the certificate and those that have signed it, as PEM.
        key: File with its key, as PEM.
        fingerprint: Of the certificate, see `physgym.transport.tls.fingerprint_of`.
        own: Whether it was made here, so that workers know it by its fingerprint alone.
    """

    chain: Path
    key: Path
    fingerprint: str
    own: bool

    def context(self, clients: Path | None = None) -> ssl.SSLContext:
        """Return the context of a parent.

        Args:
            clients: File with the certificates that sign those of workers, as PEM; None asks workers for none.

        Raises:
            ConfigError: A file cannot be used, or the certificate is not valid now.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            _loaded(functools.partial(context.load_cert_chain, password=without_password), self.chain, self.key)
        except ConfigError as error:
            if not self.own:
                raise
            raise ConfigError(f"{error}. Delete both, and they are made again") from error
        if not self.own:  # which workers accept by its fingerprint, whatever its dates are
            _check_dates(context, self.chain)
        if clients is not None:
            _loaded(context.load_verify_locations, clients)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def given_certificate(chain: Path, key: Path) -> Certificate:
    """Return the certificate in files.

    Raises:
        ConfigError: There is none.
    """
    try:
        found = ssl.PEM_cert_to_DER_cert(_first(chain.read_text()))
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise ConfigError(f"{chain} holds no certificate as PEM: {error}") from error
    return Certificate(chain, key, fingerprint_of(found), own=False)


def own_certificate(folder: Path | None = None) -> Certificate:
    """Return this user's certificate, made at the first use, and again before it ends.

    Args:
        folder: Where it is kept; by default ``~/.local/state/physgym``.

    Raises:
        ConfigError: It cannot be made or kept.
    """
    folder = folder or state_folder()
    chain, key = folder / "parent.crt", folder / "parent.key"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(folder / "lock", PATIENCE, lambda: time.sleep(0.02)):
            if not _lasts(chain, key):
                made, secret = _make()
                with replacing(key) as temporary:
                    temporary.touch(mode=0o600)
                    temporary.write_bytes(secret)
                write_atomically(chain, made)
    except OSError as error:
        raise ConfigError(
            f"the certificate of this machine cannot be kept in {folder}: {error.strerror}. Give one with "
            "--certificate and --key, or another folder in XDG_STATE_HOME"
        ) from error
    found = given_certificate(chain, key)
    return Certificate(chain, key, found.fingerprint, own=True)


def state_folder() -> Path:
    """Return the folder of this user for what lasts from run to run."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "physgym"


def _loaded(load: Any, *files: Path) -> None:
    try:
        load(*map(str, files))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{' and '.join(map(str, files))} cannot be used for TLS: {error}") from error


def _check_dates(context: ssl.SSLContext, chain: Path) -> None:
    """Check that a certificate is valid now, as a worker will, by a handshake in memory.

    Raises:
        ConfigError: It has expired, or is not valid yet.
    """
    worker = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    worker.check_hostname = False
    worker.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # who has signed it, only workers know
    _loaded(worker.load_verify_locations, chain)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = worker.wrap_bio(back, there), context.wrap_bio(there, back, server_side=True)
    for end in (*ends, *ends):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            if error.verify_code in DATES:
                raise ConfigError(
                    f"nobody will accept {chain}: {error.verify_message}. Give another one to --certificate, or "
                    "leave it out and this machine makes its own; where its dates are right, set this machine's clock"
                ) from error
            return  # what else there is to say of it is up to workers


def _first(text: str) -> str:
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    if begin not in text or end not in text:
        raise ValueError("it has no BEGIN CERTIFICATE")
    return begin + text.split(begin, 1)[1].split(end, 1)[0] + end


def _lasts(chain: Path, key: Path) -> bool:
    """Return whether there is a certificate that lasts for a while."""
    with needs("cryptography", "machines", "--listen"):
        from cryptography import x509
    try:
        found = x509.load_pem_x509_certificate(chain.read_bytes())
        key.stat()
    except (OSError, ValueError):
        return False
    return found.not_valid_after_utc > datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=RENEWED)


def _make() -> tuple[bytes, bytes]:
    """Return a new certificate and its key, as PEM."""
    with needs("cryptography", "machines", "--listen"):
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), secret
