"""`corgi demo`, `study` and `compare`: what is missing or stale is done, resumable at any point."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console

from corgi_core.errors import CorgiError
from orchestration.cli.results import show_comparison, show_results, show_study
from orchestration.cli.screen import StepDisplay, own_screen
from orchestration.resources.instance import open_instance
from orchestration.resources.logs import LOG_FILE
from orchestration.settings import Settings

if TYPE_CHECKING:
    from orchestration.automation.refresh import Refresh, Step

Show = Callable[[Settings, Console], None]


def demo(settings: Settings) -> int:
    """Everything from raw data to pictures and a table; returns the exit code."""
    return _brought_up_to_date(settings, lambda refresh: refresh.all_steps(), show_results)


def study(settings: Settings) -> int:
    """The study of the prior, with its figures and tables; returns the exit code."""
    return _brought_up_to_date(settings, lambda refresh: refresh.study_steps(), show_study)


def compare(settings: Settings) -> int:
    """Every kind of decoder, and tables of what they draw; returns the exit code."""
    return _brought_up_to_date(
        settings, lambda refresh: refresh.comparison_steps(), show_comparison
    )


def _brought_up_to_date(
    settings: Settings, steps_of: Callable[[Refresh], list[Step]], show: Show
) -> int:
    """Do those of the steps that are missing or stale, then show what came out."""
    log = settings.state / LOG_FILE
    with own_screen(log) as console:
        try:
            done, seconds = _refresh(settings, steps_of, console)
        except CorgiError as error:
            console.print(f"[red]Error:[/red] {error.problem}. To mend it: {error.remedy}.")
            return 2
        except KeyboardInterrupt:
            console.print("Interrupted. Run the same command again: it goes on from here.")
            return 130
        except Exception as error:
            traceback.print_exc()  # to the log
            console.print(f"[red]Failed:[/red] {type(error).__name__}: {_first_line(error)}")
            console.print(f"The details are in {log}")
            return 1
        console.print(f"\n{done} steps done in {seconds:.0f} s, the rest was unchanged.\n")
        show(settings, console)
    return 0


def _refresh(
    settings: Settings, steps_of: Callable[[Refresh], list[Step]], console: Console
) -> tuple[int, float]:
    with console.status("starting"):
        from orchestration.automation.refresh import Refresh
        from orchestration.definitions import defs

        refresh = Refresh(defs.get_repository_def(), open_instance(settings))
        steps = steps_of(refresh)
    console.print(f"Workspace [bold]{settings.workspace}[/bold], {len(steps)} steps")
    with StepDisplay.on(console, len(steps)) as display:
        return refresh.run(steps, display), display.seconds


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
