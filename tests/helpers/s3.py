"""An S3 server over HTTP, as a process of its own: moto's. No real S3 is asked in any test."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from upath import UPath

from tests.helpers.patience import PATIENCE
from tests.helpers.processes import free_port

BUCKET = "corgi-tests"


@dataclass(frozen=True)
class S3:
    """A running server with one empty bucket."""

    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }

    def path(self, name: str) -> UPath:
        return UPath(f"s3://{BUCKET}/{name}")

    def objects(self, name: str) -> list[str]:
        """Every key below `name`, asked of the server by another client."""
        import boto3

        client = boto3.client(
            "s3", endpoint_url=self.endpoint, aws_access_key_id="testing",
            aws_secret_access_key="testing", region_name="us-east-1",
        )  # fmt: skip
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{name}/")
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return sorted(key.removeprefix(f"{name}/") for key in keys)


@contextmanager
def serving(**environment: str) -> Iterator[S3]:
    """Run the server; the variables of its environment turn on checks, such as of permissions."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        endpoint = f"http://127.0.0.1:{port}"
        _make_bucket(server, endpoint)
        yield S3(endpoint)
    finally:
        server.kill()
        server.wait()


def _make_bucket(server: subprocess.Popen[bytes], endpoint: str) -> None:
    put = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + PATIENCE
    while True:
        try:
            with direct.open(put):
                return
        except OSError:
            assert server.poll() is None, "moto's server has ended"
            assert time.monotonic() < until, "moto's server does not answer"
            time.sleep(0.05)


@dataclass
class Door:
    """A server between a client and the store, that notes every request and may refuse it."""

    endpoint: str
    requests: list[str]
    refused: Callable[[str], str | None]  # the code of the refusal of "PUT /bucket/key?query"


@contextmanager
def door_to(s3: S3) -> Iterator[Door]:
    """Listen in front of a running server; whoever asks here is counted."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            line = f"{self.command} {self.path}"
            door.requests.append(line)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if code := door.refused(line):
                content = f"<Error><Code>{code}</Code><Message>refused</Message></Error>".encode()
                self.reply(403, {"Content-Type": "application/xml"}, content)
                return
            inside = http.client.HTTPConnection(s3.endpoint.removeprefix("http://"))
            headers = {name: value for name, value in self.headers.items() if name != "Expect"}
            inside.request(self.command, self.path, body, headers)
            response = inside.getresponse()
            content = response.read()
            self.reply(response.status, dict(response.getheaders()), content)
            inside.close()

        def reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                length = name.lower() == "content-length" and self.command != "HEAD"
                if not length and name.lower() not in ("connection", "transfer-encoding"):
                    self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Of clients that were killed nothing is said."""

    server = Server(("127.0.0.1", 0), Handler)
    door = Door(f"http://127.0.0.1:{server.server_port}", [], lambda _: None)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield door
    finally:
        server.shutdown()
        server.server_close()
