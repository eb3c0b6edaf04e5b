"""Prometheus' metrics of a workspace: its queue, who uses the device, how fast trainings are.

All is read when it is asked for, from Dagster's instance and from the trainings' own metrics logs,
at most every few seconds. The format is Prometheus' text format, version 0.0.4.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration.proxy.guard import Server
from orchestration.settings import Settings

if TYPE_CHECKING:
    import dagster as dg
    from starlette.types import Receive, Scope, Send

PATH = "/metrics"
KIND = b"text/plain; version=0.0.4; charset=utf-8"
FRESH = 5.0  # seconds that an answer is given again
AT_WORK = 600.0  # seconds since a training's last entry in which it counts as running
TAIL = 65536  # bytes of a metrics log in which its last entry is
OF_TRAINING = {  # by the field of an entry
    "step": ("corgi_training_step", "Steps that a running training has finished."),
    "loss": ("corgi_training_loss", "Its latest loss."),
    "samples_per_second": (
        "corgi_training_samples_per_second",
        "How many samples a second it reads.",
    ),
}


@dataclass(frozen=True)
class Sample:
    """One value of one metric."""

    labels: dict[str, str]
    value: float


class MetricsPage:
    """An application that answers `/metrics` for one workspace, and leaves all else to another."""

    def __init__(self, app: Server, settings: Settings) -> None:
        self._app, self._settings = app, settings
        self._answer, self._made = b"", -FRESH
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        if scope["type"] != "http" or scope["path"] != PATH:
            await self._app(scope, receive, send)
            return
        async with self._one_at_a_time:
            if time.monotonic() - self._made >= FRESH:
                self._answer = (await asyncio.to_thread(exposition, self._settings)).encode()
                self._made = time.monotonic()
        headers = [(b"content-type", KIND), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._answer})

    async def close(self) -> None:
        """Close the other application's connections."""
        await self._app.close()


def exposition(settings: Settings) -> str:
    """All metrics of the workspace, in Prometheus' text format."""
    from orchestration.resources.instance import open_instance

    if not (settings.dagster_home / "dagster.yaml").exists():  # nothing has run yet
        return _text("corgi_runs", "Runs by status.", [])
    with open_instance(settings) as instance:
        parts = [
            _text("corgi_runs", "Runs by status.", _runs(instance)),
            *_pools(instance),
            _text(
                "corgi_daemon_heartbeat_age_seconds", "Since when a daemon is not heard of.",
                _daemons(instance),
            ),
        ]  # fmt: skip
    entries = dict(_trainings(settings.work))
    for field, (name, about) in OF_TRAINING.items():
        samples = [
            Sample({"training": training}, float(entry[field]))
            for training, entry in sorted(entries.items())
            if field in entry
        ]
        parts.append(_text(name, about, samples))
    return "".join(parts)


def _runs(instance: dg.DagsterInstance) -> Iterator[Sample]:
    import dagster as dg

    for status in dg.DagsterRunStatus:
        count = instance.get_runs_count(dg.RunsFilter(statuses=[status]))
        yield Sample({"status": status.value.lower()}, count)


def _pools(instance: dg.DagsterInstance) -> Iterator[str]:
    storage = instance.event_log_storage
    found = {
        key: storage.get_concurrency_info(key) for key in sorted(storage.get_concurrency_keys())
    }
    for name, about, value in (
        (
            "corgi_pool_slots",
            "How many steps may use a pool at once.",
            lambda info: info.slot_count,
        ),
        ("corgi_pool_used", "How many use it.", lambda info: info.active_slot_count),
        ("corgi_pool_waiting", "How many wait for it.", lambda info: info.pending_step_count),
    ):
        samples = [Sample({"pool": key}, value(info)) for key, info in found.items()]
        yield _text(name, about, samples)


def _daemons(instance: dg.DagsterInstance) -> Iterator[Sample]:
    for kind, heartbeat in sorted(instance.get_daemon_heartbeats().items()):
        yield Sample({"daemon": kind.lower()}, max(0.0, time.time() - heartbeat.timestamp))


def _trainings(work: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The last entry of each running training, by asset and partition."""
    for path in work.glob("**/metrics.jsonl"):
        try:
            fresh = time.time() - path.stat().st_mtime <= AT_WORK
            entry = _last_entry(path) if fresh else None
        except FileNotFoundError:  # the training has ended, and its folder with it
            continue
        if entry is not None:
            yield path.parent.parent.relative_to(work).as_posix(), entry


def _last_entry(path: Path) -> dict[str, Any] | None:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        lines = file.read().rpartition(b"\n")[0].splitlines()
    for line in reversed(lines):
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:
            continue
        return entry
    return None


def _text(name: str, about: str, samples: Iterable[Sample]) -> str:
    """One metric with its samples; all of them are gauges."""
    lines = [f"# HELP {name} {about}", f"# TYPE {name} gauge"]
    for sample in samples:
        labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in sample.labels.items())
        lines.append(f"{name}{{{labels}}} {sample.value:g}")
    return "\n".join([*lines, ""])


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
