"""Sends spans by OpenTelemetry's OTLP over HTTP, in the background.

A collector that is slow, refuses or is gone costs no run more than a moment. Imported where a
collector is named, as its libraries take a while to load.
"""

from __future__ import annotations

import logging
import os
import platform
import secrets
import threading
from collections.abc import Mapping, Sequence
from time import monotonic

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

PATH = "/v1/traces"  # of a collector, as the protocol says
DELAY = 1000  # milliseconds until spans that have ended are sent
TIMEOUT = 5.0  # seconds for one message, with all its retries
PATIENCE = 1.0  # seconds that the end of a run waits for the collector; a worker waits for TIMEOUT
SHARE = 0.02  # of its time that a process waits at most, beyond the first TIMEOUT seconds

Value = str | int | float
log = logging.getLogger(__name__)


class Collector:
    """The spans of this process, on their way to the collector at an address."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint, self.answers = endpoint, True
        self._began, self._waited, self._said = monotonic(), 0.0, False
        self._ids = _Ids()
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # we say it once, below
        about: dict[str, Value] = {
            "service.name": "corgi", "host.name": platform.node(), "process.pid": os.getpid()
        }  # fmt: skip
        self._provider = TracerProvider(
            resource=Resource(about).merge(OTELResourceDetector().detect()),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(_Exporter(self), schedule_delay_millis=DELAY)
        )
        self._tracer = self._provider.get_tracer("corgi")

    def root(
        self, trace_id: int, name: str, about: Mapping[str, Value], caused_by: Span | None
    ) -> Span:
        """Start the first span of a trace; `caused_by` is a span of another one that led to it."""
        self._ids.trace_id = trace_id
        links = [Link(caused_by.get_span_context())] if caused_by else []
        return self._tracer.start_span(name, attributes=dict(about), links=links)

    def child(self, parent: tuple[int, int], name: str, about: Mapping[str, Value]) -> Span:
        """Start a span below another one, `parent`: its trace's id and its own."""
        above = SpanContext(*parent, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
        context = set_span_in_context(NonRecordingSpan(above))
        return self._tracer.start_span(name, context, attributes=dict(about))

    def flush(self, *, at_last: bool = False) -> None:
        """Wait a moment until all spans that have ended are sent; not again for a silent one.

        Longer where it is `at_last`, as the process may be killed next. A process whose waits for a
        slow collector amount to too much waits no more: spans are sent in the background anyway.
        """
        began = monotonic()
        left = TIMEOUT + SHARE * (began - self._began) - self._waited
        patience = min(TIMEOUT if at_last else PATIENCE, left)
        if not self.answers or patience <= 0:
            return
        sending = threading.Thread(target=self._provider.force_flush, daemon=True)
        sending.start()
        sending.join(patience)
        self._waited += monotonic() - began
        if sending.is_alive():
            self.silent()

    def silent(self) -> None:
        """Say once that the collector does not take what it is sent."""
        if not self._said:
            log.warning(
                "the collector %s takes no traces, and runs go on without; correct "
                "OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_HEADERS",
                self.endpoint,
            )
        self.answers, self._said = False, True


def fail(span: Span, error: BaseException | str) -> None:
    """Mark a span as failed."""
    if isinstance(error, BaseException):
        span.record_exception(error)
        error = f"{type(error).__name__}: {error}"
    span.set_status(Status(StatusCode.ERROR, error))


class _Exporter(OTLPSpanExporter):
    """OpenTelemetry's own, which tells the collector's owner what came of it."""

    def __init__(self, owner: Collector) -> None:
        super().__init__(owner.endpoint.rstrip("/") + PATH, timeout=TIMEOUT)
        self._owner = owner

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        if result is SpanExportResult.SUCCESS:
            self._owner.answers = True
        else:
            self._owner.silent()
        return result


class _Ids(IdGenerator):
    """The trace that begins next has the id that it is given; spans' ids leave `random` alone."""

    trace_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return secrets.randbits(64) or 1
