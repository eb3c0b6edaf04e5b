"""Alerts reach a real HTTP receiver once each, whatever it answers first, and tell no secret."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from corgi_core.errors import CorgiError
from orchestration.automation import alerts as module
from orchestration.automation.alerts import Cursor, News, alerts_of
from orchestration.resources import webhook
from orchestration.resources.promotion_history import PROMOTIONS, Entry, Event, History
from orchestration.resources.webhook import Webhook
from orchestration.settings import Settings
from tests.helpers.processes import free_port


class Receiver(HTTPServer):
    """Answers with these codes first, redirects to itself; keeps what it got."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.taken: list[dict[str, Any]] = []
        self.asked: list[dict[str, str]] = []
        self.led_elsewhere: list[dict[str, str]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook/T0K3N"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(dict(self.headers))
        code = self.server.codes.pop(0) if self.server.codes else 200
        if code == 200:
            self.server.taken.append(body)
        self.send_response(code)
        if code == 302:
            self.send_header("Location", self.server.url)
        self.end_headers()

    def do_GET(self) -> None:
        self.server.led_elsewhere.append(dict(self.headers))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr(webhook, "PAUSES", (0.0, 0.0))
    server = Receiver()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def settings(receiver: Receiver, tmp_path: Path) -> Settings:
    (tmp_path / "alerts").write_text(f"{receiver.url}\nAuthorization: Bearer s3cr3t\n")
    return Settings.from_environment(
        {
            "CORGI_HOME": str(tmp_path / "home"), "CORGI_ALERTS_FILE": str(tmp_path / "alerts"),
            "CORGI_PRESET": "emoji-small", "CORGI_DAGSTER_URL": "https://dagster.example.org",
        }
    )  # fmt: skip


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@dg.asset
def failing() -> None:
    raise ValueError("no route to postgresql://corgi:hunter2@db")


@dg.asset
def drifting() -> None: ...


@dg.asset_check(asset=drifting)
def new_images_are_like_the_champions() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=False, severity=dg.AssetCheckSeverity.WARN,
        description="the mean moved by 3.1 standard errors (from s3://key:hunter2@store/old)",
    )  # fmt: skip


@dg.asset_check(asset=drifting)
def quiet() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


DEFINITIONS = dg.Definitions(
    [failing, drifting], asset_checks=[new_images_are_like_the_champions, quiet]
)
KINDS = ["failure", "drift", "promotion", "promotion"]  # of what `happen` does
REPOSITORY = DEFINITIONS.get_repository_def()


def happen(instance: dg.DagsterInstance, settings: Settings) -> None:
    """A failed run, a drift, a check that passes, a promotion and a refusal."""
    dg.materialize([failing], instance=instance, raise_on_error=False)
    dg.materialize([drifting, new_images_are_like_the_champions, quiet], instance=instance)
    entry = Entry(
        datetime.now(UTC).isoformat(), Event.PROMOTED, "prior", "champion-10", "6", "d1",
        "shifted-k16, 10%", "better: cosine 0.4401 against 0.4312", before="4",
    )  # fmt: skip
    history = History(settings.state / PROMOTIONS)
    history.append(entry)
    history.append(replace(entry, event=Event.REFUSED, reason="not better", version="7"))
    history.append(replace(entry, event=Event.ADOPTED, reason="somebody gave it to version 8"))


def ticked(settings: Settings, instance: dg.DagsterInstance, cursor: str | None) -> Any:
    """What Dagster's daemon gets of a tick; nothing of one that raises."""
    context = dg.build_sensor_context(instance=instance, cursor=cursor, repository_def=REPOSITORY)
    return alerts_of(settings).evaluate_tick(context)


def tick(settings: Settings, instance: dg.DagsterInstance, cursor: str | None) -> Any:
    return ticked(settings, instance, cursor).cursor


def test_each_event_is_one_alert_and_no_secret_is_in_it(
    settings: Settings, instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    happen(instance, settings)
    cursor = tick(settings, instance, None)  # what is past is past
    assert receiver.taken == []
    happen(instance, settings)
    receiver.codes = [503, 429]
    cursor = tick(settings, instance, cursor)
    assert [body["kind"] for body in receiver.taken] == KINDS
    failure, drift, promotion, adopted = receiver.taken
    assert failure["text"] == "failing failed"
    assert failure["page"] == f"https://dagster.example.org/runs/{failure['details']['run']}"
    assert instance.get_run_by_id(failure["details"]["run"])
    assert "3.1 standard errors" in drift["text"]
    assert drift["details"]["severity"] == "WARN"
    assert promotion["details"]["before"] == "4"
    assert "0.4401 against 0.4312" in promotion["text"]
    assert "found in MLflow: somebody gave it to version 8" in adopted["text"]
    said = json.dumps(receiver.taken)
    assert not any(secret in said for secret in ("hunter2", "T0K3N", "s3cr3t"))
    assert receiver.asked[0]["Authorization"] == "Bearer s3cr3t"
    assert len({body["id"] for body in receiver.taken}) == 4
    assert tick(settings, instance, cursor) == cursor
    assert len(receiver.taken) == 4


def test_an_alert_that_was_not_taken_is_sent_at_the_next_tick(
    settings: Settings, instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    cursor = tick(settings, instance, None)
    happen(instance, settings)
    receiver.codes = [200, 500, 500, 500]
    found = ticked(settings, instance, cursor)
    assert "1 alerts sent, and no more: the receiver of alerts answers 500" in found.skip_message
    assert [body["kind"] for body in receiver.taken] == ["failure"]
    tick(settings, instance, found.cursor)
    assert [body["kind"] for body in receiver.taken] == KINDS


def test_an_alert_that_is_refused_for_what_is_in_it_holds_up_no_other(
    settings: Settings, instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    cursor = tick(settings, instance, None)
    happen(instance, settings)
    receiver.codes = [200, 400]
    assert ticked(settings, instance, cursor).skip_message == "3 alerts sent"
    assert [body["kind"] for body in receiver.taken] == ["failure", "promotion", "promotion"]


def test_a_check_that_fails_after_a_tick_in_its_run_is_an_alert(
    settings: Settings, instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    """Its run's plan has the check already, in whose order evaluations do not come."""
    cursors = [tick(settings, instance, None)]

    @dg.asset(check_specs=[dg.AssetCheckSpec(name, asset="long") for name in ("first", "last")])
    def long() -> Iterator[Any]:
        for name in ("last", "first"):
            cursors.append(tick(settings, instance, cursors[-1]))
            yield dg.AssetCheckResult(passed=False, check_name=name)
        yield dg.MaterializeResult()

    dg.materialize([long], instance=instance)
    for _ in range(2):
        cursors.append(tick(settings, instance, cursors[-1]))
    assert [body["details"]["check"] for body in receiver.taken] == ["last", "first"]


def test_a_look_that_fails_is_said_and_holds_up_nothing(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise CorgiError("the zero-shot dataset is gone", "bring it back")

    monkeypatch.setattr(News, "_stale", fail)
    cursor = json.loads(tick(settings, instance, None)) | {"looked": 0.0}
    found = ticked(settings, instance, json.dumps(cursor))
    assert "the zero-shot dataset is gone" in found.skip_message
    assert ticked(settings, instance, found.cursor).skip_message == "nothing to tell"


def test_what_is_out_of_date_for_a_day_is_one_alert(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons: dict[str, str | None] = {"raw_images": None, "images": "missing", "prior": "new data"}

    class Steps:
        def __init__(self, *_: object) -> None: ...

        def all_steps(self) -> list[Any]:
            return [type("Step", (), {"title": title}) for title in reasons]

        def reason_to_run(self, step: Any) -> str | None:
            return reasons[step.title]

    now = [1_000_000.0]
    monkeypatch.setattr(module, "Refresh", Steps)
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    news, cursor = News(settings, instance, REPOSITORY), Cursor()
    found = []
    for _ in range(60):  # hours
        found += [alert for alert in news.since(cursor) if alert]
        now[0] += 3600
    (alert,) = found
    assert (alert.kind, alert.details["reasons"]) == ("stale", {"prior": "new data"})
    reasons["prior"] = None
    assert not [alert for alert in news.since(cursor) if alert]
    now[0] -= 10_000  # a clock that was set back
    assert not [alert for alert in news.since(cursor) if alert]


def test_a_webhook_that_is_none_is_named_without_its_address(tmp_path: Path) -> None:
    with pytest.raises(CorgiError, match="cannot be read"):
        Webhook.of(tmp_path / "none")
    (tmp_path / "file").write_text("secret words\n")
    with pytest.raises(CorgiError, match="no address") as refused:
        Webhook.of(tmp_path / "file")
    assert "secret" not in str(refused.value)
    (tmp_path / "file").write_bytes(b"\xff\xfe")
    with pytest.raises(CorgiError, match="no text in UTF-8"):
        Webhook.of(tmp_path / "file")
    with pytest.raises(CorgiError, match="characters it may not have") as refused:
        Webhook("http://127.0.0.1/", {"Authorization": "Bearer s3cr3t\x00\n"}).post({})
    assert "s3cr3t" not in str(refused.value)


def test_a_receiver_that_is_gone_or_refuses_is_said_so(receiver: Receiver) -> None:
    with pytest.raises(CorgiError, match="does not answer"):
        Webhook(f"http://127.0.0.1:{free_port()}/T0K3N", {}).post({})
    receiver.codes = [404, 200]
    with pytest.raises(CorgiError, match="answers 404"):
        Webhook(receiver.url, {}).post({})
    assert receiver.codes == [200]  # which another try would not have changed


def test_a_redirect_takes_no_alert_and_no_header_elsewhere(receiver: Receiver) -> None:
    receiver.codes = [302]
    with pytest.raises(CorgiError, match="answers 302, that it is elsewhere"):
        Webhook(receiver.url, {"Authorization": "Bearer s3cr3t"}).post({})
    assert receiver.led_elsewhere == []
