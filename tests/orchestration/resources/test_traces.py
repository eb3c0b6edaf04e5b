"""A run is a trace at a real HTTP receiver, from its steps to shards on other processes."""

import logging
import pickle
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID, uuid4

import dagster as dg
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from assets.metadata import trace_metadata
from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.errors import CorgiError
from orchestration.resources import trace_collector
from orchestration.resources.compute import Compute
from orchestration.resources.executor import one_process_executor_of
from orchestration.resources.instance import open_instance
from orchestration.resources.log_context import in_mlflow_run
from orchestration.resources.logs import LOG_FILE
from orchestration.resources.traces import note, position, span, span_below, trace_id, traced_run
from orchestration.settings import Settings
from tests.helpers.array_jobs import Numbers
from tests.helpers.made import samples
from tests.helpers.processes import free_port
from tests.helpers.trace_receiver import Receiver, attributes, receiver

PAGE = "https://jaeger.example.org/trace/{trace}"
KEY = "10%|baseline"


@pytest.fixture
def collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiver() as found:
        monkeypatch.setenv("CORGI_HOME", str(tmp_path))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "corgi-test")
        monkeypatch.setenv("CORGI_TRACE_URL", PAGE)
        monkeypatch.setattr(trace_collector, "PATIENCE", 30.0)  # however busy the machine is
        yield found


@dg.asset(partitions_def=dg.StaticPartitionsDefinition([KEY]))
def prior(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    home = Settings.from_environment().home
    job = Numbers(Dataset(home / "images"), home / "log")
    with in_mlflow_run(lambda: "81ab"):
        context.log.info("within")
        Compute(num_workers=0).arrays(job, home / "numbers")
        with span("train prior", steps=7):
            note(**{"training.loss": 0.25})
    link = dg.MetadataValue.url("http://mlflow/81ab")
    found = {"loss": 0.25, "mlflow_run": link, "words": "none", **trace_metadata()}
    return dg.MaterializeResult(data_version=dg.DataVersion("d1"), metadata=found)


@dg.asset
def evaluation() -> None:
    raise ValueError("no captions")


@dg.asset(retry_policy=dg.RetryPolicy(max_retries=1))
def second_time(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    if context.op_execution_context.retry_number == 0:
        raise ValueError("no captions yet")
    return dg.MaterializeResult(metadata={"loss": 0.5})


def retried() -> dg.JobDefinition:
    return dg.Definitions(
        [second_time], jobs=[dg.define_asset_job("retried", [second_time])],
        executor=one_process_executor_of(Settings.from_environment()),
    ).resolve_job_def("retried")  # fmt: skip


def pipeline() -> dg.JobDefinition:
    return dg.Definitions(
        [prior], jobs=[dg.define_asset_job("prior", [prior])],
        executor=one_process_executor_of(Settings.from_environment()),
    ).resolve_job_def("prior")  # fmt: skip


def failing() -> dg.JobDefinition:
    return dg.Definitions(
        [evaluation], jobs=[dg.define_asset_job("evaluation", [evaluation])],
        executor=one_process_executor_of(Settings.from_environment()),
    ).resolve_job_def("evaluation")  # fmt: skip


def test_a_run_is_a_trace_from_its_step_to_the_shards_and_leads_to_mlflow_and_back(
    collector: Receiver, tmp_path: Path
) -> None:
    write_dataset(tmp_path / "images", samples(4), shard_size=2)
    (tmp_path / "log").mkdir()
    with open_instance(settings := Settings.from_environment()) as instance:
        tags = {"dagster/partition": KEY}
        job = dg.reconstructable(pipeline)
        result = dg.execute_job(job, instance, tags=tags)
        assert result.success
        failed = dg.execute_job(dg.reconstructable(failing), instance)
        made = instance.get_latest_materialization_event(prior.key)
    trace = UUID(result.run_id).hex
    assert made is not None
    assert made.asset_materialization is not None
    link = made.asset_materialization.metadata["trace"]
    assert link.value == PAGE.replace("{trace}", trace)
    log = (settings.state / LOG_FILE).read_text()
    (line,) = [each for each in log.splitlines() if each.endswith("within")]
    assert f"mlflow=81ab trace={trace}]" in line

    step = f"prior {KEY}"
    above = {
        each.name: collector.parent_of(each)
        for each in collector.spans
        if each.trace_id.hex() == trace
    }
    assert above == {
        "prior": "", step: "prior", "numbers": step, "train prior": step,
        "numbers 00000": "numbers", "numbers 00001": "numbers",
    }  # fmt: skip
    assert attributes(collector.named(step)) == {
        "dagster.run_id": result.run_id, "dagster.step": "prior", "dagster.partition": KEY,
        "dagster.asset": "prior", "dagster.data_version": "d1", "mlflow.run_id": "81ab",
        "asset.loss": 0.25, "asset.mlflow_run": "http://mlflow/81ab", "asset.trace": link.value,
    }  # fmt: skip
    assert attributes(collector.named("train prior")) == {"steps": 7, "training.loss": 0.25}
    assert attributes(collector.named("numbers"))["shards"] == 2
    assert collector.headers[0]["x-key"] == "secret"
    assert collector.senders[0]["service.name"] == "corgi-test"

    of_failed = [each for each in collector.spans if each.trace_id == UUID(failed.run_id).bytes]
    assert [each.name for each in of_failed] == ["evaluation", "evaluation"]
    for each in of_failed:
        assert each.status.code == Status.STATUS_CODE_ERROR
        assert "no captions" in each.status.message


def test_a_run_within_a_run_is_a_trace_of_its_own_and_workers_add_to_it(
    collector: Receiver, tmp_path: Path
) -> None:
    settings, outer, inner = Settings.from_environment(), str(uuid4()), str(uuid4())
    sent = b""
    with (
        dg.DagsterInstance.ephemeral() as instance,
        traced_run(settings, instance, outer, "everything"),
    ):
        with suppress(KeyboardInterrupt), traced_run(settings, instance, inner, "prior"):
            assert trace_id() == UUID(inner).hex
            with span("train"):
                sent = pickle.dumps(position())
                raise KeyboardInterrupt
        assert trace_id() == UUID(outer).hex
    assert trace_id() is None
    with span_below(pickle.loads(sent), "worker 1", rank=1), span("within"):
        pass
    everything, prior, train = map(collector.named, ("everything", "prior", "train"))
    assert [link.trace_id for link in prior.links] == [UUID(outer).bytes]
    assert prior.links[0].span_id == everything.span_id
    assert {each.trace_id for each in (prior, train)} == {UUID(inner).bytes}
    assert prior.status.code == train.status.code == Status.STATUS_CODE_ERROR
    assert everything.status.code == Status.STATUS_CODE_UNSET
    worker, within = collector.named("worker 1"), collector.named("within")
    assert (worker.trace_id, worker.parent_span_id) == (train.trace_id, train.span_id)
    assert (within.trace_id, within.parent_span_id) == (train.trace_id, worker.span_id)


def test_a_collector_that_refuses_or_is_gone_costs_a_moment_once_and_is_named(
    collector: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trace_collector, "PATIENCE", 0.3)
    waits: list[float] = []
    join = threading.Thread.join

    def recorded(thread: threading.Thread, timeout: float | None = None) -> None:
        waits.extend([] if timeout is None else [timeout])
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", recorded)
    for wrong in ("refuses", "gone"):
        collector.code = 404
        if wrong == "gone":
            gone = f"http://127.0.0.1:{free_port()}"
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", gone)
        waits.clear()
        with dg.DagsterInstance.ephemeral() as instance:
            for _ in range(4):
                with traced_run(Settings.from_environment(), instance, str(uuid4()), "prior"):
                    pass
        assert waits == [0.3]
        said = [r for r in caplog.records if r.levelno == logging.WARNING]
        assert len(said) == 1
        assert "OTEL_EXPORTER_OTLP_ENDPOINT" in said[0].getMessage()
        assert not [record for record in caplog.records if "secret" in record.getMessage()]
        caplog.clear()


def test_a_slow_collector_costs_a_process_a_few_seconds_in_all_and_is_named_once(
    collector: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As for shards: each ends with a wait, and between two a late answer comes."""
    now, begun = [0.0], list[object]()

    class Slow:
        def __init__(self, **_: object) -> None: ...

        def start(self) -> None:
            begun.append(self)

        def join(self, timeout: float) -> None:
            now[0] += timeout

        def is_alive(self) -> bool:
            return True

    monkeypatch.setattr(trace_collector, "monotonic", lambda: now[0])
    slow = trace_collector.Collector(collector.url)
    monkeypatch.setattr(trace_collector, "threading", SimpleNamespace(Thread=Slow))
    for _ in range(100):
        slow.flush(at_last=True)
        slow.answers = True
    assert trace_collector.TIMEOUT <= now[0] <= 1.1 * trace_collector.TIMEOUT
    assert len(begun) < 20
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1
    now[0] += 100  # of work
    slow.flush(at_last=True)
    assert now[0] >= 101


def test_a_step_that_succeeds_after_a_retry_is_two_spans_of_a_run_that_has_not_failed(
    collector: Receiver,
) -> None:
    with open_instance(Settings.from_environment()) as instance:
        result = dg.execute_job(dg.reconstructable(retried), instance)
    assert result.success
    root, *attempts = sorted(collector.spans, key=lambda each: each.start_time_unix_nano)
    assert root.status.code == Status.STATUS_CODE_UNSET
    assert [each.name for each in attempts] == ["second_time"] * 2
    assert [each.parent_span_id for each in attempts] == [root.span_id] * 2
    error, unset = Status.STATUS_CODE_ERROR, Status.STATUS_CODE_UNSET
    assert [each.status.code for each in attempts] == [error, unset]
    assert attributes(attempts[1])["asset.loss"] == 0.5
    assert "asset.loss" not in attributes(root)


def test_without_a_collector_nothing_is_traced_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    given = {"CORGI_HOME": str(tmp_path)}
    with dg.DagsterInstance.ephemeral() as instance:
        settings = Settings.from_environment(given)
        with traced_run(settings, instance, str(uuid4()), "prior"), span("train"):
            note(loss=0.1)
            assert (trace_id(), position(), trace_metadata()) == (None, None, {})
    for name, wrong, said in (
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317", "OTLP over HTTP"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:secret@collector", "password"),
        ("CORGI_TRACE_URL", "https://jaeger.example.org", "{trace}"),
    ):
        with pytest.raises(CorgiError, match=said) as refused:
            Settings.from_environment(given | {name: wrong})
        assert "secret" not in str(refused.value)
    unset = {"OTEL_EXPORTER_OTLP_ENDPOINT": "", "CORGI_TRACE_URL": ""}  # as compose passes them on
    assert Settings.from_environment(given | unset).traces_endpoint is None
    traced = Settings.from_environment(given | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel:4318"})
    again = Settings.from_environment(traced.child_environment({}))
    assert again.traces_endpoint == "http://otel:4318"
