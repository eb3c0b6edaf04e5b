"""The models in MLflow's registry; the alias `champion` decides what generates."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import dagster as dg

from assets.evaluation import DRAWING, PRIORS_THERE
from assets.metadata import OWNERS, table
from orchestration.artifacts import (
    ClipEnsemble,
    Decoder,
    Evaluation,
    FolderBacked,
    PriorModel,
)
from orchestration.champions import CHAMPION
from orchestration.partitions import prior_of
from orchestration.registry import Registry
from orchestration.resources.mlflow import MLflow

if TYPE_CHECKING:
    from corgi_core.evaluation.report import Evaluation as Report


@dg.asset(
    group_name="registry",
    owners=OWNERS,
    kinds={"mlflow"},
    ins=PRIORS_THERE | DRAWING,
    code_version="2",
)
def registered_models(
    context: dg.AssetExecutionContext,
    evaluation: Evaluation,
    prior: dict[str, PriorModel],
    decoder: Decoder,
    clip_encoder: ClipEnsemble,
    mlflow: MLflow,
) -> dg.MaterializeResult[None]:
    """Every evaluated prior, the decoder and the CLIP encoders as model folders, each digest once.

    The champion among the priors has the highest held-out cosine at the preset's sampling steps.
    """
    return registered(evaluation, prior, {"decoder": decoder, "clip": clip_encoder}, mlflow)


def registered(
    evaluation: "Report",
    priors: "Mapping[str, PriorModel]",
    others: Mapping[str, FolderBacked],
    mlflow: MLflow,
) -> dg.MaterializeResult[None]:
    """The evaluated ones of `priors`, by partition, and the `others`, each the only one of its."""
    import pandas as pd

    registry = Registry(mlflow)
    best, scores = evaluation.best_prior(), evaluation.prior_table()
    steps = evaluation.metrics["protocol"]["prior_steps"]
    versions = {}
    for key, model in priors.items():
        variant, subset = prior_of(key)
        score = scores.query("variant == @variant and captions == @subset and steps == @steps")
        if score.empty:  # stale, so the evaluation left it out
            continue
        versions[variant, subset] = registry.register(
            "prior",
            model,
            {"variant": variant, "caption_subset": subset},
            f"{variant}, {subset} of the captions: held-out cosine "
            f"{score['cosine'].item():.4f} at {steps} sampling steps.",
        )
    registry.promote("prior", versions[best], f"highest held-out cosine at {steps} steps")
    for name, artifact in others.items():
        version = registry.register(name, artifact, {}, f"The {name} of {mlflow.experiment}.")
        registry.promote(name, version, "the only one of this preset and data")
    shown = [
        {"model": registry.name("prior"), "version": version, "variant": v, "captions": s,
         "alias": CHAMPION if (v, s) == best else ""}
        for (v, s), version in versions.items()
    ]  # fmt: skip
    return dg.MaterializeResult(
        data_version=dg.DataVersion(registry.digest),
        metadata={"models": table(pd.DataFrame(shown)), "new_versions": registry.added},
    )
