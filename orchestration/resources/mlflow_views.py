"""A layout of MLflow's charts for comparing priors: their pictures side by side, and their scores.

Left to itself MLflow makes a chart for every metric, and one for every prompt, in which the list of
each run's parameters takes more room than its picture. What its page displays instead it reads from
a tag of the experiment, `VIEW_TAG` and a name, where the page's address has that name. People who
share a view in MLflow make such a tag; its fields are those of MLflow 3.17.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

VIEW_TAG = "mlflow.sharedViewState."  # and the view's name
IMAGE = "IMAGE"  # the type of a grid of pictures, a row for each prompt and a column for each run
RUNS = 20  # that are displayed at first
GRID_HEIGHT = 760  # pixels
PICTURES, SCORES, OTHERS = "pictures", "scores", "others"  # sections of the page


def priors_view(runs: str, scores: Sequence[str], prompts: Sequence[str]) -> dict[str, Any]:
    """The view of priors, best first.

    Args:
        runs: MLflow's filter of the priors' runs.
        scores: Names of metrics, at least one; the first one orders the runs, and is plotted over
            the share of the captions.
        prompts: The titles of the pictures that every prior's run has.

    Returns:
        What MLflow stores of a view. Other charts are in a section that is closed.
    """
    grid = _chart(IMAGE, PICTURES, imageKeys=[*prompts], step=0, showRunParams=False)
    labels = ["variant", "caption_fraction"]
    charts = [
        *([grid] if prompts else []),
        _chart(
            "PARALLEL", SCORES,
            selectedParams=labels, selectedMetrics=[*scores], showAllRuns=True,
        ),
        _chart(
            "SCATTER", SCORES,
            xaxis={"key": labels[1], "type": "PARAM"}, yaxis={"key": scores[0], "type": "METRIC"},
        ),
        *(_chart("BAR", SCORES, name, metricKey=name) for name in scores),
    ]  # fmt: skip
    sections = [
        _section(SCORES, "Scores"),
        _section(OTHERS, "Model metrics", display=False),  # MLflow's name for all other charts
    ]
    if prompts:
        title = "The same prompts and seed"
        sections.insert(0, _section(PICTURES, title, columns=1, cardHeight=GRID_HEIGHT))
    return {
        "searchFilter": runs, "orderByKey": f"metrics.`{scores[0]}`", "orderByAsc": False,
        "startTime": "ALL", "lifecycleFilter": "Active", "datasetsFilter": [],
        "modelVersionFilter": "All Runs", "runsHiddenMode": f"FIRST_{RUNS}_RUNS",
        "compareRunCharts": charts, "compareRunSections": sections, "isAccordionReordered": True,
        "selectedColumns": [], "columnOrder": [], "columnWidths": {}, "runsExpanded": {},
        "runsPinned": [], "runsHidden": [], "runsVisibilityMap": {}, "groupBy": None,
        "groupsExpanded": {}, "viewMaximized": False, "runListHidden": False,
        "autoRefreshEnabled": True, "useGroupedValuesInCharts": True, "hideEmptyCharts": True,
        "globalLineChartConfig": {
            "xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""
        },
    }  # fmt: skip


def _chart(kind: str, section: str, name: str = "", **fields: Any) -> dict[str, Any]:
    return {
        "type": kind, "uuid": f"{section}-{kind}-{name}", "metricSectionId": section,
        "deleted": False, "isGenerated": False, "runsCountToCompare": RUNS, **fields,
    }  # fmt: skip


def _section(name: str, title: str, display: bool = True, **fields: int) -> dict[str, Any]:
    return {"uuid": name, "name": title, "display": display, "isReordered": display, **fields}
