"""Forwards requests and WebSockets to a server behind a Unix socket or an address, unread.

What is hop-by-hop (RFC 9110, section 7.6.1) ends here; all else passes as it came, the bodies in
chunks, both ways.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aiohttp import (
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ClientWebSocketResponse,
    DummyCookieJar,
    TCPConnector,
    UnixConnector,
    WSMsgType,
)
from multidict import CIMultiDict
from yarl import URL

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

UNIX = "unix:"
HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
}  # fmt: skip
CONNECTING = 10  # seconds
UPSTREAM_GONE = 1012  # a WebSocket's code: the service restarts


class Forward:
    """An ASGI application that another server answers for.

    Args:
        upstream: unix:PATH of a socket, or http://HOST:PORT.
        name: Of the server, for messages.
        hides_password: Whether the request's Authorization was for the proxy, and ends here.
    """

    def __init__(self, upstream: str, name: str, hides_password: bool = False) -> None:
        self._socket = upstream.removeprefix(UNIX) if upstream.startswith(UNIX) else None
        self._base = "http://upstream" if self._socket else upstream.rstrip("/")
        self._name = name
        self._ends_here = HOP_BY_HOP | ({b"authorization"} if hides_password else set())
        self._session: ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request or one WebSocket, until it ends."""
        try:
            if scope["type"] == "http":
                await self._request(scope, receive, send)
            else:
                await self._websocket(scope, receive, send)
        except (TimeoutError, ClientError, OSError) as error:
            await self._not_there(scope, send, error)

    async def close(self) -> None:
        """Close the connections to the server behind."""
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> ClientSession:
        """The connections to the server behind; made in the loop that uses them."""
        if self._session is None:
            connector = UnixConnector(self._socket) if self._socket else TCPConnector(limit=0)
            self._session = ClientSession(
                connector=connector, cookie_jar=DummyCookieJar(), auto_decompress=False,
                timeout=ClientTimeout(total=None, sock_connect=CONNECTING),
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            )  # fmt: skip
        return self._session

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = self._headers(scope["headers"])
        sends_body = "content-length" in headers or _has(scope, b"transfer-encoding")
        async with self.session.request(
            scope["method"], self._url(scope), headers=headers, allow_redirects=False,
            data=_body(receive) if sends_body else None,
        ) as answer:  # fmt: skip
            await send(
                {
                    "type": "http.response.start",
                    "status": answer.status,
                    "headers": list(_passing(answer.raw_headers, HOP_BY_HOP)),
                }
            )
            await _first_of(_answer_body(answer, send), _browser_gone(receive))

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # the message "websocket.connect"
        headers = self._headers(
            (name, value)
            for name, value in scope["headers"]
            if not name.startswith(b"sec-websocket-")
        )
        async with self.session.ws_connect(
            self._url(scope), headers=headers, protocols=scope["subprotocols"], max_msg_size=0
        ) as upstream:
            await send({"type": "websocket.accept", "subprotocol": upstream.protocol})
            await _first_of(_to_upstream(receive, upstream), _to_browser(upstream, send))

    def _url(self, scope: Scope) -> URL:
        query = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
        return URL(self._base + target.decode("latin-1"), encoded=True)

    def _headers(self, headers: Iterable[tuple[bytes, bytes]]) -> CIMultiDict[str]:
        return CIMultiDict(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in _passing(headers, self._ends_here)
        )

    async def _not_there(self, scope: Scope, send: Send, error: Exception) -> None:
        """Say that the server behind does not answer, where nothing was said yet."""
        text = f"{self._name} does not answer ({type(error).__name__}). Fix: wait, or read its log."
        with suppress(RuntimeError):  # the answer had begun
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": UPSTREAM_GONE})
                return
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 502, "headers": headers})
            await send({"type": "http.response.body", "body": text.encode()})


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the browser is gone")
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def _answer_body(answer: ClientResponse, send: Send) -> None:
    async for chunk in answer.content.iter_any():
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _browser_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Do all until one has ended; raise what it has raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()


async def _to_upstream(receive: Receive, upstream: ClientWebSocketResponse) -> None:
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") is not None:
            await upstream.send_str(message["text"])
        else:
            await upstream.send_bytes(message["bytes"])
    await upstream.close()


async def _to_browser(upstream: ClientWebSocketResponse, send: Send) -> None:
    async for message in upstream:
        if message.type is WSMsgType.TEXT:
            await send({"type": "websocket.send", "text": message.data})
        elif message.type is WSMsgType.BINARY:
            await send({"type": "websocket.send", "bytes": message.data})
    await send({"type": "websocket.close", "code": upstream.close_code or UPSTREAM_GONE})


def _passing(
    headers: Iterable[tuple[bytes, bytes]], ending_here: set[bytes]
) -> Iterable[tuple[bytes, bytes]]:
    """The headers that pass; those that Connection names do not (RFC 9110, section 7.6.1)."""
    each = [(name.lower(), value) for name, value in headers]
    named = {
        option.strip().lower()
        for name, value in each
        if name == b"connection"
        for option in value.split(b",")
    }
    return ((name, value) for name, value in each if name not in ending_here | named)


def _has(scope: Scope, header: bytes) -> bool:
    return any(name == header for name, _ in scope["headers"])
