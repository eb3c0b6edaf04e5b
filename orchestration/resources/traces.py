"""Traces: where the time of a run goes, for any collector of OpenTelemetry.

A run of Dagster's is one trace, and its id is the run's own, so that who knows one knows the other.
A step is a span below it, and what it has computed are spans below that, on Ray's workers too.
Where no collector is named, nothing is loaded and nothing is done. Imports no Dagster, so that
workers need not either.

A process executes one step at a time; what another thread says belongs to that step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    import dagster as dg
    from opentelemetry.trace import Span

    from orchestration.resources.trace_collector import Collector, Value
    from orchestration.settings import Settings

STEP_BEGINS = ("STEP_START", "STEP_RESTARTED")  # the latter is another attempt
STEP_ENDS = ("STEP_SUCCESS", "STEP_FAILURE", "STEP_UP_FOR_RETRY")
PARTITION_TAG, VERSION_TAG = "dagster/partition", "dagster/data_version"


@dataclass(frozen=True)
class Position:
    """A span as another process names it, to have spans below it.

    Attributes:
        endpoint: The collector's.
        span: The trace's id and the span's.
    """

    endpoint: str
    span: tuple[int, int]


@dataclass
class _Trace:
    collector: Collector
    page: str | None
    spans: list[Span] = field(default_factory=list)  # those that are open, outer first

    @property
    def position(self) -> Position:
        context = self.spans[-1].get_span_context()
        return Position(self.collector.endpoint, (context.trace_id, context.span_id))

    def open(self, name: str, about: dict[str, Value]) -> None:
        self.spans.append(self.collector.child(self.position.span, name, about))

    def close(self, count: int, error: BaseException | str | None = None) -> None:
        """End the spans beyond the first `count`, the inner ones first."""
        from orchestration.resources.trace_collector import fail

        while len(self.spans) > count:
            if error is not None:
                fail(self.spans[-1], error)
            self.spans.pop().end()


_traces: list[_Trace] = []  # of the runs that this process executes, outer first


@contextmanager
def traced_run(
    settings: Settings, instance: dg.DagsterInstance, run_id: str, name: str
) -> Iterator[None]:
    """While the block executes a run of Dagster's, the run and its steps are a trace.

    One that is executed within a step of another is a trace of its own, which names that step.
    """
    if settings.traces_endpoint is None:
        yield
        return
    collector = _collector(settings.traces_endpoint)
    outer = _traces[-1].spans[-1] if _traces else None
    about: dict[str, Value] = {
        "dagster.run_id": run_id, "dagster.run_url": f"{settings.dagster_page}/runs/{run_id}",
        "corgi.workspace": settings.workspace,
    }  # fmt: skip
    root = collector.root(UUID(run_id).int, name, about, outer)
    trace = _Trace(collector, settings.trace_url, [root])
    instance.add_event_listener(run_id, _Listener(trace, instance, run_id))
    try:
        with _present(trace):
            yield
    finally:
        collector.flush()


@contextmanager
def span(name: str, **about: Value) -> Iterator[None]:
    """While the block runs, a span below the innermost one; nothing where no run is traced."""
    if not _traces:
        yield
        return
    trace = _traces[-1]
    depth = len(trace.spans)
    trace.open(name, about)
    try:
        yield
    except BaseException as error:
        trace.close(depth, error)
        raise
    finally:
        trace.close(depth)


@contextmanager
def span_below(position: Position | None, name: str, **about: Value) -> Iterator[None]:
    """The same below a span that another process may have begun; nothing where that is None."""
    if _traces or position is None:
        with span(name, **about):
            yield
        return
    collector = _collector(position.endpoint)
    trace = _Trace(collector, None, [collector.child(position.span, name, about)])
    try:
        with _present(trace):
            yield
    finally:
        collector.flush(at_last=True)


@contextmanager
def _present(trace: _Trace) -> Iterator[None]:
    """Spans of the block are below the trace, whose first span ends as the block does."""
    _traces.append(trace)
    try:
        yield
    except BaseException as error:
        trace.close(0, error)
        raise
    finally:
        _traces.remove(trace)
        trace.close(0)


def position() -> Position | None:
    """Where this process is, for `span_below` in another; None where no run is traced."""
    return _traces[-1].position if _traces else None


def note(**about: Value | None) -> None:
    """Say more of the innermost span."""
    if _traces and _traces[-1].spans:
        for name, value in about.items():
            if value is not None:
                _traces[-1].spans[-1].set_attribute(name, value)


def trace_id() -> str | None:
    """The id of the trace that this process is in, in hexadecimal digits; None without one."""
    return f"{_traces[-1].position.span[0]:032x}" if _traces else None


def trace_page() -> str | None:
    """Where people see the present trace; None where there is none, or no page is named."""
    if not _traces or _traces[-1].page is None:
        return None
    return _traces[-1].page.replace("{trace}", trace_id() or "")


@cache
def _collector(endpoint: str) -> Collector:
    from orchestration.resources.trace_collector import Collector

    return Collector(endpoint)


class _Listener:
    """Opens and ends the spans of a run's steps as Dagster records them."""

    def __init__(self, trace: _Trace, instance: dg.DagsterInstance, run_id: str) -> None:
        self._trace, self._instance, self._run_id = trace, instance, run_id

    def __call__(self, entry: Any) -> None:
        event = entry.dagster_event
        if event is None or not self._trace.spans:
            return
        if event.event_type_value in STEP_BEGINS:
            run = self._instance.get_run_by_id(self._run_id)
            partition = run.tags.get(PARTITION_TAG, "") if run else ""
            about: dict[str, Value] = {
                "dagster.run_id": self._run_id, "dagster.step": event.step_key,
                "dagster.partition": partition,
            }  # fmt: skip
            self._trace.open(f"{event.step_key} {partition}".rstrip(), about)
        elif event.event_type_value == "ASSET_MATERIALIZATION":
            self._describe(event.event_specific_data.materialization)
        elif event.event_type_value in STEP_ENDS:
            self._end(event)

    def _describe(self, made: Any) -> None:
        """What the step has made, with the numbers and links that Dagster displays of it."""
        found = {
            "dagster.asset": made.asset_key.to_user_string(),
            "dagster.data_version": (made.tags or {}).get(VERSION_TAG, ""),
        }
        for name, entry in made.metadata.items():
            value = getattr(entry, "value", None)
            is_link = isinstance(value, str) and value.startswith(("http://", "https://"))
            if is_link or (isinstance(value, int | float) and not isinstance(value, bool)):
                found[f"asset.{name}"] = value
        for name, value in found.items():
            self._trace.spans[-1].set_attribute(name, value)

    def _end(self, event: Any) -> None:
        error = getattr(event.event_specific_data, "error", None)
        if error is None:
            self._trace.close(1)
            return
        while error.cause is not None:
            error = error.cause
        message = error.message.strip()
        self._trace.close(1, message)
        if event.event_type_value == "STEP_FAILURE":
            from orchestration.resources.trace_collector import fail

            fail(self._trace.spans[0], message)
