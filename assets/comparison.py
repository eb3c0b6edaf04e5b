"""The comparison of all kinds of decoders, with captions and without."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.embeddings import CLIP
from assets.evaluation import MODELS_THERE, comparable, material_of, prior_versions
from assets.metadata import OWNERS
from assets.reports import reported
from assets.versions import decided_by
from corgi_core.config import LANGUAGE_FREE
from corgi_core.data.revisions import EVALUATION_JOBS, LINEAR_PRIORS_REVISION, STRATA_JOBS
from orchestration.partitions import COMPARISON
from orchestration.resources.artifacts import (
    ArrayStore,
    Dataset,
    SplitOverlap,
    StoredDecoder,
    StoredPrior,
    StudyReport,
)
from orchestration.resources.compute import Compute
from orchestration.resources.tracking import MLflow
from orchestration.resources.trainer import DEVICE
from orchestration.resources.workspace import Workspace

if TYPE_CHECKING:
    from corgi_core.experiments.decoder_comparison.measure import Comparison


@dg.asset(
    group_name=COMPARISON,
    owners=OWNERS,
    kinds={"pytorch", "mlflow"},
    pool=DEVICE,
    ins=MODELS_THERE,
    deps=[CLIP],
    metadata=decided_by(
        "comparison",
        "language_free",
        "near_training",
        revision=(8, LINEAR_PRIORS_REVISION, *EVALUATION_JOBS, *STRATA_JOBS),
    ),
)
def decoder_comparison(
    context: dg.AssetExecutionContext,
    images: Dataset,
    pixels: ArrayStore,
    image_embeddings: ArrayStore,
    text_embeddings: ArrayStore,
    split_overlap: SplitOverlap,
    prior: dict[str, StoredPrior],
    decoder: dict[str, StoredDecoder],
    language_free_decoder: dict[str, StoredDecoder],
    workspace: Workspace,
    compute: Compute,
    mlflow: MLflow,
) -> dg.MaterializeResult[StudyReport]:
    """All existing decoders, on the embeddings of real images, of captions and of every prior."""
    from corgi_core.experiments.decoder_comparison.report import chart_entries, report_of

    settings, encoders = workspace.preset.comparison, text_embeddings.spec
    comparisons = _comparisons(prior, decoder, language_free_decoder, encoders, workspace)
    material = material_of(
        context, workspace, compute, images, image_embeddings, text_embeddings, pixels,
        split_overlap.left_out,
    )  # fmt: skip
    make = partial(report_of, comparisons, material, settings, workspace.preset.evaluation)
    inputs = _versions(comparisons) | {
        "images": images.digest, "split_overlap": split_overlap.digest
    }  # fmt: skip
    return reported(context, COMPARISON, inputs, settings, make, workspace, mlflow, chart_entries)


def _comparisons(
    prior: dict[str, StoredPrior],
    decoders: dict[str, StoredDecoder],
    language_free_decoders: dict[str, StoredDecoder],
    encoders: Mapping[str, Any],
    workspace: Workspace,
) -> "list[Comparison]":
    """Of the preset's variants: by supervision; and without language, if there are such models."""
    from corgi_core.experiments.decoder_comparison.measure import Comparison

    every = comparable(prior, workspace.preset.prior, encoders)
    variants = workspace.preset.comparison.variants
    priors = {name: model for name, model in every.items() if name[0] in variants}
    free = {name: model for name, model in priors.items() if name[1] == LANGUAGE_FREE}
    others = {name: model for name, model in priors.items() if name not in free}
    comparisons = [Comparison("supervision", decoders, others)]
    if free and language_free_decoders:
        source = workspace.language_free.source
        comparisons.append(Comparison("language-free", language_free_decoders, free, source))
    return comparisons


def _versions(comparisons: "list[Comparison]") -> dict[str, str]:
    """Data versions of all models that are compared."""
    versions: dict[str, str] = {}
    for each in comparisons:
        decoders = {f"{each.name}.{k}": model.digest for k, model in each.decoders.items()}
        versions |= prior_versions(each.priors) | decoders
    return versions
