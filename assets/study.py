"""The study of the prior: many small trainings that differ in one thing, and figures of them."""

from contextlib import closing
from typing import Any

import dagster as dg

from assets.metadata import OWNERS, link, materialized, table
from assets.pictures import picture
from assets.versions import decided_by
from corgi_core.io.files import digest_of
from orchestration.partitions import STUDY
from orchestration.resources.artifacts import ArrayStore, Dataset, StudyReport
from orchestration.resources.compute import Compute
from orchestration.resources.tracking import MLflow
from orchestration.resources.trainer import DEVICE, code_version
from orchestration.resources.workspace import Workspace

REVISION = 6  # of the trainings: another one trains every arm anew


@dg.asset(
    group_name=STUDY,
    owners=OWNERS,
    kinds={"pytorch", "ray", "mlflow"},
    pool=DEVICE,
    metadata=decided_by("study", "prior", "gaussians", revision=REVISION, partitions="study_seeds"),
)
def prior_study(
    context: dg.AssetExecutionContext,
    images: Dataset,
    image_embeddings: ArrayStore,
    text_embeddings: ArrayStore,
    workspace: Workspace,
    compute: Compute,
    mlflow: MLflow,
) -> dg.MaterializeResult[StudyReport]:
    """Every arm of one seed, trained and measured on held-out captions: one arm a CPU at a time.

    Finished arms are read from their files, so an interrupted study continues.
    """
    from corgi_core.experiments.prior_ablation import measure, report, sweeps
    from corgi_core.experiments.report import StudyReport as Report

    preset, seed = workspace.preset, int(context.partition_key)
    inputs = {
        "images": images.digest,
        "image_embeddings": image_embeddings.digest,
        "text_embeddings": text_embeddings.digest,
    }
    folder = workspace.work_folder(context, digest_of(inputs, REVISION))
    study = measure.Study(images, image_embeddings, text_embeddings, preset, folder, compute.device)
    plans = sweeps.plans_of(sweeps.sweeps_of(preset), seed, preset.study.steps[-1])
    measurements = []
    with closing(compute.map(measure.measure_arm, study, plans, f"arms of seed {seed}")) as arms:
        for found in arms:
            about, *_ = found["training"]
            identity = digest_of(code_version(context), inputs, found)
            with mlflow.run(context, f"study-{about['arm']}", identity, inputs, about) as run:
                for entry in report.metrics_by_step(found):
                    run.log_metrics(entry)
            measurements.append(found)
    measurements.append(measure.measure_references(study, seed))
    result = Report.joined(measurements)
    return materialized(result, arms=len(plans), samples=table(result.frame("samples")))


@dg.asset(
    group_name=STUDY,
    owners=OWNERS,
    kinds={"matplotlib", "mlflow"},
    metadata=decided_by("study", "gaussians", revision=1),
)
def study_figures(
    context: dg.AssetExecutionContext,
    prior_study: dict[str, StudyReport],
    workspace: Workspace,
    mlflow: MLflow,
) -> dg.MaterializeResult[StudyReport]:
    """Means over the seeds with 95 % intervals: the paper's figures, sweeps, controls, tables."""
    from corgi_core.experiments.prior_ablation.report import compose_report

    result = compose_report(prior_study.values(), workspace.preset)
    folder = workspace.reports_folder / STUDY
    result.save(folder)
    inputs = {f"prior_study.{seed}": part.digest for seed, part in prior_study.items()}
    identity = digest_of(code_version(context), inputs)
    with mlflow.run(context, STUDY, identity, inputs, vars(workspace.preset.study)) as run:
        run.log_artifacts(folder, STUDY)
        url = run.url
    metadata: dict[str, Any] = {
        "mlflow_run": link(url),
        **{name: picture(image) for name, image in result.pictures.items()},
        **{f"{name}_table": dg.MetadataValue.md(text) for name, text in result.tables.items()},
    }
    return materialized(result, **metadata)
