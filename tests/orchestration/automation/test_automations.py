"""New data: which version there is, and the one run of it that succeeds, come what may."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Self

import dagster as dg
import pytest
import yaml

from orchestration.automation import sensors
from orchestration.automation.jobs import jobs_of
from orchestration.automation.new_data import SOURCE_DATA, observe
from orchestration.automation.sensors import new_data_sensor_of
from orchestration.automation.staleness import observed_version
from orchestration.resources.runs import mark_cancelling
from orchestration.resources.source_data import SourceData
from orchestration.settings import Settings
from tests.helpers.tiny_pipeline import write_images


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A workspace of someone's own data, without a champion."""
    return Settings.load(
        {"CORGI_HOME": str(tmp_path / "home"), "CORGI_DATA": str(tmp_path / "data")},
        preset="emoji-small",
        dataset="mine",
    )


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def raw_folder(settings: Settings) -> Path:
    return Path(str(settings.dataset_folder)) / "raw_images"


class Daemon:
    """The sensor's ticks, and the runs that they ask for, which end as the test says."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self.settings, self.instance = settings, instance
        self.cursor: str | None = None
        self.launched: list[str] = []  # run ids
        self._keys: set[str | None] = set()

    def tick(self) -> str:
        """One evaluation, as the daemon does it: why there is no run, or the job that is asked."""
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
        sensor = new_data_sensor_of(self.settings, jobs_of(self.settings))
        data = sensor.evaluate_tick(context)
        self.cursor = data.cursor or self.cursor
        for event in data.asset_events:
            self.instance.report_runless_asset_event(event)
        for request in data.run_requests or []:
            if request.run_key in self._keys:  # which Dagster does not launch again
                return "the same run key"
            self._keys.add(request.run_key)
            self.launched.append(self._run(dict(request.tags)))
            return request.job_name or ""
        return data.skip_message or ""

    def _run(self, tags: dict[str, str]) -> str:
        """A real run, of a job that does nothing: what it came to is decided by `end`."""
        run = self.instance.create_run_for_job(nothing, tags=tags)
        return run.run_id

    def end(self, how: Callable[[dg.DagsterInstance, dg.DagsterRun], object]) -> None:
        """End the run that was launched last."""
        run = self.instance.get_run_by_id(self.launched[-1])
        assert run is not None
        how(self.instance, run)


@dg.job
def nothing() -> None:
    pass


def succeed(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    nothing.execute_in_process(instance=instance, tags=dict(run.tags))
    instance.delete_run(run.run_id)


def fail(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    instance.report_run_failed(run)


def cancel(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    instance.report_run_canceled(run)


def interrupt(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """As a signal does that ends the servers, and with them the run."""
    instance.report_dagster_event(
        dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, run.job_name), run.run_id
    )
    mark_cancelling(instance, run.run_id)
    instance.report_run_canceled(run)


def new_version(settings: Settings, images: int) -> str:
    """Other data in the folder, whole; their digest."""
    return write_images(raw_folder(settings), images).digest


@pytest.fixture
def daemon(settings: Settings, instance: dg.DagsterInstance) -> Daemon:
    """The sensor, switched on while there were ten images."""
    daemon = Daemon(settings, instance)
    assert "there are no data" in daemon.tick()
    version = new_version(settings, 10)
    assert daemon.tick() == f"watching from version {version} on"
    assert daemon.tick() == f"the data are still at version {version}"
    return daemon


def test_a_version_has_one_run_even_if_the_sensor_fires_twice(
    daemon: Daemon, settings: Settings
) -> None:
    version = new_version(settings, 12)
    before = daemon.cursor
    assert daemon.tick() == "everything"  # nothing is champion yet
    assert "is at work on it" in daemon.tick()
    daemon.end(succeed)
    assert f"version {version} is handled" in daemon.tick()
    assert daemon.tick() == f"the data are still at version {version}"
    daemon.cursor = before  # the daemon died before it wrote the cursor
    assert f"version {version} is handled" in daemon.tick()
    assert len(daemon.launched) == 1


def test_a_version_is_not_lost_where_its_run_fails(
    daemon: Daemon, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does in a workspace that another command is bringing up to date."""
    version = new_version(settings, 12)
    daemon.tick()
    daemon.end(fail)
    assert "the next attempt is at" in daemon.tick()
    monkeypatch.setattr(sensors, "FIRST_WAIT", timedelta(0))
    assert daemon.tick() == "everything"
    daemon.end(fail)
    daemon.instance.delete_run(daemon.launched[0])  # by a person, or by `corgi gc`
    assert daemon.tick() == "everything"
    daemon.end(succeed)
    assert f"version {version} is handled" in daemon.tick()
    assert len(daemon.launched) == 3


def test_a_version_that_comes_back_is_run_again(daemon: Daemon, settings: Settings) -> None:
    for images in (12, 10, 12):
        new_version(settings, images)
        assert daemon.tick() == "everything"
        daemon.end(succeed)
        daemon.tick()
    assert len(daemon.launched) == 3


def test_what_a_person_cancels_is_not_started_again(daemon: Daemon, settings: Settings) -> None:
    version = new_version(settings, 12)
    daemon.tick()
    daemon.end(cancel)
    assert "(canceled)" in daemon.tick()
    assert daemon.tick() == f"the data are still at version {version}"


def test_a_version_is_not_lost_where_the_servers_are_restarted(
    daemon: Daemon, settings: Settings
) -> None:
    version = new_version(settings, 12)
    daemon.tick()
    daemon.end(interrupt)
    assert daemon.tick() == "everything"
    daemon.end(succeed)
    assert f"version {version} is handled" in daemon.tick()
    assert len(daemon.launched) == 2


@pytest.mark.parametrize("jump", [timedelta(days=-400), timedelta(days=400)])
def test_a_version_is_not_lost_where_the_clock_jumps(
    daemon: Daemon, settings: Settings, monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    """After one was handled the clock is put back, or right; then runs fail, and one succeeds."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + ahead

    monkeypatch.setattr(sensors, "datetime", Clock)
    ahead = -jump
    new_version(settings, 12)
    daemon.tick()
    daemon.end(succeed)
    assert "is handled" in daemon.tick()
    version = new_version(settings, 14)
    assert daemon.tick() == "everything"
    daemon.end(fail)
    ahead = timedelta(days=-400)
    assert daemon.tick() == "everything"  # the failure has a moment that is yet to come
    daemon.end(succeed)
    assert f"version {version} is handled" in daemon.tick()
    assert len(daemon.launched) == 3


def test_a_half_uploaded_shard_is_no_version_yet(daemon: Daemon, settings: Settings) -> None:
    new_version(settings, 12)
    tar = raw_folder(settings) / "shards" / "00002.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:1000])
    assert daemon.tick() == f"shard 00002 is half there: 1,000 of {len(whole):,} bytes"
    tar.unlink()
    assert "shard 00002 is half there: 0 of" in daemon.tick()
    tar.write_bytes(whole)
    assert daemon.tick() == "everything"


def test_an_observation_is_made_where_the_version_has_changed_alone(
    settings: Settings, instance: dg.DagsterInstance, daemon: Daemon
) -> None:
    first = observed_version(instance, SOURCE_DATA)
    second = new_version(settings, 12)
    daemon.tick()
    for _ in range(2):
        observe(instance, settings)
        daemon.tick()
    assert observed_version(instance, SOURCE_DATA) == second != first
    assert len(instance.fetch_observations(SOURCE_DATA, limit=10).records) == 2


def test_under_dvc_the_version_is_the_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Settings, "under_dvc", True)
    settings = Settings.from_environment({"CORGI_HOME": str(tmp_path)})
    assert "dvc.lock records no data" in SourceData.of(settings).problem
    lock = {"stages": {"ingest": {"outs": [{"path": "data/emoji/raw_images", "md5": "a.dir"}]}}}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(lock), encoding="utf-8")
    assert SourceData.of(settings) == SourceData("a.dir")
