"""The models in MLflow's registry; the alias `champion` decides what generates.

Every caption fraction has a champion among its priors, `champion-1_7`; `champion` is the best of
all. A prior becomes champion at the gate (`assets/promotion.py`).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import dagster as dg

from assets import checks
from assets.evaluation import IF_THERE, MODELS_THERE
from assets.metadata import OWNERS, table, trace_metadata
from assets.promotion import PROMOTION_CHECK, Gate, check_result
from assets.versions import decided_by
from corgi_core.config import LANGUAGE_FREE
from corgi_core.errors import CorgiError
from corgi_core.io.model_index import CHAMPION, TextEncoderName, alias_of, champion_of
from orchestration.partitions import prior_of
from orchestration.resources.artifacts import (
    ClipEnsemble,
    Decoder,
    Evaluation,
    FolderBacked,
    PriorModel,
)
from orchestration.resources.champions import SUBSET_TAG, VARIANT_TAG, Champions
from orchestration.resources.check_results import not_passed
from orchestration.resources.instance import PROMOTION
from orchestration.resources.model_registry import Registry
from orchestration.resources.promotion_history import Entry, Event
from orchestration.resources.served_pipeline import register_pipeline
from orchestration.resources.tracking import MLflow
from orchestration.resources.workspace import Workspace

FREE_PRIOR = "language-free"  # an alias
BLOCKING = [
    spec.key
    for check in vars(checks).values()
    if isinstance(check, dg.AssetChecksDefinition)
    for spec in check.check_specs
    if spec.blocking
]

if TYPE_CHECKING:
    import pandas as pd

    from corgi_core.decoders.decoder import Decoder as DecoderModel
    from corgi_core.evaluation.report import Evaluation as Report


@dg.asset(
    group_name="registry",
    owners=OWNERS,
    kinds={"mlflow"},
    ins=MODELS_THERE | {"captioned_decoder": IF_THERE},
    metadata=decided_by(revision=9),
    pool=PROMOTION,
    check_specs=[PROMOTION_CHECK],
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
) -> dg.MaterializeResult:  # type: ignore[type-arg]  # so Dagster wants it, with a check
    """Every evaluated prior, the decoders and the CLIP encoders as model folders, each digest once.

    Every caption fraction has a champion among its priors, such as "champion-1_7", which another
    one replaces that is better on the validation captions beyond a paired interval; "champion" is
    the best of these. The champion among the decoders is the preset's first. A decoder also has its
    kind for an alias, with the source where it is language-free; one that reads captions has
    "captions-100" for the subset of 100 %. The champion of the language-free priors has
    "language-free" too.
    """
    decoders: dict[str, Decoder] = {
        **decoder,
        **{f"captions-{alias_of(subset)}": model for subset, model in captioned_decoder.items()},
        **{
            f"{kind}-{workspace.language_free.source}": model
            for kind, model in language_free_decoder.items()
        },
    }
    return registered(context, evaluation, prior, decoders, clip_encoder, workspace, mlflow)


def registered(
    context: dg.AssetExecutionContext,
    evaluation: "Report",
    priors: "Mapping[str, PriorModel]",
    decoders: "Mapping[str, DecoderModel]",
    clip: FolderBacked,
    workspace: Workspace,
    mlflow: MLflow,
) -> dg.MaterializeResult[None]:
    """Register models, and decide at the gate which of them generate.

    The aliases are exported to `models.json` last, so that it never names a missing model; and the
    champions together are a model that MLflow serves.

    Args:
        context: The asset's.
        evaluation: ranks the priors; those that it left out are not registered.
        priors: by partition.
        decoders: by alias; the preset's own decoder is the champion.
        clip: the CLIP encoders.
        workspace: whose preset names the decoder, and the encoder of the priors' text tokens.
        mlflow: the store.
    """
    registry, preset = Registry(mlflow), workspace.preset
    versions = register_priors(registry, evaluation, priors)
    of_decoders = {
        kind: registry.register(
            "decoder", decoder, {"kind": kind}, f"The {kind} decoder of {mlflow.experiment}."
        )
        for kind, decoder in decoders.items()
    }
    of_clip = registry.register("clip", clip, {}, f"The clip of {mlflow.experiment}.")
    champions, failed = Champions(registry), not_passed(context.instance, BLOCKING)
    with champions.deciding() as entries:
        encoders = next(m.encoders for key, m in priors.items() if prior_of(key) in versions)
        gate = Gate(registry, champions, evaluation, encoders, failed)
        entries += gate.decide(versions)
        for kind, version in of_decoders.items():
            registry.alias("decoder", kind, version)
        of_preset = preset.decoder.kind if preset.decoder else ""
        entries += set_by_preset(
            champions, "decoder", of_decoders.get(of_preset), "the preset's decoder"
        )
        entries += set_by_preset(champions, "clip", of_clip, "the encoders of this preset and data")
        free = champions.present("prior", champion_of(LANGUAGE_FREE))
        if free is not None:
            registry.alias("prior", FREE_PRIOR, free)
        text_encoder = TextEncoderName(preset.encoders.text, preset.encoders.text_tokens)
        registry.write_index(text_encoder)
        register_pipeline(registry, text_encoder)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(registry.digest),
        check_results=[check_result(entries, failed)],
        metadata={
            "models": table(_table(registry, versions)),
            "new_versions": registry.added,
            "mlflow_models": dg.MetadataValue.url(registry.page),
            **trace_metadata(),
        },
    )


def set_by_preset(champions: Champions, part: str, version: str | None, reason: str) -> list[Entry]:
    """Make a version the champion of its part without the gate.

    Nothing where there is none, or where a person took the title from this version.
    """
    if version is None or version in champions.barred(part, CHAMPION):
        return []
    present = champions.present(part)
    return champions.promote(part, CHAMPION, version, Event.SET, reason, present)


def register_priors(
    registry: Registry, evaluation: "Report", priors: "Mapping[str, PriorModel]"
) -> dict[tuple[str, str], str]:
    """Register the evaluated priors; their versions by variant and caption subset.

    A prior that the evaluation has not scored is left out: one that was not comparable, or that was
    trained after it.

    Raises:
        CorgiError: it has scored none of them.
    """
    from corgi_core.evaluation.plain_scores import prior_scores

    scores, validation = evaluation.prior_table(), evaluation.validation
    steps = evaluation.metrics["protocol"]["prior_steps"]
    versions = {}
    for key, model in priors.items():
        variant, subset = prior_of(key)
        score = scores.query("variant == @variant and captions == @subset and steps == @steps")
        is_scored = validation is None or model.digest in set(validation["model"])
        if score.empty or not is_scored:
            continue
        versions[variant, subset] = registry.register(
            "prior",
            model,
            {VARIANT_TAG: variant, SUBSET_TAG: subset},
            f"{variant}, {subset} of the captions: test cosine "
            f"{score['cosine'].item():.4f} at {steps} sampling steps.",
            prior_scores(evaluation.metrics, variant, subset),
        )
    if not versions:
        raise CorgiError(
            "the evaluation has scores of none of the priors",
            "materialise `evaluation`, then `registered_models`",
        )
    return versions


def _table(registry: Registry, versions: Mapping[tuple[str, str], str]) -> "pd.DataFrame":
    """The evaluated priors, a row each: model, version, variant, captions, aliases."""
    import pandas as pd

    aliases = registry.aliases("prior")
    rows = [
        {"model": registry.name("prior"), "version": version, "variant": v, "captions": s,
         "alias": ", ".join(sorted(a for a, named in aliases.items() if named == version))}
        for (v, s), version in versions.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)
