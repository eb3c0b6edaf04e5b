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
    embeddings,
    evaluation,
    gaussians,
    models,
    precomputed,
    registry,
    study,
)
from corgi_core.config import Preset
from orchestration.automation.jobs import everything, semi_supervised_priors
from orchestration.automation.schedules import weekly_semi_supervised_retrain
from orchestration.automation.sensors import new_data_version
from orchestration.resources.compute import Compute
from orchestration.resources.dvc import DVC
from orchestration.resources.io_managers import ArtifactIOManager
from orchestration.resources.logs import log_file
from orchestration.resources.tracking import MLflow
from orchestration.resources.trainer import Trainer
from orchestration.resources.workspace import DATA_IO_MANAGER, Workspace
from orchestration.settings import Settings, settings

OF_PICTURES_ALONE = {
    dg.AssetKey(name)
    for name in (
        "pixels", "decoder", "captioned_decoder", "language_free_decoder", "decoder_comparison",
    )
}  # fmt: skip


def assets_of(preset: Preset) -> list[dg.AssetsDefinition]:
    """The lineage; without pictures, precomputed embeddings stand in their place."""
    every = _assets_in(
        [
            captions, clip, comparison, data, embeddings, evaluation, gaussians, models, registry,
            study,
        ]
    )  # fmt: skip
    if preset.decoder is not None:
        return every
    ready = _assets_in([precomputed])
    left_out = OF_PICTURES_ALONE | {asset.key for asset in ready}
    return [asset for asset in every if asset.key not in left_out] + ready


def _assets_in(modules: list[ModuleType]) -> list[dg.AssetsDefinition]:
    loaded = dg.load_assets_from_modules(modules)
    return [asset for asset in loaded if isinstance(asset, dg.AssetsDefinition)]


def resources(settings: Settings) -> dict[str, object]:
    """What assets ask for by parameter name."""
    workspace, mlflow = Workspace.of(settings), MLflow.of(settings)
    compute = Compute(address=settings.ray_address, num_workers=settings.workers)
    return {
        "io_manager": ArtifactIOManager(settings.storage),
        DATA_IO_MANAGER: ArtifactIOManager(settings.dataset_folder),
        "workspace": workspace,
        "compute": compute,
        "mlflow": mlflow,
        "trainer": Trainer(workspace=workspace, compute=compute, mlflow=mlflow),
        "dvc": DVC.of(settings),
    }


defs = dg.Definitions(
    assets=assets_of(settings().preset),
    asset_checks=dg.load_asset_checks_from_modules([checks]),
    jobs=[everything, semi_supervised_priors],
    schedules=[weekly_semi_supervised_retrain],
    sensors=[new_data_version],
    resources=resources(settings()),
    loggers={"file": log_file},
    executor=dg.in_process_executor,  # one process a run: Ray and torch are loaded once
)
