"""What people see of an asset in Dagster: numbers, tables, links, and pictures (`pictures`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import dagster as dg
from upath import UPath

from assets.pictures import first_of, loss_curve, picture, pictures, thumbnails
from orchestration.resources.artifacts import (
    ArrayStore,
    CaptionProposals,
    Dataset,
    Evaluation,
    FolderBacked,
    GaussianBank,
    Overlap,
    StudyReport,
)
from orchestration.resources.traces import trace_page
from orchestration.resources.trainer import Trained

if TYPE_CHECKING:
    import pandas as pd

    from corgi_core.gaussians.fit import BankFit

A = TypeVar("A", bound=FolderBacked)
OWNERS = ["team:corgi"]
MAX_ROWS = 200


def materialized(
    artifact: A, version: str | None = None, **metadata: Any
) -> dg.MaterializeResult[A]:
    """The artefact, its digest as data version, and metadata; None entries are left out."""
    found = {**metadata, **trace_metadata()}
    return dg.MaterializeResult(
        value=artifact,
        data_version=dg.DataVersion(version or artifact.digest),
        metadata={key: value for key, value in found.items() if value is not None},
    )


def trace_metadata() -> dict[str, dg.UrlMetadataValue]:
    """The page of the run's trace, where runs are traced and the page is named."""
    page = trace_page()
    return {} if page is None else {"trace": dg.MetadataValue.url(page)}


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


def link(url: str | None) -> dg.UrlMetadataValue | dg.TextMetadataValue:
    """The MLflow run's page, or why there is none."""
    if url is None:
        return dg.MetadataValue.text("MLflow does not answer; the run is stored and sent later")
    return dg.MetadataValue.url(url)


def links(urls: Mapping[str, str | None]) -> dg.MarkdownMetadataValue:
    """The pages of MLflow's runs by their names, a line each."""
    lines = [f"- [{name}]({url})" if url else f"- {name}" for name, url in urls.items()]
    return dg.MetadataValue.md("\n".join(lines))


def raw_metadata(raw: Dataset) -> dict[str, Any]:
    """Of a dataset as its source has it: sizes, sources, and the files that were passed over."""
    from corgi_core.data.ingest import iter_skipped
    from corgi_core.data.skipped import by_reason

    counts, passed_over = raw.counts, by_reason(iter_skipped(raw))
    return {
        "images": len(raw),
        "captioned": int(counts["captioned"].sum()),
        "shards": len(raw.shards),
        "passed_over": int(passed_over["files"].sum()),
        "passed_over_by_reason": table(passed_over[["reason", "files"]]),
        "sources": table(counts[["source", "split", "images"]]),
    }


def gated_metadata(gated: Dataset) -> dict[str, Any]:
    """Of a dataset behind the quality gate: its first images, sizes, and what was left out."""
    from corgi_core.data.quality import quarantine_summary

    actions, quarantine = quarantine_summary(gated)
    splits = gated.counts[["split", "images"]].groupby("split").sum().reset_index()
    return {
        "thumbnails": thumbnails(gated),
        "images": len(gated),
        "shards": len(gated.shards),
        "shards_computed": gated.recomputed,
        "quarantined": actions["quarantined"],
        "normalised": actions["normalised"],
        "moved_to_a_near_twin": actions["moved"],
        "quarantine": table(quarantine),
        "splits": table(splits),
    }


def array_metadata(store: ArrayStore) -> dict[str, Any]:
    """Of arrays: how many rows, how many shards were missing, and what the arrays are."""
    return {"rows": len(store), "shards_computed": store.recomputed, **store.spec}


def overlap_metadata(overlap: Overlap) -> dict[str, Any]:
    """How many images are in both datasets, and which."""
    return {**overlap.counts, "examples": table(overlap.pairs)}


def proposals_metadata(
    images: Dataset, proposals: CaptionProposals, folder: UPath
) -> dict[str, Any]:
    """Of proposals of images to caption: the table's file, its rows, and the first images."""
    import pandas as pd

    from corgi_core.data.caption_proposals import FILE

    return {
        "proposed": len(proposals.proposals),
        "file": dg.MetadataValue.path(str(folder / FILE)),
        "pictures": first_of(images, proposals.keys),
        "table": table(pd.DataFrame([asdict(each) for each in proposals.proposals])),
    }


def bank_metadata(bank: GaussianBank, fitted: BankFit | None) -> dict[str, Any]:
    """Of a bank of Gaussians, and of its fit where it was fitted."""
    metadata = {
        "gaussians": bank.k,
        "cluster_sizes": sorted(bank.sizes.tolist(), reverse=True),
        "mean_std": float(bank.std.mean()),
        "choice": bank.choice,
        "width": bank.width,
    }
    if fitted is not None:
        metadata |= {
            "warnings": "; ".join(fitted.warnings) or None,
            "embeddings": fitted.embeddings,
            "kmeans_sample": fitted.kmeans_sample,
            "small_clusters": fitted.small_clusters,
            "kmeans_seconds": round(fitted.kmeans_seconds, 2),
            "moments_seconds": round(fitted.moments_seconds, 2),
        }
    return metadata


def evaluation_metadata(
    report: Evaluation, left_out: Collection[str], folder: Path
) -> dict[str, Any]:
    """Of an evaluation: scores and pictures; the partitions of priors that were not compared."""
    decoded, validation = report.picture_table(), report.validation_table()
    best = None if validation.empty else "{}, {} of the captions".format(*report.best_prior())
    return {
        "best_prior": best,
        "protocol": report.protocol.line,
        "priors_left_out": "; ".join(left_out) or None,
        **pictures(report.pictures, folder),
        "pictures": None if decoded.empty else table(decoded),
        "baselines": table(report.baseline_table()),
        "priors": table(report.prior_table()),
        "validation": None if validation.empty else table(validation),
    }


def report_metadata(report: StudyReport, folder: Path) -> dict[str, Any]:
    """Of an experiment's report: its tables and pictures, and the folder of their files."""
    tables = {f"{name}_table": dg.MetadataValue.md(text) for name, text in report.tables.items()}
    return {**pictures(report.pictures, folder), **tables}


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
