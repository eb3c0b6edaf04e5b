"""All priors and the decoder under one protocol: numbers for DVC, pictures for people."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.embeddings import CLIP
from assets.metadata import OWNERS, evaluation_metadata, link, links, materialized
from assets.model_runs import Scored
from assets.reports import provenance, report_run, reports_beside, settings_labels
from assets.versions import PRESETS_DECODER, decided_by
from corgi_core.data.revisions import EVALUATION_JOBS, LINEAR_PRIORS_REVISION, STRATA_JOBS
from corgi_core.data.splits import TRAIN
from corgi_core.evaluation.report import METRICS
from corgi_core.io.files import digest_of_file
from orchestration.partitions import prior_of
from orchestration.resources.artifacts import (
    ArrayStore,
    Dataset,
    Evaluation,
    FolderBacked,
    SplitOverlap,
    StoredDecoder,
    StoredPrior,
)
from orchestration.resources.compute import Compute
from orchestration.resources.io_managers import MISSING_ALLOWED
from orchestration.resources.tracking import MLflow, Parent
from orchestration.resources.trainer import DEVICE
from orchestration.resources.workspace import Workspace

if TYPE_CHECKING:
    from corgi_core.config import PriorSettings
    from corgi_core.evaluation.material import Material, TrainingData
    from corgi_core.evaluation.prior_scores import Name

ZERO_SHOT = "zero_shot"  # the group, and the reports' folder
REPORT = "report"  # the folder of MLflow's run
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
    metadata=decided_by(
        "evaluation", revision=(15, LINEAR_PRIORS_REVISION, *EVALUATION_JOBS, *STRATA_JOBS)
    ),
)
def evaluation(
    context: dg.AssetExecutionContext,
    images: Dataset,
    pixels: ArrayStore,
    image_embeddings: ArrayStore,
    text_embeddings: ArrayStore,
    split_overlap: SplitOverlap,
    prior: dict[str, StoredPrior],
    decoder: StoredDecoder,
    workspace: Workspace,
    compute: Compute,
    mlflow: MLflow,
) -> dg.MaterializeResult[Evaluation]:
    """Test cosine and recall by steps, Fréchet distance and CLIP similarity, picture grids.

    And validation cosine and recall, by which champions are chosen: of every prior that is there
    (the preset's variants, and others that were materialised by name), of the present champions,
    and of baselines. What is computed is stored in chunks, from which a killed evaluation goes on.
    """
    material = material_of(
        context, workspace, compute, images, image_embeddings, text_embeddings, pixels,
        split_overlap.left_out,
    )  # fmt: skip
    inputs: dict[str, FolderBacked] = {
        "decoder": decoder, "images": images, "split_overlap": split_overlap
    }  # fmt: skip
    return evaluated(context, prior, decoder, material, inputs, workspace, mlflow)


def material_of(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    compute: Compute,
    images: Dataset,
    image_embeddings: ArrayStore,
    text_embeddings: ArrayStore,
    pixels: "ArrayStore | None" = None,
    left_out: frozenset[str] = frozenset(),
    other_training: "TrainingData | None" = None,
) -> "Material":
    """What an evaluation reads, with the asset's folder of chunks and the workspace's CLIP.

    `left_out`: keys of images that do not count. `other_training`: what the models learned from,
    where it is another dataset.
    """
    from corgi_core.evaluation.material import Material

    learned_from = other_training.images if other_training else images
    return Material(
        images, image_embeddings, text_embeddings, workspace.chunks_folder(context), compute.arrays,
        pixels, workspace.path_of(CLIP), workspace.preset.inference_precision,
        left_out, other_training, compute.map_images(sum(learned_from.images_of(TRAIN).values())),
    )  # fmt: skip


def evaluated(
    context: dg.AssetExecutionContext,
    prior: "Mapping[str, StoredPrior]",
    decoder: "StoredDecoder | None",
    material: "Material",
    inputs: Mapping[str, FolderBacked],
    workspace: Workspace,
    mlflow: MLflow,
    zero_shot: Mapping[str, Any] | None = None,
) -> dg.MaterializeResult[Evaluation]:
    """Evaluate the comparable priors in a run of MLflow, and publish the report.

    Each prior's scores go to the run that trained it, the baselines' to runs below this one.

    Args:
        context: The asset's.
        prior: All priors that are there, by partition key.
        decoder: Decodes what they sample; None where there are no pictures.
        material: The test and validation images and captions.
        inputs: All inputs but the priors, whose data versions are recorded.
        workspace: Whose preset's evaluation this is.
        mlflow: Where the run is tracked.
        zero_shot: What the report says of the other dataset that the priors are measured on, if
            they are; "dataset" is its name.

    Returns:
        The report as the asset's value, and what Dagster displays of it.
    """
    from corgi_core.evaluation.evaluate import evaluate
    from corgi_core.evaluation.other_priors import other_prior_digest
    from corgi_core.evaluation.page import NOTHING_BESIDE, write_page
    from corgi_core.metrics.dinov2 import dinov2_digest

    settings, folder, name = workspace.preset.evaluation, workspace.reports_folder, "evaluation"
    priors = comparable(prior, workspace.preset.prior, material.text_embeddings.spec)
    champions = {} if zero_shot else champions_of(mlflow, material.text_embeddings.spec)
    versions = prior_versions(priors) | {asset: each.digest for asset, each in inputs.items()}
    versions |= {f"prior.{alias}": model.digest for alias, model in champions.items()}
    if settings.captions_file:
        versions["captions_file"] = digest_of_file(Path(settings.captions_file))
    if decoder and settings.inception_weights:
        versions["inception_weights"] = digest_of_file(Path(settings.inception_weights))
    if decoder and settings.dinov2_weights:
        versions["dinov2_weights"] = dinov2_digest(settings.dinov2_weights)
    for other in settings.other_priors:
        versions[f"other_prior.{Path(other).name}"] = other_prior_digest(Path(other))
    labels = settings_labels("evaluation", settings, workspace)
    if zero_shot:
        name, folder = f"zero-shot-{zero_shot['dataset']}", folder / ZERO_SHOT
        labels |= {"zero_shot": zero_shot["dataset"]}
    beside = NOTHING_BESIDE if zero_shot else reports_beside(workspace, context.log)
    with report_run(context, name, versions, labels, mlflow) as (run, identity):
        report = evaluate(priors, decoder, material, settings, [*champions.values()])
        if zero_shot:
            report.metrics["protocol"]["zero_shot"] = dict(zero_shot)
        report.publish(folder)
        title = title_of(name, workspace)
        origin = provenance(context, run, versions, mlflow)
        page = write_page(report, folder, title, origin, beside)
        files = [METRICS, page.name, *(f"{picture}.png" for picture in report.pictures)]
        run.log_artifacts((folder / file for file in files), REPORT)
        scored = Scored(report, workspace, mlflow, inputs, f"{ZERO_SHOT}/" if zero_shot else "")
        runs = scored.send(context, priors, decoder, Parent(name, identity))
        run.log_datasets("eval", workspace.datasets(inputs))
        run.log_parameters({f"protocol.{k}": v for k, v in report.protocol.stored.items()})
        url, compared = run.url, mlflow.comparison(runs.values())
        charts_url = scored.share_view(run)
        page_url, *picture_urls = (run.artifact_url(f"{REPORT}/{file}") for file in files[1:])
    left_out = [key for key in prior if prior_of(key) not in priors]
    return materialized(
        report, report=link(page_url), mlflow_run=link(url), mlflow_comparison=link(compared),
        mlflow_charts=link(charts_url),
        full_pictures=links(dict(zip(report.pictures, picture_urls, strict=True))),
        mlflow_runs=links({name: each.url for name, each in runs.items()}),
        **evaluation_metadata(report, left_out, folder),
    )  # fmt: skip


def champions_of(mlflow: MLflow, encoders: Mapping[str, Any]) -> "dict[str, StoredPrior]":
    """The registry's champions among the priors of these encoders, by alias."""
    from corgi_core.evaluation.stored_models import StoredPrior
    from corgi_core.io.model_index import ModelIndex

    folders = ModelIndex.champions_in(Path(mlflow.models_file), "prior")
    models = {alias: StoredPrior.load(folder) for alias, folder in folders.items()}
    return {alias: model for alias, model in models.items() if model.encoders == encoders}


def title_of(name: str, workspace: Workspace) -> str:
    """The page's title; only its first letter is made a capital."""
    title = f"{name} of {workspace.preset.name}, {workspace.dataset}"
    return title[0].upper() + title[1:]


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
