"""One training inside an asset: resumable, tracked in MLflow while it runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.metadata import link, picture
from assets.versions import code_version
from corgi_core.files import digest_of
from corgi_core.presets import TrainingSettings
from orchestration.resources.mlflow import MLflow
from orchestration.resources.ray import RayTraining
from orchestration.resources.workspace import Workspace

if TYPE_CHECKING:
    from PIL.Image import Image

    from corgi_core.training.loop import Task, TrainingResult

DEVICE = "device"  # the pool of one slot that keeps two trainings from fighting over one device


@dataclass(frozen=True)
class Trained:
    """The training's result, the model card's entries, and what Dagster shows of it."""

    result: TrainingResult
    card: dict[str, Any]
    metadata: dict[str, Any]


def train(
    context: dg.AssetExecutionContext,
    task: Task,
    settings: TrainingSettings,
    name: str,
    inputs: Mapping[str, str],
    workspace: Workspace,
    ray_training: RayTraining,
    mlflow: MLflow,
) -> Trained:
    """Train `task`, or take up where a killed run of the same task, data and settings stopped.

    `inputs` are the data versions of what it was trained on, by asset.
    """
    from corgi_core.training.identity import identity_of

    described = identity_of(task, settings) | {"code_version": code_version(context)}
    identity = digest_of(described)
    folder = workspace.work_folder(context, identity)
    with mlflow.run(context, name, identity, inputs, described) as run:
        result = ray_training.train(task, settings, folder, name, run.log_metrics)
        url = run.url
    return Trained(
        result,
        card={"training": identity, "data_versions": dict(inputs), "metrics": result.metrics},
        metadata={
            "mlflow_run": link(url),
            "steps": result.steps,
            "training_seconds": round(result.seconds, 1),
            "skipped_steps": result.skipped,
            "metrics_not_tracked": result.undelivered or None,
            **{key: float(value) for key, value in result.metrics.items()},
            "loss_curve": picture(loss_curve(result.journal)),
        },
    )


def loss_curve(journal: Path) -> Image:
    """Loss over the steps, and the learning rate below it, from a training's journal."""
    from matplotlib.figure import Figure

    from corgi_core.pictures import drawn

    entries = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for panel, name in zip(panels, ("loss", "learning_rate"), strict=True):
        points = [(entry["step"], entry[name]) for entry in entries if name in entry]
        panel.plot(*zip(*points, strict=True) if points else ((), ()), linewidth=1)
        panel.set_ylabel(name.replace("_", " "))
    panels[-1].set_xlabel("step")
    return drawn(figure, dpi=90)
