"""The comparison of all kinds of decoders, with captions and without."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.embeddings import CLIP
from assets.evaluation import MODELS_THERE, comparable, prior_versions
from assets.metadata import OWNERS, link, materialized
from assets.pictures import picture
from assets.versions import decided_by
from corgi_core.config import LANGUAGE_FREE
from corgi_core.data.revisions import EVALUATION_JOBS
from corgi_core.io.files import digest_of
from orchestration.partitions import COMPARISON
from orchestration.resources.artifacts import (
    ArrayStore,
    Dataset,
    StoredDecoder,
    StoredPrior,
    StudyReport,
)
from orchestration.resources.compute import Compute
from orchestration.resources.tracking import MLflow, TrackedRun
from orchestration.resources.trainer import DEVICE, code_version
from orchestration.resources.workspace import Workspace

if TYPE_CHECKING:
    from corgi_core.experiments.decoder_comparison.measure import Comparison, Name
    from corgi_core.experiments.report import StudyReport as Report


@dg.asset(
    group_name=COMPARISON,
    owners=OWNERS,
    kinds={"pytorch", "mlflow"},
    pool=DEVICE,
    ins=MODELS_THERE,
    deps=[CLIP],
    metadata=decided_by("comparison", "language_free", revision=(3, *EVALUATION_JOBS)),
)
def decoder_comparison(
    context: dg.AssetExecutionContext,
    images: Dataset,
    pixels: ArrayStore,
    image_embeddings: ArrayStore,
    text_embeddings: ArrayStore,
    prior: dict[str, StoredPrior],
    decoder: dict[str, StoredDecoder],
    language_free_decoder: dict[str, StoredDecoder],
    workspace: Workspace,
    compute: Compute,
    mlflow: MLflow,
) -> dg.MaterializeResult[StudyReport]:
    """All existing decoders, on the embeddings of real images, of captions and of every prior."""
    from corgi_core.evaluation.material import Material
    from corgi_core.evaluation.nearest import TrainingImages
    from corgi_core.experiments.decoder_comparison.report import report_of

    settings = workspace.preset.comparison
    priors = {
        name: model
        for name, model in comparable(prior, workspace.preset.prior, text_embeddings.spec).items()
        if name[0] in settings.variants
    }
    comparisons = _comparisons(priors, decoder, language_free_decoder, workspace)
    training = TrainingImages(images, image_embeddings)
    material = Material(
        images, image_embeddings, text_embeddings, workspace.chunks_folder(context), compute.arrays,
        pixels, workspace.path_of(CLIP), workspace.preset.inference_precision,
    )  # fmt: skip
    inputs = _versions(comparisons) | {"images": images.digest}
    identity = digest_of(code_version(context), inputs, vars(settings))
    with mlflow.run(context, COMPARISON, identity, inputs, vars(settings)) as run:
        report = report_of(comparisons, material, training, settings)
        _publish(report, run, workspace)
        url = run.url
    return materialized(report, mlflow_run=link(url), **_displayed(report))


def _comparisons(
    priors: "Mapping[Name, StoredPrior]",
    decoders: dict[str, StoredDecoder],
    language_free_decoders: dict[str, StoredDecoder],
    workspace: Workspace,
) -> "list[Comparison]":
    """By supervision; and without language, if there are models for that."""
    from corgi_core.experiments.decoder_comparison.measure import Comparison

    free = {name: model for name, model in priors.items() if name[1] == LANGUAGE_FREE}
    others = {name: model for name, model in priors.items() if name not in free}
    comparisons = [Comparison("supervision", decoders, others)]
    if free and language_free_decoders:
        source = workspace.language_free.source
        comparisons.append(Comparison("language-free", language_free_decoders, free, source))
    return comparisons


def _publish(report: "Report", run: TrackedRun, workspace: Workspace) -> None:
    """Save the report in the workspace, and send its scores and files to MLflow."""
    folder = workspace.reports_folder / COMPARISON
    report.save(folder)
    for entry in _entries(report):
        run.log_metrics(entry)
    run.log_artifacts(folder, COMPARISON)


def _displayed(report: "Report") -> dict[str, Any]:
    """The report's tables and pictures as Dagster displays them."""
    tables = {f"{name}_table": dg.MetadataValue.md(text) for name, text in report.tables.items()}
    return {**tables, **{name: picture(image) for name, image in report.pictures.items()}}


def _versions(comparisons: "list[Comparison]") -> dict[str, str]:
    """Data versions of all models that are compared."""
    versions: dict[str, str] = {}
    for each in comparisons:
        decoders = {f"{each.name}.{k}": model.digest for k, model in each.decoders.items()}
        versions |= prior_versions(each.priors) | decoders
    return versions


def _entries(report: "Report") -> Iterator[Mapping[str, Any]]:
    """One entry a row for MLflow's charts; the step is the seed."""
    from corgi_core.experiments.decoder_comparison.report import CASE, METRICS, ROWS

    for row in report.rows[ROWS]:
        case = "/".join(row[part] for part in ("comparison", *CASE) if row[part])
        case = case.replace("%", "pc")
        yield {"step": row["seed"], **{f"{case}/{metric}": row[metric] for metric in METRICS}}
