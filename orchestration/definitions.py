"""The code location: every asset, check, job, schedule and sensor, and what they stand on."""

from __future__ import annotations

import dagster as dg

import assets
from orchestration.io_managers import ArtifactIOManager
from orchestration.jobs import everything, semi_supervised_priors
from orchestration.logs import log_file
from orchestration.resources.dvc import DVC
from orchestration.resources.mlflow import MLflow
from orchestration.resources.ray import RayTraining
from orchestration.resources.workspace import DATA_IO_MANAGER, Workspace
from orchestration.schedules import weekly_semi_supervised_retrain
from orchestration.sensors import new_data_version
from orchestration.settings import Settings, settings


def resources(settings: Settings) -> dict[str, object]:
    """What assets ask for by parameter name."""
    return {
        "io_manager": ArtifactIOManager(settings.storage),
        DATA_IO_MANAGER: ArtifactIOManager(settings.dataset_folder),
        "workspace": Workspace.of(settings),
        "ray_training": RayTraining(address=settings.ray_address, num_workers=settings.workers),
        "mlflow": MLflow.of(settings),
        "dvc": DVC.of(settings),
    }


defs = dg.Definitions(
    assets=dg.load_assets_from_package_module(assets),
    asset_checks=dg.load_asset_checks_from_package_module(assets),
    jobs=[everything, semi_supervised_priors],
    schedules=[weekly_semi_supervised_retrain],
    sensors=[new_data_version],
    resources=resources(settings()),
    loggers={"file": log_file},
    executor=dg.in_process_executor,  # one process a run: Ray and torch are loaded once
)
