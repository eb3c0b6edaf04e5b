"""A quarter of weekly retrains in minutes: `python -m benchmarks.quarter`.

Twelve weeks pass in a workspace of made pairs (`orchestration.automation.drill`): new data in some
of them, a retrain in each, one challenger that was trained badly, and one rollback. Prints a row a
week (what came, which checks alert, what came of the retrain, the workspace's size), and then the
history of promotions.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from corgi_core.errors import CorgiError
from orchestration.automation.drill import Drill, drill_settings
from orchestration.cli.drill import opened_drill
from orchestration.cli.promotion import show_history
from orchestration.cli.screen import own_screen

FIRST, MORE, STEPS = 1500, 300, 100


@dataclass(frozen=True)
class Week:
    """What happens in a week, before its retrain.

    Attributes:
        style: Of the pairs that come; None for none.
        badly: Whether the retrain is one of three steps from scratch.
        rolled_back: Whether people roll back what the retrain has promoted.
    """

    style: str | None = None
    badly: bool = False
    rolled_back: bool = False


WEEKS = (
    Week("photo"), Week(), Week("sketch"), Week(), Week("photo", badly=True), Week("photo"),
    Week(), Week("mosaic", rolled_back=True), Week(), Week("sketch"), Week("mosaic"), Week(),
)  # fmt: skip


def tick(drill: Drill, number: int, week: Week) -> tuple[str, ...]:
    """Let a week pass: (what came, alerts, outcome)."""
    alerts = list[str]()
    if week.style is not None:
        drill.add(week.style, MORE, f"week{number:02d}")
        drill.embed()
        alerts = [alert.partition(":")[0].partition("_")[0] for alert in drill.alerts()]
    outcome = drill.retrain(3 if week.badly else STEPS, from_scratch=week.badly)
    what = ("trained: " if outcome.trained else "nothing to train; last ") + outcome.decision
    if week.rolled_back:
        try:
            entry, *_ = drill.roll_back("people say that pictures are grey")
            what += f"; then rolled back to version {entry.version}"
        except CorgiError as error:
            what += f"; no rollback: {error.problem}"
    return week.style or "–", ", ".join(alerts) or "–", what


def megabytes(folder: Path) -> float:
    """The size of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def main() -> None:
    """Run the quarter in a temporary folder, or one that stays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="A new folder, where the workspace stays.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        with own_screen(drill_settings(folder)) as console:
            quarter(folder, console)


def quarter(folder: Path, console: Console) -> None:
    """Twelve weeks, a row each, and the history at the end."""

    def row(week: str, came: str, alerts: str, began: float, what: str) -> None:
        taken, size = time.monotonic() - began, megabytes(folder)
        line = f"{week:>4}  {came:<7} {alerts:<12} {taken:>5.1f} s {size:>6.1f} MB  {what}"
        console.print(line, markup=False, soft_wrap=True)

    drill, began = opened_drill(folder, console), time.monotonic()
    drill.add("photo", FIRST, "week00")
    drill.start()
    row("0", "photo", "–", began, "everything is trained, the first champion is chosen")
    for number, week in enumerate(WEEKS, 1):
        began = time.monotonic()
        came, alerts, what = tick(drill, number, week)
        row(str(number), came, alerts, began, what)
    console.print()
    show_history(drill.history(), console)


if __name__ == "__main__":
    main()
