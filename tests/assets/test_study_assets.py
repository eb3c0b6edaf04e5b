"""The study as assets: every seed's arms, then figures, numbers in MLflow and files for people."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import MagicMock

import dagster as dg
import pandas as pd
import pytest
from mlflow import MlflowClient
from upath import UPath

from corgi_core.experiments.prior_ablation.sweeps import plans_of, sweeps_of
from orchestration.resources.compute import Compute
from orchestration.resources.io_managers import ArtifactIOManager
from orchestration.resources.tracking import MLflow
from orchestration.resources.workspace import Workspace
from orchestration.settings import Settings
from tests.helpers.small_study import PRESET, dataset, small_study, stores

TINY = replace(  # few arms
    PRESET,
    name="emoji",
    study=replace(
        PRESET.study,
        sweeps=("steps", "gaussians", "kappa", "shift_and_scale", "guidance"),
        seeds=(0, 1),
        gaussians=(1,),
        held_out=8,
    ),
)


@pytest.fixture
def settings(tmp_path):
    return replace(Settings.from_environment({"CORGI_HOME": str(tmp_path / "home")}), preset=TINY)


def test_an_arms_run_is_found_again_whatever_code_measures_other_things(settings, tmp_path):
    """The asset's code version has the references' revision too, which changes no arm."""
    from assets.study import _tracked

    study = small_study(tmp_path)
    about = {"arm": "k1", "seed": 0, "start": "shifted", "captions": 1.0}
    sample = {"sampler": "ddpm", "guidance": 1.0, "weak": 0, "steps": 4, "cosine": 0.5}
    identities = []
    for cosine in (0.5, 0.5, 0.6):
        training = [about | {"step": 1, "held_out_cosine": cosine}]
        mlflow = MagicMock()
        found = {"training": training, "samples": [sample]}
        _tracked(object(), study, found, Workspace.of(settings), mlflow)
        identities.append(mlflow.run.call_args.args[2])
    assert identities[0] == identities[1] != identities[2]


def test_the_study_is_measured_tracked_and_plotted(settings, tmp_path):
    from assets import study
    from assets.versions import settled
    from corgi_core.evaluation import split_overlap
    from orchestration.resources.artifacts import ArrayStore, Dataset, SplitOverlap

    prior_study, study_figures = (
        settled(asset, settings.preset) for asset in (study.prior_study, study.study_figures)
    )
    images = dataset(tmp_path)
    image, text = stores(tmp_path, images)

    counts = {"test": 0, "validation": 0}
    nothing_left_out = split_overlap.SplitOverlap(counts, pd.DataFrame(columns=["key", "split"]))

    def given(name, kind, value):
        return dg.AssetsDefinition.from_op(
            dg.op(name=name, out=dg.Out(dagster_type=kind, io_manager_key="memory"))(lambda: value)
        )

    upstream = [
        given("images", Dataset, images),
        given("image_embeddings", ArrayStore, image),
        given("text_embeddings", ArrayStore, text),
        given("split_overlap", SplitOverlap, nothing_left_out),
    ]
    resources = {
        "workspace": Workspace.of(settings),
        "compute": Compute(num_workers=0),
        "mlflow": MLflow.of(settings),
        "io_manager": ArtifactIOManager(UPath(tmp_path / "storage")),
        "memory": dg.mem_io_manager,
    }
    with dg.DagsterInstance.ephemeral() as instance:

        def materialize(asset, partition=None):
            return dg.materialize(
                [*upstream, prior_study, study_figures], resources=resources, instance=instance,
                selection=[*(a for a in upstream if partition), asset], partition_key=partition,
            ).asset_materializations_for_node(asset.op.name)[0]  # fmt: skip

        for seed in ("0", "1"):
            measured = materialize(prior_study, seed)
        figures = materialize(study_figures)

    arms = len(plans_of(sweeps_of(TINY), 0, 3))
    assert measured.metadata["arms"].value == arms
    assert "data:image/" in figures.metadata["kappa"].value
    assert figures.metadata["files"].value == str(settings.reports / "study")
    assert "(http" in measured.metadata["mlflow_runs"].value
    assert "± " in figures.metadata["contributions_table"].value
    report = settings.reports / "study"
    assert (report / "steps.png").exists()
    assert (report / "tables" / "gaussians.md").exists()

    client = MlflowClient(settings.tracking_uri)
    (experiment,) = client.search_experiments(filter_string="name = 'emoji'")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    below = {
        run.data.tags.get("mlflow.parentRunId") for name, run in runs.items() if "seed" in name
    }
    assert below == {runs["study-arms"].info.run_id}
    assert len([name for name in runs if "seed" in name]) == 2 * arms
    baseline = runs["study-baseline-seed1"]
    assert baseline.data.params["start"] == "baseline"
    history = client.get_metric_history(baseline.info.run_id, "ddpm-guidance1/cosine_by_steps")
    assert sorted(point.step for point in history) == [1, 2, 3]
    last = max(history, key=lambda point: point.step)
    assert baseline.data.metrics["cosine"] == last.value
    assert baseline.data.params["caption_fraction"] == "1.0"
    assert (baseline.data.params["preset"], baseline.data.params["seed"]) == ("emoji", "1")
    artifacts = {a.path for a in client.list_artifacts(runs["study"].info.run_id, "study")}
    assert {"study/steps.png", "study/measurements.json", "study/tables"} <= artifacts
