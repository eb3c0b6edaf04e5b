"""What people have voted on all suites of a workspace, as one report."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from corgi_core.errors import CorgiError
from corgi_core.experiments.report import StudyReport
from corgi_core.io.pictures import rendered
from corgi_core.rating.figure import figure_of
from corgi_core.rating.results import RatingResults, Row, results_of
from corgi_core.rating.votes import VOTES_FILE, VoteStore

NO_VOTES = """\
Nobody has voted on a suite yet. Make one with `corgi suite PROMPTS`, and have people vote:
`corgi rate FOLDER`.
"""
log = logging.getLogger(__name__)


def results_in(folder: Path) -> dict[str, RatingResults]:
    """The results of every suite in a folder that people have voted on, by the suite's name.

    Left out, with a warning, are suites whose raters are all flagged. None where nobody has voted.

    Raises:
        CorgiError: If all raters of all suites are flagged.
    """
    stores = [VoteStore(file) for file in sorted(folder.glob(f"*/{VOTES_FILE}"))]
    voted = {store.path.parent.name: votes for store in stores if (votes := store.votes())}
    found = dict[str, RatingResults]()
    for name, votes in voted.items():
        try:
            found[name] = results_of(votes)
        except CorgiError as error:
            refused = error
            log.warning("the votes on %s are left out: %s", name, error)
    if voted and not found:
        raise refused
    return found


def report_of(results: Mapping[str, RatingResults]) -> StudyReport:
    """Rows, a figure and a table for each suite; without any, how people vote."""
    if not results:
        return StudyReport({}, tables={"votes": NO_VOTES})
    return StudyReport(
        rows={name: [asdict(row) for row in each.rows] for name, each in results.items()},
        pictures={name: rendered(figure_of(each, name)) for name, each in results.items()},
        tables={name: each.markdown() for name, each in results.items()},
    )


def metrics_of(results: Mapping[str, RatingResults]) -> dict[str, float]:
    """Every value by a name such as "PartiPrompts/alignment/win_rate/ours_over_sd"."""
    return {
        f"{_plain(name)}/{_metric_name(row)}": row.value
        for name, each in results.items()
        for row in each.rows
    }


def _metric_name(row: Row) -> str:
    of = f"{row.model}_over_{row.other}" if row.other else row.model
    return "/".join(_plain(part) for part in (row.aspect, row.metric, of) if part)


def _plain(text: str) -> str:
    """The text in characters that MLflow takes in names."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)
