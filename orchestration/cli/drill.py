"""`corgi drill`: what promotion does when something happens, in a workspace of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from orchestration.automation.drill import Drill

drill = typer.Typer(
    no_args_is_help=True,
    help="Practise on made data, in a workspace of its own that is removed afterwards.",
)


@drill.callback()
def practise() -> None:
    """Practise on made data, in a workspace of its own that is removed afterwards."""


@drill.command()
def drift(
    steps: Annotated[int, typer.Option(min=1, help="Of the retrain.")] = 150,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="A new folder, where the workspace stays to be looked at."),
    ] = None,
) -> None:
    """New data unlike the champion's: the alert, the retrain, and the gate's decision.

    A prior learns from made photos and becomes champion. More photos come: no alert. Sketches come:
    the checks of drift alert, the prior is trained further on all, and the gate compares it with
    the champion on validation captions of all. Less than a minute on two cores.
    """
    from orchestration.automation.drill import drill_settings
    from orchestration.cli.promotion import show_history
    from orchestration.cli.screen import own_screen

    with tempfile.TemporaryDirectory() as temporary:
        scratch = folder or Path(temporary)
        with own_screen(drill_settings(scratch)) as console:
            practice = opened_drill(scratch, console)
            drift_drill(practice, steps, console)
            show_history(practice.history(), console)


@dataclass(frozen=True)
class Spinner:
    """Watches a refresh, with one line that says which step is being done."""

    console: Console

    def unchanged(self, title: str) -> None:
        """A step that need not be done is not mentioned."""

    @contextmanager
    def doing(self, title: str, reason: str) -> Iterator[None]:
        """A step while it is done."""
        with self.console.status(escape(f"{title}: {reason}")):
            yield


def opened_drill(folder: Path, console: Console) -> Drill:
    """The workspace of a drill below a folder."""
    from orchestration.automation.drill import Drill, drill_settings
    from orchestration.cli.run import opened_refresh
    from orchestration.resources.tracking import RETRAIN_TAG

    settings = drill_settings(folder)
    return Drill(folder, lambda: opened_refresh(settings, RETRAIN_TAG), Spinner(console))


def drift_drill(practice: Drill, steps: int, console: Console) -> None:
    """Let three days pass, and say what happens."""

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    say("Monday: 2,000 made photos. Everything is trained, the first champion is chosen.")
    practice.add("photo", 2000, "monday")
    practice.start()
    say("Tuesday: 500 more photos are ingested and embedded.")
    practice.add("photo", 500, "tuesday")
    practice.embed()
    say(f"Alerts: {'; '.join(practice.alerts()) or 'none'}.")
    say("Wednesday: 1,000 sketches are ingested and embedded.")
    practice.add("sketch", 1000, "wednesday")
    practice.embed()
    for alert in practice.alerts() or ["none"]:
        say(f"Alert: {alert}.")
    say("The prior is retrained from the champion, and the gate decides.")
    say(practice.retrain(steps).sentence)
