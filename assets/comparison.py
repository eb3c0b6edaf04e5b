"""Every kind of decoder beside the others: what each draws, with captions and without."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.evaluation import MODELS_THERE, comparable, prior_versions
from assets.metadata import OWNERS, link, materialized, picture
from assets.versions import decided_by
from corgi_core.config import LANGUAGE_FREE
from corgi_core.io.files import digest_of
from orchestration.partitions import COMPARISON
from orchestration.resources.artifacts import (
    ArrayStore,
    ClipEnsemble,
    Dataset,
    Decoder,
    PriorModel,
    StudyReport,
)
from orchestration.resources.tracking import MLflow
from orchestration.resources.trainer import code_version
from orchestration.resources.workspace import Workspace

if TYPE_CHECKING:
    from corgi_core.experiments.decoder_comparison.measure import Contest
    from corgi_core.experiments.report import StudyReport as Report


@dg.asset(
    group_name=COMPARISON,
    owners=OWNERS,
    kinds={"pytorch", "mlflow"},
    ins=MODELS_THERE,
    metadata=decided_by("comparison", "language_free", revision=1),
)
def decoder_comparison(
    context: dg.AssetExecutionContext,
    images: Dataset,
    pixels: ArrayStore,
    clip_encoder: ClipEnsemble,
    image_embeddings: ArrayStore,
    text_embeddings: ArrayStore,
    prior: dict[str, PriorModel],
    decoder: dict[str, Decoder],
    language_free_decoder: dict[str, Decoder],
    workspace: Workspace,
    mlflow: MLflow,
) -> dg.MaterializeResult[StudyReport]:
    """All decoders that are there, fed with real images' embeddings and with every prior's."""
    from corgi_core.evaluation.nearest import TrainingImages
    from corgi_core.experiments.decoder_comparison import compose, measure

    preset = workspace.preset
    priors = {
        (variant, subset): model
        for (variant, subset), model in comparable(
            prior, preset.prior, text_embeddings.spec
        ).items()
        if variant in preset.comparison.variants
    }
    free = {name: model for name, model in priors.items() if name[1] == LANGUAGE_FREE}
    held_out = set(images.first_captions("test"))
    contests = [
        measure.Contest(
            "supervision", decoder, {n: m for n, m in priors.items() if n not in free},
            tuple(held_out),
        )
    ]  # fmt: skip
    if free and language_free_decoder:
        keys = held_out & set(images.keys("test", workspace.language_free.source))
        contests.append(measure.Contest("language-free", language_free_decoder, free, tuple(keys)))
    material = measure.Material(
        clip_encoder, TrainingImages(images, image_embeddings), text_embeddings, pixels
    )
    inputs = _versions(contests) | {"images": images.digest}
    about = vars(preset.comparison)
    identity = digest_of(code_version(context), inputs, about)
    folder = workspace.reports_folder / COMPARISON
    with mlflow.run(context, COMPARISON, identity, inputs, about) as run:
        report = compose.compared(contests, material, preset.comparison)
        report.save(folder)
        for entry in _entries(report):
            run.log_metrics(entry)
        run.log_artifacts(folder, COMPARISON)
        url = run.url
    shown: dict[str, Any] = {
        "mlflow_run": link(url),
        **{f"{name}_table": dg.MetadataValue.md(text) for name, text in report.tables.items()},
        **{name: picture(image) for name, image in report.pictures.items()},
    }
    return materialized(report, **shown)


def _versions(contests: "list[Contest]") -> dict[str, str]:
    """Data versions of all models that take part."""
    versions: dict[str, str] = {}
    for contest in contests:
        decoders = {f"{contest.name}.{k}": model.digest for k, model in contest.decoders.items()}
        versions |= prior_versions(contest.priors) | decoders
    return versions


def _entries(report: "Report") -> Iterator[Mapping[str, Any]]:
    """One entry a row for MLflow's charts; the step is the seed."""
    from corgi_core.experiments.decoder_comparison.compose import ROWS
    from corgi_core.experiments.decoder_comparison.tables import CASE, METRICS

    for row in report.rows[ROWS]:
        case = "/".join(row[part] for part in ("contest", *CASE) if row[part])
        case = case.replace("%", "pc")
        yield {"step": row["seed"], **{f"{case}/{metric}": row[metric] for metric in METRICS}}
