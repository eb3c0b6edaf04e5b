"""From contests to a report: rows, a table, a figure and a grid of pictures each."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from corgi_core.comparison.figures import figure_of
from corgi_core.comparison.measure import Contest, Material, held
from corgi_core.comparison.tables import table_of
from corgi_core.pictures import drawn
from corgi_core.presets import ComparisonSettings
from corgi_core.study.report import StudyReport

ROWS = "pictures"  # the table of a report


def compared(
    contests: Iterable[Contest], material: Material, settings: ComparisonSettings
) -> StudyReport:
    """Hold every contest. Names say what stands under them: "supervision", "language-free"."""
    report = StudyReport({ROWS: []})
    for contest in contests:
        result = held(contest, material, settings)
        rows = pd.DataFrame(result.rows)
        count, name = result.rows[0]["images"], contest.name.replace("-", "_")
        report.rows[ROWS] += result.rows
        report.tables[name] = table_of(rows)
        report.pictures[name] = drawn(figure_of(rows, f"{contest.name}: {count} held-out images"))
        report.pictures[f"{name}_grid"] = result.grid
    return report
