"""The sensor's ticks, evaluated for real."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
import yaml

from orchestration.automation.sensors import new_data_version
from orchestration.definitions import build_definitions
from orchestration.settings import Settings

SETTINGS = Settings.from_environment({})


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
