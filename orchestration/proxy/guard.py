"""Which requests reach Dagster and MLflow: an ASGI application around another one.

Browsers carry requests of pages that their user merely visits. Dagster's webserver answers them
whatever their Host and Origin, and runs a mutation that a GET brings. Here a request passes only
where its Host is a name of ours (a name that an attacker points to this machine is none), it comes
from our own page or from no page, and a GET brings no mutation. All of that is decided by headers
and by the query string, never by the path, so no spelling of a path leads around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from starlette.datastructures import Headers, QueryParams

from orchestration.access import LOOPBACK_NAMES, origin_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

HOST = re.compile(r"(?P<name>[a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")
FROM_OUR_PAGE = ("same-origin", "none")  # Sec-Fetch-Site; "none": typed, or a bookmark
READING = ("GET", "HEAD")
HEALTH = "/healthz"
POLICY_VIOLATION = 1008  # a WebSocket's code


@dataclass(frozen=True)
class Refusal:
    """Why a request does not pass: problem and remedy in one text."""

    status: int
    text: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


@runtime_checkable
class Server(Protocol):
    """An ASGI application that holds connections."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or one WebSocket."""

    async def close(self) -> None:
        """Close the connections."""


class Users(Protocol):
    """Decides who is asking."""

    async def refusal(self, scope: Scope) -> Refusal | None:
        """None where the request comes from one who may come in."""


class Rules:
    """What a request must be, whoever sends it.

    Args:
        url: The page's own address for people; None: this machine's loopback alone.
        hosts: Further names that a request's Host may be.
        variable: The setting of `url`, for messages.
    """

    def __init__(self, url: str | None, hosts: Iterable[str], variable: str) -> None:
        self._origin = origin_of(url) if url else None
        ours = {origin_of(url).partition("://")[2]} if url else set()
        self._names = {*LOOPBACK_NAMES, *hosts, *map(_name_of, ours)}
        self._remedy = f"open the page by its own address, or name that address in {variable}"

    def refusal(self, scope: Scope) -> Refusal | None:
        """None where the request passes."""
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or _name_of(hosts[0]) not in self._names:
            return Refusal(403, f"The page is not served under this Host. Fix: {self._remedy}.")
        if len(origins) > 1 or any(not self._is_ours(o, hosts[0].lower()) for o in origins):
            return Refusal(403, f"The request comes from another page. Fix: {self._remedy}.")
        if not _from_our_page(scope, headers):
            return Refusal(403, f"The request comes from within another page. Fix: {self._remedy}.")
        if not scope.get("raw_path", b"/").startswith(b"/"):
            return Refusal(400, "The request names no path of this page.")
        if scope.get("method") in READING and brings_mutation(scope["query_string"]):
            return Refusal(405, "A GET changes nothing here. Fix: send the mutation as a POST.")
        return None

    def _is_ours(self, origin: str, host: str) -> bool:
        if _name_of(host) in LOOPBACK_NAMES:  # ports differ behind a tunnel
            return origin in (f"http://{host}", f"https://{host}")
        return origin == self._origin


class Guard:
    """An ASGI application that lets requests through to another one.

    Args:
        app: What is guarded.
        rules: What every request must be.
        users: Who may come in; None: everyone whom the rules let through.
        answers_health: "ok" at /healthz for whoever asks; otherwise the application answers that,
            likewise without rules and users.
    """

    def __init__(
        self,
        app: ASGIApp,
        rules: Rules,
        users: Users | None = None,
        *,
        answers_health: bool = True,
    ) -> None:
        self._app, self._rules, self._users = app, rules, users
        self._answers_health = answers_health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer why not."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] == "http" and scope["path"] == HEALTH:  # by address, by who starts it
            if self._answers_health:
                await _answer(send, Refusal(200, "ok"))
            else:
                await self._app(scope, receive, send)
            return
        refusal = self._rules.refusal(scope)
        if refusal is None and self._users is not None:
            refusal = await self._users.refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await _answer(send, refusal)
        else:
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})

    async def close(self) -> None:
        """Close the application's connections, where it holds any."""
        if isinstance(self._app, Server):
            await self._app.close()


def brings_mutation(query_string: bytes) -> bool:
    """Whether a GraphQL document in the parameter `query` has a mutation in it.

    It is parsed as Dagster parses it: what is no document here is none there. Every operation
    counts, whichever one the request names.
    """
    return any(
        name == "query" and _has_mutation(value)
        for name, value in QueryParams(query_string).multi_items()
    )


def _has_mutation(text: str) -> bool:
    from graphql import GraphQLError, OperationDefinitionNode, OperationType, parse

    try:
        document = parse(text, no_location=True)
    except GraphQLError:
        return False
    except RecursionError:
        return True
    return any(
        isinstance(each, OperationDefinitionNode) and each.operation is OperationType.MUTATION
        for each in document.definitions
    )


def _from_our_page(scope: Scope, headers: Headers) -> bool:
    """Whether a browser says that our page asks, or that a link leads here; others say nothing."""
    site = headers.get("sec-fetch-site", FROM_OUR_PAGE[0])
    link = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest"))
    is_link = scope.get("method") == "GET" and link == ("navigate", "document")
    return site in FROM_OUR_PAGE or is_link


def _name_of(host: str) -> str:
    """The name in a Host header; "" where it is none."""
    found = HOST.fullmatch(host.lower())
    return found["name"].strip("[]") if found else ""


async def _answer(send: Send, refusal: Refusal) -> None:
    body = refusal.text.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *refusal.headers,
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
