"""A worker that Ray has placed on a machine: what its actor does, which is to keep a process running that connects.

The actor makes a pair of keys, so that the secret of the run is never sent in clear, as all does that Ray carries
without RAY_USE_TLS.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from physgym.errors import needs
from physgym.machines.dialled_worker import DialIn
from physgym.machines.supervisor import Supervisor
from physgym.system.cores import THREAD_VARIABLES

KEY_BITS, EXPONENT = 2048, 65537
LONGEST_TEXT = 4000  # bytes of what a process has said at its end


class PlacedWorker:
    """The actor."""

    def __init__(self) -> None:
        with needs("cryptography", "ray", "--ray"):
            from cryptography.hazmat.primitives.asymmetric import rsa
        self._key = rsa.generate_private_key(EXPONENT, KEY_BITS)

    def public_key(self) -> bytes:
        """Return the key for `sealed`, as PEM."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def run(self, settings: str, token: bytes, folder: str) -> str:
        """Keep a process running that connects, until it is of no use; return what it has said at its end.

        Args:
            settings: Of `DialIn` as JSON, but for the token.
            token: The secret of the run, `sealed`.
            folder: Where the process works, if there is such a folder here: the parent's.
        """
        secret = self._key.decrypt(token, _padding())
        found = DialIn(**{**json.loads(settings), "token": secret.hex()})
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))  # bits depend on it; Ray sets it to the cores
        with tempfile.TemporaryFile() as said:
            here = folder if Path(folder).is_dir() else None
            status = Supervisor(found, 1, stay=True, stderr=said, cwd=here).run()
            said.seek(max(0, said.seek(0, os.SEEK_END) - LONGEST_TEXT))
            text = said.read().decode(errors="replace").strip()
        return text or f"its process ended with status {status}"


def sealed(secret: bytes, key: bytes) -> bytes:
    """Return a secret that the owner of a key alone can read (RSA with OAEP, RFC 8017).

    Args:
        secret: Of at most 190 bytes.
        key: What `PlacedWorker.public_key` returns.
    """
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    found = load_pem_public_key(key)
    assert isinstance(found, RSAPublicKey)
    return found.encrypt(secret, _padding())


def _padding() -> Any:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    return padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
