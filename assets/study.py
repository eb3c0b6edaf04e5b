"""The study of the prior: many small trainings that differ in one thing, and figures of them."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import dagster as dg

from assets.gaussians import PASSED_OVER
from assets.metadata import OWNERS, links, materialized, table
from assets.reports import reported
from assets.versions import decided_by
from corgi_core.data.revisions import LINEAR_PRIORS_REVISION
from corgi_core.data.splits import TRAIN
from corgi_core.io.files import digest_of
from orchestration.partitions import STUDY
from orchestration.resources.artifacts import ArrayStore, Dataset, SplitOverlap, StudyReport
from orchestration.resources.compute import Compute
from orchestration.resources.tracking import MLflow, Parent
from orchestration.resources.trainer import DEVICE
from orchestration.resources.workspace import Workspace

if TYPE_CHECKING:
    from corgi_core.experiments.prior_ablation.measure import Measurement, Study
    from corgi_core.experiments.prior_ablation.sweeps import Plan

REVISION = 9  # of the trainings: another one trains every arm anew
REFERENCES_REVISION = 3  # of which captions are measured on, and what stands beside the arms
STUDY_ARMS = "study-arms"  # the run above those of all arms and seeds
ABOUT_ARMS = "Every arm of the study of the prior, of every seed, is below this run."


@dg.asset(
    group_name=STUDY,
    owners=OWNERS,
    kinds={"pytorch", "ray", "mlflow"},
    pool=DEVICE,
    metadata=decided_by(
        "study",
        "prior",
        "gaussians",
        revision=(REVISION, REFERENCES_REVISION, LINEAR_PRIORS_REVISION),
        partitions="study_seeds",
    ),
)
def prior_study(
    context: dg.AssetExecutionContext,
    images: Dataset,
    image_embeddings: ArrayStore,
    text_embeddings: ArrayStore,
    split_overlap: SplitOverlap,
    workspace: Workspace,
    compute: Compute,
    mlflow: MLflow,
) -> dg.MaterializeResult[StudyReport]:
    """Every arm of one seed, trained and measured on validation captions: one arm a CPU at a time.

    Finished arms are read from their files, so an interrupted study continues.
    """
    from corgi_core.experiments.prior_ablation import sweeps
    from corgi_core.experiments.prior_ablation.references import measure_references
    from corgi_core.experiments.report import StudyReport as Report

    preset, seed = workspace.preset, int(context.partition_key)
    plans = sweeps.plans_of(sweeps.sweeps_of(preset), seed, preset.study.steps[-1])
    inputs = (images, image_embeddings, text_embeddings)
    study = _study(context, *inputs, split_overlap.left_out, plans, workspace, compute)
    measurements, runs = _measured(context, study, plans, workspace, compute, mlflow)
    rows = [*measurements, measure_references(study, seed)]
    result = Report.joined(rows, {STUDY: study.protocol(seed)})
    samples = table(result.frame("samples"))
    return materialized(result, arms=len(plans), samples=samples, mlflow_runs=links(runs))


def _study(
    context: dg.AssetExecutionContext,
    images: Dataset,
    image_embeddings: ArrayStore,
    text_embeddings: ArrayStore,
    left_out: frozenset[str],
    plans: "Sequence[Plan]",
    workspace: Workspace,
    compute: Compute,
) -> "Study":
    """What all arms share, with the banks that unfinished ones start from.

    Other data are studied in another folder.
    """
    from corgi_core.experiments.prior_ablation.arms import fitted_banks
    from corgi_core.experiments.prior_ablation.measure import Study
    from corgi_core.gaussians.stream import EmbeddingStream

    inputs = _versions(images, image_embeddings, text_embeddings)
    folder = workspace.work_folder(context, digest_of(inputs, REVISION))
    preset, seed = workspace.preset, int(context.partition_key)
    training = EmbeddingStream.of_split(images, image_embeddings, TRAIN)
    study = Study(
        images, image_embeddings, text_embeddings, {}, preset, folder, compute.device, left_out
    )
    unfinished = [plan.arm for plan in plans if not study.measurement_file(plan).exists()]
    banks = fitted_banks(
        training, unfinished, image_embeddings.spec["encoder_dims"], preset.gaussians, seed,
        compute.map_images(training.count // PASSED_OVER),
    )  # fmt: skip
    return replace(study, fitted=banks)


def _measured(
    context: dg.AssetExecutionContext,
    study: "Study",
    plans: "Sequence[Plan]",
    workspace: Workspace,
    compute: Compute,
    mlflow: MLflow,
) -> "tuple[list[Measurement], dict[str, str | None]]":
    """The arms' measurements, and the pages of their runs of MLflow by name."""
    from corgi_core.experiments.prior_ablation.measure import measure_arm

    what = f"arms of seed {context.partition_key}"
    measurements, runs = list["Measurement"](), dict[str, str | None]()
    with closing(compute.map(measure_arm, study, plans, what)) as arms:
        for found in arms:
            runs |= _tracked(context, study, found, workspace, mlflow)
            measurements.append(found)
    return measurements, runs


def _tracked(
    context: dg.AssetExecutionContext,
    study: "Study",
    found: "Measurement",
    workspace: Workspace,
    mlflow: MLflow,
) -> dict[str, str | None]:
    """Send an arm's measurement to a run of MLflow; the run's page by its name."""
    from corgi_core.experiments.prior_ablation.report import (
        arm_labels,
        final_scores,
        metrics_by_step,
    )

    about, *_ = found["training"]
    name, inputs = f"study-{about['arm']}", _versions(study.dataset, study.images, study.texts)
    identity = digest_of(REVISION, inputs, found)
    preset = study.preset.digest("study", "prior", "gaussians")
    arms = Parent(STUDY_ARMS, digest_of(STUDY_ARMS, inputs, REVISION, preset), ABOUT_ARMS)
    labels = workspace.labels(about["seed"]) | arm_labels(about)
    with mlflow.run(context, name, identity, inputs, labels, arms) as run:
        run.log_metrics({"step": 0, **final_scores(found)})
        for entry in metrics_by_step(found):
            run.log_metrics(entry)
        url = run.url
    return {name: url}


def _versions(
    images: Dataset, image_embeddings: ArrayStore, text_embeddings: ArrayStore
) -> dict[str, str]:
    return {
        "images": images.digest,
        "image_embeddings": image_embeddings.digest,
        "text_embeddings": text_embeddings.digest,
    }


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

    make = partial(compose_report, prior_study.values(), workspace.preset)
    inputs = {f"prior_study.{seed}": part.digest for seed, part in prior_study.items()}
    return reported(context, STUDY, inputs, workspace.preset.study, make, workspace, mlflow)
