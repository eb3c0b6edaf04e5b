"""From contests to a report: rows, a table, a figure and a grid of pictures each."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from corgi_core.config import ComparisonSettings
from corgi_core.experiments.decoder_comparison.figures import figure_of
from corgi_core.experiments.decoder_comparison.measure import Contest, Material, held
from corgi_core.experiments.decoder_comparison.tables import table_of
from corgi_core.experiments.report import StudyReport
from corgi_core.io.pictures import drawn

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
