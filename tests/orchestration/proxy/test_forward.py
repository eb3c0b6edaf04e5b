"""What passes through the proxy unread, and what ends there."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import threading
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.sync.client import connect

from orchestration.proxy.forward import Forward
from orchestration.proxy.server import ByPort
from tests.helpers.processes import free_port
from tests.helpers.serving import ask, serving_app, serving_page

LARGE = bytes(range(256)) * 8192  # 2 MiB


async def echo(request: Request) -> Response:
    return JSONResponse(
        {
            "target": request.scope["raw_path"].decode(),
            "query": request.scope["query_string"].decode(),
            "headers": [[name.decode(), value.decode()] for name, value in request.headers.raw],
            "length": len(await request.body()),
        },
        headers={"Connection": "X-Hop", "X-Hop": "1", "X-End": "2"},
    )


async def same(request: Request) -> Response:
    return Response(await request.body(), headers={"Content-Type": "application/octet-stream"})


async def packed(_: Request) -> Response:
    return Response(gzip.compress(LARGE), headers={"Content-Encoding": "gzip"})


async def elsewhere(_: Request) -> Response:
    response = RedirectResponse("http://127.0.0.1:1/there")
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return response


left = threading.Event()


async def slowly(_: Request) -> Response:
    async def events():
        try:
            yield b"first"
            await asyncio.sleep(60)
        finally:
            left.set()

    return StreamingResponse(events())


async def chat(websocket: WebSocket) -> None:
    await websocket.accept(subprotocol=websocket.scope["subprotocols"][1])
    await websocket.send_bytes(await websocket.receive_bytes())
    await websocket.close(4321)


@pytest.fixture(scope="module")
def page() -> Iterator[int]:
    methods = ["GET", "POST"]
    routes = [
        Route("/same", same, methods=methods), Route("/packed", packed),
        Route("/elsewhere", elsewhere), Route("/slowly", slowly), WebSocketRoute("/chat", chat),
        Route("/{path:path}", echo, methods=methods),
    ]  # fmt: skip
    with serving_app(Starlette(routes=routes)) as behind:
        forward = Forward(f"http://127.0.0.1:{behind}", "Server", hides_password=True)
        with serving_page(lambda port: ByPort({port: forward})) as port:
            yield port


def test_targets_and_headers_come_as_they_were(page: int) -> None:
    headers = {
        "Host": "a.example", "Accept-Encoding": "br", "Connection": "close, X-Mine", "X-Mine": "1",
        "Authorization": "Basic c2VjcmV0", "TE": "trailers", "X-Two": "1",
    }  # fmt: skip
    _, said = ask(page, "/a%2Fb/%C3%A9//c;d?x=%20&x=+", headers=headers)
    got = json.loads(said)
    assert (got["target"], got["query"]) == ("/a%2Fb/%C3%A9//c;d", "x=%20&x=+")
    assert sorted(map(tuple, got["headers"])) == [
        ("accept-encoding", "br"), ("host", "a.example"), ("x-two", "1"),
    ]  # fmt: skip


def test_bodies_pass_both_ways(page: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", page, timeout=20)
    connection.request("POST", "/same", iter([LARGE[:1000], LARGE[1000:]]))  # chunked
    assert connection.getresponse().read() == LARGE
    connection.request("POST", "/same", LARGE)
    assert connection.getresponse().read() == LARGE
    connection.request("GET", "/packed")
    assert gzip.decompress(connection.getresponse().read()) == LARGE
    connection.close()
    assert json.loads(ask(page, "/empty", "POST", body=b"")[1])["length"] == 0


def test_answers_come_as_they_were(page: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", page, timeout=20)
    connection.request("GET", "/elsewhere")
    answer = connection.getresponse()
    answer.read()
    assert (answer.status, answer.headers["location"]) == (307, "http://127.0.0.1:1/there")
    assert len(answer.headers.get_all("set-cookie")) == 2
    connection.request("GET", "/echo")
    answer = connection.getresponse()
    answer.read()
    assert (answer.headers["x-end"], answer.headers["x-hop"]) == ("2", None)
    connection.request("GET", "/slowly")
    assert connection.getresponse().read1(5) == b"first"  # the rest is a minute away
    connection.close()
    assert left.wait(20)  # the server behind hears that nobody listens


def test_a_websocket_passes_both_ways(page: int) -> None:
    with connect(f"ws://127.0.0.1:{page}/chat", subprotocols=["a", "b"]) as socket:
        assert socket.subprotocol == "b"
        socket.send(LARGE[:100_000])
        assert socket.recv(20) == LARGE[:100_000]
        with pytest.raises(Exception, match="4321"):
            socket.recv(20)


def test_a_server_that_is_gone_is_said_to_be(page: int) -> None:
    forward = Forward(f"http://127.0.0.1:{free_port()}", "MLflow")
    with serving_page(lambda port: ByPort({port: forward})) as port:
        status, said = ask(port, "/")
    assert status == 502
    assert said.startswith("MLflow does not answer")
