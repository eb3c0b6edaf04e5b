"""From the measurements of all seeds to the study's figures and tables."""

from __future__ import annotations

from collections.abc import Iterable

from corgi_core.config import Preset
from corgi_core.experiments.prior_ablation.figures import FIGURES
from corgi_core.experiments.prior_ablation.report import StudyReport
from corgi_core.experiments.prior_ablation.tables import tables_of
from corgi_core.io.pictures import drawn


def composed(parts: Iterable[StudyReport], preset: Preset) -> StudyReport:
    """The report of all seeds: their rows, every figure, and every table."""
    report = StudyReport.joined(part.rows for part in parts)
    report.pictures = {name: drawn(draw(report, preset)) for name, draw in FIGURES.items()}
    report.tables = tables_of(report, preset)
    return report
