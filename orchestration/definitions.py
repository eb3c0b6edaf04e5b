"""The code location: every asset, check, job, schedule and sensor, and what they stand on."""

from __future__ import annotations

from types import ModuleType

import dagster as dg

from assets import (
    captions,
    checks,
    clip,
    comparison,
    data,
    drift,
    embeddings,
    evaluation,
    gaussians,
    models,
    precomputed,
    proposals,
    ratings,
    registry,
    study,
    zero_shot,
)
from assets.versions import settled
from corgi_core.config import Preset
from orchestration.automation.alerts import alerts_of
from orchestration.automation.conditions import automated, keep_up_to_date
from orchestration.automation.dead_runs import dead_runs
from orchestration.automation.jobs import jobs_of
from orchestration.automation.new_data import source_data_of
from orchestration.automation.schedules import weekly_retention, weekly_retrain_of
from orchestration.automation.sensors import new_data_sensor_of
from orchestration.resources.compute import Compute
from orchestration.resources.dvc import DVC
from orchestration.resources.executor import one_process_executor_of
from orchestration.resources.io_managers import ArtifactIOManager
from orchestration.resources.logs import file_logger_of
from orchestration.resources.tracking import MLflow
from orchestration.resources.trainer import Trainer
from orchestration.resources.workspace import DATA_IO_MANAGER, Workspace
from orchestration.settings import Settings

IMAGE_ONLY_ASSETS = {
    dg.AssetKey(name)
    for name in (
        "pixels", "image_splits", "decoder", "captioned_decoder", "language_free_decoder",
        "decoder_comparison", "human_ratings",
    )
}  # fmt: skip


def assets_of(preset: Preset) -> list[dg.AssetsDefinition]:
    """The lineage; without pictures it starts from precomputed embeddings."""
    every = _assets_in(
        [
            captions, clip, comparison, data, embeddings, evaluation, gaussians, models, proposals,
            ratings, registry, study,
        ]
    )  # fmt: skip
    if preset.decoder is None:
        ready = _assets_in([precomputed])
        left_out = IMAGE_ONLY_ASSETS | {asset.key for asset in ready}
        every = [asset for asset in every if asset.key not in left_out] + ready
    if preset.zero_shot is not None:
        every += _assets_in([zero_shot])
    return [automated(settled(asset, preset)) for asset in every]


def checks_of(preset: Preset) -> list[dg.AssetChecksDefinition]:
    """The checks of the lineage."""
    modules = [checks, drift] if preset.zero_shot is None else [checks, drift, zero_shot]
    return list(dg.load_asset_checks_from_modules(modules))


def _assets_in(modules: list[ModuleType]) -> list[dg.AssetsDefinition]:
    loaded = dg.load_assets_from_modules(modules)
    return [asset for asset in loaded if isinstance(asset, dg.AssetsDefinition)]


def resources(settings: Settings) -> dict[str, object]:
    """What assets ask for by parameter name."""
    workspace, mlflow = Workspace.of(settings), MLflow.of(settings)
    compute = Compute.of(settings)
    return {
        "io_manager": ArtifactIOManager(settings.storage),
        DATA_IO_MANAGER: ArtifactIOManager(settings.dataset_folder),
        "workspace": workspace,
        "compute": compute,
        "mlflow": mlflow,
        "trainer": Trainer(workspace=workspace, compute=compute, mlflow=mlflow),
        "dvc": DVC.of(settings),
    }


def build_definitions(settings: Settings) -> dg.Definitions:
    """Everything that Dagster knows of one workspace.

    CorgiError where the preset's zero-shot dataset is none, or the one that the models learn from.
    """
    settings.check_zero_shot()
    jobs = jobs_of(settings)
    return dg.Definitions(
        assets=[source_data_of(settings), *assets_of(settings.preset)],
        asset_checks=checks_of(settings.preset),
        jobs=jobs,
        schedules=[weekly_retrain_of(settings), weekly_retention()],
        sensors=[
            new_data_sensor_of(settings, jobs),
            keep_up_to_date(),
            dead_runs,
            alerts_of(settings),
        ],
        resources=resources(settings),
        loggers={"file": file_logger_of(settings)},
        executor=one_process_executor_of(
            settings
        ),  # one process a run: Ray and torch are loaded once
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The code location: the definitions of the settings in this process's environment."""
    return build_definitions(Settings.from_environment())
