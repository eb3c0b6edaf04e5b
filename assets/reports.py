"""Reports: made in a run of MLflow, and written for people."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.metadata import link, materialized, report_metadata
from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of
from corgi_core.io.folders import published
from orchestration.partitions import RATINGS, STUDY
from orchestration.resources.artifacts import StudyReport
from orchestration.resources.source_code import git_commit
from orchestration.resources.tracking import ASSET_PAGE_TAG, RUN_PAGE_TAG, MLflow, TrackedRun
from orchestration.resources.trainer import code_version
from orchestration.resources.workspace import Workspace

if TYPE_CHECKING:
    from corgi_core.evaluation.paper_figures import Beside
    from corgi_core.experiments.report import StudyReport as Report


@contextmanager
def report_run(
    context: dg.AssetExecutionContext,
    name: str,
    inputs: Mapping[str, str],
    labels: Mapping[str, Any],
    mlflow: MLflow,
) -> Iterator[tuple[TrackedRun, str]]:
    """The run of MLflow in which a report is made, and its identity: of code, inputs and settings.

    Args:
        context: The asset's.
        name: Of the run.
        inputs: The data versions of all inputs.
        labels: What the run is compared and filtered by, the settings among it.
        mlflow: Where the run is tracked.
    """
    identity = digest_of(code_version(context), inputs, labels)
    with mlflow.run(context, name, identity, inputs, labels) as run:
        yield run, identity


def provenance(
    context: dg.AssetExecutionContext, run: TrackedRun, versions: Mapping[str, str], mlflow: MLflow
) -> dict[str, str]:
    """What a page says of its origin: the runs that made it, as links, the source and the data."""
    tags = mlflow.tags(context, versions)
    known = {
        "MLflow run": run.url,
        "Dagster run": tags[RUN_PAGE_TAG],
        "Dagster asset": tags[ASSET_PAGE_TAG],
        "source, a commit": git_commit(),
        **{f"data version of {asset}": version for asset, version in versions.items()},
    }
    return {name: value for name, value in known.items() if value is not None}


def reports_beside(workspace: Workspace, log: logging.Logger) -> "Beside":
    """The reports of people's votes and of the study that the workspace has so far.

    One that cannot be read, as another version of Corgi wrote it, is named in the log and left out.
    """
    from corgi_core.evaluation.paper_figures import Beside
    from corgi_core.experiments.report import ROWS
    from corgi_core.experiments.report import StudyReport as Report

    folders = {name: workspace.reports_folder / name for name in (RATINGS, STUDY)}
    there = dict[str, Report]()
    for name, folder in folders.items():
        if (published(folder) / ROWS).exists():
            try:
                there[name] = Report.load(folder)
            except CorgiError as error:
                log.warning("the page has no figures of the %s report: %s", name, error)
    nothing = Report({})
    return Beside(
        there.get(RATINGS, nothing).rows, there.get(STUDY, nothing).pictures,
        {f"digest of the {name} report": report.digest for name, report in there.items()},
    )  # fmt: skip


def settings_labels(section: str, settings: object, workspace: Workspace) -> dict[str, Any]:
    """The workspace's labels, and a section of the preset as "<section>.<setting>"."""
    named = {f"{section}.{name}": value for name, value in vars(settings).items()}
    seed = named.pop(f"{section}.seed", workspace.preset.seed)
    return {**workspace.labels(seed), **named}


def reported(
    context: dg.AssetExecutionContext,
    name: str,
    inputs: Mapping[str, str],
    settings: object,
    make: "Callable[[], Report]",
    workspace: Workspace,
    mlflow: MLflow,
    charts: "Callable[[Report], Iterable[Mapping[str, Any]]]" = lambda report: (),
) -> dg.MaterializeResult[StudyReport]:
    """Make an experiment's report in a run of MLflow; save it in the workspace, and send it.

    Args:
        context: The asset's.
        name: Of the run, and of the report's folder there and in the workspace.
        inputs: The data versions of all inputs.
        settings: The preset's section that says how; its values are the run's parameters.
        make: Measures, or joins what was measured.
        workspace: Whose report it is.
        mlflow: Where the run is tracked.
        charts: The report's metrics by step, as entries of a metrics log.

    Returns:
        The report as the asset's value, and what Dagster displays of it.
    """
    folder, labels = workspace.reports_folder / name, settings_labels(name, settings, workspace)
    with report_run(context, name, inputs, labels, mlflow) as (run, _):
        report = make()
        report.save(folder)
        for entry in charts(report):
            run.log_metrics(entry)
        run.log_artifacts([folder], name)
        url = run.url
    return materialized(report, mlflow_run=link(url), **report_metadata(report, folder))
