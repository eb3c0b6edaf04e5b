"""Dagster's configuration of a workspace: the user's edits stay, and any folder name works."""

from __future__ import annotations

import logging
from pathlib import Path

import dagster as dg
import pytest
import yaml

from corgi_core.errors import CorgiError
from orchestration.resources import instance
from orchestration.resources.instance import (
    CONFIGURATION,
    PROMOTION,
    WRITTEN,
    limit_promotions,
    open_instance,
    prepare_home,
)
from orchestration.resources.trainer import DEVICE
from orchestration.settings import Settings

OURS = CONFIGURATION.read_text(encoding="utf-8")
FIRST = """\
# Dagster's instance for one workspace; copied to .corgi/<workspace>/dagster. SQLite by default.
telemetry:
  enabled: false
nux:
  enabled: false
concurrency:
  pools:
    default_limit: 1 # one training at a time on one device
    granularity: op
run_monitoring:
  enabled: true # frees the pool of a run whose process was killed
  free_slots_after_run_end_seconds: 30
"""  # what Corgi wrote before it recorded that


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"CORGI_HOME": str(tmp_path / "home")})


@pytest.fixture
def newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A later version of Corgi, with another configuration."""
    text = f"{OURS}# later\n"
    path = tmp_path / "newer.yaml"
    path.write_text(text)
    monkeypatch.setattr(instance, "CONFIGURATION", path)
    return text


def test_the_configuration_is_written_once(settings: Settings) -> None:
    home = prepare_home(settings)
    assert (home / "dagster.yaml").read_text() == OURS
    before = (home / "dagster.yaml").stat().st_mtime_ns
    prepare_home(settings)
    assert (home / "dagster.yaml").stat().st_mtime_ns == before


def test_an_edited_file_stays_and_a_later_version_says_that_it_has_another(
    settings: Settings, newer: str, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    with monkeypatch.context() as earlier:
        earlier.setattr(instance, "CONFIGURATION", CONFIGURATION)
        path = prepare_home(settings) / "dagster.yaml"
    path.write_text("telemetry: {enabled: false}\n")
    with caplog.at_level(logging.WARNING):
        prepare_home(settings)
        prepare_home(settings)
    assert path.read_text() == "telemetry: {enabled: false}\n"
    assert len(caplog.records) == 1
    assert str(path) in caplog.text


def test_limits_that_a_user_sets_survive_and_are_in_force(settings: Settings) -> None:
    path = prepare_home(settings) / "dagster.yaml"
    text = path.read_text().replace("max_runtime_seconds: 0", "max_runtime_seconds: 7200")
    text = text.replace("  enabled: false # of runs", "  enabled: true #").replace(
        "default_limit: 1", "default_limit: 4"
    )
    path.write_text(text)
    for _ in range(2):
        with open_instance(settings) as opened:
            assert opened.run_monitoring_max_runtime_seconds == 7200
            assert opened.run_retries_enabled
            opened.event_log_storage.initialize_concurrency_limit_to_default(DEVICE)
            assert opened.event_log_storage.get_concurrency_info(DEVICE).slot_count == 4


@pytest.mark.parametrize("has_default", [True, False], ids=["now", "before it was recorded"])
def test_a_file_that_corgi_wrote_is_replaced_by_a_later_version(
    settings: Settings, newer: str, has_default: bool
) -> None:
    home = settings.dagster_home
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text(OURS if has_default else FIRST)
    if has_default:
        (home / WRITTEN).write_text(OURS)
    prepare_home(settings)
    assert (home / "dagster.yaml").read_text() == newer


@pytest.mark.parametrize("name", ["50%20 off? #1 é"])
def test_a_run_is_recorded_whatever_signs_are_in_the_folders_name(
    tmp_path: Path, name: str
) -> None:
    home = tmp_path / name
    settings = Settings.from_environment({"CORGI_HOME": str(home)})

    @dg.asset
    def one() -> int:
        logging.getLogger("orchestration.resources.outbox").warning("MLflow does not answer")
        return 1

    with open_instance(settings) as opened:
        result = dg.materialize([one], instance=opened, resources={})
        assert result.success
    with open_instance(settings) as again:
        assert again.root_directory == opened.root_directory  # one other path in a process
        assert again.get_latest_materialization_event(dg.AssetKey("one"))
        said = [entry.user_message for entry in again.all_logs(result.run_id)]
    assert "MLflow does not answer" in said  # what Corgi logs is in the run's log
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.*")} == {name}
    assert list((home / "emoji" / "dagster").rglob("*.db"))


@pytest.mark.parametrize("name", ["50%20 off? #1 é"])
def test_mlflow_keeps_runs_and_files_whatever_signs_are_in_the_folders_name(
    tmp_path: Path, name: str
) -> None:
    from orchestration.resources.tracking import MLflow

    settings = Settings.from_environment({"CORGI_HOME": str(tmp_path / name)})
    mlflow = MLflow.of(settings)
    client = mlflow.client()
    run = client.create_run(mlflow.experiment_id())
    (tmp_path / name / "note.txt").write_text("hello")
    client.log_artifact(run.info.run_id, str(tmp_path / name / "note.txt"))
    (file,) = client.list_artifacts(run.info.run_id)
    assert file.path == "note.txt"
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.*")} == {name}
    assert (tmp_path / name / "mlflow" / "mlflow.db").is_file()
    assert list((tmp_path / name / "mlflow" / "artifacts").rglob("note.txt"))


def test_so_many_assets_compute_at_once_as_the_setting_says(tmp_path: Path) -> None:
    for jobs in (1, 3, 2):
        environment = {"CORGI_HOME": str(tmp_path / "home"), "CORGI_RAY__DEVICE_JOBS": str(jobs)}
        with open_instance(Settings.from_environment(environment)) as opened:
            opened.event_log_storage.initialize_concurrency_limit_to_default(DEVICE)
            assert opened.event_log_storage.get_concurrency_info(DEVICE).slot_count == jobs


def test_the_pool_of_promotions_stays_one_of_one_whatever_the_others_have(tmp_path: Path) -> None:
    environment = {"CORGI_HOME": str(tmp_path / "home"), "CORGI_RAY__DEVICE_JOBS": "3"}
    settings = Settings.from_environment(environment)
    edited = prepare_home(settings) / "dagster.yaml"
    edited.write_text(edited.read_text().replace("default_limit: 3", "default_limit: 4"))

    @dg.asset(pool=DEVICE)
    def prior() -> None: ...

    @dg.asset(pool=PROMOTION)
    def registered_models() -> None: ...

    with open_instance(settings) as opened:
        storage = opened.event_log_storage
        dg.materialize([prior, registered_models], instance=opened, resources={})
        limits = {each.name: each.limit for each in storage.get_pool_limits()}
        assert limits == {PROMOTION: 1, DEVICE: 4}
        storage.set_concurrency_slots(PROMOTION, 2)  # as somebody does on the page
        limit_promotions(opened)  # as a run does when it begins
        assert storage.get_concurrency_info(PROMOTION).slot_count == 1


def test_a_database_is_named_in_the_configuration_and_its_password_never_is(tmp_path: Path) -> None:
    given = {"CORGI_HOME": str(tmp_path / "home")}
    url = "postgresql://corgi@db:5432/dagster"
    settings = Settings.from_environment(given | {"CORGI_DATABASE_URL": url})
    configured = yaml.safe_load((prepare_home(settings) / "dagster.yaml").read_text())
    assert configured["storage"] == {
        "postgres": {"postgres_url": "postgresql+psycopg2://corgi@db:5432/dagster"}
    }
    again = Settings.from_environment(settings.child_environment({}))
    assert again.database_url == settings.database_url
    for wrong in (
        "postgresql://corgi:secret@db/dagster", "postgresql://corgi@db/dagster?password=secret",
        "mysql://db/dagster", "postgresql://db",
    ):  # fmt: skip
        for variable in ("CORGI_DATABASE_URL", "CORGI_MLFLOW_DATABASE_URL"):
            with pytest.raises(CorgiError, match=variable) as refused:
                Settings.from_environment(given | {variable: wrong})
            assert "secret" not in str(refused.value)
