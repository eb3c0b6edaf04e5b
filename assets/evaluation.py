"""All priors and the decoder under one protocol: numbers for DVC, pictures for people."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.embeddings import CLIP
from assets.metadata import OWNERS, link, materialized, table
from assets.pictures import picture
from assets.versions import PRESETS_DECODER, decided_by
from corgi_core.data.revisions import EVALUATION_JOBS
from corgi_core.io.files import digest_of, digest_of_file
from orchestration.partitions import prior_of
from orchestration.resources.artifacts import (
    ArrayStore,
    Dataset,
    Evaluation,
    StoredDecoder,
    StoredPrior,
)
from orchestration.resources.compute import Compute
from orchestration.resources.io_managers import MISSING_ALLOWED
from orchestration.resources.tracking import MLflow
from orchestration.resources.trainer import DEVICE, code_version
from orchestration.resources.workspace import Workspace

if TYPE_CHECKING:
    from corgi_core.config import PriorSettings
    from corgi_core.evaluation.prior_scores import Name
    from corgi_core.evaluation.report import Evaluation as Report

ZERO_SHOT = "zero_shot"  # the group, and the reports' folder
IF_THERE = dg.AssetIn(metadata={MISSING_ALLOWED: True})
PRIORS_THERE = {"prior": IF_THERE}
MODELS_THERE = PRIORS_THERE | {"decoder": IF_THERE, "language_free_decoder": IF_THERE}
DECODING = {"decoder": dg.AssetIn(partition_mapping=PRESETS_DECODER)}


@dg.asset(
    group_name="evaluation",
    owners=OWNERS,
    kinds={"pytorch", "mlflow", "dvc"},
    pool=DEVICE,
    ins=PRIORS_THERE | DECODING,
    deps=[CLIP],
    metadata=decided_by("evaluation", revision=(6, *EVALUATION_JOBS)),
)
def evaluation(
    context: dg.AssetExecutionContext,
    images: Dataset,
    pixels: ArrayStore,
    image_embeddings: ArrayStore,
    text_embeddings: ArrayStore,
    prior: dict[str, StoredPrior],
    decoder: StoredDecoder,
    workspace: Workspace,
    compute: Compute,
    mlflow: MLflow,
) -> dg.MaterializeResult[Evaluation]:
    """Held-out cosine and recall by steps, Fréchet distance and CLIP similarity, picture grids.

    Of every prior that is there: the preset's variants, and others that were materialised by name.
    What is computed is stored in chunks, from which a killed evaluation goes on.
    """
    from corgi_core.evaluation.evaluate import evaluate
    from corgi_core.evaluation.material import Material

    settings = workspace.preset.evaluation
    inputs = {"decoder": decoder.digest, "images": images.digest}
    if settings.inception_weights:
        inputs["inception_weights"] = digest_of_file(Path(settings.inception_weights))

    material = Material(
        images, image_embeddings, text_embeddings, workspace.chunks_folder(context), compute.arrays,
        pixels, workspace.path_of(CLIP), workspace.preset.inference_precision,
    )  # fmt: skip

    def measure(priors: "Mapping[Name, StoredPrior]") -> "Report":
        return evaluate(priors, decoder, material, settings)

    return evaluated(context, measure, prior, text_embeddings.spec, inputs, workspace, mlflow)


def evaluated(
    context: dg.AssetExecutionContext,
    measure: "Callable[[Mapping[Name, StoredPrior]], Report]",
    prior: "Mapping[str, StoredPrior]",
    encoders: Mapping[str, Any],
    inputs: Mapping[str, str],
    workspace: Workspace,
    mlflow: MLflow,
    zero_shot: str = "",
) -> dg.MaterializeResult[Evaluation]:
    """Measure the comparable priors in a run of MLflow, and publish the report.

    Args:
        context: The asset's.
        measure: Priors by (variant, caption subset) → their report.
        prior: All priors that are there, by partition key.
        encoders: The present text embeddings' `spec`.
        inputs: The data versions of all inputs but the priors.
        workspace: Whose preset's evaluation this is.
        mlflow: Where the run is tracked.
        zero_shot: The other dataset that the priors are measured on, if they are.

    Returns:
        The report as the asset's value, and what Dagster displays of it.
    """
    priors = comparable(prior, workspace.preset.prior, encoders)
    versions, settings = {**prior_versions(priors), **inputs}, vars(workspace.preset.evaluation)
    identity = digest_of(code_version(context), versions, settings)
    name, folder, prefix = "evaluation", workspace.reports_folder, ""
    if zero_shot:
        name, folder, prefix = f"zero-shot-{zero_shot}", folder / ZERO_SHOT, f"{ZERO_SHOT}/"
        settings = settings | {"zero_shot": zero_shot}
    with mlflow.run(context, name, identity, versions, settings) as run:
        report = measure(priors)
        report.publish(folder)
        for entry in report.scores_by_steps():
            run.log_metrics({prefix + k if "/" in k else k: v for k, v in entry.items()})
        run.log_artifacts(folder, "report")
        url = run.url
    left_out = [key for key in prior if prior_of(key) not in priors]
    return materialized(report, mlflow_run=link(url), **_displayed(report, left_out))


def _displayed(report: "Report", left_out: Collection[str]) -> dict[str, Any]:
    """What Dagster displays of a report; `left_out` are the partitions that were not compared."""
    variant, subset = report.best_prior()
    pictures = report.picture_table()
    return {
        "best_prior": f"{variant}, {subset} of the captions",
        "priors_left_out": "; ".join(left_out) or None,
        **{name: picture(image) for name, image in report.pictures.items()},
        "pictures": None if pictures.empty else table(pictures),
        "priors": table(report.prior_table()),
    }


def comparable(
    prior: "Mapping[str, StoredPrior]", settings: "PriorSettings", encoders: Mapping[str, Any]
) -> "dict[Name, StoredPrior]":
    """`comparable_priors` of priors by partition key."""
    from corgi_core.evaluation.prior_scores import comparable_priors

    named = {prior_of(key): model for key, model in prior.items()}
    return comparable_priors(named, settings, encoders)


def prior_versions(models: "Mapping[Name, StoredPrior]") -> dict[str, str]:
    """The priors' data versions, by names that MLflow takes."""
    return {f"prior.{v}.{s.removesuffix('%')}pc": m.digest for (v, s), m in models.items()}
