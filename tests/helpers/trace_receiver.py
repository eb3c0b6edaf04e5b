"""A collector of traces: an HTTP server that decodes what OpenTelemetry's protocol sends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Receiver(ThreadingHTTPServer):
    """Keeps the spans that it got, with the headers and the sender's attributes."""

    def __init__(self) -> None:
        self.code = 200  # that is answered
        self.spans: list[Span] = []
        self.headers: list[dict[str, str]] = []
        self.senders: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.senders.append(attributes(resource.resource))
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def named(self, name: str) -> Span:
        """The only span of that name."""
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def parent_of(self, span: Span) -> str:
        """The name of the span above; "" for the root."""
        if not span.parent_span_id:
            return ""
        (found,) = [each for each in self.spans if each.span_id == span.parent_span_id]
        assert found.start_time_unix_nano <= span.start_time_unix_nano
        assert found.end_time_unix_nano >= span.end_time_unix_nano
        return found.name


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.code == 200 and self.path == "/v1/traces":
            self.server.headers.append(dict(self.headers))
            self.server.take(body)
        self.send_response(self.server.code)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@contextmanager
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def attributes(described: Any) -> dict[str, Any]:
    """What a span or a sender says of itself."""
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value"))
        for each in described.attributes
    }
