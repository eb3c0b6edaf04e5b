"""People's votes on models' pictures: rates, strengths and agreement, for Dagster and MLflow."""

import dagster as dg

from assets.metadata import OWNERS, link, materialized, report_metadata
from assets.reports import report_run
from assets.versions import decided_by
from orchestration.partitions import RATINGS
from orchestration.resources.artifacts import StudyReport
from orchestration.resources.tracking import MLflow
from orchestration.resources.workspace import Workspace


@dg.asset(
    group_name=RATINGS,
    owners=OWNERS,
    kinds={"sqlite", "mlflow"},
    metadata=decided_by(revision=1),
)
def human_ratings(
    context: dg.AssetExecutionContext, workspace: Workspace, mlflow: MLflow
) -> dg.MaterializeResult[StudyReport]:
    """What people have voted on the workspace's prompt suites, on the page of `corgi rate`.

    Without the votes of raters who do not look. Made on request, with the votes that are there.
    """
    from corgi_core.rating.report import metrics_of, report_of, results_in

    results, folder = results_in(workspace.suites_folder), workspace.reports_folder / RATINGS
    votes = {f"votes.{name}": each.digest for name, each in results.items()}
    models = {f"{name}.models": ", ".join(each.models) for name, each in results.items()}
    labels = workspace.labels(workspace.preset.seed) | models
    with report_run(context, RATINGS, votes, labels, mlflow) as (run, _):
        report = report_of(results)
        report.save(folder)
        run.log_metrics(metrics_of(results))
        run.log_artifacts([folder], RATINGS)
        url = run.url
    return materialized(report, mlflow_run=link(url), **report_metadata(report, folder))
