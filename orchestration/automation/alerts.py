"""Alerts by a webhook: failed runs, failed checks, drift, promotions, and what is out of date.

A sensor reads what happened since its cursor and posts each alert. The cursor moves after an alert
was taken, so one that was not is sent again at the next tick, and a receiver may get one twice: its
`id` tells. One that the receiver refuses for what is in it is passed over. Bodies have no error
texts, which may quote settings; they link to the run's page.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import dagster as dg

from assets import drift
from corgi_core.errors import CorgiError
from orchestration.automation.refresh import Refresh
from orchestration.automation.staleness import evaluations
from orchestration.resources.promotion_history import PROMOTIONS, Event, History
from orchestration.resources.webhook import RefusedBodyError, Webhook
from orchestration.settings import Settings

AT_ONCE = 50  # events of a kind a tick
STALE_AFTER = 24 * 3600.0  # seconds that something is out of date before that is an alert
LOOK = 3600.0  # seconds between two looks at what is out of date
PROMOTION = "promotion"  # the check; the history of promotions has it too
DRIFT = {
    spec.name
    for checks in dg.load_asset_checks_from_modules([drift])
    for spec in checks.check_specs
}
ANNOUNCED = (Event.PROMOTED, Event.BY_HAND, Event.ROLLED_BACK, Event.RESTORED, Event.ADOPTED)
CREDENTIALS = re.compile(r"://[^/@\s]+@")


@dataclass(frozen=True)
class Alert:
    """One body.

    Attributes:
        id: The same for the same event, however often it is sent.
        kind: failure, check, drift, promotion or stale.
        workspace: Whose.
        text: What happened, in a sentence.
        page: Where Dagster shows it.
        details: Names and numbers.
    """

    id: str
    kind: str
    workspace: str
    text: str
    page: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Cursor:
    """What was alerted already.

    Attributes:
        failures: The storage id of the last run's failure.
        checks: The storage id of the last check's evaluation.
        promotions: How many entries of the history of promotions.
        looked: When it was last looked for what is out of date.
        stale: Since when each partition is known to be out of date.
        stale_alerted: Whether that was alerted.
    """

    failures: int = 0
    checks: int = 0
    promotions: int = 0
    looked: float = 0.0
    stale: dict[str, float] = field(default_factory=dict)
    stale_alerted: bool = False


def alerts_of(settings: Settings) -> dg.SensorDefinition:
    """The sensor of a workspace; it runs from the start where CORGI_ALERTS_FILE names a webhook."""
    running = dg.DefaultSensorStatus.RUNNING
    stopped = dg.DefaultSensorStatus.STOPPED

    @dg.sensor(
        job_name=None,
        minimum_interval_seconds=30,
        default_status=running if settings.alerts_file else stopped,
    )
    def alerts(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        """Posts what failed, drifted, was promoted or is out of date to a webhook."""
        if settings.alerts_file is None:
            return dg.SkipReason("CORGI_ALERTS_FILE names no file with a webhook's address")
        assert context.repository_def is not None, "every sensor of a code location has it"
        news = News(settings, context.instance, context.repository_def)
        if context.cursor is None:
            context.update_cursor(json.dumps(asdict(news.now())))
            return dg.SkipReason("alerts begin with what happens from now on")
        cursor, webhook = Cursor(**json.loads(context.cursor)), Webhook.of(settings.alerts_file)
        sent = 0
        try:
            for alert in news.since(cursor):
                if alert is not None:
                    sent += _taken(alert, webhook, context.log)
                context.update_cursor(json.dumps(asdict(cursor)))
        except CorgiError as error:  # raised on, Dagster would forget how far the cursor came
            context.log.warning("%s alerts sent, and no more: %s", sent, error)
            return dg.SkipReason(f"{sent} alerts sent, and no more: {error}")
        return dg.SkipReason(f"{sent} alerts sent" if sent else "nothing to tell")

    return alerts


def _taken(alert: Alert, webhook: Webhook, log: logging.Logger) -> bool:
    """Send the alert; whether it was taken, and not refused for what is in it."""
    try:
        webhook.post(asdict(alert))
    except RefusedBodyError as error:
        log.warning("The alert %s is not sent again: %s", alert.id, error)
        return False
    return True


@dataclass(frozen=True)
class News:
    """What happened in a workspace.

    Attributes:
        settings: The workspace.
        instance: Dagster's history of it.
        repository: Its assets and checks.
    """

    settings: Settings
    instance: dg.DagsterInstance
    repository: dg.RepositoryDefinition

    def now(self) -> Cursor:
        """The cursor behind all that has happened so far."""
        failures = self._failures(None, 1, ascending=False)
        checks = evaluations(self.instance, None, 1, ascending=False)
        return Cursor(
            failures=failures[0].storage_id if failures else 0,
            checks=checks[0].storage_id if checks else 0,
            promotions=len(self._history().entries()),
            looked=time.time(),
        )

    def since(self, cursor: Cursor) -> Iterator[Alert | None]:
        """Each alert after the cursor, which has moved past it when the next one is asked for.

        None stands for an event that is no alert.
        """
        for record in self._failures(cursor.failures, AT_ONCE):
            cursor.failures = record.storage_id
            yield self._failure(record)
        for record in evaluations(self.instance, cursor.checks, AT_ONCE):
            cursor.checks = record.storage_id
            yield self._check(record)
        entries = self._history().entries()
        for number in range(min(cursor.promotions, len(entries)), len(entries)):
            cursor.promotions = number + 1
            yield self._promotion(number)
        if time.time() - cursor.looked >= LOOK or time.time() < cursor.looked:
            cursor.looked = time.time()
            yield None  # where the look fails, the next one is in an hour
            yield self._stale(cursor)

    def _failures(
        self, after: int | None, limit: int, ascending: bool = True
    ) -> list[dg.EventLogRecord]:
        wanted = dg.RunStatusChangeRecordsFilter(
            event_type=dg.DagsterEventType.RUN_FAILURE, after_storage_id=after
        )
        found = self.instance.fetch_run_status_changes(wanted, limit=limit, ascending=ascending)
        return list(found.records)

    def _history(self) -> History:
        return History(self.settings.state / PROMOTIONS)

    def _failure(self, record: dg.EventLogRecord) -> Alert:
        run = self.instance.get_run_by_id(record.run_id)
        stats = self.instance.get_run_step_stats(record.run_id)
        steps = sorted(each.step_key for each in stats if str(each.status).endswith("FAILURE"))
        partition = run.tags.get("dagster/partition", "") if run else ""
        name = ", ".join(steps) or (run.job_name if run else "a run")
        return self._alert(
            "failure", record.run_id, f"{name} {partition}".strip() + " failed",
            f"runs/{record.run_id}", run=record.run_id, steps=steps, partition=partition,
        )  # fmt: skip

    def _check(self, record: dg.EventLogRecord) -> Alert | None:
        check = record.event_log_entry.asset_check_evaluation
        if check is None or check.passed or check.check_name == PROMOTION:
            return None
        kind = "drift" if check.check_name in DRIFT else "check"
        asset = check.asset_key.to_user_string()
        said = f": {check.description}" if check.description else ""
        return self._alert(
            kind, str(record.storage_id),
            f"{asset} does not pass {check.check_name.replace('_', ' ')}{said}",
            f"assets/{asset}?view=checks", run=record.run_id, asset=asset,
            check=check.check_name, severity=check.severity.value,
        )  # fmt: skip

    def _promotion(self, number: int) -> Alert | None:
        entry = self._history().entries()[number]
        if entry.event not in ANNOUNCED:
            return None
        return self._alert(
            "promotion", f"{number}-{entry.moment}",
            f"{entry.alias}: {entry.model} {entry.event.value}: {entry.reason}",
            "assets/registered_models", alias=entry.alias, version=entry.version,
            before=entry.before, digest=entry.digest, event=entry.event.value,
        )  # fmt: skip

    def _stale(self, cursor: Cursor) -> Alert | None:
        """An alert where something is out of date for a day; one until all is up to date again."""
        refresh = Refresh(self.repository, self.instance, self.settings)
        reasons = {step.title: refresh.reason_to_run(step) for step in refresh.all_steps()}
        now = time.time()
        cursor.stale = {
            title: cursor.stale.get(title, now)
            for title, reason in reasons.items()
            if reason is not None and reason != "missing"
        }
        late = [title for title, first in cursor.stale.items() if now - first >= STALE_AFTER]
        if not late or cursor.stale_alerted:
            cursor.stale_alerted = bool(late)
            return None
        cursor.stale_alerted = True
        return self._alert(
            "stale", f"{min(cursor.stale.values()):.0f}",
            f"{len(late)} are out of date for a day: {', '.join(late[:5])}", "assets",
            reasons={title: reasons[title] for title in late},
        )  # fmt: skip

    def _alert(self, kind: str, name: str, text: str, page: str, **details: Any) -> Alert:
        clean = json.loads(
            CREDENTIALS.sub("://…@", json.dumps([text, details], ensure_ascii=False))
        )
        workspace = self.settings.workspace
        address = f"{self.settings.dagster_page}/{page}"
        return Alert(f"{workspace}/{kind}/{name}", kind, workspace, clean[0], address, clean[1])
