"""Who is asking: by a password, or by what a trusted proxy in front says of them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from orchestration.access import Access
from orchestration.proxy.guard import Refusal
from orchestration.proxy.passwords import StoredPassword

if TYPE_CHECKING:
    from starlette.types import Scope

UNKNOWN = Refusal(
    401,
    "Corgi asks for its password. Any user name will do.",
    ((b"www-authenticate", b'Basic realm="Corgi", charset="UTF-8"'),),
)


class KnownUsers:
    """Those who know the password, and those whom a trusted proxy names; either is enough.

    Raises:
        CorgiError: the password's file cannot be read.
    """

    def __init__(self, access: Access) -> None:
        self._password = StoredPassword(access.password_file) if access.password_file else None
        self._header = access.user_header
        self._users = {user.lower() for user in access.users}
        self._trusted = [ipaddress.ip_network(network) for network in access.trusted_proxies]
        self._one_at_a_time = asyncio.Lock()  # a guesser gets no more than one processor

    async def refusal(self, scope: Scope) -> Refusal | None:
        """None where the request comes from one who may come in."""
        headers = Headers(scope=scope)
        if self._header and self._is_trusted(scope) and self._is_named(headers):
            return None
        if self._password is None:
            return Refusal(403, "This page is open to the users that its settings name.")
        given = password_in(headers.getlist("authorization"))
        if given is None:
            return UNKNOWN
        if self._password.is_known(given):
            return None
        async with self._one_at_a_time:
            right = await asyncio.to_thread(self._password.matches, given)
        return None if right else UNKNOWN

    def _is_trusted(self, scope: Scope) -> bool:
        peer = scope.get("client")
        if peer is None:
            return False
        address = ipaddress.ip_address(peer[0])
        return any(address in network for network in self._trusted)

    def _is_named(self, headers: Headers) -> bool:
        """Whether the header is there once, with a user or one of a domain that may come in."""
        named = [value.strip().lower() for value in headers.getlist(self._header or "")]
        if len(named) != 1 or not named[0]:
            return False
        name, at, domain = named[0].rpartition("@")
        if at and not name:
            return False
        return named[0] in self._users or bool(at and f"@{domain}" in self._users)


def password_in(authorizations: list[str]) -> str | None:
    """The password of the one Authorization header of the kind Basic; None where there is none."""
    if len(authorizations) != 1:
        return None
    kind, _, encoded = authorizations[0].partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return None
    _, colon, password = text.partition(":")
    return password if colon else None
