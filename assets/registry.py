"""The models in MLflow's registry; the alias `champion` decides what generates."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from assets.evaluation import IF_THERE, MODELS_THERE
from assets.metadata import OWNERS, table
from assets.versions import decided_by
from corgi_core.config import LANGUAGE_FREE
from corgi_core.io.model_index import CHAMPION, TextEncoderName
from orchestration.partitions import prior_of
from orchestration.resources.artifacts import (
    ClipEnsemble,
    Decoder,
    Evaluation,
    FolderBacked,
    PriorModel,
)
from orchestration.resources.model_registry import Registry
from orchestration.resources.tracking import MLflow
from orchestration.resources.workspace import Workspace

FREE_PRIOR = "language-free"  # an alias

if TYPE_CHECKING:
    from corgi_core.decoders.decoder import Decoder as DecoderModel
    from corgi_core.evaluation.report import Evaluation as Report


@dg.asset(
    group_name="registry",
    owners=OWNERS,
    kinds={"mlflow"},
    ins=MODELS_THERE | {"captioned_decoder": IF_THERE},
    metadata=decided_by(revision=7),
)
def registered_models(
    context: dg.AssetExecutionContext,
    evaluation: Evaluation,
    prior: dict[str, PriorModel],
    decoder: dict[str, Decoder],
    captioned_decoder: dict[str, Decoder],
    language_free_decoder: dict[str, Decoder],
    clip_encoder: ClipEnsemble,
    workspace: Workspace,
    mlflow: MLflow,
) -> dg.MaterializeResult[None]:
    """Every evaluated prior, the decoders and the CLIP encoders as model folders, each digest once.

    The champion among the priors has the highest held-out cosine at the preset's sampling steps,
    that among the decoders is the preset's first. A decoder also has its kind for an alias, with
    the source where it is language-free; one that reads captions has "captions-100" for the subset
    of 100 %. The best prior that is language-free has "language-free".
    """
    reading = {
        f"captions-{subset.removesuffix('%').replace('.', '_')}": model
        for subset, model in captioned_decoder.items()
    }
    free = {
        f"{kind}-{workspace.language_free.source}": model
        for kind, model in language_free_decoder.items()
    }
    decoders = {**decoder, **reading, **free}
    champion = workspace.preset.decoder
    assert champion is not None
    encoders = workspace.preset.encoders
    text_encoder = TextEncoderName(encoders.text, encoders.text_tokens)
    return registered(
        evaluation, prior, decoders, champion.kind, clip_encoder, text_encoder, mlflow
    )


def registered(
    evaluation: "Report",
    priors: "Mapping[str, PriorModel]",
    decoders: "Mapping[str, DecoderModel]",
    champion: str | None,
    clip: FolderBacked,
    text_encoder: TextEncoderName,
    mlflow: MLflow,
) -> dg.MaterializeResult[None]:
    """Register models, and set the aliases that decide which of them generate.

    The aliases are exported to `models.json` last, so that it never names a missing model.

    Args:
        evaluation: ranks the priors; those that it left out are not registered.
        priors: by partition.
        decoders: by alias.
        champion: the alias of the decoder that is promoted; None where there is none.
        clip: the CLIP encoders.
        text_encoder: the encoder of the text tokens that the priors read.
        mlflow: the store.
    """
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
    if free := [name for name in versions if name[1] == LANGUAGE_FREE]:
        registry.alias("prior", FREE_PRIOR, versions[evaluation.best_prior(free)])
    for kind, decoder in decoders.items():
        description = f"The {kind} decoder of {mlflow.experiment}."
        version = registry.register("decoder", decoder, {"kind": kind}, description)
        registry.alias("decoder", kind, version)
        if kind == champion:
            registry.promote("decoder", version, f"{kind} is the decoder of this preset")
    version = registry.register("clip", clip, {}, f"The clip of {mlflow.experiment}.")
    registry.promote("clip", version, "the only one of this preset and data")
    registry.write_index(Path(mlflow.models_file), text_encoder)
    rows = [
        {"model": registry.name("prior"), "version": version, "variant": v, "captions": s,
         "alias": CHAMPION if (v, s) == best else ""}
        for (v, s), version in versions.items()
    ]  # fmt: skip
    return dg.MaterializeResult(
        data_version=dg.DataVersion(registry.digest),
        metadata={"models": table(pd.DataFrame(rows)), "new_versions": registry.added},
    )
