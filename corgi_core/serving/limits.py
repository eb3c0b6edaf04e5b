"""What stands before every route: bodies have an end, and requests are counted."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from corgi_core.serving.metrics import ServingMetrics
from corgi_core.serving.problems import problem
from corgi_core.serving.schemas import MAX_BYTES

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 3 * MAX_BYTES  # two images in base64, and words
LARGEST_TOTAL = 16 * LARGEST_BODY  # of all requests that are answered at the same time
TOO_LARGE = f"the request is larger than {LARGEST_BODY >> 20} MiB"

BUSY = "the requests that are answered now are as large as this server can hold"


class BodyLimit:
    """An ASGI middleware that refuses bodies too large, alone or together, and counts requests."""

    def __init__(self, app: ASGIApp, metrics: ServingMetrics) -> None:
        self._app, self._metrics = app, metrics
        self._held = 0  # bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, as long as its body is small."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, received = time.perf_counter(), 0
        status = int(HTTPStatus.INTERNAL_SERVER_ERROR)  # where nothing was answered

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            self._held += len(message.get("body", b""))
            if self._held > LARGEST_TOTAL:
                raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, BUSY, {"Retry-After": "5"})
            if received > LARGEST_BODY:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, TOO_LARGE)
            return message

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        length = Headers(scope=scope).get("content-length", "")
        try:
            if length.isdigit() and int(length) > LARGEST_BODY:
                refusal = problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, TOO_LARGE, "send less")
                await refusal(scope, receive, counted)
            else:
                await self._app(scope, limited, counted)
        finally:
            self._held -= received
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.requests.labels(route, status).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - began)
