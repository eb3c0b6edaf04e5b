"""What people see of an asset in Dagster: numbers, tables, pictures inline, links."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import dagster as dg

from orchestration.resources.artifacts import FolderBacked
from orchestration.resources.trainer import Trained

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

A = TypeVar("A", bound=FolderBacked)
OWNERS = ["team:corgi"]
MAX_ROWS = 200


def materialized(
    artifact: A, version: str | None = None, **metadata: Any
) -> dg.MaterializeResult[A]:
    """The artefact, its digest as data version, and metadata; None entries are left out."""
    return dg.MaterializeResult(
        value=artifact,
        data_version=dg.DataVersion(version or artifact.digest),
        metadata={key: value for key, value in metadata.items() if value is not None},
    )


def table(frame: pd.DataFrame) -> dg.TableMetadataValue:
    """The first rows of a frame."""
    first = frame.head(MAX_ROWS).astype(object)
    columns = [dg.TableColumn(str(column)) for column in frame.columns]
    records = [
        dg.TableRecord({str(column): _plain(value) for column, value in row.items()})
        for row in first.to_dict("records")
    ]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns))


def _plain(value: Any) -> str | int | float | bool | None:
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, float):
        return float(f"{plain:.5g}")
    return plain if isinstance(plain, str | int | float | bool | None) else str(plain)


def picture(image: Image) -> dg.MarkdownMetadataValue:
    """An inline picture."""
    content = BytesIO()
    image.save(content, format="PNG", optimize=True)
    encoded = base64.b64encode(content.getvalue()).decode()
    return dg.MetadataValue.md(f"![picture](data:image/png;base64,{encoded})")


def link(url: str | None) -> dg.UrlMetadataValue | dg.TextMetadataValue:
    """The MLflow run's page, or why there is none."""
    if url is None:
        return dg.MetadataValue.text("MLflow does not answer; the run is stored and sent later")
    return dg.MetadataValue.url(url)


def training_metadata(trained: Trained[Any]) -> dict[str, Any]:
    """The training's MLflow run, its steps, seconds and last metrics, and its loss curve."""
    result = trained.result
    return {
        "mlflow_run": link(trained.url),
        "steps": result.steps,
        "training_seconds": round(result.seconds, 1),
        "skipped_steps": result.skipped,
        "metrics_not_tracked": result.undelivered or None,
        **{key: float(value) for key, value in result.metrics.items()},
        "loss_curve": picture(loss_curve(result.metrics_log)),
    }


def trainings_metadata(trained: Mapping[str, Trained[Any]]) -> dict[str, Any]:
    """`training_metadata` of each part of a model, under its name; of the only one, as it is."""
    return {
        f"{part}/{key}" if part else key: value
        for part, each in trained.items()
        for key, value in training_metadata(each).items()
    }


def loss_curve(metrics_log: Path) -> Image:
    """Loss over the steps, and the learning rate below it, from a training's metrics log."""
    from matplotlib.figure import Figure

    from corgi_core.io.pictures import rendered

    entries = [json.loads(line) for line in metrics_log.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for panel, name in zip(panels, ("loss", "learning_rate"), strict=True):
        points = [(entry["step"], entry[name]) for entry in entries if name in entry]
        panel.plot(*zip(*points, strict=True) if points else ((), ()), linewidth=1)
        panel.set_ylabel(name.replace("_", " "))
    panels[-1].set_xlabel("step")
    return rendered(figure, dpi=90)
