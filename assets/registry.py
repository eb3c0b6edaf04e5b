"""The models in MLflow's registry; the alias `champion` decides what generates.

Every caption fraction has a champion among its priors, `champion-1_7`; `champion` is the best of
all.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from assets.evaluation import IF_THERE, MODELS_THERE
from assets.metadata import OWNERS, table
from assets.versions import decided_by
from corgi_core.config import LANGUAGE_FREE
from corgi_core.io.model_index import CHAMPION, TextEncoderName, alias_of, champion_of
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
    import pandas as pd

    from corgi_core.decoders.decoder import Decoder as DecoderModel
    from corgi_core.evaluation.report import Evaluation as Report


@dg.asset(
    group_name="registry",
    owners=OWNERS,
    kinds={"mlflow"},
    ins=MODELS_THERE | {"captioned_decoder": IF_THERE},
    metadata=decided_by(revision=8),
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

    The champion among the priors has the highest validation cosine at the preset's sampling steps;
    that of a caption fraction, such as "champion-1_7", is the best of those that learned from it.
    The champion among the decoders is the preset's first. A decoder also has its kind for an alias,
    with the source where it is language-free; one that reads captions has "captions-100" for the
    subset of 100 %. The best prior that is language-free has "language-free" too.
    """
    decoders: dict[str, Decoder] = {
        **decoder,
        **{f"captions-{alias_of(subset)}": model for subset, model in captioned_decoder.items()},
        **{
            f"{kind}-{workspace.language_free.source}": model
            for kind, model in language_free_decoder.items()
        },
    }
    return registered(evaluation, prior, decoders, clip_encoder, workspace, mlflow)


def registered(
    evaluation: "Report",
    priors: "Mapping[str, PriorModel]",
    decoders: "Mapping[str, DecoderModel]",
    clip: FolderBacked,
    workspace: Workspace,
    mlflow: MLflow,
) -> dg.MaterializeResult[None]:
    """Register models, and set the aliases that decide which of them generate.

    The aliases are exported to `models.json` last, so that it never names a missing model.

    Args:
        evaluation: ranks the priors; those that it left out are not registered.
        priors: by partition.
        decoders: by alias; the preset's own decoder is promoted.
        clip: the CLIP encoders.
        workspace: whose preset names the decoder, and the encoder of the priors' text tokens.
        mlflow: the store.
    """
    registry, preset = Registry(mlflow), workspace.preset
    priors_table = _register_priors(registry, evaluation, priors)
    for kind, decoder in decoders.items():
        description = f"The {kind} decoder of {mlflow.experiment}."
        version = registry.register("decoder", decoder, {"kind": kind}, description)
        registry.alias("decoder", kind, version)
        if preset.decoder is not None and kind == preset.decoder.kind:
            registry.promote("decoder", version, f"{kind} is the decoder of this preset")
    version = registry.register("clip", clip, {}, f"The clip of {mlflow.experiment}.")
    registry.promote("clip", version, "the only one of this preset and data")
    text_encoder = TextEncoderName(preset.encoders.text, preset.encoders.text_tokens)
    registry.write_index(Path(mlflow.models_file), text_encoder)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(registry.digest),
        metadata={
            "models": table(priors_table),
            "new_versions": registry.added,
            "mlflow_models": dg.MetadataValue.url(registry.page),
        },
    )


def _register_priors(
    registry: Registry, evaluation: "Report", priors: "Mapping[str, PriorModel]"
) -> "pd.DataFrame":
    """Register the evaluated priors, and promote the best; a row each: model, version, alias."""
    import pandas as pd

    from corgi_core.evaluation.plain_scores import prior_scores

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
            f"{variant}, {subset} of the captions: test cosine "
            f"{score['cosine'].item():.4f} at {steps} sampling steps.",
            prior_scores(evaluation.metrics, variant, subset),
        )
    registry.promote("prior", versions[best], f"highest validation cosine at {steps} steps")
    aliases = {name: [CHAMPION] if name == best else [] for name in versions}
    for subset in dict.fromkeys(subset for _, subset in versions):
        champion = evaluation.best_prior([name for name in versions if name[1] == subset])
        aliases[champion] += [champion_of(subset)] + [FREE_PRIOR] * (subset == LANGUAGE_FREE)
        for alias in aliases[champion]:
            registry.alias("prior", alias, versions[champion])
    rows = [
        {"model": registry.name("prior"), "version": version, "variant": v, "captions": s,
         "alias": ", ".join(aliases[v, s])}
        for (v, s), version in versions.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)
