"""All priors and the decoder under one protocol: numbers for DVC, pictures for people."""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.metadata import OWNERS, link, materialized, picture, table
from assets.versions import PRESETS_DECODER, decided_by
from corgi_core.errors import CorgiError
from corgi_core.io.files import atomic_file, digest_of, digest_of_file, write_json
from orchestration.partitions import prior_of
from orchestration.resources.artifacts import (
    ArrayStore,
    ClipEnsemble,
    Dataset,
    Decoder,
    Evaluation,
    PriorModel,
)
from orchestration.resources.io_managers import MISSING_ALLOWED
from orchestration.resources.tracking import MLflow
from orchestration.resources.trainer import code_version
from orchestration.resources.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from corgi_core.config import EvaluationSettings, PriorSettings
    from corgi_core.evaluation.report import Evaluation as Report

IF_THERE = dg.AssetIn(metadata={MISSING_ALLOWED: True})
PRIORS_THERE = {"prior": IF_THERE}
MODELS_THERE = PRIORS_THERE | {"decoder": IF_THERE, "language_free_decoder": IF_THERE}
DECODING = {"decoder": dg.AssetIn(partition_mapping=PRESETS_DECODER)}


@dg.asset(
    group_name="evaluation",
    owners=OWNERS,
    kinds={"pytorch", "mlflow", "dvc"},
    ins=PRIORS_THERE | DECODING,
    metadata=decided_by("evaluation", revision=4),
)
def evaluation(
    context: dg.AssetExecutionContext,
    images: Dataset,
    pixels: ArrayStore,
    clip_encoder: ClipEnsemble,
    image_embeddings: ArrayStore,
    text_embeddings: ArrayStore,
    prior: dict[str, PriorModel],
    decoder: Decoder,
    workspace: Workspace,
    mlflow: MLflow,
) -> dg.MaterializeResult[Evaluation]:
    """Held-out cosine and recall by steps, Fréchet distance and CLIP similarity, picture grids.

    Of every prior that is there: the preset's variants, and others that were materialised by name.
    """
    from corgi_core.evaluation.evaluate import evaluate

    captioned = held_out_captioned(images)
    measuring = workspace.preset.evaluation
    models = comparable(prior, workspace.preset.prior, text_embeddings.spec)
    inputs = {"decoder": decoder.digest, "images": images.digest}
    if measuring.inception_weights:
        inputs["inception_weights"] = digest_of_file(Path(measuring.inception_weights))

    def measure() -> "Report":
        return evaluate(
            models, decoder, clip_encoder, image_embeddings, text_embeddings, pixels,
            captions_of=dict(zip(captioned["key"], captioned["captions"].str[0], strict=True)),
            settings=measuring,
        )  # fmt: skip

    return evaluated(context, measure, measuring, models, prior, inputs, workspace, mlflow)


def evaluated(
    context: dg.AssetExecutionContext,
    measure: "Callable[[], Report]",
    measuring: "EvaluationSettings",
    models: "Mapping[tuple[str, str], PriorModel]",
    partitions: Collection[str],
    inputs: Mapping[str, str],
    workspace: Workspace,
    mlflow: MLflow,
) -> dg.MaterializeResult[Evaluation]:
    """Measure in a run of MLflow; `inputs` are the data versions of all but the priors.

    `partitions` are the priors that are there, `models` those of them that are measured.
    """
    versions = {**prior_versions(models), **inputs}
    identity = digest_of(code_version(context), versions, vars(measuring))
    with mlflow.run(context, "evaluation", identity, versions, vars(measuring)) as run:
        report = measure()
        publish(report, workspace.reports_folder)
        for entry in scores_by_steps(report):
            run.log_metrics(entry)
        run.log_artifacts(workspace.reports_folder, "report")
        url = run.url
    variant, subset = report.best_prior()
    pictures = report.picture_table()
    metadata: dict[str, Any] = {
        "mlflow_run": link(url),
        "best_prior": f"{variant}, {subset} of the captions",
        "priors_left_out": "; ".join(k for k in partitions if prior_of(k) not in models) or None,
        **{name: picture(image) for name, image in report.pictures.items()},
        "pictures": None if pictures.empty else table(pictures),
        "priors": table(report.prior_table()),
    }
    return materialized(report, **metadata)


def prior_versions(models: "Mapping[tuple[str, str], PriorModel]") -> dict[str, str]:
    """The priors' data versions, by names that MLflow takes."""
    return {f"prior.{v}.{s.removesuffix('%')}pc": m.digest for (v, s), m in models.items()}


def held_out_captioned(images: Dataset) -> "pd.DataFrame":
    """The manifest's rows of held-out images with captions."""
    manifest = images.manifest
    return manifest[(manifest["split"] == "test") & manifest["captions"].notna()]


def comparable(
    priors: "Mapping[str, PriorModel]", settings: "PriorSettings", encoders: Mapping[str, Any]
) -> "dict[tuple[str, str], PriorModel]":
    """By (variant, caption subset), the priors of the present settings and encoders.

    A variant that is not the preset's own is not kept up to date: it is left out when it has become
    stale, until it is materialised again.
    """
    models = {
        prior_of(key): model for key, model in priors.items()
        if model.settings == settings and model.encoders == encoders
    }  # fmt: skip
    if not models:
        raise CorgiError(
            f"none of {len(priors)} priors was trained with the present settings and encoders",
            "materialise the priors of the preset's variants first",
        )
    return models


def publish(report: "Report", folder: Path) -> None:
    """metrics.json (which `dvc metrics show` reads) and the pictures, for people."""
    write_json(folder / "metrics.json", report.metrics)
    for name, image in report.pictures.items():
        with atomic_file(folder / f"{name}.png") as temporary, temporary.open("wb") as file:
            image.save(file, format="PNG")


def scores_by_steps(report: "Report") -> Iterator[dict[str, Any]]:
    """One entry a prior and number of steps, for MLflow's charts over the steps."""
    for row in report.prior_table().to_dict("records"):
        name = f"{row['variant']}/{row['captions'].removesuffix('%')}pc"
        scores = ("cosine", "recall_at_1", "recall_at_5")
        yield {"step": row["steps"], **{f"{name}/{score}": row[score] for score in scores}}
