"""A password's hash in a file, and what is compared with it.

The hash is scrypt's (RFC 7914) with 16 MiB of memory, so a stolen file does not give the password
away quickly. A password that was right once is remembered by a keyed digest until the process ends.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from corgi_core.errors import CorgiError
from corgi_core.io.files import atomic_file

COST = {"n": 2**14, "r": 8, "p": 1}
SALT, LENGTH = 16, 32  # bytes
SHORTEST = 12  # characters


def store_password(password: str, path: Path) -> None:
    """Write the password's hash to `path`, which its owner alone may read.

    Raises:
        CorgiError: the password has fewer than 12 characters.
    """
    if len(password) < SHORTEST:
        raise CorgiError(
            f"the password has {len(password)} characters",
            f"choose one of at least {SHORTEST}, such as four words",
        )
    salt = secrets.token_bytes(SALT)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_text(f"scrypt:{salt.hex()}:{_hash(password, salt).hex()}\n")


class StoredPassword:
    """The password whose hash a file holds.

    Raises:
        CorgiError: the file is not there, or `store_password` did not write it.
    """

    def __init__(self, path: Path) -> None:
        try:
            kind, salt, stored = path.read_text(encoding="utf-8").strip().split(":")
            self._salt, self._hash = bytes.fromhex(salt), bytes.fromhex(stored)
        except (OSError, ValueError) as error:
            raise CorgiError(
                f"{path} holds no password's hash ({error})", f"write one: corgi password {path}"
            ) from error
        if kind != "scrypt" or len(self._hash) != LENGTH:
            raise CorgiError(
                f"{path} holds a hash of another kind", f"write one: corgi password {path}"
            )
        self._key = os.urandom(32)
        self._right: bytes | None = None

    def is_known(self, password: str) -> bool:
        """Whether this password was right before; costs no hash."""
        return self._right is not None and hmac.compare_digest(self._digest(password), self._right)

    def matches(self, password: str) -> bool:
        """Whether this is the password; takes tens of milliseconds, and as long for any other."""
        right = hmac.compare_digest(_hash(password, self._salt), self._hash)
        if right:
            self._right = self._digest(password)
        return right

    def _digest(self, password: str) -> bytes:
        return hmac.digest(self._key, password.encode("utf-8", "surrogatepass"), "sha256")


def _hash(password: str, salt: bytes) -> bytes:
    encoded = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(encoded, salt=salt, dklen=LENGTH, **COST)
