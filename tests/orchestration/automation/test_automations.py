"""The schedule's and the sensor's ticks, evaluated for real."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
import yaml

from orchestration.automation.schedules import weekly_retrain_of
from orchestration.automation.sensors import new_data_version
from orchestration.definitions import build_definitions
from orchestration.partitions import Partitions
from orchestration.settings import Settings

SETTINGS = Settings.from_environment({})


def requests_at(moment: datetime) -> list[dg.RunRequest]:
    context = dg.build_schedule_context(
        scheduled_execution_time=moment,
        repository_def=build_definitions(SETTINGS).get_repository_def(),
    )
    ticked = weekly_retrain_of(SETTINGS.preset).evaluate_tick(context)
    return list(ticked.run_requests or [])


def test_the_weekly_retrain_covers_the_scarce_captions() -> None:
    requests = requests_at(datetime(2026, 1, 5, 3, tzinfo=UTC))
    asked = {request.partition_key for request in requests}
    variants = SETTINGS.preset.variants
    assert asked == {f"{subset}|{variant}" for subset in ("1.7%", "10%") for variant in variants}
    assert asked < set(Partitions.of(SETTINGS.preset).priors.get_partition_keys())


def test_a_week_is_trained_once_and_the_next_one_again() -> None:
    first = {r.run_key for r in requests_at(datetime(2026, 1, 5, 3, tzinfo=UTC))}
    again = {r.run_key for r in requests_at(datetime(2026, 1, 6, 9, tzinfo=UTC))}
    later = {r.run_key for r in requests_at(datetime(2026, 1, 12, 3, tzinfo=UTC))}
    assert first == again
    assert not first & later


def write_lock(folder: Path, version: str) -> None:
    lock = {"stages": {"ingest": {"outs": [{"path": "data/emoji/raw_images", "md5": version}]}}}
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock), encoding="utf-8")


def tick(cursor: str | None) -> tuple[list[str | None], str | None]:
    """(run keys, cursor afterwards) of one evaluation."""
    context = dg.build_sensor_context(
        cursor=cursor, repository_def=build_definitions(SETTINGS).get_repository_def()
    )
    data = new_data_version.evaluate_tick(context)
    return [request.run_key for request in data.run_requests or []], data.cursor or cursor


def test_a_new_data_version_starts_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tick(None) == ([], None)  # no data recorded yet
    write_lock(tmp_path, "a.dir")
    keys, cursor = tick(None)
    assert keys == []  # what was there when the sensor was switched on is known
    assert tick(cursor) == ([], "a.dir")
    write_lock(tmp_path, "b.dir")
    keys, cursor = tick(cursor)
    assert keys == ["b.dir"]
    assert tick(cursor) == ([], "b.dir")
