"""People's votes as an asset, and as a run of MLflow."""

from __future__ import annotations

import logging
from pathlib import Path

import dagster as dg
import pytest
from upath import UPath

from assets.ratings import human_ratings
from assets.reports import reports_beside
from assets.versions import settled
from corgi_core.evaluation.paper_figures import Beside
from corgi_core.experiments.report import PROTOCOLS, StudyReport
from corgi_core.io.files import write_json
from corgi_core.io.folders import published
from orchestration.partitions import RATINGS, STUDY
from orchestration.resources.io_managers import ArtifactIOManager
from orchestration.resources.tracking import MLflow
from orchestration.resources.workspace import Workspace
from orchestration.settings import Settings
from tests.helpers.surveys import small_store

RATER = "rater-0001"
LOG = logging.getLogger(__name__)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)  # reports are written beside the present folder's data
    return Settings.from_environment({"CORGI_HOME": str(tmp_path / "home")})


def materialized(settings: Settings) -> dg.AssetMaterialization:
    mlflow = MLflow.of(settings)
    resources = {
        "workspace": Workspace.of(settings), "mlflow": mlflow,
        "io_manager": ArtifactIOManager(UPath(settings.storage)),
    }  # fmt: skip
    asset = settled(human_ratings, settings.preset)
    with dg.DagsterInstance.ephemeral() as instance:
        (event,) = dg.materialize(
            [asset], resources=resources, instance=instance
        ).asset_materializations_for_node("human_ratings")
        return event


def test_votes_are_an_asset_and_a_run_that_grow(settings: Settings) -> None:
    assert reports_beside(Workspace.of(settings), LOG) == Beside()
    assert "corgi rate" in materialized(settings).metadata["votes_table"].value  # how to
    _, store = small_store(settings.suites / "small suite", ["ours", "sd"], questions=4)
    versions = []
    for slot in store.survey.slots(RATER)[:3]:
        first, second = ([1, 2], [2, 1]) if slot.models[0] == "ours" else ([2, 1], [1, 2])
        answers = {"alignment": first, "fidelity": second, "seconds": 3}
        store.record(f"key-{slot.number:06}", slot, RATER, answers, store.survey.digest)
        if slot.number != 1:
            event = materialized(settings)
            versions.append(event.tags["dagster/data_version"])
    assert versions[0] != versions[1]
    beside = reports_beside(Workspace.of(settings), LOG)  # for the page of an evaluation
    won = {row["aspect"]: row["value"] for row in beside.votes["small suite"]
           if row["metric"] == "win rate"}  # fmt: skip
    assert won == {"alignment": 1, "fidelity": 0}
    assert list(beside.versions) == ["digest of the ratings report"]
    assert not beside.plots
    assert "data:image/" in event.metadata["small suite"].value
    assert "| ours | 100% (44%–100%)" in event.metadata["small suite_table"].value

    mlflow = MLflow.of(settings)
    runs = mlflow.client().search_runs([mlflow.experiment_id()])
    run, before, _ = (run for run in runs if "dagster.asset" in run.data.tags)  # not their parents
    assert run.info.status == before.info.status == "FINISHED"
    assert run.data.metrics["small_suite/alignment/win_rate/ours_over_sd"] == 1
    assert run.data.metrics["small_suite/fidelity/win_rate/ours_over_sd"] == 0
    assert run.data.params["small suite.models"] == "ours, sd"
    files = mlflow.client().list_artifacts(run.info.run_id, "ratings")
    assert "ratings/small suite.png" in [file.path for file in files]


def test_an_unreadable_older_report_is_named_and_left_out_of_the_page(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """An evaluation of hours is not lost to it."""
    workspace = Workspace.of(settings)
    votes = StudyReport({"a suite": [{"metric": "win rate", "value": 1.0}]})
    votes.save(workspace.reports_folder / RATINGS)
    StudyReport({}).save(workspace.reports_folder / STUDY)
    write_json(published(workspace.reports_folder / STUDY) / PROTOCOLS, {"study": {"seed": 0}})
    beside = reports_beside(workspace, LOG)
    assert beside.votes == votes.rows
    assert beside.versions == {"digest of the ratings report": votes.digest}
    assert "no figures of the study report: the evaluation was written by an older" in caplog.text
