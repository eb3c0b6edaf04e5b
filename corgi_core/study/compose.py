"""From the measurements of all seeds to the study's figures and tables."""

from __future__ import annotations

from collections.abc import Iterable

from corgi_core.pictures import drawn
from corgi_core.presets import Preset
from corgi_core.study.figures import FIGURES
from corgi_core.study.report import StudyReport
from corgi_core.study.tables import tables_of


def composed(parts: Iterable[StudyReport], preset: Preset) -> StudyReport:
    """The report of all seeds: their rows, every figure, and every table."""
    report = StudyReport.joined(part.rows for part in parts)
    report.pictures = {name: drawn(draw(report, preset)) for name, draw in FIGURES.items()}
    report.tables = tables_of(report, preset)
    return report
